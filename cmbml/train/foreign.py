"""The model that a file holds: everything that is used of it is looked at before, for it may come from anybody."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cmbml.config.limits import Kind, Limits
from cmbml.config.schema import ANGLE, LMAX, NETWORK, NSIDE, TRAIN
from cmbml.core.errors import UserError
from cmbml.train.images import LAYOUTS, check_symmetries
from cmbml.train.network import has_network, shown

KINDS = ("none", "harmonic", "permutation")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
DEPTH = 8  # of the settings' mappings and lists in one another
HUGE = 10**100  # whole numbers that nobody can read
UNIT = Limits(1e-30, 1e30)
MEDIAN = Limits(-1e30, 1e30)
ANGLES = Limits(*ANGLE)

_BOOL = Kind((bool,), "true or false")
_LIST = Kind((list,), "a list")
_MAPPING = Kind((Mapping,), "a mapping")
_PARTS = {"settings": _MAPPING, "state_dict": _MAPPING, "input_rms": _LIST, "target_rms": _LIST}
_CHANNELS = ("spins_in", "spins_out", "parity_in", "parity_out")
_GROUPS = {
    **dict.fromkeys(("network", "patches", "rotation", "train"), _MAPPING),
    **dict.fromkeys(_CHANNELS, _LIST),
}
_VALUES: dict[str, Limits | Kind] = {
    "nside": Limits(*NSIDE, whole=True),
    "lmax": Limits(*LMAX, whole=True),
    "patches.patch": Limits(*NSIDE, whole=True),
    "patches.halo": Limits(0, NSIDE[1], whole=True),
    "rotation.symmetries": _BOOL,
    "rotation.average": Limits(1, 8, whole=True),
    "rotation.pairs": _LIST,
    "train.scale": TRAIN["scale"],
    "train.channels_last": _BOOL,
}


def check_model(model: Any, name: str, network: str) -> dict[str, Any]:
    """Return a model (`trainer.fit`) that a file holds; refuse what is none, before anything of it is used.

    Parameters
    ----------
    model
        What a file holds, read without running anything.
    name : str
        What the sentence calls it.
    network : str
        ``network._target_`` of this run: beside the networks of `cmbml.networks`, only that one may be named.

    Raises
    ------
    UserError
        When it lacks a part, has one that is not what it must be, or names another network.
    """
    if not isinstance(model, Mapping):
        raise UserError(f"{name} holds no model; {_ANEW}.")
    _check_parts(model, _PARTS, name, "")
    settings = model["settings"]
    _check_parts(settings, _GROUPS, name, "settings.")
    _demand(_plain(settings), name, "its settings are no plain values")
    path = settings["network"].get("_target_")
    if not isinstance(path, str) or (path != network and not has_network(path)):
        raise UserError(
            f"{name} asks for the network {shown(path)}, which is neither of cmbml.networks nor that of this run"
            f" (network._target_={network}); choose it with network=..., if you trust it."
        )
    for key, wish in _VALUES.items():
        _check_value(settings, key, wish, name)
    for key in NETWORK.keys() & settings["network"].keys():
        _check_value(settings, f"network.{key}", NETWORK[key], name)
    _check_channels(model, name)
    _check_geometry(settings, name)
    _check_weights(model["state_dict"], name)
    return dict(model)


_ANEW = "give the model.pt of a training, or train anew with run.force=[train]"


def _demand(good: bool, name: str, why: str) -> None:
    if not good:
        raise UserError(f"{name} holds no model: {why}; {_ANEW}.")


def _check_parts(whole: Mapping[str, Any], parts: Mapping[str, Kind], name: str, above: str) -> None:
    for key, kind in parts.items():
        _demand(kind.hold(whole.get(key)), name, f"its {above}{key} is missing or of another kind")


def _check_value(settings: Mapping[str, Any], key: str, wish: Limits | Kind, name: str) -> None:
    """Demand one value of the settings, under its dotted key."""
    value: Any = settings
    for step in key.split("."):
        _demand(step in value, name, f"its settings.{key} is missing")
        value = value[step]
    _demand(wish.hold(value), name, f"its settings.{key}={shown(value)} must be {wish}")


def _check_channels(model: Mapping[str, Any], name: str) -> None:
    """Demand of every channel its spin, its parity and its unit."""
    settings = model["settings"]
    for side, rms in (("in", "input_rms"), ("out", "target_rms")):
        _check_all(model[rms], UNIT.hold, name, f"its rms are no numbers between {UNIT.low:g} and {UNIT.high:g}")
        spins = settings[f"spins_{side}"]
        parities = settings[f"parity_{side}"]
        _check_all(spins, lambda x: _is_one_of(x, (0, 2)), name, f"its settings.spins_{side} are not all 0 or 2")
        _check_all(parities, lambda x: _is_one_of(x, (1, -1)), name, f"its settings.parity_{side} are not all 1 or -1")
        counts = {f"settings.spins_{side}": len(spins), f"settings.parity_{side}": len(parities), rms: len(model[rms])}
        told = ", ".join(f"{count} of {key}" for key, count in counts.items())
        _demand(len(set(counts.values())) == 1 and bool(spins), name, f"its channels do not agree ({told})")
    if "input_median" in model:
        medians = model["input_median"]
        good = isinstance(medians, list) and len(medians) == len(model["input_rms"])
        _demand(good, name, "its input_median is no list of a number for each channel")
        _check_all(medians, MEDIAN.hold, name, "its input_median has more than finite numbers")


def _check_all(values: Sequence[Any], good: Callable[[Any], bool], name: str, why: str) -> None:
    _demand(all(map(good, values)), name, why)


def _is_one_of(value: object, known: Sequence[int]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in known


def _check_geometry(settings: Mapping[str, Any], name: str) -> None:
    """Demand patches that fit the map, and orientations that there are."""
    nside = settings["nside"]
    patches = settings["patches"]
    rotation = settings["rotation"]
    _demand(nside & (nside - 1) == 0, name, f"its settings.nside={nside} is no power of two")
    _demand(settings["lmax"] < 3 * nside, name, f"its settings.lmax={settings['lmax']} is beyond 3 nside - 1")
    layout = patches.get("layout")
    _demand(layout in LAYOUTS, name, f"its settings.patches.layout={shown(layout)} must be one of {', '.join(LAYOUTS)}")
    patch = patches["patch"]
    halo = patches["halo"]
    fits = patch & (patch - 1) == 0 and patch <= nside if layout == "squares" else halo == 0
    _demand(fits and halo <= nside, name, f"patches of {patch} pixels and a halo of {halo} do not fit nside={nside}")
    kind = rotation.get("kind")
    _demand(kind in KINDS, name, f"its settings.rotation.kind={shown(kind)} must be one of {', '.join(KINDS)}")
    for pair in rotation["pairs"]:
        good = isinstance(pair, list | tuple) and len(pair) == 2 and all(map(ANGLES.hold, pair))
        _demand(good, name, f"its settings.rotation.pairs: {shown(pair)} is no pair of angles in degrees")
    try:
        check_symmetries(dict(settings), rotation["average"])
    except UserError as error:
        _demand(False, name, str(error).rstrip("."))


def _check_weights(weights: Mapping[str, Any], name: str) -> None:
    """Demand tensors that lie in the memory of the file as they are: one that is expanded may be of any size."""
    good = all(isinstance(key, str) and isinstance(x, torch.Tensor) for key, x in weights.items())
    _demand(good, name, "its state_dict has more than tensors")
    for key, x in weights.items():
        dense = x.layout == torch.strided and x.device.type == "cpu" and x.dtype in DTYPES
        whole = dense and x.numel() * x.element_size() <= x.untyped_storage().nbytes()
        _demand(whole, name, f"its weights {shown(key)} are no plain numbers")
        _demand(bool(torch.isfinite(x).all()), name, f"its weights {shown(key)} are not finite")


def _plain(value: Any, depth: int = DEPTH) -> bool:
    """Whether a value is a number, a text, true, false or null, or a mapping or list of such."""
    if isinstance(value, Mapping):
        parts = itertools.chain(value.keys(), value.values())
        return depth > 0 and all(_plain(part, depth - 1) for part in parts)
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(part, depth - 1) for part in value)
    if isinstance(value, int):
        return abs(value) < HUGE
    return value is None or isinstance(value, float | str)
