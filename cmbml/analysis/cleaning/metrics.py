"""How far a cleaned map is from the true CMB: both in one form, pixel by pixel, and multipole by multipole.

A prediction is never compared as it is with a truth of another beam but in the form ``unsmoothed``, which is there
because others publish it: it mostly tells the beam of the prediction. The truth of every form is made of its alms and
thus exact; what is smoothed numerically is the error alone, so that a perfect prediction has none in any form.

A prediction that carries the mask (``SkyMap.masks``) is measured against the truth times the mask, and its spectra
are those of the maps as they are: both then mean what they mean of a prediction of the whole sky, whose spectra are
those of the map times the mask. Its error is what it has beyond the truth seen through the same mask (``seen_truth``):
what that mixes of E into B is the mask's doing, alike for all methods, and no error of the cleaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import healpy as hp
import numpy as np

from cmbml.analysis.common import beam_ratio, common_form, deconvolved_alm
from cmbml.analysis.metrics import Metric, of_pixels, pixel_metrics
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.masks import f_sky

FORMS = ("common", "unsmoothed", "native")
_LIMIT = 3.0  # times the rms of the error where pixels count: beyond, a pixel that does not count is not believed


def together(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the fields of a map as they are transformed: scalars one by one, Q and U as a pair."""
    return [(x,) for x in fields if x not in ("Q", "U")] + [("Q", "U")] * ({"Q", "U"} <= set(fields))


def _spin(fields: Sequence[str]) -> int:
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
    needed = ("E", "B") if _spin(fields) else fields
    for name in needed:
        if name not in alms:
            raise UserError(f"The truth has no {name}, and {','.join(fields)} cannot be measured without it.")
    lmax = min(lmax, sht.alm_lmax(alms[needed[0]]))
    alm = np.stack([sht.truncate(alms[name], lmax).astype(np.complex128) for name in needed])
    smoothed = sht.almxfl(alm, beam_ratio(fwhm_arcmin, to_fwhm_arcmin, lmax))
    return sht.synthesis(smoothed, nside, spin=_spin(fields))


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
    spin = _spin(pixels)
    alm = sht.analysis(weight * truth(pixels, lmax=whole), min(lmax, whole), spin=spin)
    if _spin(fields) == spin:
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
            spin=_spin(fields),
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
        spin=_spin(fields),
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


def agreement(truth: np.ndarray, prediction: np.ndarray, good: np.ndarray) -> dict[str, float]:
    """Return the pixel metrics (``metrics.pixel_metrics``), psnr_joint and corr of a map over its good pixels.

    psnr_joint = 10 log10(R^2 / MSE) dB with R = max(t, p) - min(t, p), the range of both maps together: CMB-ML's,
    which an outlier in the prediction raises. corr = <(t - <t>)(p - <p>)> / (std t std p), Pearson's.

    Parameters
    ----------
    truth, prediction : array (npix,)
    good : bool array (npix,)
    """
    values = pixel_metrics(truth, prediction, mask=good)
    pair = np.stack([truth[good], prediction[good]])
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = float(10 * np.log10(np.ptp(pair) ** 2 / np.float64(values["MSE"])))
        return values | {"psnr_joint": joint, "corr": float(np.corrcoef(pair)[0, 1])}


def error_spectra(
    truth: np.ndarray,
    error: np.ndarray,
    fields: Sequence[str],
    *,
    fwhm_arcmin: float,
    lmax: int,
    mask: np.ndarray | None = None,
    masked: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the spectra of truth, prediction and residual, beam-deconvolved.

    Parameters
    ----------
    truth, error : array (len(fields), npix)
        From ``at_own_beam``, with the beam ``fwhm_arcmin``.
    fields : sequence of str
    fwhm_arcmin : float
    lmax : int
    mask : array (npix,), optional
        Weight of each pixel. Spectra are then those of the maps times the mask over <mask^2>: of the right height, but
        with multipoles mixed over the width of the mask's own spectrum, and E with B.
    masked : bool, optional
        Whether the maps carry the mask already.

    Returns
    -------
    dict of dict of float64 arrays (lmax + 1,)
        Field -> ``truth``, ``prediction``, ``residual`` (auto) and ``cross`` (prediction with truth), C_l in uK^2. The
        fields of the pair Q, U are E and B.
    """
    weight = 1.0 if mask is None or masked else mask.astype(np.float64)
    spin = _spin(fields)
    t = deconvolved_alm(truth * weight, fwhm_arcmin=fwhm_arcmin, lmax=lmax, spin=spin)
    e = deconvolved_alm(error * weight, fwhm_arcmin=fwhm_arcmin, lmax=lmax, spin=spin)
    pairs = {"truth": (t, t), "prediction": (t + e, t + e), "residual": (e, e), "cross": (t + e, t)}
    cls = {name: sht.alm2cl(*pair) / (1.0 if mask is None else f_sky(mask)) for name, pair in pairs.items()}
    return {x: {name: cl[i] for name, cl in cls.items()} for i, x in enumerate("EB" if spin else fields)}


@dataclass(frozen=True)
class Measured:
    """What was measured of one field of one sky, in one form of the map and one area.

    Attributes
    ----------
    pixels : mapping
        From ``agreement``.
    cls : mapping
        From ``error_spectra``, summed over the fields of a pair: the same in all forms.
    band : (int, int)
        Multipoles of transfer and rho.
    fwhm_arcmin : float
        Beam of the map in this form.
    combines : bool
        Whether the map is a combination of the bands that keeps the CMB, and no filter of it.
    """

    pixels: Mapping[str, float]
    cls: Mapping[str, np.ndarray]
    band: tuple[int, int]
    fwhm_arcmin: float
    combines: bool = False

    def power(self, name: str, band: tuple[int, int] | None = None) -> float:
        """Sum of (2l + 1) C_l over a band, which is cut at the end of the spectra."""
        first, last = self.band if band is None else band
        ell = np.arange(first, min(last, len(self.cls["truth"]) - 1) + 1)
        return float((2 * ell + 1) @ self.cls[name][ell])

    @property
    def transfer(self) -> float:
        """P[cross] / P[truth]; nan where the sky has no power."""
        return _ratio(self.power("cross"), self.power("truth"))

    @property
    def rho(self) -> float:
        """P[cross] / sqrt(P[truth] P[prediction]); nan where one of them has no power."""
        return _ratio(self.power("cross"), np.sqrt(self.power("truth") * self.power("prediction")))

    def residual(self, band: tuple[int, int]) -> float:
        """P[residual] / P[truth] in a band."""
        return _ratio(self.power("residual", band), self.power("truth", band))

    def bias(self, band: tuple[int, int]) -> float:
        """2 P[(prediction - truth) truth] / P[truth] in a band, nan of what does not keep the CMB.

        What a combination leaves of foregrounds and noise is correlated with the CMB, as its weights have removed what
        was alike by chance: of n bands and N modes (2l + 1 a multipole, of the full sky) each weight is made of it is
        -2 (n - 1) / N on average (Delabrouille et al. 2009, A&A 493 835, appendix A), and scatters from sky to sky.
        """
        if not self.combines:
            return np.nan
        return 2 * _ratio(self.power("cross", band) - self.power("truth", band), self.power("truth", band))


def _ratio(above: float, below: float) -> float:
    return above / below if below else np.nan


METRICS = (
    Metric("MAE", of_pixels("MAE"), unit="uK", better="lower", heads=True, pairs=True, boxes="one"),
    Metric("MSE", of_pixels("MSE"), unit="uK2", better="lower"),
    Metric("RMSE", of_pixels("RMSE"), unit="uK", better="lower", heads=True, pairs=True, boxes="each"),
    Metric("NRMSE", of_pixels("NRMSE"), better="lower", heads=True, pairs=True),
    Metric("R2", of_pixels("R2"), label="R²", better="higher"),
    Metric("PSNR", of_pixels("PSNR"), unit="dB", better="higher", heads=True, pairs=True, boxes="one"),
    Metric(
        "psnr_joint",
        of_pixels("psnr_joint"),
        label="PSNR, joint range",
        unit="dB",
        better="higher",
        forms=("unsmoothed",),
        heads=True,
    ),
    Metric("corr", of_pixels("corr"), better="higher", heads=True, pairs=True, boxes="each"),
    Metric(
        "transfer",
        lambda m: m.transfer,
        better="one",
        forms=("common",),
        heads=True,
        pairs=True,
        boxes="each",
    ),
    Metric("rho", lambda m: m.rho, better="higher", forms=("common",), heads=True, pairs=True, boxes="one"),
    Metric("fwhm_arcmin", lambda m: m.fwhm_arcmin, label="beam", unit="arcmin", forms=("native",), heads=True),
)


def residuals(bands: Sequence[Sequence[int]], lmax: int) -> tuple[Metric, ...]:
    """Return the metrics residual_{lo}_{hi}: the power of the residual over the truth's in bands of multipoles.

    Bands are cut at the end of the spectra, and left out if nothing but their first multipole lies within.
    """
    return tuple(
        Metric(
            f"residual_{first}_{last}",
            partial(Measured.residual, band=(first, last)),
            label=f"residual, l = {first} .. {last}",
            better="lower",
            forms=("common",),
            heads=True,
            boxes="one",
        )
        for first, last in _cut(bands, lmax)
    )


def biases(bands: Sequence[Sequence[int]], lmax: int) -> tuple[Metric, ...]:
    """Return the metrics ilc_bias_{lo}_{hi} (``Measured.bias``) in the bands of ``residuals``."""
    return tuple(
        Metric(
            f"ilc_bias_{first}_{last}",
            partial(Measured.bias, band=(first, last)),
            label=f"ILC bias, l = {first} .. {last}",
            forms=("common",),
        )
        for first, last in _cut(bands, lmax)
    )


def _cut(bands: Sequence[Sequence[int]], lmax: int) -> list[tuple[int, int]]:
    return [(first, min(last, lmax)) for first, last in bands if first < lmax]
