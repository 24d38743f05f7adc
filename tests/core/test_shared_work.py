"""Several runs on one dataset, damaged files, commands that fail: nothing is lost, and nothing wrong is believed."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cmbml.train  # noqa: F401 - which brings .pt
from cmbml.core import handlers, locks
from cmbml.core.asset import Assets, File
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.provenance import Sidecar
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from tests.core.toy import FILES, Mean, Noise, Twice, toy, toy_config

CONTEXT = multiprocessing.get_context("fork")
VICTIM = Path("Train/sim0001/twice.npz")


class Meddled(Twice):
    """While it works, another run makes its input anew with other settings."""

    name = "twice"

    def run(self, item, noise):
        if item["sim"] == 1 and item["split"] == "train":
            toy(self.root, noise={"level": 2.0}).run(only=["noise"])
        return {"x": self.cfg.factor * noise, "y": noise}


def meddled(root) -> Pipeline:
    cfg = toy_config()
    stage = Meddled(cfg)
    stage.root = root
    return Pipeline([Noise(cfg), stage], Assets(FILES, {"root": str(root)}))


def test_what_changed_while_an_item_was_made_is_not_believed(tmp_path):
    toy(tmp_path).run(only=["noise"])
    with pytest.raises(UserError, match=r"noise.npy is not what it was when this run was planned: another run"):
        meddled(tmp_path).run()
    # What was made of the right noise is there; nothing is there that was made of the wrong one and says right.
    plan = toy(tmp_path).plan()
    done = [(*w.item.values(),) for w in plan["twice"] if not w.why]
    assert done == [("train", 0)]
    toy(tmp_path).run()
    level = np.std(File(tmp_path / "Train" / "sim0001" / "noise.npy").read())
    assert level == pytest.approx(1, abs=0.2)


def test_what_changed_before_an_item_began_is_not_believed(tmp_path):
    toy(tmp_path).run(only=["noise"])
    planned = toy(tmp_path)
    plan = planned.plan()
    toy(tmp_path, noise={"level": 2.0}).run(only=["noise"])
    planned.plan = lambda *args, **keys: plan
    with pytest.raises(UserError, match="is not what it was"):
        planned.run(only=["twice"])
    assert not list(tmp_path.rglob("twice.npz"))


class Interrupted(Mean):
    """Keeps what it has done of each sky; ``before`` is called with the number of those, and None at the end."""

    def run(self, item, twice, scratch):
        done = scratch["state"].read().tolist() if scratch["state"].exists() else []
        self.begun = len(done)
        for i in range(len(done), len(twice)):
            self.before(i)
            done.append(float(np.std(twice[i]["x"])))
            scratch["state"].write(np.array(done))
        self.before(None)
        return [{"sim": i, "mean": m} for i, m in enumerate(done)]


def interrupted(root, when=-1, act=None, level=1.0) -> Interrupted:
    """Run the toy with `act` called at one place; the stage, to ask how much it found done."""
    cfg = toy_config(noise={"level": level})
    stage = Interrupted(cfg)
    stage.before = lambda i: act() if i == when else None
    Pipeline([Noise(cfg), Twice(cfg), stage], Assets(FILES, {"root": str(root)})).run()
    return stage


def stop():
    raise KeyboardInterrupt


def kept(root) -> list[str]:
    """What the stage keeps between interruptions, and the note beside it."""
    return sorted(path.name for path in root.glob("*state*"))


def test_what_was_kept_of_inputs_that_changed_meanwhile_is_forgotten(tmp_path):
    with pytest.raises(UserError, match="is not what it was"):
        interrupted(tmp_path, None, lambda: toy(tmp_path, noise={"level": 2.0}).run(only=["noise", "twice"]))
    assert kept(tmp_path) == []
    assert interrupted(tmp_path).begun == 0
    assert max(row["mean"] for row in File(tmp_path / "mean.csv").read()) < 2.4  # twice the level, 1000 numbers


def test_nothing_is_kept_of_inputs_that_changed_meanwhile(tmp_path):
    with pytest.raises(UserError, match="is not what it was"):
        interrupted(tmp_path, 1, lambda: toy(tmp_path, noise={"level": 2.0}).run(only=["noise", "twice"]))
    assert len(File(tmp_path / "state.npy").read()) == 1  # of the right ones: so a SIGKILL later had left it, too
    assert interrupted(tmp_path).begun == 1
    assert max(row["mean"] for row in File(tmp_path / "mean.csv").read()) < 2.4
    assert kept(tmp_path) == []


@pytest.mark.parametrize("change", ["none", "other inputs", "no note", "damaged note"])
def test_what_was_kept_is_taken_up_with_the_same_inputs_alone(tmp_path, caplog, change):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, 2, stop)
    assert kept(tmp_path) == [".state.npy.json", "state.npy"]
    if change == "no note":
        (tmp_path / ".state.npy.json").unlink()
    elif change == "damaged note":
        (tmp_path / ".state.npy.json").write_text("{")
    stage = interrupted(tmp_path, level=2.0 if change == "other inputs" else 1.0)
    assert stage.begun == (2 if change == "none" else 0)
    assert ("it begins anew" in caplog.text) == (change != "none")
    assert kept(tmp_path) == []


class Fails(Twice):
    """Fails where a mistyped command does: after it has read, before it has made anything."""

    def run(self, item, noise):
        raise UserError("a key is wrong")


class FailsToWrite(Twice):
    """Its value cannot be written."""

    def run(self, item, noise):
        return {"x": noise, "y": Unwritable()}


class Unwritable:
    def __array__(self, dtype=None, copy=None):
        raise ValueError("no such array")


@pytest.mark.parametrize("kind", [Fails, FailsToWrite])
def test_a_command_that_fails_forgets_nothing(tmp_path, kind):
    toy(tmp_path).run()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    cfg = toy_config(factor=3.0)
    with pytest.raises(UserError, match="a key is wrong|no such array"):
        Pipeline([Noise(cfg), kind(cfg)], Assets(FILES, {"root": str(tmp_path)})).run()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not [w.why for works in toy(tmp_path).plan().values() for w in works if w.why]


def run_in_a_process(root: str) -> None:
    toy(root).run()


def test_two_identical_runs_share_the_work(tmp_path):
    processes = [CONTEXT.Process(target=run_in_a_process, args=(tmp_path / "both",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    toy(tmp_path / "alone").run()
    for path in (tmp_path / "alone").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert (tmp_path / "both" / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()
    assert not list(tmp_path.rglob("*.lock"))


class Slow(Stage):
    """Takes a while, and says how often it was made."""

    name = "slow"
    outputs = ("mean",)
    uses = ("seed",)
    parallel = False

    def run(self, item):
        time.sleep(0.5)
        with (self.root / "made").open("a") as file:
            file.write("x")
        return [{"a": 1}]


def slow(root: Path) -> None:
    stage = Slow(toy_config())
    stage.root = root
    Pipeline([stage], Assets(FILES, {"root": str(root)})).run()


def test_an_item_that_another_run_makes_is_waited_for_and_made_once(tmp_path):
    threads = [threading.Thread(target=slow, args=(tmp_path,)) for _ in range(2)]
    processes = [CONTEXT.Process(target=slow, args=(tmp_path,)) for _ in threads]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


def hold(path: Path, ready) -> None:
    with locks.held(path, "x"):
        ready.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path / "x.json", ready))
    process.start()
    assert ready.wait(10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "x.json.lock").exists()
    begin = time.monotonic()
    with locks.held(tmp_path / "x.json", "x"):
        assert time.monotonic() - begin < 1
    assert not (tmp_path / "x.json.lock").exists()


def test_whoever_waits_says_for_whom(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_SILENT_S", 0.3)
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path / "x.json", ready))
    process.start()
    assert ready.wait(10)
    threading.Timer(1.5, process.kill).start()
    with locks.held(tmp_path / "x.json", "measure {'sim': 3}"):
        pass
    assert f"waiting for another run, which is making measure {{'sim': 3}} (process {process.pid} on" in caplog.text


@pytest.mark.parametrize("size", ["same", "other"])
def test_verify_finds_what_sizes_do_not_tell(tmp_path, size):
    toy(tmp_path).run()
    original = (tmp_path / VICTIM).read_bytes()
    damaged = bytearray(original)
    damaged[200] ^= 1
    (tmp_path / VICTIM).write_bytes(bytes(damaged) if size == "same" else original[:-1])
    seen = [w.why for w in toy(tmp_path).plan()["twice"] if w.why]
    assert len(seen) == (size == "other")
    (why,) = [w.why for w in toy(tmp_path).plan(verify=True)["twice"] if w.why]
    assert why.startswith("twice.npz has " + ("other contents" if size == "same" else f"{len(original) - 1} bytes"))
    toy(tmp_path).run(verify=True)
    assert (tmp_path / VICTIM).read_bytes() == original


DAMAGES = {
    "empty": b"",
    "garbage": bytes(range(256)) * 20,
    "text": b"not a file of this kind\n" * 50,
    "truncated": None,
}


def good(path: Path):
    """A value of the format of a path."""
    if path.suffix == ".fits":
        return SkyMap(np.ones((1, 12 * 8**2), np.float32), ("T",), "uK_CMB", 1.0, 8)
    if path.suffix == ".npz":
        return {"x": np.arange(999)}
    return np.arange(999) if path.suffix == ".npy" else {"x": 1}


FORMATS = ("a.npz", "a.npy", "a.pt", "a.fits", "a.json")


@pytest.mark.parametrize(
    ("damage", "name"), [*((damage, name) for damage in DAMAGES for name in FORMATS), ("garbage", "a.yaml")]
)
def test_a_file_that_cannot_be_read_is_named_with_what_makes_it_anew(tmp_path, damage, name):
    path = tmp_path / name
    handlers.write(path, good(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else DAMAGES[damage])
    (tmp_path / ".b.csv.json").write_text(json.dumps({"stage": "train", "outputs": {name: {}}}))
    with pytest.raises(UserError) as caught:
        handlers.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "weights_only" not in message
    assert "\n" not in message
    if path.suffix != ".fits":  # which has sentences of its own
        assert message.endswith("run.force=[train] makes it anew.")


def test_a_directory_in_the_place_of_a_file(tmp_path):
    toy(tmp_path).run()
    (tmp_path / VICTIM).unlink()
    (tmp_path / VICTIM).mkdir()
    assert [w.why for w in toy(tmp_path).plan()["twice"] if w.why] == ["twice.npz is missing"]
    with pytest.raises(UserError, match=r"twice.npz cannot be written: Is a directory"):
        toy(tmp_path).run()
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(UserError, match=r"x.npz cannot be read"):
        handlers.read(tmp_path / "x.npz")


WRONG = (None, [], 3, "x", {"stage": 1})
RIGHT = (("peak_gb", None), ("peak_gb", 3), ("seconds", 3), ("version", 3), ("form", 3), ("seeds", []))
TEXTS = ("stage", "host", "fingerprint")
MAPPINGS = ("item", "settings", "git", "packages")
CASES = [
    (key, value)
    for key in (None, *Sidecar.__dataclass_fields__)
    for value in WRONG
    if (key, value) not in RIGHT and not (key in TEXTS and value == "x")
    if not (key in MAPPINGS and isinstance(value, dict))
]


@pytest.mark.parametrize(("key", "value"), CASES, ids=str)
def test_records_of_wrong_types_are_none(tmp_path, key, value):
    toy(tmp_path).run(only=["noise", "twice"])
    path = tmp_path / VICTIM.parent / ".twice.npz.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(value if key is None else {**record, key: value}))
    (work,) = [w for w in toy(tmp_path).plan()["twice"] if w.why]
    assert work.item == {"split": "train", "sim": 1}
    toy(tmp_path).run()


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(path, value):
        path.write_bytes(b"x" * 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(handlers._HANDLERS, ".npz", (handlers._HANDLERS[".npz"][0], full))
    with pytest.raises(UserError, match=r"twice.npz cannot be written: the disk or the quota is full"):
        toy(tmp_path).run()
    assert not list(tmp_path.rglob(".tmp*"))
    assert not list(tmp_path.rglob("*.lock"))


def test_leftovers_of_others_harm_nobody(tmp_path):
    leftovers = [".tmp-other.host-1-a.npy", ".tmp99999999-a.npy", f".tmp-{handlers.HOST}-x-a.npy", ".tmp--a.npy"]
    mine = f".tmp-{handlers.HOST}-99999999-a.npy"
    for name in (*leftovers, mine):
        (tmp_path / name).write_bytes(b"")
    File(tmp_path / "a.npy").write(np.arange(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*leftovers, "a.npy"])
