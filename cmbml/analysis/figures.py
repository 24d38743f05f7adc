"""Figures of spectra, delensing, training and residuals. The skies' own pictures are made in ``projections``.

Every figure carries its caption (``captions.describe``), is made without pyplot, and holds no date: the same numbers
give the same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cmbml.analysis.projections import STYLE, new_figure, unit_label
from cmbml.analysis.spectra import ratio, scatter

# Okabe and Ito's palette, told apart by colour-blind readers; black is kept for the truth.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^v<>"
SPECTRA = {"unlensed": "truth", "observed": "observed", "predicted": "predicted", "residual": "residual"}
LOOK: dict[str, dict[str, Any]] = {
    "unlensed": {"color": "black", "ls": "-", "marker": "", "lw": 2.5},
    "observed": {"color": "#E69F00", "ls": "-", "marker": "s", "ms": 4.5},
    "predicted": {"color": "#0072B2", "ls": "-", "marker": "o"},
    "residual": {"color": "#D55E00", "ls": "--", "marker": "^"},
}
LOOK |= {"truth": LOOK["unlensed"], "prediction": LOOK["predicted"]}


def spectra_figure(
    stacked: Mapping[str, np.ndarray], *, caption: Mapping, names: Mapping[str, str] = SPECTRA, truth: str = "unlensed"
) -> Figure:
    """Draw D_l of truth, observed, predicted and residual, and below the ratio of observed and predicted to the truth.

    Parameters
    ----------
    stacked : mapping
        From ``spectra.stack``: ``ell`` (nbin,) and C_l of shape (nsky, nbin). Lines are means over the skies, bars the
        scatter of one sky.
    caption : mapping
        See ``captions.describe``.
    names : mapping, optional
        Which spectra, and what the legend calls them.
    truth : str, optional
        The spectrum that the others are divided by.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 4.8, caption)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        draw_spectra(top, bottom, stacked, caption=caption, names=names, truth=truth)
    return figure


def draw_spectra(
    top: Axes,
    bottom: Axes,
    stacked: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    names: Mapping[str, str],
    truth: str,
) -> None:
    """Draw the two panels of ``spectra_figure``."""
    ell = stacked["ell"]
    for name, label in names.items():
        mean, std = scatter(ell * (ell + 1) / (2 * np.pi) * stacked[name])
        draw_line(top, ell, mean, std, label, **_look(name))
        if name not in (truth, "residual"):
            draw_line(bottom, ell, *scatter(ratio(stacked, name, truth=truth)), label, **_look(name))
    bottom.axhline(1, color="black", lw=0.8)
    top.set(yscale="log", ylabel=dl_label(caption))
    limit_floor(top)
    top.legend(ncols=2)
    bottom.set(ylabel=f"ratio to {names[truth]}")
    _ratio_axis(bottom)
    multipole_axis(bottom)


def loss_curves(history: Sequence[Mapping[str, float]], *, caption: Mapping) -> Figure:
    """Draw train and validation loss against the epoch, the best epoch marked, and the learning rate below.

    Parameters
    ----------
    history : sequence of mappings
        Rows with ``epoch``, ``train_loss``, ``valid_loss`` and ``lr``.
    caption : mapping
        See ``captions.describe``.
    """
    columns = {k: np.array([row[k] for row in history], float) for k in ("epoch", "train_loss", "valid_loss", "lr")}
    epoch = columns["epoch"]
    valid = columns["valid_loss"]
    best = int(np.nanargmin(valid))
    marker = "o" if len(epoch) <= 40 else ""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 3.8, caption)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot(epoch, columns["train_loss"], color=COLOURS[0], marker=marker, ms=3, label="train")
        top.plot(epoch, valid, color=COLOURS[1], ls="--", marker=marker, ms=3, label="validation")
        label = f"best: epoch {epoch[best]:g}, {valid[best]:.4g}"
        top.plot(epoch[best], valid[best], color="black", ls="", marker="*", ms=9, label=label)
        bottom.plot(epoch, columns["lr"], color="0.3", drawstyle="steps-mid", marker=marker, ms=2)
        top.set(yscale="log", ylabel="loss")
        bottom.set(xlabel="epoch", ylabel="learning rate", yscale="log")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        top.legend()
    return figure


def residual_histogram(
    residuals: Mapping[str, np.ndarray], *, caption: Mapping, mask: np.ndarray | None = None, bins: int = 101
) -> Figure:
    """Draw the distribution of residual maps, each beside the Gaussian of zero mean and the same rms.

    Parameters
    ----------
    residuals : mapping
        Name -> predicted - truth, (npix,).
    caption : mapping
        See ``captions.describe``.
    mask : bool array (npix,), optional
        True where a pixel counts.
    bins : int, optional
        Bins over +-5 times the largest rms; what lies beyond is left out of the picture, not of the rms.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 3.8, caption)
        draw_histogram(figure.subplots(), residuals, caption=caption, mask=mask, bins=bins)
    return figure


def draw_histogram(
    axis: Axes,
    residuals: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    mask: np.ndarray | None = None,
    bins: int = 101,
) -> None:
    """Draw the panel of ``residual_histogram``."""
    values = {k: np.asarray(v, float)[... if mask is None else mask].ravel() for k, v in residuals.items()}
    rms = {name: np.sqrt(np.mean(v**2)) for name, v in values.items()}
    edges = np.linspace(-5, 5, bins + 1) * (max(rms.values()) or 1.0)
    x = (edges[1:] + edges[:-1]) / 2
    unit = unit_label(caption)
    for i, (name, v) in enumerate(values.items()):
        density = np.histogram(v, edges)[0] / (v.size * np.diff(edges))
        colour = COLOURS[i % len(COLOURS)]
        axis.stairs(density, edges, color=colour, lw=1.3, label=f"{name}: rms {rms[name]:.3g} {unit}")
        if rms[name] > 0:
            gauss = np.exp(-((x / rms[name]) ** 2) / 2) / (np.sqrt(2 * np.pi) * rms[name])
            axis.plot(x, gauss, color=colour, ls=":", label="Gaussian of the same rms")
    # From half a pixel in a bin up to where the legend has room.
    least = 0.5 / (max(v.size for v in values.values()) * np.diff(edges)[0])
    axis.set(yscale="log", xlim=edges[[0, -1]], ylabel="density" + (f" [1/{unit}]" if unit else ""))
    axis.set_ylim(least, 30 * axis.dataLim.ymax)
    axis.set_xlabel("residual: predicted − truth" + (f" [{unit}]" if unit else ""))
    axis.legend(ncols=2, loc="upper center")


def draw_line(axis: Axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray, label: str, **look: Any) -> None:
    """Draw means with markers, and bars where there is scatter."""
    style: dict[str, Any] = {"ms": 3, "elinewidth": 0.8, **look}
    axis.errorbar(x, mean, yerr=std if np.isfinite(std).any() else None, label=label, **style)


def _look(name: str) -> dict[str, Any]:
    """Return colour and marker of a spectrum."""
    return LOOK.get(name, {"color": COLOURS[3], "ls": "-", "marker": "D"})


def dl_label(caption: Mapping) -> str:
    """Return the label of D_l with the field and the squared unit."""
    field = caption.get("field", "")
    field = {"kappa": r"\kappa"}.get(field, field)
    unit = unit_label(caption, 2)
    return rf"$D_\ell^{{{field}{field}}}$" + (f" [{unit}]" if unit else "")


def multipole_axis(axis: Axes, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """Make a logarithmic axis of multipoles, labelled with plain numbers: these, times powers of ten."""
    axis.set(xscale="log", xlabel=r"multipole $\ell$")
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def limit_floor(axis: Axes) -> None:
    """Keep a spectrum that is zero but for rounding from stretching a logarithmic axis: eight decades suffice."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 1e-8 * high), high)


def _ratio_axis(axis: Axes) -> None:
    """Choose a linear axis around 1, or a logarithmic one where a ratio strays far."""
    y = np.concatenate([np.ravel(line.get_ydata()) for line in axis.lines])
    reach = 1.15 * np.fmax.reduce(np.abs(y - 1), initial=0.1)
    if reach > 2:
        axis.set_yscale("log")
    else:
        axis.set_ylim(max(0.0, 1 - reach), 1 + reach)
