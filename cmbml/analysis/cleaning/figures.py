"""Figures of a cleaned map, from the blocks of ``projections`` and ``figures``: one row or column a field."""

from collections.abc import Mapping, Sequence
from typing import Any

import healpy as hp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis.figures import (
    COLOURS,
    LOOK,
    MARKERS,
    dl_label,
    draw_histogram,
    draw_line,
    draw_spectra,
    limit_floor,
    multipole_axis,
)
from cmbml.analysis.projections import STYLE, Patch, draw_images, gnomonic_pixels, mollweide_pixels, new_figure
from cmbml.analysis.spectra import ratio, scatter

SPECTRA = {"truth": "truth", "prediction": "predicted", "residual": "residual"}
# Amplitude of the colours of the sky and of the difference: uK of T, multiples of the truth's rms of other fields.
T_SCALES = (500.0, 120.0)
SCALES = (4.0, 1.0)


def sky_figure(
    skies: Mapping[str, Sequence[np.ndarray]],
    *,
    caption: Mapping,
    mask: np.ndarray,
    zoom: tuple[float, float, float] | None = None,
) -> Figure:
    """Draw truth, prediction and their difference, a row a field; the prediction alone where the truth is not known.

    T is drawn up to +-500 uK and differences of T to +-120 uK; other fields to 4 and 1 times the rms of the first map.

    Parameters
    ----------
    skies : mapping
        Field -> (truth, prediction), or (prediction,), of shape (npix,), RING.
    caption : mapping
        See ``captions.describe``.
    mask : bool array (npix,)
        True where a pixel counts; the others are grey.
    zoom : (float, float, float), optional
        Longitude, latitude and side in degrees of a patch, drawn in gnomonic projection; else the whole sphere.
    """
    nside = hp.npix2nside(len(mask))
    columns = 3 if len(next(iter(skies.values()))) == 2 else 1
    if zoom is None:
        height = 1.6
        heading = caption
        half = None
        pixels: np.ndarray | Patch = mollweide_pixels(nside)
    else:
        lon, lat, size = zoom
        height = 2.75
        heading = {**caption, "centre": f"(l, b) = ({lon:g}°, {lat:g}°)"}
        half = size / 2
        pixels = gnomonic_pixels(nside, lon, lat, size)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(2.37 * columns, 4.2), 0.4 + height * len(skies), heading)
        rows = figure.subplots(len(skies), columns, squeeze=False)
        for axes, (field, maps) in zip(rows, skies.items(), strict=True):
            name = f"{field}, " if len(skies) > 1 else ""
            shown = dict(zip((f"{name}truth", f"{name}predicted")[-len(maps) :], maps, strict=True))
            difference = {f"{name}predicted − truth": maps[1] - maps[0]} if len(maps) == 2 else {}
            scales = _scales(field, maps[0][mask])
            draw_images(axes, shown, difference, pixels, mask, caption=caption, half=half, scales=scales)
    return figure


def _scales(field: str, sky: np.ndarray) -> tuple[float, float]:
    """Amplitude of the colours of a field and of its difference."""
    if field == "T":
        return T_SCALES
    rms = float(np.sqrt(np.mean(sky**2))) or 1.0
    of_sky, of_difference = SCALES
    return float(f"{of_sky * rms:.1e}"), float(f"{of_difference * rms:.1e}")


def left_figure(left: Mapping[str, np.ndarray], *, caption: Mapping, mask: np.ndarray) -> Figure:
    """Draw maps of what is left, title -> (npix,), side by side on one scale, as ``sky_figure`` draws the sphere."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.9 * len(left), 2.1, caption)
        axes = figure.subplots(1, len(left), squeeze=False)[0]
        draw_images(axes, {}, left, mollweide_pixels(hp.npix2nside(len(mask))), mask, caption=caption)
    return figure


def residual_figure(errors: Mapping[str, np.ndarray], *, caption: Mapping, mask: np.ndarray) -> Figure:
    """Draw the histogram of prediction - truth, (npix,), of each field in a panel of its own."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2 if len(errors) == 1 else 3.4 * len(errors), 3.8, caption)
        for axis, (field, error) in zip(figure.subplots(1, len(errors), squeeze=False)[0], errors.items(), strict=True):
            draw_histogram(axis, {field: error}, caption=caption, mask=mask)
            axis.legend(loc="upper center")
    return figure


def spectra_figure(stacked: Mapping[str, Mapping[str, np.ndarray]], *, caption: Mapping) -> Figure:
    """Draw D_l of truth, prediction and residual of each field in a column, and below prediction over truth.

    ``stacked``: field -> its spectra (``cleaning.metrics.error_spectra``) through ``spectra.stack``.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2 if len(stacked) == 1 else 3.4 * len(stacked), 4.8, caption)
        axes = figure.subplots(2, len(stacked), sharex=True, height_ratios=(2.4, 1), squeeze=False)
        for (top, bottom), (field, spectra) in zip(axes.T, stacked.items(), strict=True):
            draw_spectra(top, bottom, spectra, caption={**caption, "field": field}, names=SPECTRA, truth="truth")
    return figure


def cleaned_spectra(
    stacked: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], *, caption: Mapping, baselines: Sequence[str] = ()
) -> Figure:
    """Draw D_l of truth and predictions, and below their transfer and the power of the residual over the truth's.

    Parameters
    ----------
    stacked : mapping
        Field, a column each -> name of a method -> its spectra (``cleaning.metrics.error_spectra``) through
        ``spectra.stack``.
    caption : mapping
        See ``captions.describe``.
    baselines : sequence of str, optional
        Methods that have seen the truth; dotted, with hollow markers, and no axis is stretched for them.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2 if len(stacked) == 1 else 3.4 * len(stacked), 6.2, caption)
        grid = figure.subplots(3, len(stacked), sharex=True, height_ratios=(1.7, 1, 1.2), squeeze=False)
        for (top, middle, bottom), (field, methods) in zip(grid.T, stacked.items(), strict=True):
            first = next(iter(methods.values()))
            ell = first["ell"]
            to_dl = ell * (ell + 1) / (2 * np.pi)
            draw_line(top, ell, *scatter(to_dl * first["truth"]), "truth", **LOOK["truth"])
            levels: list[float] = []
            kept: list[float] = []
            for i, (name, spectra) in enumerate(methods.items()):
                look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                look |= {"ls": ":", "markerfacecolor": "white"} if name in baselines else {}
                draw_line(top, ell, *scatter(to_dl * spectra["prediction"]), name, **look)
                transfer = scatter(ratio(spectra, "cross", truth="truth"))
                residual = scatter(ratio(spectra, "residual", truth="truth"))
                draw_line(middle, ell, *transfer, name, **look)
                draw_line(bottom, ell, *residual, name, **look)
                if name not in baselines or len(baselines) == len(methods):
                    levels.extend(residual[0])
                    kept.extend(transfer[0])
            middle.axhline(1, color="black", lw=0.8)
            top.set(yscale="log", ylabel=dl_label({**caption, "field": field}))
            limit_floor(top)
            reach = min(max(0.05, 1.2 * np.nanmax(np.abs(np.subtract(kept, 1)))), 1)
            middle.set(ylabel="transfer", ylim=(1 - reach, 1 + reach))
            bottom.set(yscale="log", ylabel="residual / truth")
            bottom.set_ylim(bottom=max(0.1 * np.nanmin(levels), 1e-8))
            multipole_axis(bottom)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
