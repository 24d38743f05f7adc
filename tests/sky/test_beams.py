"""Beams beside the Gaussian profile that their name promises."""

import healpy as hp
import numpy as np
from scipy.special import eval_legendre

from cmbml.sky.beams import gaussian_beam


def test_half_maximum_is_at_half_the_width():
    fwhm_arcmin, lmax = 60.0, 1200
    ell = np.arange(lmax + 1)
    profile = (2 * ell + 1) * gaussian_beam(fwhm_arcmin, lmax) / (4 * np.pi)
    angle = np.deg2rad(fwhm_arcmin / 60) / 2
    ratio = profile @ eval_legendre(ell, np.cos(angle)) / profile.sum()
    assert abs(ratio - 0.5) < 1e-4  # the sphere's curvature, sigma^2


def test_is_healpys_and_ends():
    np.testing.assert_allclose(gaussian_beam(8.3, 3000), hp.gauss_beam(np.deg2rad(8.3 / 60), lmax=3000), rtol=1e-12)
    np.testing.assert_array_equal(gaussian_beam(0.0, 10), np.ones(11))
