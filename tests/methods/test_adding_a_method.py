"""A method is added by one stage and one yaml file; nothing else of the tree changes."""

import csv
import dataclasses

import numpy as np
import pytest

from cmbml.core.asset import Every, Files
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from tests.conftest import REPO


class Half(SimStage):
    """A part of the observed map: an estimate of the lensing that is right in nothing."""

    name = "half"
    inputs = ("obs",)
    outputs = ("prediction",)
    splits = ("test",)
    uses = ("delens.field", "method.factor")

    def run(self, item, obs: SkyMap) -> SkyMap:
        field = self.cfg.delens.field
        return dataclasses.replace(obs, data=self.cfg.method.factor * obs.select([field]), fields=(field,))


class OneBand(SimStage):
    """A part of what one band sees, as an estimate of the CMB."""

    name = "one_band"
    inputs = (Every("band", name="bands"),)
    outputs = ("prediction",)
    splits = ("test",)
    uses = ("clean.field", "method.band", "method.factor")

    def run(self, item, bands: Files) -> SkyMap:
        names = [known["band"] for known in bands.items]
        seen = bands[names.index(self.cfg.method.band)]
        field = self.cfg.clean.field
        return dataclasses.replace(seen, data=self.cfg.method.factor * seen.select([field]), fields=(field,))


SEARCH = f"hydra.searchpath=[file://{REPO}/tests/methods/cfg]"


def test_added_method_is_simulated_for_measured_and_drawn(command, tmp_path):
    code, error = command(
        SEARCH, "method=half", "method.factor=0.5", "experiment=tiny", "splits.train=1", "run.workers=1",
        "instrument.noise_p_uk_arcmin=0.001",
    )  # fmt: skip
    assert code == 0, error
    folder = tmp_path / "data" / "delens_tiny" / "half" / "B" / "analysis"
    with (folder / "table.csv").open() as f:
        rows = {(row["method"], row["form"]): row for row in csv.DictReader(f)}
    # Without noise the estimate of the lensing is l / 2, with l = s + u (lensing and primordial B): the delensed l / 2
    # keeps half of what "no delensing" keeps of u, and its residual (s - u) / 2 has a quarter of the power of s and u.
    half, none = (rows[name, "native"] for name in ("half", "no delensing"))
    assert float(half["transfer_mean"]) == pytest.approx(0.5 * float(none["transfer_mean"]), abs=2e-3)
    # 2 %: the map analysis at lmax 2.93 nside with one iteration leaks 1 % of the power of B from E.
    spectra = [np.load(folder / "Test" / f"sim000{i}" / "spectra.npz") for i in range(2)]
    for cls in spectra:
        weight = 2 * np.arange(20, 188) + 1
        s, u = (np.sum(weight * cls[f"half/{name}"][20:188]) for name in ("lensing", "unlensed"))
        residual = np.sum(weight * cls["half/residual"][20:188])
        su = (np.sum(weight * cls["half/lensed"][20:188]) - s - u) / 2
        assert residual == pytest.approx((s + u - 2 * su) / 4, rel=2e-2)
    assert "lies outside" in half["note"]
    assert (folder / "spectra.png").stat().st_size > 10_000
    assert (folder / "Test" / "sim0001" / "skies.png").exists()


def test_setting_that_the_method_does_not_read_is_refused(command):
    code, error = command(SEARCH, "method=half", "train.optimizer.lr=1", "run.dry=true")
    assert code == 1
    assert error == (
        "Error: train.optimizer.lr is read by no stage of this pipeline, whose method is half; leave it out.\n"
    )


def test_added_method_of_cleaning_is_simulated_for_measured_and_drawn(command, tmp_path):
    code, error = command(
        SEARCH, "method=one_band", "method.factor=0.5", "experiment=tiny_bands", "splits.train=0", "splits.valid=0",
        "splits.test=1", "cosmology=fiducial", "foregrounds=none", "noise=none", "sky.fields=[T]", "nside=32",
        "run.workers=1", config_name="clean",
    )  # fmt: skip
    assert code == 0, error
    folder = tmp_path / "data" / "sims_tiny" / "one_band" / "T" / "analysis"
    with (folder / "table.csv").open() as f:
        rows = {row["form"]: row for row in csv.DictReader(f)}
    # The band sees nothing but the CMB, so that the error is minus half of it at any beam.
    assert float(rows["common"]["NRMSE_mean"]) == pytest.approx(0.5, abs=5e-3)
    assert float(rows["common"]["transfer_mean"]) == pytest.approx(0.5, abs=5e-3)
    assert (folder / "Test" / "sim0000" / "skies.png").exists()


@pytest.mark.parametrize(("method", "job"), [("half", "delens"), ("one_band", "clean")])
def test_key_of_a_method_that_its_file_has_not_is_refused(command, method, job):
    code, error = command(SEARCH, f"method={method}", "method.alpha=1", "run.dry=true", config_name=job)
    assert (code, error.count("\n")) == (1, 1)
    assert "alpha" in error


def test_key_of_a_method_that_no_stage_reads_is_refused(command):
    code, error = command(SEARCH, "method=half", "+method.alpha=1", "run.dry=true")
    assert code == 1
    assert error == "Error: method.alpha is read by no stage of this pipeline, whose method is half; leave it out.\n"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("method.target=5", "method.target=5 must be a text."),
        ("method.stages=none", "method.stages=none must be a list."),
        ("~method.target", "method.target is missing; the yaml file of a method gives its name, target and stages."),
    ],
)
def test_what_every_method_has_is_checked(command, word, told):
    code, error = command(SEARCH, "method=half", word, "run.dry=true")
    assert (code, error) == (1, f"Error: {told}\n")
