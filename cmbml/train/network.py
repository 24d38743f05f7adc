"""Make the network that the settings describe; which one it is, nothing here knows."""

from collections.abc import Mapping
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from torch import nn

from cmbml.core.errors import UserError
from cmbml.train.images import image_shape


def build(network: Mapping[str, Any]) -> nn.Module:
    """Instantiate ``network._target_`` with the other keys.

    Raises
    ------
    UserError
        When there is no such network or it refuses its keys, in its own words.
    """
    try:
        return hydra.utils.instantiate(dict(network))
    except InstantiationException as error:
        raise UserError(f"network: {error.__cause__ or error}") from None


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
            f"The network cannot take {channels[0]} channels of {height}x{width} pixels (patch and halo): {error}"
        ) from None
    if got.shape != (1, channels[1], height, width):
        raise UserError(
            f"The network gives {tuple(got.shape[1:])} (channels, pixels, pixels) where the target has "
            f"{(channels[1], height, width)}."
        )
    return sum(weights.numel() for weights in net.parameters()), sum(sizes)


def load(model: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Make the trained network of a ``model`` (see ``trainer.fit``), ready to predict on ``device``."""
    net = build(model["settings"]["network"])
    net.load_state_dict(model["state_dict"])
    layout = torch.channels_last if model["settings"]["train"]["channels_last"] else torch.contiguous_format
    return laid_out(net.to(device), layout).eval()


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the network with its weights of convolutions in this order in memory."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs leave this keyword out
