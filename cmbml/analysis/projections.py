"""Pictures of skies: Mollweide panels of the whole sphere and gnomonic panels of a patch.

Figures are made without pyplot, so that nothing depends on a display or on figures made before.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from textwrap import fill
from typing import Any

import healpy as hp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from PIL import Image

from cmbml.analysis.captions import describe

# Matplotlib's own defaults and what differs from them: the settings of whoever runs this do not show in the figures.
STYLE: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"} | {
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
COLOURS = {
    "sky": LinearSegmentedColormap.from_list("planck_cmb", _PLANCK, N=512),
    "residual": matplotlib.colormaps["RdBu_r"],
}
# Of truth, observed and predicted, those within this factor of the largest amplitude share its colour scale.
_SHARED_SCALE = 4.0
_GREY = "0.6"
_DOTS_OF_A_SCREEN = 80  # an inch


class _StyledFigure(Figure):
    """A figure that is saved in ``STYLE`` as well: ticks and layout are made only then.

    A notebook shows it as it is saved, on a screen's dots, in 128 colours.
    """

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        with matplotlib.rc_context(STYLE):
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        small = BytesIO()
        self.savefig(drawn, format="png", dpi=_DOTS_OF_A_SCREEN)
        Image.open(drawn).convert("RGB").quantize(128).save(small, format="png", optimize=True)
        return small.getvalue()


def new_figure(width: float, height: float, caption: Mapping) -> Figure:
    """Return an empty figure (inches) that carries the caption in its upper left corner; call within ``STYLE``."""
    figure = _StyledFigure(figsize=(width, height), layout="constrained")
    # Lines break between the caption's entries alone; 19 letters of 7 pt an inch.
    unbroken = describe(caption).replace(" ", "\N{NO-BREAK SPACE}").replace("·\N{NO-BREAK SPACE}", "· ")
    lines = fill(unbroken, int(19 * width), break_long_words=False, break_on_hyphens=False)
    text = lines.replace("\N{NO-BREAK SPACE}", " ")
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
    lon = np.radians(lon_deg)
    lat = np.radians(lat_deg)
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
        What is printed above the panels; see ``captions.describe``. Its unit labels the colour bars.
    mask : bool array (npix,), optional
        True where a pixel is good; the others are grey.
    width : int, optional
        Picture points across one panel.
    """
    pixels = mollweide_pixels(hp.npix2nside(len(truth)), width)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 4.6, caption)
        axes = figure.subplots(2, 2)
        draw_images(axes.flat, *_one_method(truth, observed, predicted), pixels, mask, caption=caption)
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
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 2.75, {**caption, "centre": f"(l, b) = ({lon_deg:g}°, {lat_deg:g}°)"})
        axes = figure.subplots(1, 4, sharex=True, sharey=True)
        draw_images(axes, *_one_method(truth, observed, predicted), pixels, mask, caption=caption, half=size_deg / 2)
        axes[0].set_ylabel("offset [deg]")
    return figure


def _one_method(truth: np.ndarray, observed: np.ndarray, predicted: np.ndarray) -> tuple[dict, dict]:
    """Return the skies and the residuals of the four panels, by their titles."""
    skies = {"truth": truth, "observed": observed, "predicted": predicted}
    return skies, {"predicted − truth": np.subtract(predicted, truth, dtype=np.float64)}


def draw_images(
    axes: Iterable[Axes],
    skies: Mapping[str, np.ndarray],
    residuals: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    caption: Mapping,
    half: float | None = None,
    asinh: bool = False,
    scales: tuple[float, float] | None = None,
) -> None:
    """Show skies and then residuals, one an axis, under their titles and over a colour bar.

    Skies of like amplitude share a scale; one much fainter than the brightest has its own. Residuals share another.

    Parameters
    ----------
    axes : iterable of axes
        As many as there are skies and residuals.
    skies, residuals : mapping
        Title -> map (npix,).
    pixels : int array
        Pixel under each point of a picture: ``mollweide_pixels`` or ``gnomonic_pixels``.
    mask : bool array (npix,), optional
        True where a pixel is good.
    caption : mapping
        Its unit labels the colour bars.
    half : float, optional
        Half of the side of a patch in degrees; None for the whole sphere in an ellipse.
    asinh : bool, optional
        Whether the colours grow like asinh: linear where most of the sky lies, logarithmic in the Galactic plane.
    scales : (float, float), optional
        Amplitude at which the colours of the skies end, and those of the residuals; the maps' own if not given.
    """
    maps = {title: np.asarray(m, dtype=np.float64) for title, m in {**skies, **residuals}.items()}
    good = np.ones(len(next(iter(maps.values()))), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    limits = {title: _limit(m[good]) for title, m in maps.items()}
    for group in (skies, residuals):
        largest = max((limits[title] for title in group), default=0)
        near = _SHARED_SCALE if group is skies else np.inf
        limits |= {title: largest for title in group if largest <= near * limits[title]}
    if scales:
        limits = dict.fromkeys(skies, scales[0]) | dict.fromkeys(residuals, scales[1])
    extent = (-2, 2, -1, 1) if half is None else (half, -half, -half, half)
    for axis, (title, m) in zip(axes, maps.items(), strict=True):
        colours = COLOURS["sky" if title in skies else "residual"].with_extremes(bad=_GREY)
        axis.set_facecolor(_GREY)
        axis.set_title(title)
        shown = np.ma.masked_array(m[pixels], mask=~good[pixels])
        limit = limits[title]
        width = 2 * float(np.median(np.abs(m[good]))) if asinh else 0.0
        norm = AsinhNorm(width, -limit, limit) if width else Normalize(-limit, limit)
        image = axis.imshow(shown, norm=norm, origin="lower", extent=extent, cmap=colours, interpolation="nearest")
        if half is None:
            _ellipse(image)
        else:
            axis.set_xlabel("offset [deg]")
        _colour_bar(axis.figure, image, limit, caption, shrink=0.7 if half is None else 0.95)


def _ellipse(image: AxesImage) -> None:
    """Cut a Mollweide picture out and draw its border."""
    axis = image.axes
    image.set_clip_path(Ellipse((0, 0), 4, 2, transform=axis.transData))
    axis.add_patch(Ellipse((0, 0), 4, 2, fill=False, lw=0.6, ec="0.2", clip_on=False))
    axis.set(xlim=(-2.01, 2.01), ylim=(-1.01, 1.01))
    axis.axis("off")


def _limit(values: np.ndarray) -> float:
    """Return the amplitude that 99.5 % of the values stay below, rounded to two digits."""
    return float(f"{np.percentile(np.abs(values), 99.5):.1e}") or 1.0


def _colour_bar(figure: Figure | SubFigure, image: AxesImage, limit: float, caption: Mapping, *, shrink: float) -> None:
    """Add a horizontal colour bar with its two ends and, in the middle, the unit."""
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
