"""The comparison of stand-in results of cleaning, from the command to the page in a browser."""

import copy
import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cmbml.analysis.cleaning.forms import FORMS, without_dipole
from cmbml.config import resolvers as config
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import apodise
from cmbml.start import build
from tests.analysis.browser import look
from tests.analysis.clean_standin import FWHM_ARCMIN, METHODS, SEEN, WORDS, C, N, _sky, make
from tests.analysis.standin import LMAX, NSIDE, draw, quickly
from tests.analysis.test_compare import Page, check_self_contained
from tests.conftest import REPO

COMPARE = ("job=clean", *WORDS, f"compare.methods=[{','.join(METHODS)}]", "compare.reference=plain")


@pytest.fixture(scope="module")
def configs():
    """Configurations of the measurement and of the comparison, composed once."""
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        return {
            "clean": compose("clean", overrides=list(WORDS)),
            "compare": compose("compare", overrides=list(COMPARE)),
        }


@pytest.fixture
def cfg(configs, tmp_path):
    """Function from the name of a main and what is changed to its configuration."""

    def make(name, **changes):
        own = copy.deepcopy(configs[name])
        for key, value in ({"system.root": str(tmp_path / "data")} | changes).items():
            OmegaConf.update(own, key, value, force_add=True)
        config.prepare(own)
        return own

    return make


def refused(cfg):
    """What the comparison says when it refuses."""
    with pytest.raises(UserError) as error:
        build(cfg).run(only=["compare"])
    return str(error.value)


def rows_of(path):
    with path.open() as f:
        return list(csv.DictReader(f))


def strict(text):
    """JSON without the NaN and Infinity that the standard does not have."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_everything_that_a_comparison_makes(cfg, command, monkeypatch, tmp_path):
    quickly(monkeypatch, pdf=False)
    own = cfg("clean")
    for name in METHODS:
        make(own, name)
    code, error = command(*COMPARE, config_name="compare")
    assert code == 0, error
    folder = tmp_path / "data" / "standin" / "Comparison" / "T"

    lines = {(r["method"], r["form"], r["area"]): r for r in rows_of(folder / "table.csv")}
    assert len(lines) == 4 * 3 * 2
    assert {m: lines[m, "common", "mask"]["kind"] for m in METHODS} == dict.fromkeys(METHODS, "method") | {
        "baseline": "baseline"
    }
    # One noise of two amplitudes; 1600 modes a sky, of which the mask leaves 70 %.
    value = {m: {k: float(v) for k, v in lines[m, "common", "mask"].items() if k.endswith("_mean")} for m in METHODS}
    assert value["worse"]["RMSE_mean"] / value["plain"]["RMSE_mean"] == pytest.approx(1.5, rel=1e-4)
    assert value["low"]["transfer_mean"] == pytest.approx(0.9, abs=0.01)
    assert value["plain"]["residual_20_40_mean"] == pytest.approx(0.01, rel=0.1)
    assert value["low"]["residual_20_40_mean"] == pytest.approx(0.1**2 + 0.01, rel=0.1)

    pairs = {(r["method"], r["form"], r["area"]): r for r in rows_of(folder / "paired.csv")}
    own = value["worse"]["RMSE_mean"] - value["plain"]["RMSE_mean"]
    worse = pairs["worse", "common", "mask"]
    assert (float(worse["RMSE_mean"]), worse["minus"]) == (pytest.approx(own), "plain")
    assert float(worse["RMSE_low"]) < own < float(worse["RMSE_high"])

    data = strict((folder / "table.json").read_text())
    assert [(r["method"], r["RMSE_mean"]) for r in data["methods"]] == [
        (r["method"], float(r["RMSE_mean"])) for r in rows_of(folder / "table.csv")
    ]
    steps = {(r["method"], r["step"]): r for r in data["time_and_memory"]}
    assert list(steps)[-2:] == [("low", "train"), ("low", "predict")]
    assert (steps["low", "train"]["seconds_mean"], steps["low", "train"]["peak_gb"]) == (100, None)
    predict = steps["low", "predict"]
    assert (predict["seconds_mean"], predict["n"], predict["peak_gb"]) == (np.mean(range(2, 8)), 6, 0.25)

    blocks = (folder / "table.md").read_text().split("\n\nfield ")
    assert "maps at 500 arcmin, to l = 40 · area what the mask leaves" in blocks[0]
    assert re.search(r"\| plain \| method \| 6 \|.*\n\| worse", blocks[0])
    assert "mean difference from plain" in blocks[1]
    assert "truth without a beam" in blocks[2]
    assert (folder / "table.tex").read_text().count(r"\begin{tabular}") == len(blocks) == 7
    for name in ("spectra", "boxes", "skies_T_sim0000", "zoom_T_sim0000"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").exists()

    page = Page((folder / "report.html").read_text())
    check_self_contained(page)
    text = " ".join("".join(page.text).split())
    assert "SYNTHETIC: drawn from a seed" in text
    assert re.search(r"worse: RMSE \S+ µK, \S+% of the CMB's rms; transfer 0\.99\d|1\.00\d; .* µK above plain", text)
    assert "baseline, a baseline, which has seen the truth: RMSE below 0.001 µK" in text
    assert text.index("Maps at 500 arcmin") < text.index("Maps as they are, truth without a beam")
    assert "a Wiener filter of CMB and noise alone 29.5 µK" in text

    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    # The words of main_clean.py may stand here, and what changes nothing makes nothing.
    build(cfg("compare", **{"method.name": "noise_wiener", "train.batch_size": 3})).run()
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before

    for seen in look([(folder / "report.html", width) for width in (390, 1280)], tmp_path):
        assert seen["wide"] <= seen["width"]
        assert len(seen["images"]) == 4
        assert min(seen["images"]) > 0
        assert seen["asked"] == []


def test_what_is_missing_is_named_with_the_command_that_makes_it(cfg):
    make(cfg("clean"), "plain")
    said = refused(cfg("compare", **{"compare.methods": ["plain", "low"]}))
    assert re.search(
        r"^The method low lacks \S+/low/T/analysis/Test/sim0000/metrics.csv; make it by"
        r" `python main_clean.py method=low field=T` with the other words of this command\.$",
        said,
    )


def test_methods_that_saw_other_observations_are_refused(cfg, tmp_path):
    one = {"splits.test": 1}
    make(cfg("clean", **one), "worse")
    make(cfg("clean", **one), "plain", factor=2.0)  # the dataset is made again, `worse` is not
    words = one | {"compare.methods": ["plain", "worse"]}
    said = refused(cfg("compare", **words, **{"noise.factor": 2.0}))
    assert "observations of test sim 0 have changed since the prediction of worse was made" in said
    assert "`python main_clean.py method=worse field=T`" in said
    said = refused(cfg("compare", **words))
    assert "was made with other settings than this command has (noise.factor 2.0 -> 1.0)" in said
    assert not (tmp_path / "data" / "standin" / "Comparison").exists()


def test_results_without_the_mask_are_refused(cfg):
    make(cfg("clean", **{"splits.test": 1, "mask.kind": "none"}), "plain")
    said = refused(cfg("compare", **{"splits.test": 1, "compare.methods": ["plain"]}))
    assert "The results of plain are of the full sky, and this command has a mask" in said


def test_skies_without_truth_cannot_be_compared(cfg):
    own = cfg("compare", **{"sims.external": {"truth": None}})
    with pytest.raises(UserError, match=r"name it in sims\.external\.truth"):
        build(own)


class Predictions:
    """Maps of methods in memory, in place of files."""

    def __init__(self, maps):
        self.items = [{"method": name} for name in maps]
        self.files = [SimpleNamespace(read=lambda m=m: m) for m in maps.values()]

    def __iter__(self):
        return iter([{"inputs": {}}] * len(self.items))  # their records


def test_maps_that_carry_the_mask_are_compared_with_those_that_do_not(cfg):
    """Of the full sky there are no differences of them; beside them every map is masked, and so is the truth."""
    stages = {stage.name: stage for stage in build(cfg("compare")).stages}
    metrics = dict.fromkeys((metric.name for metric in stages["compare"].metrics), 1.0)

    def rows(*areas):
        return [{"field": "T", "form": f, "area": a, "sim": 0, **metrics} for f in FORMS for a in areas]

    both = {"plain": rows("mask", "full"), "worse": rows("mask"), "low": rows("mask", "full")}
    lines = stages["compare"].all_differences(both)
    assert {(line["method"], line["area"]) for line in lines} == {("worse", "mask"), ("low", "mask"), ("low", "full")}
    lines = stages["compare"].all_differences(both | {"plain": rows("mask")})
    assert {line["area"] for line in lines} == {"mask"}

    z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))[2]
    mask = SkyMap(apodise(np.abs(z) > SEEN, 20)[None], ("mask",), "1", 0.0, LMAX)
    truth, error = (draw(np.random.default_rng(i), c) for i, c in enumerate((C, N)))
    whole = _sky(sht.almxfl(truth + error, gaussian_beam(FWHM_ARCMIN, LMAX)), "T", FWHM_ARCMIN)
    masked = replace(whole, data=mask["mask"] * whole.data, masks=1)
    given = {"cmb_map": _sky(truth, "T", 0.0), "lensed_alm": {"T": truth}, "mask": mask}
    maps = Predictions({"plain": whole, "worse": masked})
    item = {"split": "test", "sim": 0, "shown": "T"}
    shown = stages["panels"].shown(item, prediction=maps, prediction_record=maps, **given)
    good = mask["mask"] > 0.5
    one, other = (shown.maps[name] - shown.truth for name in ("plain", "worse"))
    apart = without_dipole(one - other, good, mask["mask"])[good]  # the dipole of T is fitted before the mask, or after
    assert np.std(apart) < 0.1 * np.std(one[good])
    one_map = Predictions({"plain": whole})
    alone = stages["panels"].shown(item, prediction=one_map, prediction_record=one_map, **given)
    assert np.std(alone.truth[mask["mask"] == 0]) > 5 * np.std(shown.truth[mask["mask"] == 0])
