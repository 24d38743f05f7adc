"""Tables: digits, means and scatter, struck-out values."""

import csv
import html
import io
import math
import re
from functools import partial

import numpy as np
import pytest

from cmbml.analysis.delensing.metrics import METRICS, note
from cmbml.analysis.tables import format_value, summarise, to_latex, to_markdown, to_rows

CAPTION = {"field": "B", "unit": "uK_CMB", "dataset": "demo_64", "nside": 64}
ROWS = [
    {"method": "no delensing", "form": "native", "split": "test", "sim": 0, "RMSE": 2.0, "A_res": 1.0, "transfer": 0.8},
    {"method": "unet_b", "form": "native", "split": "test", "sim": 0, "RMSE": 1.0, "A_res": 0.1, "transfer": 0.2},
    {"method": "no delensing", "form": "native", "split": "test", "sim": 1, "RMSE": 4.0, "A_res": 1.0, "transfer": 0.6},
    {"method": "unet_b", "form": "native", "split": "test", "sim": 1, "RMSE": 1.5, "A_res": 0.2, "transfer": 0.3},
    {"method": "template", "form": "native", "split": "test", "sim": 1, "A_res": 0.5, "transfer": 0.98},
]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (31.8812, 0.3571, "31.88 ± 0.36"),
        (0.54871, 0.0996, "0.55 ± 0.10"),
        (0.54871, 0.0994, "0.549 ± 0.099"),
        (-5.0, 1.04, "-5.0 ± 1.0"),
        (12345.6, 123.0, "12346 ± 123"),
        (30.2, math.nan, "30.20 ± -"),
        (0.99996, math.nan, "1.000 ± -"),
        (1.0, 0.0, "1.000 ± 0.000"),
        (0.0, 0.0, "0.000 ± 0.000"),
        (4.1e-6, 1.3e-7, "(4.10 ± 0.13)e-6"),
        (2.5e7, 3e5, "(2.500 ± 0.030)e7"),
        (math.nan, math.nan, "-"),
        (math.inf, math.nan, "inf"),
        (0.99999999999, 1e-13, "1.00000 ± 0.00000"),
        (0.25000000020, 8.3e-10, "0.250000 ± 0.000000"),
        (-123.4567, 1e-7, "-123.457 ± 0.000"),
    ],
)
def test_digits_follow_the_scatter(mean, std, text):
    assert format_value(mean, std) == text


def test_means_and_scatter_over_the_skies():
    none, unet, template = summarise(ROWS, judge=note)
    assert (none["method"], none["n"], template["n"]) == ("no delensing", 2, 1)
    assert none["RMSE"] == pytest.approx((3, np.sqrt(2)))
    assert unet["A_res"] == pytest.approx((0.15, np.sqrt(0.005)))
    assert template["A_res"][0] == 0.5
    assert math.isnan(template["A_res"][1])
    assert math.isnan(template["RMSE"][0])
    assert "sim" not in none
    assert "split" not in none


def test_forms_are_lines_of_their_own():
    rows = [{"method": "m", "form": f, "sim": s, "MAE": v} for f, s, v in [("native", 0, 1.0), ("common", 0, 2.0)]]
    assert [(line["form"], line["MAE"][0], line["note"]) for line in summarise(rows, judge=note)] == [
        ("native", 1.0, ""),
        ("common", 2.0, ""),
    ]


def test_markdown_strikes_out_what_is_no_headline_and_says_why():
    text = to_markdown(summarise(ROWS, judge=note), caption=CAPTION, metrics=METRICS)
    lines = text.splitlines()
    assert lines[0] == "field B [µK_CMB] · dataset demo_64 · nside 64"
    assert lines[2] == "| method | form | n | RMSE [µK_CMB] | A_res | transfer |"
    assert lines[5] == "| unet_b | native | 2 | 1.25 ± 0.35 | ~~0.150 ± 0.071~~[1] | 0.250 ± 0.071 |"
    assert lines[6] == "| template | native | 1 | - | 0.5000 ± - | 0.9800 ± - |"
    assert text.count("~~") == 2
    assert lines[-1].startswith("[1] A_res is no headline: transfer 0.25 lies outside 0.9 .. 1.1")


def test_the_limits_of_the_transfer_can_be_chosen():
    text = to_markdown(summarise(ROWS, judge=partial(note, limits=(0.2, 1.1))), caption=CAPTION, metrics=METRICS)
    assert "~~" not in text
    assert "[1]" not in text


def test_latex_has_the_same_cells_and_nothing_unescaped():
    text = to_latex(summarise(ROWS, judge=note), caption=CAPTION, metrics=METRICS)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert r"\begin{tabular}{llrrrr}" in text
    assert all(line.count("&") == 5 and line.endswith(r"\\") for line in body)
    assert body[1] == (
        r"unet\_b & native & 2 & 1.25 $\pm$ 0.35 & \sout{0.150 $\pm$ 0.071}$^{1}$ & 0.250 $\pm$ 0.071 \\"
    )
    assert r"RMSE [$\mu$K\_CMB]" in text
    assert not set("µ·²±") & set(text)


def test_rows_carry_full_precision_through_csv():
    rows = to_rows(summarise(ROWS, judge=note))
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    back = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert float(back[1]["A_res_std"]) == np.std([0.1, 0.2], ddof=1)
    assert [row["note"] != "" for row in back] == [False, True, False]


EVIL = "a|b\\c{d}$e#f^g~h<i>j_k%l&m`n`[x](http://y)*o*"


def test_names_are_text_in_markdown_and_in_latex():
    """Read back as a renderer would: the cell is the name, and no cell, tag, link or command is added."""
    line = {"method": EVIL, "form": "native", "n": 2, "RMSE": (1.0, 0.1), "note": ""}
    row = to_markdown([line], caption={}, metrics=METRICS).splitlines()[-1]
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    assert len(cells) == 4
    assert "<" not in row
    assert "](" not in row
    assert html.unescape(re.sub(r"\\(.)", r"\1", cells[0].strip())) == EVIL
    text = to_latex([line], caption={"dataset": EVIL}, metrics=METRICS)
    body = text.split(r"\midrule")[1].splitlines()[1]
    assert len(re.findall(r"(?<!\\)&", body)) == 3
    for letter in "#^~<>":
        assert not re.search(rf"(?<!\\){re.escape(letter)}", body)
    assert body.startswith(r"a|b\textbackslash{}c\{d\}\$e\#f\textasciicircum{}g\textasciitilde{}h\textless{}i")
