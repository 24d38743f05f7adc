"""The networks of CMBNNCS: their published numbers of weights, and their layers written out."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from cmbml.config import resolvers
from cmbml.networks.cmbnncs import StridedUNet, UNet5, UNet8
from tests.conftest import REPO


@pytest.mark.parametrize(("name", "weights"), [("unet5", 6_265_419), ("unet8", 100_689_681)])
def test_number_of_weights_is_the_published_one(name, weights):
    kind = {"unet5": UNet5, "unet8": UNet8}[name]
    resolvers.register()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("clean", overrides=[f"network={name}"]).network)
    assert cfg == {
        "_target_": f"cmbml.networks.cmbnncs.{kind.__name__}",
        "in_channels": "${clean.channels}",
        "out_channels": "${clean.outputs}",
        "linear_output": True,
    }
    with torch.device("meta"):
        nets = [kind(in_channels=4, linear_output=linear) for linear in (False, True)]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [weights, weights - 1]  # one slope
    norms = [m for m in nets[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}
    assert len(norms) == 2 * len(kind.channels) - 1  # none after the last


class Small(StridedUNet):
    """Every kernel of the two networks once on its way."""

    channels = (3, 5, 4)
    kernels_down = (5, 4, 4)
    kernels_up = (4, 5, 2)


def by_hand(net: Small, x: torch.Tensor) -> torch.Tensor:
    """The network of three levels, layer by layer, before its last PReLU."""

    def after(block: nn.Sequential, y: torch.Tensor) -> torch.Tensor:
        norm, slope = block[1], block[2].weight
        y = functional.batch_norm(y, None, None, norm.weight, norm.bias, training=True)
        return torch.where(y > 0, y, slope * y)

    def up(block: nn.Sequential, y: torch.Tensor, padding: int, more: int) -> torch.Tensor:
        weight, bias = block[0].weight, block[0].bias
        return functional.conv_transpose2d(y, weight, bias, stride=2, padding=padding, output_padding=more)

    one, two, three = (block[0] for block in net.down)
    a = after(net.down[0], functional.conv2d(x, one.weight, one.bias, stride=2, padding=2))
    b = after(net.down[1], functional.conv2d(a, two.weight, two.bias, stride=2, padding=1))
    c = after(net.down[2], functional.conv2d(b, three.weight, three.bias, stride=2, padding=1))
    d = after(net.up[0], up(net.up[0], c, 1, 0))
    e = after(net.up[1], up(net.up[1], torch.cat([d, b], 1), 2, 1))
    return up(net.up[2], torch.cat([e, a], 1), 0, 0)


@pytest.mark.parametrize("linear", [False, True])
def test_layers_are_those_of_the_paper(linear):
    torch.manual_seed(0)
    net = Small(in_channels=2, out_channels=2, linear_output=linear).double()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.5, 0.7)
    x = torch.randn(3, 2, 16, 24, dtype=torch.float64)
    expected = by_hand(net, x)
    assert expected.shape == x.shape
    assert 0.1 < (expected < 0).double().mean() < 0.9
    if not linear:
        expected = torch.where(expected > 0, expected, net.up[-1][1].weight * expected)
    assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "unit"), [(UNet5, 32), (UNet8, 256)])
def test_sides_that_cannot_be_halved_so_often_are_refused(kind, unit):
    with torch.device("meta"):
        net = kind(in_channels=1).eval()
        assert net(torch.empty(1, 1, 4 * unit, 3 * unit)).shape == (1, 1, 4 * unit, 3 * unit)
        with pytest.raises(
            ValueError, match=f"{kind.__name__} halves .* so that {unit} must divide .* {unit}x{unit // 2}"
        ):
            net(torch.empty(1, 1, unit, unit // 2))


@pytest.mark.parametrize("key", ["in_channels", "out_channels"])
def test_numbers_of_maps_are_checked(key):
    with pytest.raises(ValueError, match=f"{key} must be a whole number of at least 1"):
        UNet5(**{"in_channels": 1, key: 0})
