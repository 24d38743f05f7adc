"""Bins beside sums written out."""

import numpy as np
import pytest

from cmbml.sky.spectra import bin_edges, bin_spectrum, cl_to_dl


def test_every_multipole_is_in_one_bin():
    np.testing.assert_array_equal(bin_edges(2, 33, 10), [2, 12, 22, 33])  # what does not fill a bin joins the last
    np.testing.assert_array_equal(bin_edges(2, 32, 10), [2, 12, 22, 32])
    np.testing.assert_array_equal(bin_edges(5, 8, 10), [5, 8])


def test_bins_count_modes():
    cl = np.random.default_rng(0).random((2, 30))
    got = bin_spectrum(cl, np.array([2, 12, 29]))
    expected = sum((2 * ell + 1) * cl[1, ell] for ell in range(12, 29)) / sum(2 * ell + 1 for ell in range(12, 29))
    assert got.shape == (2, 2)
    assert got[1, 1] == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(bin_spectrum(np.full(29, 3.5), np.array([2, 12, 29])), 3.5)


def test_dl_of_the_scale_invariant_spectrum_is_one():
    ell = np.arange(1, 50)
    np.testing.assert_allclose(cl_to_dl(np.concatenate([[7.0], 2 * np.pi / (ell * (ell + 1))])), [0, *np.ones(49)])


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="no bins"):
        bin_edges(10, 10, 5)
    with pytest.raises(ValueError, match="the spectrum at l = 19"):
        bin_spectrum(np.ones(20), np.array([2, 21]))
