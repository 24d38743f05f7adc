"""What the stages of a comparison have in common; a job gives its captions, metrics, tables, figures and verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import compare_figures, comparison, tables
from cmbml.analysis.comparison import Compared, Result, as_json, gather, paired_rows, same_settings, same_skies
from cmbml.analysis.measure import Judged
from cmbml.core.asset import Every, File, Files, Item, Record
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap


class Comparing(Judged):
    """A stage that reads what the measurement of each of `compare.methods` has written.

    Attributes
    ----------
    main : str
        The program that makes results.
    measure : type of Stage
        The stage that measures them.
    skies : tuple of str
        Inputs of the measurement that make a sky what it is.
    """

    main: ClassVar[str]
    measure: ClassVar[type[Stage]]
    skies: ClassVar[tuple[str, ...]]
    compare_keys = ("compare.methods", "compare.reference")

    def compared(self, *args: Any, **inputs: Any) -> Compared:
        """All that the tables hold.

        Raises
        ------
        UserError
            When the results are not those of the same skies and observations, and of the same settings.
        """
        raise NotImplementedError

    def methods_caption(self, mask: SkyMap | None = None) -> dict[str, Any]:
        """Entries of `captions.describe` that all methods share, of the test skies."""
        shared = {**self.of_dataset(), **self.seen_part(mask)}
        return {**shared, "split": "test", "sims": self.cfg.splits.test}

    @property
    def methods(self) -> list[str]:
        """The methods that have results of their own; "none" has not."""
        return [name for name in self.cfg.compare.methods if name != "none"]

    @property
    def field(self) -> str:
        """The root key `field`."""
        raise NotImplementedError

    @property
    def again(self) -> str:
        """The command that makes the results of a method, with ``{method}`` in it."""
        return f"`python {self.main} method={{method}} field={self.field}` with the other words of this command"

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method and test sky, or the one model of every method."""
        if asset == "model":
            return [{"method": name} for name in self.methods]
        sims = range(self.cfg.splits.test)
        return [{"method": m, "split": "test", "sim": sim} for m in self.methods for sim in sims]

    def missing(self, file: File, item: Item) -> str:
        """Which method, which file, and what makes it."""
        name = item.get("method", self.cfg.compare.reference)
        whose = f"The method {name}" if "method" in item else f"The dataset {self.cfg.dataset}"
        return f"{whose} lacks {file.path}; make it by {self.again.format(method=name)}."

    def results(self, rows: Files, records: Files) -> dict[str, Result]:
        """Results of the methods, of the same skies and measured alike.

        Raises
        ------
        UserError
            When they are not.
        """
        results = gather(self.methods, rows.items, rows, records)
        measured = {key: value for key, value in self.settings.items() if key in self.measure.uses}
        same_settings(results, measured, self.measure.version, self.again)
        same_skies(results, self.cfg.compare.reference, self.skies, self.again)
        return results

    def differences(
        self,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        where: Mapping[str, str],
        notes: Mapping[str, str],
    ) -> list[dict[str, Any]]:
        """Paired differences from the reference, of the rows that have these values."""
        return comparison.paired(
            rows,
            self.cfg.compare.reference,
            metrics=[metric.name for metric in self.metrics if metric.pairs and metric.shown_in(where["form"])],
            where=where,
            notes=notes,
        )


def outputs(pictures: Sequence[str]) -> tuple[str, ...]:
    """Return the assets of a comparison with these pictures, each as PNG and PDF."""
    drawn = (f"compare_{name}_{kind}" for name in pictures for kind in ("png", "pdf"))
    return ("compare_csv", "compare_json", "compare_md", "compare_tex", "paired_csv", *drawn)


class Compare(Comparing):
    """Tables and figures of all methods."""

    name = "compare"
    version = 2

    def figures(self, compared: Any, metrics: Files, spectra: Files, *args: Any, **inputs: Any) -> Iterable[Figure]:
        """Figures of the job."""
        raise NotImplementedError

    def run(self, item: Item, *, metrics: Files, spectra: Files, **inputs: Any) -> tuple[Any, ...]:
        """CSV rows, JSON, Markdown, LaTeX, CSV rows of the paired differences; figures, each as PNG and PDF."""
        compared = self.compared(metrics=metrics, **inputs)
        pairs = paired_rows(compared.paired, compared.reference)
        data = as_json(compared.caption, compared.marked, pairs, compared.costs, compared.origins)
        texts = [
            "\n".join(
                write(lines, caption={**compared.caption, **entries}, metrics=compared.metrics)
                for entries, lines in compared.blocks()
            )
            for write in (tables.to_markdown, tables.to_latex)
        ]
        drawn = self.figures(compared, metrics, spectra, **inputs)
        files = [figure for figure in drawn for _ in ("png", "pdf")]
        return tables.to_rows(compared.marked), data, *texts, pairs, *files


@dataclass(frozen=True)
class Shown:
    """The maps of one sky.

    Attributes
    ----------
    truth : array (npix,)
    maps : mapping
        Name of a method, or "observed" -> its map (npix,).
    caption : mapping
        See ``captions.describe``.
    mask : bool array (npix,), or None
        True where a pixel is good.
    """

    truth: np.ndarray
    maps: Mapping[str, np.ndarray]
    caption: Mapping[str, Any]
    mask: np.ndarray | None = None


class Panels(Comparing):
    """Maps of the methods for the test sky `compare.sim`: the whole sphere and one zoomed patch."""

    name = "panels"
    version = 2
    outputs: ClassVar[tuple[str, ...]] = (
        "compare_skies_png",
        "compare_skies_pdf",
        "compare_zoom_png",
        "compare_zoom_pdf",
    )

    def items(self) -> Iterable[Item]:
        """One test sky."""
        return [{"split": "test", "sim": self.cfg.compare.sim}]

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method for that sky."""
        return [{"method": name, "split": "test", "sim": self.cfg.compare.sim} for name in self.methods]

    def shown(self, item: Item, *args: Any, **inputs: Any) -> Shown:
        """What the figures show."""
        raise NotImplementedError

    def run(self, item: Item, **inputs: Any) -> tuple[Figure, ...]:
        """Two figures, each as PNG and PDF."""
        shown = self.shown(item, **inputs)
        skies = compare_figures.compared_skies(shown.truth, shown.maps, caption=shown.caption, mask=shown.mask)
        lon, lat, size = self.cfg.analysis.zoom
        patches = compare_figures.compared_patches(
            shown.truth, shown.maps, caption=shown.caption, zoom=(lon, lat, size), mask=shown.mask
        )
        return skies, skies, patches, patches


class Report(Comparing):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    name = "report"
    version = 2
    outputs = ("report",)
    pictures: ClassVar[tuple[str, ...]]

    def page(self, compared: Any, pictures: Mapping[str, list[bytes]]) -> str:
        """The page, with the PNG files of each picture."""
        raise NotImplementedError

    def run(self, item: Item, **inputs: Any) -> str:
        """The page."""
        pictures = {name: list(inputs.pop(f"compare_{name}_png")) for name in self.pictures}
        return self.page(self.compared(**inputs), pictures)


def png(pictures: Sequence[str]) -> tuple[Every, ...]:
    """Return the pictures as inputs of a report."""
    return tuple(Every(f"compare_{name}_png") for name in pictures)


MEASURED = (Every("metrics", split="test"), Record("metrics", split="test"))
