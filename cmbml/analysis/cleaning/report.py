"""The report of a comparison of cleaning methods, from the blocks of ``page``, and the tables that it shares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmbml.analysis import comparison
from cmbml.analysis.metrics import Metric, directions
from cmbml.analysis.page import (
    DIFFERENCES,
    MOST,
    bullets,
    comparison_page,
    difference_table,
    metric_table,
    paragraph,
    picture,
    section,
)
from cmbml.analysis.tables import SCATTER, format_value

_NOTHING = 0.001  # uK; the rounding of maps in single precision is less
SYNTHETIC = (
    "The foregrounds of these skies are SYNTHETIC: drawn from a seed with the Galaxy's statistics, and no map of the"
    " real sky. How methods rank here need not be how they rank there."
)
FIXED = (
    "The foregrounds are the same in all skies, as in CMB-ML's datasets: a method that is trained on some of them"
    " has seen the foregrounds of the test skies, and nothing here says how it does on others. foregrounds.vary makes"
    " them differ."
)
HEADLINE = (
    "Mean ± standard deviation over the test skies, at one beam and one band limit for all, T without monopole and"
    " dipole. NRMSE: in units of the rms of the CMB. PSNR: of the range of the truth alone. transfer: the part of the"
    " CMB's amplitude that is kept (1: all of it); rho: correlation, multipole by multipole; residual: power of what is"
    " wrong over that of the CMB. A baseline has seen the truth: no method that treats all pixels alike can be expected"
    " to reach it."
)
FORM_TEXTS = {
    "common": "The same beam and band limit for all.",
    "unsmoothed": "Each map as it is, against a truth without any beam. What the beam of a map has erased counts as"
    " error, and mostly these numbers tell just that: at nside 512 a map without any other error, left at 20.6 arcmin,"
    " scores an RMSE of 35 to 40 µK here, and a Wiener filter of CMB and noise alone 29.5 µK. They are here because"
    " others publish them.",
    "native": "Each map as it is, against a truth with the beam and the band limit of that map. Good for one method; of"
    " two with different beams it compares different skies.",
}
LEGENDS = {
    "spectra": "Truth and predictions, the part of the CMB's amplitude that is kept, and the power of what is wrong"
    " over that of the CMB; beams are divided out. Lines: mean over the test skies; bars: scatter of one sky. Dotted:"
    " baselines.",
    "boxes": "Every sky (points), the median, the quartiles, and the range without outliers. Baselines are left out.",
    "skies": "Truth and predictions of one sky at the common beam, and what is wrong with each, on one scale. Grey:"
    " what the mask leaves out. Baselines are left out.",
    "zoom": "The same for one patch.",
}


@dataclass(frozen=True, kw_only=True)
class Compared(comparison.Compared):
    """What tables and report are made of; ``paired`` has ``field``, ``form`` and ``area`` as well.

    Attributes
    ----------
    headline : mapping
        ``form`` and ``area`` of the numbers that count.
    beam : str
        The common beam and band limit.
    baselines : sequence of str
        Methods that have seen the truth.
    """

    headline: Mapping[str, str]
    beam: str
    baselines: Sequence[str]

    def kind(self, method: str) -> str:
        """Whether a method is one, or a baseline."""
        return "baseline" if method in self.baselines else "method"

    @property
    def marked(self) -> list[dict[str, Any]]:
        """The summary, each line with its kind."""
        return [{"method": line["method"], "kind": self.kind(line["method"]), **line} for line in self.summary]

    def entries(self, form: str, area: str) -> dict[str, str]:
        """Entries of ``captions.describe`` for one form and area."""
        maps = {
            "common": f"at {self.beam}",
            "unsmoothed": "as they are, truth without a beam",
            "native": "as they are, truth with the beam of each",
        }
        return {"maps": maps[form], "area": "full sky" if area == "full" else "what the mask leaves"}

    def parts(self) -> list[tuple[str, str]]:
        """Pairs (form, area) of the tables, the headline first."""
        pairs = list(dict.fromkeys((line["form"], line["area"]) for line in self.summary))
        head = (self.headline["form"], self.headline["area"])
        return sorted(pairs, key=lambda pair: (pair != head, pair[1] != head[1], list(FORM_TEXTS).index(pair[0])))

    def shown(self, form: str) -> list[Metric]:
        """Metrics of the tables of a form."""
        return [metric for metric in self.metrics if metric.heads and metric.shown_in(form)]

    def labels(self, form: str, area: str) -> tuple[str, ...]:
        """What tells the lines of a table apart."""
        fields = {line["field"] for line in self.summary if (line["form"], line["area"]) == (form, area)}
        return ("method", "kind", "field") if len(fields) > 1 else ("method", "kind")

    def lines(self, form: str, area: str) -> list[dict[str, Any]]:
        """Lines of one table: what tells them apart, the metrics that belong to the form, and the note."""
        lines = [line for line in self.marked if (line["form"], line["area"]) == (form, area)]
        names = (*self.labels(form, area), "n", *(metric.name for metric in self.shown(form)), "note")
        return [{name: line[name] for name in names} for line in lines]

    def differences(self, form: str, area: str) -> list[dict[str, Any]]:
        """Paired differences of one form and area."""
        lines = [line for line in self.paired if (line["form"], line["area"]) == (form, area)]
        drop = {"form", "area", *(["field"] if len({line["field"] for line in lines}) == 1 else [])}
        return [{name: value for name, value in line.items() if name not in drop} for line in lines]

    def blocks(self) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
        """Tables of the text files: (entries of the caption, lines), the headline and its differences first."""
        first, *others = [({**self.entries(*part), **SCATTER}, self.lines(*part)) for part in self.parts()]
        entries = self.entries(**self.headline) | {"mean difference from": self.reference, **comparison.ERROR}
        lines = comparison.without_intervals(self.differences(**self.headline))
        return [first, *([(entries, lines)] if lines else []), *others]


def report(compared: Compared, figures: Mapping[str, Sequence[bytes]], *, synthetic: bool, fixed: bool = False) -> str:
    """Return the page.

    Parameters
    ----------
    compared : Compared
    figures : mapping
        PNG files by the names of ``LEGENDS``: one, or one a field.
    synthetic : bool
        Whether the foregrounds are synthetic.
    fixed : bool, optional
        Whether they are the same in all skies.
    """

    def drawn(name: str) -> list[str]:
        pngs = figures[name]
        fields = compared.caption["field"]
        most = 2 * MOST // max(len(pngs), 2)
        return [
            picture(png, f"Field {fields[i]}: {LEGENDS[name]}" if len(pngs) > 1 else LEGENDS[name], most=most)
            for i, png in enumerate(pngs)
        ]

    head, *others = compared.parts()
    at = " · ".join(compared.entries(*head).values())
    parts = [
        section(f"Maps {at}", _table(compared, *head), paragraph(HEADLINE, look="small")),
        section(f"Differences from {compared.reference} on the same skies", _differences(compared, *head)),
        section("Spectra", *drawn("spectra")),
        section("Skies", *drawn("skies"), *drawn("zoom")),
        section("Scatter of the skies", *drawn("boxes")),
        section("Other beams, and the full sky", *_parts(compared, others)),
    ]
    warnings = [paragraph(text, look="warning") for text, holds in ((SYNTHETIC, synthetic), (FIXED, fixed)) if holds]
    return comparison_page("Cleaning", compared, [bullets(verdicts(compared)), *warnings], parts)


def verdicts(compared: Compared) -> list[str]:
    """Return one sentence a method and field, from the headline, the baselines last."""
    head = (compared.headline["form"], compared.headline["area"])
    lines = [line for line in compared.summary if (line["form"], line["area"]) == head]
    several = len({line["field"] for line in lines}) > 1
    pairs = {(line["method"], line["field"]): line for line in compared.paired if (line["form"], line["area"]) == head}
    sentences = []
    for line in sorted(lines, key=lambda line: line["method"] in compared.baselines):
        name = line["method"]
        field = line["field"]
        who = f"{name}, a baseline, which has seen the truth" if name in compared.baselines else name
        rmse = line["RMSE"][0]
        nrmse = line["NRMSE"][0]
        transfer = line["transfer"][0]
        size = f"{rmse:.3g} µK, {nrmse:.2%} of the CMB's rms" if rmse >= _NOTHING else f"below {_NOTHING} µK"
        text = f"{who}{f' ({field})' if several else ''}: RMSE {size}"
        text += "" if math.isnan(transfer) else f"; transfer {transfer:.3f}"
        if (name, field) in pairs and name not in compared.baselines:
            text += f"; {_against(pairs[name, field], compared.reference)}"
        sentences.append(f"{text}.")
    return sentences


def _against(line: Mapping[str, Any], reference: str) -> str:
    """Say how the RMSE of a method differs from the reference's, and when the skies cannot tell."""
    mean, error = line["RMSE"]
    low, high = line["RMSE_interval"]
    skies = f"on the same {line['n']} skies" if line["n"] > 1 else "on the one sky"
    if low <= 0 <= high:
        return f"these {line['n']} skies cannot tell it from {reference} (95 %: {low:+.2g} .. {high:+.2g} µK)"
    bounds = "" if math.isnan(low) else f" (95 %: {low:+.2g} .. {high:+.2g} µK)"
    way = "above" if mean > 0 else "below"
    size = f"{abs(mean):.3g}" if math.isnan(error) else f"{format_value(abs(mean), error)} (standard error)"
    return f"{size} µK {way} {reference} {skies}{bounds}"


def _table(compared: Compared, form: str, area: str) -> str:
    lines = compared.lines(form, area)
    return metric_table(lines, compared.shown(form), compared.caption, labels=compared.labels(form, area))


def _differences(compared: Compared, form: str, area: str) -> str:
    lines = compared.differences(form, area)
    if not lines:
        return paragraph("There is no other method.")
    shown = difference_table(lines, compared.metrics, compared.caption)
    return shown + paragraph(f"{DIFFERENCES} {directions(compared.shown(form))}", look="small")


def _parts(compared: Compared, parts: Sequence[tuple[str, str]]) -> list[str]:
    """Return a table of each form and area, what the form means below the first of it."""
    explained: set[str] = set()
    sections = []
    for form, area in parts:
        note = [] if form in explained else [paragraph(FORM_TEXTS[form], look="small")]
        title = f"Maps {' · '.join(compared.entries(form, area).values())}"
        sections.append(section(title, _table(compared, form, area), *note, level=3))
        explained.add(form)
    return sections


def boxes(compared: Compared, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Return metric -> method -> its value for each sky, of the headline; without the baselines if there is more.

    Of several fields only the metrics whose boxes are of each, under their field's name.
    """
    rows = [row for row in rows if compared.headline.items() <= row.items()]
    names = [name for name in dict.fromkeys(row["method"] for row in rows) if name not in compared.baselines]
    names = names or list(compared.baselines)
    fields = list(dict.fromkeys(row["field"] for row in rows))
    wanted = ("one", "each") if len(fields) == 1 else ("each",)
    metrics = [metric.name for metric in compared.metrics if metric.boxes in wanted]

    def values(metric: str, field: str) -> dict[str, np.ndarray]:
        return {
            name: np.array([row[metric] for row in rows if (row["method"], row["field"]) == (name, field)], dtype=float)
            for name in names
        }

    return {
        metric if len(fields) == 1 else f"{metric} of {field}": values(metric, field)
        for field in fields
        for metric in metrics
    }
