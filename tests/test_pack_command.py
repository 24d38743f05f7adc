"""`cmbml pack` and `cmbml unpack`: what was finished in one place is finished in another, and nothing else is."""

import csv
import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmbml.commands import main
from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from tests.core.toy import FILES, Mean, Noise, Twice, toy_config

PLACES = {
    "noise": "{root}/set/Simulations/{split}/{sim}/obs_143_map.npy",
    "twice": "{root}/set/Simulation_Working/twice/{split}/{sim}/twice.npz",
    "mean": "{root}/set/shrink/mean.csv",
    "state": "{root}/set/shrink/state.npy",
}
ARCHIVES = ["test_sim0000", "test_sim0001", "train_sim0000", "train_sim0001", "train_sim0002"]


def pipeline(root: Path, **changes) -> Pipeline:
    """The toy, with the folders of a dataset `set`."""
    assert PLACES.keys() == FILES.keys()
    cfg = toy_config(**changes)
    return Pipeline([Noise(cfg), Twice(cfg), Mean(cfg)], Assets(PLACES, {"root": str(root)}))


@pytest.fixture
def cmbml(capsys, monkeypatch):
    """Function from words to (exit code, what is printed, errors)."""
    monkeypatch.delenv("CMBML_ROOT", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def packed(tmp_path, cmbml) -> Path:
    """The folder of the packed toy."""
    pipeline(tmp_path / "here").run()
    assert cmbml("pack", "set", "--root", tmp_path / "here", "--to", tmp_path / "packed")[0] == 0
    return tmp_path / "packed"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_unpacked_is_finished_for_a_run(packed, tmp_path, cmbml):
    assert cmbml("unpack", packed, "--root", tmp_path / "there")[0] == 0
    there = files(tmp_path / "there")
    here = files(tmp_path / "here")
    assert there == {name: body for name, body in here.items() if "/shrink/" not in name and ".lock" not in name}
    pipeline(tmp_path / "there").run()
    assert {name: body for name, body in files(tmp_path / "there").items() if name in there} == there
    mean = "set/shrink/mean.csv"
    assert files(tmp_path / "there")[mean] == here[mean]


def test_the_same_files_give_the_same_bytes(packed, tmp_path, cmbml):
    for path in (tmp_path / "here").rglob("*"):
        os.utime(path, (1, 1))
    cmbml("pack", "set", "--root", tmp_path / "here", "--to", tmp_path / "again")
    assert files(tmp_path / "again") == files(packed)
    assert sorted(files(packed)) == sorted(["README.md", "manifest.json", *(f"{name}.tar.gz" for name in ARCHIVES)])


def test_the_manifest_knows_what_tar_and_sha256sum_find(packed, tmp_path):
    for archive in json.loads((packed / "manifest.json").read_text())["archives"]:
        path = packed / archive["name"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == archive["sha256"]
        with tarfile.open(path) as tar:
            assert tar.getnames() == [member["name"] for member in archive["members"]]
        for member in archive["members"]:
            body = (tmp_path / "here" / member["name"]).read_bytes()
            assert (len(body), hashlib.sha256(body).hexdigest()) == (member["size"], member["sha256"])


def test_a_damaged_archive_is_refused_the_others_are_unpacked_and_the_rest_follows(packed, tmp_path, cmbml):
    root = tmp_path / "there"
    damaged = packed / "test_sim0001.tar.gz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-100] + bytes(100))
    (packed / "train_sim0002.tar.gz").rename(tmp_path / "later")
    code, _, said = cmbml("unpack", packed, "--root", root)
    assert code == 1
    assert "Refused: test_sim0001.tar.gz is damaged" in said
    assert "Refused: train_sim0002.tar.gz is missing" in said
    assert not [name for name in files(root) if "Test/sim0001" in name or "Train/sim0002" in name]
    done = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert len(done) == 3 * 4

    damaged.write_bytes(whole)
    (tmp_path / "later").rename(packed / "train_sim0002.tar.gz")
    for path in packed.glob("*sim0000*"):
        path.unlink()  # of what is unpacked nothing is read again
    code, said, _ = cmbml("unpack", packed, "--root", root)
    assert code == 0
    assert "8 files unpacked, 12 there already" in said
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_files_with_other_contents_are_replaced_on_request_alone(packed, tmp_path, cmbml):
    root = tmp_path / "there"
    cmbml("unpack", packed, "--root", root)
    own = root / "set/Simulations/Test/sim0000/obs_143_map.npy"
    np.save(own, np.zeros(3))
    code, _, said = cmbml("unpack", packed, "--root", root)
    assert code == 1
    assert f"would replace {own}" in said
    assert np.load(own).shape == (3,)
    assert cmbml("unpack", packed, "--root", root, "--replace")[0] == 0
    assert np.load(own).shape == (1000,)


def test_an_interruption_leaves_no_record_of_what_is_not_there(packed, tmp_path, cmbml, monkeypatch):
    real = os.replace
    moved = []

    def once(source, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", once)
    assert cmbml("unpack", packed, "--root", tmp_path / "there")[0] == 130
    monkeypatch.undo()
    left = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert len(left) == 2
    for path in left:
        if path.suffix == ".json":
            assert all((path.parent / name).is_file() for name in json.loads(path.read_text())["outputs"])
    assert "18 files unpacked, 2 there already" in cmbml("unpack", packed, "--root", tmp_path / "there")[1]


def test_the_card_is_what_hubs_read(packed):
    text = (packed / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    held = yaml.safe_load(head)
    assert held["license"] == "unknown"
    assert held["size_categories"] == ["n<1K"]
    assert "none was given" in body
    assert json.loads((packed / "manifest.json").read_text())["fingerprint"] in body
    (settings,) = [block for block in body.split("```") if block.startswith("yaml\n")]
    assert yaml.safe_load(settings.removeprefix("yaml\n")) == {
        **{"factor": 2.0, "seed": 1},
        **{"noise.level": 1.0, "noise.bad_sim": -1},
    }
    assert "| noise | 0 | 5 | 5 | " in body or "| noise | 1 | 5 | 5 | " in body


def test_other_folders_on_request_and_a_fingerprint_of_the_test_skies(packed, tmp_path, cmbml):
    here = tmp_path / "here"
    said = cmbml("pack", "set", "--root", here, "--also", "shrink", "--dry-run")[1]
    first = json.loads((packed / "manifest.json").read_text())["fingerprint"]
    assert "11 files" in said
    assert first not in said  # the toy has no map of a test sky: all that is packed counts
    assert not (here / "Packed").exists()
    cmbml("pack", "set", "--root", here, "--also", "shrink", "--licence", "cc-by-4.0", "--command", "cmbml toy")
    card = (here / "Packed" / "set" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "cmbml toy" in card
    assert (here / "Packed" / "set" / "shared.tar.gz").is_file()
    assert cmbml("data", "--root", here)[1].startswith(f"{here}: 0 things")  # what is packed is no dataset
    with (here / "set/shrink/mean.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["sett"], "There is no dataset sett under"),
        ([".."], "There is no dataset .. under"),
        (["set", "--also", "nowhere"], "--also nowhere is no folder"),
        (["set/none.pt"], "There is no model set/none.pt under"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, cmbml, words, reason):
    pipeline(tmp_path).run()
    code, _, said = cmbml("pack", *words, "--root", tmp_path)
    assert code == 1
    assert reason in said
    assert "Traceback" not in said


def test_what_is_stale_is_not_packed(tmp_path, cmbml):
    pipeline(tmp_path).run()
    pipeline(tmp_path, noise={"level": 2.0}).run(only=["noise"])
    code, _, said = cmbml("pack", "set", "--root", tmp_path)
    assert code == 1
    assert "something stale" in said
    assert not (tmp_path / "Packed").exists()


def test_what_was_changed_behind_its_record_is_not_packed(tmp_path, cmbml):
    pipeline(tmp_path).run()
    changed = tmp_path / "set/Simulations/Train/sim0001/obs_143_map.npy"
    body = changed.read_bytes()
    changed.write_bytes(body[:-8] + bytes(8))
    code, _, said = cmbml("pack", "set", "--root", tmp_path)
    assert code == 1
    assert f"{changed} has other contents than noise has written" in said
    assert not (tmp_path / "Packed" / "set" / "manifest.json").exists()
