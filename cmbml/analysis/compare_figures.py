"""Figures that show several methods side by side; those of one method are in ``figures`` and ``projections``."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis.figures import COLOURS, LOOK, dl_label, draw_line, limit_floor, multipole_axis
from cmbml.analysis.projections import STYLE, draw_images, gnomonic_pixels, mollweide_pixels, new_figure
from cmbml.analysis.spectra import ratio, scatter

MARKERS = "osD^v<>"


def compared_spectra(
    methods: Mapping[str, Mapping[str, np.ndarray]], *, caption: Mapping, notes: Mapping[str, str] | None = None
) -> Figure:
    """Draw D_l of the truth and of the maps before and after each delensing, and below what is left of the observed.

    Parameters
    ----------
    methods : mapping
        Name of a method -> its stacked spectra (``spectra.stack``); "no delensing" is the observed map.
    caption : mapping
        See ``common.describe``.
    notes : mapping, optional
        Name of a method -> why its A_res is no headline; its line is dotted and its markers hollow.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 4.8, caption)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        truth = next(iter(methods.values()))
        ell = truth["ell"]
        to_dl = ell * (ell + 1) / (2 * np.pi)
        draw_line(top, ell, *scatter(to_dl * truth["unlensed"]), "truth (unlensed)", **LOOK["unlensed"])
        for i, (name, stacked) in enumerate(methods.items()):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            if (notes or {}).get(name):
                look |= {"ls": ":", "markerfacecolor": "white"}
            draw_line(top, ell, *scatter(to_dl * stacked["predicted"]), name, **look)
            draw_line(bottom, ell, *scatter(ratio(stacked, "predicted", truth="observed")), name, **look)
        top.set(yscale="log", ylabel=dl_label(caption))
        limit_floor(top)
        top.legend(ncols=2)
        bottom.set(ylabel="ratio to observed", ylim=(0, None))
        multipole_axis(bottom)
    return figure


def sigma_figure(
    values: Mapping[str, np.ndarray], *, caption: Mapping, notes: Mapping[str, str] | None = None, baseline: str
) -> Figure:
    """Draw sigma(r) of each method: every sky a small point, the mean and its scatter a large one.

    Parameters
    ----------
    values : mapping
        Name of a method -> sigma(r) of each sky, (nsky,).
    caption : mapping
        See ``common.describe``.
    notes : mapping, optional
        Name of a method -> why its A_res is no headline; its marker is hollow.
    baseline : str
        The row that the others are compared with; its mean is a dashed line.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 1.3 + 0.42 * len(values), caption)
        axis = figure.subplots()
        for i, (name, sigma) in enumerate(values.items()):
            colour = COLOURS[i % len(COLOURS)]
            face = "white" if (notes or {}).get(name) else colour
            mean, std = scatter(1e4 * np.asarray(sigma))
            axis.plot(1e4 * np.asarray(sigma), np.full(len(sigma), i), ls="", marker=".", ms=3, color="0.6")
            error = std if np.isfinite(std) else None
            axis.errorbar(
                mean, i, xerr=error, color=colour, marker=MARKERS[i % len(MARKERS)], ms=6, mfc=face, label=name
            )
        before = scatter(1e4 * np.asarray(values[baseline]))[0]
        if np.isfinite(before):
            axis.axvline(before, color="black", lw=0.8, ls="--")
            axis.set_xlim(left=0)
        else:
            axis.text(0.5, 0.5, "not known: sigma(r) needs B and r > 0", transform=axis.transAxes, ha="center")
        axis.set_yticks(range(len(values)), labels=list(values))
        axis.set_ylim(len(values) - 0.5, -0.5)
        axis.set_xlabel(r"$10^4\,\sigma(r)$")
    return figure


def compared_skies(
    truth: np.ndarray,
    observed: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    width: int = 800,
) -> Figure:
    """Draw the whole sky: truth, observed and each method's prediction to the left, what is wrong with it to the right.

    Parameters
    ----------
    truth, observed : array (npix,)
        RING, one unit and one beam.
    predictions : mapping
        Name of a method -> its map (npix,).
    caption : mapping
        See ``common.describe``.
    width : int, optional
        Picture points across one panel.
    """
    pixels = mollweide_pixels(round(np.sqrt(len(truth) / 12)), width)
    skies, residuals = _panels(truth, observed, predictions)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.4 + 2.1 * len(skies), caption)
        axes = figure.subplots(len(skies), 2)
        axes[0, 1].axis("off")
        draw_images([*axes[:, 0], *axes[1:, 1]], skies, residuals, pixels, caption=caption)
    return figure


def compared_patches(
    truth: np.ndarray,
    observed: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    zoom: tuple[float, float, float],
    width: int = 400,
) -> Figure:
    """Draw the same for one patch; ``zoom`` is its longitude, latitude and side in degrees."""
    lon, lat, size = zoom
    pixels = gnomonic_pixels(round(np.sqrt(len(truth) / 12)), lon, lat, size, width)
    skies, residuals = _panels(truth, observed, predictions)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.75 * len(skies), 4.9, {**caption, "centre": f"(l, b) = ({lon:g}°, {lat:g}°)"})
        axes = figure.subplots(2, len(skies), sharex=True, sharey=True)
        axes[1, 0].axis("off")
        draw_images([*axes[0], *axes[1, 1:]], skies, residuals, pixels, caption=caption, half=size / 2)
        axes[0, 0].set_ylabel("offset [deg]")
    return figure


def _panels(truth: np.ndarray, observed: np.ndarray, predictions: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Return skies and residuals by their titles."""
    maps = {"observed": observed, **predictions}
    residuals = {f"{name} − truth": np.subtract(m, truth, dtype=np.float64) for name, m in maps.items()}
    return {"truth": truth, **maps}, residuals
