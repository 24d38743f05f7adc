"""r of test skies: skies of which the truth is used tell what a delensing leaves, and r is measured on the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbml.analysis import tables
from cmbml.analysis.delensing.bandpower_files import cmblikes
from cmbml.analysis.delensing.bandpowers import (
    BELOW_LMIN_B,
    Bins,
    bins_of,
    last_multipole,
    propagates_foregrounds,
)
from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.analysis.delensing.r_fit import Judged, Powers, left_of, posteriors, r_of_skies
from cmbml.analysis.figures import COLOURS
from cmbml.analysis.measure import MASK
from cmbml.analysis.metrics import Metric, values
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.analysis.spectra import of_method
from cmbml.config.truth import cleaned, has_foregrounds_left, other_foregrounds
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import demand
from cmbml.maps.skymap import SkyMap
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.spectra import bin_edges

ALONE, IGNORED, FREE = "r alone", "foregrounds ignored", "A_fg free"
A_L, A_FG = "A_L", "A_fg"
SKIES = {"train": "training skies", "valid": "validation skies", "test": "other test skies"}


@dataclass(frozen=True)
class OfSky:
    """One sky of `Judged`."""

    judged: Judged
    index: int

    def amplitude(self, name: str) -> float:
        """A_L or A_fg; nan where it is not free."""
        free = self.judged.free
        return float(self.judged.fit.best[self.index, 1 + free.index(name)]) if name in free else np.nan


METRICS = (
    Metric("r_hat", lambda m: float(m.judged.fit.best[m.index, 0]), label="r-hat"),
    Metric("r_low", lambda m: float(m.judged.fit.low[m.index]), label="from"),
    Metric("r_high", lambda m: float(m.judged.fit.high[m.index]), label="to"),
    Metric("r_own", lambda m: float(m.judged.own[m.index]), label="r of the sky"),
    Metric("r_bias", lambda m: float(m.judged.fit.best[m.index, 0] - m.judged.own[m.index]), label="bias"),
    Metric("r_sigma", lambda m: float(m.judged.fit.sigma[m.index]), label="sigma(r)", better="lower"),
)
OF_LENSING = (Metric("A_L", lambda m: m.amplitude(A_L), label="A_L"),)
OF_FOREGROUNDS = (
    Metric("A_fg", lambda m: m.amplitude(A_FG), label="A_fg"),
    Metric("r_fg", lambda m: float(m.judged.of_foregrounds[m.index]), label="r of the foregrounds"),
)


class MeasureR(Delensing):
    """r of test skies, with the method and without delensing: estimate, interval, bias.

    What lensing, noise and foregrounds are left is told by skies of which the truth is used: the first half of the test
    skies, or all skies of another split (`analysis.r.known`); none of them lends a judged sky its answer. Where
    foregrounds are known, r is measured once as if there were none, which is wrong by what they leave, and once with
    their amplitude free. Of bands that are combined the noise is that of each sky's own weights, and the shape of the
    foregrounds what these weights leave of those of the known skies.
    """

    name = "measure_r"
    inputs = (
        *(Every("r_spectra"), "filters", MASK),
        Optional(Every("combination", name="combinations"), when=cleaned),
        Optional(Every("foreground_powers"), when=propagates_foregrounds),
    )
    outputs = ("r_csv", "r_md", "r_png", "r_zip", "r_curves")
    uses = (*Delensing.caption_keys, "analysis.r", "analysis.lmax", "delens.lmin_b", "mask")
    reads = ("splits", "foregrounds.seed")
    memory = "20 MB"

    def check(self) -> None:
        """Refuse bands that have no r, and too few skies."""
        cfg = self.cfg
        last = last_multipole(cfg)
        band = list(cfg.analysis.r.band)
        demand(
            band[1] <= last,
            f"analysis.r.band={band} ends beyond l = {last}, the least of delens.lmin_b - {BELOW_LMIN_B} (from"
            " delens.lmin_b on estimates hold the B that r is measured in), analysis.lmax and 2 nside; end it there.",
        )
        width = cfg.analysis.r.delta_l
        bins = len(bin_edges(band[0], band[1] + 1, width)) - 1
        free = [x for x in cfg.analysis.r.free if x != A_FG or has_foregrounds_left(cfg)]
        demand(
            bins >= len(free),
            f"analysis.r.band={band} has too few bins of analysis.r.delta_l={width}, {bins}, to tell"
            f" {' and '.join(free)} apart; make the bins smaller, or say analysis.r.free=[r].",
        )
        known = cfg.splits.known
        demand(
            bool(known) or cfg.splits.test >= 2,
            "r needs two test skies at least: one to tell what is left, and one to measure; set splits.test=2 or more.",
        )
        demand(
            not known or cfg.splits[known] > 0,
            f"analysis.r.known={known} names no skies that could tell what is left; set splits.{known}=1 or more.",
        )

    def run(
        self,
        item: Item,
        *,
        r_spectra: Files,
        filters: dict[str, np.ndarray],
        mask: SkyMap | None = None,
        combinations: Files | None = None,
        foreground_powers: Files | None = None,
    ) -> tuple[list[dict[str, Any]], str, Figure, dict[str, str], dict[str, np.ndarray]]:
        """Rows of numbers, a table of means, points and posteriors, files for other codes, and `curves_of` the skies.

        A row is of one method, one way to treat foregrounds and one sky. The files are of the method's judged skies.
        """
        bins = bins_of(self.cfg, mask, self.cfg.delens.fwhm_arcmin)
        judged_at, known_at = self._parted(r_spectra.items)
        numbers = [r_spectra.items[place]["sim"] for place in judged_at]
        spectra = list(r_spectra)
        tensor = bins.of_theory(filters["bb_tensor"])
        found = {}
        measured = {}
        for method in (self.cfg.method.name, NONE):
            skies = of_method(spectra, method)
            powers = {name: np.array([cls[name] for cls in skies]) @ bins.unbiased.T for name in skies[0]}
            powers |= self._of_weights(r_spectra.items, combinations, foreground_powers, bins)
            powers.setdefault("noise", np.tile(bins.of_theory(filters["noise_b"]), (len(skies), 1)))
            known, judged = ({name: power[at] for name, power in powers.items()} for at in (known_at, judged_at))
            self._demand_positive(known, judged)
            modes = bins.modes(np.mean([skies[place]["predicted"] for place in known_at], axis=0))
            measured[method] = judged
            for way, free in self._ways(powers).items():
                found[method, way] = r_of_skies(known, judged, tensor, *modes, free=free)
        metrics = METRICS + (OF_LENSING if A_L in self.cfg.analysis.r.free else ())
        metrics += OF_FOREGROUNDS if "foregrounds" in powers else ()
        rows = [
            {"method": method, "fit": way, "sim": sim, **values(metrics, OfSky(judged, i))}
            for (method, way), judged in found.items()
            for i, sim in enumerate(numbers)
        ]
        caption = self._caption(found, bins, mask)
        summary = tables.summarise(rows, by=("method", "fit"))
        table = tables.to_markdown(summary, caption=caption | tables.SCATTER, metrics=metrics)
        files = files_of(next(iter(found.values())), numbers, bins, filters["bb_lensing"])
        return rows, table, r_figure(found, caption=caption), files, curves_of(found, measured, bins)

    def _of_weights(
        self, items: Sequence[Item], combinations: Files | None, foreground_powers: Files | None, bins: Bins
    ) -> dict[str, np.ndarray]:
        """Bandpowers ``noise`` and ``shape`` (nsky, nbin) of what the skies' own weights make, where they are known."""
        if combinations is None:
            return {}
        of_sky = {(sky["split"], sky["sim"]): i for i, sky in enumerate(combinations.items)}
        made = [combinations[of_sky[sky["split"], sky["sim"]]] for sky in items]
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, len(made[0]["noise_b"]) - 1)
        found = {"noise": np.array([bins.of_theory(one["noise_b"] / beam**2) for one in made])}
        if foreground_powers is None:
            return found
        known = list(foreground_powers)
        order = [list(known[0]["bands"]).index(name) for name in made[0]["bands"]]
        crosses = np.mean([one["cls"] for one in known], axis=0)[np.ix_(order, order)]
        # Of bands whose gains are right: foregrounds that are known have no others.
        weights = [one["gains"][:, None] * one["weights_b"][:, : crosses.shape[-1]] for one in made]
        shapes = [np.einsum("al,abl,bl->l", w, crosses, w) for w in weights]
        return found | {"shape": np.array(shapes) @ bins.unbiased.T}

    def _parted(self, items: Sequence[Item]) -> tuple[list[int], list[int]]:
        """Places of the judged skies, and of those of which the truth is used."""
        tests = [place for place, item in enumerate(items) if item["split"] == "test"]
        if self.cfg.splits.known:
            return tests, [place for place, item in enumerate(items) if item["split"] == self.cfg.splits.known]
        half = len(tests) // 2
        return tests[half:], tests[:half]

    def _ways(self, powers: Powers) -> dict[str, tuple[str, ...]]:
        """How foregrounds are treated, and what is free beside r."""
        free = self.cfg.analysis.r.free
        lensing = (A_L,) if A_L in free else ()
        ways: dict[str, tuple[str, ...]] = {ALONE: ()}
        if "foregrounds" in powers:
            ways = {IGNORED: (), FREE: (A_FG,)} if A_FG in free else {IGNORED: ()}
        return {f"{way}, A_L free" if lensing else way: (*lensing, *more) for way, more in ways.items()}

    def _demand_positive(self, known: Powers, judged: Powers) -> None:
        """Refuse powers that have no likelihood."""
        left = left_of(known)
        needed = [
            known["predicted"],
            judged["predicted"],
            left,
            left + np.mean(known.get("foregrounds", [0.0]), axis=0),
        ]
        demand(
            all(np.all(powers > 0) for powers in needed),
            f"A bandpower within analysis.r.band={list(self.cfg.analysis.r.band)} is not above 0, for the mask mixes"
            " multipoles: begin the band higher, or widen analysis.r.delta_l or mask.apodise_deg.",
        )

    def _caption(self, found: Mapping[tuple[str, str], Judged], bins: Bins, mask: SkyMap | None) -> dict[str, Any]:
        """What the numbers are of, and the means of each method."""
        r = self.cfg.analysis.r
        one = next(iter(found.values()))
        caption = self.caption(split="test", sims=len(one.own))
        caption |= {"B": r.b, "l": f"{r.band[0]} .. {r.band[1]}"}
        caption |= {} if mask is None else {"f_sky": f"{bins.effective:.3g}, of the modes"}
        caption["what is left"] = f"of {one.known} {SKIES[self.cfg.splits.known or 'test']}"
        if has_foregrounds_left(self.cfg):
            others = (
                "other foregrounds" if other_foregrounds(self.cfg) else "the SAME foregrounds, as nobody knows them"
            )
            caption["shape of A_fg"] = f"of {others}"
        for (method, way), result in found.items():
            bias, error = result.bias
            name = method if way == ALONE else f"{method}, {way}"
            caption[f"{name}:"] = f"mean bias {bias:.2g} ± {error:.2g}, sigma(r = 0) {result.sigma_zero:.2g}"
        return caption


def files_of(judged: Judged, numbers: Sequence[int], bins: Bins, lensing: np.ndarray) -> dict[str, str]:
    """Return a set of files (`bandpower_files.cmblikes`) of each judged sky, text by name.

    Parameters
    ----------
    judged : Judged
    numbers : sequence of int
        Of the skies.
    bins : Bins
    lensing : array (>= lmax + 1,)
        Lensing BB of the fiducial cosmology, which a theory that is compared with the files has.
    """
    files: dict[str, str] = {}
    of_skies = zip(judged.bandpowers, judged.likelihoods, judged.left, judged.foregrounds, numbers, strict=True)
    for power, likelihood, left, shape, sim in of_skies:
        files |= cmblikes(
            f"sim{sim:04d}",
            power,
            replace(likelihood, fixed=left),
            bins.windows,
            fiducial=judged.total,
            lensing=lensing,
            shapes={"foregrounds": shape} if np.any(shape) else None,
        )
    return files


def curves_of(
    found: Mapping[tuple[str, str], Judged], measured: Mapping[str, Powers], bins: Bins
) -> dict[str, np.ndarray]:
    """Return what a picture of the judged skies needs, with foregrounds treated in the last of the ways.

    Parameters
    ----------
    found : mapping
        Name of a method, and how foregrounds are treated -> r of its skies.
    measured : mapping
        Name of a method -> its bandpowers by name, (nsky, nbin).
    bins : Bins

    Returns
    -------
    dict of arrays
        ``ell`` (nbin,), mean multipoles of the bins; ``fit``, the way; and of each method ``{method}/{name}``: its
        bandpowers, uK^2, ``own`` and ``sigma`` (nsky,), and ``posterior`` (nsky, 2, npoint), `posteriors`.
    """
    way = list(found)[-1][1]
    curves = {"ell": bins.of_theory(np.arange(bins.windows.shape[-1], dtype=float)), "fit": np.array(way)}
    for method, powers in measured.items():
        judged = found[method, way]
        of_r = {"own": judged.own, "sigma": judged.fit.sigma, "posterior": np.array(posteriors(judged))}
        curves |= {f"{method}/{name}": values for name, values in {**powers, **of_r}.items()}
    return curves


def r_figure(found: Mapping[tuple[str, str], Judged], *, caption: Mapping[str, Any]) -> Figure:
    """Draw r-hat of each sky with its interval and the r that it had, and the posteriors below; a column a way.

    Parameters
    ----------
    found : mapping
        Name of a method, and how foregrounds are treated -> r of its skies.
    caption : mapping
        See ``captions.describe``.
    """
    methods = list(dict.fromkeys(method for method, _ in found))
    ways = list(dict.fromkeys(way for _, way in found))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.4 + 3.8 * len(ways), 5.0, caption)
        axes = figure.subplots(2, len(ways), sharex=True, sharey="row", squeeze=False)
        for (method, way), judged in found.items():
            top, bottom = axes[:, ways.index(way)]
            i = methods.index(method)
            fit = judged.fit
            sky = np.arange(len(judged.own)) + 0.25 * i
            r = fit.best[:, 0]
            colour = COLOURS[i % len(COLOURS)]
            top.errorbar(r, sky, xerr=[r - fit.low, fit.high - r], color=colour, ls="", marker="o", ms=4, label=method)
            top.plot(judged.own, sky, color="black", ls="", marker="|", ms=8, label=None if i else "r of the sky")
            draw_posteriors(bottom, posteriors(judged), color=colour)
            top.set(title=way, yticks=np.arange(len(judged.own)))
        axes[0, 0].invert_yaxis()
        axes[0, 0].set(ylabel="sky")
        axes[1, 0].set(ylabel="posterior")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def draw_posteriors(axis: Axes, curves: Iterable[Sequence[np.ndarray]], **look: Any) -> None:
    """Draw posteriors of r, a line a sky."""
    for curve in curves:
        axis.plot(*curve, lw=0.8, **look)
    axis.set(xlabel="r", ylim=(0, None))
