"""The common form: maps brought to one beam and one band limit before they are compared.

Maps of different beams are never compared pixel by pixel: the beam alone would be counted as error. In the native form
the truth carries the prediction's own beam; in the common form both are taken to the same, wider beam.
Here too: the one line that every table and picture carries to say what it shows.
"""

import numpy as np

from cmbml.core.errors import UserError, demand
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam

# What is left of a mode below this drowns in the rounding of float32 maps (1e-7); dividing by b_l makes noise of it.
_SMALLEST_BEAM = 1e-6


def usable_lmax(fwhm_arcmin: float, lmax: int) -> int:
    """Return the last multipole, lmax at most, at which a map with a Gaussian beam holds anything but rounding.

    Examples
    --------
    >>> usable_lmax(300.0, 160), usable_lmax(60.0, 160)
    (141, 160)
    """
    return int(np.flatnonzero(gaussian_beam(fwhm_arcmin, lmax) >= _SMALLEST_BEAM)[-1])


def demand_usable(label: str, fwhm_arcmin: float, lmax: int) -> None:
    """Refuse to measure further than a beam lets; ``label`` says which beam that is.

    Raises
    ------
    UserError
        The sentence names the largest usable lmax.
    """
    usable = usable_lmax(fwhm_arcmin, lmax)
    demand(
        usable == lmax,
        f"{label} leaves nothing of the map at analysis.lmax={lmax}; set analysis.lmax to {usable} or less.",
    )


def beam_ratio(fwhm_arcmin: float, to_fwhm_arcmin: float, lmax: int) -> np.ndarray:
    """Return b_l(to) / b_l(from), shape (lmax + 1,), for Gaussian beams of the two widths.

    b_l(to) / b_l(from) = exp(-l(l+1) (sigma_to^2 - sigma_from^2) / 2): the Gaussian beam whose width is the difference
    in quadrature, so that nothing is divided and nothing underflows.

    Raises
    ------
    UserError
        If the target beam is narrower than the map's: that would blow up the noise.
    """
    if to_fwhm_arcmin < fwhm_arcmin:
        raise UserError(
            f"a map with a beam of {fwhm_arcmin:g} arcmin cannot be brought to {to_fwhm_arcmin:g} arcmin without "
            f"blowing up its noise; set the common beam to at least {fwhm_arcmin:g} arcmin"
        )
    return gaussian_beam(np.sqrt(to_fwhm_arcmin**2 - fwhm_arcmin**2), lmax)


def common_form(
    m: np.ndarray,
    *,
    fwhm_arcmin: float,
    to_fwhm_arcmin: float,
    lmax: int,
    mask: np.ndarray | None = None,
    spin: int = 0,
    niter: int = 1,
    nthreads: int = 0,
) -> np.ndarray:
    """Bring a map to another beam and to a band limit: a_lm -> a_lm b_l(to) / b_l(from), l <= lmax, same nside.

    Parameters
    ----------
    m : array (npix,) for a scalar (T, E, B, kappa), (2, npix) = [Q, U] for ``spin=2``
        RING.
    fwhm_arcmin, to_fwhm_arcmin : float
        Beam that the map has and that it is to get, FWHM.
    lmax : int
    mask : bool array (npix,), optional
        True where the map is good. Masked pixels are set to 0 before the transform, so that whatever fills them cannot
        reach the good ones; the map that returns is not masked: hand the mask to the statistics as well.
    spin : int, optional
        0, or 2 for a pair Q, U, which must not be smoothed as two scalars.
    niter, nthreads : int, optional
        As in ``cmbml.sky.sht.analysis``.

    Returns
    -------
    float64 array of the same shape

    Raises
    ------
    UserError
        If the target beam is narrower than the map's own.
    """
    ratio = beam_ratio(fwhm_arcmin, to_fwhm_arcmin, lmax)
    nside = round(np.sqrt(m.shape[-1] / 12))
    m = m if mask is None else np.where(mask, m, 0.0)
    alm = sht.analysis(m, lmax, spin=spin, niter=niter, nthreads=nthreads)
    return sht.synthesis(sht.almxfl(alm, ratio), nside, spin=spin, nthreads=nthreads)


def deconvolved_alm(
    m: np.ndarray, *, fwhm_arcmin: float, lmax: int, spin: int = 0, niter: int = 1, nthreads: int = 0
) -> np.ndarray:
    """Return the alms of a full-sky map with its Gaussian beam taken out, a_lm / b_l: what spectra are made of.

    Parameters as in ``common_form``; the result has shape (nalm,), or (2, nalm) = [E, B] for ``spin=2``.

    Raises
    ------
    UserError
        If the beam has erased the map below lmax; the message names the largest usable lmax.
    """
    demand_usable(f"A beam of {fwhm_arcmin:g} arcmin", fwhm_arcmin, lmax)
    beam = gaussian_beam(fwhm_arcmin, lmax)
    return sht.almxfl(sht.analysis(m, lmax, spin=spin, niter=niter, nthreads=nthreads), 1 / beam)
