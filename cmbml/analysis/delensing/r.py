"""r of test skies: skies of which the truth is used tell what a delensing leaves, and r is measured on the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbml.analysis import tables
from cmbml.analysis.delensing.bandpower_files import cmblikes
from cmbml.analysis.delensing.bandpowers import BELOW_LMIN_B, Bins, bins_of, last_multipole
from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.analysis.figures import COLOURS
from cmbml.analysis.measure import MASK
from cmbml.analysis.metrics import Metric, values
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.analysis.spectra import of_method
from cmbml.config.truth import has_foregrounds_left
from cmbml.core.asset import Every, Files, Item
from cmbml.core.errors import demand
from cmbml.maps.skymap import SkyMap
from cmbml.sky.likelihood import Fit, Likelihood, modes_left
from cmbml.sky.spectra import bin_edges

ALONE, IGNORED, FREE = "r alone", "foregrounds ignored", "A_fg free"
SKIES = {"train": "training skies", "valid": "validation skies", "test": "other test skies"}
_POINTS = 200

Powers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """r of some skies.

    Attributes
    ----------
    bandpowers : array (nsky, nbin)
        Of the delensed maps, uK^2.
    likelihood : Likelihood
    fit : Fit
    own : array (nsky,)
        The r that each sky happened to have.
    of_foregrounds : array (nsky,)
        The r that the foregrounds left in each sky look like; nan where they are not known.
    total, foregrounds : array (nbin,)
        Mean bandpowers of the maps of the known skies, and of the foregrounds in them: 0 where there are none.
    known : int
        Of how many skies these and R + N are means.
    """

    bandpowers: np.ndarray
    likelihood: Likelihood
    fit: Fit
    own: np.ndarray
    of_foregrounds: np.ndarray
    total: np.ndarray
    foregrounds: np.ndarray
    known: int

    @property
    def sigma_zero(self) -> float:
        """sigma(r = 0)."""
        return self.likelihood.sigma_r(self.likelihood.fixed + self.foregrounds)

    @property
    def bias(self) -> tuple[float, float]:
        """Mean of r-hat less the sky's own r, and its error.

        The scatter of the differences over sqrt(n); and once more for the skies of which R + N is the mean, whose
        scatter is the same and whose error all of these share.
        """
        difference = self.fit.best[:, 0] - self.own
        scatter = difference.std(ddof=1) if len(difference) > 1 else np.nan
        return float(difference.mean()), float(scatter * np.sqrt(1 / len(difference) + 1 / self.known))


def left_of(known: Powers) -> np.ndarray:
    """R + N (nbin,), the mean of C[p - u - f], of skies of which the truth is used."""
    left: np.ndarray = known["predicted"] - 2 * known["predicted_x_unlensed"] + known["unlensed"]
    if "foregrounds" in known:
        cross = known["unlensed_x_foregrounds"] - known["predicted_x_foregrounds"]
        left = left + known["foregrounds"] + 2 * cross
    return np.asarray(left.mean(axis=0))


def r_of_skies(
    known: Powers,
    judged: Powers,
    tensor: np.ndarray,
    modes: np.ndarray,
    correlation: np.ndarray | None = None,
    *,
    with_foregrounds: bool = False,
) -> Judged:
    """Return r of the skies ``judged``, from what ``known`` ones, of which the truth is used, have left.

    With p the delensed map, u the primordial one and f the foregrounds that are left, the mean of C[p - u - f] over the
    known skies is R + N: lensing and noise that are left, without the sample variance of their u and f. F, the mean of
    their C[f], is the shape of the foregrounds where their amplitude is fitted, too. Of the judged skies C[p] is used,
    and their u and f for what r-hat is compared with.

    Parameters
    ----------
    known, judged : mapping
        Bandpowers (nsky, nbin) ``predicted``, ``predicted_x_unlensed``, ``unlensed``, and where foregrounds are known
        ``foregrounds``, ``predicted_x_foregrounds``, ``unlensed_x_foregrounds``.
    tensor : array (nbin,)
        Bandpowers at r = 1.
    modes : array (nbin,)
    correlation : array (nbin, nbin), optional
    with_foregrounds : bool, optional
        Whether their amplitude is free beside r.
    """
    left = left_of(known)
    skies = len(known["predicted"])
    total = known["predicted"].mean(axis=0)
    foregrounds = known["foregrounds"].mean(axis=0) if "foregrounds" in known else np.zeros_like(left)
    shapes = np.stack([tensor, foregrounds] if with_foregrounds else [tensor])
    likelihood = Likelihood(shapes, left, modes_left(modes, total, left, skies), correlation)
    weights = likelihood.weights(total)[0]
    own = judged["unlensed"] @ weights
    of_foregrounds = judged["foregrounds"] @ weights if "foregrounds" in judged else np.full_like(own, np.nan)
    fit = likelihood.fit(judged["predicted"])
    return Judged(judged["predicted"], likelihood, fit, own, of_foregrounds, total, foregrounds, skies)


@dataclass(frozen=True)
class OfSky:
    """One sky of `Judged`."""

    judged: Judged
    index: int

    @property
    def amplitude(self) -> float:
        """A_fg; nan where it is not free."""
        best = self.judged.fit.best[self.index]
        return float(best[1]) if len(best) > 1 else np.nan


METRICS = (
    Metric("r_hat", lambda m: float(m.judged.fit.best[m.index, 0]), label="r-hat"),
    Metric("r_low", lambda m: float(m.judged.fit.low[m.index]), label="from"),
    Metric("r_high", lambda m: float(m.judged.fit.high[m.index]), label="to"),
    Metric("r_own", lambda m: float(m.judged.own[m.index]), label="r of the sky"),
    Metric("r_bias", lambda m: float(m.judged.fit.best[m.index, 0] - m.judged.own[m.index]), label="bias"),
    Metric("r_sigma", lambda m: float(m.judged.fit.sigma[m.index]), label="sigma(r)", better="lower"),
)
OF_FOREGROUNDS = (
    Metric("A_fg", lambda m: m.amplitude, label="A_fg"),
    Metric("r_fg", lambda m: float(m.judged.of_foregrounds[m.index]), label="r of the foregrounds"),
)


class MeasureR(Delensing):
    """r of test skies, with the method and without delensing: estimate, interval, bias.

    What lensing, noise and foregrounds are left is told by skies of which the truth is used: the first half of the test
    skies, or all skies of another split (`analysis.r.known`); none of them lends a judged sky its answer. Where
    foregrounds are known, r is measured once as if there were none, which is wrong by what they leave, and once with
    their amplitude free.
    """

    name = "measure_r"
    inputs = (Every("r_spectra"), "filters", MASK)
    outputs = ("r_csv", "r_md", "r_png", "r_zip", "r_curves")
    uses = (*Delensing.caption_keys, "analysis.r", "analysis.lmax", "delens.lmin_b", "mask")
    reads = ("splits",)
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
        demand(
            bins > 1 or not (has_foregrounds_left(cfg) and "A_fg" in cfg.analysis.r.free),
            f"analysis.r.band={band} is one bin of analysis.r.delta_l={width}, in which r and A_fg cannot be told"
            " apart; make the bins smaller, or say analysis.r.free=[r].",
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
        self, item: Item, *, r_spectra: Files, filters: dict[str, np.ndarray], mask: SkyMap | None = None
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
            known, judged = ({name: power[at] for name, power in powers.items()} for at in (known_at, judged_at))
            self._demand_positive(known, judged)
            modes = bins.modes(np.mean([skies[place]["predicted"] for place in known_at], axis=0))
            measured[method] = judged
            demand(
                FREE not in self._ways(powers) or len(tensor) > 1,
                f"analysis.r.band={list(self.cfg.analysis.r.band)} holds one bin, from which r and A_fg cannot be told"
                f" apart: analysis.r.delta_l={self.cfg.analysis.r.delta_l} must be smaller, or analysis.r.free=[r].",
            )
            for way in self._ways(powers):
                found[method, way] = r_of_skies(known, judged, tensor, *modes, with_foregrounds=way == FREE)
        metrics = METRICS + (OF_FOREGROUNDS if "foregrounds" in powers else ())
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

    def _parted(self, items: Sequence[Item]) -> tuple[list[int], list[int]]:
        """Places of the judged skies, and of those of which the truth is used."""
        tests = [place for place, item in enumerate(items) if item["split"] == "test"]
        if self.cfg.splits.known:
            return tests, [place for place, item in enumerate(items) if item["split"] == self.cfg.splits.known]
        half = len(tests) // 2
        return tests[half:], tests[:half]

    def _ways(self, powers: Powers) -> tuple[str, ...]:
        """How foregrounds are treated."""
        if "foregrounds" not in powers:
            return (ALONE,)
        return (IGNORED, FREE) if "A_fg" in self.cfg.analysis.r.free else (IGNORED,)

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
    for power, sim in zip(judged.bandpowers, numbers, strict=True):
        files |= cmblikes(
            f"sim{sim:04d}",
            power,
            judged.likelihood,
            bins.windows,
            fiducial=judged.total,
            lensing=lensing,
            shapes={"foregrounds": judged.foregrounds} if np.any(judged.foregrounds) else None,
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


def posteriors(judged: Judged) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Values of r and exp(- profile / 2), 1 at its top, of each sky."""
    curves = []
    fit = judged.fit
    for i, power in enumerate(judged.bandpowers):
        r = fit.best[i, 0] + fit.sigma[i] * np.linspace(-4, 4, _POINTS)
        profile = judged.likelihood.profile(np.tile(power, (_POINTS, 1)), r)
        curves.append((r, np.exp(-(profile - fit.deviance[i]) / 2)))
    return curves
