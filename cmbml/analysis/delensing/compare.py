"""The stages of `main_analysis_compare.py`: they read finished results of several delensing methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import compare, compare_figures, comparison, tables
from cmbml.analysis.captions import inside
from cmbml.analysis.delensing import figures, report
from cmbml.analysis.delensing.lensing import lensing_figure, lensing_of
from cmbml.analysis.delensing.measure import NONE, Delensing, Measure, of_filters
from cmbml.analysis.delensing.metrics import theory_curves
from cmbml.analysis.measure import MASK
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.truth import estimated
from cmbml.core.asset import Every, Files, Item, Optional, Record
from cmbml.maps.skymap import SkyMap

STEPS = tuple(
    Record(asset, optional=True) for asset in ("model", "kappa_qe", "kappa_linear", "estimate", "lensing_template")
)
# What methods answer when the sky is another, where the command asks for it.
RESPONSES = Optional(
    Every("response_csv", optional=True),
    Every("response_png", optional=True),
    when=lambda cfg: cfg.analysis.response,
)
PICTURES = ("delensing", "spectra", "sigma", "boxes")


class Comparing(Delensing, compare.Comparing):
    """A stage that compares methods of delensing."""

    main = "main_delens.py"
    measure = Measure
    skies = ("unlensed_alm", "measured_alm")
    uses = (
        *Delensing.dataset_keys,
        *compare.Comparing.compare_keys,
        *(key for key in Measure.uses if key.startswith("analysis.")),
        "delens.lmin_b",
    )
    # The words of main_delens.py may be repeated here: how a method came to its results changes nothing.
    reads = (
        "method",
        "splits",
        "analysis",
        "cosmology",
        "delens",
        "mask",
        "network",
        "patches",
        "quadratic",
        "rotation",
        "sky",
        "train",
    )

    @property
    def field(self) -> str:
        """The field that is delensed."""
        return self.cfg.delens.field

    def found(self, asset: str) -> Iterable[Item]:
        """Also the estimates of kappa that belong to no method, and the models of either target."""
        if asset in ("kappa_qe", "kappa_linear"):
            return [{"split": "test", "sim": sim} for sim in range(self.cfg.splits.test)]
        if asset.startswith("response"):
            return [{"method": name} for name in self.methods]
        if asset == "model":
            labels = ("kappa", "correction", f"lensing_{self.field}", f"unlensed_{self.field}")
            return [{"method": name, "label": label} for name in self.methods for label in labels]
        return super().found(asset)

    def rows(self, results: Mapping[str, comparison.Result]) -> dict[str, list[Mapping[str, Any]]]:
        """Rows by the name under which they are shown, those without delensing where `compare.methods` has them."""
        rows = comparison.rows_of(results, NONE, first=self.cfg.compare.reference)
        return {name: rows[name] for name in self.names()}

    def names(self) -> list[str]:
        """Names of the rows."""
        return [NONE if name == "none" else name for name in self.cfg.compare.methods]

    def compared(
        self, *, metrics: Files, metrics_record: Files, filters: Mapping[str, np.ndarray], **inputs: Any
    ) -> report.Compared:
        """All that the tables hold; of ``inputs`` the records of what the methods have made."""
        results = self.results(metrics, metrics_record)
        rows = self.rows(results)
        every_row = [row for rows_of_method in rows.values() for row in rows_of_method]
        summary = tables.summarise(every_row, by=self.by, judge=self.note)
        return report.Compared(
            caption=self.methods_caption(),
            filters=of_filters(filters),
            sigma=self.of_sigma(),
            reference=self.cfg.compare.reference,
            metrics=self.metrics,
            baseline=NONE,
            none_from=comparison.none_from(results, self.cfg.compare.reference),
            targets={name: result.target for name, result in results.items()},
            rows=rows,
            summary=summary,
            paired=self.differences(rows, {"form": "native"}, tables.notes(summary)),
            costs=self.costs(results, [inputs[record.name] for record in STEPS]),
            origins=self.origins(results),
        )

    def origins(self, results: Mapping[str, comparison.Result]) -> list[dict[str, str]]:
        """Where the numbers of each method come from."""
        return [
            {"method": name, "estimates": result.target, **comparison.origin(result.records[0])}
            for name, result in results.items()
        ]

    def costs(self, results: Mapping[str, comparison.Result], steps: Iterable[Files]) -> list[dict[str, Any]]:
        """What each step of each method took."""
        targets = {name: result.target for name, result in results.items()}
        records = []
        for files in steps:
            for item, record in zip(files.items, files, strict=True):
                name = item.get("method", "shared")
                if estimated(item.get("label", "").partition("_")[0]) in ("", targets.get(name)):
                    records.append((name, record))
        return comparison.costs(records)


class Compare(Comparing, compare.Compare):
    """Tables and figures of all methods."""

    inputs = (*compare.MEASURED, Every("spectra", split="test"), "filters", *STEPS)
    outputs = compare.outputs(PICTURES)

    def figures(
        self,
        compared: report.Compared,
        metrics: Files,
        spectra: Files,
        *,
        filters: dict[str, np.ndarray],
        **records: Files,
    ) -> tuple[Figure, ...]:
        """A_res, spectra, sigma(r), and boxes of the metrics."""
        a = self.cfg.analysis
        stacked = {}
        for name in self.names():
            folder = compared.none_from if name == NONE else name
            pairs = zip(spectra.files, spectra.items, strict=True)
            skies = (file.read() for file, item in pairs if item["method"] == folder)
            stacked[name] = stack(of_method(skies, name), self.edges)
        theory = theory_curves(filters, self.field, compared.targets.values())
        caption = compared.caption
        notes = tables.notes(compared.summary)
        native = {name: [row for row in rows if row["form"] == "native"] for name, rows in compared.rows.items()}

        def each_sky(metric: str) -> dict[str, np.ndarray]:
            return {name: np.array([row[metric] for row in rows], float) for name, rows in native.items()}

        boxes = {metric.name: each_sky(metric.name) for metric in self.metrics if metric.boxes}
        baseline = NONE if NONE in native else compared.reference
        band = (a.band[0], min(a.band[1], a.lmax))
        look = {"band": band, "theory": theory, "lmin_b": self.cfg.delens.lmin_b}
        return (
            figures.delensing_figure(stacked, caption=caption, notes=notes, **look),
            figures.compared_spectra(stacked, caption=caption, notes=notes),
            figures.sigma_figure(each_sky("sigma_r"), caption=caption, notes=notes, baseline=baseline),
            compare_figures.box_figure(boxes, caption={**caption, "form": "native"}, notes=notes, metrics=self.metrics),
        )


class Panels(compare.Panels, Comparing):
    """Maps of all methods for the test sky `compare.sim`: the whole sphere, one zoomed patch, and its lensing."""

    inputs = (
        Every("prediction"),
        Every("estimate", optional=True),
        "obs",
        "unlensed_alm",
        "lensed_alm",
        MASK,
    )
    outputs = (
        *compare.Panels.outputs,
        *("compare_lensing_png", "compare_lensing_pdf"),
        *("compare_kappa_png", "compare_kappa_pdf"),
    )
    uses = (*Comparing.uses, "compare.sim", "analysis.zoom")
    version = 3

    def run(self, item: Item, **inputs: Any) -> tuple[Figure, ...]:
        """Four figures, each as PNG and PDF."""
        lensing, kappa = self.lensing_of_methods(item, **inputs)
        return *super().run(item, **inputs), lensing, lensing, kappa, kappa

    def lensing_of_methods(
        self,
        item: Item,
        *,
        prediction: Files,
        estimate: Files,
        obs: SkyMap,
        mask: SkyMap | None = None,
        **inputs: Any,
    ) -> tuple[Figure, Figure]:
        """The convergence of those that estimate it with the lensing that each has found; the first of them alone."""
        pairs = zip(prediction.items, prediction, strict=True)
        predicted = {file_item["method"]: m[self.field] for file_item, m in pairs}
        pairs = zip(estimate.items, estimate, strict=True)
        kappa = {file_item["method"]: m for file_item, m in pairs if "kappa" in m.fields}
        lon, lat, size = self.cfg.analysis.zoom
        quantities = lensing_of(predicted, kappa, field=self.field, obs=obs, mask=mask, **inputs)
        caption = {**self.of_dataset(), **self.seen_part(mask), **item}
        look: dict[str, Any] = {"caption": caption, "zoom": (lon, lat, size), "mask": inside(mask)}
        return lensing_figure(quantities, **look), lensing_figure(quantities[:1], **look)

    def shown(
        self,
        item: Item,
        *,
        prediction: Files,
        obs: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
        **others: Any,
    ) -> compare.Shown:
        """Truth, with the mask that the others have, the observed map and those of the methods."""
        maps = {"observed": obs[self.field]}
        for file_item, m in zip(prediction.items, prediction, strict=True):
            maps[file_item["method"]] = m[self.field]
        truth = self.true_map(unlensed_alm, obs)
        truth = truth if mask is None else truth * mask["mask"]
        return compare.Shown(truth, maps, {**self.of_dataset(), **self.seen_part(mask), **item}, inside(mask))


class Report(Comparing, compare.Report):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    pictures = (*PICTURES, "lensing", "skies", "zoom")
    inputs = (*compare.MEASURED, *compare.png(pictures), "filters", *STEPS, RESPONSES)

    def compared(
        self, *, response_csv: Sequence[Any] = (), response_png: Sequence[bytes] = (), **inputs: Any
    ) -> report.Compared:
        """With what the methods answer when the sky is another."""
        rows = [row for of_method in response_csv for row in of_method]
        return replace(super().compared(**inputs), responses=rows, response_pictures=list(response_png))

    def page(self, compared: report.Compared, pictures: Mapping[str, list[bytes]]) -> str:
        """The page."""
        return report.report(compared, {name: files[0] for name, files in pictures.items()})
