"""What the stages that measure one method have in common; a job gives its captions, metrics, verdict and figures."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import figures, tables
from cmbml.analysis.captions import Captioned
from cmbml.analysis.metrics import Metric, values
from cmbml.config.truth import masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky.spectra import bin_edges

MASK = Optional("mask", when=masked)


class Judged(Captioned):
    """A stage of a job that has metrics.

    Attributes
    ----------
    by : tuple of str
        What tells one line of the tables from the next.
    """

    by: ClassVar[tuple[str, ...]]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics of the job, in the order of the tables."""
        raise NotImplementedError

    @property
    def edges(self) -> np.ndarray:
        """Bins of the spectra in figures; bin i holds edges[i] <= l < edges[i + 1]."""
        return bin_edges(2, self.cfg.analysis.lmax + 1, self.cfg.analysis.delta_l)

    def note(self, line: Mapping[str, Any]) -> str:
        """Why a line of the summary is no headline, or ""."""
        return ""


class Measure(Judged, SimStage):
    """The metrics of one test sky, one row a method and form, and its spectra."""

    name = "measure"
    splits = ("test",)
    outputs = ("metrics", "spectra")

    def measured(
        self, spectra: dict[str, np.ndarray], *args: Any, **inputs: Any
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield what tells a row from the others, and what the functions of the metrics take; fill ``spectra``."""
        raise NotImplementedError

    def run(self, item: Item, **inputs: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Rows of numbers, and the spectra under the names that the job gives them."""
        spectra: dict[str, np.ndarray] = {}
        rows = [{**labels, **item, **values(self.metrics, what)} for labels, what in self.measured(spectra, **inputs)]
        return rows, spectra


class Summary(Judged):
    """The table over all test skies, and the figures of it."""

    name = "summary"
    version = 2
    memory = "20 MB"

    def run(
        self, item: Item, *, metrics: Files, spectra: Files, mask: SkyMap | None = None, **inputs: Any
    ) -> tuple[Any, ...]:
        """CSV rows, Markdown, LaTeX and the figures of the job."""
        caption = self.caption(split="test", sims=len(metrics), mask=mask)
        rows = [row for sky in metrics for row in sky]
        summary = tables.summarise(rows, by=self.by, judge=self.note)
        of_tables = caption | self.more(mask, **inputs) | tables.SCATTER
        return (
            tables.to_rows(summary),
            tables.to_markdown(summary, caption=of_tables, metrics=self.metrics),
            tables.to_latex(summary, caption=of_tables, metrics=self.metrics),
            *self.figures(summary, list(spectra), caption, mask, **inputs),
        )

    def more(self, mask: SkyMap | None, **inputs: Any) -> dict[str, str]:
        """Entries of the caption for the tables alone."""
        return {}

    def figures(
        self,
        summary: list[dict[str, Any]],
        skies: list[dict[str, np.ndarray]],
        caption: dict[str, Any],
        mask: SkyMap | None,
        *args: Any,
        **inputs: Any,
    ) -> Iterable[Figure]:
        """Figures of the spectra of all test skies."""
        raise NotImplementedError


class Curves(Captioned):
    """Loss and learning rate of a network against the epoch; none where the network is given."""

    name = "curves"
    inputs = ("history",)
    outputs = ("curves",)
    reads = ("method.trained",)
    memory = "20 MB"

    def items(self) -> Iterable[Item]:
        """One figure, or none."""
        return [] if self.cfg.method.trained else [{}]

    def run(self, item: Item, *, history: list[dict[str, float]]) -> Figure:
        """One figure."""
        return figures.loss_curves(history, caption=self.caption())


SUMMARISED = (Every("metrics", split="test"), Every("spectra", split="test"))
TABLES = ("table_csv", "table_md", "table_tex")
