"""The U-Net: an encoder and a decoder of convolutions, joined by skip connections at every scale.

Ronneberger et al. 2015, arXiv:1505.04597, with strided convolutions for the way down, transposed ones for the way up,
and zero padding, so that the output has the size of the input.
"""

import itertools
import numbers
from collections.abc import Mapping

import torch
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class ChannelDropout(nn.Module):
    """Dropout of whole feature maps (Tompson et al. 2015, arXiv:1411.4280).

    Neighbouring pixels are too alike to be dropped one by one.

    Rank r of a group of R processes holds the samples r, r + R, r + 2R ... of the batch. Every rank draws the numbers
    of the whole batch from one seed and keeps its own rows, so that the outcome does not depend on the number of ranks.

    Parameters
    ----------
    rate
        Probability of dropping a feature map, 0 <= rate < 1. The kept ones are divided by ``1 - rate``.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Drop feature maps of ``x`` (batch, channels, height, width) in training; the identity otherwise."""
        if not self.training or self.rate == 0:
            return x
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if grouped else (0, 1)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        drawn = torch.rand(len(x) * world, x.shape[1], generator=generator)[rank::world]
        keep = (drawn >= self.rate) / (1 - self.rate)
        return x * keep.to(x)[:, :, None, None]


def _convolution(
    n_in: int, n_out: int, *, stride: int = 1, up: bool = False, batchnorm: bool, activation: str
) -> nn.Sequential:
    """3x3 convolution, batch normalisation (which makes a bias idle) and activation."""
    if up:
        layer = nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1, bias=not batchnorm)
    else:
        layer = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=not batchnorm)
    norm = [nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.1)] if batchnorm else []
    return nn.Sequential(layer, *norm, ACTIVATIONS[activation]())


class UNet(nn.Module):
    r"""U-Net with ``network_depth`` halvings of the resolution and a linear output.

    Level l = 0 .. depth has :math:`f_l = n\_filters \cdot growth\_factor^l` filters and a block of ``conv_width``
    convolutions 3x3 on the way down and (but for the lowest) on the way up. Between the levels stands one 3x3
    convolution of stride 2, and one 3x3 transposed convolution, whose output is concatenated with the block of the same
    level. A 1x1 convolution gives the output. The receptive field is at most
    :math:`1 + 2w 2^d + \sum_{l<d} 4(w + 1) 2^l` pixels wide (w conv_width, d depth), which is 161 for w = d = 3.

    Parameters
    ----------
    in_channels, out_channels
        Number of maps in and out.
    n_filters
        Filters of the first level.
    conv_width
        Convolutions in a block.
    network_depth
        Number of halvings d; height and width of the input must be multiples of 2^d.
    growth_factor
        Ratio of the filters of a level to those of the level above.
    dropout
        Probability of dropping a feature map after each block, in training.
    batchnorm
        Whether each convolution but the last is followed by batch normalisation (momentum 0.1, eps 1e-3).
    activation
        One of ``relu``, ``leaky_relu``, ``silu``, ``gelu``, ``tanh``, ``identity``.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        n_filters: int = 16,
        conv_width: int = 2,
        network_depth: int = 3,
        growth_factor: float = 2,
        dropout: float = 0.0,
        batchnorm: bool = True,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "n_filters": n_filters}
        _check(counts | {"conv_width": conv_width, "network_depth": network_depth}, growth_factor, dropout, activation)
        self.network_depth = network_depth
        filters = [round(n_filters * growth_factor**level) for level in range(network_depth + 1)]
        style = {"batchnorm": batchnorm, "activation": activation}

        def block(n_in: int, n_out: int) -> nn.Sequential:
            layers = [_convolution(n_in if i == 0 else n_out, n_out, **style) for i in range(conv_width)]
            return nn.Sequential(*layers, ChannelDropout(dropout))

        self.encoder = nn.ModuleList(
            block(n_in, n_out) for n_in, n_out in zip([in_channels, *filters], filters, strict=False)
        )
        self.down = nn.ModuleList(_convolution(n, n, stride=2, **style) for n in filters[:-1])
        self.up = nn.ModuleList(_convolution(low, n, up=True, **style) for n, low in itertools.pairwise(filters))
        self.decoder = nn.ModuleList(block(2 * n, n) for n in filters[:-1])
        self.head = nn.Conv2d(filters[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width).

        Raises
        ------
        ValueError
            When height or width is no multiple of ``2**network_depth``.
        """
        unit = 2**self.network_depth
        if x.shape[-2] % unit or x.shape[-1] % unit:
            size = f"{x.shape[-2]}x{x.shape[-1]}"
            raise ValueError(f"network_depth={self.network_depth} needs images that {unit} divides, not {size} pixels.")
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=False):
            x = encode(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[-1](x)
        for up, decode, skip in zip(reversed(self.up), reversed(self.decoder), reversed(skips), strict=True):
            x = decode(torch.cat((skip, up(x)), dim=1))
        return self.head(x)


def _check(counts: Mapping[str, int], growth_factor: float, dropout: float, activation: str) -> None:
    """Refuse what is out of range, by name."""
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not isinstance(growth_factor, numbers.Real) or growth_factor < 1:
        raise ValueError(f"growth_factor must be a number of at least 1, not {growth_factor!r}.")
    if not isinstance(dropout, numbers.Real) or not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a number from 0 to below 1, not {dropout!r}.")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
