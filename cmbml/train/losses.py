"""Losses of one pixel, as functions of the error (prediction minus target)."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.functional import softplus


def logcosh(error: Tensor) -> Tensor:
    r"""Return :math:`\ln\cosh x = |x| + \ln(1 + e^{-2|x|}) - \ln 2`, which no error makes overflow.

    It is x^2 / 2 for small errors and |x| - ln 2 for large ones.
    """
    size = error.abs()
    return size + softplus(-2 * size) - math.log(2)


LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {"logcosh": logcosh, "l1": Tensor.abs, "mse": Tensor.square}
