"""The benchmark of what breaks r: what is not changed is the run's own, and what is changed is what it says."""

import csv
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmbml.core.asset import Assets
from cmbml.start import build
from tests.conftest import configurations

WORDS = ["experiment=bands_to_r", "nside=32", "sky.lmax=80", "sky.margin=32", "foregrounds.nside_sky=32"]
WORDS += ["instrument.bands=[93,145,278]", "delens.lmin_b=45", "analysis.r={band: [10, 34], delta_l: 8}"]
WORDS += ["analysis.band=[10,34]", "splits={train: 1, valid: 0, test: 1}", "sims.combine.BinSize={E: 20, B: 15}"]
WORDS += ["mask={f_sky: 0.8, apodise_deg: 10}", "linear_map.iterations=3", "run.workers=1"]
ONLY = "analysis.stages=[cmbml.analysis.delensing.measure.Baseline,cmbml.analysis.delensing.measure.Measure"
ONLY += ",cmbml.analysis.delensing.bandpowers.Bandpowers,cmbml.analysis.delensing.bandpowers.ForegroundPowers"
ONLY += ",cmbml.analysis.delensing.r.MeasureR]"
SKY = {"split": "test", "sim": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("breaks")


@pytest.fixture(scope="module")
def words(folder):
    """Those of a run that is finished."""
    cfg = configurations(folder)(*WORDS, ONLY)
    build(cfg).run()
    return [*WORDS, ONLY, f"system.root={folder}/data"]


@pytest.fixture
def breaks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("what_breaks_r")


def test_benchmark(words, breaks, folder, monkeypatch, capsys):
    monkeypatch.setattr(breaks, "ProcessPoolExecutor", lambda n, **keys: ThreadPoolExecutor(1))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    options = ["--skies", "1", "--changes", "noise", "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", ["what_breaks_r.py", *options, *words])
    before = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")}
    breaks.main()
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")}
    assert capsys.readouterr().out.count("| noise x 1.5 | linear_map |") == 1
    with (folder / "what_breaks_r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    changes = {
        row["change"]: float(row["r_change"])
        for row in rows
        if (row["method"], row["fit"]) == ("no delensing", "foregrounds ignored")
    }
    assert changes["as it is"] == 0
    assert changes["noise x 1.5"] > 0


def of_run(words, breaks):
    cfg = breaks.composed("delens", words)
    return Assets(cfg.assets.files, cfg.assets.constants).file("r_spectra", SKY).read()


def test_foregrounds_of_the_runs_own_seed_change_nothing_and_others_do(words, breaks, tmp_path, monkeypatch):
    change = breaks.CHANGES["seed"]
    own = replace(change, words=(change.words[0].replace("test: 2", "test: 0"),))
    monkeypatch.setitem(breaks.CHANGES, "own", own)
    run = of_run(words, breaks)
    same, other = (breaks.made_anew(words, tmp_path, 0, name).spectra for name in ("own", "seed"))
    np.testing.assert_array_equal(same["linear_map/predicted"], run["linear_map/predicted"])
    left = "linear_map/foregrounds"
    assert not np.allclose(other[left][10:35], run[left][10:35], rtol=0.05)


def test_one_gain_for_all_bands_is_one_for_what_they_make(words, breaks, tmp_path, monkeypatch):
    """Weights do not know the unit of the maps: the spectra are those of the run times the square."""
    monkeypatch.setattr(breaks, "gains", lambda names, change: dict.fromkeys(names, 2.0))
    made = breaks.made_anew(words, tmp_path, 0, "gain").spectra
    run = of_run(words, breaks)
    for name in ("predicted", "foregrounds"):
        np.testing.assert_allclose(made[f"no delensing/{name}"], 4 * run[f"no delensing/{name}"], rtol=1e-9)


def test_a_run_that_is_not_there_is_told(words, breaks, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["what_breaks_r.py", *words, "dataset=another"])
    with pytest.raises(SystemExit, match="There is no finished run"):
        breaks.main()
