"""How long a dry run says that work takes: what the records of earlier runs say."""

import json
import logging
import re

import pytest

from cmbml.core import log, outlook
from cmbml.core.asset import Assets
from tests.core.toy import FILES, Noise, Twice, toy, toy_config


def said(caplog, pipeline, **options) -> tuple[str, dict[str, str]]:
    """Title and column of times of a dry run."""
    with caplog.at_level(logging.INFO):
        pipeline.run(dry=True, **options)
    title, header, _, *lines = caplog.messages[-1].splitlines()
    start = header.index("time")
    width = header.index("why") - start
    return title, {line.split()[0]: line[start : start + width].strip() for line in lines}


def let_it_take(root, stage: str, *seconds: float) -> None:
    """Write into the records of a stage that its items took so long, one after another."""
    paths = sorted(path for path in root.rglob(".*.json") if json.loads(path.read_text())["stage"] == stage)
    for i, path in enumerate(paths):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"seconds": seconds[i % len(seconds)]}))


def test_minutes_of_earlier_runs(tmp_path, caplog):
    title, times = said(caplog, toy(tmp_path))
    assert title.endswith("No record of an earlier run tells how long it takes.")
    assert times == {"noise": "?", "twice": "?", "mean": "?"}

    toy(tmp_path).run()
    let_it_take(tmp_path, "noise", 30.0, 30.0, 30.0, 30.0, 60.0)
    let_it_take(tmp_path, "twice", 10.0)
    let_it_take(tmp_path, "mean", 7200.0)
    title, times = said(caplog, toy(tmp_path))
    assert times == {"noise": "", "twice": "", "mean": ""}
    assert title.endswith("at most.")
    # 180 s + 50 s + 2 h; two at once take half of the first two, and no worker shortens what is one item
    title, times = said(caplog, toy(tmp_path), force=["noise", "twice", "mean"])
    assert times == {"noise": "3.0 min", "twice": "50 s", "mean": "2.0 h"}
    assert title.endswith("About 2.1 h by earlier runs.")
    _, times = said(caplog, toy(tmp_path), force=["noise", "twice", "mean"], workers=2)
    assert times == {"noise": "90 s", "twice": "25 s", "mean": "2.0 h"}


def test_other_settings_are_a_guess(tmp_path, caplog):
    toy(tmp_path).run(only=["noise", "twice"])
    let_it_take(tmp_path, "noise", 12.0)
    title, times = said(caplog, toy(tmp_path, noise={"level": 2.0}), only=["noise"])
    assert times == {"noise": "~60 s"}
    assert title.endswith("About 60 s by earlier runs (~ guessed from other settings).")
    title, times = said(caplog, toy(tmp_path, noise={"level": 2.0}))
    assert times["mean"] == "?"
    assert re.search(r"At least .* \(~ guessed from other settings; \? without a record\)\.$", title)


def test_a_guess_grows_with_the_files(tmp_path):
    """Of files sixteen times as large an item takes sixteen times as long."""
    toy(tmp_path).run(only=["noise"])
    let_it_take(tmp_path, "noise", 3.0)
    for path in tmp_path.rglob(".noise.npy.json"):
        record = json.loads(path.read_text())
        record["outputs"]["noise.npy"]["size"] = 1_000_000
        path.write_text(json.dumps(record))
    assets = Assets(FILES, {"root": str(tmp_path)}, {}, {".npy": 16e6})
    assert outlook.pace(Noise(toy_config(seed=2)), assets) == outlook.Pace(48.0, same=False)
    assert outlook.pace(Noise(toy_config()), assets) == outlook.Pace(48.0, same=False)  # it reads larger ones
    assert outlook.pace(Noise(toy_config()), Assets(FILES, {"root": str(tmp_path)})) == outlook.Pace(3.0, same=True)


def test_a_stage_may_say_what_its_work_grows_with(tmp_path):
    """Twice the factor, and three files instead of one."""

    class Slow(Twice):
        work = ("factor",)

    toy(tmp_path).run(only=["noise", "twice"])
    let_it_take(tmp_path, "twice", 5.0)
    assets = Assets(FILES, {"root": str(tmp_path)})
    assert outlook.pace(Slow(toy_config(factor=4.0)), assets, reads=3) == outlook.Pace(30.0, same=False)
    assert outlook.pace(Slow(toy_config()), assets, reads=1) == outlook.Pace(5.0, same=True)


def test_pattern_finds_every_dataset(tmp_path):
    assets = Assets(
        {"a": "{root}/{dataset}/x[1]/{split}/theta{theta:g}.npy"}, {"root": f"{tmp_path}/[r]", "dataset": "d"}
    )
    assert assets.pattern("a") == f"{tmp_path}/[[]r]/*/x[[]1]/*/theta*.npy"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.0, "99 s"), (100.0, "1.7 min"), (720, "12 min"), (12600, "3.5 h"), (2e5, "2.3 days")],
)
def test_durations(seconds, text):
    assert log.duration(seconds) == text
