"""The residual U-Net against the product of matrices that is left when its 3x3 convolutions are silent."""

import pytest
import torch
from torch import nn

from cmbml.networks.resunet import ResUNet
from cmbml.networks.unet import UNet


def test_what_the_blocks_carry_past_silent_convolutions():
    torch.manual_seed(0)
    net = ResUNet(in_channels=2, out_channels=2, n_filters=5, network_depth=2, norm="none", activation="tanh").double()
    with torch.no_grad():
        for m in net.modules():
            if (isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)) or isinstance(m, nn.ConvTranspose2d):
                m.weight.zero_()
                m.bias.zero_()
        x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
        enter, leave = (blocks[0][0].carry.weight[..., 0, 0] for blocks in (net.encoder, net.decoder))
        matrix = net.head.weight[..., 0, 0] @ leave[:, :5] @ enter  # the skip comes first, the way up second
        expected = torch.einsum("oi,bixy->boxy", matrix, x) + net.head.bias[:, None, None]
        assert torch.allclose(net(x), expected, rtol=0, atol=1e-14)


def test_block_of_equal_width_carries_its_input_unchanged():
    torch.manual_seed(0)
    net = ResUNet(in_channels=4, n_filters=4, conv_width=3, network_depth=1).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block = net.encoder[0]
    assert torch.allclose(block(x), x + block[0].layers(x), rtol=0, atol=1e-15)
    assert not torch.equal(block(x), x)


@pytest.mark.parametrize(("f", "d"), [(4, 1), (6, 3)])
def test_number_of_weights(f, d):
    # A 1x1 convolution more wherever a block changes the number of maps: 2 -> f, f -> 2f ..., and 2 n -> n on every
    # level of the way up.
    count = [
        sum(p.numel() for p in kind(in_channels=2, n_filters=f, network_depth=d).parameters())
        for kind in (ResUNet, UNet)
    ]
    levels = [f * 2**level for level in range(d)]
    assert count[0] - count[1] == 2 * f + sum(2 * n * n for n in levels) + sum(2 * n * n for n in levels)
