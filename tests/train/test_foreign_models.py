"""A model file is data: nothing in it runs, and what is no model is refused in a sentence."""

import copy
import shutil

import pytest
import torch

from cmbml.core.errors import UserError
from cmbml.networks.unet import UNet
from cmbml.train import network
from cmbml.train.network import build, check_model
from tests.train.toy import train

TARGET = "cmbml.networks.unet.UNet"
GOOD = {
    "settings": {
        "network": {"_target_": TARGET},
        **{key: {} for key in ("patches", "rotation", "train")},
        "nside": 16,
        "lmax": 32,
        **{key: [0] for key in ("spins_in", "spins_out")},
        **{key: [1] for key in ("parity_in", "parity_out")},
    },
    "state_dict": {"weight": torch.zeros(1)},
    "input_rms": [1.0],
    "target_rms": [1.0],
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
}


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_no_network_of_a_file_runs_code(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {**GOOD, "settings": {**GOOD["settings"], "network": settings}}
    with pytest.raises(UserError, match="asks for the network .*, which is neither of cmbml.networks nor that of"):
        check_model(model, "x.pt", TARGET)
    with pytest.raises(UserError, match="network"):
        build(settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [{"_target_": "os.getcwd"}, [{"_target_": "os.getcwd"}], UNet], ids=["a", "b", "c"])
def test_keys_of_a_network_are_plain(value):
    with pytest.raises(UserError, match=r"network.n_filters=.* is no plain value"):
        build({"_target_": TARGET, "in_channels": 1, "out_channels": 1, "n_filters": value})


def test_a_class_that_is_no_module_is_refused_and_not_made(monkeypatch):
    made = []
    monkeypatch.setattr(network, "get_class", lambda path: type("Evil", (), {"__init__": lambda self: made.append(1)}))
    with pytest.raises(UserError, match=r"network._target_=cmbml.networks.x.Y is no torch.nn.Module"):
        build({"_target_": "cmbml.networks.x.Y"})
    assert made == []


def test_the_network_of_this_run_may_be_named():
    outside = {**GOOD, "settings": {**GOOD["settings"], "network": {"_target_": "mine.Net"}}}
    check_model(GOOD, "x.pt", "mine.Net")
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


@pytest.mark.parametrize("rms", [[0.0], [-1.0], [float("nan")], [float("inf")], ["1"]], ids=str)
def test_rms_are_numbers_above_zero(rms):
    with pytest.raises(UserError, match="its rms are no numbers above 0"):
        check_model(changed(("target_rms",), rms), "x.pt", TARGET)


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
