"""The settings of a training, read from plain dictionaries and checked by name."""

import dataclasses
import itertools
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmbml.core.errors import UserError, demand_value
from cmbml.train.losses import LOSSES

SCHEDULES = ("piecewise", "cosine", "exponential", "constant")
STANDARDS = ("rms", "none", "robust")
PRECISIONS = ("fp32", "bf16", "fp16")
KEPT = ("best", "last")


@dataclass(frozen=True)
class Optimizer:
    """Adam; the decay of the weights is decoupled from the gradient (AdamW, arXiv:1711.05101)."""

    lr: float
    betas: Sequence[float]
    weight_decay: float


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate as a function of the step; see ``schedules.learning_rate_factor``."""

    name: str
    boundaries: Sequence[float]
    factors: Sequence[float]
    final: float
    steps: float | None


@dataclass(frozen=True)
class TrainSettings:
    """The group ``train`` of the configuration; its yaml file explains the keys."""

    epochs: int
    batch_size: int
    loss: str
    optimizer: Optimizer
    schedule: Schedule
    scale: float
    seed: int
    precision: str
    compile: bool
    channels_last: bool
    standardise: str
    repeats: int
    keep: str


def read_train(group: Mapping[str, Any]) -> TrainSettings:
    """Read and check the group ``train``.

    Raises
    ------
    UserError
        When a key is unknown, missing or out of range: the key and what it may be.
    """
    optimizer = _fill(Optimizer, group.get("optimizer", {}), "train.optimizer")
    schedule = _fill(Schedule, group.get("schedule", {}), "train.schedule")
    cfg = _fill(TrainSettings, {**group, "optimizer": optimizer, "schedule": schedule}, "train")
    for key, least in (("epochs", 1), ("batch_size", 1), ("repeats", 1), ("seed", 0)):
        value = getattr(cfg, key)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        demand_value(whole and value >= least, f"train.{key}", value, f"a whole number of at least {least}")
    for key, value in (("train.scale", cfg.scale), ("train.optimizer.lr", optimizer.lr)):
        demand_value(_number(value) and value > 0, key, value, "a number above 0")
    for key, value, known in (
        ("train.loss", cfg.loss, LOSSES),
        ("train.precision", cfg.precision, PRECISIONS),
        ("train.standardise", cfg.standardise, STANDARDS),
        ("train.keep", cfg.keep, KEPT),
        ("train.schedule.name", schedule.name, SCHEDULES),
    ):
        demand_value(value in list(known), key, value, f"one of {', '.join(known)}")
    for key in ("compile", "channels_last"):
        demand_value(isinstance(getattr(cfg, key), bool), f"train.{key}", getattr(cfg, key), "true or false")
    betas = optimizer.betas
    decay = optimizer.weight_decay
    good = _numbers(betas) and len(betas) == 2 and all(0 <= b < 1 for b in betas)
    demand_value(good, "train.optimizer.betas", betas, "two numbers from 0 to below 1")
    demand_value(_number(decay) and decay >= 0, "train.optimizer.weight_decay", decay, "a number of at least 0")
    _check_schedule(schedule)
    return cfg


def _check_schedule(schedule: Schedule) -> None:
    """Check the types of all keys, and the values of those that the chosen schedule uses."""
    for key in ("boundaries", "factors"):
        value = getattr(schedule, key)
        demand_value(_numbers(value), f"train.schedule.{key}", value, "a list of numbers")
    if schedule.name == "piecewise":
        edges = schedule.boundaries
        factors = schedule.factors
        rising = all(a < b for a, b in itertools.pairwise(edges))
        alike = all(0 < edge < 1 for edge in edges) or all(edge >= 1 for edge in edges)
        wish = "rising, all fractions of the steps below 1 or all numbers of steps"
        demand_value(rising and alike, "train.schedule.boundaries", edges, wish)
        demand_value(
            len(factors) == len(edges) + 1, "train.schedule.factors", factors, "one more than there are boundaries"
        )
    final = schedule.final
    steps = schedule.steps
    demand_value(_number(final) and 0 <= final <= 1, "train.schedule.final", final, "from 0 to 1")
    if schedule.name == "exponential":
        demand_value(final > 0, "train.schedule.final", final, "above 0 for an exponential")
        whole = steps is None or (_number(steps) and steps >= 1)
        demand_value(whole, "train.schedule.steps", steps, "a number of at least 1, or null for all steps")


def _fill(kind: type, group: Mapping[str, Any], where: str) -> Any:
    """Make the dataclass, naming an unknown or missing key."""
    demand_value(isinstance(group, Mapping), where, group, "a mapping")
    names = [field.name for field in dataclasses.fields(kind)]
    for key in group:
        if key not in names:
            raise UserError(f"{where}.{key} is not a known key; {where} has {', '.join(names)}.")
    for key in names:
        if key not in group:
            raise UserError(f"{where}.{key} is missing.")
    return kind(**group)


def _numbers(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_number, value))


def _number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
