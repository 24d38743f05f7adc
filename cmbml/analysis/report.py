"""The report of a comparison: one HTML page that needs no other file, no script and no network."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from cmbml.analysis.common import describe, unit_text
from cmbml.analysis.comparison import PAIRED
from cmbml.analysis.metrics import PIXEL_METRICS, TARGETS
from cmbml.analysis.tables import format_value

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #555; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption, .small { color: #444; font-size: .88rem; } s { color: #a33; } dt { font-weight: 600; margin-top: .7rem; }
dd { margin-left: 1rem; }
"""
_SMALL = ' class="small"'
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
        See ``common.describe``.
    reference, baseline : str
        Method of the paired differences; name of the row without delensing.
    targets : mapping
        Name of a method -> what it estimates; not of the baseline.
    summary : sequence of mappings
        From ``tables.summarise``, one a method and form.
    paired : sequence of mappings
        From ``comparison.paired``.
    origins : sequence of mappings
        Rows that say where each method's numbers come from.
    """

    caption: Mapping[str, Any]
    reference: str
    baseline: str
    targets: Mapping[str, str]
    summary: Sequence[Mapping[str, Any]]
    paired: Sequence[Mapping[str, Any]]
    origins: Sequence[Mapping[str, str]]

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """One line a method: what does not depend on the form of the maps."""
        return list({line["method"]: line for line in reversed(self.summary)}.values())[::-1]


def report(compared: Compared, figures: Mapping[str, bytes]) -> str:
    """Return the page; ``figures`` are PNG files by the names of ``LEGENDS``."""
    title = f"Delensing of {compared.caption['field']}: methods on the same skies"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _paragraph(describe(compared.caption), small=True),
        _section("Verdict", _list(verdicts(compared))),
        _section("What is removed, and what is kept", _delensing_table(compared)),
        *(_picture(name, figures[name], compared) for name in ("delensing", "sigma")),
        _section(f"Differences from {compared.reference} on the same skies", _paired_table(compared)),
        _section("Spectra", _picture("spectra", figures["spectra"], compared)),
        _section("Skies", *(_picture(name, figures[name], compared) for name in ("skies", "zoom"))),
        _section("Pixel by pixel", _pixel_table(compared)),
        _section("What each method can and cannot do", _kinds(compared)),
        _section("The trap", _paragraph(TRAP)),
        _section("Where the numbers come from", _table(compared.origins)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n"
        "</html>\n"
    )


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
    foot = [_paragraph(f"{i}: A_res is no headline: {note}.", small=True) for i, note in enumerate(notes, start=1)]
    return "\n".join([_table(rows, escaped=True), *foot])


def _paired_table(compared: Compared) -> str:
    known = any(not math.isnan(bound) for line in compared.paired for bound in line["A_res_interval"])
    shown = {"sigma_r": "sigma(r)", "sigma_r_ratio": "sigma(r) ratio", "transfer": "primordial transfer"}
    rows = []
    for line in compared.paired:
        row = {"method": escape(line["method"])}
        for metric in PAIRED:
            cell = escape(format_value(*line[metric]))
            low, high = line[f"{metric}_interval"]
            cell += "" if math.isnan(low) else f"<br>{low:.3g} .. {high:.3g}"
            row[shown.get(metric, metric)] = f"<s>{cell}</s>" if metric == "A_res" and line["note"] else cell
        rows.append(row)
    legend = "Method minus reference, mean ± standard error over the skies."
    legend += " Below it: 95 % of the means of resampled skies." if known else ""
    struck = " Differences of A_res in which one of the two is no headline are struck out."
    legend += struck if any(line["note"] for line in compared.paired) else ""
    return _table(rows, escaped=True) + _paragraph(legend, small=True)


def _pixel_table(compared: Compared) -> str:
    unit = unit_text(compared.caption)
    units = {"MAE": unit, "RMSE": unit, "MSE": f"{unit}²" if unit else "", "PSNR": "dB"}
    heads = {name: f"{name} [{units[name]}]" if units.get(name) else name for name in PIXEL_METRICS}
    rows = [
        {"method": line["method"], "form": line["form"]}
        | {head: format_value(*line[name]) for name, head in heads.items()}
        for line in compared.summary
    ]
    legend = (
        "Native: the truth carries the beam of the maps. Common: all are brought to one wider beam. Predictions hold"
        " the noise of the observation, which a filter removes and a delensing leaves."
    )
    return _table(rows) + _paragraph(legend, small=True)


def _kinds(compared: Compared) -> str:
    parts = ["<dl>"]
    struck = [line["method"] for line in compared.lines if line["note"]]
    for kind, (does, claim) in KINDS.items():
        own = struck if kind not in TARGETS else [name for name, target in compared.targets.items() if target == kind]
        who = ", ".join(own) or "none of these methods"
        parts.append(f"<dt>{escape(kind)}: {escape(who)}</dt><dd>Such a method {escape(does)}. {escape(claim)}</dd>")
    return "\n".join([*parts, "</dl>"])


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<h2>{escape(title)}</h2>", *parts])


def _paragraph(text: str, *, small: bool = False) -> str:
    return f"<p{_SMALL if small else ''}>{escape(text)}</p>"


def _list(lines: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def _picture(name: str, png: bytes, compared: Compared) -> str:
    data = base64.b64encode(png).decode()
    what = f"{LEGENDS[name]} {describe(compared.caption)}."
    alt = LEGENDS[name].split(".")[0]
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(what)}</figcaption></figure>"
    )


def _table(rows: Sequence[Mapping[str, str]], *, escaped: bool = False) -> str:
    """Return rows as a table that scrolls by itself on a narrow screen."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0]) if rows else ""
    body = [
        "<tr>" + "".join(f"<td>{cell if escaped else escape(str(cell))}</td>" for cell in row.values()) + "</tr>"
        for row in rows
    ]
    return '<div class="table"><table>\n<thead><tr>' + head + "</tr></thead>\n" + "\n".join(body) + "\n</table></div>"
