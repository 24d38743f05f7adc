"""The stages of `main_analysis_compare.py`: they read the finished results of several methods and know none by name."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import compare_figures, comparison, figures, report, spectra, tables
from cmbml.analysis.stages import NONE, Captioned, Measure
from cmbml.core.asset import Every, File, Files, Item
from cmbml.core.skymap import SkyMap
from cmbml.sky.fields import field_map
from cmbml.sky.spectra import bin_edges


class Comparing(Captioned):
    """A stage that reads what the measurement of each of `compare.methods` has written."""

    uses = (
        *Captioned.dataset_keys, "compare.methods", "compare.reference",
        *(key for key in Measure.uses if key.startswith("analysis.")),
    )  # fmt: skip
    # The words of main_delens.py may be repeated here: how a method came to its results changes nothing.
    reads = (
        "splits", "analysis", "cosmology", "delens", "mask", "network", "patches", "quadratic", "rotation", "sky",
        "train",
    )  # fmt: skip

    @property
    def methods(self) -> list[str]:
        """The methods that have results of their own; "none" has not."""
        return [name for name in self.cfg.compare.methods if name != "none"]

    @property
    def again(self) -> str:
        """The command that makes the results of a method, with ``{method}`` in it."""
        field = self.cfg.delens.field
        return f"`python main_delens.py method={{method}} field={field}` with the other words of this command"

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method and test sky."""
        sims = range(self.cfg.splits.test)
        return [{"method": m, "split": "test", "sim": sim} for m in self.methods for sim in sims]

    def missing(self, file: File, item: Item) -> str:
        """Which method, which file, and what makes it."""
        name = item.get("method", self.cfg.compare.reference)
        return f"The method {name} lacks {file.path}; make it by {self.again.format(method=name)}."

    def results(self, rows: Files, records: Files) -> dict[str, comparison.Result]:
        """Results of the methods, of the same skies and measured alike.

        Raises
        ------
        UserError
            When they are not.
        """
        results = comparison.gather(self.methods, rows.items, rows, records)
        comparison.same_settings(results, self.settings, Measure.version, self.again)
        comparison.same_skies(results, self.cfg.compare.reference, self.again)
        return results

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
        rng = self.rng("compare", self.cfg.dataset, self.cfg.delens.field)
        return comparison.paired(rows, self.cfg.compare.reference, rng=rng, notes=notes)


class Compare(Comparing):
    """Tables and figures of all methods."""

    name = "compare"
    inputs = (Every("metrics", split="test"), Every("record", split="test"), Every("spectra", split="test"), "filters")
    outputs = ("compare_csv", "compare_md", "compare_tex", "paired_csv", "compare_delensing_png",
               "compare_delensing_pdf", "compare_spectra_png", "compare_spectra_pdf", "compare_sigma_png",
               "compare_sigma_pdf")  # fmt: skip

    def run(self, item: Item, metrics: Files, records: Files, cls: Files, filters: dict[str, np.ndarray]) -> tuple:
        """CSV rows, Markdown, LaTeX, CSV rows of the paired differences; three figures, each as PNG and PDF."""
        reference = self.cfg.compare.reference
        results = self.results(metrics, records)
        rows = self.rows(results)
        summary = tables.summarise([row for own in rows.values() for row in own])
        lines = self.differences(rows, summary)
        caption = {**self.of_dataset(), "split": "test", "sims": self.cfg.splits.test}
        said = {**caption, "mean difference from": f"{reference} ± standard error"}
        numbers = [{k: v for k, v in line.items() if not k.endswith("_interval")} for line in lines]
        written = [
            write(summary, caption=caption) + ("\n" + write(numbers, caption=said) if numbers else "")
            for write in (tables.to_markdown, tables.to_latex)
        ]
        drawn = self._figures(results, rows, cls, filters, caption, {line["method"]: line["note"] for line in summary})
        pairs = comparison.paired_rows(lines, reference)
        return tables.to_rows(summary), *written, pairs, *(figure for figure in drawn for _ in ("png", "pdf"))

    def _figures(
        self,
        results: dict[str, comparison.Result],
        rows: dict[str, list[dict]],
        cls: Files,
        filters: dict[str, np.ndarray],
        caption: dict[str, Any],
        notes: dict[str, str],
    ) -> tuple[Figure, Figure, Figure]:
        a, field = self.cfg.analysis, self.cfg.delens.field
        edges = bin_edges(2, a.lmax + 1, a.delta_l)
        stacked = {}
        for name in self.shown():
            folder = comparison.none_from(results, self.cfg.compare.reference) if name == NONE else name
            skies = (file.read() for file, i in zip(cls.files, cls.items, strict=True) if i["method"] == folder)
            stacked[name] = spectra.stack(spectra.of_method(skies, name), edges)
        theory = spectra.theory_curves(filters, field, [result.target for result in results.values()])
        band = (a.band[0], min(a.band[1], a.lmax))
        native = {name: [row for row in own if row["form"] == "native"] for name, own in rows.items()}
        sigma = {name: np.array([row["sigma_r"] for row in own], dtype=float) for name, own in native.items()}
        baseline = NONE if NONE in sigma else self.cfg.compare.reference
        return (
            figures.delensing_figure(stacked, caption=caption, notes=notes, band=band, theory=theory),
            compare_figures.compared_spectra(stacked, caption=caption, notes=notes),
            compare_figures.sigma_figure(sigma, caption=caption, notes=notes, baseline=baseline),
        )


class Panels(Comparing):
    """Maps of all methods for the test sky `compare.sim`: the whole sphere and one zoomed patch."""

    name = "panels"
    inputs = (Every("prediction"), "obs", "unlensed_alm")
    outputs = ("compare_skies_png", "compare_skies_pdf", "compare_zoom_png", "compare_zoom_pdf")
    uses = (*Comparing.uses, "compare.sim", "analysis.zoom")

    def items(self) -> Iterable[Item]:
        """One test sky."""
        return [{"split": "test", "sim": self.cfg.compare.sim}]

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method for that sky."""
        return [{"method": name, **item} for name in self.methods for item in self.items()]

    def run(
        self, item: Item, predictions: Files, obs: SkyMap, unlensed: dict[str, np.ndarray]
    ) -> tuple[Figure, Figure, Figure, Figure]:
        """Two figures, each as PNG and PDF."""
        field, caption = self.cfg.delens.field, {**self.of_dataset(), **item}
        truth = field_map(unlensed, field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin)
        maps = {i["method"]: m[field] for i, m in zip(predictions.items, predictions, strict=True)}
        skies = compare_figures.compared_skies(truth, obs[field], maps, caption=caption)
        zoom = tuple(self.cfg.analysis.zoom)
        patches = compare_figures.compared_patches(truth, obs[field], maps, caption=caption, zoom=zoom)
        return skies, skies, patches, patches


class Report(Comparing):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    name, outputs = "report", ("report",)
    inputs = (
        Every("metrics", split="test"), Every("record", split="test"), "compare_delensing_png", "compare_sigma_png",
        "compare_spectra_png", Every("compare_skies_png"), Every("compare_zoom_png"),
    )  # fmt: skip

    def run(
        self, item: Item, metrics: Files, records: Files, delensing: bytes, sigma: bytes, cls: bytes, skies: Files,
        zoom: Files,
    ) -> str:  # fmt: skip
        """The page."""
        results = self.results(metrics, records)
        rows = self.rows(results)
        summary = tables.summarise([row for own in rows.values() for row in own])
        compared = report.Compared(
            caption={**self.of_dataset(), "split": "test", "sims": self.cfg.splits.test},
            reference=self.cfg.compare.reference,
            baseline=NONE,
            targets={name: result.target for name, result in results.items()},
            summary=summary,
            paired=self.differences(rows, summary),
            origins=[_origin(result) for result in results.values()],
        )
        pictures = {"delensing": delensing, "sigma": sigma, "spectra": cls, "skies": skies[0], "zoom": zoom[0]}
        return report.report(compared, pictures)


def _origin(result: comparison.Result) -> dict[str, str]:
    """Return where a method's numbers come from."""
    record = result.records[0]
    commit = (record["git"]["commit"] or "unknown")[:10] + (" with changes" if record["git"]["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return {"method": result.method, "estimates": result.target, "commit": commit, "packages": packages}
