"""How far a cleaned map is from the true CMB, in the forms of ``forms``: pixel by pixel, and multipole by multipole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cmbml.analysis.cleaning.forms import spin_of
from cmbml.analysis.common import deconvolved_alm
from cmbml.analysis.metrics import Metric, of_pixels, pixel_metrics
from cmbml.sky import sht
from cmbml.sky.masks import f_sky


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
    spin = spin_of(fields)
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
