"""The report of a comparison of delensing methods, from the blocks of ``page``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from cmbml.analysis.captions import describe
from cmbml.analysis.delensing.metrics import TARGETS
from cmbml.analysis.metrics import PIXEL_METRICS
from cmbml.analysis.page import (
    DIFFERENCES,
    bullets,
    cost_section,
    difference_table,
    page,
    paragraph,
    picture,
    section,
    table,
)
from cmbml.analysis.tables import format_value, heading

# What a method may claim follows from what it estimates; the last entry is for any map whose transfer is not kept.
KINDS = {
    "kappa": (
        "estimates the convergence of the lenses, and makes the lensing of the field from it and the observed E (or T)",
        "It can remove lensing and keep the primordial signal, because its template knows of the field only what E and"
        " the deflection say. It cannot remove what noise, beam and the missing small scales hide; the theory curves"
        " are what estimators of its kind reach.",
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
    " all of it), and the correlation of the estimate with what it estimates. Grey: theory of the quadratic and the"
    " iterative estimator for this noise and beam. Dotted lines with hollow markers are struck out. Bars: scatter of"
    " one sky. Where the B that is delensed has itself entered the estimate (from delens.lmin_b on), less is left of"
    " lensing and signal alike.",
    "sigma": "Standard deviation of the tensor-to-scalar ratio that each map allows, of every sky (small points) and on"
    " average, for r = 0, without foregrounds; to the left is better. Hollow: the primordial signal was not kept.",
    "spectra": "Power before and after. Low power alone is no success: a filter has it too. Dotted: the primordial"
    " signal was not kept.",
    "boxes": "Every sky (points), the median, the quartiles, and the range without outliers. Hollow: the primordial"
    " signal was not kept.",
    "skies": "Truth, observed and predicted map of one sky, and what is wrong with each. Predictions carry the noise of"
    " the observation.",
    "zoom": "The same for one patch.",
}


@dataclass(frozen=True)
class Compared:
    """What the report is made of.

    Attributes
    ----------
    caption : mapping
        See ``captions.describe``.
    reference, baseline : str
        Method of the paired differences; name of the row without delensing.
    targets : mapping
        Name of a method -> what it estimates; not of the baseline.
    summary : sequence of mappings
        From ``tables.summarise``, one a method and form.
    paired : sequence of mappings
        From ``comparison.paired``.
    costs : sequence of mappings
        From ``comparison.costs``.
    origins : sequence of mappings
        Rows that say where each method's numbers come from.
    """

    caption: Mapping[str, Any]
    reference: str
    baseline: str
    targets: Mapping[str, str]
    summary: Sequence[Mapping[str, Any]]
    paired: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]]
    origins: Sequence[Mapping[str, str]]

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """One line a method: what does not depend on the form of the maps."""
        return list({line["method"]: line for line in reversed(self.summary)}.values())[::-1]


def report(compared: Compared, figures: Mapping[str, bytes]) -> str:
    """Return the page; ``figures`` are PNG files by the names of ``LEGENDS``."""

    def drawn(*names: str) -> list[str]:
        return [picture(figures[name], LEGENDS[name], describe(compared.caption)) for name in names]

    parts = [
        paragraph(describe(compared.caption), look="small"),
        section("Verdict", bullets(verdicts(compared))),
        section("What is removed, and what is kept", _delensing_table(compared)),
        *drawn("delensing", "sigma"),
        section(f"Differences from {compared.reference} on the same skies", _paired_table(compared)),
        section("Spectra", *drawn("spectra")),
        section("Skies", *drawn("skies", "zoom")),
        section("Pixel by pixel", _pixel_table(compared)),
        section("Scatter of the skies", *drawn("boxes")),
        section("What each method can and cannot do", _kinds(compared)),
        section("The trap", paragraph(TRAP)),
        cost_section(compared.costs),
        section("Where the numbers come from", table(compared.origins)),
    ]
    return page(f"Delensing of {compared.caption['field']}: methods on the same skies", parts)


def verdicts(compared: Compared) -> list[str]:
    """Return one sentence a method; A_res is named only where the primordial signal is kept."""
    said = []
    for line in compared.lines:
        name, sigma, times = line["method"], line["sigma_r"][0], line["sigma_r_ratio"][0]
        after = "" if math.isnan(times) else f" sigma(r) is {times:.2f} times what it is without delensing."
        if name == compared.baseline:
            end = "" if math.isnan(sigma) else f" 10⁴ sigma(r) = {1e4 * sigma:.1f}."
            said.append(f"{name}: all of the lensing is there.{end}")
        elif line["note"]:
            said.append(f"{name}: A_res is struck out, because {line['note']}.{after}")
        else:
            left, kept = line["A_res"][0], line["transfer"][0]
            said.append(
                f"{name}: {left:.2f} of the lensing power is left, with a primordial transfer of {kept:.2f}.{after}"
            )
    return said


def _delensing_table(compared: Compared) -> str:
    rows, notes = [], list(dict.fromkeys(line["note"] for line in compared.lines if line["note"]))
    for line in compared.lines:
        a_res = escape(format_value(*line["A_res"]))
        if line["note"]:
            a_res = f"<s>{a_res}</s><sup>{notes.index(line['note']) + 1}</sup>"
        rows.append(
            {
                "method": escape(line["method"]),
                "estimates": escape(compared.targets.get(line["method"], "-")),
                "sigma(r) ratio": escape(format_value(*line["sigma_r_ratio"])),
                "10⁴ sigma(r)": escape(format_value(*(1e4 * x for x in line["sigma_r"]))),
                "A_res": a_res,
                "primordial transfer": escape(format_value(*line["transfer"])),
                "rho": escape(format_value(*line["rho"])),
                "skies": str(line["n"]),
            }
        )
    foot = [paragraph(f"{i}: A_res is no headline: {note}.", look="small") for i, note in enumerate(notes, start=1)]
    return "\n".join([table(rows, escaped=True), *foot])


def _paired_table(compared: Compared) -> str:
    shown = {"sigma_r": "sigma(r)", "sigma_r_ratio": "sigma(r) ratio", "transfer": "primordial transfer"}
    struck = " Differences of A_res in which one of the two is no headline are struck out."
    legend = DIFFERENCES + struck if any(line["note"] for line in compared.paired) else DIFFERENCES
    return difference_table(compared.paired, shown, strike="A_res") + paragraph(legend, look="small")


def _pixel_table(compared: Compared) -> str:
    rows = [
        {"method": line["method"], "form": line["form"]}
        | {heading(name, compared.caption): format_value(*line[name]) for name in PIXEL_METRICS}
        for line in compared.summary
    ]
    legend = (
        "Native: the truth carries the beam of the maps. Common: all are brought to one wider beam. Predictions hold"
        " the noise of the observation, which a filter removes and a delensing leaves."
    )
    return table(rows) + paragraph(legend, look="small")


def _kinds(compared: Compared) -> str:
    parts = ["<dl>"]
    struck = [line["method"] for line in compared.lines if line["note"]]
    for kind, (does, claim) in KINDS.items():
        own = struck if kind not in TARGETS else [name for name, target in compared.targets.items() if target == kind]
        who = ", ".join(own) or "none of these methods"
        parts.append(f"<dt>{escape(kind)}: {escape(who)}</dt><dd>Such a method {escape(does)}. {escape(claim)}</dd>")
    return "\n".join([*parts, "</dl>"])
