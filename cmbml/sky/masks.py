"""Masks of the sky: pixel weights from 0 (not used) to 1, HEALPix RING, and how much of the sky they leave."""

import healpy as hp
import numpy as np
from scipy.spatial import cKDTree

from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam

KINDS = ("C1", "C2")


def band_mask(nside: int, b_deg: float) -> np.ndarray:
    """Return the mask that is 1 where |latitude| > b and 0 elsewhere, float64 (npix,).

    It leaves 1 - sin b of the sky.

    Examples
    --------
    >>> round(float(band_mask(128, 30.0).mean()), 2)
    0.5
    """
    z = hp.pix2vec(nside, np.arange(hp.nside2npix(nside)))[2]
    mask: np.ndarray = np.abs(z) > np.sin(np.deg2rad(b_deg))
    return mask.astype(np.float64)


def galactic_mask(intensity: np.ndarray, f_sky: float, nside: int, *, fwhm_deg: float = 5.0) -> np.ndarray:
    """Return the mask that is 1 on the faintest part of a sky and 0 elsewhere, float64 (12 nside^2,).

    The intensity is smoothed, averaged or repeated to nside, and its round(f_sky npix) lowest pixels are kept. A part
    that is smaller lies within one that is larger.

    Parameters
    ----------
    intensity : array (npix,)
        Of the dust, say, RING; any unit and any nside.
    f_sky : float
        Part of the sky that is kept, above 0 and at most 1.
    nside : int
    fwhm_deg : float, optional
        Of the Gaussian that smooths the border; 0 for none.

    Raises
    ------
    ValueError
        If f_sky is out of its range, or the map is not finite.

    Examples
    --------
    >>> brightness = 1 - np.abs(hp.pix2vec(16, np.arange(3072))[2])
    >>> mask = galactic_mask(brightness, 0.75, 16)
    >>> float(mask.mean())
    0.75
    """
    if not 0 < f_sky <= 1:
        raise ValueError(f"a mask keeps a part of the sky above 0 and at most 1, not {f_sky}")
    if not np.isfinite(intensity).all():
        raise ValueError("the map that a Galactic mask is made of has pixels that are not finite")
    sky = np.asarray(intensity, dtype=np.float64)
    if fwhm_deg > 0:
        own = hp.npix2nside(len(sky))
        lmax = min(2 * own, int(np.ceil(820 / fwhm_deg)))  # where the Gaussian is 1e-8: the map does not ring
        sky = sht.synthesis(sht.almxfl(sht.analysis(sky, lmax), gaussian_beam(60 * fwhm_deg, lmax)), own)
    sky = hp.ud_grade(sky, nside)
    mask = np.zeros(len(sky))
    mask[np.argsort(sky, kind="stable")[: round(f_sky * len(sky))]] = 1
    return mask


def apodise(mask: np.ndarray, width_deg: float, kind: str = "C2") -> np.ndarray:
    """Return the mask times a taper that rises from 0 at its border to 1 at ``width_deg`` inside.

    With d the distance to the nearest pixel where the mask is 0 and x = min(1, sqrt((1 - cos d) / (1 - cos width))),

        C1: x - sin(2 pi x) / (2 pi),    C2: (1 - cos(pi x)) / 2

    (Grain et al. 2009, PRD 79 123515; the names and x are NaMaster's, Alonso et al. 2019, MNRAS 484 4127). Both have no
    jump in value and slope. The result is nowhere larger than the mask.

    Parameters
    ----------
    mask : array (npix,)
        0 to 1, RING.
    width_deg : float
        0 for none.
    kind : {"C1", "C2"}, optional

    Returns
    -------
    float64 array (npix,)

    Raises
    ------
    ValueError
        If the kind is unknown.

    Examples
    --------
    >>> mask = band_mask(16, 30.0)
    >>> soft = apodise(mask, 20.0)
    >>> bool(np.all(soft <= mask)), float(soft.max())
    (True, 1.0)
    """
    if kind not in KINDS:
        raise ValueError(f"an apodisation is one of {', '.join(KINDS)}, not {kind}")
    mask = np.asarray(mask, dtype=np.float64)
    out = mask.copy()
    good = np.flatnonzero(mask > 0)
    if width_deg == 0 or len(good) in (0, len(mask)):
        return out
    nside = hp.npix2nside(len(mask))
    bad = np.flatnonzero(mask == 0)
    neighbours = hp.get_all_neighbours(nside, bad)  # of eight pixels; -1 where there are but seven
    border = bad[((mask[neighbours] > 0) & (neighbours >= 0)).any(axis=0)]
    # Chords 2 sin(d / 2) = sqrt(2 (1 - cos d)) grow with the distance, and x is the ratio of two of them.
    width = 2 * np.sin(np.deg2rad(width_deg) / 2)
    tree = cKDTree(np.transpose(hp.pix2vec(nside, border)))
    chord, _ = tree.query(np.transpose(hp.pix2vec(nside, good)), distance_upper_bound=width)
    x = np.minimum(chord / width, 1)
    taper = x - np.sin(2 * np.pi * x) / (2 * np.pi) if kind == "C1" else (1 - np.cos(np.pi * x)) / 2
    out[good] *= taper
    return out


def f_sky(mask: np.ndarray, power: int = 2) -> float:
    """Return the mean of mask^power: the part of the sky that counts in spectra of maps times mask^(power / 2).

    A statistically isotropic map times w has, on scales below those of w, the spectrum <w^2> C_l.

    Examples
    --------
    >>> f_sky(np.array([0.0, 0.5, 0.5, 1.0])), f_sky(np.array([0.0, 0.5, 0.5, 1.0]), power=1)
    (0.375, 0.5)
    """
    return float(np.mean(np.asarray(mask, dtype=np.float64) ** power))
