"""Figures that show several methods side by side; those of one method are in ``figures`` and ``projections``."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmbml.analysis.figures import COLOURS
from cmbml.analysis.metrics import Metric, heading
from cmbml.analysis.projections import STYLE, draw_images, gnomonic_pixels, mollweide_pixels, new_figure

_COLUMNS = 3  # of panels of boxes


def box_figure(
    values: Mapping[str, Mapping[str, np.ndarray]],
    *,
    caption: Mapping,
    notes: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
    metrics: Sequence[Metric] = (),
) -> Figure:
    """Draw a panel of boxes for each metric, one box a method: median, quartiles, range, and every sky as a point.

    Parameters
    ----------
    values : mapping
        Metric -> name of a method -> its value for each sky, (nsky,). A metric that is not known of any sky is left
        out; what is not finite is not drawn.
    caption : mapping
        See ``captions.describe``.
    notes : mapping, optional
        Name of a method -> why it is no headline; its box is hollow.
    order : sequence of str, optional
        All methods of the comparison, whose places give the colours; those of ``values`` if not given.
    metrics : sequence of Metric, optional
        What is known of them, for the titles.
    """
    shown = {
        metric: by_name
        for metric, by_name in values.items()
        if any(np.isfinite(each_sky).any() for each_sky in by_name.values())
    }
    names = list(next(iter(values.values())))
    rows = -(-len(shown) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.5 + rows * (0.6 + 0.24 * len(names)), caption)
        axes = list(figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flat)
        for axis in axes[len(shown) :]:
            axis.remove()
        for axis, (metric, by_name) in zip(axes, shown.items(), strict=False):
            for i, name in enumerate(names):
                each_sky = by_name[name][np.isfinite(by_name[name])]
                colour = COLOURS[(order or names).index(name) % len(COLOURS)]
                face = "white" if (notes or {}).get(name) else to_rgba(colour, 0.35)
                axis.boxplot(
                    each_sky,
                    positions=[i],
                    orientation="horizontal",
                    widths=0.6,
                    patch_artist=True,
                    showfliers=False,
                    boxprops={"facecolor": face, "edgecolor": colour},
                    medianprops={"color": "black"},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                    label=name,
                )
                axis.plot(each_sky, np.full(len(each_sky), i), ls="", marker=".", ms=3, color="0.3", zorder=3)
            axis.set_title(heading(metric, caption, metrics))
            axis.set_yticks(range(len(names)), labels=names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.xaxis.set_major_locator(MaxNLocator(4))
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
        See ``captions.describe``.
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
