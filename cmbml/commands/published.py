"""Published results: files of their own, each number of which stands in a table that is kept beside them."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbml.commands.packed import sha256
from cmbml.core import handlers
from cmbml.core.errors import UserError

VERSIONS = "datasets.yaml"  # the fingerprint of each dataset that counts
ENTRY: dict[str, type] = {
    "method": str,
    "field": str,
    "dataset": dict,
    "beam_arcmin": float,
    "table": dict,
    "metrics": dict,
    "baselines": dict,
    "hardware": str,
    "commit": str,
}
PARTS = {"dataset": {"name", "fingerprint"}, "table": {"file", "sha256", "row"}}
AS_WRITTEN = 1e-6  # of a number: what rounding while it is copied may change
WIDEST = 180 * 60.0  # beam, arcmin
COMMIT = r"[0-9a-f]{7,40}"
FORM = "common"  # of the rows that may be published: all maps at one beam
ALWAYS = "transfer"  # what no result may leave out

Numbers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Published:
    """A result whose numbers were found in its table.

    ``metrics`` and each of the ``baselines`` have ``mean`` and ``std`` by the name of a metric; ``notes`` say why a row
    is no headline, by the name of its method.
    """

    place: Path
    method: str
    field: str
    dataset: str
    fingerprint: str
    beam_arcmin: float
    table: str
    metrics: Numbers
    baselines: Mapping[str, Numbers]
    notes: Mapping[str, str]
    skies: int
    hardware: str
    commit: str


def read(folder: Path) -> list[Published]:
    """All results of a folder.

    Raises
    ------
    UserError
        When one of them lacks something, or has a number that its table has not.
    """
    places = sorted(place for place in folder.glob("*.yaml") if place.name != VERSIONS)
    return [_entry(place) for place in places]


def versions(folder: Path) -> dict[str, str]:
    """Name of each dataset and the fingerprint that counts; empty when nobody has said."""
    path = folder / VERSIONS
    return dict(handlers.read(path) or {}) if path.is_file() else {}


def _entry(place: Path) -> Published:
    held = handlers.read(place)
    if not isinstance(held, dict):
        raise UserError(f"{place} is no mapping of {', '.join(ENTRY)}.")
    for key, kind in ENTRY.items():
        value: Any = held.get(key)
        if not value or not isinstance(value, int if kind is float and isinstance(value, int) else kind):
            raise UserError(f"{place} lacks {key}, or it is of another kind than {kind.__name__}.")
        if key in PARTS and set(held[key]) != PARTS[key]:
            raise UserError(f"{place}: {key} needs {', '.join(sorted(PARTS[key]))}, and nothing else.")
    if held.keys() - ENTRY.keys():
        raise UserError(f"{place} has {', '.join(map(str, held.keys() - ENTRY.keys()))}, which nobody reads.")
    if not 0 < held["beam_arcmin"] <= WIDEST:
        raise UserError(f"{place}: beam_arcmin is no beam; it lies above 0 and up to {WIDEST:g}.")
    if not re.fullmatch(COMMIT, held["commit"]):
        raise UserError(f"{place}: commit={held['commit']} is none; it has 7 to 40 hexadecimal digits, in quotes.")
    if not re.fullmatch(r"[0-9a-f]{32}", str(held["dataset"]["fingerprint"])):
        raise UserError(f"{place}: dataset.fingerprint is none; `cmbml pack NAME --dry-run` tells it.")
    if ALWAYS not in held["metrics"]:
        raise UserError(f"{place} says nothing of {ALWAYS}: what is kept of the signal stands beside what is removed.")
    rows = _table(place, held["table"])
    where = held["table"]["row"]
    own = _row(place, rows, {**where, "method": held["method"]})
    _trace(place, held["metrics"], own)
    notes = {held["method"]: str(own.get("note") or "")}
    for name, numbers in held["baselines"].items():
        row = _row(place, rows, {**where, "method": name})
        _trace(place, numbers, row)
        notes[name] = str(row.get("note") or "")
    return Published(
        place=place,
        method=held["method"],
        field=held["field"],
        dataset=held["dataset"]["name"],
        fingerprint=held["dataset"]["fingerprint"],
        beam_arcmin=float(held["beam_arcmin"]),
        table=held["table"]["file"],
        metrics=held["metrics"],
        baselines=held["baselines"],
        notes=notes,
        skies=int(own.get("n", 0)),
        hardware=held["hardware"],
        commit=held["commit"],
    )


def _table(place: Path, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of an entry, which lies below its folder and has the hash that the entry says."""
    name = str(table["file"])
    path = place.parent / name
    if not path.resolve().is_relative_to(place.parent.resolve()) or not re.fullmatch(r"[\w./+-]+\.csv", name):
        raise UserError(f"{place}: table.file={name} is no .csv file below {place.parent}.")
    if not path.is_file():
        raise UserError(f"{place}: its table {path} is missing; no number is published without one.")
    if sha256(path) != table["sha256"]:
        raise UserError(f"{place}: its table {path} has another sha256, {sha256(path)}; it is not that of the result.")
    return list(handlers.read(path))


def _row(place: Path, rows: list[dict[str, Any]], where: Mapping[str, Any]) -> dict[str, Any]:
    """The one row of a table that an entry means."""
    found = [row for row in rows if where.items() <= row.items()]
    words = ", ".join(f"{key} {value}" for key, value in where.items())
    if len(found) != 1:
        raise UserError(f"{place}: its table has {len(found)} rows of {words}; table.row must leave one.")
    if found[0].get("form", FORM) != FORM:
        raise UserError(
            f"{place}: the row of {words} is not of the form {FORM}; methods are compared at one beam alone."
        )
    return found[0]


def _trace(place: Path, numbers: Any, row: Mapping[str, Any]) -> None:
    """Refuse numbers that are not those of a row."""
    for metric, pair in numbers.items() if isinstance(numbers, dict) else [(numbers, None)]:
        if not isinstance(pair, dict) or pair.keys() != {"mean", "std"}:
            raise UserError(f"{place}: {metric} of {row['method']} needs mean and std.")
        for part, value in pair.items():
            there = row.get(f"{metric}_{part}")
            if not _same(value, there):
                raise UserError(
                    f"{place}: {metric}.{part} of {row['method']} is {value}, in its table {there}; a number that"
                    " cannot be traced is not published."
                )


def _same(value: Any, there: Any) -> bool:
    if not isinstance(value, int | float) or not isinstance(there, int | float):
        return False
    if any(abs(x) > sys.float_info.max for x in (value, there) if isinstance(x, int)):
        return False
    return math.isclose(value, there, rel_tol=AS_WRITTEN) or (math.isnan(value) and math.isnan(there))
