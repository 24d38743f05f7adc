"""The U-Net++ against closed forms: number of weights, receptive field of every head, mean of the heads."""

import pytest
import torch
from torch import nn

from cmbml.networks.unetpp import UNetPP
from tests.networks.test_unet import expected_field, receptive_field


def test_number_of_weights_by_hand():
    # f = 3, 6, 12; two inputs, one output, blocks of one convolution, biases, two halvings.
    net = UNetPP(in_channels=2, n_filters=3, conv_width=1, network_depth=2, norm="none", deep_supervision=True)
    encoder = 9 * (2 * 3 + 3 * 6 + 6 * 12) + 3 + 6 + 12
    down = 9 * (3 * 3 + 6 * 6) + 3 + 6
    up = 9 * (6 * 3 + 12 * 6 + 6 * 3) + 3 + 6 + 3  # to X01, X11, X02
    nodes = 9 * (6 * 3 + 12 * 6 + 9 * 3) + 3 + 6 + 3  # of 2, 2 and 3 joined parts
    assert sum(p.numel() for p in net.parameters()) == encoder + down + up + nodes + 2 * (3 + 1)


@pytest.mark.parametrize("head", [0, 1, 2])
def test_head_sees_as_far_as_the_level_below_its_column(head):
    net = UNetPP(
        n_filters=1, conv_width=1, growth_factor=1, norm="none", activation="identity", deep_supervision=True
    ).double()
    for p in net.parameters():
        nn.init.uniform_(p, 0.5, 1.0)  # positive, so that no dependence cancels
    for other in set(range(3)) - {head}:
        nn.init.zeros_(net.heads[other].weight)
    assert receptive_field(net, 96) == expected_field(1, head + 1)


def test_output_is_the_mean_of_the_heads_or_the_last():
    torch.manual_seed(0)
    net = UNetPP(n_filters=3, network_depth=3, deep_supervision=True).eval()
    single = UNetPP(n_filters=3, network_depth=3).eval()
    single.load_state_dict(
        {
            key.replace("heads.2", "heads.0"): v
            for key, v in net.state_dict().items()
            if not key.startswith(("heads.0", "heads.1"))
        }
    )
    x = torch.randn(2, 1, 16, 16)
    biases = [head.bias.item() for head in net.heads]
    with torch.no_grad():
        last = single(x)
        for head in net.heads[:2]:
            head.weight.zero_()
        assert torch.allclose(3 * net(x), last + biases[0] + biases[1], rtol=1e-5, atol=1e-6)  # float32


def test_every_node_joins_all_earlier_ones_of_its_level():
    # The last node reads the encoder's output through a skip that passes all others by.
    torch.manual_seed(0)
    net = UNetPP(n_filters=2, conv_width=1, network_depth=2, norm="none", activation="identity").double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("up", "node.0_1", "node.1_1")) or name.endswith("bias"):
                p.zero_()
        x = torch.randn(1, 1, 16, 16, dtype=torch.float64)
        first, last = net.encoder[0][0][0], net.node["0_2"][0][0]
        skip = nn.functional.conv2d(net.encoder[0](x), last.weight[:, :2], padding=1)
        expected = nn.functional.conv2d(skip, net.heads[0].weight)
        assert first.weight.shape == (2, 1, 3, 3)
        assert torch.allclose(net(x), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [1, "yes"])
def test_wrong_supervision_is_named(value):
    with pytest.raises(ValueError, match="^deep_supervision must be true or false"):
        UNetPP(deep_supervision=value)
