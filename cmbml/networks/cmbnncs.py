"""The networks of CMBNNCS (Wang et al. 2022, ApJS 260 13): U-Nets of strided convolutions alone.

No layer works at the resolution of the image: each way down halves it and each way up doubles it, and a skip joins what
two of them have in common.
"""

import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmbml.networks.blocks import demand_bool, demand_count


class StridedUNet(nn.Module):
    """Strided convolutions down, transposed ones up, each with batch normalisation (eps 1e-5, momentum 0.1) and PReLU.

    What comes up is concatenated with the encoder's output of the same width. The last way up has no normalisation.

    Parameters
    ----------
    in_channels, out_channels
        Number of maps in and out.
    linear_output
        Whether the last way up ends without the PReLU of the published networks, which scales what is negative.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    channels: ClassVar[tuple[int, ...]]
    kernels_down: ClassVar[tuple[int, ...]]
    kernels_up: ClassVar[tuple[int, ...]]

    def __init__(self, *, in_channels: int, out_channels: int = 1, linear_output: bool = False) -> None:
        super().__init__()
        demand_count("in_channels", in_channels)
        demand_count("out_channels", out_channels)
        demand_bool("linear_output", linear_output)
        pairs = itertools.pairwise((in_channels, *self.channels))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, k, stride=2, padding=(k - 1) // 2), nn.BatchNorm2d(b), nn.PReLU())
            for (a, b), k in zip(pairs, self.kernels_down, strict=True)
        )
        wide = [self.channels[-1], *(2 * n for n in self.channels[-2::-1])]  # with the skip
        ways_up = [
            nn.Sequential(
                nn.ConvTranspose2d(a, b, k, stride=2, padding=(k - 1) // 2, output_padding=k % 2),
                nn.BatchNorm2d(b),
                nn.PReLU(),
            )
            for a, b, k in zip(wide, (*self.channels[-2::-1], out_channels), self.kernels_up, strict=True)
        ]
        ways_up[-1].pop(1)  # the normalisation
        if linear_output:
            ways_up[-1].pop(1)
        self.up = nn.ModuleList(ways_up)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width).

        Raises
        ------
        ValueError
            When height or width is no multiple of 2 to the number of ways down.
        """
        unit = 2 ** len(self.channels)
        if x.shape[-2] % unit or x.shape[-1] % unit:
            raise ValueError(
                f"{type(self).__name__} halves its images {len(self.channels)} times, so that {unit} must divide their "
                f"sides, not {x.shape[-2]}x{x.shape[-1]} pixels; a mosaic wants an nside, squares a patch + 2 halo, "
                f"that is a multiple of {unit}."
            )
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.up[0](x)
        for up, skip in zip(self.up[1:], skips[-2::-1], strict=True):
            x = up(torch.cat((x, skip), dim=1))
        return x


class UNet5(StridedUNet):
    """Five ways down, to 1/32 of the resolution: 6.3 million weights.

    Examples
    --------
    >>> net = UNet5(in_channels=2)
    >>> net(torch.randn(1, 2, 64, 32)).shape
    torch.Size([1, 1, 64, 32])
    >>> f"{sum(weights.numel() for weights in net.parameters()) / 1e6:.1f} million"
    '6.3 million'
    """

    channels = (32, 64, 128, 256, 512)
    kernels_down = (4, 4, 4, 4, 4)
    kernels_up = (4, 4, 4, 4, 2)


class UNet8(StridedUNet):
    """Eight ways down, to 1/256 of the resolution: 100 million weights."""

    channels = (16, 32, 64, 128, 256, 512, 1024, 2048)
    kernels_down = (5, 5, 4, 4, 4, 4, 4, 4)
    kernels_up = (4, 4, 4, 4, 4, 4, 5, 5)
