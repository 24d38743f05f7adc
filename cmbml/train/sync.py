"""Sums over the processes of a training, and the batch normalisation of a batch that is spread over them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def total(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all ranks, on each of them; the value itself in a single process."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


class _Total(torch.autograd.Function):
    """The sum over ranks; its derivative is the sum of the ranks' derivatives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the moments of the whole batch; runs on CPUs too, unlike torch's own.

    As the networks make it: with an exponential momentum, and with running moments.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (batch, channels, height, width); a rank's share of the batch may be empty."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        dims = (0, 2, 3)
        count = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float32, device=x.device)
        summed = _Total.apply(torch.cat((values.sum(dims), count)))
        n = summed[-1]
        mean = summed[:-1] / summed[-1]
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum(dims)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Make the batch normalisations of ``model`` see the whole batch: torch's own on GPUs, the above on CPUs."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
    return model
