"""The U-Net++: a U-Net with nested skip connections (Zhou et al. 2018, arXiv:1807.10165)."""

from typing import Any

import torch
from torch import Tensor, nn

from cmbml.networks.blocks import MultiScale, demand_bool


class UNetPP(MultiScale):
    r"""U-Net++ with ``network_depth`` halvings of the resolution and a linear output.

    :math:`X^{i,0}` is the encoder's output at level i, and :math:`X^{i,j} = H(X^{i,0}, ..., X^{i,j-1}, U(X^{i+1,j-1}))`
    for i + j up to the depth d: a block H of all earlier nodes of the level, and the way up U from the next one.

    Parameters
    ----------
    deep_supervision
        Whether the output is the mean of linear outputs of :math:`X^{0,1} ... X^{0,d}` (the averaged mode, in training
        as in prediction), and not that of :math:`X^{0,d}` alone.
    **keys
        Those of :class:`cmbml.networks.blocks.MultiScale`.

    Examples
    --------
    >>> net = UNetPP(in_channels=3, n_filters=4, network_depth=2, zero_head=True)
    >>> y = net(torch.randn(2, 3, 16, 16))
    >>> y.shape, bool(y.any())
    (torch.Size([2, 1, 16, 16]), False)
    """

    def __init__(self, *, deep_supervision: bool = False, **keys: Any) -> None:
        super().__init__(**keys)
        demand_bool("deep_supervision", deep_supervision)
        make = self.recipe
        filters = self.filters
        depth = self.network_depth
        nodes = [(i, j) for j in range(1, depth + 1) for i in range(depth - j + 1)]
        self.up = nn.ModuleDict({f"{i}_{j}": make.up(filters[i + 1], filters[i]) for i, j in nodes})
        self.node = nn.ModuleDict({f"{i}_{j}": make.block((j + 1) * filters[i], filters[i]) for i, j in nodes})
        self.heads = nn.ModuleList(self.make_head() for _ in range(depth if deep_supervision else 1))

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Compute the nodes column by column; only the first level's are read."""
        rows = [[level] for level in levels]
        for name, block in self.node.items():
            i = int(name.split("_")[0])
            rows[i].append(block(torch.cat((*rows[i], self.up[name](rows[i + 1][-1])), dim=1)))
        read = rows[0][-len(self.heads) :]
        return torch.stack([head(x) for head, x in zip(self.heads, read, strict=True)]).mean(0)
