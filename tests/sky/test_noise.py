"""The level of white noise, in pixels and in harmonics."""

import numpy as np
from scipy.stats import chi2

from cmbml.sky import sht
from cmbml.sky.noise import noise_cl, white_noise


def test_level_is_the_rms_in_a_square_arcminute():
    nside, level = 64, 3.0
    noise = white_noise(np.random.default_rng(1), nside, level, ncomp=2)
    square_arcmin = (180 * 60 / np.pi) ** 2 * 4 * np.pi / noise.shape[1]
    for component in noise:
        # sum of squares / variance is chi^2 of npix degrees; two-sided 1e-3
        total = np.sum(component**2) / (level**2 / square_arcmin)
        assert 5e-4 < chi2.sf(total, component.size) < 1 - 5e-4
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / np.sqrt(noise.shape[1])


def test_spectrum_is_that_of_the_pixels():
    """Sum of (2l+1) C^_l / N_l over l is chi^2 of all modes; below l = nside the quadrature is exact to 1e-3."""
    nside, level = 128, 2.1
    sky = white_noise(np.random.default_rng(2), nside, level, ncomp=3)
    alms = [sht.analysis(sky[0], nside), *sht.analysis(sky[1:], nside, spin=2)]
    ell = np.arange(2, nside + 1)
    for alm in alms:
        total = np.sum((2 * ell + 1) * (sht.alm2cl(alm) / noise_cl(level, nside))[2:])
        assert 5e-4 < chi2.sf(total, np.sum(2 * ell + 1)) < 1 - 5e-4


def test_same_stream_same_noise():
    one, two = (white_noise(np.random.default_rng(3), 8, level) for level in (1.0, 2.0))
    np.testing.assert_allclose(2 * one, two, rtol=1e-14)
