"""What a delensing has removed, multipole by multipole, and what of the primordial signal has survived it.

Delensing is judged by four numbers that belong together:

- ``A_res = C_l[residual] / C_l[lensing]``: the lensing power that is left (0 perfect, 1 "no delensing");
- ``rho``: the correlation of the estimate with what it estimates;
- ``transfer = C_l[delensed, unlensed] / C_l[unlensed]``: the transfer of the primordial signal, of which 1 keeps all;
- ``sigma_r``, for B alone: how well the delensed map can tell the tensor-to-scalar ratio from 0, beside "no
  delensing"; and ``sigma_r_own``, how well the one that the sky has, with the sample variance of its primordial signal.

From ``delens.lmin_b`` on the estimate holds the observed B itself, its noise and what is primordial in it: there A_res
and the transfer are numbers of their own, ``A_res_above`` and ``transfer_above``.

A filter that answers almost nothing has a tiny A_res because it has removed the signal with the lensing, which only the
transfer shows. A_res is therefore a headline only where the transfer is close to 1. sigma_r needs no such care: what
multiplies signal and rest alike leaves it as it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmbml.analysis.delensing.sigma_r import NO_SIGNAL, measured_sigma_r
from cmbml.analysis.metrics import Metric, of_pixels
from cmbml.core.errors import UserError
from cmbml.sky import sht

# What a method estimates. With kappa and lensing the prediction is the observed map less a template of the lensing,
# with unlensed it is the filtered map itself.
TARGETS = ("kappa", "lensing", "unlensed")
# Columns of a method that tells its own errors, beside those of METRICS.
EXPECTED = "A_res_expected"
EXPECTED_ERROR = "A_res_sigma"


def delensing_spectra(
    unlensed: np.ndarray,
    lensed: np.ndarray,
    observed: np.ndarray,
    prediction: np.ndarray | None = None,
    *,
    target: str,
) -> dict[str, np.ndarray]:
    r"""Return the spectra of one sky from which A_res, rho and the transfer are made.

    With u = ``unlensed``, l = ``lensed`` (free of noise), o = ``observed`` (with noise), p = ``prediction`` and the
    lensing s = l - u:

    ==============  ==================  ============================  ===========
    \               kappa, lensing      target = unlensed             None
    ==============  ==================  ============================  ===========
    p is            an estimate of s    an estimate of u              no estimate
    predicted       o - p               p                             o
    residual        s - p               p - u                         s
    estimate, of    p, s                p, u                          see below
    delensed        l - p               p                             see below
    ==============  ==================  ============================  ===========

    An estimate of the lensing is taken from the noise-free lensed sky, so that A_res and the transfer show what the
    estimate does and not the noise that any map of the sky has; the noise *in* the estimate stays. The transfer's
    <l - p, u> contains the chance and true correlation of lensing and primordial signal, <s, u>, as much of it as the
    delensing leaves: it is exactly 1 for p = s, and 1 + <s, u> / <u, u> without delensing.

    A direct estimate of the unlensed field is a filter and no estimate of the lensing: all of its error counts as
    residual, the noise it lets through included.

    "No delensing" (``prediction=None``) has the residual s, hence A_res = 1 by definition, whatever the noise. For
    kappa and lensing its estimate is 0 (rho = 0) and its delensed sky is l; for unlensed both are o.

    Parameters
    ----------
    unlensed, lensed, observed, prediction : complex array (nalm,)
        One sky, beam-deconvolved, healpy order.
    target : {"kappa", "lensing", "unlensed"}
        What the method estimates. A method that estimates kappa makes the lensing of the field from it, and that is
        its ``prediction`` here.

    Returns
    -------
    dict of float64 arrays (lmax + 1,)
        Auto spectra ``unlensed``, ``lensed``, ``observed``, ``lensing``, ``predicted``, ``residual``, ``estimate``,
        ``reference`` and the cross spectra ``estimate_x_reference``, ``delensed_x_unlensed``,
        ``predicted_x_unlensed``.
    """
    if target not in TARGETS:
        raise UserError(f"a target '{target}' has no delensing spectra; known are {', '.join(TARGETS)}")
    lensing = lensed - unlensed
    if target != "unlensed":
        estimate = np.zeros_like(lensing) if prediction is None else prediction
        predicted = observed - estimate
        residual = lensing - estimate
        reference = lensing
        delensed = lensed - estimate
    else:
        estimate = observed if prediction is None else prediction
        predicted = estimate
        reference = unlensed
        delensed = estimate
        residual = lensing if prediction is None else prediction - unlensed
    autos = {"unlensed": unlensed, "lensed": lensed, "observed": observed, "lensing": lensing, "predicted": predicted}
    autos |= {"residual": residual, "estimate": estimate, "reference": reference}
    return {name: sht.alm2cl(alm) for name, alm in autos.items()} | {
        "estimate_x_reference": sht.alm2cl(estimate, reference),
        "delensed_x_unlensed": sht.alm2cl(delensed, unlensed),
        "predicted_x_unlensed": sht.alm2cl(predicted, unlensed),
    }


def delensing_ratios(cls: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return A_res, rho and transfer from the spectra of ``delensing_spectra``, per multipole, per bin or per band.

    A_res = C[residual] / C[lensing]; rho = C[estimate, reference] / sqrt(C[estimate] C[reference]);
    transfer = C[delensed, unlensed] / C[unlensed]. Spectra that were averaged over a bin with weights 2l + 1 give the
    ratio of the bin's powers, not the mean of its noisy ratios. nan where the sky has no lensing or, for the transfer,
    no primordial signal; rho = 0 for an estimate that is 0.
    """
    c = {name: np.asarray(cl, dtype=np.float64) for name, cl in cls.items()}
    norm = np.sqrt(c["estimate"] * c["reference"])
    empty = NO_SIGNAL * c["lensing"]
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.where(c["estimate"] > 0, c["estimate_x_reference"] / norm, 0.0)
        return {
            "A_res": np.where(c["lensing"] > 0, c["residual"] / c["lensing"], np.nan),
            "rho": np.where(c["reference"] > empty, rho, np.nan),
            "transfer": np.where(c["unlensed"] > empty, c["delensed_x_unlensed"] / c["unlensed"], np.nan),
        }


def headline(cls: Mapping[str, np.ndarray], *, lmin: int = 20, lmax: int = 200) -> dict[str, float]:
    """Return A_res, rho and transfer of one sky in the band lmin <= l <= lmax.

    Each is a ratio of sums over the band weighted with 2l + 1 (the ratio of the variances of band-passed maps), because
    the mean of the ratios would give the multipoles with the least primordial power the largest say in the transfer.

    Raises
    ------
    UserError
        If the band is empty or reaches beyond the spectra.
    """
    end = len(cls["lensing"]) - 1
    if not 0 <= lmin <= lmax <= end:
        raise UserError(f"the band l = {lmin} .. {lmax} does not lie within the spectra, which end at l = {end}")
    weight = 2 * np.arange(lmin, lmax + 1) + 1
    band = {name: np.sum(weight * cl[lmin : lmax + 1]) for name, cl in cls.items()}
    return {name: float(value) for name, value in delensing_ratios(band).items()}


def expected(posterior: Mapping[str, np.ndarray], band: tuple[int, int]) -> dict[str, float]:
    """Return what samples of a posterior say of A_res in a band, without the truth: its mean and standard deviation.

    Each sample might be the true sky: A_res would be (R + m) / (L + m), with L the power of the lensing by the sample,
    R that of sample less estimate, and m that of what neither holds, summed over the band as in ``headline``. One
    sample has no standard deviation.

    Parameters
    ----------
    posterior : mapping
        ``lensing`` and ``residual`` (samples, lmax + 1), ``missed`` (lmax + 1,).
    band : (int, int)
        First and last multipole.

    Examples
    --------
    >>> flat = np.ones((2, 9))
    >>> says = expected({"lensing": 3 * flat, "residual": [[1], [2]] * flat, "missed": flat[0]}, (2, 8))
    >>> {name: round(value, 3) for name, value in says.items()}
    {'A_res_expected': 0.625, 'A_res_sigma': 0.177}
    """
    lmin, lmax = band
    weight = 2 * np.arange(lmin, lmax + 1) + 1
    power = {name: cl[..., lmin : lmax + 1] @ weight for name, cl in posterior.items()}
    a_res = (power["residual"] + power["missed"]) / (power["lensing"] + power["missed"])
    spread = float(np.std(a_res, ddof=1)) if len(a_res) > 1 else np.nan
    return {EXPECTED: float(np.mean(a_res)), EXPECTED_ERROR: spread}


@dataclass(frozen=True)
class Measured:
    """What was measured of one method on one sky, in one form of its maps.

    Attributes
    ----------
    pixels : mapping
        From ``analysis.metrics.pixel_metrics``.
    cls, none : mapping
        From ``delensing_spectra``: of the method, and without delensing.
    band : (int, int)
        Multipoles of A_res, rho and transfer.
    above : (int, int)
        Those where the estimate holds the observed B itself: from `delens.lmin_b` on.
    tensor : array (lmax + 1,), or None
        See ``sigma_r``; None for another field than B.
    edges : int array
        Bins of ``measured_sigma_r``.
    f_sky : float
    """

    pixels: Mapping[str, float]
    cls: Mapping[str, np.ndarray]
    none: Mapping[str, np.ndarray]
    band: tuple[int, int]
    above: tuple[int, int]
    tensor: np.ndarray | None
    edges: np.ndarray
    f_sky: float

    @cached_property
    def ratios(self) -> dict[str, float]:
        """A_res, rho and transfer in the band."""
        return headline(self.cls, lmin=self.band[0], lmax=self.band[1])

    @cached_property
    def ratios_above(self) -> dict[str, float]:
        """The same where the estimate holds the observed B itself; nan if there is no such multipole."""
        first, last = self.above
        if first > last:
            return dict.fromkeys(self.ratios, np.nan)
        return headline(self.cls, lmin=first, lmax=last)

    def sigma_r(self, cls: Mapping[str, np.ndarray], *, own_r: bool = False) -> float:
        """Standard deviation of r that a map of these spectra allows, about r = 0 or about the sky's own."""
        if self.tensor is None:
            return np.nan
        return measured_sigma_r(cls, self.tensor, self.edges, f_sky=self.f_sky, own_r=own_r)


METRICS = (
    Metric(
        "sigma_r_ratio",
        lambda m: m.sigma_r(m.cls) / m.sigma_r(m.none),
        label="sigma(r = 0) ratio",
        better="lower",
        heads=True,
        pairs=True,
    ),
    Metric(
        "sigma_r",
        lambda m: m.sigma_r(m.cls),
        label="sigma(r = 0)",
        better="lower",
        heads=True,
        pairs=True,
        boxes="one",
    ),
    Metric(
        "sigma_r_own",
        lambda m: m.sigma_r(m.cls, own_r=True),
        label="sigma(r of the sky)",
        better="lower",
        heads=True,
        pairs=True,
    ),
    Metric("A_res", lambda m: m.ratios["A_res"], better="lower", heads=True, pairs=True, boxes="one", judged=True),
    Metric("transfer", lambda m: m.ratios["transfer"], better="one", heads=True, pairs=True, boxes="one"),
    Metric("rho", lambda m: m.ratios["rho"], better="higher", heads=True, pairs=True, boxes="one"),
    Metric("A_res_above", lambda m: m.ratios_above["A_res"], label="A_res from lmin_b on", better="lower"),
    Metric("transfer_above", lambda m: m.ratios_above["transfer"], label="transfer from lmin_b on", better="one"),
    Metric("RMSE", of_pixels("RMSE"), unit="uK", better="lower", pairs=True, boxes="one"),
    Metric("MAE", of_pixels("MAE"), unit="uK", better="lower", boxes="one"),
    Metric("MSE", of_pixels("MSE"), unit="uK2", better="lower"),
    Metric("NRMSE", of_pixels("NRMSE"), better="lower"),
    Metric("R2", of_pixels("R2"), label="R²", better="higher"),
    Metric("PSNR", of_pixels("PSNR"), unit="dB", better="higher"),
)


def verdict(a_res: float, transfer: float, *, limits: tuple[float, float] = (0.9, 1.1)) -> str:
    """Return why A_res may not stand as a headline, or "" when it may.

    It may when the transfer of the primordial signal lies within ``limits``. A_res = 1 exactly is "no delensing", which
    claims nothing and always stands.
    """
    if a_res == 1:
        return ""
    if np.isnan(transfer):
        return "the transfer is not known: without primordial signal nobody can tell whether it would survive"
    if limits[0] <= transfer <= limits[1]:
        return ""
    return f"transfer {transfer:.2f} lies outside {limits[0]:g} .. {limits[1]:g}: the primordial signal was not kept"


def note(line: Mapping, *, limits: tuple[float, float] = (0.9, 1.1)) -> str:
    """Return `verdict` of the means of a table's line, each a pair (mean, standard deviation); "" without A_res."""
    if "A_res" not in line or np.isnan(line["A_res"][0]):
        return ""
    return verdict(line["A_res"][0], line.get("transfer", (np.nan,))[0], limits=limits)


def theory_curves(filters: Mapping[str, np.ndarray], field: str, targets: Iterable[str]) -> dict[str, np.ndarray]:
    """Return name -> A_res(l) that theory has for estimators of the lensing: for B alone, and not for a filter.

    No method is bound by them. The iterative one (Smith et al. 2012) is self-consistent, with one response and one
    noise for each multipole, means over skies; a method that knows this sky's E leaves less (`cmbml.sky.linear_map`).
    """
    if field != "B" or not set(targets) & {"kappa", "lensing"}:
        return {}
    return {
        "quadratic, theory": filters["residual_quadratic"],
        "iterative, theory (diagonal)": filters["residual_iterative"],
    }
