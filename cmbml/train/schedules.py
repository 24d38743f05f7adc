"""Learning rates as functions of the step."""

import math
from bisect import bisect_left
from collections.abc import Callable

from cmbml.train.settings import Schedule


def learning_rate_factor(schedule: Schedule, total: int) -> Callable[[int], float]:
    r"""Return the function f(step) that multiplies the learning rate; steps count from 0 to ``total - 1``.

    ``piecewise``: ``factors[k]`` up to and with step ``boundaries[k]``, as Keras' PiecewiseConstantDecay; boundaries
    below 1 are fractions of ``total``. ``cosine``: :math:`f + (1 - f) (1 + \cos(\pi\, step / total)) / 2` with
    f ``final`` (arXiv:1608.03983). ``exponential``: :math:`f^{\min(step / steps, 1)}` with ``steps`` of the schedule or
    else ``total`` (Wang et al. 2022, ApJS 260 13). ``constant``: 1.
    """
    if schedule.name == "piecewise":
        edges = [edge if edge >= 1 else edge * total for edge in schedule.boundaries]
        return lambda step: schedule.factors[bisect_left(edges, step)]
    if schedule.name == "cosine":
        final = schedule.final
        return lambda step: final + (1 - final) * (1 + math.cos(math.pi * min(step / total, 1))) / 2
    if schedule.name == "exponential":
        return lambda step: schedule.final ** min(step / (schedule.steps or total), 1)
    return lambda step: 1.0
