"""Images of a HEALPix map: squares cut from the twelve base faces, with true neighbours around them, or one mosaic.

A base face is an nside x nside square of pixels: the first axis, x, runs to the north-east and the second, y, to the
north-west; (0, 0) is its southern corner (Gorski et al. 2005, ApJ 622 759). A patch holds the pixels of one cell of the
coarser map of nside / patch, and patches are numbered as those cells are, in NEST order. No pixel is interpolated.
"""

import healpy as hp
import numpy as np

_TWELVE = np.arange(12)
_MOSAIC = ((2, 6, 9), (3, 7, 10), (0, 4, 11), (1, 5, 8))  # faces of its rows


def n_patches(nside: int, patch: int) -> int:
    """Return the number of patches of a map, 12 (nside / patch)^2.

    Raises
    ------
    ValueError
        If nside or patch is no power of two, or the patch is wider than a base face.

    Examples
    --------
    >>> n_patches(8, 4)
    48
    """
    for name, value in (("nside", nside), ("patch", patch)):
        if int(value) != value or value < 1 or int(value) & (int(value) - 1):
            raise ValueError(f"{name} must be a power of two, got {value}")
    if patch > nside:
        raise ValueError(f"a patch of {patch} pixels does not divide the base faces of nside {nside}")
    return 12 * (nside // patch) ** 2


def patch_index(nside: int, patch: int, halo: int = 0) -> np.ndarray:
    """Return the RING pixel of every cell of every patch.

    The halo continues the patch's own grid over the edges of its base face, with the neighbouring faces turned as they
    lie. Eight points of the sphere are corners of only three faces; there the quadrant that no fourth face fills
    is taken from the face across the y edge, folded along the diagonal, so that cells side by side stay neighbours.

    Parameters
    ----------
    nside, patch : int
        Powers of two, patch <= nside.
    halo : int, optional
        Width of the border in pixels, 0 <= halo <= nside.

    Returns
    -------
    int64 array (12 (nside / patch)^2, patch + 2 halo, patch + 2 halo)
        Axes (patch in NEST order, x, y). ``m[..., patch_index(nside, patch, halo)]`` are the patches of a RING map.

    Raises
    ------
    ValueError
        If nside or patch is no power of two, patch > nside, or the halo is negative or wider than a face.

    Examples
    --------
    Without a halo each pixel of the sky lies in one patch:

    >>> index = patch_index(8, 4)
    >>> index.shape, np.array_equal(np.sort(index, axis=None), np.arange(768))
    ((48, 4, 4), True)
    >>> np.array_equal(patch_index(8, 4, halo=2)[:, 2:-2, 2:-2], index)
    True
    """
    count = n_patches(nside, patch)
    side = nside // patch
    if int(halo) != halo or not 0 <= halo <= nside:
        raise ValueError(f"the halo must be a whole number of pixels from 0 to nside = {nside}, got {halo}")
    width = patch + 2 * halo
    x, y = np.meshgrid(np.arange(nside), np.arange(nside), indexing="ij")
    faces = hp.xyf2pix(nside, x, y, _TWELVE[:, None, None])
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    index = np.empty((count, width, width), dtype=np.int64)
    for face in range(12):
        wide = _widened(faces, face, halo)
        windows = np.lib.stride_tricks.sliding_window_view(wide, (width, width))
        index[hp.xyf2pix(side, x, y, face, nest=True)] = windows[::patch, ::patch]
    return index


def mosaic_index(nside: int) -> np.ndarray:
    """Return the RING pixel of every cell of the sky as one image, the twelve base faces side by side.

    The layout of CMBNNCS (Wang et al. 2022, ApJS 260 13): rows of faces 2 6 9, 3 7 10, 0 4 11, 1 5 8; in a face, the
    cell in row r and column c is x = nside - 1 - c, y = nside - 1 - r. Over the eight seams between columns of faces
    cells are neighbours on the sphere, over the nine between the rows they are not.

    Parameters
    ----------
    nside : int
        A power of two.

    Returns
    -------
    int64 array (4 nside, 3 nside)
        ``m[..., mosaic_index(nside)]`` is the image of a RING map; each pixel lies in it once.

    Raises
    ------
    ValueError
        If nside is no power of two.

    Examples
    --------
    >>> index = mosaic_index(8)
    >>> index.shape, np.array_equal(np.sort(index, axis=None), np.arange(768))
    ((32, 24), True)
    """
    n_patches(nside, 1)  # refuses such an nside
    row, column = np.meshgrid(np.arange(nside), np.arange(nside), indexing="ij")
    return np.block(
        [[hp.xyf2pix(nside, nside - 1 - column, nside - 1 - row, face) for face in faces] for faces in _MOSAIC]
    )


def to_patches(m: np.ndarray, patch: int, *, halo: int = 0) -> np.ndarray:
    """Cut RING maps (..., npix) into patches (..., npatch, patch + 2 halo, patch + 2 halo).

    Raises
    ------
    ValueError
        If the last axis is no HEALPix map, or as in :func:`patch_index`.

    Examples
    --------
    >>> to_patches(np.arange(768), 4, halo=1).shape
    (48, 6, 6)
    """
    m = np.asarray(m)
    return m[..., patch_index(_nside(m.shape[-1]), patch, halo)]


def from_patches(p: np.ndarray, *, halo: int = 0) -> np.ndarray:
    """Put patches (..., npatch, patch + 2 halo, patch + 2 halo) together to RING maps (..., npix), without their halo.

    The inverse of :func:`to_patches`, exact.

    Raises
    ------
    ValueError
        If the patches are not square, or do not make up a HEALPix map.

    Examples
    --------
    >>> m = np.arange(768.0)
    >>> np.array_equal(from_patches(to_patches(m, 4, halo=1), halo=1), m)
    True
    """
    p = np.asarray(p)
    if p.ndim < 3 or p.shape[-1] != p.shape[-2]:
        raise ValueError(f"patches must have the shape (..., npatch, patch, patch), got {p.shape}")
    patch = p.shape[-1] - 2 * halo
    if patch < 1:
        raise ValueError(f"patches of {p.shape[-1]} pixels leave nothing inside a halo of {halo}")
    inner = p[..., halo : halo + patch, halo : halo + patch]
    npix = p.shape[-3] * patch**2
    m = np.empty((*p.shape[:-3], npix), dtype=p.dtype)
    m[..., patch_index(_nside(npix), patch)] = inner
    return m


def _nside(npix: int) -> int:
    """Return nside of a map of npix pixels, or raise ValueError."""
    nside = round(float((npix / 12) ** 0.5))
    if nside < 1 or nside & (nside - 1) or 12 * nside**2 != npix:
        raise ValueError(f"{npix} pixels are no HEALPix map (12 nside^2 with nside a power of two)")
    return nside


def _widened(faces: np.ndarray, face: int, halo: int) -> np.ndarray:
    """Return one of the faces (12, nside, nside) with its surroundings, (nside + 2 halo, nside + 2 halo)."""
    nside = faces.shape[-1]
    around = _around(faces, face)
    near = {-1: slice(nside - halo, nside), 0: slice(0, nside), 1: slice(0, halo)}
    rows = []
    for i in (-1, 0, 1):
        row = []
        for j in (-1, 0, 1):
            if (i, j) in around:
                row.append(around[i, j][near[i], near[j]])
            else:
                row.append(_folded(np.rot90(around[0, j], -i * j)[near[i], near[j]], i, j))
        rows.append(row)
    return np.block(rows)


def _around(faces: np.ndarray, face: int) -> dict[tuple[int, int], np.ndarray]:
    """Return a face and its neighbours, turned into its frame, by their offsets (along x, along y).

    Faces are numbered 0-3 around the north pole, 4-7 along the equator, 8-11 around the south pole, and meet thus:
    within a cap the frame turns by 90 degrees from one face to the next; from cap to equator it does not turn.
    The two offsets that are left out are those where three faces meet.
    """
    kind, c = divmod(face, 4)
    north, equator, south = (np.roll(faces[start : start + 4], -c, axis=0) for start in (0, 4, 8))
    turn = np.rot90
    if kind == 0:
        return {
            (0, 0): north[0],
            (1, 0): turn(north[1]),
            (0, 1): turn(north[3], -1),
            (1, 1): turn(north[2], 2),
            (-1, 0): equator[0],
            (0, -1): equator[1],
            (-1, -1): south[0],
        }
    if kind == 1:
        return {
            (0, 0): equator[0],
            (1, 0): north[0],
            (0, 1): north[3],
            (-1, 0): south[3],
            (0, -1): south[0],
            (1, -1): equator[1],
            (-1, 1): equator[3],
        }
    return {
        (0, 0): south[0],
        (-1, 0): turn(south[3]),
        (0, -1): turn(south[1], -1),
        (-1, -1): turn(south[2], 2),
        (1, 0): equator[1],
        (0, 1): equator[0],
        (1, 1): north[0],
    }


def _folded(corner: np.ndarray, i: int, j: int) -> np.ndarray:
    """Mirror a corner block (halo, halo) at the diagonal through its vertex, which lies towards (-i, -j).

    Of the block, which continues the face across the x edge truly, the half next to that edge's neighbour is kept.
    """
    outward: np.ndarray = corner[::i, ::j]
    outward = np.tril(outward) + np.tril(outward, -1).T
    return outward[::i, ::j]
