"""A real dataset and its model travel; what the page says of reading them is run, and finds what was packed."""

import contextlib
import io
import json
import re
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import yaml

from cmbml.commands import main
from cmbml.script import pipeline
from tests.conftest import REPO

WORDS = ("experiment=tiny", "splits.train=2", "splits.valid=1", "splits.test=1", "epochs=1", "run.workers=1")
STAGES = ("theory", "cmb", "observe", "label", "observed_noise", "filters", "quadratic_estimate", "features", "train")
PAGE = (REPO / "docs" / "howto" / "data.md").read_text()
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
MODEL = "delens_tiny/delens_unet/kappa/model.pt"


def cmbml(*words: object) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(word) for word in words]) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """`data`, where a dataset and its model were simulated, trained, and packed."""
    root = tmp_path_factory.mktemp("packed") / "data"
    pipeline("delens", *WORDS, f"system.root={root}").run(only=STAGES)
    cmbml("pack", "delens_tiny", "--root", root)
    cmbml("pack", root / MODEL, "--root", root)
    return root


def block(root: Path, monkeypatch, title: str) -> dict:
    """The names that an example leaves."""
    monkeypatch.chdir(root.parent)
    names: dict = {"__name__": title}
    exec(compile(BLOCKS[title], title, "exec"), names)
    return names


def test_the_examples_read_what_was_packed(root, monkeypatch):
    """Maps and alms are read apart, and are those of one sky: up to l = 100 a transform turns one into the other."""
    maps = block(root, monkeypatch, "healpy")
    lensed = block(root, monkeypatch, "numpy")["alms"]
    observed = block(root, monkeypatch, "Without unpacking")["alms"]
    assert list(lensed) == ["T", "E", "B"]
    lmax = hp.Alm.getlmax(len(observed["T"]))
    ell = hp.Alm.getlm(lmax)[0]
    for field in "TEB":
        alm = hp.map2alm(maps[field.lower()].astype(float), lmax=lmax, iter=3)
        wrong = np.abs(alm - observed[field])[ell <= 100].max() / np.abs(observed[field][ell <= 100]).max()
        assert wrong < 0.01  # a sum over pixels is no exact integral: .0015 of B; another field or order: of order one
    cl = hp.alm2cl(observed["T"].astype(complex), lmax=lmax)
    np.testing.assert_allclose(maps["cl"][2:100], cl[2:100], rtol=0.01)


def test_a_loader_gives_maps_and_kappa_of_the_same_skies(root, monkeypatch):
    loader = block(root, monkeypatch, "torch.utils.data")["loader"]
    ((obs, kappa),) = list(loader)
    assert obs.shape == (2, 5, 49152)
    folder = root / "delens_tiny" / "Simulations" / "Train"
    for got, truth in zip(obs, kappa, strict=True):
        known = [
            i
            for i in range(2)
            if np.array_equal(truth, hp.read_map(folder / f"sim000{i}" / "kappa_map.fits", dtype=np.float32))
        ]
        assert len(known) == 1
        there = hp.read_map(folder / f"sim000{known[0]}" / "obs_map.fits", field=None, dtype=np.float32)
        assert np.array_equal(got, there)


def test_a_run_has_nothing_to_do_where_they_were_unpacked(root, tmp_path):
    cmbml("unpack", root / "Packed" / "delens_tiny", "--root", tmp_path)
    cmbml("unpack", root / "Packed" / "delens_tiny_delens_unet_kappa", "--root", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / MODEL in before
    pipeline("delens", *WORDS, f"system.root={tmp_path}").run(only=STAGES)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.suffix != ".lock"} == before
    assert "taken as     a model" in cmbml("inspect", tmp_path / MODEL)


def test_the_cards_tell_of_the_settings_and_name_no_folder_of_this_machine(root):
    for name, head in (("delens_tiny", "pretty_name"), ("delens_tiny_delens_unet_kappa", "library_name")):
        text = (root / "Packed" / name / "README.md").read_text()
        held = yaml.safe_load(text.split("---\n")[1])
        assert head in held
        assert str(root.parent) not in text
        assert f"`{json.loads((root / 'Packed' / name / 'manifest.json').read_text())['fingerprint']}`" in text
        settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
        assert settings["sky.nside"] == 64
    assert "170452 weights" in text
    assert f"method.trained=<root>/{MODEL}" in text


def test_training_skies_that_are_added_leave_the_fingerprint(root, tmp_path):
    words = (*WORDS, "splits.train=3", f"system.root={tmp_path}")
    pipeline("delens", *words).run(only=["theory", "cmb", "observe"])
    said = cmbml("pack", "delens_tiny", "--root", tmp_path, "--dry-run")
    known = json.loads((root / "Packed" / "delens_tiny" / "manifest.json").read_text())["fingerprint"]
    assert f"fingerprint {known}:" in said
