"""Make the network that the settings describe; which one it is, nothing here knows."""

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cmbml.core.errors import UserError
from cmbml.train.images import image_shape

ROOM = "cmbml.networks"
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def shown(value: object) -> str:
    """A value in a sentence: at most 100 characters of one line."""
    text = str(value)
    short = text if len(text) <= 100 else f"{text[:97]}..."
    return short if short.isprintable() else ascii(short)


def has_network(path: str) -> bool:
    """Whether a text is the path of something in a module of `cmbml.networks`; nothing is imported to find out."""
    module, _, name = path.rpartition(".")
    spec = importlib.util.find_spec(ROOM)
    folders = spec.submodule_search_locations if spec else None
    return name.isidentifier() and module in {f"{ROOM}.{found.name}" for found in pkgutil.iter_modules(folders)}


def _network_class(path: str) -> type[nn.Module]:
    """The class at a dotted path; of `cmbml.networks` only what is written there."""
    if not DOTTED.fullmatch(path):
        raise UserError(f"network._target_={shown(path)} is no path of a class, like {ROOM}.unet.UNet.")
    own = f"{path}.".startswith(f"{ROOM}.")
    module, _, name = path.rpartition(".")
    if own and not has_network(path):
        raise UserError(f"network._target_={shown(path)} cannot be imported: {shown(module)} is no module of {ROOM}.")
    try:
        kind = getattr(importlib.import_module(module), name)
    except Exception as error:
        why = shown(" ".join(str(error).split()))
        raise UserError(f"network._target_={shown(path)} cannot be imported: {why.rstrip('.')}.") from None
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise UserError(f"network._target_={shown(path)} is no torch.nn.Module.")
    if own and not kind.__module__.startswith(f"{ROOM}."):
        raise UserError(f"network._target_={shown(path)} is not of {ROOM}, which has only borrowed it.")
    return kind


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
            raise UserError(
                f"network.{shown(key)}={shown(value)} is no plain value: a number, a text or a list of them."
            )
    kind = _network_class(str(network.get("_target_")))
    try:
        return kind(**keys)
    except (TypeError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"network: {why.rstrip('.')}.") from None


def _plain(value: Any) -> bool:
    """Whether a value is a number, a text, true, false or null, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


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
    """Make the trained network of a ``model`` (see ``trainer.fit``), ready to predict on ``device``.

    Raises
    ------
    UserError
        When its weights are not those of its network.
    """
    demand_weights(model)
    net = build(model["settings"]["network"])
    net.load_state_dict(model["state_dict"])
    layout = torch.channels_last if model["settings"]["train"]["channels_last"] else torch.contiguous_format
    return laid_out(net.to(device), layout).eval()


def demand_weights(model: Mapping[str, Any]) -> None:
    """Compare the weights of a model with its network, which takes no memory, however large it is.

    Raises
    ------
    UserError
        When they do not fit.
    """
    try:
        with torch.device("meta"):
            build(model["settings"]["network"]).load_state_dict(model["state_dict"], assign=True)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise UserError(f"The weights of a model do not fit its network ({why}); train it anew.") from None


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the network with its weights of convolutions in this order in memory."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs leave this keyword out
