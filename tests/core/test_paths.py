"""The table of paths: each item of each asset has a file of its own, of a form that can be written."""

import pytest

from cmbml.core.asset import Assets
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from tests.core.toy import FILES, Mean, Noise, Twice, toy_config

MISTAKES = {
    "one file for all items": (
        {"noise": "/tmp/one.npy"},
        r"files.noise=/tmp/one.npy .*by their fields, {split}, {sim}",
    ),
    "one file for all splits": ({"noise": "{root}/{sim}.npy"}, r"files.noise=.* is one path for several items"),
    "one file for two assets": ({"mean": "{root}/x.npy", "state": "{root}/./x.npy"}, r"files.mean and .*files.state"),
    "an item of one is another": ({"mean": "{root}/Test/sim0001/noise.npy"}, r"files.noise and .*files.mean have one"),
    "nothing": ({"noise": ""}, r"files.noise= has no suffix of a known format; known are .npz, .npy"),
    "no suffix": ({"noise": "{root}/{split}/{sim}/noise"}, r"has no suffix of a known format"),
    "another suffix": ({"noise": "{root}/{split}/{sim}.xyz"}, r"has no suffix of a known format"),
    "half a field": ({"noise": "{root}/{split/{sim}.npy"}, r"files.noise=.* is no path with fields like {split}: "),
    "a part of a field": ({"noise": "{root}/{split.x}/{sim}.npy"}, r"has the field {split.x}; a field is a name"),
    "a number for a field": ({"noise": "{root}/{0}/{sim}.npy"}, r"has the field \{0\}; a field is a name"),
    "a form that it has not": ({"noise": "{root}/{split:d}/{sim}.npy"}, r"files.noise=.* cannot be filled: "),
    "unknown field": ({"noise": "{root}/{splti}/{sim}.npy"}, r"files.noise has the field {splti}, which is neither"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_path_that_is_none_is_refused_before_anything_runs(tmp_path, mistake):
    changed, message = MISTAKES[mistake]
    cfg = toy_config()
    with pytest.raises(UserError, match=message) as refused:
        Pipeline([Noise(cfg), Twice(cfg), Mean(cfg)], Assets(FILES | changed, {"root": str(tmp_path)}))
    assert str(refused.value).startswith(("assets.files.", "Stage"))
    assert not list(tmp_path.iterdir())


def test_what_a_file_holds_is_told_in_known_units():
    units = {"map": 4.0, "MB": 1e6}
    assert Assets(FILES, {}, {"noise": "2 map + 1 MB"}, units).size("noise") == 1e6 + 8
    for counts in ("inf", "inf map", "-1 map", "nan map", "map", "2 moons", "", "2 map 1"):
        with pytest.raises(UserError, match="^assets.holds.noise=.* must be numbers of units, like 5 map"):
            Assets(FILES, {}, {"noise": counts}, units)


def test_a_path_of_the_command_line(command):
    for word in ("assets.files.obs=/tmp/one.fits", "assets.files.obs=${assets.files.label}"):
        code, error = command(word, "run.dry=true")
        assert code == 1
        assert error.startswith("Error: assets.files.obs")


def test_stages_left_and_taken_exclude_each_other(tmp_path):
    cfg = toy_config()
    pipeline = Pipeline([Noise(cfg), Twice(cfg), Mean(cfg)], Assets(FILES, {"root": str(tmp_path)}))
    with pytest.raises(UserError, match="run.only names noise, which comes before run.start=twice; leave one"):
        pipeline.run(only=["noise", "mean"], start="twice", dry=True)
    assert [stage.name for stage in pipeline.selected(only=["mean"], start="twice")] == ["mean"]
