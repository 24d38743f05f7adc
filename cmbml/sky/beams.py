"""Instrument beams in harmonic space."""

import numpy as np


def gaussian_beam(fwhm_arcmin: float, lmax: int) -> np.ndarray:
    """Return b_l = exp(-l(l+1) sigma^2 / 2), sigma = FWHM / sqrt(8 ln 2), shape (lmax + 1,).

    One b_l serves T, E and B alike; the factor exp(2 sigma^2) of spin 2 is left out, 1e-4 for a beam of half a degree.
    """
    sigma = np.deg2rad(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
    ell = np.arange(lmax + 1)
    return np.exp(-ell * (ell + 1) * sigma**2 / 2)
