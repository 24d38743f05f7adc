"""Rotations of the sphere: a lossless table of pixels, and the exact rotation of alms.

One convention everywhere, healpy's ``Rotator(rot=[phi, theta])``: the field is carried along by the active rotation

    R = R_y(theta) R_z(-phi),    rotated(n) = m(R^-1 n),

so that what stood at longitude phi on the equator comes to longitude 0 and is then tipped by theta about y.
"""

import math
from collections.abc import Sequence

import healpy as hp
import numpy as np
from scipy.spatial import cKDTree

from cmbml.sky import sht

_CHUNK = 1 << 20  # pixels whose vectors are held at a time
_LARGEST_NSIDE = 8192  # the pixel numbers of larger maps overflow int32


def rotation_matrix(theta_deg: float, phi_deg: float) -> np.ndarray:
    """Return R = R_y(theta) R_z(-phi) of shape (3, 3), acting on column vectors; angles in degrees.

    Raises
    ------
    ValueError
        If an angle is not a finite number.

    Examples
    --------
    >>> (rotation_matrix(0.0, 90.0) @ [0, 1, 0]).round(12).tolist()
    [1.0, 0.0, 0.0]
    """
    if not (math.isfinite(theta_deg) and math.isfinite(phi_deg)):
        raise ValueError(f"rotation angles must be finite degrees, got theta {theta_deg} and phi {phi_deg}")
    theta = math.radians(theta_deg)
    phi = math.radians(phi_deg)
    ct = math.cos(theta)
    st = math.sin(theta)
    cp = math.cos(phi)
    sp = math.sin(phi)
    about_y = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
    about_z = np.array([[cp, sp, 0], [-sp, cp, 0], [0, 0, 1]])
    matrix: np.ndarray = about_y @ about_z
    return matrix


def permutation(nside: int, theta_deg: float, phi_deg: float, *, nthreads: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation as a permutation of the pixels, ``rotated = m[..., forward]``, ``m = rotated[..., inverse]``.

    R carries every source pixel into some target. Where several meet, the one nearest to the target's centre keeps it;
    about 13 % of the sources are left over, and as many targets stay empty. Every left-over source is paired with an
    empty target near it, and along the great circle between the two the pixels hand over their places, each to the
    next: nobody moves by much more than a pixel, however far the empty target is. The displacement (between R times a
    source's centre and the centre of its target, in units of sqrt(4 pi / npix)) is .47 in the mean, 1.6 at the 99th
    percentile and 3 to 5 at worst (up to 8 for turns of a few degrees). The table is a bijection for any angles, so
    that the inverse is exact, and the same on every call.

    Parameters
    ----------
    nside : int
        A power of two up to 8192.
    theta_deg, phi_deg : float
        As in healpy's ``Rotator(rot=[phi, theta])``, in degrees.
    nthreads : int, optional
        Threads of the neighbour search; 0 takes every core. The result does not depend on it.

    Returns
    -------
    forward, inverse : int32 arrays (npix,)
        RING pixel numbers.

    Raises
    ------
    ValueError
        If nside is no such power of two or an angle is not finite.

    Examples
    --------
    >>> forward, inverse = permutation(8, 30.0, 45.0)
    >>> m = np.arange(768)
    >>> np.array_equal(m[forward][inverse], m)
    True
    """
    if int(nside) != nside or not 1 <= nside <= _LARGEST_NSIDE or int(nside) & (int(nside) - 1):
        raise ValueError(f"nside must be a power of two from 1 to {_LARGEST_NSIDE}, got {nside}")
    nside = int(nside)
    rot = rotation_matrix(theta_deg, phi_deg)
    forward, surplus, wanted = _keep_nearest(nside, rot)
    empty = np.flatnonzero(forward < 0)
    paired = _pair(rot @ _centre(nside, surplus), _centre(nside, empty), nthreads or -1)
    _hand_over(nside, rot, forward, surplus, wanted, empty[paired])
    inverse = np.empty_like(forward)
    inverse[forward] = np.arange(forward.size, dtype=np.int32)
    return forward, inverse


def rotate_alm_deg(
    alm: np.ndarray, theta_deg: float, phi_deg: float, *, inverse: bool = False, nthreads: int = 0
) -> np.ndarray:
    """Rotate alms by R(theta, phi), or by its inverse; exact.

    a'_lm = sum_m' D^l_mm'(R) a_lm', the same matrix for T, E, B and phi (Varshalovich et al. 1988, section 4.1).

    Parameters
    ----------
    alm : complex array (..., nalm)
        healpy order.
    theta_deg, phi_deg : float
        Degrees, as in :func:`permutation`.
    inverse : bool, optional
        Undo that rotation.

    Returns
    -------
    complex128 array (..., nalm)

    Raises
    ------
    ValueError
        If an angle is not finite.

    Examples
    --------
    >>> alm = np.array([1, 2, 3, 4 + 1j, 5 - 2j, 6j])
    >>> turned = rotate_alm_deg(alm, 30.0, 45.0)
    >>> np.allclose(sht.alm2cl(turned), sht.alm2cl(alm))
    True
    >>> np.allclose(rotate_alm_deg(turned, 30.0, 45.0, inverse=True), alm)
    True
    """
    rotation_matrix(theta_deg, phi_deg)  # refuses angles that are not finite
    theta = math.radians(theta_deg)
    phi = math.radians(phi_deg)
    if inverse:
        return sht.rotate_alm(alm, 0.0, -theta, phi, nthreads=nthreads)
    return sht.rotate_alm(alm, -phi, theta, 0.0, nthreads=nthreads)


def rotate_maps(
    maps: np.ndarray,
    theta_deg: float,
    phi_deg: float,
    *,
    spins: Sequence[int],
    lmax: int,
    inverse: bool = False,
    niter: int = 3,
    nthreads: int = 0,
) -> np.ndarray:
    """Rotate band-limited maps through their alms: analysis, rotation, synthesis.

    Nothing is interpolated; the only error is that of the analysis (see ``niter``). All above lmax is lost.

    Parameters
    ----------
    maps : array (nmap, npix)
        RING.
    theta_deg, phi_deg : float
        Degrees, as in :func:`permutation`.
    spins : sequence of nmap ints
        0 for a scalar map; 2, twice in a row, for a pair Q, U, whose axes turn with the sky.
    lmax : int
        Band limit of the maps.
    inverse : bool, optional
        Undo that rotation.
    niter : int, optional
        Jacobi iterations of the analysis.

    Returns
    -------
    array (nmap, npix), of the floating type of ``maps``

    Raises
    ------
    ValueError
        If ``spins`` does not describe the maps or an angle is not finite.

    Examples
    --------
    A turn of 90 degrees about z carries y to x:

    >>> x, y, _ = hp.pix2vec(8, np.arange(768))
    >>> np.allclose(rotate_maps(y[None], 0.0, 90.0, spins=[0], lmax=2), x, atol=1e-3)
    True
    """
    maps = np.atleast_2d(maps)
    nside = hp.npix2nside(maps.shape[-1])
    out = np.empty(maps.shape, dtype=np.result_type(maps, np.float32))
    for part, spin in _fields(list(spins), len(maps)):
        alm = sht.analysis(maps[part], lmax, spin=spin, niter=niter, nthreads=nthreads)
        alm = rotate_alm_deg(alm, theta_deg, phi_deg, inverse=inverse, nthreads=nthreads)
        out[part] = sht.synthesis(alm, nside, spin=spin, nthreads=nthreads)
    return out


def _fields(spins: list[int], nmap: int) -> list[tuple[int | slice, int]]:
    """Return what ``spins`` groups ``nmap`` maps into: (the map or the slice of the pair, its spin), or ValueError."""
    fields: list[tuple[int | slice, int]] = []
    i = 0
    while i < len(spins):
        pair = spins[i] == 2
        if spins[i] not in (0, 2) or (pair and spins[i : i + 2] != [2, 2]):
            raise ValueError(f"spins must be 0, or 2 twice in a row for a pair Q, U, got {spins}")
        fields.append((slice(i, i + 2), 2) if pair else (i, 0))
        i += 1 + pair
    if len(spins) != nmap:
        raise ValueError(f"spins must name one spin a map: {nmap} maps, {len(spins)} spins")
    return fields


def _centre(nside: int, pixel: np.ndarray) -> np.ndarray:
    """Return the unit vectors (3, n) of RING pixels."""
    return np.stack(hp.pix2vec(nside, pixel))


def _keep_nearest(nside: int, rot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every target the nearest of the sources that fall into it.

    Returns ``forward`` (int32, -1 where nothing falls), the sources left over, and the target each of those fell into.
    """
    npix = hp.nside2npix(nside)
    wanted = np.empty(npix, dtype=np.int32)
    miss = np.empty(npix, dtype=np.float32)
    for start in range(0, npix, _CHUNK):
        part = slice(start, min(start + _CHUNK, npix))
        moved = rot @ _centre(nside, np.arange(part.start, part.stop))
        wanted[part] = hp.vec2pix(nside, *moved)
        miss[part] = np.linalg.norm(moved - _centre(nside, wanted[part]), axis=0)
    least = np.full(npix, np.inf, dtype=np.float32)
    np.minimum.at(least, wanted, miss)
    keep = np.flatnonzero(miss == least[wanted])
    forward = np.full(npix, -1, dtype=np.int32)
    forward[wanted[keep]] = keep
    surplus = np.flatnonzero(forward[wanted] != np.arange(npix, dtype=np.int32))
    return forward, surplus, wanted[surplus]


def _pair(a: np.ndarray, b: np.ndarray, workers: int) -> np.ndarray:
    """Pair the unit vectors a (3, n) one to one with b (3, n), near ones first; return for each a the index of its b.

    In each round every free a asks for the nearest free b, and every b takes the nearest of those that ask.
    """
    pair = np.empty(a.shape[1], dtype=np.int64)
    free_a = np.arange(a.shape[1])
    free_b = np.arange(b.shape[1])
    while free_a.size:
        tree = cKDTree(b[:, free_b].T, compact_nodes=False, balanced_tree=False)
        distance, asked = tree.query(a[:, free_a].T, workers=workers)
        order = np.lexsort((distance, asked))
        taken, first = np.unique(asked[order], return_index=True)
        pair[free_a[order[first]]] = free_b[taken]
        free_a = np.delete(free_a, order[first])
        free_b = np.delete(free_b, taken)
    return pair


def _hand_over(
    nside: int, rot: np.ndarray, forward: np.ndarray, source: np.ndarray, here: np.ndarray, empty: np.ndarray
) -> None:
    """Complete ``forward`` in place: lead the surplus at pixel ``here`` to the pixel ``empty``, place by place.

    All chains walk at once along their great circles, a pixel width a step. At every pixel the source in hand and the
    one that sits there are compared: the one whose own place lies further ahead goes on, the other stays, which is the
    choice with the smaller sum of squared displacements. Of the chains that meet in a pixel one moves, the others wait.
    """
    a = _centre(nside, here)
    b = _centre(nside, empty)
    angle = 2 * np.arcsin(np.clip(np.linalg.norm(b - a, axis=0) / 2, 0, 1))
    b -= a * np.cos(angle)
    b /= np.maximum(np.linalg.norm(b, axis=0), np.finfo(float).tiny)  # now the unit tangent at a
    nstep = np.ceil(angle / hp.nside2resol(nside)).astype(np.int64)
    source = source.copy()
    here = here.copy()
    step = np.ones(len(here), dtype=np.int64)
    live = np.arange(len(here))
    while live.size:
        turn = angle[live] * step[live] / nstep[live]
        there = hp.vec2pix(nside, *(a[:, live] * np.cos(turn) + b[:, live] * np.sin(turn)))
        there = np.where(step[live] < nstep[live], there, empty[live])
        skip = (there == here[live]) | ((forward[there] < 0) & (there != empty[live]))  # another chain's end
        step[live[skip]] += 1
        walk = live[~skip]
        there = there[~skip]
        place, first = np.unique(here[walk], return_index=True)
        walk = walk[first]
        there = there[first]
        hand = source[walk]
        seat = forward[place]
        ahead = rot @ (_centre(nside, hand) - _centre(nside, seat))
        goes = np.sum(ahead * (_centre(nside, there) - _centre(nside, place)), axis=0) > 0
        forward[place] = np.where(goes, seat, hand)
        source[walk] = np.where(goes, hand, seat)
        here[walk] = there
        step[walk] += 1
        end = there == empty[walk]
        forward[there[end]] = source[walk[end]]
        live = live[forward[empty[live]] < 0]
