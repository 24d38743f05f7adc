"""Figures of delensing: of one method, and of several side by side."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbml.analysis.delensing.metrics import delensing_ratios
from cmbml.analysis.figures import COLOURS, LOOK, MARKERS, dl_label, draw_line, limit_floor, multipole_axis
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.analysis.spectra import ratio, scatter


def delensing_figure(
    methods: Mapping[str, Mapping[str, np.ndarray]],
    *,
    caption: Mapping,
    notes: Mapping[str, str] | None = None,
    band: tuple[int, int] = (20, 200),
    limits: tuple[float, float] = (0.9, 1.1),
    theory: Mapping[str, np.ndarray] | None = None,
    lmin_b: int | None = None,
) -> Figure:
    """Draw A_res, the transfer of the primordial signal, and rho of one or more methods, one above the other.

    Parameters
    ----------
    methods : mapping
        Name of a method -> its stacked spectra (``delensing.metrics.delensing_spectra`` through ``spectra.stack``).
    caption : mapping
        See ``captions.describe``.
    notes : mapping, optional
        Name of a method -> why its A_res is no headline (``metrics.verdict``). Its lines are dotted, its markers
        hollow, and the legend says so.
    band : (int, int), optional
        Multipoles of the headline, shaded.
    limits : (float, float), optional
        Transfer within which A_res may stand, shaded.
    theory : mapping, optional
        Name -> A_res of shape (lmax + 1,), l from 0, as theory has it; thin grey lines.
    lmin_b : int, optional
        First multipole of the observed B that enters the estimates; what lies beyond is shaded, and says so.
    """
    notes = notes or {}
    rows = {"A_res": r"$A_\mathrm{res}$", "transfer": "transfer", "rho": r"$\rho$"}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 5.6, caption)
        axes = dict(zip(rows, figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1, 1)), strict=True))
        for i, (method, stacked) in enumerate(methods.items()):
            ratios = delensing_ratios(stacked)
            struck = bool(notes.get(method))
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            look |= {"ls": ":", "markerfacecolor": "white"} if struck else {"ls": "-"}
            label = fill(f"{method}, struck out: {notes[method]}", 85) if struck else method
            for name, axis in axes.items():
                draw_line(axis, stacked["ell"], *scatter(ratios[name]), label, **look)
        means = [scatter(delensing_ratios(stacked)["A_res"])[0] for stacked in methods.values()]
        top = np.fmax.reduce(np.concatenate(means), initial=1)
        for i, (name, curve) in enumerate((theory or {}).items()):
            ell = np.arange(2, min(len(curve), int(max(s["ell"][-1] for s in methods.values())) + 1))
            axes["A_res"].plot(ell, curve[ell], color="0.35", lw=0.7, ls=("-", "--", "-.")[i % 3], label=name)
        axes["A_res"].axhline(1, color="black", lw=0.8)
        axes["A_res"].set_ylim(0, min(1.25 * top, 5))
        axes["transfer"].axhspan(*limits, color="#009E73", alpha=0.2, lw=0)
        axes["transfer"].set_ylim(-0.25, 1.75)
        axes["rho"].set_ylim(-0.1, 1.05)
        for name, axis in axes.items():
            axis.axvspan(*band, color="0.93", lw=0, zorder=0)
            axis.set_ylabel(rows[name])
        if lmin_b is not None:
            shade_entered(axes, lmin_b, last=max(s["ell"][-1] for s in methods.values()))
        multipole_axis(axes["rho"])
        figure.legend(*axes["A_res"].get_legend_handles_labels(), loc="outside lower left")
    return figure


def shade_entered(axes: Mapping[str, Axes], lmin_b: int, *, last: float) -> None:
    """Shade the multipoles whose observed B enters the estimates, and say it in the panel of A_res."""
    if lmin_b >= last:
        return
    for axis in axes.values():
        axis.axvspan(lmin_b, last, facecolor="none", edgecolor="0.85", hatch="//", lw=0, zorder=0)
    text = f"from l = {lmin_b} on the estimate\nholds the observed B itself"
    axes["A_res"].text(0.99, 0.94, text, transform=axes["A_res"].transAxes, ha="right", va="top", fontsize="x-small")


def compared_spectra(
    methods: Mapping[str, Mapping[str, np.ndarray]], *, caption: Mapping, notes: Mapping[str, str] | None = None
) -> Figure:
    """Draw D_l of the truth and of the maps before and after each delensing, and below what is left of the observed.

    Parameters
    ----------
    methods : mapping
        Name of a method -> its stacked spectra (``spectra.stack``); "no delensing" is the observed map.
    caption : mapping
        See ``captions.describe``.
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
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
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
        See ``captions.describe``.
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
        before = float(scatter(1e4 * np.asarray(values[baseline]))[0])
        if np.isfinite(before):
            axis.axvline(before, color="black", lw=0.8, ls="--")
            axis.set_xlim(left=0)
        else:
            axis.text(0.5, 0.5, "not known: sigma(r) needs B and r > 0", transform=axis.transAxes, ha="center")
        axis.set_yticks(range(len(values)), labels=list(values))
        axis.set_ylim(len(values) - 0.5, -0.5)
        axis.set_xlabel(r"$10^4\,\sigma(r)$")
    return figure
