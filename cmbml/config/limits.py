"""Bounds of numbers: they stand beside the keys in `cmbml.config.schema`; here numbers are compared with them."""

import dataclasses
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from cmbml.core.errors import demand_value


@dataclass(frozen=True)
class Limits:
    """The least and the largest value of a number, and whether it must be a whole one or may be null."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False

    def __str__(self) -> str:
        """What a value must be, in words."""
        kind = "whole number" if self.whole else "number"
        return f"{'null or ' if self.optional else ''}a {kind} between {self.low:.10g} and {self.high:.10g}"

    def hold(self, value: object) -> bool:
        """Whether a value is such a number."""
        if value is None:
            return self.optional
        good = isinstance(value, numbers.Integral if self.whole else numbers.Real) and not isinstance(value, bool)
        return good and self.low <= value <= self.high  # type: ignore[operator]


@dataclass(frozen=True)
class Kind:
    """What a value must be that is no number, and how that is called."""

    types: tuple[type, ...]
    wish: str

    def __str__(self) -> str:
        """What a value must be, in words."""
        return self.wish

    def hold(self, value: object) -> bool:
        """Whether a value is of this kind."""
        return isinstance(value, self.types)


TEXT = Kind((str, type(None)), "null or a text")
LIST = Kind((list,), "a list")
MAPPING = Kind((Mapping,), "a mapping")
PLAIN = Kind((str, int, float, type(None)), "a plain value, no list and no mapping")
FLAT = (list[str], list[int], list[float], dict[str, str], dict[str, float])  # OmegaConf lets lists into these
ANY = Limits(-1e15, 1e15)  # of a number whose bounds nobody has said: it is finite


def within(low: float, high: float) -> Any:
    """A field of the schema of which every number, in a list or mapping too, lies between two bounds."""
    return dataclasses.field(default=MISSING, metadata={"limits": Limits(low, high)})


def keyed(limits: Mapping[str, Limits | Kind]) -> Any:
    """A field of the schema that is a mapping with keys of any type; of some it is said what they must be."""
    return dataclasses.field(default=MISSING, metadata={"keys": limits})


def check_numbers(cfg: DictConfig) -> None:
    """Refuse numbers that are not finite or beyond their bounds, and lists where the schema has none.

    What is an interpolation stands for what it refers to, which is checked in its own place.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    around: dict[str, Limits] = {}
    exact: dict[str, Limits | Kind] = {}
    flat: list[str] = []
    for key, field in _fields(OmegaConf.get_type(cfg) or dict):
        if field.type in FLAT:
            flat.append(key)
        if "limits" in field.metadata:
            around[key] = field.metadata["limits"]
        exact |= {f"{key}.{name}": x for name, x in field.metadata.get("keys", {}).items()}
    for key, value in _nodes(OmegaConf.to_container(cfg)):
        if isinstance(value, str) and ("${" in value or value == MISSING):
            continue
        if key.rpartition(".")[0] in flat:
            demand_value(PLAIN.hold(value), key, value, str(PLAIN))
        if key in exact:
            demand_value(exact[key].hold(value), key, value, str(exact[key]))
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            limits = next((around[above] for above in _above(key) if above in around), ANY)
            demand_value(limits.hold(value), key, value, str(limits))


def _fields(kind: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a typed group and their fields."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        yield f"{above}{field.name}", field
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _fields(field.type, f"{above}{field.name}.")


def _nodes(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all that a container holds, at any depth, and their values."""
    if isinstance(value, Mapping | list):
        for name, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            path = f"{key}.{name}" if key else str(name)
            yield path, below
            yield from _nodes(below, path)


def _above(key: str) -> Iterator[str]:
    """The key, and those of the groups that it is in, from the nearest on."""
    while key:
        yield key
        key = key.rpartition(".")[0]
