"""The stages of the measurement; they read predictions and truth as assets and know no method."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import figures, projections, tables
from cmbml.analysis.captions import INSIDE, inside
from cmbml.analysis.common import common_form, deconvolved_alm
from cmbml.analysis.delensing.figures import delensing_figure
from cmbml.analysis.delensing.metrics import delensing_spectra, headline, measured_sigma_r, note, theory_curves
from cmbml.analysis.metrics import pixel_metrics
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.truth import masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import one_band
from cmbml.sky.fields import field_map
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_edges

NONE = "no delensing"  # the observed map itself


class Captioned(Stage):
    """A stage whose pictures and tables say what they show."""

    dataset_keys = ("dataset", "delens.field", "delens.fwhm_arcmin", "instrument", "sky.nside", "sky.lmax")
    caption_keys = (*dataset_keys, "method.target", "method.name")

    def of_dataset(self) -> dict[str, Any]:
        """Entries of `cmbml.analysis.captions.describe` that all methods share."""
        cfg, field = self.cfg, self.cfg.delens.field
        band = one_band(cfg.instrument)
        noise = band.noise_t_uk_arcmin if field == "T" else band.noise_p_uk_arcmin
        return {
            "field": field,
            "unit": "uK_CMB",
            "dataset": cfg.dataset,
            "nside": cfg.sky.nside,
            "lmax": cfg.sky.lmax,
            "fwhm_arcmin": cfg.delens.fwhm_arcmin,
            "noise_uk_arcmin": float(f"{noise:.3g}"),
        }

    def caption(self, item: Item, **more: Any) -> dict[str, Any]:
        """Entries of `cmbml.analysis.captions.describe` for one method."""
        method = self.cfg.method
        return {**self.of_dataset(), "target": method.target, "method": method.name, **item, **more}


def seen_part(mask: SkyMap | None) -> dict[str, str]:
    """Entry of a caption: how much of the sky counts; none for the full sky."""
    if mask is None:
        return {}
    part = f"{f_sky(mask['mask']):.3g}, the mean of the squared mask"
    return {"f_sky": f"{part} (pixels where it exceeds {INSIDE:g}; spectra over the mean of its 4th power)"}


class Measure(SimStage):
    """Pixel metrics in native and common form, and the spectra that tell delensing from filtering.

    Native: the truth carries the beam of the prediction. Common: both are brought to the beam `analysis.fwhm_arcmin`
    and the band limit `analysis.lmax`. Spectra are beam-deconvolved. Q and U mix under any filter in harmonic space,
    so that a map of one of them alone has no common form; its spectra are those of a scalar map with its beam.
    sigma(r) is of B alone, for the part `analysis.f_sky` of the sky and the multipoles `analysis.band_r`.

    On a masked sky the observation and the prediction carry the mask once; the truth is given it as well. Pixels count
    where it exceeds one half. Spectra are of maps that carry it twice, over the mean of mask^4: ratios need no f_sky,
    and multipoles are mixed over the width of the mask's own spectrum. Three things stay in them. E leaks into B at the
    mask's border and adds to the *observed* B, and so to the prediction, but not to the lensing B, which is made of
    truth, nor to a template of it that is made from E: A_res does not know the leakage; sigma(r) does, and has it as
    noise. A template from masked E and an estimate of kappa times mask^2 fades within the taper as mask^3 where the sky
    fades as mask: A_res counts the difference as lensing that is left. And `analysis.f_sky` remains the part of the sky
    that sigma(r) is told for, not that of this mask.
    """

    name = "measure"
    splits = ("test",)
    inputs = ("prediction", "obs", "unlensed_alm", "lensed_alm", "filters", Optional("mask", when=masked))
    outputs = ("metrics", "spectra")
    uses = (
        "method.name", "method.target", "delens.field", "analysis.fwhm_arcmin", "analysis.lmax", "analysis.band",
        "analysis.delta_l", "analysis.band_r", "analysis.f_sky",
    )  # fmt: skip
    reads = ("splits", "sky.nside", "mask.kind")
    version = 2

    def run(
        self,
        item: Item,
        *,
        prediction: SkyMap,
        obs: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> tuple[list[dict], dict[str, np.ndarray]]:
        """One row a method and form, and the spectra of `metrics.delensing_spectra` as ``{method}/{name}``."""
        field, name = self.cfg.delens.field, self.cfg.method.name
        maps = {name: prediction[field], NONE: obs[field]}
        truth = self._truth(unlensed_alm, obs)
        forms = {"native": maps | {"truth": truth if mask is None else truth * mask["mask"]}}
        if field not in "QU":
            forms["common"] = {key: self._common(m, obs.fwhm_arcmin) for key, m in forms["native"].items()}
        cls = self._spectra(maps, obs, unlensed_alm, lensed_alm, mask)
        judged = {method: self._judge(own, filters) for method, own in cls.items()}
        for values in judged.values():
            values["sigma_r_ratio"] = values["sigma_r"] / judged[NONE]["sigma_r"]
        rows = []
        for form, skies in forms.items():
            for method in maps:
                pixels = pixel_metrics(skies["truth"], skies[method], mask=inside(mask))
                rows.append({"method": method, "form": form, **item, **pixels, **judged[method]})
        return rows, {f"{method}/{key}": cl for method, own in cls.items() for key, cl in own.items()}

    def _judge(self, cls: dict[str, np.ndarray], filters: dict[str, np.ndarray]) -> dict[str, float]:
        a = self.cfg.analysis
        values = headline(cls, lmin=a.band[0], lmax=min(a.band[1], a.lmax))
        if self.cfg.delens.field != "B":
            return values | {"sigma_r": math.nan}
        edges = bin_edges(a.band_r[0], min(a.band_r[1], a.lmax) + 1, a.delta_l)
        return values | {"sigma_r": measured_sigma_r(cls, filters["bb_tensor"], edges, f_sky=a.f_sky)}

    def _truth(self, alms: dict[str, np.ndarray], like: SkyMap) -> np.ndarray:
        return field_map(alms, self.cfg.delens.field, nside=like.nside, fwhm_arcmin=like.fwhm_arcmin)

    def _common(self, m: np.ndarray, fwhm_arcmin: float) -> np.ndarray:
        a = self.cfg.analysis
        return common_form(m, fwhm_arcmin=fwhm_arcmin, to_fwhm_arcmin=a.fwhm_arcmin, lmax=a.lmax)

    def _spectra(
        self,
        maps: dict[str, np.ndarray],
        obs: SkyMap,
        unlensed: dict[str, np.ndarray],
        lensed: dict[str, np.ndarray],
        mask: SkyMap | None,
    ) -> dict[str, dict[str, np.ndarray]]:
        fwhm_arcmin = 0.0 if self.cfg.delens.field in "QU" else obs.fwhm_arcmin

        def alm(m: np.ndarray, times: int) -> np.ndarray:
            m = m.astype(float) if mask is None else m * mask["mask"].astype(float) ** times
            return deconvolved_alm(m, fwhm_arcmin=fwhm_arcmin, lmax=self.cfg.analysis.lmax)

        u, lens = (alm(self._truth(alms, obs), 2) for alms in (unlensed, lensed))
        target, name = self.cfg.method.target, self.cfg.method.name
        o, p = alm(maps[NONE], 1), alm(maps[name], 1)
        estimate = p if target == "unlensed" else o - p
        cls = {
            name: delensing_spectra(u, lens, o, estimate, target=target),
            NONE: delensing_spectra(u, lens, o, None, target=target),
        }
        if mask is None:
            return cls
        part = f_sky(mask["mask"], 4)
        return {method: {key: cl / part for key, cl in own.items()} for method, own in cls.items()}

    def cost(self) -> tuple[float, float]:
        """Twenty spectra on disk, a dozen maps in memory."""
        return 20 * 8 * self.cfg.analysis.lmax, 12 * 8 * 12 * self.cfg.sky.nside**2


class Pictures(SimStage, Captioned):
    """Truth, observed, predicted, difference: the whole sky, one zoomed patch, and the histogram of the residual.

    What is masked is grey; the truth has the same taper as the others.
    """

    name = "pictures"
    splits = ("test",)
    inputs = ("prediction", "obs", "unlensed_alm", Optional("mask", when=masked))
    outputs = ("skies_png", "zoom_png", "residual_png")
    uses = (*Captioned.caption_keys, "analysis.zoom")
    reads = ("splits", "mask.kind")

    def run(
        self,
        item: Item,
        *,
        prediction: SkyMap,
        obs: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> tuple[Figure, ...]:
        """Three figures."""
        field, caption, good = self.cfg.delens.field, self.caption(item, **seen_part(mask)), inside(mask)
        truth = field_map(unlensed_alm, field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin)
        truth = truth if mask is None else truth * mask["mask"]
        skies = truth, obs[field], prediction[field]
        lon, lat, size = self.cfg.analysis.zoom
        residuals = {"observed": skies[1] - truth, "predicted": skies[2] - truth}
        return (
            projections.sky_panels(*skies, caption=caption, mask=good),
            projections.zoom_panels(*skies, caption=caption, lon_deg=lon, lat_deg=lat, size_deg=size, mask=good),
            figures.residual_histogram(residuals, caption=caption, mask=good),
        )

    def cost(self) -> tuple[float, float]:
        """Three pictures on disk, a dozen maps in memory."""
        return 1e6, 12 * 8 * 12 * self.cfg.sky.nside**2


class Summary(Captioned):
    """The table over all test skies, and the figures of spectra and of what the delensing has removed."""

    name = "summary"
    inputs = (
        Every("metrics", split="test"),
        Every("spectra", split="test"),
        "filters",
        Optional("mask", when=masked),
    )
    outputs = ("table_csv", "table_md", "table_tex", "spectra_png", "delensing_png")
    uses = (*Captioned.caption_keys, "analysis.band", "analysis.delta_l", "analysis.lmax")
    reads = ("mask.kind",)

    def run(
        self,
        item: Item,
        *,
        metrics: Files,
        spectra: Files,
        filters: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> tuple[list[dict], str, str, Figure, Figure]:
        """CSV rows, Markdown, LaTeX and two figures."""
        a, caption = self.cfg.analysis, self.caption({"split": "test"}, sims=len(metrics), **seen_part(mask))
        summary = tables.summarise([row for sky in metrics for row in sky], judge=note)
        edges = bin_edges(2, a.lmax + 1, a.delta_l)
        skies = list(spectra)
        names = (self.cfg.method.name, NONE)
        stacked = {name: stack(of_method(skies, name), edges) for name in names}
        theory = theory_curves(filters, self.cfg.delens.field, [self.cfg.method.target])
        notes = {line["method"]: line["note"] for line in summary}
        band = (a.band[0], min(a.band[1], a.lmax))
        return (
            tables.to_rows(summary),
            tables.to_markdown(summary, caption=caption),
            tables.to_latex(summary, caption=caption),
            figures.spectra_figure(stacked[self.cfg.method.name], caption=caption),
            delensing_figure(stacked, caption=caption, notes=notes, band=band, theory=theory),
        )


class Curves(Captioned):
    """Loss and learning rate against the epoch."""

    name = "curves"
    inputs = ("history",)
    outputs = ("curves",)
    uses = Captioned.caption_keys

    def run(self, item: Item, *, history: list[dict]) -> Figure:
        """One figure."""
        return figures.loss_curves(history, caption=self.caption({}))
