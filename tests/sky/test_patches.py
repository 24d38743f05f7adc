"""Patches: lossless, in healpy's NEST order, with the neighbours that healpy names."""

import healpy as hp
import numpy as np
import pytest

from cmbml.sky.patches import from_patches, mosaic_index, n_patches, patch_index, to_patches

SW, W, NW, N, NE, E, SE, S = range(8)  # the order of healpy.get_all_neighbours
CORNERS = {(1, 1): N, (1, -1): E, (-1, 1): W, (-1, -1): S}


def missing(face):
    """The two corners of a base face, as (x side, y side), where only three faces meet: E, W of a cap, N, S else."""
    return ((1, 1), (-1, -1)) if face // 4 == 1 else ((1, -1), (-1, 1))


@pytest.mark.parametrize(("patch", "halo"), [(1, 0), (2, 1), (4, 3), (8, 0), (16, 0), (16, 8)])
@pytest.mark.parametrize("shape", [(), (2,), (3, 2)])
def test_patches_are_lossless(patch, halo, shape):
    m = np.random.default_rng(0).standard_normal((*shape, 12 * 16**2)).astype(np.float32)
    p = to_patches(m, patch, halo=halo)
    assert p.shape == (*shape, n_patches(16, patch), patch + 2 * halo, patch + 2 * halo)
    back = from_patches(p, halo=halo)
    assert back.dtype == m.dtype
    assert np.array_equal(back, m)


def test_halo_is_dropped():
    """What stands in the halo does not come back."""
    m = np.arange(12 * 8**2, dtype=float)
    p = to_patches(m, 4, halo=2)
    inside = np.zeros(p.shape, dtype=bool)
    inside[:, 2:6, 2:6] = True
    assert np.array_equal(from_patches(np.where(inside, p, np.nan), halo=2), m)


@pytest.mark.parametrize("patch", [1, 4, 16])
def test_patches_are_the_cells_of_the_coarser_nest_map(patch):
    index = patch_index(16, patch)
    cell = hp.ring2nest(16, index) // patch**2
    assert np.array_equal(cell, np.broadcast_to(np.arange(n_patches(16, patch))[:, None, None], index.shape))


@pytest.mark.parametrize("nside", [1, 4, 8])
def test_halo_of_a_face_is_what_healpy_names_as_its_neighbours(nside):
    """One pixel over each edge and corner: +x is north-east, +y north-west; a missing corner repeats a close pixel."""
    index = patch_index(nside, nside, halo=1)
    around = hp.get_all_neighbours(nside, np.arange(12 * nside**2))
    inner = index[:, 1:-1, 1:-1]
    for face in range(12):
        wide, own = index[face], inner[face]
        assert np.array_equal(wide[-1, 1:-1], around[NE][own[-1]])
        assert np.array_equal(wide[0, 1:-1], around[SW][own[0]])
        assert np.array_equal(wide[1:-1, -1], around[NW][own[:, -1]])
        assert np.array_equal(wide[1:-1, 0], around[SE][own[:, 0]])
        for (i, j), name in CORNERS.items():
            tip, expected = wide[-(i > 0), -(j > 0)], around[name][own[-(i > 0), -(j > 0)]]
            assert (expected < 0) == ((i, j) in missing(face))
            assert tip == (wide[1 if i < 0 else -2, -(j > 0)] if expected < 0 else expected)


@pytest.mark.parametrize(("nside", "patch", "halo"), [(8, 8, 8), (8, 4, 3), (16, 16, 8), (32, 8, 8)])
def test_cells_side_by_side_are_neighbours_on_the_sphere(nside, patch, halo):
    """Also over the turned edges of the caps; at the 24 missing corners the fold puts halo pixels beside themselves."""
    index = patch_index(nside, patch, halo)
    around = hp.get_all_neighbours(nside, np.arange(12 * nside**2))
    repeats = 0
    for a, b in ((index[:, 1:], index[:, :-1]), (index[:, :, 1:], index[:, :, :-1])):
        assert np.all((a == b) | (around[:, a] == b).any(axis=0))
        repeats += np.sum(a == b)
    assert repeats == 24 * halo


@pytest.mark.parametrize("nside", [8, 16])
def test_halo_never_turns_back(nside):
    """Outside the missing corners a face and its halo of half a face show every pixel once: nothing is mirrored."""
    halo = nside // 2
    index = patch_index(nside, nside, halo)
    side = {1: slice(nside + halo, None), -1: slice(0, halo)}
    for face in range(12):
        true = np.ones(index.shape[1:], dtype=bool)
        for i, j in missing(face):
            true[side[i], side[j]] = False
            block = index[face][side[i], side[j]][::i, ::j]
            assert np.array_equal(block, block.T)  # the documented fold
        assert len(np.unique(index[face][true])) == true.sum()


def test_patches_of_a_face_share_their_borders():
    """The halo of a patch inside a face is the inside of the patches beside it."""
    nside, patch, halo = 16, 4, 2
    narrow, wide = patch_index(nside, nside, halo), patch_index(nside, patch, halo)
    x, y, face = hp.pix2xyf(nside // patch, np.arange(n_patches(nside, patch)), nest=True)
    for k in range(len(wide)):
        x0, y0, width = patch * x[k], patch * y[k], patch + 2 * halo
        assert np.array_equal(wide[k], narrow[face[k], x0 : x0 + width, y0 : y0 + width])


@pytest.mark.parametrize("nside", [1, 4, 16])
def test_mosaic_shows_every_pixel_once_in_the_faces_of_the_paper(nside):
    index = mosaic_index(nside)
    assert index.shape == (4 * nside, 3 * nside)
    assert np.array_equal(np.sort(index, axis=None), np.arange(12 * nside**2))
    x, y, face = (part.reshape(4, nside, 3, nside) for part in hp.pix2xyf(nside, index))
    assert np.array_equal(face[:, 0, :, 0], [[2, 6, 9], [3, 7, 10], [0, 4, 11], [1, 5, 8]])
    assert np.all(face == face[:, :1, :, :1])
    across = np.arange(nside)[::-1]
    assert np.all(x == across)
    assert np.all(y == across[:, None, None])


@pytest.mark.parametrize("nside", [2, 8])
def test_seams_of_the_mosaic(nside):
    """Cells side by side are neighbours over the eight seams between columns of faces, over the nine others nowhere."""
    index = mosaic_index(nside)
    around = hp.get_all_neighbours(nside, np.arange(12 * nside**2))[::2]  # over edges

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (around[:, a] == b).any(axis=0)

    assert near(index[:, 1:], index[:, :-1]).all()
    down = near(index[1:], index[:-1])
    seams = np.arange(1, 4) * nside - 1
    assert not down[seams].any()
    assert np.delete(down, seams, axis=0).all()


def test_mosaic_of_a_wrong_nside_is_refused():
    with pytest.raises(ValueError, match="nside must be a power of two"):
        mosaic_index(12)


@pytest.mark.parametrize(
    ("nside", "patch", "halo", "message"),
    [
        (16, 32, 0, "does not divide"),
        (16, 3, 0, "patch must be a power of two"),
        (16, 0, 0, "patch must be a power of two"),
        (12, 4, 0, "nside must be a power of two"),
        (16, 4, -1, "halo"),
        (16, 4, 17, "halo"),
        (16, 4, 0.5, "halo"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(nside, patch, halo, message):
    with pytest.raises(ValueError, match=message):
        patch_index(nside, patch, halo)


def test_arrays_that_are_no_maps_are_refused():
    with pytest.raises(ValueError, match="no HEALPix map"):
        to_patches(np.zeros(100), 2)
    with pytest.raises(ValueError, match="no HEALPix map"):
        to_patches(np.zeros(12 * 9), 1)
    with pytest.raises(ValueError, match="no HEALPix map"):
        from_patches(np.zeros((5, 4, 4)))
    with pytest.raises(ValueError, match="shape"):
        from_patches(np.zeros((12, 4, 2)))
    with pytest.raises(ValueError, match="halo"):
        from_patches(np.zeros((12, 4, 4)), halo=2)
