"""The U-Net: an encoder and a decoder of convolutions, joined by skip connections at every scale.

Ronneberger et al. 2015, arXiv:1505.04597, with strided convolutions for the way down, transposed ones for the way up,
and padding, so that the output has the size of the input.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from cmbml.networks.blocks import MultiScale


class UNet(MultiScale):
    r"""U-Net with ``network_depth`` halvings of the resolution and a linear output.

    A level's way up is concatenated with the encoder's output of the same level and passes a block of ``conv_width``
    convolutions. With transposed 3x3 convolutions the receptive field is at most
    :math:`1 + 2w 2^d + \sum_{l<d} 4(w + 1) 2^l` pixels wide (w conv_width, d depth), which is 161 for w = d = 3.

    Parameters
    ----------
    **keys
        Those of :class:`cmbml.networks.blocks.MultiScale`.

    Examples
    --------
    With a shortcut and ``zero_head`` the untrained network is a linear filter:

    >>> net = UNet(in_channels=2, n_filters=4, network_depth=2, norm="group", shortcut=3, zero_head=True)
    >>> x = torch.randn(1, 2, 16, 16)
    >>> net(x).shape, torch.allclose(net(2 * x), 2 * net(x), atol=1e-6)
    (torch.Size([1, 1, 16, 16]), True)
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        make = self.recipe
        filters = self.filters
        self.up = nn.ModuleList(make.up(low, n) for n, low in itertools.pairwise(filters))
        self.decoder = nn.ModuleList(make.block(2 * n, n) for n in filters[:-1])
        self.head = self.make_head()

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Go back up from the lowest level, joining the others on the way."""
        x = levels[-1]
        for up, decode, skip in zip(self.up[::-1], self.decoder[::-1], levels[-2::-1], strict=True):
            x = decode(torch.cat((skip, up(x)), dim=1))
        return self.head(x)
