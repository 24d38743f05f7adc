"""A model file is data: nothing in it runs, and what is no model is refused in a sentence."""

import copy
import shutil

import pytest
import torch

from cmbml.core.errors import UserError
from cmbml.networks.unet import UNet
from cmbml.train import network
from cmbml.train.foreign import check_model
from cmbml.train.network import build
from cmbml.train.predict import predict_sky
from tests.train.toy import SETTINGS, Skies, train

TARGET = "cmbml.networks.unet.UNet"
GOOD = {
    "settings": SETTINGS,
    "state_dict": build(SETTINGS["network"]).state_dict(),
    "input_rms": [7.0, 0.1],
    "target_rms": [3.0],
}
NUMBERS = {"nside", "lmax"}
PARTS = [*((key,) for key in GOOD), *(("settings", key) for key in GOOD["settings"] if key not in NUMBERS)]
HOSTILE = {
    "program": {"_target_": "setuptools._distutils.spawn.spawn", "cmd": ["touch", "PWNED"]},
    "function": {"_target_": "os.system", "command": "touch PWNED"},
    "class": {"_target_": "subprocess.Popen", "args": ["touch", "PWNED"]},
    "torch": {"_target_": "torch.hub.load", "repo_or_dir": "x"},
    "beside the room": {"_target_": "cmbml.networksandmore.UNet"},
    "another room": {"_target_": "cmbml.train.trainer.Trainer"},
    "nothing": {},
    "borrowed": {"_target_": "cmbml.networks.unet.nn.Linear", "in_features": 1, "out_features": 1},
    "borrowed from torch": {"_target_": "cmbml.networks.unet.torch.jit.ScriptModule"},
    "a room in the room": {"_target_": "cmbml.networks.UNet"},
    "several lines": {"_target_": "os\nsystem"},
    "a list": {"_target_": [TARGET]},
}


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_no_network_of_a_file_runs_code(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    model = {**GOOD, "settings": {**GOOD["settings"], "network": settings}}
    with pytest.raises(
        UserError, match="asks for the network .*, which is neither of cmbml.networks nor that of"
    ) as told:
        check_model(model, "x.pt", TARGET)
    with pytest.raises(UserError, match="network") as built:
        build(settings)
    assert "\n" not in f"{told.value}{built.value}"
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [{"_target_": "os.getcwd"}, [{"_target_": "os.getcwd"}], UNet], ids=["a", "b", "c"])
def test_keys_of_a_network_are_plain(value):
    with pytest.raises(UserError, match=r"network.n_filters=.* is no plain value"):
        build({"_target_": TARGET, "in_channels": 1, "out_channels": 1, "n_filters": value})


def test_a_class_that_is_no_module_is_refused_and_not_made(monkeypatch):
    made = []
    evil = type("Evil", (), {"__init__": lambda self: made.append(1)})
    monkeypatch.setattr("cmbml.networks.unet.Evil", evil, raising=False)
    with pytest.raises(UserError, match=r"network._target_=cmbml.networks.unet.Evil is no torch.nn.Module"):
        build({"_target_": "cmbml.networks.unet.Evil"})
    assert made == []


def test_a_class_that_a_module_has_borrowed_is_none_of_its_own(monkeypatch):
    monkeypatch.setattr("cmbml.networks.unet.Linear", torch.nn.Linear, raising=False)
    with pytest.raises(UserError, match=r"is not of cmbml.networks, which has only borrowed it"):
        build({"_target_": "cmbml.networks.unet.Linear", "in_features": 1, "out_features": 1})


def test_the_network_of_this_run_may_be_named():
    outside = {**GOOD, "settings": {**GOOD["settings"], "network": {"_target_": "mine.Net"}}}
    assert check_model(GOOD, "x.pt", "mine.Net") == GOOD
    check_model(outside, "x.pt", "mine.Net")


def changed(path: tuple[str, ...], value):
    """The good model with one part exchanged, or without it."""
    model = copy.deepcopy(GOOD)
    part = model
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return model


@pytest.mark.parametrize("model", [None, [], "text", 3, torch.zeros(3)], ids=str)
def test_what_is_no_mapping_is_no_model(model):
    with pytest.raises(UserError, match="^x.pt holds no model; give the model.pt"):
        check_model(model, "x.pt", TARGET)


@pytest.mark.parametrize("value", [None, 3, "text"])
@pytest.mark.parametrize("path", PARTS, ids=".".join)
def test_every_part_is_there_and_of_its_kind(path, value):
    with pytest.raises(UserError, match=rf"holds no model: its (settings\.)?{path[-1]} is missing or of another kind"):
        check_model(changed(path, value), "x.pt", TARGET)


RMS = [[0.0], [-1.0], [float("nan")], [float("inf")], ["1"], [True], [1e308], [10**400], [None], [[1.0]]]


@pytest.mark.parametrize("rms", RMS, ids=lambda rms: str(rms)[:9] if rms != [10**400] else "huge")
def test_rms_are_numbers_above_zero(rms):
    with pytest.raises(UserError, match="its rms are no numbers between 1e-30 and 1e\\+30"):
        check_model(changed(("target_rms",), rms), "x.pt", TARGET)
    with pytest.raises(UserError, match="its rms are no numbers between 1e-30 and 1e\\+30"):
        check_model(changed(("input_rms",), rms * 2), "x.pt", TARGET)


def nested(depth: int) -> list:
    """A list in a list in a list ..."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


NAN = torch.full((1,), float("nan"))
HUGE = torch.zeros(1).expand(10**12)
WRONG = {
    ("input_rms",): ([], [1.0], [1.0] * 3),
    ("target_rms",): ([], [1.0] * 2),
    ("input_median",): ("x", [0.0], ["a", "b"], [float("nan")] * 2),
    ("settings", "nside"): (0, 12, -1, 10**400, True, "16", 2**14, [16]),
    ("settings", "lmax"): (-4, 1, 48, 1.5, "x", 10**6),
    ("settings", "spins_in"): ([], [0], [0, 1], [0, "0"], [0, True], [0, 10**400]),
    ("settings", "spins_out"): ([], [0, 0], [None]),
    ("settings", "parity_in"): ([], [1], [1, 0], [1, "x"], [[1], 1], [1, True]),
    ("settings", "parity_out"): ([], [1, 1], [3]),
    ("settings", "patches"): ({}, {"patch": 8}, {"patch": 8, "halo": 2}),
    ("settings", "patches", "patch"): ("x", [1], {}, -1, 0, 7, 32, True, 8.0, 10**400),
    ("settings", "patches", "halo"): ("x", [1], {}, -1, 17, True, 1.5),
    ("settings", "patches", "layout"): ("x", [1], 3, "mosaic", "several\nlines"),
    ("settings", "rotation"): ({}, {"kind": "none"}),
    ("settings", "rotation", "kind"): ("x", 3, ["none"]),
    ("settings", "rotation", "pairs"): ("x", [3], [[1, 2, 3]], [["a", "b"]], [[1, float("inf")]]),
    ("settings", "rotation", "average"): (0, 9, "x", True, [1]),
    ("settings", "rotation", "symmetries"): ("x", 1),
    ("settings", "train"): ({}, {"scale": 1.0}, {"channels_last": True}),
    ("settings", "train", "scale"): ("x", {}, [1], -1, 0, float("nan"), 10**400),
    ("settings", "train", "channels_last"): ("x", 1, []),
    ("settings", "network", "network_depth"): (10**6, 0, "x", [2], 1.5),
    ("settings", "network", "n_filters"): (10**9, -1, True),
    ("settings", "more"): (nested(10**4), torch.zeros(2), 10**400),
    ("state_dict", "head.bias"): (NAN, HUGE, NAN.to_sparse(), NAN.to("meta"), NAN.to(torch.complex64), 3),
}
CASES = [(path, value) for path, values in WRONG.items() for value in values]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: ".".join(CASES[i][0]))
def test_what_is_used_of_a_model_is_looked_at(case):
    path, value = CASES[case]
    with pytest.raises(UserError, match=r"^x.pt holds no model: ") as caught:
        check_model(changed(path, value), "x.pt", TARGET)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 400


def test_each_value_is_missed():
    for path in WRONG:
        part = GOOD
        for key in path:
            part = part.get(key)
        if part is not None and path[:2] not in (("settings", "network"), ("state_dict", "head.bias")):
            with pytest.raises(UserError, match=r"^x.pt holds no model: "):
                check_model(changed(path, None), "x.pt", TARGET)


def test_a_network_of_any_size_is_compared_before_it_takes_memory():
    large = {**SETTINGS["network"], "n_filters": 8192, "network_depth": 12, "growth_factor": 16}
    for size in (large, {**large, "growth_factor": 2}):
        model = changed(("settings", "network"), size)
        with pytest.raises(UserError, match="do not fit its network") as caught:
            network.load(check_model(model, "x.pt", TARGET), torch.device("cpu"))
        assert "\n" not in str(caught.value)


def test_a_model_of_other_channels_than_the_sky_is_refused():
    inputs, _ = Skies(1)[0]
    model = check_model(GOOD, "x.pt", TARGET)
    assert predict_sky(model, inputs).shape == (1, inputs.shape[1])
    with pytest.raises(UserError, match="cannot take 1 channels"):
        predict_sky(model, inputs[:1])


def test_weights_of_another_network_are_refused_in_a_sentence():
    keys = {"_target_": TARGET, "in_channels": 1, "out_channels": 1, "network_depth": 1}
    model = {"settings": {"network": keys, "train": {"channels_last": False}}, "state_dict": {"x": torch.zeros(1)}}
    with pytest.raises(UserError, match="weights of a model do not fit its network"):
        network.load(model, torch.device("cpu"))


PARTS_OF_A_STATE = (
    "model",
    "optimizer",
    "scheduler",
    "scaler",
    "epoch",
    "step",
    "rng",
    "best",
    "fingerprint",
    "history",
)
VALUES = (None, "text", [], {}, [3], {"x": 1}, torch.zeros(2))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Folder with the two files of a training."""
    folder = tmp_path_factory.mktemp("training")
    train(folder, train__epochs=1)
    return folder


def again(folder, interrupted, name, value) -> str:
    """What is said when a training finds one of its files exchanged."""
    for file in interrupted.iterdir():
        shutil.copy(file, folder)
    if isinstance(value, bytes):
        (folder / name).write_bytes(value)
    else:
        torch.save(value, folder / name)
    with pytest.raises(UserError) as caught:
        train(folder, train__epochs=1)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
@pytest.mark.parametrize("value", [b"", b"garbage" * 99, *VALUES], ids=lambda value: str(value)[:12])
def test_a_damaged_file_of_a_training_is_a_sentence(tmp_path, interrupted, name, value):
    assert "run.force=[train]" in again(tmp_path, interrupted, name, value)


@pytest.mark.parametrize("key", PARTS_OF_A_STATE)
def test_each_part_of_a_checkpoint_is_looked_at(tmp_path, interrupted, key):
    whole = torch.load(interrupted / "last.pt", weights_only=True)
    assert set(whole) == set(PARTS_OF_A_STATE)
    for value in VALUES:
        if not isinstance(value, type(whole[key])) or key in ("model", "rng") or value == [3]:
            assert "run.force=[train]" in again(tmp_path, interrupted, "last.pt", {**whole, key: value}), (key, value)
    del whole[key]
    assert "run.force=[train]" in again(tmp_path, interrupted, "last.pt", whole)
