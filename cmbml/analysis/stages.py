"""The stages of the measurement; they read predictions and truth as assets and know no method."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import figures, metrics, projections, spectra, tables
from cmbml.analysis.common import common_form, deconvolved_alm
from cmbml.core.asset import Every, Files, Item
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage, Stage
from cmbml.sky.fields import field_map
from cmbml.sky.spectra import bin_edges

NONE = "no delensing"  # the observed map itself


class _Captioned(Stage):
    """A stage whose pictures and tables say what they show."""

    caption_keys = ("dataset", "delens.field", "delens.target", "method.name", "instrument", "sky.nside", "sky.lmax")

    def caption(self, item: Item, **more: Any) -> dict[str, Any]:
        """Entries of `cmbml.analysis.common.describe`."""
        cfg, field = self.cfg, self.cfg.delens.field
        noise = cfg.instrument.noise_t_uk_arcmin if field == "T" else cfg.instrument.noise_p_uk_arcmin
        return {
            "field": field,
            "unit": "uK_CMB",
            "target": cfg.delens.target,
            "method": cfg.method.name,
            "dataset": cfg.dataset,
            "nside": cfg.sky.nside,
            "lmax": cfg.sky.lmax,
            "fwhm_arcmin": cfg.instrument.fwhm_arcmin,
            "noise_uk_arcmin": float(f"{noise:.3g}"),
            **item,
            **more,
        }


class Measure(SimStage):
    """Pixel metrics in native and common form, and the spectra that tell delensing from filtering.

    Native: the truth carries the beam of the prediction. Common: both are brought to the beam `analysis.fwhm_arcmin`
    and the band limit `analysis.lmax`. Spectra are beam-deconvolved. Q and U mix under any filter in harmonic space,
    so that a map of one of them alone has no common form; its spectra are those of a scalar map with its beam.
    """

    name, splits = "measure", ("test",)
    inputs, outputs = ("prediction", "obs", "unlensed_alm", "lensed_alm"), ("metrics", "spectra")
    uses = ("method.name", "delens.field", "delens.target", "analysis.fwhm_arcmin", "analysis.lmax", "analysis.band")
    reads = ("splits", "sky.nside")

    def run(
        self,
        item: Item,
        prediction: SkyMap,
        obs: SkyMap,
        unlensed: dict[str, np.ndarray],
        lensed: dict[str, np.ndarray],
    ) -> tuple[list[dict], dict[str, np.ndarray]]:
        """One row a method and form, and the spectra of `metrics.delensing_spectra` as ``{method}/{name}``."""
        field, name = self.cfg.delens.field, self.cfg.method.name
        maps = {name: prediction[field], NONE: obs[field]}
        forms = {"native": maps | {"truth": self._truth(unlensed, obs)}}
        if field not in "QU":
            forms["common"] = {key: self._common(m, obs.fwhm_arcmin) for key, m in forms["native"].items()}
        cls = self._spectra(maps, obs, unlensed, lensed)
        low, high = self.cfg.analysis.band
        rows = []
        for form, skies in forms.items():
            for method in maps:
                row = {"method": method, "form": form, **item, **metrics.pixel_metrics(skies["truth"], skies[method])}
                rows.append(row | metrics.headline(cls[method], lmin=low, lmax=min(high, self.cfg.analysis.lmax)))
        return rows, {f"{method}/{key}": cl for method, own in cls.items() for key, cl in own.items()}

    def _truth(self, alms: dict[str, np.ndarray], like: SkyMap) -> np.ndarray:
        return field_map(alms, self.cfg.delens.field, nside=like.nside, fwhm_arcmin=like.fwhm_arcmin)

    def _common(self, m: np.ndarray, fwhm_arcmin: float) -> np.ndarray:
        a = self.cfg.analysis
        return common_form(m, fwhm_arcmin=fwhm_arcmin, to_fwhm_arcmin=a.fwhm_arcmin, lmax=a.lmax)

    def _spectra(
        self, maps: dict[str, np.ndarray], obs: SkyMap, unlensed: dict[str, np.ndarray], lensed: dict[str, np.ndarray]
    ) -> dict[str, dict[str, np.ndarray]]:
        fwhm_arcmin = 0.0 if self.cfg.delens.field in "QU" else obs.fwhm_arcmin

        def alm(m: np.ndarray) -> np.ndarray:
            return deconvolved_alm(m.astype(float), fwhm_arcmin=fwhm_arcmin, lmax=self.cfg.analysis.lmax)

        u, lens, o = alm(self._truth(unlensed, obs)), alm(self._truth(lensed, obs)), alm(maps[NONE])
        target, name = self.cfg.delens.target, self.cfg.method.name
        p = alm(maps[name])
        estimate = p if target == "unlensed" else o - p
        return {
            name: metrics.delensing_spectra(u, lens, o, estimate, target=target),
            NONE: metrics.delensing_spectra(u, lens, o, None, target=target),
        }

    def cost(self) -> tuple[float, float]:
        """Twenty spectra on disk, a dozen maps in memory."""
        return 20 * 8 * self.cfg.analysis.lmax, 12 * 8 * 12 * self.cfg.sky.nside**2


class Pictures(SimStage, _Captioned):
    """Truth, observed, predicted, difference: the whole sky, one zoomed patch, and the histogram of the residual."""

    name, splits = "pictures", ("test",)
    inputs, outputs = ("prediction", "obs", "unlensed_alm"), ("skies_png", "zoom_png", "residual_png")
    uses = (*_Captioned.caption_keys, "analysis.zoom")

    def run(self, item: Item, prediction: SkyMap, obs: SkyMap, unlensed: dict[str, np.ndarray]) -> tuple[Figure, ...]:
        """Three figures."""
        field, caption = self.cfg.delens.field, self.caption(item)
        truth = field_map(unlensed, field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin)
        skies = truth, obs[field], prediction[field]
        lon, lat, size = self.cfg.analysis.zoom
        residuals = {"observed": skies[1] - truth, "predicted": skies[2] - truth}
        return (
            projections.sky_panels(*skies, caption=caption),
            projections.zoom_panels(*skies, caption=caption, lon_deg=lon, lat_deg=lat, size_deg=size),
            figures.residual_histogram(residuals, caption=caption),
        )

    def cost(self) -> tuple[float, float]:
        """Three pictures on disk, a dozen maps in memory."""
        return 1e6, 12 * 8 * 12 * self.cfg.sky.nside**2


class Summary(_Captioned):
    """The table over all test skies, and the figures of spectra and of what the delensing has removed."""

    name = "summary"
    inputs = (Every("metrics", split="test"), Every("spectra", split="test"))
    outputs = ("table_csv", "table_md", "table_tex", "spectra_png", "delensing_png")
    uses = (*_Captioned.caption_keys, "analysis.band", "analysis.delta_l", "analysis.lmax")

    def run(self, item: Item, rows: Files, cls: Files) -> tuple[list[dict], str, str, Figure, Figure]:
        """CSV rows, Markdown, LaTeX and two figures."""
        a, caption = self.cfg.analysis, self.caption({"split": "test"}, sims=len(rows))
        summary = tables.summarise([row for sky in rows for row in sky])
        edges = bin_edges(2, a.lmax + 1, a.delta_l)
        skies = list(cls)
        stacked = {
            method: spectra.stack(
                [{k.split("/")[1]: v for k, v in sky.items() if k.startswith(f"{method}/")} for sky in skies], edges
            )
            for method in (self.cfg.method.name, NONE)
        }
        notes = {line["method"]: line["note"] for line in summary}
        band = (a.band[0], min(a.band[1], a.lmax))
        return (
            tables.to_rows(summary),
            tables.to_markdown(summary, caption=caption),
            tables.to_latex(summary, caption=caption),
            figures.spectra_figure(stacked[self.cfg.method.name], caption=caption),
            figures.delensing_figure(stacked, caption=caption, notes=notes, band=band),
        )


class Curves(_Captioned):
    """Loss and learning rate against the epoch."""

    name, inputs, outputs = "curves", ("history",), ("curves",)
    uses = _Captioned.caption_keys

    def run(self, item: Item, history: list[dict]) -> Figure:
        """One figure."""
        return figures.loss_curves(history, caption=self.caption({}))
