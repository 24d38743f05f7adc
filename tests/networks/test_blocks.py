"""What the networks share: linearity, symmetry, padding, shortcut, normalisation, dropout, refusals."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import distributed, nn

from cmbml.networks.blocks import ChannelDropout
from cmbml.networks.resunet import ResUNet
from cmbml.networks.unet import UNet
from cmbml.networks.unetpp import UNetPP

NETWORKS = [UNet, ResUNet, UNetPP]
LINEAR = {"norm": "none", "activation": "identity"}
PADDED = [("zeros", "transposed"), ("zeros", "bilinear"), ("reflect", "transposed"), ("reflect", "bilinear")]


@pytest.fixture(params=NETWORKS, ids=lambda kind: kind.__name__)
def kind(request):
    torch.manual_seed(0)
    return request.param


def test_linear_without_activation(kind):
    net = kind(in_channels=2, n_filters=3, network_depth=2, **LINEAR, padding="reflect", shortcut=3).double()
    x, y, nothing = torch.randn(3, 2, 2, 16, 16, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0]).view(
        3, 1, 1, 1, 1
    )
    offset = net(nothing)
    assert torch.allclose(net(x - 2 * y) - offset, (net(x) - offset) - 2 * (net(y) - offset), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("padding", "upsample"), PADDED)
def test_translation_by_the_stride(kind, padding, upsample):
    net = kind(n_filters=3, conv_width=1, network_depth=2, activation="silu", padding=padding, upsample=upsample)
    net.double()
    with torch.no_grad():
        for _ in range(3):  # running means that are not those of the start
            net(torch.randn(2, 1, 64, 64, dtype=torch.float64))
        net.eval()
        x = torch.randn(1, 1, 96, 96, dtype=torch.float64)
        stride, margin = 4, 28  # half the receptive field (bilinear: 41 pixels), and the shift
        inner = slice(margin, -margin)
        out = net(x)[..., inner, inner]
        shifted = net(x.roll((stride, -stride), (2, 3)))
        same = shifted.roll((-stride, stride), (2, 3))[..., inner, inner]
        assert torch.allclose(same, out, rtol=0, atol=1e-13)  # rounding in float64
        shifted = net(x.roll((1, 0), (2, 3))).roll((-1, 0), (2, 3))[..., inner, inner]
        assert not torch.allclose(shifted, out, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("padding", "upsample"), PADDED)
def test_borders_of_a_constant_image(kind, padding, upsample):
    # Mirrored at its borders a constant image has none: only the two places within a stride are told apart.
    style = {"norm": "none", "activation": "tanh", "padding": padding, "upsample": upsample}
    net = kind(n_filters=3, network_depth=1, shortcut=5, **style).double()
    out = net(torch.ones(1, 1, 32, 32, dtype=torch.float64)).detach()
    without = all(torch.allclose(out, out.roll(2, axis), rtol=0, atol=1e-13) for axis in (2, 3))
    assert without == (padding == "reflect")


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "mirror")])
def test_untrained_network_is_the_linear_filter_of_its_shortcut(kind, padding, mode):
    net = kind(in_channels=2, out_channels=3, n_filters=4, padding=padding, shortcut=9, zero_head=True).double()
    x = torch.randn(1, 2, 16, 24, dtype=torch.float64)
    kernels, got = net.shortcut.weight.detach().numpy(), net(x).detach().numpy()[0]
    for out, row in zip(got, kernels, strict=True):
        expected = sum(ndimage.correlate(m, k, mode=mode) for m, k in zip(x[0].numpy(), row, strict=True))
        assert np.allclose(out, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu", "silu", "gelu", "tanh"])
def test_gradients_reach_every_weight(kind, activation):
    for style in ({}, {"norm": "group", "padding": "reflect", "shortcut": 3}):
        net = kind(in_channels=2, out_channels=2, n_filters=10, activation=activation, **style)
        net(torch.randn(4, 2, 32, 32)).square().sum().backward()
        for name, p in net.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().max() > 1e-6, name


def test_output_is_linear_in_the_last_layer(kind):
    net = kind(n_filters=3, network_depth=1).eval()
    x = torch.randn(2, 1, 8, 8)
    before = net(x)
    head = net.heads[0] if kind is UNetPP else net.head
    with torch.no_grad():
        head.weight *= -3
        head.bias *= -3
    assert torch.allclose(net(x), -3 * before, rtol=1e-5, atol=1e-6)  # float32; no activation comes after


@pytest.mark.parametrize(("filters", "groups"), [(4, 4), (7, 7), (10, 5), (11, 1), (12, 6), (16, 8), (20, 5), (64, 8)])
def test_filters_are_normalised_in_groups_of_one_image(filters, groups):
    net = UNet(n_filters=filters, network_depth=1, norm="group")
    layer = next(m for m in net.modules() if isinstance(m, nn.GroupNorm))
    x = torch.randn(2, filters, 6, 6) * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1) + 3
    grouped = layer(x).detach().view(2, groups, -1)
    assert grouped.mean(2).abs().max() < 1e-5
    assert (grouped.std(2, unbiased=False) - 1).abs().max() < 1e-4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


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
        ("norm", True),
        ("activation", "sigmoidal"),
        ("padding", "circular"),
        ("upsample", "nearest"),
        ("shortcut", 4),
        ("shortcut", -3),
        ("shortcut", 3.0),
        ("shortcut", True),
        ("zero_head", 1),
    ],
)
def test_wrong_key_is_named(kind, key, value):
    with pytest.raises(ValueError, match=f"^{key} must be .*, not {value!r}"):
        kind(**{key: value})


@pytest.mark.parametrize("shape", [(24, 20), (20, 24)])
def test_size_that_the_depth_does_not_divide(kind, shape):
    net = kind(n_filters=2, network_depth=3)
    with pytest.raises(ValueError, match=f"network_depth=3 needs images that 8 divides, not {shape[0]}x{shape[1]}"):
        net(torch.zeros(1, 1, *shape))
