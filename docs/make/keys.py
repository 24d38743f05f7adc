"""The catalogue of configuration keys: read from the yaml files of `cfg/`, their comments, and the schema.

A key is described where it stands: the words behind it, on its line and on comment lines below, are its meaning; the
schema gives its type and bounds. `settings.py` makes the pages of the reference from it, and `tests/test_docs.py` sees
to it that no key is missing or without a meaning.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from cmbml.config import jobs, schema
from cmbml.config.limits import Limits
from cmbml.config.options import jobs_of, name_of

CFG = Path(__file__).parents[2] / "cfg"
GLOBAL = "# @package _global_"
# Groups whose options have keys of their own, which no schema types one by one.
ROOTS = (jobs.CompareConfig, jobs.CompareCleanConfig, jobs.SimsConfig)
OPEN = {"method": schema.METHOD, "network": schema.NETWORK, "train": schema.TRAIN}
# Mappings that are one setting, whatever keys are in them.
WHOLE = ("vary", "files", "correlation", "grid", "listing", "names", "holds")
# Mappings that are empty where nothing of them is used.
UNUSED = (
    *("cosmology.gaussian", "cosmology.chain", "foregrounds.residual", "sims.external"),
    *("system.cluster", "system.cluster.job"),
)
HYDRA = ("hydra", "defaults")
# Types of the keys that are null in every file, and of those that the schema leaves open.
KINDS = {
    "foregrounds.seed": "whole number, or one for each split",
    "foregrounds.residual.cmb": "text (file)",
    "foregrounds.residual.cmb_unit": "text or null",
    "foregrounds.residual.coordinates": "text or null",
    "foregrounds.residual.fwhm_arcmin": "number or null",
    "foregrounds.residual.holes.column": "text or null",
    "foregrounds.residual.holes.coordinates": "text or null",
    "foregrounds.residual.holes.file": "text (file) or null",
    "foregrounds.residual.obs": "text (pattern of files)",
    "foregrounds.residual.unit": "text or null",
    "instrument.bands": "all, or list of names",
    "instrument.fwhm_arcmin": "mapping of bands to numbers, number or null",
    "instrument.noise_p_uk_arcmin": "mapping of bands to numbers, number or null",
    "instrument.noise_t_uk_arcmin": "mapping of bands to numbers, number or null",
    "method.BinSize": "whole number or null",
    "method.N_deproj": "whole number or null",
    "method.checkout": "text (folder)",
    "method.coordinates": "text or null",
    "method.fwhm_arcmin": "number",
    "method.param_dict_file": "text (file) or null",
    "method.predictions": "text (pattern of files)",
    "method.python": "text (file) or null",
    "method.trained": "text (file, or name) or null",
    "method.unit": "text or null",
    "sims.combine.reference": "name of a band, or null",
    "sims.external.coordinates": "text or null",
    "sims.external.fwhm_arcmin": "mapping of bands to numbers, or null",
    "sims.external.obs": "text (pattern of files)",
    **dict.fromkeys(
        (f"sims.external.{key}" for key in ("truth", "truth_kappa", "truth_lensed", "truth_unlensed")),
        "text (pattern of files) or null",
    ),
    "sims.external.truth_unit": "text or null",
    "sims.external.unit": "text or null",
    "system.cluster.address": "text or null",
    "system.cluster.job.account": "text or null",
    "system.cluster.job.interface": "text or null",
    "system.cluster.job.queue": "text or null",
    "system.cluster.job.cores": "whole number",
    "system.cluster.job.shared_temp_directory": "text (folder)",
    "system.devices": "auto, or whole number",
}
UNITS = (
    (r"uk_arcmin$", "µK arcmin"),
    (r"(arcmin|at_beam)$", "arcmin"),
    (r"(_deg|rotation\.pairs|rotation\.predict|zoom)$", "degrees"),
    (r"timeout_s$", "s"),
    (r"(lmax|lmin_b|ELLMAX|ellmin|ellpeaks|BinSize|delta_l|band|bands|margin)$", "multipoles"),
    (r"patches\.(patch|halo)$", "pixels"),
)
NO_UNIT = ("instrument.bands",)


@dataclass(frozen=True)
class Key:
    """One key as one file has it."""

    name: str
    value: str  # as it stands in the file
    comment: str
    file: Path


@dataclass(frozen=True)
class Entry:
    """One key of the reference."""

    name: str
    default: str
    kind: str
    bounds: str
    unit: str
    meaning: str


@functools.cache
def keys_of(path: Path, group: str = "") -> tuple[Key, ...]:
    """Keys of a yaml file with their values and comments; those of an option stand below the name of its group."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return ()
    prefix = "" if not group or GLOBAL in lines[:1] else group
    found = list(_walk(root, prefix))
    return tuple(Key(name, _text(text, value), _comment(lines, key), path) for name, key, value in found)


def _walk(node: yaml.MappingNode, above: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Dotted names of the keys of a mapping, the nodes of the keys and those of their values."""
    for key, value in node.value:
        name = f"{above}.{key.value}" if above else str(key.value)
        mapping = isinstance(value, yaml.MappingNode)
        if key.value in HYDRA or (name in UNUSED and not value.value):
            continue
        # A group, in a root or in a file for all of them; what stands in a block; what is one of the mappings above.
        if mapping and (not above or name in UNUSED or not (value.flow_style or key.value in WHOLE)):
            yield from _walk(value, name)
        else:
            yield name, key, value


def _text(text: str, node: yaml.Node) -> str:
    """A value as it stands in its file; mappings and lists of several lines on one."""
    written = text[node.start_mark.index : node.end_mark.index].strip()
    if "\n" not in written:
        return written
    return yaml.safe_dump(
        yaml.safe_load(yaml.serialize(node)), default_flow_style=True, width=10000, sort_keys=False
    ).strip()


def _comment(lines: list[str], key: yaml.Node) -> str:
    """Words behind a key, and those on the comment lines below that stand further right than the key."""
    number = key.start_mark.line
    words = re.search(r"\s#\s?(.*)$", lines[number])
    if words is None:
        return ""
    parts = [words[1]]
    for line in lines[number + 1 :]:
        more = re.fullmatch(r"(\s*)#\s?(.*)", line)
        if more is None or len(more[1]) <= key.start_mark.column + 2:
            break
        parts.append(more[2])
    return " ".join(part.strip() for part in parts)


def comments_of(path: Path) -> str:
    """First comments of an option's file, without the lines that are read by programs."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not re.match(r"# (@package|jobs:|name:)", line):
            words.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(words)


def options(group: str) -> list[Path]:
    """Files of the options of a group."""
    return sorted((CFG / group).glob("[!_]*.yaml"), key=lambda path: (name_of(path), path.stem))


def groups() -> list[str]:
    """Names of all groups."""
    return sorted(path.name for path in CFG.iterdir() if path.is_dir())


def bases(group: str, path: Path) -> list[Path]:
    """The files that an option takes its keys from: itself, then those that its defaults name, the nearest first."""
    head = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
    found = [path]
    for name in reversed([entry.partition("@")[0] for entry in head if isinstance(entry, str)]):
        below = CFG / group / f"{name}.yaml"
        if name != "_self_" and below.is_file():
            found += bases(group, below)
    return found


@functools.cache
def entries(group: str, path: Path) -> tuple[Entry, ...]:
    """Keys of an option, those that it inherits included, in the order of the files that describe them."""
    known: dict[str, list[Key]] = {}
    for file in reversed(bases(group, path)):
        for key in keys_of(file, group):
            known.setdefault(key.name, []).append(key)
    return tuple(entry_of(found) for found in known.values() if _belongs(group, path, found[0].name))


def _belongs(group: str, path: Path, name: str) -> bool:
    """Whether a key is one of the group's own, and not set by an option for all groups."""
    return name.startswith((f"{group}.", "compare.")) or GLOBAL not in path.read_text(encoding="utf-8")[: len(GLOBAL)]


def root_entries(job: str) -> list[Entry]:
    """Keys of a root file: those of the root itself, and of the groups that have no options."""
    return [entry_of([key]) for key in keys_of(CFG / f"{job}.yaml")]


def entry_of(found: list[Key]) -> Entry:
    """The entry of a key from the files that have it, the one whose value counts last."""
    last = found[-1]
    meaning = next((key.comment for key in reversed(found) if key.comment), "")
    of_root = re.fullmatch(r"\$\{(\w+)\}", last.value)
    if not meaning and of_root:
        meaning = f"follows the key {of_root[1]} of the root"
    kind, bounds = kind_of(last)
    unit = ""
    if last.name not in NO_UNIT:
        unit = next((unit for pattern, unit in UNITS if re.search(pattern, last.name)), "")
    return Entry(last.name, last.value, kind, bounds, unit, meaning)


def kind_of(key: Key) -> tuple[str, str]:
    """Type and bounds of a key in words: as the schema has them, else as its value and those of other options tell."""
    field = next(filter(None, (_field(root, key.name.split(".")) for root in ROOTS)), None)
    limits = field.metadata.get("limits") if field else _exact(key.name)
    bounds = f"{_short(limits.low)} to {_short(limits.high)}" if isinstance(limits, Limits) else ""
    if key.name in KINDS:
        return KINDS[key.name], bounds
    if field:
        return _kind(field.type), bounds
    if isinstance(limits, Limits):
        return " or ".join(["whole number" if limits.whole else "number"] + ["null"] * limits.optional), bounds
    return _told(key), bounds


def _short(number: float) -> str:
    """A number as people write it: 1e9 for 1000000000."""
    round_one = f"{number:.0e}"
    if float(round_one) == number and not 1e-3 <= abs(number) < 1e6 and number:
        return re.sub(r"e\+?(-?)0*", r"e\1", round_one)
    return f"{number:.10g}"


def _field(kind: Any, names: list[str]) -> dataclasses.Field | None:
    """Field of a typed group, None below a mapping of keys of any type."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if names[:1] == [field.name]:
            return field if len(names) == 1 and "keys" not in field.metadata else _field(field.type, names[1:])
    return None


def _exact(name: str) -> Any:
    """What the schema says of a key of a group that has keys of any type: bounds, another demand, or nothing."""
    group, _, rest = name.partition(".")
    if group in OPEN:
        return OPEN[group].get(rest)
    above, _, last = name.rpartition(".")
    field = next(filter(None, (_mapping(root, above.split(".")) for root in ROOTS)), None)
    return field.metadata["keys"].get(last) if field else None


def _mapping(kind: Any, names: list[str]) -> dataclasses.Field | None:
    """Field of a typed group that is a mapping of keys of any type."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if names[:1] == [field.name]:
            return field if len(names) == 1 and "keys" in field.metadata else _mapping(field.type, names[1:])
    return None


def _kind(kind: Any) -> str:
    """A type of Python in words."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any", type(None): "null"}
    if kind in names:
        return names[kind]
    if getattr(kind, "__origin__", None) is list:
        inner = get_args(kind)[0]
        of = "lists of " + _kind(get_args(inner)[0]) if getattr(inner, "__origin__", None) is list else _kind(inner)
        return "list" if inner is Any else f"list of {of}s"
    if getattr(kind, "__origin__", None) is dict:
        inner = get_args(kind)[1]
        return "mapping" if inner is Any else f"mapping to {_kind(inner)}s"
    return " or ".join(_kind(one) for one in get_args(kind))


def _told(key: Key) -> str:
    """Type of a key of no schema: of its values in all options of its group."""
    group = key.name.partition(".")[0]
    values = [key.value]
    for path in options(group) if (CFG / group).is_dir() else ():
        values += [other.value for other in keys_of(path, group) if other.name == key.name]
    kinds = dict.fromkeys(_kind_of_value(value) for value in values)
    kinds.pop("made", None)
    return " or ".join(sorted(kinds, key=lambda kind: kind == "null")) or "made from others"


def _kind_of_value(text: str) -> str:
    """Type of a value of yaml."""
    if text.startswith(("${", '"${')):
        return "made"
    value = yaml.safe_load(text)
    for kind, name in (
        (bool, "true or false"),
        (int, "whole number"),
        (float, "number"),
        (str, "text"),
        (list, "list"),
    ):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "mapping"


@functools.cache
def catalogue() -> dict[str, Entry]:
    """Every key of every job and option once, by its dotted name; the first file that describes it says what it is."""
    found: dict[str, Entry] = {}
    files = [(group, path) for group in groups() for path in options(group) if group not in ("experiment", "assets")]
    all_entries = [entry for job in ("delens", "clean", "sims", "compare") for entry in root_entries(job)]
    all_entries += [entry for group, path in files for entry in entries(group, path)]
    for entry in all_entries:
        if entry.name not in found or not found[entry.name].meaning:
            found[entry.name] = entry
    return found


def belongs_to(path: Path) -> str:
    """Jobs of an option, as words."""
    order = ("sims", "delens", "clean", "compare")
    return ", ".join(job for job in order if job in jobs_of(path))
