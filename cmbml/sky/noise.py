"""White instrument noise."""

import numpy as np


def white_noise(rng: np.random.Generator, nside: int, level_uk_arcmin: float, ncomp: int = 1) -> np.ndarray:
    """Draw independent white noise for each pixel of ``ncomp`` HEALPix maps, uK, shape (ncomp, 12 nside^2).

    A level of w uK arcmin is w uK rms in a pixel of one square arcminute, so sigma = w (pi / 10800) / sqrt(Omega_pix).
    """
    npix = 12 * nside**2
    sigma = np.sqrt(noise_cl(level_uk_arcmin, 0)[0] * npix / (4 * np.pi))
    noise = rng.standard_normal((ncomp, npix))
    noise *= sigma
    return noise


def noise_cl(level_uk_arcmin: float, lmax: int) -> np.ndarray:
    """Return the spectrum of white noise, N_l = (w pi / 10800)^2 for w in uK arcmin; uK^2, shape (lmax + 1,)."""
    return np.full(lmax + 1, np.deg2rad(level_uk_arcmin / 60) ** 2)
