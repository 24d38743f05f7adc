"""Holes filled from their borders: against the means taken one after another, and where the answer is known."""

import healpy as hp
import numpy as np
import pytest

from cmbml.sky.inpainting import inpainted

NSIDE = 16
X, Y, Z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))


def holes() -> np.ndarray:
    """A disc, a pixel alone, and the two pixels at a corner of three faces, which have seven neighbours."""
    hole = np.zeros(12 * NSIDE**2, dtype=bool)
    hole[hp.query_disc(NSIDE, [1.0, 0.4, 0.5], 0.3)] = True
    hole[hp.ang2pix(NSIDE, 200.0, -30.0, lonlat=True)] = True
    corner = np.flatnonzero((hp.get_all_neighbours(NSIDE, np.arange(12 * NSIDE**2)) < 0).any(axis=0))
    hole[corner[:2]] = True
    return hole


def test_it_is_what_repeated_means_of_the_neighbours_come_to():
    m = np.random.default_rng(1).normal(size=12 * NSIDE**2)
    hole = holes()
    found = inpainted(np.where(hole, np.nan, m), hole)
    np.testing.assert_array_equal(found[~hole], m[~hole])
    slow = np.where(hole, 0.0, m)
    neighbours = hp.get_all_neighbours(NSIDE, np.flatnonzero(hole))
    for _ in range(2000):
        slow[hole] = np.sum(np.where(neighbours >= 0, slow[neighbours], 0), axis=0) / (neighbours >= 0).sum(axis=0)
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-7)
    border = neighbours[(neighbours >= 0) & ~hole[neighbours]]
    assert m[border].min() < found[hole].min() < found[hole].max() < m[border].max()


@pytest.mark.parametrize("m", [Z, 3e-5 + 1e-6 * Z, np.full_like(Z, 7.0), np.zeros_like(Z)])
def test_a_belt_is_crossed_evenly(m):
    """Around the equator pixels form a lattice in z, on which a function that is linear in z is its own mean."""
    hole = np.abs(Z) < 0.4
    np.testing.assert_allclose(inpainted(np.where(hole, 1e9, m), hole), m, rtol=0, atol=1e-7 * np.ptp(m))


def test_a_map_without_a_hole_is_as_it_was_and_nothing_but_a_hole_is_refused():
    np.testing.assert_array_equal(inpainted(X, np.zeros(len(X), dtype=bool)), X)
    with pytest.raises(ValueError, match="whole sky has nothing to be filled from"):
        inpainted(X, np.ones(len(X), dtype=bool))
