"""r of the test skies: half of them tells what a delensing leaves, and r is measured on each of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from cmbml.analysis import tables
from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.analysis.delensing.pure_b import PureBins, pure_bins
from cmbml.analysis.figures import COLOURS
from cmbml.analysis.metrics import Metric, values
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.truth import masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import demand
from cmbml.maps.skymap import SkyMap
from cmbml.sky.likelihood import Fit, Likelihood, modes_left
from cmbml.sky.spectra import bin_edges, bin_spectrum

_NAMES = ("predicted", "predicted_x_unlensed", "unlensed")
_POINTS = 200


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
    sigma_zero : float
        sigma(r = 0).
    known : int
        Of how many other skies R + N is the mean.
    """

    bandpowers: np.ndarray
    likelihood: Likelihood
    fit: Fit
    own: np.ndarray
    sigma_zero: float
    known: int

    @property
    def bias(self) -> tuple[float, float]:
        """Mean of r-hat less the sky's own r, and its error.

        The scatter of the differences over sqrt(n); and once more for the skies of which R + N is the mean, whose
        scatter is the same and whose error all of these share.
        """
        difference = self.fit.best[:, 0] - self.own
        scatter = difference.std(ddof=1) if len(difference) > 1 else np.nan
        return float(difference.mean()), float(scatter * np.sqrt(1 / len(difference) + 1 / self.known))


def left_of(known: Mapping[str, np.ndarray]) -> np.ndarray:
    """R + N (nbin,) of skies of which the truth is used."""
    left: np.ndarray = np.mean(known["predicted"] - 2 * known["predicted_x_unlensed"] + known["unlensed"], axis=0)
    return left


def r_of_skies(
    known: Mapping[str, np.ndarray],
    judged: Mapping[str, np.ndarray],
    tensor: np.ndarray,
    modes: np.ndarray,
    correlation: np.ndarray | None = None,
) -> Judged:
    """Return r of the skies ``judged``, from what ``known`` ones, of which the truth is used, have left.

    With p the delensed map and u the primordial one, the mean of C[p - u] = C[p] - 2 C[p, u] + C[u] over the known
    skies is R + N: lensing and noise that are left, without the sample variance of their u. Of the judged skies C[p] is
    used, and their u for what r-hat is compared with.

    Parameters
    ----------
    known, judged : mapping
        Bandpowers (nsky, nbin) ``predicted``, ``predicted_x_unlensed`` and ``unlensed`` of ``delensing_spectra``.
    tensor : array (nbin,)
        Bandpowers at r = 1.
    modes : array (nbin,)
    correlation : array (nbin, nbin), optional
    """
    left = left_of(known)
    skies = len(known["predicted"])
    total = known["predicted"].mean(axis=0)
    likelihood = Likelihood(tensor[None], left, modes_left(modes, total, left, skies), correlation)
    own = judged["unlensed"] @ likelihood.weights(total)[0]
    fit = likelihood.fit(judged["predicted"])
    return Judged(judged["predicted"], likelihood, fit, own, likelihood.sigma_r(left), skies)


@dataclass(frozen=True)
class OfSky:
    """One sky of `Judged`."""

    judged: Judged
    index: int


METRICS = (
    Metric("r_hat", lambda m: float(m.judged.fit.best[m.index, 0]), label="r-hat"),
    Metric("r_low", lambda m: float(m.judged.fit.low[m.index]), label="from"),
    Metric("r_high", lambda m: float(m.judged.fit.high[m.index]), label="to"),
    Metric("r_own", lambda m: float(m.judged.own[m.index]), label="r of the sky"),
    Metric("r_bias", lambda m: float(m.judged.fit.best[m.index, 0] - m.judged.own[m.index]), label="bias"),
    Metric("r_sigma", lambda m: float(m.judged.fit.sigma[m.index]), label="sigma(r)", better="lower"),
)


def whole(cfg: DictConfig) -> bool:
    """Whether the full sky is measured."""
    return not masked(cfg)


class MeasureR(Delensing):
    """r of half of the test skies, with the method and without delensing: estimate, interval, bias.

    The other half, of which the truth is used, tells what lensing and noise are left; neither half lends the other its
    answers, and no network has learned from either. With foregrounds in the maps r is wrong by what they leave: their
    amplitude is not fitted here. Full skies are measured in their B, masked ones in the pure B of `pure_spectra`.
    """

    name = "measure_r"
    inputs = (
        Optional(Every("spectra", split="test"), when=whole),
        Optional(Every("pure_spectra", split="test"), "mask", when=masked),
        "filters",
    )
    outputs = ("r_csv", "r_md", "r_png")
    uses = (*Delensing.caption_keys, "analysis.band_r", "analysis.delta_l", "analysis.lmax", "delens.lmin_b", "mask")
    reads = ("splits",)
    memory = "20 MB"

    def check(self) -> None:
        """Refuse fields and bands that have no r, and a single sky."""
        first, last = self.band_r
        demand(self.cfg.delens.field == "B", f"r is measured in B, and field={self.cfg.delens.field}; set field=B.")
        demand(
            first < last,
            f"analysis.band_r={list(self.cfg.analysis.band_r)} has no multipoles below delens.lmin_b - 10 = {last}.",
        )
        demand(
            self.cfg.splits.test >= 2,
            "r needs two test skies at least: one to tell what is left, and one to measure; set splits.test=2 or more.",
        )

    def run(
        self,
        item: Item,
        *,
        filters: dict[str, np.ndarray],
        spectra: Files | None = None,
        pure_spectra: Files | None = None,
        mask: SkyMap | None = None,
    ) -> tuple[list[dict[str, Any]], str, Figure]:
        """Rows of numbers, one a method and sky; a table of means; points and posteriors."""
        cfg = self.cfg
        skies = list(spectra or pure_spectra or ())
        half = len(skies) // 2
        tensor = bin_spectrum(filters["bb_tensor"], self.edges_r)
        modes = np.diff(self.edges_r**2)
        correlation = None
        pure = None if mask is None else pure_bins(cfg, mask, self.band_r, cfg.delens.fwhm_arcmin)
        found = {}
        for method in (cfg.method.name, NONE):
            bandpowers = self._bandpowers(skies, method, pure)
            if pure is not None:
                total = np.mean([cls["predicted"] for cls in of_method(skies[:half], method)], axis=0)
                modes, correlation = pure.modes(total)
                tensor = pure.windows @ filters["bb_tensor"][: pure.windows.shape[-1]]
            known = {name: bandpowers[name][:half] for name in _NAMES}
            judged = {name: bandpowers[name][half:] for name in _NAMES}
            demand(
                bool(np.all(bandpowers["predicted"] > 0) and np.all(left_of(known) > 0)),
                f"A bandpower within analysis.band_r={list(self.band_r)} is not above 0, for the mask mixes multipoles:"
                " begin the band higher, or widen analysis.delta_l or mask.apodise_deg.",
            )
            found[method] = r_of_skies(known, judged, tensor, modes, correlation)
        rows = [
            {"method": method, "sim": half + i, **values(METRICS, OfSky(judged, i))}
            for method, judged in found.items()
            for i in range(len(judged.own))
        ]
        caption = self.caption(split="test", sims=len(skies) - half, mask=mask)
        first, last = self.band_r
        caption |= {
            "B": "scalar" if pure is None else "pure",
            "l": f"{first} .. {last}",
            "what is left": f"of {half} other test skies",
        }
        for method, result in found.items():
            bias, error = result.bias
            caption[f"{method}:"] = f"mean bias {bias:.2g} ± {error:.2g}, sigma(r = 0) {result.sigma_zero:.2g}"
        summary = tables.summarise(rows, by=("method",))
        table = tables.to_markdown(summary, caption=caption | tables.SCATTER, metrics=METRICS)
        return rows, table, r_figure(found, caption=caption)

    def _bandpowers(
        self, skies: Sequence[Mapping[str, np.ndarray]], method: str, pure: PureBins | None
    ) -> dict[str, np.ndarray]:
        """Bandpowers (nsky, nbin) of one method, of the full sky or pure."""
        of_skies = of_method(skies, method)
        if pure is None:
            return stack(of_skies, self.edges_r)
        return {name: np.array([cls[name] for cls in of_skies]) @ pure.unbiased.T for name in _NAMES}

    @property
    def edges_r(self) -> np.ndarray:
        """Bins of the band of r."""
        first, last = self.band_r
        return bin_edges(first, last + 1, self.cfg.analysis.delta_l)


def r_figure(found: Mapping[str, Judged], *, caption: Mapping[str, Any]) -> Figure:
    """Draw r-hat of each sky with its interval and the r that it had, and the posteriors below.

    Parameters
    ----------
    found : mapping
        Name of a method -> r of its skies.
    caption : mapping
        See ``captions.describe``.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 5.0, caption)
        top, bottom = figure.subplots(2, 1, sharex=True)
        for i, (method, judged) in enumerate(found.items()):
            fit = judged.fit
            sky = np.arange(len(judged.own)) + 0.25 * i
            r = fit.best[:, 0]
            colour = COLOURS[i % len(COLOURS)]
            top.errorbar(r, sky, xerr=[r - fit.low, fit.high - r], color=colour, ls="", marker="o", ms=4, label=method)
            top.plot(judged.own, sky, color="black", ls="", marker="|", ms=8, label=None if i else "r of the sky")
            for curve in posteriors(judged):
                bottom.plot(*curve, color=colour, lw=0.8)
        top.set(ylabel="sky", yticks=np.arange(len(judged.own)))
        top.invert_yaxis()
        bottom.set(xlabel="r", ylabel="posterior", ylim=(0, None))
        figure.legend(*top.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def posteriors(judged: Judged) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Values of r and exp(- profile / 2), 1 at its top, of each sky."""
    curves = []
    fit = judged.fit
    for i, power in enumerate(judged.bandpowers):
        r = fit.best[i, 0] + fit.sigma[i] * np.linspace(-4, 4, _POINTS)
        profile = judged.likelihood.profile(np.tile(power, (_POINTS, 1)), r)
        curves.append((r, np.exp(-(profile - fit.deviance[i]) / 2)))
    return curves
