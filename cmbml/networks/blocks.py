"""What the networks are made of: convolutions with their normalisation and activation, blocks of them, the encoder."""

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
NORMS = ("batch", "group", "none")
Padding = Literal["zeros", "reflect"]
PADDINGS = get_args(Padding)
UPSAMPLINGS = ("transposed", "bilinear")
GROUPS = 8  # of filters that are normalised together, at most


class ChannelDropout(nn.Module):
    """Dropout of whole feature maps (Tompson et al. 2015, arXiv:1411.4280).

    Neighbouring pixels are too alike to be dropped one by one.

    Rank r of a group of R processes holds the samples r, r + R, r + 2R ... of the batch. Every rank draws the numbers
    of the whole batch from one seed and keeps its own rows, so that the outcome does not depend on the number of ranks.

    Parameters
    ----------
    rate
        Probability of dropping a feature map, 0 <= rate < 1. The kept ones are divided by ``1 - rate``.

    Examples
    --------
    It drops whole maps, and in training alone:

    >>> layer, x = ChannelDropout(0.5), torch.ones(4, 8, 2, 2)
    >>> sorted(set(layer(x).sum(dim=(2, 3)).flatten().tolist())), torch.equal(layer.eval()(x), x)
    ([0.0, 8.0], True)
    """

    not_compiled = True  # it draws from a generator of its own; a decorator here would load torch's compiler with torch

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

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


class Residual(nn.Module):
    """Sum of some layers and of their input, whose maps a 1x1 convolution combines when their number changes."""

    def __init__(self, layers: nn.Module, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = layers
        self.carry = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in, height, width) to (batch, n_out, height, width)."""
        return self.layers(x) + self.carry(x)


@dataclass(frozen=True)
class Recipe:
    """How the layers of a network are made; ``MultiScale`` explains the keys.

    Raises
    ------
    ValueError
        When a key is out of its range.
    """

    conv_width: int
    dropout: float
    norm: str
    activation: str
    padding: Padding
    upsample: str
    residual: bool = False

    def __post_init__(self) -> None:
        demand_count("conv_width", self.conv_width)
        demand_number("dropout", self.dropout, "from 0 to below 1", lambda value: 0 <= value < 1)
        for key, known in (
            ("norm", NORMS),
            ("activation", ACTIVATIONS),
            ("padding", PADDINGS),
            ("upsample", UPSAMPLINGS),
        ):
            demand(getattr(self, key) in list(known), key, getattr(self, key), f"one of {', '.join(known)}")

    def convolution(self, n_in: int, n_out: int, *, stride: int = 1) -> nn.Sequential:
        """3x3 convolution, normalisation and activation."""
        return self._finished(self.filter(n_in, n_out, 3, stride=stride, bias=self.norm == "none"))

    def filter(self, n_in: int, n_out: int, width: int, *, stride: int = 1, bias: bool) -> nn.Conv2d:
        """Convolution of odd width, padded to keep the size of the image."""
        return nn.Conv2d(n_in, n_out, width, stride=stride, padding=width // 2, padding_mode=self.padding, bias=bias)

    def block(self, n_in: int, n_out: int) -> nn.Sequential:
        """``conv_width`` convolutions, around which a residual block carries its input, and dropout."""
        layers = nn.Sequential(*(self.convolution(n_out if i else n_in, n_out) for i in range(self.conv_width)))
        return nn.Sequential(
            *([Residual(layers, n_in, n_out)] if self.residual else layers), ChannelDropout(self.dropout)
        )

    def up(self, n_in: int, n_out: int) -> nn.Sequential:
        """Way from a level to the one above, of twice the width.

        Zeros let a transposed convolution be 3x3; without them it is 2x2, whose outputs do not overlap.
        """
        if self.upsample == "bilinear":
            return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), self.convolution(n_in, n_out))
        width, border = (3, 1) if self.padding == "zeros" else (2, 0)
        return self._finished(
            nn.ConvTranspose2d(
                n_in, n_out, width, stride=2, padding=border, output_padding=border, bias=self.norm == "none"
            )
        )

    def _finished(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
        """Let a normalisation (whose offset makes a bias idle) and the activation follow."""
        n = layer.out_channels
        activation = ACTIVATIONS[self.activation]()
        if self.norm == "batch":
            return nn.Sequential(layer, nn.BatchNorm2d(n, eps=1e-3, momentum=0.1), activation)
        if self.norm == "group":
            groups = max(g for g in range(1, GROUPS + 1) if n % g == 0)
            return nn.Sequential(layer, nn.GroupNorm(groups, n), activation)
        return nn.Sequential(layer, activation)


class MultiScale(nn.Module):
    r"""Encoder, linear output and shortcut of the U-Nets, which differ in the way back up from its levels.

    Level l = 0 .. depth has :math:`f_l = n\_filters \cdot growth\_factor^l` filters and a block of ``conv_width``
    convolutions 3x3 on the way down; one more, of stride 2, leads to the next level. 1x1 convolutions give the output.

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
    norm
        What follows each 3x3 convolution: ``batch`` (normalisation; momentum 0.1, eps 1e-3), ``group`` (of the filters
        of one image, in the most groups up to 8 that divide them) or ``none``.
    activation
        One of ``relu``, ``leaky_relu``, ``selu``, ``silu``, ``gelu``, ``tanh``, ``identity``.
    padding
        What convolutions see outside of the image: ``zeros``, or the image mirrored at its border pixels (``reflect``).
    upsample
        ``transposed`` convolution of stride 2 (3x3, or 2x2 without zeros), or ``bilinear`` and a 3x3 convolution.
    shortcut
        Odd width of a linear filter of the input that is added to the output; 0 for none.
    zero_head
        Whether the output starts at zero, so that with a shortcut the untrained network is a linear filter.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    residual = False

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
        norm: str = "batch",
        activation: str = "relu",
        padding: Padding = "zeros",
        upsample: str = "transposed",
        shortcut: int = 0,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "n_filters": n_filters}
        for key, value in (counts | {"network_depth": network_depth}).items():
            demand_count(key, value)
        demand_number("growth_factor", growth_factor, "of at least 1", lambda value: value >= 1)
        odd = isinstance(shortcut, numbers.Integral) and (shortcut == 0 or (shortcut > 0 and shortcut % 2 == 1))
        demand(odd and not isinstance(shortcut, bool), "shortcut", shortcut, "0 or an odd whole number")
        demand_bool("zero_head", zero_head)
        self.recipe = Recipe(conv_width, dropout, norm, activation, padding, upsample, self.residual)
        self.filters = [round(n_filters * growth_factor**level) for level in range(network_depth + 1)]
        self.network_depth = network_depth
        self.out_channels = out_channels
        self.zero_head = zero_head
        pairs = zip([in_channels, *self.filters], self.filters, strict=False)
        self.encoder = nn.ModuleList(self.recipe.block(n_in, n_out) for n_in, n_out in pairs)
        self.down = nn.ModuleList(self.recipe.convolution(n, n, stride=2) for n in self.filters[:-1])
        self.shortcut = self.recipe.filter(in_channels, out_channels, shortcut, bias=False) if shortcut else None

    def make_head(self) -> nn.Conv2d:
        """Make a 1x1 convolution from the first level's filters to the output."""
        layer = nn.Conv2d(self.filters[0], self.out_channels, 1)
        for weights in layer.parameters() if self.zero_head else ():
            nn.init.zeros_(weights)
        return layer

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Map the encoder's output at every level, (batch, f_l, height / 2^l, width / 2^l), to the output."""
        raise NotImplementedError

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
        levels = [self.encoder[0](x)]
        for down, encode in zip(self.down, self.encoder[1:], strict=True):
            levels.append(encode(down(levels[-1])))
        y = self.decode(levels)
        return y if self.shortcut is None else y + self.shortcut(x)


def demand(good: bool, key: str, value: object, wish: str) -> None:
    """Refuse a value that is out of range, by name."""
    if not good:
        raise ValueError(f"{key} must be {wish}, not {value!r}.")


def demand_count(key: str, value: object) -> None:
    """Refuse what is no whole number of at least 1."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1
    demand(good, key, value, "a whole number of at least 1")


def demand_number(key: str, value: object, wish: str, good: Callable[[float], bool]) -> None:
    """Refuse what is no number, or not a good one."""
    demand(isinstance(value, numbers.Real) and good(float(value)), key, value, f"a number {wish}")


def demand_bool(key: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    demand(isinstance(value, bool), key, value, "true or false")
