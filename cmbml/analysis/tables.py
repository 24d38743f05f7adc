"""Tables of metrics: mean and scatter over the skies of a split, as rows for a CSV file, Markdown and LaTeX."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cmbml.analysis.captions import describe
from cmbml.analysis.metrics import Metric, heading

# Entry of the caption of a table of means.
SCATTER = {"±": "standard deviation over the skies"}
# A number outside this range is written with a power of ten.
_PLAIN = (1e-4, 1e6)
# No mean has more digits than these, however small its scatter.
_DIGITS = 6


def summarise(
    rows: Sequence[Mapping],
    *,
    by: Sequence[str] = ("method", "form"),
    ignore: Sequence[str] = ("split", "sim"),
    judge: Callable[[Mapping], str] = lambda line: "",
) -> list[dict]:
    """Gather one row a sky into one row a method.

    Parameters
    ----------
    rows : sequence of mappings
        One a sky: the names in ``by``, and a number under the name of each metric. A metric that a row lacks is nan.
    by : sequence of str, optional
        What tells one line of the table from the next; in order of first appearance.
    ignore : sequence of str, optional
        Columns that are neither.
    judge : callable, optional
        From a line of means to the reason why it is no headline, or "".

    Returns
    -------
    list of dict
        The names in ``by``; ``n`` the number of skies; for each metric a pair (mean, standard deviation with ddof 1),
        the latter nan for a single sky; and ``note``: why A_res is struck out, or "".
    """
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name, "") for name in by), []).append(row)
    metrics = list(dict.fromkeys(k for row in rows for k in row if k not in by and k not in ignore))
    summary = []
    for key, members in groups.items():
        line = dict(zip(by, key, strict=True)) | {"n": len(members)}
        for name in metrics:
            values = np.array([row.get(name, np.nan) for row in members], dtype=np.float64)
            finite = len(values) > 1 and np.isfinite(values).all()
            line[name] = (float(values.mean()), float(values.std(ddof=1)) if finite else math.nan)
        summary.append(line | {"note": judge(line)})
    return summary


def notes(summary: Iterable[Mapping]) -> dict[str, str]:
    """Return name of a method -> why it is no headline, or ""."""
    return {line["method"]: line["note"] for line in summary}


def format_value(mean: float, std: float, *, pm: str = "±", times: str = "e{}") -> str:
    """Write ``mean ± std`` with two significant digits of the std, or the mean alone with four.

    A std that is not known is "-", a mean that is not known makes the whole entry "-".
    """
    if math.isnan(mean):
        return "-"
    if math.isinf(mean):
        return "inf" if mean > 0 else "-inf"
    scattered = math.isfinite(std)
    size = max(abs(mean), std if scattered else 0.0)
    power = 0 if size == 0 or _PLAIN[0] <= size < _PLAIN[1] else math.floor(math.log10(size))
    mean /= 10.0**power
    std /= 10.0**power
    digits, scale = (2, std) if scattered and std > 0 else (4, abs(mean))
    decimals = _decimals(scale, digits) if scale > 0 else digits - 1
    decimals = min(decimals, _decimals(mean, _DIGITS)) if mean != 0 else decimals
    text = f"{mean:.{decimals}f} {pm} " + (f"{std:.{decimals}f}" if scattered else "-")
    return f"({text}){times.format(power)}" if power else text


def _decimals(value: float, digits: int) -> int:
    """Return the decimals that show so many digits, counted after rounding: .0996 has two digits as 0.10."""
    return max(0, digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1]))


def to_rows(summary: Sequence[Mapping]) -> list[dict]:
    """Return the summary as flat rows for a CSV file: a mean and a std column for each metric, the note in words."""
    rows = []
    for line in summary:
        row: dict[str, Any] = {}
        for name, value in line.items():
            row |= {f"{name}_mean": value[0], f"{name}_std": value[1]} if isinstance(value, tuple) else {name: value}
        rows.append(row)
    return rows


def to_markdown(summary: Sequence[Mapping], *, caption: Mapping, metrics: Sequence[Metric] = ()) -> str:
    """Return the summary as a Markdown table under a line that says what it is of.

    An A_res that is no headline is struck out and its reason stands in a footnote.
    """
    header, lines, notes = _cells(summary, caption, metrics, strike="~~{}~~", mark="[{}]", escape=_markdown)
    table = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines]]
    struck = judged_text(metrics)
    foot = "\n".join(f"[{i}] {struck} is no headline: {_markdown(note)}." for i, note in notes)
    parts = [_markdown(describe(caption)), "\n".join(table), foot]
    return "\n\n".join(p for p in parts if p) + "\n"


def to_latex(summary: Sequence[Mapping], *, caption: Mapping, metrics: Sequence[Metric] = ()) -> str:
    r"""Return the summary as a LaTeX table (packages booktabs and, for struck-out values, ulem with ``normalem``)."""
    header, body, notes = _cells(
        summary,
        caption,
        metrics,
        pm=r"$\pm$",
        times=r"$\times 10^{{{}}}$",
        strike=r"\sout{{{}}}",
        mark="$^{{{}}}$",
        escape=_tex,
    )
    foot = "".join(rf" $^{{{i}}}$ {_tex(judged_text(metrics))} is no headline: {_tex(note)}." for i, note in notes)
    labels = sum(isinstance(value, str) for name, value in summary[0].items() if name != "note")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(describe(caption))}.{foot}}}",
        rf"\begin{{tabular}}{{{'l' * labels + 'r' * (len(header) - labels)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def judged_text(metrics: Sequence[Metric]) -> str:
    """Return the names of the metrics that a note strikes out."""
    return ", ".join(metric.label or metric.name for metric in metrics if metric.judged)


def _cells(
    summary: Sequence[Mapping],
    caption: Mapping,
    metrics: Sequence[Metric],
    *,
    strike: str,
    mark: str,
    pm: str = "±",
    times: str = "e{}",
    escape: Callable[[str], str] = str,
) -> tuple[list[str], list[list[str]], list[tuple[int, str]]]:
    """Return header, lines of cells, and numbered notes; equal notes share a number."""
    names = [name for name in summary[0] if name != "note"]
    notes = list(dict.fromkeys(line["note"] for line in summary if line["note"]))
    judged = [metric.name for metric in metrics if metric.judged and metric.name in names]
    lines = []
    for line in summary:
        cells = {k: format_value(*v, pm=pm, times=times) for k, v in line.items() if isinstance(v, tuple)}
        cells |= {k: escape(str(v)) for k, v in line.items() if not isinstance(v, tuple)}
        for name in judged if line["note"] else ():
            cells[name] = strike.format(cells[name]) + mark.format(notes.index(line["note"]) + 1)
        lines.append([cells[name] for name in names])
    return [escape(heading(name, caption, metrics)) for name in names], lines, list(enumerate(notes, start=1))


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "µ": r"$\mu$",
    "²": "$^2$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "−": r"$-$",
    "\n": " ",
}
_MARKDOWN = {
    "\\": "\\\\",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": r"\|",
    "`": r"\`",
    "*": r"\*",
    "~": r"\~",
    "\n": " ",
}


def _tex(text: str) -> str:
    """Escape what LaTeX would not read as text."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _markdown(text: str) -> str:
    """Escape what Markdown, or HTML in it, would not read as text."""
    return "".join(_MARKDOWN.get(letter, letter) for letter in text).replace("](", r"]\(")
