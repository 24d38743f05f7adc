"""Assets: named files whose paths come from one table."""

import glob
import math
import os
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmbml.core import handlers
from cmbml.core.errors import UserError, demand, demand_value

Item = Mapping[str, Any]


class Source:
    """One asset as an input of a stage; a plain string in `Stage.inputs` means the asset of the stage's own item.

    Attributes
    ----------
    asset : str
        Name in the table of paths.
    name : str
        Keyword under which `Stage.run` gets the value.
    """

    def __init__(self, asset: str, *, name: str | None = None):
        self.asset = asset
        self.name = name or asset

    @property
    def label(self) -> str:
        """How the input is called in records and messages."""
        return self.asset


class Every(Source):
    """All items of an asset as one input of a stage: ``Every("obs", split="train", name="train_obs")``.

    Keywords choose among the items of the stage that makes the asset; fields that the reading stage's own item
    shares with them choose as well. Of an asset that no stage of the pipeline makes, the reading stage lists the items
    itself (`cmbml.core.stage.Stage.found`), and those that are ``optional`` are left out when they are not there.
    """

    def __init__(self, asset: str, *, name: str | None = None, optional: bool = False, **where: Any):
        super().__init__(asset, name=name)
        self.optional = optional
        self.where = where

    @property
    def label(self) -> str:
        """Name of the asset, and which of its items."""
        return f"{self.asset}[{','.join(map(str, self.where.values()))}]" if self.where else self.asset


class Record(Every):
    """The records (`cmbml.core.provenance.Sidecar`) of all items of an asset: ``Record("prediction", optional=True)``.

    The asset is the first output of the stage that made it, beside which its record lies. The keyword is
    ``{asset}_record`` unless ``name`` says another.
    """

    def __init__(self, asset: str, *, name: str | None = None, optional: bool = False, **where: Any):
        super().__init__(asset, name=name or f"{asset}_record", optional=optional, **where)

    @property
    def label(self) -> str:
        """Name of the asset, and which of its items."""
        return f"record of {super().label}"


class Optional:
    """Inputs that a stage reads only under some settings: ``Optional("mask", when=masked)``.

    Parameters
    ----------
    sources : str or Source
        One asset or several.
    when : callable
        From the settings that the stage declares (`Stage.cfg`) to whether they are read; `Stage.run` gets no keyword
        for what is not.
    """

    def __init__(self, *sources: str | Source, when: Callable[[Any], bool]):
        self.sources = sources
        self.when = when


Input = str | Source | Optional


def sources(inputs: Iterable[Input], cfg: Any) -> tuple[Source, ...]:
    """Return what is read under some settings, of declared inputs."""
    result: list[Source] = []
    for declared in inputs:
        if isinstance(declared, Optional):
            result += sources(declared.sources, cfg) if declared.when(cfg) else ()
        else:
            result.append(Source(declared) if isinstance(declared, str) else declared)
    return tuple(result)


@dataclass(frozen=True)
class File:
    """One file of an asset: it can be read, written atomically, removed, and sent to another process."""

    path: Path

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    def read(self) -> Any:
        """Value of the file, by the handler of its suffix."""
        return handlers.read(self.path)

    def write(self, value: Any) -> None:
        """Write the value under a temporary name and rename it."""
        handlers.write(self.path, value)

    def record(self) -> "File":
        """The record of the item whose first output this is: a hidden file beside it."""
        return File(self.path.with_name(f".{self.path.name}.json"))

    def remove(self) -> None:
        """Delete the file; nothing happens when it is not there."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Files(Sequence[Any]):
    """The values of an asset over many items, each read when it is asked for and then forgotten."""

    files: tuple[File, ...]
    items: tuple[Item, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]  # one at a time, without slices
        return self.files[i].read()

    def __iter__(self) -> Iterator[Any]:
        return (f.read() for f in self.files)


class Assets:
    """The table of paths.

    Parameters
    ----------
    templates : mapping of str to str
        Path template of each asset, e.g. ``"{root}/{dataset}/Simulations/{split}/{sim}/obs_map.fits"``.
    constants : mapping
        Values of the fields that are the same for all items: ``root``, ``dataset``, ``method`` ...
    holds : mapping of str to str, optional
        What a file of an asset holds, for the dry run, in units: ``5 alm + 1 map``. One that is not listed holds one of
        the name of its suffix, if there is such a unit.
    units : mapping, optional
        Bytes of each unit.

    Notes
    -----
    A path is a pure function of name, item and constants; a field of the item goes before a constant. ``split`` is
    written with a capital (``Train``) and ``sim`` as ``sim0003``, as users of CMB-ML know them.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        constants: Mapping[str, Any],
        holds: Mapping[str, str] = MappingProxyType({}),
        units: Mapping[str, float] = MappingProxyType({}),
    ):
        self.templates = dict(templates)
        self.constants = dict(constants)
        self.holds = dict(holds)
        self.units = dict(units)
        for name, counts in self.holds.items():
            demand_value(self._counted(counts), f"assets.holds.{name}", counts, self._wish())

    def check(self, name: str, item_fields: Iterable[str], stage: str) -> None:
        """Refuse an asset that is not in the table, or whose template no file can be made of."""
        if name not in self.templates:
            raise UserError(f"Stage {stage!r} names the asset {name!r}, which assets.files does not list; add it.")
        template = self.templates[name]
        key = f"assets.files.{name}"
        fields = _fields(key, template)
        unknown = fields - set(self.constants) - set(item_fields)
        if unknown:
            raise UserError(
                f"assets.files.{name} has the field {{{sorted(unknown)[0]}}}, which is neither one of assets.constants"
                f" ({', '.join(sorted(self.constants))}) nor of the items of {stage!r} ({', '.join(item_fields)})."
            )

    def claim(self, name: str, items: Iterable[Item], taken: dict[str, str]) -> None:
        """Refuse a path that belongs to two items, or to two assets.

        Parameters
        ----------
        name : str
        items : iterable of mapping
            All items of the asset.
        taken : dict
            Path -> asset of the files of other assets, to which those of this one are added.
        """
        for item in items:
            path = os.path.normpath(self.file(name, item).path)
            holder = taken.get(path)
            if holder == name:
                fields = ", ".join(f"{{{field}}}" for field in item)
                raise UserError(
                    f"assets.files.{name}={self.templates[name]} is one path for several items; tell them apart by"
                    f" their fields, {fields}."
                )
            if holder is not None:
                raise UserError(
                    f"assets.files.{holder} and assets.files.{name} have one path, {path}; give each its own."
                )
            taken[path] = name

    def check_suffix(self, name: str) -> None:
        """Refuse an asset that cannot be written."""
        template = self.templates[name]
        known = ", ".join(handlers.suffixes())
        demand(
            handlers.known(Path(template)),
            f"assets.files.{name}={template} has no suffix of a known format; known are {known}.",
        )

    def file(self, name: str, item: Item) -> File:
        """File of an asset for an item."""
        fields = dict(item)
        if "split" in fields:
            fields["split"] = fields["split"].capitalize()
        if "sim" in fields:
            fields["sim"] = f"sim{fields['sim']:04d}"
        template = self.templates[name]
        try:
            return File(Path(template.format(**{**self.constants, **fields})))
        except (ValueError, TypeError) as error:
            raise UserError(f"assets.files.{name}={template} cannot be filled: {error}.") from None

    def pattern(self, name: str) -> str:
        """Glob pattern of the files of an asset below the root, of any item and any other constant."""
        root = glob.escape(str(self.constants.get("root", ".")))
        parts = string.Formatter().parse(self.templates[name])
        return "".join(
            glob.escape(text) + ("" if not field else root if field == "root" else "*") for text, field, _, _ in parts
        )

    def taken(self, counts: str) -> float:
        """Bytes of numbers of units, ``5 alm + 1 map``; none where no units are known."""
        pairs = [part.split() for part in counts.split("+")] if self.units else []
        return sum(float(n) * self.units[unit] for n, unit in pairs)

    def _counted(self, counts: str) -> bool:
        """Whether these are numbers of known units."""
        try:
            return 0 <= self.taken(counts) < math.inf
        except (KeyError, ValueError):
            return False

    def _wish(self) -> str:
        return f"numbers of units, like 5 map + 1 MB; known are {', '.join(self.units)}"

    def size(self, name: str) -> float:
        """Estimate of the bytes of a file of an asset."""
        suffix = Path(self.templates[name]).suffix
        if name not in self.holds and suffix not in self.units:
            return 0.0
        return self.taken(self.holds.get(name, f"1 {suffix}"))

    def shown(self, path: Path) -> str:
        """Path below the root, as records have it; the whole path of what lies elsewhere."""
        root = Path(str(self.constants.get("root", ".")))
        return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _fields(key: str, template: str) -> set[str]:
    """Names of the fields of a path template, which are plain: ``{split}``, and not ``{split.x}`` or ``{0}``."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{key}={template} is no path with fields like {{split}}: {error}.") from None
    for name in names:
        demand(name.isidentifier(), f"{key}={template} has the field {{{name}}}; a field is a name, like {{split}}.")
    return set(names)
