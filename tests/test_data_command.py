"""`cmbml data` finds what runs have left behind, removes it when told, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from cmbml.commands import main
from cmbml.core import handlers
from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from tests.core.toy import FILES, Mean, Noise, Twice, toy_config

SPREAD = {name: path.replace("{root}", "{root}/set/" + name) for name, path in FILES.items()}


def pipeline(root: Path, **changes) -> Pipeline:
    """The toy, as a dataset `set` whose assets lie in folders of their own."""
    cfg = toy_config(**changes)
    return Pipeline([Noise(cfg), Twice(cfg), Mean(cfg)], Assets(SPREAD, {"root": str(root)}))


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """Function from words to (exit code, what is printed, errors)."""
    monkeypatch.delenv("CMBML_ROOT", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["data", "--root", str(tmp_path), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def listed(text: str, kind: str) -> dict[str, str]:
    """Reason by thing, of a kind."""
    block = text.partition(f"\n{kind}: ")[2].partition("\nunused: ")[0].partition("\nunfinished: ")[0]
    rows = [line.strip().partition(": ") for line in block.splitlines() if line.startswith("  ")]
    return {what: why for what, _, why in rows}


def test_nothing_is_stale_after_a_run(told, tmp_path):
    pipeline(tmp_path).run()
    code, text, _ = told("--remove", "stale", "unused", "unfinished", "--yes")
    assert code == 0
    assert "0 things may be removed" in text


def test_what_was_made_of_something_else_is_stale_with_all_that_was_made_of_it(told, tmp_path):
    pipeline(tmp_path).run()
    pipeline(tmp_path, noise={"level": 2.0}).run(only=["noise"])
    stale = listed(told("--all")[1], "stale")
    twice = {f"set/twice/{s}/sim000{i}/twice.npz" for s, n in (("Train", 3), ("Test", 2)) for i in range(n)}
    assert set(stale) == {*twice, "set/mean/mean.csv"}
    assert stale["set/twice/Test/sim0001/twice.npz"] == "set/noise/Test/sim0001/noise.npy was made anew since"
    assert stale["set/mean/mean.csv"] == "set/twice/Train/sim0000/twice.npz is stale itself"

    before = files(tmp_path)
    told("--remove", "stale", "--yes")
    assert {path for path in before - files(tmp_path) if "/noise/" in path} == set()
    assert files(tmp_path) == {path for path in before if "/noise/" in path}
    assert not (tmp_path / "set" / "twice").exists()  # empty folders go too
    pipeline(tmp_path, noise={"level": 2.0}).run()
    assert "0 things" in told()[1]


def test_what_is_damaged_is_stale_and_what_was_made_of_it_is_not(told, tmp_path):
    pipeline(tmp_path).run()
    (tmp_path / "set/twice/Train/sim0001/twice.npz").write_bytes(b"short")
    (tmp_path / "set/noise/Test/sim0000/noise.npy").unlink()
    stale = listed(told()[1], "stale")
    assert set(stale) == {"set/twice/Train/sim0001/twice.npz", "set/noise/Test/sim0000/noise.npy"}
    assert stale["set/noise/Test/sim0000/noise.npy"] == "noise.npy is missing"
    assert stale["set/twice/Train/sim0001/twice.npz"].startswith("twice.npz has 5 bytes instead of ")


class Pair(Noise):
    """Has two outputs, in folders of their own."""

    name = "pair"
    outputs = ("noise", "twice")

    def run(self, item):
        return np.zeros(3), {"x": np.zeros(3)}


def test_the_files_of_an_item_are_its_own_wherever_they_lie(told, tmp_path):
    cfg = toy_config()
    Pipeline([Pair(cfg)], Assets(SPREAD, {"root": str(tmp_path)})).run()
    (tmp_path / "set/twice/Test/sim0001/twice.npz").unlink()
    stale = listed(told()[1], "stale")
    assert stale == {"set/noise/Test/sim0001/noise.npy": "twice.npz is missing"}
    before = files(tmp_path)
    told("--remove", "stale", "--yes")
    gone = {"set/noise/Test/sim0001/noise.npy", "set/noise/Test/sim0001/.noise.npy.json"}
    assert before - files(tmp_path) == gone


class Borrowed(Noise):
    """Is made of a user's file."""

    def made_of(self, item):
        return {"noise.file": [Path(self.cfg.noise.file)]}


def test_a_file_of_a_user_that_was_exchanged(told, tmp_path):
    given = tmp_path / "mine.txt"
    given.write_text("one")
    cfg = toy_config(noise={"file": str(given)})
    Pipeline([Borrowed(cfg)], Assets(SPREAD, {"root": str(tmp_path)})).run()
    assert listed(told()[1], "stale") == {}
    given.write_text("two")
    stale = listed(told("--all")[1], "stale")
    assert len(stale) == 5
    assert set(stale.values()) == {"mine.txt was exchanged since"}


def test_skies_of_a_larger_split_are_unused_once_others_were_gathered(told, tmp_path):
    pipeline(tmp_path, splits={"train": 4}).run(only=["noise", "twice"])
    assert listed(told()[1], "unused") == {}  # nothing was gathered yet: they wait
    pipeline(tmp_path).run()  # three of them
    unused = listed(told()[1], "unused")
    assert unused == {f"set/{name}/Train/sim0003/{name}.{kind}": "train sky 3"
                      for name, kind in (("noise", "npy"), ("twice", "npz"))}  # fmt: skip
    pipeline(tmp_path, splits={"train": 5}).run(only=["noise"])  # a younger sky waits for its turn
    assert set(listed(told()[1], "unused")) == set(unused)


def test_what_killed_runs_leave(told, tmp_path):
    pipeline(tmp_path).run()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    folder = tmp_path / "set" / "noise"
    left = folder / f".tmp-{handlers.HOST}-{dead.stdout.strip()}-noise.npy"
    alive = handlers.temporary(folder / "noise.npy")
    part = tmp_path / "Assets" / "map.fits.part"
    training = tmp_path / "set" / "checkpoints" / "last.pt"
    mine = tmp_path / "set" / "notes.txt"
    for path in (left, alive, part, training, mine):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    found = listed(told()[1], "unfinished")
    assert set(found) == {str(path.relative_to(tmp_path)) for path in (left, part, training)}
    before = files(tmp_path)
    code, _, error = told("--remove", "unfinished")
    assert (code, files(tmp_path)) == (1, before)
    assert "nobody to ask" in error
    told("--remove", "unfinished", "--yes")
    assert before - files(tmp_path) == set(found)


def test_a_question_is_asked_on_a_terminal(told, tmp_path, monkeypatch):
    pipeline(tmp_path).run()
    (tmp_path / "set/mean/mean.csv").unlink()
    before = files(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("", before), ("y", before - {"set/mean/.mean.csv.json"})):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        told("--remove", "stale")
        assert files(tmp_path) == left


def test_nothing_is_removed_below_a_run_at_work(told, tmp_path):
    pipeline(tmp_path).run()
    (tmp_path / "set/mean/mean.csv").unlink()
    lock = tmp_path / "set/noise/.noise.npy.json.lock"
    with FileLock(lock):
        code, _, error = told("--remove", "stale", "--yes")
        assert code == 1
        assert "A run is at work" in error
    assert (tmp_path / "set/mean/.mean.csv.json").exists()


def test_words_that_name_nothing(told, tmp_path):
    (tmp_path / "set").mkdir()
    assert "--dataset other is not under" in told("--dataset", "other")[2]
    os.rmdir(tmp_path / "set")
    os.rmdir(tmp_path)
    assert "is no folder" in told()[2]
