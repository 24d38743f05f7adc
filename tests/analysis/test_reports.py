"""Reports of hand-made numbers, in words and in a browser."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from cmbml.analysis import page
from cmbml.analysis.cleaning import report as clean_report
from cmbml.analysis.cleaning.metrics import METRICS, residuals
from cmbml.analysis.delensing import metrics as delensing_metrics
from cmbml.analysis.delensing import report
from tests.analysis.browser import look
from tests.analysis.test_compare import Page, check_self_contained

# A PNG of 3000 x 1 points.
WIDE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAC7gAAAABAQAAAABmrN6TAAAADUlEQVR42mNgGAUDAQABeAABPE+B+QAAAABJRU5ErkJggg=="
)
LONG = "a_method_with_a_name_that_is_longer_than_the_screen_of_any_phone_and_has_no_space"
NAMES = ("MAE", "RMSE", "NRMSE", "PSNR", "psnr_joint", "corr", "transfer", "rho", "residual_2_30")


def compared(rmse, *, n=6, fields="T", baselines=("baseline",), interval=(0.1, 0.3)):
    """A comparison of methods with the RMSE given, against the last."""
    *others, reference = rmse
    summary = [
        {"method": name, "field": field, "form": form, "area": area, "n": n} | dict.fromkeys(NAMES, (value, 0.1))
        | {"fwhm_arcmin": (60.0, 0.0), "note": ""}
        for name, value in rmse.items() for field in fields
        for form in ("native", "unsmoothed", "common") for area in ("full", "mask")
    ]  # fmt: skip
    paired = [
        {"method": name, "field": field, "form": "common", "area": "mask", "n": n, "note": "",
         "RMSE": (rmse[name] - rmse[reference], 0.05 if n > 1 else math.nan), "RMSE_interval": interval}
        for name in others for field in fields
    ]  # fmt: skip
    return clean_report.Compared(
        caption={"field": fields, "unit": "uK_CMB", "dataset": "d"},
        reference=reference,
        metrics=(*METRICS, *residuals([[2, 30]], 160)),
        headline={"form": "common", "area": "mask"},
        beam="60 arcmin, to l = 160",
        baselines=baselines,
        summary=summary,
        paired=paired,
        costs=[{"method": reference, "step": "clean", "n": n, "seconds": (0.4, math.nan), "peak_gb": math.nan}],
        origins=[{"method": name, "packages": LONG} for name in rmse],
    )


def test_verdicts_say_what_the_skies_can_tell():
    rmse = {"baseline": 1e-7, "mine": 5.2, "ilc": 5.0}
    mine, ilc, baseline = clean_report.verdicts(compared(rmse))
    assert mine == (
        "mine: RMSE 5.2 µK, 520.00% of the CMB's rms; transfer 5.200; 0.200 ± 0.050 (standard error) µK above ilc"
        " on the same 6 skies (95 %: +0.1 .. +0.3 µK)."
    )
    assert ilc == "ilc: RMSE 5 µK, 500.00% of the CMB's rms; transfer 5.000."
    assert baseline == "baseline, a baseline, which has seen the truth: RMSE below 0.001 µK; transfer 0.000."
    (mine, *_) = clean_report.verdicts(compared(rmse, interval=(-0.1, 0.5)))
    assert "these 6 skies cannot tell it from ilc (95 %: -0.1 .. +0.5 µK)" in mine
    (mine, *_) = clean_report.verdicts(compared({"mine": 4.8, "ilc": 5.0}, n=1, interval=(math.nan, math.nan)))
    assert mine.endswith("; 0.2 µK below ilc on the one sky.")
    assert [line[:8] for line in clean_report.verdicts(compared({"ilc": 5.0}, fields="TQ"))] == ["ilc (T):", "ilc (Q):"]


def test_the_tables_begin_with_the_one_that_counts():
    own = compared({"baseline": 1.0, "mine": 5.2, "ilc": 5.0}, fields="TE")
    assert own.parts() == [
        ("common", "mask"), ("unsmoothed", "mask"), ("native", "mask"),
        ("common", "full"), ("unsmoothed", "full"), ("native", "full"),
    ]  # fmt: skip
    head, differences, raw, *_ = own.blocks()
    scatter = "standard deviation over the skies"
    assert head[0] == {"maps": "at 60 arcmin, to l = 160", "area": "what the mask leaves", "±": scatter}
    assert list(head[1][0])[:4] == ["method", "kind", "field", "n"]
    assert {"rho", "residual_2_30"} <= set(head[1][0])
    assert "psnr_joint" not in head[1][0]
    assert differences[0]["mean difference from"] == "ilc"
    assert differences[0]["±"] == "standard error of the mean over the skies"
    assert {entries["±"] for entries, lines in own.blocks() if lines != differences[1]} == {scatter}
    assert "truth without a beam" in raw[0]["maps"]
    assert "psnr_joint" in raw[1][0]
    assert "rho" not in raw[1][0]
    native = next(lines for said, lines in own.blocks() if said["maps"].endswith("beam of each"))
    assert native[0]["fwhm_arcmin"] == (60.0, 0.0)


def test_boxes_are_of_the_numbers_that_count_and_of_no_floor():
    row = {"form": "common", "area": "mask", **dict.fromkeys(NAMES, 2.0)}
    rows = [
        {**row, "method": name, "field": field, "sim": sim, "RMSE": sim}
        for name in ("baseline", "mine", "ilc") for field in "TE" for sim in (0, 1)
    ] + [{**row, "method": "mine", "field": "T", "form": "native", "RMSE": 99}]  # fmt: skip
    own = compared({"baseline": 1.0, "mine": 5.2, "ilc": 5.0}, fields="TE")
    boxes = clean_report.boxes(own, rows)
    assert list(boxes) == [f"{x} of {field}" for field in "TE" for x in ("RMSE", "corr", "transfer")]
    assert {name: v.tolist() for name, v in boxes["RMSE of T"].items()} == {"mine": [0, 1], "ilc": [0, 1]}


def pages(folder):
    """The reports of both jobs with what is hard to fit on a phone, and a page with all that a report must not have."""
    figures = {name: [WIDE] for name in clean_report.LEGENDS}
    cleaning = clean_report.report(compared({"baseline": 1.0, LONG: 5.2, "ilc": 5.0}), figures, synthetic=True)
    pair = (0.5, 0.1)
    metrics = dict.fromkeys((metric.name for metric in delensing_metrics.METRICS), pair)
    line = {"method": LONG, "form": "native", "n": 2, **metrics, "note": ""}
    delensing = report.report(
        report.Compared(
            caption={"field": "B", "dataset": LONG},
            reference=LONG,
            metrics=delensing_metrics.METRICS,
            baseline="no delensing",
            targets={LONG: "kappa"},
            summary=[line],
            paired=[line | {f"{name}_interval": (np.nan, np.nan) for name in metrics}],
            costs=[],
            origins=[{"method": LONG, "packages": LONG}],
        ),
        dict.fromkeys(report.LEGENDS, WIDE),
    )
    bad = page.page("bad", ['<div style="width:900px">x</div>', page.picture(WIDE, "x")])
    bad = bad.replace("base64,iVBOR", "base64,AAAA")
    bad = bad.replace("</body>", '<img src="http://nowhere.invalid/x.png"></body>')
    paths = {}
    for name, text in {"cleaning": cleaning, "delensing": delensing, "bad": bad}.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text)
    return paths


def test_pages_fit_a_phone_and_ask_for_nothing(tmp_path):
    paths = pages(tmp_path)
    for name in ("cleaning", "delensing"):
        check_self_contained(Page(paths[name].read_text()))
    sizes = [(name, width) for name in ("cleaning", "delensing", "bad") for width in (390, 1280)]
    seen = dict(zip(sizes, look([(paths[name], width) for name, width in sizes], tmp_path), strict=True))
    for (name, width), what in seen.items():
        assert what["width"] == width
        good = (what["wide"] <= width, min(what["images"]) > 0, what["asked"] == [])
        assert good == (name != "bad" or width > 900, name != "bad", name != "bad"), (name, what)
    assert len(seen["delensing", 390]["images"]) == len(report.LEGENDS) - 1  # other skies, where asked for
    assert seen["bad", 390]["asked"] == ["http://nowhere.invalid/x.png"]
    # Read on a phone: the text is broken into more lines, not made smaller.
    assert seen["cleaning", 390]["high"] > 1.2 * seen["cleaning", 1280]["high"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_page_says_when_foregrounds_are_synthetic(synthetic):
    figures = {name: [WIDE] for name in clean_report.LEGENDS}
    text = clean_report.report(compared({"ilc": 5.0}), figures, synthetic=synthetic)
    assert (re.search(r'<p class="warning">The foregrounds .* SYNTHETIC', text) is not None) is synthetic
    assert "There is no other method." in text


def test_pictures_in_a_page_are_small_and_wait_until_they_are_seen():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (900, 1500, 3), dtype=np.uint8))
    text = page.picture(encoded(noise), "noise")
    (attributes,) = (attributes for tag, attributes in Page(text).tags if tag == "img")
    assert attributes["loading"] == "lazy"
    small = base64.b64decode(attributes["src"].partition(",")[2])
    assert len(small) <= page.MOST
    size = int(attributes["width"]), int(attributes["height"])
    assert Image.open(io.BytesIO(small)).size == size
    assert size[0] / size[1] == pytest.approx(5 / 3, rel=0.01)
    # One step wider it would be too large: shown noise of 64 colours holds 6 bits a point.
    assert 6 / 8 * size[0] * size[1] / 0.92**2 > page.MOST
    # A picture of few colours is nearly the same, point by point: colours are looked up in boxes of 8.
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (50, 40)), "L").convert("RGB")
    same, size = page.shrunk(encoded(ramp), page.MOST)
    assert size == ramp.size
    shown = np.asarray(Image.open(io.BytesIO(same)).convert("RGB"), dtype=int)
    np.testing.assert_allclose(shown, np.asarray(ramp, dtype=int), atol=8)


def encoded(image):
    """A picture as PNG file."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("name", ["cleaning", "delensing"])
def test_the_verdict_stands_before_all_else(name, tmp_path):
    text = pages(tmp_path)[name].read_text()
    title, _, rest = text.partition("</h1>")
    assert "<table" not in title
    assert rest.strip().startswith("<h2>Verdict</h2>\n<ul>")
    # Every table scrolls in a container of its own.
    assert text.count("<table>") == text.count('<div class="table"><table>') > 2
    assert ".table { overflow-x: auto; }" in text


def test_differences_of_several_fields_are_told_apart():
    own = compared({"mine": 5.2, "ilc": 5.0}, fields="TE")
    figures = {name: [WIDE, WIDE] for name in clean_report.LEGENDS}
    text = clean_report.report(own, figures, synthetic=False)
    table = text.partition("Differences from ilc")[2].partition("</table>")[0]
    assert re.findall("<th>([^<]*)", table) == ["method", "field", "RMSE [µK_CMB]"]
    assert re.findall(r"<td>mine</td><td>(\w)</td><td>([^<]*)<br>([^<]*)", table) == [
        (x, "0.200 ± 0.050", "0.1 .. 0.3") for x in "TE"
    ]
    assert re.findall("<figcaption>Field (.): Truth and predictions of one", text) == ["T", "E"]
