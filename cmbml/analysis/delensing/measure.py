"""The stages that measure a delensing; they read predictions and truth as assets and know no method."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import measure, tables
from cmbml.analysis.captions import INSIDE, foregrounds_text, inside
from cmbml.analysis.common import demand_usable
from cmbml.analysis.delensing import metrics
from cmbml.analysis.delensing.figures import delensing_figure
from cmbml.analysis.delensing.forms import Forms
from cmbml.analysis.delensing.sigma_r import band_of_r
from cmbml.analysis.figures import spectra_figure
from cmbml.analysis.measure import Judged
from cmbml.analysis.metrics import PIXEL_METRICS, Metric, pixel_metrics
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.truth import cleaned
from cmbml.core.asset import Every, Item
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import one_band
from cmbml.sky.fields import field_map
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_edges

NONE = "no delensing"  # the observed map itself


def of_filters(filters: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Entry of a caption: what the filters of the estimators are made of."""
    skies = int(filters.get("skies", 0))
    if skies:
        return {"filters": f"of the noise and transfer measured on {skies} training skies"}
    return {"filters": "of the instrument's noise, not of that measured in its maps"}


class Delensing(Judged):
    """A stage of the job delensing."""

    dataset_keys = (
        *("dataset", "delens.field", "delens.fwhm_arcmin", "instrument", "sky.nside", "sky.lmax"),
        *("sims.combine", "sims.external", "foregrounds.kind", "foregrounds.presets"),
    )
    caption_keys = (*dataset_keys, "method.target", "method.name")
    by = ("method", "form")
    varies = False  # variants of a test sky are the matter of `response.Response` alone

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `cmbml.analysis.delensing.metrics.METRICS`."""
        return metrics.METRICS

    @property
    def band_r(self) -> tuple[int, int]:
        """First and last multipole of sigma(r)."""
        a = self.cfg.analysis
        return band_of_r(a.r.band, lmax=a.lmax, lmin_b=self.cfg.delens.lmin_b)

    def of_sigma(self) -> dict[str, str]:
        """Entry of a caption: what sigma(r) is of; none for another field than B."""
        if self.cfg.delens.field != "B":
            return {}
        first, last = self.band_r
        if first > last:
            return {
                "sigma(r)": f"not known: analysis.r.band begins at {first} and estimates hold B from {last + 10} on"
            }
        return {"sigma(r)": f"of l = {first} .. {last} and {self.cfg.analysis.f_sky:.3g} of the sky"}

    def note(self, line: Mapping[str, Any]) -> str:
        """Why A_res is no headline."""
        return metrics.note(line)

    def of_dataset(self) -> dict[str, Any]:
        """Entries of `cmbml.analysis.captions.describe` that all methods share."""
        cfg = self.cfg
        field = cfg.delens.field
        return {
            "field": field,
            "unit": "uK_CMB",
            "dataset": cfg.dataset,
            "nside": cfg.sky.nside,
            "lmax": cfg.sky.lmax,
            "fwhm_arcmin": cfg.delens.fwhm_arcmin,
            **self.of_observation(),
        }

    def of_observation(self) -> dict[str, Any]:
        """Noise of the one band, or of which bands and foregrounds the sky is combined."""
        cfg = self.cfg
        if cleaned(cfg):
            return {"bands": f"of {cfg.instrument.name}, combined", "foregrounds": foregrounds_text(cfg)}
        return {"noise_uk_arcmin": float(f"{one_band(cfg.instrument).noise(cfg.delens.field)[0]:.3g}")}

    def seen_part(self, mask: SkyMap | None) -> dict[str, str]:
        """How much of the sky counts; nothing for the full sky."""
        if mask is None:
            return {}
        part = f"{f_sky(mask['mask']):.3g}, the mean of the squared mask"
        return {"f_sky": f"{part} (pixels where it exceeds {INSIDE:g}; spectra over the mean of its 4th power)"}

    def caption(self, *, mask: SkyMap | None = None, **more: Any) -> dict[str, Any]:
        """Entries of `describe` for one method, with what it estimates."""
        return super().caption(mask=mask, target=self.cfg.method.target, **more)

    def true_map(self, alms: dict[str, np.ndarray], obs: SkyMap) -> np.ndarray:
        """Return the field of a true sky on the pixels and with the beam of the observation, (npix,)."""
        return field_map(alms, self.cfg.delens.field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin)


class Baseline(Delensing, SimStage):
    """What every method of a sky is measured against, once a sky: its true and observed field, and "no delensing".

    ``measured_alm`` holds ``unlensed``, ``lensed`` and ``observed``: beam-deconvolved alms of maps on the pixels of the
    observation, so that the errors of an analysis of pixels, which a prediction has, are in the truth as well.
    ``baseline`` holds the pixel metrics of the observed map, one row a form.
    """

    name = "baseline"
    splits = ("test",)
    inputs = ("obs", "unlensed_alm", "lensed_alm", measure.MASK)
    outputs = ("measured_alm", "baseline")
    uses = ("delens.field", "analysis.fwhm_arcmin", "analysis.lmax")
    reads = ("splits", "mask.kind")
    version = 2

    def run(
        self,
        item: Item,
        *,
        obs: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Alms (nalm of `analysis.lmax`,), uK_CMB, and rows of numbers."""
        forms = Forms(self.cfg, obs, mask)
        truth = self.true_map(unlensed_alm, obs)
        alms = {
            "unlensed": forms.alm(truth, times=2),
            "lensed": forms.alm(self.true_map(lensed_alm, obs), times=2),
            "observed": forms.alm(obs[self.cfg.delens.field], times=1),
        }
        truths = forms.of(forms.tapered(truth), alms["unlensed"])
        observed = forms.of(obs[self.cfg.delens.field], alms["observed"])
        rows = [{"form": form, **pixel_metrics(truths[form], observed[form], mask=inside(mask))} for form in truths]
        return {name: alm.astype(np.complex64) for name, alm in alms.items()}, rows


class Measure(Delensing, measure.Measure):
    """Pixel metrics in native and common form, and the spectra that tell delensing from filtering.

    Native: the truth carries the beam of the prediction. Common: both are brought to the beam `analysis.fwhm_arcmin`
    and the band limit `analysis.lmax`. Spectra are beam-deconvolved. Q and U mix under any filter in harmonic space,
    so that a map of one of them alone has no common form; its spectra are those of a scalar map with its beam.
    sigma(r) is of B alone, for the part `analysis.f_sky` of the sky and the multipoles of `sigma_r.band_of_r`. A method
    that samples its posterior has A_res without the truth beside it, for B (`metrics.expected`).

    On a masked sky the observation and the prediction carry the mask once; the truth is given it as well. Pixels count
    where it exceeds one half. Spectra are of maps that carry it twice, over the mean of mask^4: ratios need no f_sky,
    and multipoles are mixed over the width of the mask's own spectrum. Three things stay in them. E leaks into B at the
    mask's border and adds to the *observed* B, and so to the prediction, but not to the lensing B, which is made of
    truth, nor to a template of it that is made from E: A_res does not know the leakage; sigma(r) does, and has it as
    noise. A template from masked E and an estimate of kappa times mask^2 fades within the taper as mask^3 where the sky
    fades as mask: A_res counts the difference as lensing that is left. And `analysis.f_sky` remains the part of the sky
    that sigma(r) is told for, not that of this mask.
    """

    inputs = (
        "prediction",
        "unlensed_alm",
        "measured_alm",
        "baseline",
        "filters",
        measure.MASK,
        Every("posterior", optional=True),
    )
    uses = (
        "method.name",
        "method.target",
        "delens.field",
        "analysis.fwhm_arcmin",
        "analysis.lmax",
        "analysis.band",
        "analysis.delta_l",
        "analysis.r.band",
        "analysis.f_sky",
        "delens.lmin_b",
    )
    reads = ("splits", "mask.kind", "delens.fwhm_arcmin")
    version = 6

    def check(self) -> None:
        """Refuse multipoles of which the beam leaves nothing."""
        if self.cfg.delens.field not in "QU":
            fwhm_arcmin = self.cfg.delens.fwhm_arcmin
            demand_usable(f"delens.fwhm_arcmin={fwhm_arcmin:g}", fwhm_arcmin, self.cfg.analysis.lmax)

    def run(  # type: ignore[override]  # one input more than it hands on
        self, item: Item, *, posterior: Sequence[Mapping[str, np.ndarray]] = (), **inputs: Any
    ) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Rows of numbers, and the spectra."""
        rows, spectra = super().run(item, **inputs)
        for samples in posterior if self.cfg.delens.field == "B" else ():
            of_method = metrics.expected(samples, self.band)
            unknown = dict.fromkeys(of_method, np.nan)
            rows = [row | (of_method if row["method"] == self.cfg.method.name else unknown) for row in rows]
        return rows, spectra

    @property
    def band(self) -> tuple[int, int]:
        """First and last multipole of the headline."""
        a = self.cfg.analysis
        return a.band[0], min(a.band[1], a.lmax)

    def measured(
        self,
        spectra: dict[str, np.ndarray],
        *,
        prediction: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        measured_alm: dict[str, np.ndarray],
        baseline: list[dict[str, Any]],
        filters: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> Iterator[tuple[dict[str, str], metrics.Measured]]:
        """One row a form and method, "no delensing" among them; spectra are named ``{method}/{name}``."""
        a = self.cfg.analysis
        name = self.cfg.method.name
        field = self.cfg.delens.field
        forms = Forms(self.cfg, prediction, mask)
        alms = {key: alm.astype(np.complex128) for key, alm in measured_alm.items()}
        predicted = forms.alm(prediction[field], times=1)
        truths = forms.of(forms.tapered(self.true_map(unlensed_alm, prediction)), alms["unlensed"])
        maps = forms.of(prediction[field], predicted)
        cls = self._spectra(alms, predicted, mask)
        first, last = self.band_r
        edges = bin_edges(first, last + 1, a.delta_l) if first <= last else np.empty(0, dtype=int)
        spectra |= {f"{method}/{key}": cl for method, by_name in cls.items() for key, cl in by_name.items()}
        without = {row["form"]: {key: float(row[key]) for key in PIXEL_METRICS} for row in baseline}
        for form, truth in truths.items():
            of_method = pixel_metrics(truth, maps[form], mask=inside(mask))
            for method, pixels in ((name, of_method), (NONE, without[form])):
                yield (
                    {"method": method, "form": form},
                    metrics.Measured(
                        pixels=pixels,
                        cls=cls[method],
                        none=cls[NONE],
                        band=self.band,
                        above=(self.cfg.delens.lmin_b, a.lmax),
                        tensor=filters["bb_tensor"] if field == "B" else None,
                        edges=edges,
                        f_sky=a.f_sky,
                    ),
                )

    def _spectra(
        self, alms: dict[str, np.ndarray], predicted: np.ndarray, mask: SkyMap | None
    ) -> dict[str, dict[str, np.ndarray]]:
        target = self.cfg.method.target
        sky = (alms["unlensed"], alms["lensed"], alms["observed"])
        estimate = predicted if target == "unlensed" else alms["observed"] - predicted
        cls = {
            self.cfg.method.name: metrics.delensing_spectra(*sky, estimate, target=target),
            NONE: metrics.delensing_spectra(*sky, None, target=target),
        }
        if mask is None:
            return cls
        part = f_sky(mask["mask"], 4)
        return {method: {key: cl / part for key, cl in by_name.items()} for method, by_name in cls.items()}


class Summary(Delensing, measure.Summary):
    """The table over all test skies, and the figures of spectra and of what the delensing has removed."""

    inputs = (*measure.SUMMARISED, "filters", measure.MASK)
    outputs = (*measure.TABLES, "spectra_png", "delensing_png")
    uses = (
        *Delensing.caption_keys,
        "analysis.band",
        "analysis.r.band",
        "analysis.delta_l",
        "analysis.f_sky",
        "analysis.lmax",
        "delens.lmin_b",
    )
    reads = ("mask.kind",)

    def more(self, mask: SkyMap | None, *, filters: Mapping[str, np.ndarray]) -> dict[str, str]:  # type: ignore[override]
        """What the filters and sigma(r) are of."""
        return of_filters(filters) | self.of_sigma()

    def figures(
        self,
        summary: list[dict[str, Any]],
        skies: list[dict[str, np.ndarray]],
        caption: dict[str, Any],
        mask: SkyMap | None,
        *,
        filters: dict[str, np.ndarray],
    ) -> tuple[Figure, Figure]:
        """Spectra of the method, and A_res, transfer and rho beside "no delensing"."""
        a = self.cfg.analysis
        name = self.cfg.method.name
        stacked = {method: stack(of_method(skies, method), self.edges) for method in (name, NONE)}
        theory = metrics.theory_curves(filters, self.cfg.delens.field, [self.cfg.method.target])
        notes = tables.notes(summary)
        band = (a.band[0], min(a.band[1], a.lmax))
        look = {"band": band, "theory": theory, "lmin_b": self.cfg.delens.lmin_b}
        return (
            spectra_figure(stacked[name], caption=caption),
            delensing_figure(stacked, caption=caption, notes=notes, **look),
        )


class Curves(Delensing, measure.Curves):
    """Loss and learning rate of the network against the epoch; none where the network is given."""

    uses = Delensing.caption_keys
