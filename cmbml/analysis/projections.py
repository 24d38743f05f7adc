"""Pictures of skies: Mollweide panels of the whole sphere and gnomonic panels of a patch.

Figures are made without pyplot, so that nothing depends on a display or on figures made before.
"""

from collections.abc import Mapping
from textwrap import fill

import healpy as hp
import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from cmbml.analysis.common import describe

# Matplotlib's own defaults and what differs from them: the settings of whoever runs this do not show in the figures.
STYLE = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"} | {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.linewidth": 0.7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "figure.dpi": 200,
}
# The colours in which the Planck collaboration prints the CMB: blue, through parchment at zero, to dark red.
_PLANCK = ["#0000ff", "#0070ff", "#00ddff", "#ffedd9", "#ffb400", "#ff4b00", "#640000"]
COLOURS = [LinearSegmentedColormap.from_list("planck_cmb", _PLANCK, N=512)] * 3 + [matplotlib.colormaps["RdBu_r"]]
PANELS = ("truth", "observed", "predicted", "predicted − truth")
# Of truth, observed and predicted, those within this factor of the largest amplitude share its colour scale.
_SHARED_SCALE = 4.0
_GREY = "0.6"


class _StyledFigure(Figure):
    """A figure that is saved in ``STYLE`` as well: ticks and layout are made only then."""

    def savefig(self, *args, **kwargs) -> None:
        with matplotlib.rc_context(STYLE):
            super().savefig(*args, **kwargs)


def new_figure(width: float, height: float, caption: Mapping) -> Figure:
    """Return an empty figure (inches) that carries the caption in its upper left corner; call within ``STYLE``."""
    figure = _StyledFigure(figsize=(width, height), layout="constrained")
    # Lines break between the caption's entries alone; 19 letters of 7 pt an inch.
    unbroken = describe(caption).replace(" ", "\N{NO-BREAK SPACE}").replace("·\N{NO-BREAK SPACE}", "· ")
    text = fill(unbroken, int(19 * width), break_long_words=False).replace("\N{NO-BREAK SPACE}", " ")
    figure.suptitle(text, x=0.01, ha="left", fontsize=7, color="0.25")
    return figure


def mollweide_pixels(nside: int, width: int = 800) -> np.ndarray:
    """Return the RING pixel under each point of a Mollweide picture, int array (width / 2, width).

    With x in [-2, 2], y in [-1, 1] and sin(theta) = y: sin(latitude) = (2 theta + sin 2 theta) / pi and
    longitude = -pi x / (2 cos theta) (Snyder 1987, eqs. 31-1 .. 31-5, in units of sqrt(2) R). Longitude 0 is in the
    middle and grows to the left, as on the sky; row 0 is the south. Points outside the ellipse repeat its border.
    """
    x = (np.arange(width) + 0.5) * 4 / width - 2
    y = ((np.arange(width // 2) + 0.5) * 4 / width - 1)[:, None]
    theta = np.arcsin(y)
    latitude = np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi)
    longitude = np.clip(-np.pi * x / (2 * np.cos(theta)), -np.pi, np.pi)
    return hp.ang2pix(nside, np.pi / 2 - latitude, longitude)


def gnomonic_pixels(nside: int, lon_deg: float, lat_deg: float, size_deg: float, width: int = 400) -> np.ndarray:
    """Return the RING pixel under each point of a tangent-plane picture, int array (width, width).

    The plane touches the sphere at (lon, lat); a point at (x, y) looks along n - x e_lon + y e_lat, so that longitude
    grows to the left. Row 0 is the south. ``size_deg`` is the length of a side, 2 tan(size / 2) in the plane.
    """
    lon, lat = np.radians(lon_deg), np.radians(lat_deg)
    n = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    e_lon = np.array([-np.sin(lon), np.cos(lon), 0.0])
    e_lat = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    x = ((np.arange(width) + 0.5) * 2 / width - 1) * np.tan(np.radians(size_deg) / 2)
    sight = n[:, None, None] - e_lon[:, None, None] * x[None, None, :] + e_lat[:, None, None] * x[None, :, None]
    return hp.vec2pix(nside, *sight)


def sky_panels(
    truth: np.ndarray,
    observed: np.ndarray,
    predicted: np.ndarray,
    *,
    caption: Mapping,
    mask: np.ndarray | None = None,
    width: int = 800,
) -> Figure:
    """Draw truth, observed, predicted and predicted - truth in Mollweide projection.

    Parameters
    ----------
    truth, observed, predicted : array (npix,)
        RING, one unit and one beam.
    caption : mapping
        What is printed above the panels; see ``common.describe``. Its unit labels the colour bars.
    mask : bool array (npix,), optional
        True where a pixel is good; the others are grey.
    width : int, optional
        Picture points across one panel.
    """
    pixels = mollweide_pixels(hp.npix2nside(len(truth)), width)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 4.6, caption)
        axes = figure.subplots(2, 2)
        images = _images(axes.flat, (truth, observed, predicted), pixels, mask, extent=(-2, 2, -1, 1))
        for image in images:
            axis = image.axes
            image.set_clip_path(Ellipse((0, 0), 4, 2, transform=axis.transData))
            axis.add_patch(Ellipse((0, 0), 4, 2, fill=False, lw=0.6, ec="0.2", clip_on=False))
            axis.set(xlim=(-2.01, 2.01), ylim=(-1.01, 1.01))
            axis.axis("off")
            _colour_bar(figure, image, caption, shrink=0.7)
    return figure


def zoom_panels(
    truth: np.ndarray,
    observed: np.ndarray,
    predicted: np.ndarray,
    *,
    caption: Mapping,
    lon_deg: float = 0.0,
    lat_deg: float = 0.0,
    size_deg: float = 10.0,
    mask: np.ndarray | None = None,
    width: int = 400,
) -> Figure:
    """Draw the same four panels for one patch around (lon, lat), pixel by pixel, in gnomonic projection.

    Parameters as in ``sky_panels``; ``size_deg`` is the side of the patch.
    """
    pixels = gnomonic_pixels(hp.npix2nside(len(truth)), lon_deg, lat_deg, size_deg, width)
    half = size_deg / 2
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 2.75, {**caption, "centre": f"(l, b) = ({lon_deg:g}°, {lat_deg:g}°)"})
        axes = figure.subplots(1, 4, sharex=True, sharey=True)
        images = _images(axes, (truth, observed, predicted), pixels, mask, extent=(half, -half, -half, half))
        for image in images:
            image.axes.set_xlabel("offset [deg]")
            _colour_bar(figure, image, caption, shrink=0.95)
        axes[0].set_ylabel("offset [deg]")
    return figure


def _images(axes, skies, pixels, mask, *, extent):
    """Show the three skies and the difference of the last from the first; return the four images."""
    skies = [np.asarray(sky, dtype=np.float64) for sky in skies]
    skies.append(skies[2] - skies[0])
    good = np.ones(len(skies[0]), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    *limits, difference = [_limit(sky[good]) for sky in skies]
    largest = max(limits)
    limits = [largest if largest <= _SHARED_SCALE * limit else limit for limit in limits] + [difference]
    images = []
    for axis, sky, title, limit, colours in zip(axes, skies, PANELS, limits, COLOURS, strict=True):
        shown = np.ma.masked_array(sky[pixels], mask=~good[pixels])
        axis.set_facecolor(_GREY)
        axis.set_title(title)
        keys = {
            "origin": "lower",
            "extent": extent,
            "cmap": colours.with_extremes(bad=_GREY),
            "interpolation": "nearest",
        }
        images.append(axis.imshow(shown, vmin=-limit, vmax=limit, **keys))
    return images


def _limit(values: np.ndarray) -> float:
    """Return the amplitude that 99.5 % of the values stay below, rounded to two digits."""
    return float(f"{np.percentile(np.abs(values), 99.5):.1e}") or 1.0


def _colour_bar(figure, image, caption, *, shrink):
    """Add a horizontal colour bar with its two ends and, in the middle, the unit."""
    limit = image.norm.vmax
    bar = figure.colorbar(
        image, ax=image.axes, orientation="horizontal", shrink=shrink, aspect=28, pad=0.03, extend="both"
    )
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:g}", unit_label(caption) or "0", f"{limit:g}"])
    bar.ax.tick_params(length=2, labelsize=8)


def unit_label(caption: Mapping, power: int = 1) -> str:
    """Return the caption's unit as mathematics, to a power; "" for a dimensionless field."""
    unit = str(caption.get("unit") or "")
    if unit in ("", "1"):
        return ""
    base, _, index = unit.replace("uK", r"\mu\mathrm{K}").partition("_")
    return f"${base}" + (rf"_{{\mathrm{{{index}}}}}" if index else "") + (f"^{{{power}}}" if power != 1 else "") + "$"
