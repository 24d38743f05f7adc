"""Make the network that the settings describe; which one it is, nothing here knows."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn

from cmbml.core.errors import UserError
from cmbml.train.images import image_shape

_MODEL: dict[str, type] = {"settings": Mapping, "state_dict": Mapping, "target_rms": list, "input_rms": list}
_SETTINGS: dict[str, type] = {
    "network": Mapping,
    "patches": Mapping,
    "rotation": Mapping,
    "train": Mapping,
    "nside": int,
    "lmax": int,
    "spins_in": list,
    "spins_out": list,
    "parity_in": list,
    "parity_out": list,
}
OWN = "cmbml.networks."  # the room whose networks a file may name


def build(network: Mapping[str, Any]) -> nn.Module:
    """Make the network ``network._target_`` with the other keys, which are plain values.

    Raises
    ------
    UserError
        When there is no such network, it is none, or it refuses its keys, in its own words.
    """
    keys = {key: value for key, value in network.items() if key != "_target_"}
    for key, value in keys.items():
        if str(key).startswith("_") or not _plain(value):
            raise UserError(f"network.{key}={value} is no plain value: a number, a text or a list of them.")
    path = str(network.get("_target_"))
    try:
        kind = get_class(path)
    except Exception as error:
        why = " ".join(str(error).split())
        raise UserError(f"network._target_={path} cannot be imported: {why.rstrip('.')}.") from None
    if not issubclass(kind, nn.Module):
        raise UserError(f"network._target_={path} is no torch.nn.Module.")
    try:
        return kind(**keys)
    except (TypeError, ValueError) as error:
        raise UserError(f"network: {str(error).rstrip('.')}.") from None


def _plain(value: Any) -> bool:
    """Whether a value is a number, a text, true, false or null, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


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
        When it lacks a part, has one of another kind, or names another network.
    """
    anew = "give the model.pt of a training, or train anew with run.force=[train]"
    if not isinstance(model, Mapping):
        raise UserError(f"{name} holds no model; {anew}.")
    for key, kind in _MODEL.items():
        if not isinstance(model.get(key), kind):
            raise UserError(f"{name} holds no model: its {key} is missing or of another kind; {anew}.")
    settings = model["settings"]
    for key, kind in _SETTINGS.items():
        if not isinstance(settings.get(key), kind):
            raise UserError(f"{name} holds no model: its settings.{key} is missing or of another kind; {anew}.")
    if not all(isinstance(weights, torch.Tensor) for weights in model["state_dict"].values()):
        raise UserError(f"{name} holds no model: its state_dict has more than tensors; {anew}.")
    rms = [*model["target_rms"], *model["input_rms"]]
    if not all(isinstance(x, int | float) and math.isfinite(x) and x > 0 for x in rms):
        raise UserError(f"{name} holds no model: its rms are no numbers above 0; {anew}.")
    path = settings["network"].get("_target_")
    if path != network and not str(path).startswith(OWN):
        raise UserError(
            f"{name} asks for the network {path}, which is neither of cmbml.networks nor that of this run"
            f" (network._target_={network}); choose it with network=..., if you trust it."
        )
    return dict(model)


def probe(settings: Mapping[str, Any], channels: tuple[int, int]) -> tuple[int, int]:
    """Find out, without computing anything, whether the network maps the patches' inputs to their targets.

    Parameters
    ----------
    settings
        ``network`` and ``patches``.
    channels
        Numbers of maps of the inputs and of the target.

    Returns
    -------
    (int, int)
        Number of the network's weights, and of the values that its layers give for one patch.

    Raises
    ------
    UserError
        When size or number of channels do not fit.
    """
    height, width = image_shape(settings)
    try:
        with torch.device("meta"), torch.no_grad():
            given = torch.empty(1, channels[0], height, width)
            net = build(settings["network"]).eval()
            sizes = []
            for layer in (module for module in net.modules() if not list(module.children())):
                layer.register_forward_hook(lambda module, x, y: sizes.append(y.numel()))
            got = net(given)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The network cannot take {channels[0]} channels of {height}x{width} pixels (network.in_channels; patch and"
            f" halo): {str(error).rstrip('.')}."
        ) from None
    if got.shape != (1, channels[1], height, width):
        raise UserError(
            f"The network gives {tuple(got.shape[1:])} (channels, pixels, pixels) where the target has "
            f"{(channels[1], height, width)} (network.out_channels)."
        )
    return sum(weights.numel() for weights in net.parameters()), sum(sizes)


def load(model: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Make the trained network of a ``model`` (see ``trainer.fit``), ready to predict on ``device``."""
    net = build(model["settings"]["network"])
    try:
        net.load_state_dict(model["state_dict"])
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise UserError(f"The weights of a model do not fit its network ({why}); train it anew.") from None
    layout = torch.channels_last if model["settings"]["train"]["channels_last"] else torch.contiguous_format
    return laid_out(net.to(device), layout).eval()


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the network with its weights of convolutions in this order in memory."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs leave this keyword out
