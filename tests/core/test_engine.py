"""The engine on a toy pipeline: what runs, what does not, and what a killed process leaves behind."""

import hashlib
import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cmbml.core import handlers, memory
from cmbml.core.asset import Assets, Every, File
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.stage import Stage
from tests.core.toy import FILES, Hungry, Mean, Noise, Twice, run_toy, toy, toy_config

FRESH = multiprocessing.get_context("forkserver")  # of a process that has imported the toy and done nothing else
FRESH.set_forkserver_preload([run_toy.__module__])


def contents(root: Path) -> dict[str, bytes]:
    """All files but the sidecars, which record seconds, by their path."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def todo(pipeline: Pipeline) -> dict[str, list[tuple]]:
    """Reasons of what has to be done, by stage."""
    plan = pipeline.plan()
    return {name: [(*w.item.values(), w.why) for w in works if w.why] for name, works in plan.items()}


def test_second_run_does_nothing(tmp_path):
    toy(tmp_path).run()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    toy(tmp_path).run()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times


def test_workers_do_not_change_the_bytes(tmp_path):
    toy(tmp_path / "one").run(workers=1)
    toy(tmp_path / "two").run(workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 11


def test_dry_run_names_the_stale_stages_and_the_key(tmp_path, caplog):
    toy(tmp_path).run()
    before = contents(tmp_path)
    with caplog.at_level(logging.INFO):
        toy(tmp_path, factor=3.0).run(dry=True)
    lines = {line.split()[0]: line for line in caplog.messages[-1].splitlines()[1:]}
    assert lines["noise"].split()[1:3] == ["5", "0"]
    assert "->" not in lines["noise"]
    for stage in ("twice", "mean"):
        assert lines[stage].endswith("factor 2.0 -> 3.0")
    assert contents(tmp_path) == before


def test_change_at_the_start_reaches_everything_downstream(tmp_path):
    toy(tmp_path).run()
    work = todo(toy(tmp_path, noise={"level": 2.0}))
    assert {w[-1] for works in work.values() for w in works} == {"noise.level 1.0 -> 2.0"}
    assert [len(works) for works in work.values()] == [5, 5, 1]


def test_growing_a_split_leaves_what_exists_alone(tmp_path):
    toy(tmp_path).run()
    old = toy(tmp_path).plan()
    grown = toy(tmp_path, splits={"train": 5})
    assert todo(grown)["noise"] == [("train", 3, "not made yet"), ("train", 4, "not made yet")]
    assert todo(grown)["mean"] == [("twice[train]: 3 -> 5 items",)]
    new = {tuple(w.item.values()): w.fingerprint for w in grown.plan()["twice"]}
    assert {tuple(w.item.values()): w.fingerprint for w in old["twice"]}.items() <= new.items()


def test_new_version_of_an_algorithm_is_a_reason(tmp_path, monkeypatch):
    toy(tmp_path).run()
    monkeypatch.setattr(Twice, "version", 2)
    assert {w[-1] for w in todo(toy(tmp_path))["twice"]} == {"version 1 -> 2"}


def test_items_that_nothing_reads_can_be_left_out(tmp_path):
    """The mean reads the training skies alone."""
    cfg = toy_config()

    def left(*kinds: type[Stage], **unless_read: list[str]) -> dict[str, list]:
        line = Pipeline([kind(cfg) for kind in kinds], Assets(FILES, {"root": str(tmp_path)}), unless_read=unless_read)
        return {name: [tuple(work.item.values()) for work in works] for name, works in line.plan().items()}

    train = [("train", 0), ("train", 1), ("train", 2)]
    test = [("test", 0), ("test", 1)]
    assert left(Noise, Twice, Mean, split=["test"]) == {"noise": train, "twice": train, "mean": [()]}
    assert left(Noise, Twice, Mean, split=["train"]) == left(Noise, Twice, Mean)
    assert left(Noise, Twice, split=["train", "valid"]) == {"noise": test, "twice": test}


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_damaged_output_is_remade(tmp_path, damage):
    toy(tmp_path).run()
    before = contents(tmp_path)
    victim = tmp_path / "Train" / "sim0001" / "twice.npz"
    if damage == "delete":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:100])
    assert [w[:2] for w in todo(toy(tmp_path))["twice"]] == [("train", 1)]
    toy(tmp_path).run()
    assert contents(tmp_path) == before


def test_selection(tmp_path):
    toy(tmp_path).run(only=["noise"])
    assert not list(tmp_path.rglob("twice.npz"))
    with pytest.raises(UserError, match="not made yet.*'twice' is not selected"):
        toy(tmp_path).run(start="mean")
    with pytest.raises(UserError, match="no stage 'means'; the stages are noise, twice, mean"):
        toy(tmp_path).run(only=["means"])
    toy(tmp_path).run()
    first = (tmp_path / "mean.csv").stat().st_mtime_ns
    toy(tmp_path).run(force=["mean"])
    assert (tmp_path / "mean.csv").stat().st_mtime_ns > first


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_item_keeps_its_neighbours(tmp_path, workers):
    with pytest.raises(UserError, match=r"split=train, sim=1.*cannot be made.*3 of 5 items are done"):
        toy(tmp_path, noise={"bad_sim": 1}).run(workers=workers)
    assert len(list(tmp_path.rglob("noise.npy"))) == 3
    assert not list(tmp_path.rglob("twice.npz"))


def run_in_a_process(root: Path, kill: str) -> int:
    process = FRESH.Process(target=run_toy, args=(root, kill))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("stage", ["noise", "twice", "mean", "write"])
def test_killed_process_leaves_no_half_file_and_resumes_to_the_same_bytes(tmp_path, stage):
    toy(tmp_path / "undisturbed").run()
    expected = contents(tmp_path / "undisturbed")
    kill = tmp_path / "kill"
    kill.write_text(stage)
    assert run_in_a_process(tmp_path / "killed", str(kill)) == -9
    left = contents(tmp_path / "killed")
    left.pop("state.npy", None)
    assert left.items() < expected.items()  # what is there is whole
    assert run_in_a_process(tmp_path / "killed", str(kill)) == 0
    assert contents(tmp_path / "killed") == expected
    assert not list(tmp_path.rglob(".tmp*"))


def test_sidecar_says_where_a_file_comes_from(tmp_path):
    toy(tmp_path).run()
    record = json.loads((tmp_path / "Test" / "sim0001" / ".noise.npy.json").read_text())
    assert record["settings"] == {"noise.level": 1.0, "noise.bad_sim": -1, "seed": 1}
    assert record["seeds"] == ["noise/1/test/1"]
    path = tmp_path / "Test" / "sim0001" / "noise.npy"
    hashed = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["outputs"] == {"noise.npy": {"size": path.stat().st_size, "sha256": hashed}}
    assert record["packages"]["numpy"] == np.__version__


def test_stage_sees_only_what_it_declares():
    with pytest.raises(AttributeError, match="factor"):
        _ = Noise(toy_config()).cfg.factor


class Late(Stage):
    name = "late"
    inputs = ("mean",)
    outputs = ("late",)


def pipeline_of(*stages, **files):
    cfg = toy_config()
    return Pipeline([stage(cfg) for stage in stages], Assets({**FILES, **files}, {"root": "."}))


def test_wiring_is_checked_before_anything_runs():
    with pytest.raises(UserError, match="asset 'late', which assets.files does not list"):
        pipeline_of(Late)
    with pytest.raises(UserError, match="'twice' reads 'noise', which stage 'noise' makes only later"):
        pipeline_of(Twice, Noise)
    with pytest.raises(UserError, match=r"assets.files.noise has the field \{band\}"):
        pipeline_of(Noise, noise="{root}/{band}.npy")
    with pytest.raises(UserError, match="one name"):
        pipeline_of(Noise, Noise)

    class Again(Noise):
        name = "again"

    with pytest.raises(UserError, match="'noise' and 'again' both make the asset 'noise'"):
        pipeline_of(Noise, Again)

    class NeedsEvery(Stage):
        name = "needs"
        inputs = ("noise",)
        outputs = ("mean",)

    with pytest.raises(UserError, match="does not say which; use Every"):
        pipeline_of(Noise, NeedsEvery).plan()


def test_missing_file_that_no_stage_makes(tmp_path):
    cfg = toy_config()
    late = Pipeline([Late(cfg)], Assets({**FILES, "late": "{root}/late.npy"}, {"root": str(tmp_path)}))
    with pytest.raises(UserError, match=r"'late' reads .*mean.csv, which is missing and which no stage makes"):
        late.run()


def test_every_streams_in_order_and_reads_nothing_before_it_is_asked(tmp_path):
    toy(tmp_path).run(only=["noise", "twice"])
    work = toy(tmp_path).plan()["mean"][0]
    files = work.inputs["twice"]
    assert [i["sim"] for i in files.items] == [0, 1, 2]
    assert Every("twice", split="train").where == {"split": "train"}
    files.files[2].path.unlink()
    assert len(files) == 3
    assert files[1]["x"].shape == (1000,)
    with pytest.raises(UserError, match="sim0002/twice.npz is missing"):
        files[2]


class Listing(Stage):
    """Reads what other runs have left: the `twice` of two sims, wherever the items say."""

    name = "listing"
    inputs = (Every("twice"),)
    outputs = ("mean",)

    def found(self, asset):
        return [{"split": "test", "sim": sim} for sim in (1, 0)]

    def missing(self, file, item):
        return f"run number {item['sim']} has left no {file.path.name}."

    def run(self, item, twice):
        return [{"sim": i["sim"], "mean": float(np.mean(v["x"]))} for i, v in zip(twice.items, twice, strict=True)]


def listing(root):
    return Pipeline([Listing(toy_config())], Assets(FILES, {"root": str(root), "sim": "of the constants"}))


def test_a_stage_reads_every_file_that_it_has_found_and_again_when_one_changes(tmp_path):
    toy(tmp_path).run(only=["noise", "twice"])
    listing(tmp_path).run()
    means = File(tmp_path / "mean.csv").read()
    expected = [File(tmp_path / "Test" / f"sim{sim:04d}" / "noise.npy").read().mean() * 2 for sim in (1, 0)]
    assert [row["sim"] for row in means] == [1, 0]
    np.testing.assert_allclose([row["mean"] for row in means], expected, rtol=1e-12)
    assert todo(listing(tmp_path)) == {"listing": []}
    toy(tmp_path, factor=3.0).run(only=["twice"])
    assert todo(listing(tmp_path)) == {"listing": [("twice changed",)]}


def test_a_found_file_that_is_missing_is_named_by_the_stage(tmp_path):
    toy(tmp_path).run(only=["noise", "twice"])
    (tmp_path / "Test" / "sim0000" / "twice.npz").unlink()
    with pytest.raises(UserError, match=r"^run number 0 has left no twice.npz\.$"):
        listing(tmp_path).plan()

    class FindsNothing(Listing):
        def found(self, asset):
            return []

    empty = Pipeline([FindsNothing(toy_config())], Assets(FILES, {"root": str(tmp_path)}))
    with pytest.raises(UserError, match="'listing' reads every 'twice', and there is none"):
        empty.plan()


class Optional(Listing):
    """Reads what is there of what it lists."""

    inputs = (Every("twice", optional=True),)


def test_a_found_file_that_is_optional_may_be_missing_and_counts_as_soon_as_it_is_there(tmp_path):
    def optional():
        return Pipeline([Optional(toy_config())], Assets(FILES, {"root": str(tmp_path)}))

    def sims():
        return [row["sim"] for row in File(tmp_path / "mean.csv").read()]

    assert optional().plan()["listing"][0].inputs["twice"].items == ()  # not even one has to be there
    toy(tmp_path).run(only=["noise", "twice"])
    late = tmp_path / "Test" / "sim0001" / "twice.npz"
    value = File(late).read()
    late.unlink()
    optional().run()
    assert sims() == [0]
    assert todo(optional()) == {"listing": []}
    File(late).write(value)
    assert todo(optional()) == {"listing": [("twice: 1 -> 2 items",)]}
    optional().run()
    assert sims() == [1, 0]
    late.unlink()
    assert todo(optional()) == {"listing": [("twice: 2 -> 1 items",)]}


def test_sidecar_tells_the_memory_of_its_own_item(tmp_path):
    """200 MB are held by the middle one of three items: the one after it knows nothing of them."""
    if memory.peak_gb() is None:
        pytest.skip("this system does not tell")
    Pipeline([Hungry(toy_config())], Assets(FILES, {"root": str(tmp_path)})).run()
    records = [tmp_path / "Train" / f"sim{sim:04d}" / ".noise.npy.json" for sim in range(3)]
    before, held, after = (json.loads(path.read_text())["peak_gb"] for path in records)
    assert held - before == pytest.approx(0.2, abs=0.02)  # what else the process holds changes by less
    assert held - after == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", ["record.json", ".record.csv.json"])
def test_json_comes_back_as_it_was(tmp_path, name):
    value = {"n": [1, "abc", None], "x": 0.1 + 0.2, "µ": True}
    File(tmp_path / name).write(value)
    assert File(tmp_path / name).read() == value


def test_pdf_of_one_figure_has_the_same_bytes_each_time(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 1])
    for name in ("a.pdf", "b.pdf"):
        File(tmp_path / name).write(figure)
    first = File(tmp_path / "a.pdf").read()
    assert first == File(tmp_path / "b.pdf").read()
    assert first.startswith(b"%PDF")
    assert b"CreationDate" not in first


def test_atomic_write_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    file = File(tmp_path / "x.npz")
    file.write({"x": np.arange(3)})
    before = file.path.read_bytes()
    with pytest.raises(TypeError):
        file.write(3)
    assert file.path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_suffix_without_handler(tmp_path):
    with pytest.raises(UserError, match=r"no handler for the suffix '\.xyz'"):
        handlers.write(tmp_path / "a.xyz", 1)


SECOND = Path("Test", "sim0001", ".noise.npy.json")


@pytest.mark.parametrize("text", ["[" * 100000, "[]", '["form"]', '"form"', "3", "{}", '{"form": 3}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path, text):
    toy(tmp_path).run()
    (tmp_path / SECOND).write_text(text)
    assert todo(toy(tmp_path))["noise"] == [("test", 1, "not made yet")]


@pytest.mark.parametrize(("key", "value"), [("form", True), ("form", 0), ("version", True), ("seconds", True)])
def test_true_is_no_number_of_a_record(tmp_path, key, value):
    toy(tmp_path).run()
    record = json.loads((tmp_path / SECOND).read_text())
    (tmp_path / SECOND).write_text(json.dumps(record | {key: value}))
    assert todo(toy(tmp_path))["noise"] == [("test", 1, "not made yet")]


@pytest.mark.parametrize("more", [{}, {"new": 1}])
def test_a_record_of_a_newer_version_is_told_as_one(tmp_path, more):
    toy(tmp_path).run()
    record = json.loads((tmp_path / SECOND).read_text())
    (tmp_path / SECOND).write_text(json.dumps(record | {"form": 3} | more))
    with pytest.raises(UserError, match=r"^1 items of this dataset were made by a newer cmbml.* use that version"):
        toy(tmp_path).run()


def test_a_folder_in_the_place_of_a_record_is_named(tmp_path, caplog):
    toy(tmp_path).run()
    (tmp_path / SECOND).unlink()
    (tmp_path / SECOND).mkdir()
    with pytest.raises(UserError) as caught:
        toy(tmp_path).run()
    assert f"{SECOND} is a folder, where the record of noise.npy belongs; remove it" in f"{caught.value}{caplog.text}"
    assert "Traceback" not in caplog.text
    (tmp_path / SECOND).rmdir()
    toy(tmp_path).run()
