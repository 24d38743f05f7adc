"""The report of a comparison of delensing methods, from the blocks of ``page``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from cmbml.analysis import comparison
from cmbml.analysis.captions import describe
from cmbml.analysis.delensing.metrics import EXPECTED, EXPECTED_ERROR, TARGETS
from cmbml.analysis.delensing.response import METRICS, shown
from cmbml.analysis.metrics import directions, heading
from cmbml.analysis.page import (
    DIFFERENCES,
    bullets,
    comparison_page,
    difference_table,
    metric_table,
    paragraph,
    picture,
    section,
    table,
)
from cmbml.analysis.tables import SCATTER, judged_text

SIGMA = (
    "sigma(r = 0) is the error of a tensor-to-scalar ratio that is 0: it says how well a map can tell that there are"
    " tensors. sigma(r of the sky) is the error of the ratio that these skies have, with the sample variance of their"
    " primordial signal, which no delensing takes away."
)
MEANS = "Mean ± standard deviation over the test skies."
# What a method may claim follows from what it estimates; the last entry is for any map whose transfer is not kept.
KINDS = {
    "kappa": (
        "estimates the convergence of the lenses, and makes the lensing of the field from it and the observed E (or T)",
        "It can remove lensing and keep the primordial signal, because its template knows of the field only what E and"
        " the deflection say. It cannot remove what noise, beam and the missing small scales hide. The theory curves"
        " are no bounds: a method that knows the E of this sky may lie below them.",
    ),
    "lensing": (
        "estimates the lensing of the field directly and subtracts it",
        "It can be anything from a template to a filter, and its residual does not tell which: only the primordial"
        " transfer does. It cannot claim delensing where the transfer is not close to 1.",
    ),
    "unlensed": (
        "estimates the unlensed field itself",
        "It is a filter: it answers with the most probable map, which is fainter than the truth wherever it is unsure."
        " Its map can be close to the truth pixel by pixel. It cannot stand for a delensed map: undoing what it took"
        " from the primordial signal brings the lensing back.",
    ),
    "Wiener-type filter": (
        "does not keep the primordial signal, as a Wiener filter of the observed field does not",
        "It can make a map that looks clean. It cannot improve what is known of r when it sees the one field alone,"
        " which holds no information on the lensing: signal, lensing and noise of each multipole shrink together.",
    ),
}
TRAP = (
    "Most of the observed B is lensing, so that a filter which calls nearly all of it lensing, and subtracts it, leaves"
    " next to nothing: its A_res is tiny. It has removed the primordial signal with the lensing, which the primordial"
    " transfer shows and A_res does not. Its sigma(r) is what it was without delensing, because a map whose multipoles"
    " are multiplied by numbers says nothing new."
)
LEGENDS = {
    "delensing": "What is left of the lensing power (0 perfect, 1 untouched), what is kept of the primordial signal (1"
    " all of it), and the correlation of the estimate with what it estimates. Grey: theory of the quadratic estimator"
    " for this noise and beam, and of an iterative one with diagonal approximations, which methods may go below."
    " Dotted lines with hollow markers are struck out. Bars: scatter of one sky. Where the B that is delensed has"
    " itself entered the estimate (hatched, from delens.lmin_b on), less is left of lensing and signal alike.",
    "sigma": "Standard deviation of the tensor-to-scalar ratio that each map allows, of every sky (small points) and on"
    " average, for r = 0, without foregrounds; to the left is better. Hollow: the primordial signal was not kept.",
    "spectra": "Power before and after. Low power alone is no success: a filter has it too. Dotted: the primordial"
    " signal was not kept.",
    "boxes": "Every sky (points), the median, the quartiles, and the range without outliers. Hollow: the primordial"
    " signal was not kept.",
    "lensing": "One patch of one sky. Above: the convergence of the lenses, the truth as far as the best of the methods"
    " measures it (times its measured response), and the estimates of those that make one. Below: the lensing of the"
    " field and what each method subtracts as such. Truth, methods and differences share one scale. A"
    " filter of the observed field looks right here, because nearly all of a B map is lensing: see the trap.",
    "skies": "Truth, observed and predicted map of one sky, and what is wrong with each. Predictions carry the noise of"
    " the observation.",
    "zoom": "The same for one patch.",
    "response": "Above: the response of the convergence. Below: the power of the template over that of the lensing of"
    " the sky itself. Grey: the multipoles of the table. Colours: skies that differ from it in one thing.",
}
RESPONSE = (
    "What each method answers on skies that differ from the first test sky in one thing, everything random being the"
    " same; its filters and weights remain those of the dataset. The template that is left on an unlensed sky is noise"
    " that passes for lensing. The response is the part of the true convergence that the estimate has; of an estimator"
    " that is linear in the observed B it does not change with the amplitude of the lensing or with the noise."
)


@dataclass(frozen=True, kw_only=True)
class Compared(comparison.Compared):
    """What the report is made of.

    Attributes
    ----------
    baseline : str
        Name of the row without delensing.
    none_from : str
        Method among whose results that row is looked up.
    targets : mapping
        Name of a method -> what it estimates; not of the baseline.
    filters, sigma : mapping
        Entries of the caption: what the filters of the estimators are made of, and what sigma(r) is of.
    rows : mapping
        Name of a row -> what was measured, a mapping a sky and form.
    responses : sequence of mappings
        Rows of the methods' ``response.csv``, of those that have one.
    response_pictures : sequence of bytes
        Their PNG files.
    """

    baseline: str
    none_from: str = ""
    targets: Mapping[str, str]
    filters: Mapping[str, str] = field(default_factory=dict)
    sigma: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    responses: Sequence[Mapping[str, Any]] = ()
    response_pictures: Sequence[bytes] = ()

    def blocks(self) -> list[tuple[dict[str, str], Sequence[Mapping[str, Any]]]]:
        """The summary and the differences."""
        entries = {**self.filters, **self.sigma, **SCATTER}
        blocks: list[tuple[dict[str, str], Sequence[Mapping[str, Any]]]] = [(entries, self.summary)]
        if self.paired:
            entries = {"mean difference from": self.reference, **comparison.ERROR}
            blocks.append((entries, comparison.without_intervals(self.paired)))
        return blocks

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """One line a method: what does not depend on the form of the maps."""
        return list({line["method"]: line for line in reversed(self.summary)}.values())[::-1]


def report(compared: Compared, figures: Mapping[str, bytes]) -> str:
    """Return the page; ``figures`` are PNG files by the names of ``LEGENDS``."""

    def drawn(*names: str) -> list[str]:
        return [picture(figures[name], LEGENDS[name], describe(compared.caption)) for name in names]

    parts = [
        section("What is removed, and what is kept", _delensing_table(compared)),
        *drawn("delensing", "sigma"),
        section(f"Differences from {compared.reference} on the same skies", _paired_table(compared)),
        section("Spectra", *drawn("spectra")),
        section("The lensing", *drawn("lensing")),
        *_response(compared),
        section("Skies", *drawn("skies", "zoom")),
        section("Pixel by pixel", _pixel_table(compared)),
        section("Scatter of the skies", *drawn("boxes")),
        section("What each method can and cannot do", _kinds(compared)),
        section("The trap", paragraph(TRAP)),
    ]
    return comparison_page("Delensing", compared, [bullets(verdicts(compared))], parts)


def _response(compared: Compared) -> list[str]:
    """The section of what methods answer on other skies, if any has told."""
    if not compared.responses:
        return []
    lines = shown(compared.responses)
    rows = [{heading(k, compared.caption, METRICS): str(v) for k, v in line.items() if k != "note"} for line in lines]
    drawn = [picture(png, LEGENDS["response"]) for png in compared.response_pictures]
    return [section("Other skies", table(rows), paragraph(RESPONSE, look="small"), *drawn)]


def verdicts(compared: Compared) -> list[str]:
    """Return one sentence a method; A_res is named only where the primordial signal is kept."""
    sentences = []
    for line in compared.lines:
        name = line["method"]
        sigma = line["sigma_r"][0]
        times = line["sigma_r_ratio"][0]
        after = "" if math.isnan(times) else f" sigma(r) for r = 0 is {times:.2f} times what it is without delensing."
        if name == compared.baseline:
            own = line["sigma_r_own"][0]
            numbers = f"{1e4 * sigma:.1f} for r = 0, {1e4 * own:.1f} for the r of these skies"
            end = "" if math.isnan(sigma) else f" 10⁴ sigma(r) = {numbers}."
            sentences.append(f"{name}: all of the lensing is there.{end}")
        elif line["note"]:
            sentences.append(f"{name}: A_res is struck out, because {line['note']}.{after}")
        else:
            left = line["A_res"][0]
            kept = line["transfer"][0]
            after = _own_error(line) + after
            sentences.append(
                f"{name}: {left:.2f} of the lensing power is left, with a primordial transfer of {kept:.2f}.{after}"
            )
    return sentences


def _own_error(line: Mapping[str, Any]) -> str:
    """What the method itself says of A_res, if it does."""
    mean, error = (line.get(name, (math.nan,))[0] for name in (EXPECTED, EXPECTED_ERROR))
    if math.isnan(mean):
        return ""
    spread = "" if math.isnan(error) else f" ± {error:.4f} (a sky)"
    return f" Samples of its posterior, without the truth, say {mean:.4f}{spread}."


def _delensing_table(compared: Compared) -> str:
    labels = {line["method"]: {"estimates": compared.targets.get(line["method"], "-")} for line in compared.lines}
    lines = [{"method": line["method"], **labels[line["method"]], **line} for line in compared.lines]
    heads = [metric for metric in compared.metrics if metric.heads]
    notes = list(dict.fromkeys(line["note"] for line in compared.lines if line["note"]))
    struck = judged_text(compared.metrics)
    foot = [paragraph(f"{i}: {struck} is no headline: {note}.", look="small") for i, note in enumerate(notes, start=1)]
    shown = metric_table(lines, heads, compared.caption, labels=("method", "estimates"))
    return "\n".join([shown, *foot, paragraph(f"{MEANS} {directions(heads)} {_of_sigma(compared)}", look="small")])


def _of_sigma(compared: Compared) -> str:
    said = "".join(f"sigma(r) is {text}. " for text in compared.sigma.values())
    made = "".join(f"Filters are {text}. " for text in compared.filters.values())
    return f"{made}{said}{SIGMA}"


def _paired_table(compared: Compared) -> str:
    struck = f" Differences of {judged_text(compared.metrics)} in which one of the two is no headline are struck out."
    legend = DIFFERENCES + struck if any(line["note"] for line in compared.paired) else DIFFERENCES
    return difference_table(compared.paired, compared.metrics, compared.caption) + paragraph(legend, look="small")


def _pixel_table(compared: Compared) -> str:
    pixels = [metric for metric in compared.metrics if not metric.heads]
    legend = (
        "Native: the truth carries the beam of the maps. Common: all are brought to one wider beam. Predictions hold"
        f" the noise of the observation, which a filter removes and a delensing leaves. {MEANS} {directions(pixels)}"
    )
    shown = metric_table(compared.summary, pixels, compared.caption, labels=("method", "form"))
    return shown + paragraph(legend, look="small")


def _kinds(compared: Compared) -> str:
    parts = ["<dl>"]
    struck = [line["method"] for line in compared.lines if line["note"]]
    for kind, (does, claim) in KINDS.items():
        names = struck if kind not in TARGETS else [name for name, target in compared.targets.items() if target == kind]
        who = ", ".join(names) or "none of these methods"
        parts.append(f"<dt>{escape(kind)}: {escape(who)}</dt><dd>Such a method {escape(does)}. {escape(claim)}</dd>")
    return "\n".join([*parts, "</dl>"])
