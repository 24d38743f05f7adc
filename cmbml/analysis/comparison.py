"""Finished results of several methods: gathered, checked to be of the same skies, and compared sky by sky."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmbml.core.errors import UserError
from cmbml.core.provenance import changes

SKIES = ("obs", "unlensed_alm", "lensed_alm")
PAIRED = ("A_res", "rho", "transfer", "sigma_r", "sigma_r_ratio", "RMSE")
# From this number of skies on a bootstrap over them says more than their standard error.
_FEWEST = 6
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Result:
    """What is on disk of one method.

    Attributes
    ----------
    method : str
        Name of the row.
    rows : list of mappings
        Those of ``metrics.csv``, of all skies.
    records : list of mappings
        Sidecars of the measurement, one a sky (`cmbml.core.provenance.Sidecar`).
    """

    method: str
    rows: list[Mapping[str, Any]]
    records: list[Mapping[str, Any]]

    @property
    def target(self) -> str:
        """What the method estimates."""
        return self.records[0]["settings"]["method.target"]


def gather(
    methods: Sequence[str],
    items: Sequence[Mapping[str, Any]],
    rows: Iterable[Sequence[Mapping[str, Any]]],
    records: Iterable[Mapping[str, Any]],
) -> dict[str, Result]:
    """Return the results by the name of their method, in the order of ``methods``; each file's item names its method.

    The files of a method hold rows of its own and of "no delensing".
    """
    found = list(zip(items, rows, records, strict=True))
    return {
        m: Result(
            m, [r for i, own, _ in found if i["method"] == m for r in own], [c for i, _, c in found if i["method"] == m]
        )
        for m in methods
    }


def same_skies(results: Mapping[str, Result], reference: str, again: str) -> None:
    """Refuse results that were not measured on the same skies as those of the reference.

    Parameters
    ----------
    results : mapping
        From ``gather``.
    reference : str
        The method that the others are held against.
    again : str
        The command that measures a method again, with ``{method}`` in it.
    """

    def skies(result: Result) -> list[list]:
        return [[record["item"], *(record["inputs"].get(name) for name in SKIES)] for record in result.records]

    other = [name for name, result in results.items() if skies(result) != skies(results[reference])]
    if other:
        one = results[other[0]]
        pairs = zip(skies(one), skies(results[reference]), strict=True)
        sky, name = next((a[0], SKIES[i - 1]) for a, b in pairs for i in range(1, 4) if a[i] != b[i])
        raise UserError(
            f"{_these(other)} measured on other skies than {reference} ({name} of {sky['split']} sim {sky['sim']}"
            f" differs); repeat {again.format(method=other[0])} and the same for {reference}."
        )


def same_settings(results: Mapping[str, Result], settings: Mapping[str, Any], version: int, again: str) -> None:
    """Refuse results whose measurement had other settings (or another version) than this comparison."""
    mine = {key: value for key, value in settings.items() if key.startswith("analysis.")} | {"version": version}
    different = {}
    for name, result in results.items():
        for record in result.records:
            theirs = {key: record["settings"].get(key) for key in mine} | {"version": record["version"]}
            if theirs != mine:
                different.setdefault(name, ", ".join(changes(theirs, mine)))
    if different:
        first = next(iter(different))
        raise UserError(
            f"{_these(list(different))} measured with other settings than this command has ({different[first]});"
            f" repeat {again.format(method=first)}, or give this command the settings of the measurement."
        )


def rows_of(results: Mapping[str, Result], none: str, *, first: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of "no delensing" and of every method.

    Those of "no delensing" are of the method ``first`` when it estimates lensing, otherwise of another that does: only
    for a filter is the observed map itself the estimate.
    """
    rows = {none: [row for row in results[none_from(results, first)].rows if row["method"] == none]}
    return rows | {name: [row for row in result.rows if row["method"] == name] for name, result in results.items()}


def none_from(results: Mapping[str, Result], first: str) -> str:
    """Return the method among whose results "no delensing" is looked up."""
    return next((m for m in (first, *results) if results[m].target != "unlensed"), first)


def paired(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    reference: str,
    *,
    rng: np.random.Generator,
    notes: Mapping[str, str],
    form: str = "native",
) -> list[dict[str, Any]]:
    """Return the differences of the methods from the reference on the same skies.

    The sample variance that two methods share on one sky drops out, so that the mean difference is known better than
    the two means. With d_i the difference on sky i of n: mean d and its standard error std(d) / sqrt(n) (ddof 1; nan
    for one sky); from six skies on, the central 95 % of the means of 10 000 resamples of the skies.

    Parameters
    ----------
    rows : mapping
        Name of a method -> its rows, one a sky and form.
    reference : str
    rng : numpy.random.Generator
    notes : mapping
        Name of a method -> why its A_res is no headline, or "".
    form : str, optional
        Form of the maps of the pixel metrics.

    Returns
    -------
    list of dict
        One a method: ``method``, ``n``; for each metric a pair (mean, standard error) and, under ``{metric}_interval``,
        a pair (low, high), nan when there are too few skies; ``note``: why the difference of A_res is no headline.
    """

    def values(name: str, metric: str) -> np.ndarray:
        own = sorted((row for row in rows[name] if row["form"] == form), key=lambda row: row["sim"])
        return np.array([row[metric] for row in own], dtype=np.float64)

    lines = []
    for name in rows:
        if name == reference:
            continue
        line: dict[str, Any] = {"method": name, "n": len(values(name, PAIRED[0]))}
        resampled = rng.integers(line["n"], size=(_RESAMPLES, line["n"]))
        for metric in PAIRED:
            d = values(name, metric) - values(reference, metric)
            line[metric] = float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else math.nan
            low, high = np.percentile(d[resampled].mean(axis=1), [2.5, 97.5]) if len(d) >= _FEWEST else [math.nan] * 2
            line[f"{metric}_interval"] = float(low), float(high)
        lines.append(line | {"note": notes[name] or notes[reference]})
    return lines


def paired_rows(lines: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Return the paired differences as flat rows for a CSV file."""
    rows = []
    for line in lines:
        row = {"method": line["method"], "minus": reference, "n": line["n"]}
        for metric in PAIRED:
            names = (f"{metric}_mean", f"{metric}_error", f"{metric}_low", f"{metric}_high")
            row |= dict(zip(names, (*line[metric], *line[f"{metric}_interval"]), strict=True))
        rows.append(row | {"note": line["note"]})
    return rows


def _these(names: Sequence[str]) -> str:
    """Return the subject of a sentence, with its verb."""
    return f"Method {names[0]} was" if len(names) == 1 else f"Methods {', '.join(names)} were"
