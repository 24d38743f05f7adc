"""The forms in which a cleaned map is compared with the truth: both with one beam, one band limit and one mask.

A prediction is never compared as it is with a truth of another beam but in the form ``unsmoothed``, which is there
because others publish it: it mostly tells the beam of the prediction. The truth of every form is made of its alms and
thus exact; what is smoothed numerically is the error alone, so that a perfect prediction has none in any form.

A prediction that carries the mask (``SkyMap.masks``) is measured against the truth times the mask, and its spectra
are those of the maps as they are: both then mean what they mean of a prediction of the whole sky, whose spectra are
those of the map times the mask. Its error is what it has beyond the truth seen through the same mask (``seen_truth``):
what that mixes of E into B is the mask's doing, alike for all methods, and no error of the cleaning.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import healpy as hp
import numpy as np

from cmbml.analysis.common import beam_ratio, common_form
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht

FORMS = ("common", "unsmoothed", "native")
_LIMIT = 3.0  # times the rms of the error where pixels count: beyond, a pixel that does not count is not believed


def together(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the fields of a map as they are transformed: scalars one by one, Q and U as a pair."""
    return [(x,) for x in fields if x not in ("Q", "U")] + [("Q", "U")] * ({"Q", "U"} <= set(fields))


def spin_of(fields: Sequence[str]) -> int:
    """Return the spin of the fields of one of ``together``."""
    return 2 if len(fields) == 2 else 0


def truth_maps(
    alms: Mapping[str, np.ndarray],
    fields: Sequence[str],
    *,
    nside: int,
    fwhm_arcmin: float,
    to_fwhm_arcmin: float,
    lmax: int,
) -> np.ndarray:
    """Return the true sky with a beam and a band limit, float64 (len(fields), npix), RING.

    Parameters
    ----------
    alms : mapping of str to complex array (nalm,)
        T, E and B, those that the fields need.
    fields : sequence of str
        One of ``together``.
    nside : int
    fwhm_arcmin, to_fwhm_arcmin : float
        Gaussian beam that the alms have, and that the maps get.
    lmax : int
        Band limit; that of the alms if they end below.

    Raises
    ------
    UserError
        If the truth lacks a field, or has a wider beam already.
    """
    needed = ("E", "B") if spin_of(fields) else fields
    for name in needed:
        if name not in alms:
            raise UserError(f"The truth has no {name}, and {','.join(fields)} cannot be measured without it.")
    lmax = min(lmax, sht.alm_lmax(alms[needed[0]]))
    alm = np.stack([sht.truncate(alms[name], lmax).astype(np.complex128) for name in needed])
    smoothed = sht.almxfl(alm, beam_ratio(fwhm_arcmin, to_fwhm_arcmin, lmax))
    return sht.synthesis(smoothed, nside, spin=spin_of(fields))


def seen_truth(
    alms: Mapping[str, np.ndarray],
    fields: Sequence[str],
    *,
    nside: int,
    fwhm_arcmin: float,
    to_fwhm_arcmin: float,
    lmax: int,
    weight: np.ndarray,
) -> np.ndarray:
    """Return the fields of the true sky as an observation finds them whose T, Q and U were multiplied by a mask first.

    Parameters and errors as in ``truth_maps``; ``weight`` is the mask, (npix,). It is applied to all multipoles of the
    truth, and the band limit after it.
    """
    truth = partial(truth_maps, alms, nside=nside, fwhm_arcmin=fwhm_arcmin, to_fwhm_arcmin=to_fwhm_arcmin)
    pixels = ("T",) if tuple(fields) == ("T",) else ("Q", "U")
    whole = sht.alm_lmax(next(iter(alms.values())))
    spin = spin_of(pixels)
    alm = sht.analysis(weight * truth(pixels, lmax=whole), min(lmax, whole), spin=spin)
    if spin_of(fields) == spin:
        return sht.synthesis(alm, nside, spin=spin)
    return sht.synthesis(np.stack([alm["EB".index(x)] for x in fields]), nside)


def without_dipole(m: np.ndarray, good: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return a map (..., npix), RING, less the monopole and dipole that fit its good pixels best, bool (npix,).

    ``weight`` (npix,) is the mask that the map carries, and that its monopole and dipole have to carry as well.
    """
    shapes = np.stack([np.ones(m.shape[-1]), *hp.pix2vec(hp.npix2nside(m.shape[-1]), np.arange(m.shape[-1]))])
    shapes = _times(weight, shapes)
    inside = shapes[:, good]
    return m - np.linalg.solve(inside @ inside.T, inside @ m[..., good].T).T @ shapes


def _times(weight: np.ndarray | None, m: np.ndarray) -> np.ndarray:
    return m if weight is None else weight * m


def _settled(m: np.ndarray, fields: Sequence[str], good: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Map without monopole and dipole if it is T, whose two nobody recovers; any other as it is."""
    return without_dipole(m, good, weight) if tuple(fields) == ("T",) else m


def carried(prediction: SkyMap, mask: SkyMap | None) -> np.ndarray | None:
    """Return the weights that a prediction carries, (npix,): the mask if it says so, or none.

    Raises
    ------
    UserError
        If it carries a mask and there is none.
    """
    if not prediction.masks:
        return None
    if mask is None:
        raise UserError(
            "The prediction was multiplied by a mask (MASKS in its header), and this command has none; give the mask"
            " with which it was made, or make it anew."
        )
    weight: np.ndarray = mask["mask"].astype(np.float64)
    return weight


def at_own_beam(
    prediction: SkyMap,
    cmb: SkyMap,
    alms: Mapping[str, np.ndarray],
    fields: Sequence[str],
    good: np.ndarray,
    *,
    lmax: int,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Compare a prediction with a truth that has its beam.

    Parameters
    ----------
    prediction : SkyMap
    cmb : SkyMap
        Of the truth; only its beam is used.
    alms : mapping
        Of the truth, with the beam of ``cmb``.
    fields : sequence of str
        One of ``together``.
    good : bool array (npix,)
        Pixels that count.
    lmax : int
        Band limit of the truth.
    weight : array (npix,), optional
        What the prediction carries (``carried``), and the truth is multiplied by.

    Returns
    -------
    truth, error, fwhm_arcmin
        Float64 (len(fields), npix): the truth, and prediction - ``seen_truth``, T without monopole and dipole over the
        good pixels; and the beam of both. It is the prediction's own, or that of the truth if it is wider: then the
        prediction is smoothed to it, its masked pixels replaced by the truth, which errs beside the border.
    """
    fwhm_arcmin = max(prediction.fwhm_arcmin, cmb.fwhm_arcmin)
    beams = {"fwhm_arcmin": cmb.fwhm_arcmin, "to_fwhm_arcmin": fwhm_arcmin}
    truth = _times(weight, truth_maps(alms, fields, nside=prediction.nside, lmax=lmax, **beams))
    seen = truth
    if weight is not None:
        seen = seen_truth(alms, fields, nside=prediction.nside, lmax=lmax, weight=weight, **beams)
    error = _settled(prediction.select(fields).astype(np.float64) - seen, fields, good, weight)
    if fwhm_arcmin > prediction.fwhm_arcmin:
        smooth = common_form(
            truth + np.where(good, error, 0),
            fwhm_arcmin=prediction.fwhm_arcmin,
            to_fwhm_arcmin=fwhm_arcmin,
            lmax=lmax,
            spin=spin_of(fields),
        )
        error = _settled(smooth - truth, fields, good, weight)
    return _settled(truth, fields, good, weight), error, fwhm_arcmin


def believed(error: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the pixels whose error (n, npix) is smoothed, bool (npix,): those that count, and others alike.

    Pixels that do not count are smoothed into those that do, and have to be: to set them to 0 cuts the error off at the
    mask's border, which mixes its multipoles, and of a map without a beam those at the band limit and beyond, where
    noise divided by the beam is largest, would be counted among the low ones that the common beam keeps. But they may
    hold the Galaxy, or nothing at all. They are believed where all n errors are within three times the rms of those
    that count.
    """
    limit = _LIMIT * np.sqrt(np.mean(error[:, good] ** 2))
    kept: np.ndarray = good | np.all(np.abs(error) <= limit, axis=0)
    return kept


def in_forms(
    prediction: SkyMap,
    cmb: SkyMap,
    alms: Mapping[str, np.ndarray],
    fields: Sequence[str],
    good: np.ndarray,
    *,
    fwhm_arcmin: float,
    lmax: int,
    weight: np.ndarray | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Return truth, error and beam (``at_own_beam``) in each of ``FORMS``, and for spectra to lmax as ``spectra``.

    ``common``: the beam ``fwhm_arcmin``, or the truth's if it is wider, and the band limit ``lmax``. The error is
    smoothed from the prediction's beam to the common one, and cut at lmax, before the mask; pixels that do not count
    and err by more than others do (``believed``) are replaced by the truth: the smoothing cannot carry what is left of
    the Galactic plane into the good sky, and multipoles of the truth that the prediction lacks count as error. Outside
    a Galactic mask of a quarter of the sky, at nside 64 and a common beam of 137 arcmin, its rms is that of the error
    smoothed over the whole sky to 0.3 %, for predictions of 0 and of 110 arcmin.
    ``unsmoothed``: the prediction as it is against the truth as it is.
    ``native``: the truth with the beam and the band limit of the prediction.

    ``weight`` (npix,) is what the prediction carries (``carried``), and the truth is multiplied by in all forms.

    Raises
    ------
    UserError
        If the prediction has a wider beam than the common one.
    """
    if prediction.fwhm_arcmin > fwhm_arcmin:
        raise UserError(
            f"The prediction has a beam of {prediction.fwhm_arcmin:g} arcmin, wider than the common one of"
            f" {fwhm_arcmin:g}; widen analysis.fwhm_arcmin for all methods, to {prediction.fwhm_arcmin:g} at least."
        )
    of_truth: dict[str, Any] = {"nside": prediction.nside, "fwhm_arcmin": cmb.fwhm_arcmin}
    truth = partial(truth_maps, alms, fields, **of_truth)
    native = at_own_beam(prediction, cmb, alms, fields, good, lmax=prediction.lmax, weight=weight)
    whole = at_own_beam(prediction, cmb, alms, fields, good, lmax=max(prediction.lmax, lmax), weight=weight)
    common = max(fwhm_arcmin, cmb.fwhm_arcmin)
    smooth = common_form(
        whole[1],
        fwhm_arcmin=whole[2],
        to_fwhm_arcmin=common,
        lmax=lmax,
        mask=believed(whole[1], good),
        spin=spin_of(fields),
    )
    if set(fields) <= set(cmb.fields):
        sharp = cmb.select(fields).astype(np.float64)
    else:
        sharp = truth(to_fwhm_arcmin=cmb.fwhm_arcmin, lmax=cmb.lmax)
    seen = sharp
    if weight is not None:
        sharp = weight * sharp
        whole_truth: dict[str, Any] = {"to_fwhm_arcmin": cmb.fwhm_arcmin, "lmax": cmb.lmax}
        seen = seen_truth(alms, fields, **of_truth, **whole_truth, weight=weight)
    differences = {
        "common": (_times(weight, truth(to_fwhm_arcmin=common, lmax=lmax)), smooth, common),
        "unsmoothed": (sharp, prediction.select(fields) - seen, cmb.fwhm_arcmin),
    }
    forms = {
        name: (_settled(t, fields, good, weight), _settled(e, fields, good, weight), b)
        for name, (t, e, b) in differences.items()
    }
    return forms | {"native": native, "spectra": whole}
