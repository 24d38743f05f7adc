"""The U-Net against closed forms: number of weights, receptive field, wiring of the skips."""

import itertools

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from cmbml.config import resolvers
from cmbml.networks.blocks import ChannelDropout
from cmbml.networks.unet import UNet
from tests.conftest import REPO


def count(f: int, w: int, d: int, g: int, cin: int, cout: int, norm: int, up: int = 9) -> int:
    """Weights of the U-Net, summed as geometric series in g^2 (pairs of filters) and g (single filters)."""
    squares = f * f * (g ** (2 * d) - 1) // (g * g - 1)  # of the filters of all levels but the lowest
    lowest = f * f * g ** (2 * d)
    encoder = cin * f + g * squares + (w - 1) * (squares + lowest)
    decoder = (2 + w - 1) * squares
    kernels = 9 * (encoder + decoder + squares) + up * g * squares  # and the ways down and up
    singles = f * (g**d - 1) // (g - 1)
    maps = w * (singles + f * g**d) + w * singles + 2 * singles  # outputs of all 3x3 convolutions
    return kernels + norm * maps + f * cout + cout


@pytest.mark.parametrize(("f", "w", "d", "g"), [(8, 2, 3, 2), (4, 1, 1, 3), (6, 3, 2, 2), (256, 3, 3, 2)])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_number_of_weights(f, w, d, g, norm):
    # normalisation: factor and offset a map, and no bias; without it: a bias a map
    maps = 1 if norm == "none" else 2
    shape = {"n_filters": f, "conv_width": w, "network_depth": d, "growth_factor": g, "norm": norm}
    for style, expected in (
        ({}, count(f, w, d, g, 3, 2, maps)),
        ({"upsample": "bilinear"}, count(f, w, d, g, 3, 2, maps)),
        ({"padding": "reflect"}, count(f, w, d, g, 3, 2, maps, up=4)),
        ({"shortcut": 5}, count(f, w, d, g, 3, 2, maps) + 3 * 2 * 25),
    ):
        with torch.device("meta"):
            net = UNet(in_channels=3, out_channels=2, **shape, **style)
        assert sum(p.numel() for p in net.parameters()) == expected


def positive(w: int, d: int, g: int = 1) -> UNet:
    """Linear U-Net whose weights are all positive, so that no dependence cancels."""
    net = UNet(n_filters=1, conv_width=w, network_depth=d, growth_factor=g, norm="none", activation="identity")
    for p in net.parameters():
        nn.init.uniform_(p, 0.5, 1.0)
    return net.double()


def receptive_field(net: UNet, size: int) -> int:
    """Largest width of the set of pixels on which an output pixel depends, over a period of the strides."""
    widest = 0
    for at in range(size // 2, size // 2 + 2**net.network_depth):
        x = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
        net(x)[0, 0, at, at].backward()
        seen = x.grad[0, 0].nonzero()
        assert seen.min() > 0
        assert seen.max() < size - 1
        widest = max(widest, *(seen.max(0).values - seen.min(0).values + 1).tolist())
    return widest


def expected_field(w: int, levels: int, skip: bool = False) -> int:
    """Width on which an output depends through the lowest of ``levels`` levels, by hand.

    Back from the output, w convolutions widen n pixels to n + 2w; a transposed one rests on (n + 3) // 2 pixels of the
    level below (its odd outputs have two sources); the strided one needs 2n + 1 pixels. A skip joins two blocks.
    """
    n = 1 + 2 * w
    for _ in range(levels):
        n = (n + 3) // 2 + 2 * w
    n += 2 * w * skip
    for _ in range(levels):
        n = 2 * n + 1 + 2 * w
    return n


@pytest.mark.parametrize(("w", "d", "size"), [(3, 3, 184), (2, 2, 80), (1, 3, 88)])
def test_receptive_field(w, d, size):
    assert receptive_field(positive(w, d), size) == expected_field(w, d)
    assert expected_field(3, 3) == 161


@pytest.mark.parametrize("level", [0, 1, 2])
def test_skip_joins_encoder_and_decoder_of_the_same_level(level):
    # With the way up into a level cut, nothing below it counts: what is left is the skip of that level.
    w, net = 2, positive(2, 3)
    with torch.no_grad():
        for p in net.up[level].parameters():
            p.zero_()
    assert receptive_field(net, 144) == expected_field(w, level, skip=True)


def settings(name: str) -> dict:
    """What the option network=name says, as composed."""
    resolvers.register()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        return dict(compose("delens", overrides=[f"network={name}"]).network)


def test_published_network():
    # 212 million weights, 201 x 2^20, and 161 pixels are those of the published code.
    cfg = settings("unet_256")
    assert cfg.pop("_target_") == "cmbml.networks.unet.UNet"
    with torch.device("meta"):
        net = UNet(**{**cfg, "in_channels": 1, "out_channels": 1})
    assert sum(p.numel() for p in net.parameters()) // 2**20 == 201
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}
    assert [m.rate for m in net.modules() if isinstance(m, ChannelDropout)] == [0.2] * 7
    assert all(nn.ReLU in map(type, block) for block in itertools.chain(net.down, net.up))


@pytest.mark.parametrize(("name", "least", "most"), [("unet", 0.1e6, 0.3e6), ("unet_gpu", 4e6, 20e6)])
def test_configured_network_starts_as_a_linear_filter(name, least, most):
    cfg = settings(name)
    assert cfg.pop("_target_") == "cmbml.networks.unet.UNet"
    torch.manual_seed(0)
    net = UNet(**{**cfg, "in_channels": 3, "out_channels": 1})
    assert least < sum(p.numel() for p in net.parameters()) < most
    x, y = torch.randn(2, 2, 3, 32, 32)
    assert torch.allclose(net(x + 2 * y), net(x) + 2 * net(y), atol=1e-5)  # float32
