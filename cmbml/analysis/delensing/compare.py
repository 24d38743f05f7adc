"""The stages of `main_analysis_compare.py`: they read the finished results of several methods and know none by name.

Here those of delensing, and what both jobs share; those of cleaning are in ``clean_compare``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import compare_figures, comparison, tables
from cmbml.analysis.comparison import Comparing
from cmbml.analysis.delensing import figures, report
from cmbml.analysis.delensing.measure import NONE, Captioned, Measure
from cmbml.analysis.delensing.metrics import note, theory_curves
from cmbml.analysis.spectra import of_method, stack
from cmbml.core.asset import Every, Files, Item, Record
from cmbml.maps.skymap import SkyMap
from cmbml.sky.fields import field_map
from cmbml.sky.spectra import bin_edges

PAIRED = ("A_res", "rho", "transfer", "sigma_r", "sigma_r_ratio", "RMSE")
BOXES = ("A_res", "transfer", "rho", "sigma_r", "RMSE", "MAE")


class Delensing(Comparing, Captioned):
    """A stage that compares methods of delensing."""

    main = "main_delens.py"
    measure = Measure
    skies = ("obs", "unlensed_alm", "lensed_alm")
    uses = (
        *Captioned.dataset_keys, *Comparing.compared, *(key for key in Measure.uses if key.startswith("analysis.")),
    )  # fmt: skip
    # The words of main_delens.py may be repeated here: how a method came to its results changes nothing.
    reads = (
        "splits", "analysis", "cosmology", "delens", "mask", "network", "patches", "quadratic", "rotation", "sky",
        "train",
    )  # fmt: skip
    steps = tuple(Record(asset, optional=True) for asset in ("model", "kappa_qe", "estimate", "template"))

    @property
    def field(self) -> str:
        """The field that is delensed."""
        return self.cfg.delens.field

    def found(self, asset: str) -> Iterable[Item]:
        """Also the quadratic estimates, which belong to no method, and the models of either target."""
        if asset == "kappa_qe":
            return [{"split": "test", "sim": sim} for sim in range(self.cfg.splits.test)]
        if asset == "model":
            labels = ("kappa", f"lensing_{self.field}", f"unlensed_{self.field}")
            return [{"method": name, "label": label} for name in self.methods for label in labels]
        return super().found(asset)

    def rows(self, results: dict[str, comparison.Result]) -> dict[str, list[dict]]:
        """Rows by the name under which they are shown, those without delensing where `compare.methods` has them."""
        rows = comparison.rows_of(results, NONE, first=self.cfg.compare.reference)
        return {name: rows[name] for name in self.shown()}

    def shown(self) -> list[str]:
        """Names of the rows."""
        return [NONE if name == "none" else name for name in self.cfg.compare.methods]

    def differences(self, rows: dict[str, list[dict]], summary: Sequence[dict]) -> list[dict]:
        """Paired differences to the reference."""
        notes = {line["method"]: line["note"] for line in summary}
        keys = {"metrics": PAIRED, "where": {"form": "native"}, "notes": notes}
        rng = self.rng("compare", self.cfg.dataset, self.field)
        return comparison.paired(rows, self.cfg.compare.reference, rng=rng, **keys)

    def origins(self, results: Mapping[str, comparison.Result]) -> list[dict[str, str]]:
        """Where the numbers of each method come from."""
        return [
            {"method": name, "estimates": result.target, **comparison.origin(result.records[0])}
            for name, result in results.items()
        ]

    def costs(self, results: Mapping[str, comparison.Result], steps: Iterable[Files]) -> list[dict]:
        """What each step of each method took."""
        targets = {name: result.target for name, result in results.items()}
        found = []
        for files in steps:
            for item, record in zip(files.items, files, strict=True):
                name = item.get("method", "shared")
                if item.get("label", "").partition("_")[0] in ("", targets.get(name)):
                    found.append((name, record))
        return comparison.costs(found)


class Compare(Delensing):
    """Tables and figures of all methods."""

    name = "compare"
    inputs = (
        Every("metrics", split="test"),
        Record("metrics", split="test"),
        Every("spectra", split="test"),
        "filters",
        *Delensing.steps,
    )
    outputs = (
        "compare_csv", "compare_json", "compare_md", "compare_tex", "paired_csv",
        *(f"compare_{name}_{kind}" for name in ("delensing", "spectra", "sigma", "boxes") for kind in ("png", "pdf")),
    )  # fmt: skip

    def run(
        self,
        item: Item,
        *,
        metrics: Files,
        metrics_record: Files,
        spectra: Files,
        filters: dict[str, np.ndarray],
        **steps: Files,
    ) -> tuple[Any, ...]:
        """CSV rows, JSON, Markdown, LaTeX, CSV rows of the paired differences; four figures, each as PNG and PDF."""
        reference = self.cfg.compare.reference
        results = self.results(metrics, metrics_record)
        rows = self.rows(results)
        summary = tables.summarise([row for own in rows.values() for row in own], judge=note)
        lines = self.differences(rows, summary)
        caption = {**self.of_dataset(), "split": "test", "sims": self.cfg.splits.test}
        said = {**caption, "mean difference from": f"{reference} ± standard error"}
        numbers = [{k: v for k, v in line.items() if not k.endswith("_interval")} for line in lines]
        written = [
            write(summary, caption=caption) + ("\n" + write(numbers, caption=said) if numbers else "")
            for write in (tables.to_markdown, tables.to_latex)
        ]
        drawn = self._figures(
            results, rows, spectra, filters, caption, {line["method"]: line["note"] for line in summary}
        )
        pairs = comparison.paired_rows(lines, reference)
        data = comparison.as_json(caption, summary, pairs, self.costs(results, steps.values()), self.origins(results))
        return tables.to_rows(summary), data, *written, pairs, *(figure for figure in drawn for _ in ("png", "pdf"))

    def _figures(
        self,
        results: dict[str, comparison.Result],
        rows: dict[str, list[dict]],
        cls: Files,
        filters: dict[str, np.ndarray],
        caption: dict[str, Any],
        notes: dict[str, str],
    ) -> tuple[Figure, ...]:
        a = self.cfg.analysis
        edges = bin_edges(2, a.lmax + 1, a.delta_l)
        stacked = {}
        for name in self.shown():
            folder = comparison.none_from(results, self.cfg.compare.reference) if name == NONE else name
            skies = (file.read() for file, i in zip(cls.files, cls.items, strict=True) if i["method"] == folder)
            stacked[name] = stack(of_method(skies, name), edges)
        theory = theory_curves(filters, self.field, [result.target for result in results.values()])
        band = (a.band[0], min(a.band[1], a.lmax))
        native = {name: [row for row in own if row["form"] == "native"] for name, own in rows.items()}
        boxes = {x: {name: np.array([row[x] for row in own], float) for name, own in native.items()} for x in BOXES}
        baseline = NONE if NONE in native else self.cfg.compare.reference
        return (
            figures.delensing_figure(stacked, caption=caption, notes=notes, band=band, theory=theory),
            figures.compared_spectra(stacked, caption=caption, notes=notes),
            figures.sigma_figure(boxes["sigma_r"], caption=caption, notes=notes, baseline=baseline),
            compare_figures.box_figure(boxes, caption={**caption, "form": "native"}, notes=notes),
        )


class Panels(Delensing):
    """Maps of all methods for the test sky `compare.sim`: the whole sphere and one zoomed patch."""

    name = "panels"
    inputs = (Every("prediction"), "obs", "unlensed_alm")
    outputs = ("compare_skies_png", "compare_skies_pdf", "compare_zoom_png", "compare_zoom_pdf")
    uses = (*Delensing.uses, "compare.sim", "analysis.zoom")

    def items(self) -> Iterable[Item]:
        """One test sky."""
        return [{"split": "test", "sim": self.cfg.compare.sim}]

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method for that sky."""
        return [{"method": name, **item} for name in self.methods for item in self.items()]

    def run(
        self, item: Item, *, prediction: Files, obs: SkyMap, unlensed_alm: dict[str, np.ndarray]
    ) -> tuple[Figure, Figure, Figure, Figure]:
        """Two figures, each as PNG and PDF."""
        field, caption = self.cfg.delens.field, {**self.of_dataset(), **item}
        truth = field_map(unlensed_alm, field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin)
        maps = {i["method"]: m[field] for i, m in zip(prediction.items, prediction, strict=True)}
        skies = compare_figures.compared_skies(truth, {"observed": obs[field], **maps}, caption=caption)
        zoom = tuple(self.cfg.analysis.zoom)
        patches = compare_figures.compared_patches(truth, {"observed": obs[field], **maps}, caption=caption, zoom=zoom)
        return skies, skies, patches, patches


class Report(Delensing):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    name = "report"
    outputs = ("report",)
    pictures = tuple(f"compare_{name}_png" for name in ("delensing", "sigma", "spectra", "boxes", "skies", "zoom"))
    inputs = (
        Every("metrics", split="test"),
        Record("metrics", split="test"),
        *map(Every, pictures),
        *Delensing.steps,
    )

    def run(self, item: Item, *, metrics: Files, metrics_record: Files, **more: Files) -> str:
        """The page."""
        results = self.results(metrics, metrics_record)
        rows = self.rows(results)
        summary = tables.summarise([row for own in rows.values() for row in own], judge=note)
        steps = [more[record.name] for record in self.steps]
        compared = report.Compared(
            caption={**self.of_dataset(), "split": "test", "sims": self.cfg.splits.test},
            reference=self.cfg.compare.reference,
            baseline=NONE,
            targets={name: result.target for name, result in results.items()},
            summary=summary,
            paired=self.differences(rows, summary),
            costs=self.costs(results, steps),
            origins=self.origins(results),
        )
        return report.report(compared, {name.split("_")[1]: more[name][0] for name in self.pictures})
