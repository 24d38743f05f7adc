"""The U-Net against closed forms: number of weights, receptive field, wiring of the skips, symmetry."""

import itertools

import pytest
import torch
import yaml
from torch import distributed, nn

from cmbml.networks.unet import ChannelDropout, UNet
from tests.conftest import REPO


def count(f: int, w: int, d: int, g: int, cin: int, cout: int, norm: int) -> int:
    """Weights of the U-Net, summed as geometric series in g^2 (pairs of filters) and g (single filters)."""
    squares = f * f * (g ** (2 * d) - 1) // (g * g - 1)  # of the filters of all levels but the lowest
    lowest = f * f * g ** (2 * d)
    encoder = cin * f + g * squares + (w - 1) * (squares + lowest)
    decoder = (2 + w - 1) * squares
    kernels = 9 * (encoder + decoder + squares + g * squares)  # and the ways down and up
    singles = f * (g**d - 1) // (g - 1)
    maps = w * (singles + f * g**d) + w * singles + 2 * singles  # outputs of all 3x3 convolutions
    return kernels + norm * maps + f * cout + cout


@pytest.mark.parametrize(("f", "w", "d", "g"), [(8, 2, 3, 2), (4, 1, 1, 3), (6, 3, 2, 2), (256, 3, 3, 2)])
@pytest.mark.parametrize("batchnorm", [True, False])
def test_number_of_weights(f, w, d, g, batchnorm):
    with torch.device("meta"):
        shape = {"n_filters": f, "conv_width": w, "network_depth": d, "growth_factor": g}
        net = UNet(in_channels=3, out_channels=2, batchnorm=batchnorm, **shape)
    # batch normalisation: factor and offset a map, and no bias; without it: a bias a map
    assert sum(p.numel() for p in net.parameters()) == count(f, w, d, g, 3, 2, 2 if batchnorm else 1)


def positive(w: int, d: int, g: int = 1) -> UNet:
    """Linear U-Net whose weights are all positive, so that no dependence cancels."""
    net = UNet(n_filters=1, conv_width=w, network_depth=d, growth_factor=g, batchnorm=False, activation="identity")
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


def test_translation_by_the_stride():
    torch.manual_seed(0)
    net = UNet(n_filters=3, conv_width=1, network_depth=2, activation="silu").double()
    with torch.no_grad():
        for _ in range(3):  # running means that are not those of the start
            net(torch.randn(2, 1, 64, 64, dtype=torch.float64))
        net.eval()
        x = torch.randn(1, 1, 96, 96, dtype=torch.float64)
        stride, margin = 4, 20  # half the receptive field of 33 pixels, and the shift
        inner = slice(margin, -margin)
        out = net(x)[..., inner, inner]
        shifted = net(x.roll((stride, -stride), (2, 3)))
        same = shifted.roll((-stride, stride), (2, 3))[..., inner, inner]
        assert torch.allclose(same, out, rtol=0, atol=1e-13)  # rounding in float64
        shifted = net(x.roll((1, 0), (2, 3))).roll((-1, 0), (2, 3))[..., inner, inner]
        assert not torch.allclose(shifted, out, rtol=0, atol=1e-3)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu", "gelu", "tanh"])
def test_gradients_reach_every_weight(activation):
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=2, n_filters=4, activation=activation)
    net(torch.randn(4, 2, 32, 32)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 1e-6, name


def test_output_is_linear_in_the_last_layer():
    torch.manual_seed(0)
    net = UNet(n_filters=3, network_depth=1).eval()
    x = torch.randn(2, 1, 8, 8)
    before = net(x)
    with torch.no_grad():
        net.head.weight *= -3
        net.head.bias *= -3
    assert torch.allclose(net(x), -3 * before, rtol=1e-5, atol=1e-6)  # float32; no activation comes after


def test_dropout_of_whole_maps():
    torch.manual_seed(0)
    drop, x = ChannelDropout(0.25), torch.rand(500, 40, 2, 3) + 1
    y = drop(x)
    kept = y != 0
    assert (kept.all((2, 3)) | ~kept.any((2, 3))).all()
    assert torch.allclose(y[kept], (x / 0.75)[kept])
    assert kept.float().mean() == pytest.approx(0.75, abs=0.015)  # 5 sigma of 20000 draws
    assert not torch.equal(drop(x), y)
    assert drop.eval()(x) is x


def test_dropout_does_not_depend_on_the_number_of_ranks(monkeypatch):
    drop, x = ChannelDropout(0.5), torch.ones(7, 30, 1, 1)
    torch.manual_seed(5)
    alone = drop(x)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(5)
        assert torch.equal(drop(x[rank::3]), alone[rank::3])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_filters", 0),
        ("n_filters", 2.5),
        ("conv_width", 0),
        ("network_depth", -1),
        ("in_channels", None),
        ("out_channels", True),
        ("growth_factor", 0.5),
        ("growth_factor", "2"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("activation", "sigmoidal"),
    ],
)
def test_wrong_key_is_named(key, value):
    with pytest.raises(ValueError, match=f"^{key} must be .*, not {value!r}"):
        UNet(**{key: value})


@pytest.mark.parametrize("shape", [(24, 20), (20, 24)])
def test_size_that_the_depth_does_not_divide(shape):
    net = UNet(n_filters=2, network_depth=3)
    with pytest.raises(ValueError, match=f"network_depth=3 needs images that 8 divides, not {shape[0]}x{shape[1]}"):
        net(torch.zeros(1, 1, *shape))


def test_published_network():
    # 212 million weights, 201 x 2^20, and 161 pixels are those of the published code.
    cfg = yaml.safe_load((REPO / "cfg" / "network" / "unet_256.yaml").read_text())
    assert cfg.pop("_target_") == "cmbml.networks.unet.UNet"
    with torch.device("meta"):
        net = UNet(**{**cfg, "in_channels": 1, "out_channels": 1})
    assert sum(p.numel() for p in net.parameters()) // 2**20 == 201
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}
    assert [m.rate for m in net.modules() if isinstance(m, ChannelDropout)] == [0.2] * 7
    assert all(nn.ReLU in map(type, block) for block in itertools.chain(net.down, net.up))
