"""Figures that show several methods side by side; those of one method are in ``figures`` and ``projections``."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmbml.analysis.figures import COLOURS, LOOK, dl_label, draw_line, limit_floor, multipole_axis
from cmbml.analysis.projections import STYLE, draw_images, gnomonic_pixels, mollweide_pixels, new_figure
from cmbml.analysis.spectra import ratio, scatter
from cmbml.analysis.tables import heading

MARKERS = "osD^v<>"
_COLUMNS = 3  # of panels of boxes


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


def box_figure(
    values: Mapping[str, Mapping[str, np.ndarray]],
    *,
    caption: Mapping,
    notes: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> Figure:
    """Draw a panel of boxes for each metric, one box a method: median, quartiles, range, and every sky as a point.

    Parameters
    ----------
    values : mapping
        Metric -> name of a method -> its value for each sky, (nsky,). A metric that is not known of any sky is left
        out; what is not finite is not drawn.
    caption : mapping
        See ``common.describe``.
    notes : mapping, optional
        Name of a method -> why it is no headline; its box is hollow.
    order : sequence of str, optional
        All methods of the comparison, whose places give the colours; those of ``values`` if not given.
    """
    known = {x: own for x, own in values.items() if any(np.isfinite(v).any() for v in own.values())}
    names = list(next(iter(values.values())))
    rows = -(-len(known) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.5 + rows * (0.6 + 0.24 * len(names)), caption)
        axes = list(figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flat)
        for axis in axes[len(known) :]:
            axis.remove()
        for axis, (metric, own) in zip(axes, known.items(), strict=False):
            for i, name in enumerate(names):
                v, colour = own[name][np.isfinite(own[name])], COLOURS[(order or names).index(name) % len(COLOURS)]
                face = "white" if (notes or {}).get(name) else to_rgba(colour, 0.35)
                axis.boxplot(
                    v, positions=[i], orientation="horizontal", widths=0.6, patch_artist=True, showfliers=False,
                    boxprops={"facecolor": face, "edgecolor": colour}, medianprops={"color": "black"},
                    whiskerprops={"color": colour}, capprops={"color": colour}, label=name,
                )  # fmt: skip
                axis.plot(v, np.full(len(v), i), ls="", marker=".", ms=3, color="0.3", zorder=3)
            axis.set_title(heading(metric, caption))
            axis.set_yticks(range(len(names)), labels=names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def cleaned_spectra(
    stacked: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], *, caption: Mapping, floors: Sequence[str] = ()
) -> Figure:
    """Draw D_l of truth and predictions, and below their transfer and the power of the residual over the truth's.

    Parameters
    ----------
    stacked : mapping
        Field, a column each -> name of a method -> its spectra (``cleaning_metrics.error_spectra``) through
        ``spectra.stack``.
    caption : mapping
        See ``common.describe``.
    floors : sequence of str, optional
        Methods that have seen the truth; dotted, with hollow markers, and no axis is stretched for them.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2 if len(stacked) == 1 else 3.4 * len(stacked), 6.2, caption)
        grid = figure.subplots(3, len(stacked), sharex=True, height_ratios=(1.7, 1, 1.2), squeeze=False)
        for (top, middle, bottom), (field, methods) in zip(grid.T, stacked.items(), strict=True):
            ell, truth = (next(iter(methods.values()))[name] for name in ("ell", "truth"))
            to_dl = ell * (ell + 1) / (2 * np.pi)
            draw_line(top, ell, *scatter(to_dl * truth), "truth", **LOOK["truth"])
            levels, kept = [], []
            for i, (name, own) in enumerate(methods.items()):
                look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                look |= {"ls": ":", "markerfacecolor": "white"} if name in floors else {}
                draw_line(top, ell, *scatter(to_dl * own["prediction"]), name, **look)
                transfer, left = (scatter(ratio(own, kind, truth="truth")) for kind in ("cross", "residual"))
                draw_line(middle, ell, *transfer, name, **look)
                draw_line(bottom, ell, *left, name, **look)
                if name not in floors or len(floors) == len(methods):
                    levels, kept = [*levels, *left[0]], [*kept, *transfer[0]]
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


def compared_skies(
    truth: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    mask: np.ndarray | None = None,
    width: int = 800,
) -> Figure:
    """Draw the whole sky: truth and each map to the left, what is wrong with it to the right.

    Parameters
    ----------
    truth : array (npix,)
        RING.
    maps : mapping
        Name of a method, or "observed" -> its map (npix,), of the unit and the beam of the truth.
    caption : mapping
        See ``common.describe``.
    mask : bool array (npix,), optional
        True where a pixel is good; the others are grey.
    width : int, optional
        Picture points across one panel.
    """
    pixels = mollweide_pixels(round(np.sqrt(len(truth) / 12)), width)
    skies, residuals = _panels(truth, maps)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.4 + 2.1 * len(skies), caption)
        axes = figure.subplots(len(skies), 2)
        axes[0, 1].axis("off")
        draw_images([*axes[:, 0], *axes[1:, 1]], skies, residuals, pixels, mask, caption=caption)
    return figure


def compared_patches(
    truth: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    caption: Mapping,
    zoom: tuple[float, float, float],
    mask: np.ndarray | None = None,
    width: int = 400,
) -> Figure:
    """Draw the same for one patch; ``zoom`` is its longitude, latitude and side in degrees."""
    lon, lat, size = zoom
    pixels = gnomonic_pixels(round(np.sqrt(len(truth) / 12)), lon, lat, size, width)
    skies, residuals = _panels(truth, maps)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.75 * len(skies), 4.9, {**caption, "centre": f"(l, b) = ({lon:g}°, {lat:g}°)"})
        axes = figure.subplots(2, len(skies), sharex=True, sharey=True)
        axes[1, 0].axis("off")
        draw_images([*axes[0], *axes[1, 1:]], skies, residuals, pixels, mask, caption=caption, half=size / 2)
        axes[0, 0].set_ylabel("offset [deg]")
    return figure


def _panels(truth: np.ndarray, maps: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Return skies and residuals by their titles."""
    residuals = {f"{name} − truth": np.subtract(m, truth, dtype=np.float64) for name, m in maps.items()}
    return {"truth": truth, **maps}, residuals
