"""Building blocks of a report: one HTML page that needs no other file, no script and no network."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from cmbml.analysis.captions import describe
from cmbml.analysis.comparison import Compared
from cmbml.analysis.metrics import Metric, heading
from cmbml.analysis.tables import format_value

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 0 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; white-space: normal;
  min-width: 6rem; max-width: 40vw; }
th { border-bottom: 2px solid #555; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption, .small { color: #444; font-size: .88rem; } s { color: #a33; } dt { font-weight: 600; margin-top: .7rem; }
dd { margin-left: 1rem; } .warning { border-left: 4px solid #d55e00; padding-left: .8rem; }
"""
# A page of all its pictures is small enough to be sent: each has this many bytes at most, of so many colours.
MOST = 300_000
_COLOURS = 64
_NARROWEST = 480  # points; no picture is made narrower, whatever it holds
_SAMPLE = 400  # points across
_STEP = 0.92  # from one width that is tried to the next
DIFFERENCES = (
    "Method minus reference, mean ± standard error over the skies; below it, of three skies or more: the interval that"
    " holds the true difference in 95 % of all cases, by Student's t, if the skies scatter as a Gaussian does."
)
COSTS = (
    "Mean ± standard deviation over the runs, from the record that each step leaves beside its file: wall-clock"
    " seconds, reading and writing included, and the most memory that its process held, the interpreter and its"
    " libraries included. They are those of the machine on which each ran, with the workers and threads that it had"
    " there: only rows of one machine can be compared. What another program did to make a map is not in them."
)


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole page, whose parts are made by the functions below."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str, level: int = 2) -> str:
    """Return parts under a heading."""
    return "\n".join([f"<h{level}>{escape(title)}</h{level}>", *parts])


def paragraph(text: str, *, look: str = "") -> str:
    """Return a paragraph; ``look`` is "small", "warning", or nothing."""
    attribute = f' class="{look}"' if look else ""
    return f"<p{attribute}>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a list."""
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def picture(png: bytes, legend: str, caption: str = "", *, most: int = MOST) -> str:
    """Return a PNG file within the page, with its legend and one line of what it shows below.

    The page holds it in fewer colours and, from ``most`` bytes on, narrower; browsers decode it when it is seen.
    """
    small, (width, height) = shrunk(png, most)
    data = base64.b64encode(small).decode()
    text = f"{legend} {caption}." if caption else legend
    return (
        f'<figure><img loading="lazy" width="{width}" height="{height}" alt="{escape(legend.split(".")[0])}"'
        f' src="data:image/png;base64,{data}"><figcaption>{escape(text)}</figcaption></figure>'
    )


def shrunk(png: bytes, most: int) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG file of 64 colours and at most so many bytes, and its width and height: the widest that is."""
    drawn = Image.open(BytesIO(png)).convert("RGB")
    # Colours of few points count as those of many, so that colour bars keep their ends; a sample of points is enough.
    sample = drawn.copy()
    sample.thumbnail((_SAMPLE, _SAMPLE), Image.Resampling.NEAREST)
    palette = sample.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2)
    width = drawn.width
    while True:
        size = width, max(round(drawn.height * width / drawn.width), 1)
        file = BytesIO()
        few = drawn.resize(size, Image.Resampling.LANCZOS).quantize(palette=palette, dither=Image.Dither.NONE)
        few.save(file, format="png", optimize=True)
        if file.tell() <= most or width <= _NARROWEST:
            return file.getvalue(), size
        width = max(int(_STEP * width), _NARROWEST)


def table(rows: Sequence[Mapping[str, str]], *, escaped: bool = False) -> str:
    """Return rows as a table that scrolls by itself on a narrow screen, its first column fixed."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0]) if rows else ""
    body = [
        "<tr>" + "".join(f"<td>{cell if escaped else escape(str(cell))}</td>" for cell in row.values()) + "</tr>"
        for row in rows
    ]
    return '<div class="table"><table>\n<thead><tr>' + head + "</tr></thead>\n" + "\n".join(body) + "\n</table></div>"


def metric_table(
    lines: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    caption: Mapping[str, Any],
    *,
    labels: Sequence[str],
) -> str:
    """Return lines of a summary (``tables.summarise``) as a table: what tells them apart, metrics, number of skies.

    A metric that is judged is struck out where the line has a note, with the number of the note.
    """
    notes = list(dict.fromkeys(line["note"] for line in lines if line["note"]))
    rows = []
    for line in lines:
        row = {name: escape(str(line[name])) for name in labels}
        for metric in metrics:
            cell = escape(format_value(*line[metric.name]))
            if metric.judged and line["note"]:
                cell = f"<s>{cell}</s><sup>{notes.index(line['note']) + 1}</sup>"
            row[metric.heading(caption)] = cell
        rows.append({**row, "skies": str(line["n"])})
    return table(rows, escaped=True)


def difference_table(lines: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], caption: Mapping[str, Any]) -> str:
    """Return paired differences (``comparison.paired``) as a table.

    A metric that is judged is struck out where the line has a note.
    """
    judged = [metric.name for metric in metrics if metric.judged]
    rows = []
    for line in lines:
        row = {name: escape(value) for name, value in line.items() if isinstance(value, str) and name != "note"}
        for metric in (name for name in line if f"{name}_interval" in line):
            cell = escape(format_value(*line[metric]))
            low, high = line[f"{metric}_interval"]
            cell += "" if math.isnan(low) else f"<br>{low:.3g} .. {high:.3g}"
            struck = metric in judged and line["note"]
            row[heading(metric, caption, metrics)] = f"<s>{cell}</s>" if struck else cell
        rows.append(row)
    return table(rows, escaped=True)


def cost_section(costs: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of time and memory (``comparison.costs``)."""
    rows = [
        {
            "method": line["method"],
            "step": line["step"],
            "times": str(line["n"]),
            "seconds": format_value(*line["seconds"]),
            "peak memory [GB]": "-" if math.isnan(line["peak_gb"]) else f"{line['peak_gb']:.2f}",
        }
        for line in costs
    ]
    if not rows:
        return section("Time and memory", paragraph("No step has left a record of it."))
    return section("Time and memory", table(rows), paragraph(COSTS, look="small"))


def comparison_page(job: str, compared: Compared, verdict: Iterable[str], parts: Iterable[str]) -> str:
    """Return the page of a comparison: the verdict, what it is of, the parts of the job, and its origins."""
    return page(
        f"{job} of {compared.caption['field']}: methods on the same skies",
        [
            section("Verdict", *verdict),
            paragraph(describe(compared.caption), look="small"),
            *parts,
            cost_section(compared.costs),
            section("Where the numbers come from", table(compared.origins)),
        ],
    )
