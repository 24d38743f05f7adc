"""What a method answers when the sky is another: variants of a test sky that differ from it in one thing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from cmbml.analysis import tables
from cmbml.analysis.delensing import metrics
from cmbml.analysis.delensing.forms import Forms
from cmbml.analysis.delensing.kappa import kappa_spectra
from cmbml.analysis.delensing.measure import Delensing
from cmbml.analysis.figures import COLOURS, MARKERS, multipole_axis
from cmbml.analysis.measure import MASK
from cmbml.analysis.metrics import Metric, values
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.config.checks import REFERENCE
from cmbml.config.truth import estimates_kappa
from cmbml.core.asset import Every, Files, Item
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_spectrum

BAND = (100, 300)  # multipoles of the response
# A sky with less than this part of the reference's lensing power has none, but for rounding.
_NO_LENSING = 1e-6


@dataclass(frozen=True)
class Answer:
    """What was measured of one method on one variant.

    Attributes
    ----------
    cls : mapping
        ``metrics.delensing_spectra`` of the template.
    kappa : mapping
        ``kappa.kappa_spectra`` of the estimate.
    lensing : array (lmax + 1,)
        Lensing power of the field in the reference sky.
    band, band_kappa : (int, int)
        Multipoles of the field, and of the convergence.
    """

    cls: Mapping[str, np.ndarray]
    kappa: Mapping[str, np.ndarray]
    lensing: np.ndarray
    band: tuple[int, int]
    band_kappa: tuple[int, int]

    @property
    def ratios(self) -> dict[str, float]:
        """A_res, rho and transfer in the band."""
        return metrics.headline(self.cls, lmin=self.band[0], lmax=self.band[1])

    @property
    def is_lensed(self) -> bool:
        """Whether the sky has any lensing."""
        return in_band(self.cls["lensing"], self.band) > _NO_LENSING * in_band(self.lensing, self.band)

    @property
    def response(self) -> float:
        """<estimate, true> / <true, true> of the convergence; nan where there is none."""
        below = in_band(self.kappa["truth"], self.band_kappa)
        return in_band(self.kappa["cross"], self.band_kappa) / below if below > 0 else np.nan


METRICS = (
    Metric("A_res", lambda a: a.ratios["A_res"] if a.is_lensed else np.nan, better="lower"),
    Metric("transfer", lambda a: a.ratios["transfer"], better="one"),
    Metric(
        "template",
        lambda a: in_band(a.cls["estimate"], a.band) / in_band(a.lensing, a.band),
        label="template power / lensing of the sky itself",
    ),
    Metric("response", lambda a: a.response, label="response of the convergence"),
)


def in_band(cl: np.ndarray, band: tuple[int, int]) -> float:
    """Return the mean of a spectrum (lmax + 1,) over a band, first to last multipole, weighted with 2l + 1."""
    return float(bin_spectrum(cl, np.array([band[0], band[1] + 1]))[0])


def band_of_kappa(lmax: int) -> tuple[int, int]:
    """Return the multipoles of the response: 100 to 300, and less where the spectra end before."""
    return min(BAND[0], lmax // 3), min(BAND[1], lmax)


ASSETS = ("estimate", "lensing_template", "unlensed_alm", "lensed_alm")


class Response(Delensing):
    """What the method makes of the variants of the first test sky (`sims.variants`), beside what it makes of that sky.

    A template that is left on an unlensed sky is noise that passes for lensing. The response of an estimator that is
    linear in the observed B does not change with the amplitude of the lensing or with the noise, but for higher orders;
    it may with the power of E in another cosmology. One that does is of a method that has learnt how skies are.
    """

    name = "response"
    version = 2
    inputs = (
        *(Every(asset, split="test", sim=0, name=f"test_{asset}") for asset in ASSETS),
        *(Every(asset, split="variants", name=f"variants_{asset}") for asset in ASSETS),
        MASK,
    )
    outputs = ("response_csv", "response_md", "response_png")
    uses = (*Delensing.caption_keys, "analysis.band", "analysis.delta_l", "analysis.lmax")
    reads = ("analysis.response", "mask.kind", "sims.variants")
    memory = "1 item + 20 MB"

    def items(self) -> list[Item]:
        """One item, if it is asked for and the method estimates the convergence."""
        return [{}] if self.cfg.analysis.response and estimates_kappa(self.cfg) else []

    def check(self) -> None:
        """Refuse to tell of no variants."""
        if not self.names:
            raise UserError("analysis.response=true needs variants of a simulated sky; name some in sims.variants.")

    @property
    def names(self) -> list[str]:
        """Names of the variants."""
        variants: Any = OmegaConf.to_container(self.cfg.sims.variants)
        return [variant["name"] for variant in variants]

    def settings_of(self, item: Item) -> dict[str, Any]:
        """With the names of the variants, which stand in the table and in no sky."""
        return {**self.settings, "sims.variants.name": self.names}

    def run(
        self, item: Item, *, mask: SkyMap | None = None, **skies: Files
    ) -> tuple[list[dict[str, Any]], str, Figure]:
        """One row a sky, the sky itself first; the same as Markdown; and one figure."""
        answers: dict[str, Answer] = {}
        for split, names in (("test", [REFERENCE]), ("variants", self.names)):
            files = [skies[f"{split}_{asset}"] for asset in ASSETS]
            for name, values_of_sky in zip(names, zip(*files, strict=True), strict=True):
                lensing = answers[REFERENCE].lensing if answers else None
                answers[name] = self.answer(*values_of_sky, mask=mask, lensing=lensing)
        labels = [{"method": self.cfg.method.name, "variant": name} for name in answers]
        rows = [{**label, **values(METRICS, a)} for label, a in zip(labels, answers.values(), strict=True)]
        first = answers[REFERENCE]
        bands = {
            "template in": "l = {} .. {}".format(*first.band),
            "response in": "L = {} .. {}".format(*first.band_kappa),
        }
        caption = {**self.caption(split="test", sim=0, mask=mask), **bands}
        return rows, tables.to_markdown(shown(rows), caption=caption, metrics=METRICS), self.figure(answers, caption)

    def answer(
        self,
        estimate: SkyMap,
        lensing_template: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        *,
        mask: SkyMap | None,
        lensing: np.ndarray | None,
    ) -> Answer:
        """Spectra of one sky; ``lensing`` is the power of the reference's lensing, of this sky's own if None."""
        a = self.cfg.analysis
        forms = Forms(self.cfg, lensing_template, mask)
        unlensed, lensed = (
            forms.alm(self.true_map(alms, lensing_template), times=2) for alms in (unlensed_alm, lensed_alm)
        )
        template = forms.alm(lensing_template[self.cfg.delens.field], times=1)
        part = 1.0 if mask is None else f_sky(mask["mask"], 4)
        found = metrics.delensing_spectra(unlensed, lensed, lensed, template, target="kappa")
        cls = {name: cl / part for name, cl in found.items()}
        return Answer(
            cls=cls,
            kappa=kappa_spectra(
                estimate, unlensed_alm["kappa"], lmax=a.lmax, mask=None if mask is None else mask["mask"]
            ),
            lensing=cls["lensing"] if lensing is None else lensing,
            band=(a.band[0], min(a.band[1], a.lmax)),
            band_kappa=band_of_kappa(a.lmax),
        )

    def figure(self, answers: Mapping[str, Answer], caption: Mapping[str, Any]) -> Figure:
        """Response of the convergence against L, and the power of the template; a colour each variant."""
        edges = self.edges
        ell = bin_spectrum(np.arange(edges[-1], dtype=np.float64), edges)
        with matplotlib.rc_context(STYLE):
            figure = new_figure(5.2, 4.8, caption)
            top, bottom = figure.subplots(2, 1, sharex=True)
            for i, (name, answer) in enumerate(answers.items()):
                colour = "black" if name == REFERENCE else COLOURS[(i - 1) % len(COLOURS)]
                look = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "ms": 3}
                cross, truth = (bin_spectrum(answer.kappa[x], edges) for x in ("cross", "truth"))
                response = np.divide(cross, truth, out=np.full_like(cross, np.nan), where=truth > 0)
                top.plot(ell, response, label=name, **look)
                power = bin_spectrum(answer.cls["estimate"], edges) / bin_spectrum(answer.lensing, edges)
                bottom.plot(ell, power, label=name, **look)
            for axis, band in ((top, next(iter(answers.values())).band_kappa), (bottom, self.cfg.analysis.band)):
                axis.axvspan(*band, color="0.93", lw=0, zorder=0)
            top.set(ylabel="response of κ", ylim=(min(0, top.get_ylim()[0]), None))
            bottom.set(ylabel=f"template / lensing of {self.cfg.delens.field}\n(of the sky itself)", ylim=(0, None))
            multipole_axis(bottom)
            figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        return figure


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of the table as a summary of one sky (``tables.summarise``), with their numbers as texts."""

    def text(value: float) -> str:
        return tables.format_value(value, np.nan).removesuffix(" ± -")

    names = [metric.name for metric in METRICS]
    return [{k: text(float(v)) if k in names else v for k, v in row.items()} | {"note": ""} for row in rows]
