"""Pictures of single files, for `cmbml inspect --png`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from cmbml.analysis.projections import COLOURS, STYLE, mollweide_pixels
from cmbml.core import handlers
from cmbml.maps.fitsfile import opened
from cmbml.sky.alms import alm2cl

MOST = 6  # panels or lines
WIDTH = 500  # points of a panel


def draw(path: Path) -> Figure | None:
    """Draw the maps of a FITS file, or the spectra of arrays; None where there is nothing to draw.

    Raises
    ------
    UserError
        When the file cannot be read.
    """
    with matplotlib.rc_context(STYLE):
        if path.suffix in (".npz", ".npy"):
            held = handlers.read(path)
            return _spectra(held if isinstance(held, Mapping) else {path.stem: held}, path.name)
        if path.suffix == ".pt":
            return None
        return _maps(path)


def _maps(path: Path) -> Figure | None:
    """Mollweide pictures of the first columns; pixels without a value are grey."""
    with opened(path) as table:
        names = table.names[:MOST]
        figure = Figure(figsize=(5.2, 3.0 * len(names)), dpi=100, layout="constrained")
        figure.suptitle(path.name, fontsize=8)
        for axis, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
            values = table.pixels(name)
            nside = int(np.sqrt(values.size / 12))
            image = values[mollweide_pixels(nside, WIDTH)]
            good = np.abs(image[np.isfinite(image)])
            limit = float(np.percentile(good, 99.5)) if good.size else 1.0
            colours = COLOURS["sky"].with_extremes(bad="0.8")
            shown = axis.imshow(image, origin="lower", cmap=colours, vmin=-limit, vmax=limit)
            height, width = image.shape
            sphere = Ellipse((width / 2 - 0.5, height / 2 - 0.5), width, height, transform=axis.transData)
            shown.set_clip_path(sphere)
            axis.set_axis_off()
            axis.set_title(name)
            bar = figure.colorbar(shown, ax=axis, orientation="horizontal", shrink=0.5, label=table.unit(name))
            bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.3g}", "0", f"{limit:.3g}"])
    return figure


def _spectra(held: Mapping[str, Any], title: str) -> Figure | None:
    """C_l of what is a spectrum, or are alms, from l = 2."""
    lines = {}
    for name, array in held.items():
        if array.ndim == 1 and array.dtype.kind == "f" and array.size > 2:
            lines[name] = array
        elif array.ndim == 1 and array.dtype.kind == "c":
            try:
                lines[name] = alm2cl(array)
            except ValueError:  # of no band limit
                continue
    if not lines:
        return None
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, cl in list(lines.items())[:MOST]:
        ell = np.arange(2, cl.size)
        axis.plot(ell, np.abs(cl[2:]), label=name)
    axis.set(xscale="log", yscale="log", xlabel=r"$\ell$", ylabel=r"$|C_\ell|$", title=title)
    axis.legend()
    return figure
