"""Metrics: what is known of each number of a measurement, and those that compare two maps pixel by pixel.

A job has one list of `Metric`; the columns of its tables, the paired differences, the panels of boxes and all headings
follow from it. A metric is added by adding it to that list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmbml.analysis.captions import unit_text
from cmbml.core.errors import UserError

PIXEL_METRICS = ("MAE", "MSE", "RMSE", "NRMSE", "R2", "PSNR")


@dataclass(frozen=True)
class Metric:
    """One number of a measurement.

    Attributes
    ----------
    name : str
        Its column in files.
    of : callable
        From what was measured of one sky in one form (the job says what that is) to the number.
    label : str
        Its name for readers; ``name`` if empty.
    unit : str
        ``uK`` for the unit of the field, ``uK2`` for its square, or any other text.
    better : str
        ``lower``, ``higher``, ``one``, or nothing.
    forms : tuple of str
        Forms of the maps whose tables show it; all if empty.
    heads : bool
        Whether it stands in the first table.
    pairs : bool
        Whether paired differences are made of it.
    boxes : str
        ``one``: it has a panel of boxes where one field is compared; ``each``: of each of several fields as well.
    judged : bool
        Whether it is struck out where a line of the table has a note.
    """

    name: str
    of: Callable[[Any], float]
    label: str = ""
    unit: str = ""
    better: str = ""
    forms: tuple[str, ...] = ()
    heads: bool = False
    pairs: bool = False
    boxes: str = ""
    judged: bool = False

    def shown_in(self, form: str) -> bool:
        """Whether tables of this form show it."""
        return not self.forms or form in self.forms

    def heading(self, caption: Mapping[str, Any]) -> str:
        """Return its name for readers, with its unit."""
        field = unit_text(caption)
        unit = {"uK": field, "uK2": f"{field}²" if field else ""}.get(self.unit, self.unit)
        name = self.label or self.name
        return f"{name} [{unit}]" if unit else name


def heading(name: str, caption: Mapping[str, Any], metrics: Iterable[Metric]) -> str:
    """Return the heading of a column: that of the metric of this name, or of one "of T", or else the name itself."""
    first, *field = name.split(" of ")
    by_name = {metric.name: metric for metric in metrics}
    if first not in by_name:
        return name
    plain, bracket, unit = by_name[first].heading(caption).partition(" [")
    return " of ".join([plain, *field]) + bracket + unit


def values(metrics: Iterable[Metric], measured: Any) -> dict[str, float]:
    """Return the numbers of what was measured of one sky in one form, by name."""
    return {metric.name: float(metric.of(measured)) for metric in metrics}


def directions(metrics: Sequence[Metric]) -> str:
    """Say which way is better, in one line."""
    groups = {
        way: [m.label or m.name for m in metrics if m.better == key]
        for key, way in (("lower", "Lower is better"), ("higher", "Higher is better"), ("one", "Best at 1"))
    }
    return "; ".join(f"{way}: {', '.join(names)}" for way, names in groups.items() if names) + "."


def of_pixels(name: str) -> Callable[[Any], float]:
    """Return the function that looks one of the pixel metrics up in ``measured.pixels``."""
    return lambda measured: measured.pixels[name]


def pixel_metrics(truth: np.ndarray, prediction: np.ndarray, *, mask: np.ndarray | None = None) -> dict[str, float]:
    """Return MAE, MSE, RMSE, NRMSE, R2 and PSNR of one prediction over the good pixels.

    With t the truth and p the prediction: MAE = <|t - p|>; MSE = <(t - p)^2>; RMSE = sqrt(MSE);
    NRMSE = RMSE / sqrt(<t^2>); R2 = 1 - MSE / (<t^2> - <t>^2), the part of the truth's variance that is explained, 0
    for its mean and less for what is worse; PSNR = 10 log10(range^2 / MSE) dB with max t - min t, the range of t
    alone, so that an outlier in the prediction cannot raise it. A perfect prediction has PSNR = inf; where the truth is
    0 everywhere NRMSE has no meaning and is nan, and so are R2 and PSNR where it is the same everywhere.

    Parameters
    ----------
    truth, prediction : array (..., npix)
        In one unit, with one beam.
    mask : bool array (npix,), optional
        True where a pixel counts.

    Raises
    ------
    UserError
        If the shapes differ, no pixel is left, or a pixel that counts is not finite.
    """
    t = np.asarray(truth, dtype=np.float64)
    p = np.asarray(prediction, dtype=np.float64)
    if t.shape != p.shape:
        raise UserError(f"truth has shape {t.shape} and the prediction {p.shape}: bring them to one nside first")
    if mask is not None:
        good = np.asarray(mask, dtype=bool)
        t = t[..., good]
        p = p[..., good]
    if t.size == 0:
        raise UserError("the mask leaves no pixel to compare")
    error = t - p
    if not np.isfinite(error).all():
        raise UserError("truth or prediction has pixels that are not finite and that no mask excludes")
    mse = np.mean(error**2)
    power = np.mean(t**2)
    span = np.ptp(t)
    nrmse = np.sqrt(mse / power) if power > 0 else np.nan
    r2 = 1 - mse / np.var(t) if span > 0 else np.nan
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(np.float64(span**2) / mse) if span > 0 else np.nan
    values = (np.mean(np.abs(error)), mse, np.sqrt(mse), nrmse, r2, psnr)
    return dict(zip(PIXEL_METRICS, map(float, values), strict=True))
