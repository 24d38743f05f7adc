"""A metric is added in one place, the list of its job, and is found in every table, difference, box and page."""

import csv
import json

import pytest

from cmbml.analysis import compare_figures
from cmbml.analysis.cleaning import metrics as cleaning
from cmbml.analysis.delensing import metrics as delensing
from cmbml.analysis.metrics import Metric
from cmbml.start import build
from tests.analysis import clean_standin
from tests.analysis.standin import TEMPLATES, WORDS, make, quickly


def added(monkeypatch, module) -> list[str]:
    """Put a metric into the list of a job; titles of the boxes that are drawn from then on."""
    metric = Metric(
        "worst",
        lambda measured: 3 * measured.pixels["RMSE"],
        label="three sigma",
        unit="uK",
        better="lower",
        heads=True,
        pairs=True,
        boxes="one",
    )
    monkeypatch.setattr(module, "METRICS", (*module.METRICS, metric))
    titles = []
    draw = compare_figures.box_figure

    def watched(*values, **keys):
        figure = draw(*values, **keys)
        titles.extend(axis.get_title() for axis in figure.axes)
        return figure

    monkeypatch.setattr(compare_figures, "box_figure", watched)
    return titles


def check(folder, titles) -> None:
    """The metric stands in everything that a comparison makes."""
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["worst_mean"]) == pytest.approx(3 * float(row["RMSE_mean"]))
    data = json.loads((folder / "table.json").read_text())
    assert data["methods"][0]["worst_mean"] == float(rows[0]["worst_mean"])
    with (folder / "paired.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert float(pairs[0]["worst_mean"]) == pytest.approx(3 * float(pairs[0]["RMSE_mean"]))
    assert (folder / "table.md").read_text().count("three sigma [µK_CMB]") >= 2  # the table and the differences
    assert (folder / "table.tex").read_text().count(r"three sigma [$\mu$K\_CMB]") >= 2
    page = (folder / "report.html").read_text()
    assert page.count("<th>three sigma [µK_CMB]") >= 2
    assert "Lower is better: " in page
    assert "three sigma [µK_CMB]" in titles


def test_metric_of_delensing(composed, monkeypatch, tmp_path):
    quickly(monkeypatch, pdf=False)
    titles = added(monkeypatch, delensing)
    words = (*WORDS, "splits.test=2", f"system.root={tmp_path}")
    for name in ("good", "half"):
        cfg = composed(*words)
        cfg.method.name, cfg.method.target = name, TEMPLATES[name][0]
        make(cfg)
    cfg = composed(*words, "compare.methods=[good,half]", "compare.reference=good", name="compare")
    build(cfg).run()
    check(tmp_path / "standin" / "Comparison" / "B", titles)


def test_metric_of_cleaning(composed, monkeypatch, tmp_path):
    quickly(monkeypatch, pdf=False)
    titles = added(monkeypatch, cleaning)
    words = (*clean_standin.WORDS, "splits.test=2", f"system.root={tmp_path}")
    for name in ("plain", "worse"):
        clean_standin.make(composed(*words, name="clean"), name)
    compared = ("job=clean", "compare.methods=[plain,worse]", "compare.reference=plain")
    cfg = composed(*words, *compared, name="compare")
    build(cfg).run()
    check(tmp_path / "standin" / "Comparison" / "T", titles)
