"""Finished results of several methods: gathered, checked to be of the same skies, and compared sky by sky."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cmbml.analysis.metrics import Metric
from cmbml.analysis.tables import to_rows
from cmbml.core.errors import UserError
from cmbml.core.provenance import changes

# Of fewer skies no interval is claimed: of two, Student's t would make it 13 standard errors to either side.
_FEWEST = 3
# Entry of the caption of a table of differences.
ERROR = {"±": "standard error of the mean over the skies"}


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


def origin(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the commit and the packages with which the file of a sidecar was made."""
    commit = (record["git"]["commit"] or "unknown")[:10] + (" with changes" if record["git"]["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return {"commit": commit, "packages": packages}


def gather(
    methods: Sequence[str],
    items: Sequence[Mapping[str, Any]],
    rows: Iterable[Sequence[Mapping[str, Any]]],
    records: Iterable[Mapping[str, Any]],
) -> dict[str, Result]:
    """Return the results by the name of their method, in the order of ``methods``; each file's item names its method.

    The files of a method hold rows of its own and of "no delensing".
    """
    results = {name: Result(name, [], []) for name in methods}
    for item, rows_of_sky, record in zip(items, rows, records, strict=True):
        result = results[item["method"]]
        result.rows.extend(rows_of_sky)
        result.records.append(record)
    return results


def same_skies(results: Mapping[str, Result], reference: str, names: Sequence[str], again: str) -> None:
    """Refuse results that were not measured on the same skies as those of the reference.

    Parameters
    ----------
    results : mapping
        From ``gather``.
    reference : str
        The method that the others are held against.
    names : sequence of str
        Inputs of the measurement that make a sky what it is.
    again : str
        The command that measures a method again, with ``{method}`` in it.
    """

    def skies(result: Result) -> list[list]:
        return [
            [record["item"], *(list(record["inputs"].get(name, {}).values()) for name in names)]
            for record in result.records
        ]

    other = [name for name, result in results.items() if skies(result) != skies(results[reference])]
    if other:
        one = results[other[0]]
        pairs = zip(skies(one), skies(results[reference]), strict=True)
        sky, name = next((a[0], names[i - 1]) for a, b in pairs for i in range(1, len(a)) if a[i] != b[i])
        raise UserError(
            f"{_these(other)} measured on other skies than {reference} ({name} of {sky['split']} sim {sky['sim']}"
            f" differs); repeat {again.format(method=other[0])} and the same for {reference}."
        )


def same_settings(results: Mapping[str, Result], settings: Mapping[str, Any], version: int, again: str) -> None:
    """Refuse results whose measurement had other settings (or another version) than this comparison."""
    here = {key: value for key, value in settings.items() if key.startswith("analysis.")} | {"version": version}
    different: dict[str, str] = {}
    for name, result in results.items():
        for record in result.records:
            there = {key: record["settings"].get(key) for key in here} | {"version": record["version"]}
            if there != here:
                different.setdefault(name, ", ".join(changes(there, here)))
    if different:
        first = next(iter(different))
        raise UserError(
            f"{_these(list(different))} measured with other settings than this command has ({different[first]});"
            f" repeat {again.format(method=first)}, or give this command the settings of the measurement."
        )


def same_observations(
    records: Mapping[str, Sequence[Mapping[str, Any]]], bands: Mapping[int, Collection[str]], again: str
) -> None:
    """Refuse predictions that were not made from the observations that the dataset has now.

    A method may have seen any of the bands; its records name those that it has read.

    Parameters
    ----------
    records : mapping
        Name of a method -> sidecars of its predictions, one a sky. One that names no observations is not judged.
    bands : mapping
        Number of a sky -> fingerprints of the observations of its bands.
    again : str
        The command that makes and measures a method's predictions again, with ``{method}`` in it.
    """
    for name, predictions in records.items():
        for record in predictions:
            prints = bands.get(record["item"]["sim"])
            if prints and not set(_observations(record)) <= set(prints):
                raise UserError(
                    f"The observations of test sim {record['item']['sim']} have changed since the prediction of {name}"
                    f" was made from them; repeat {again.format(method=name)}."
                )


def _observations(record: Mapping[str, Any]) -> list[str]:
    """Return the fingerprints of the observations that a sidecar says were read."""
    inputs = record["inputs"].items()
    return [
        fingerprint for label, files in inputs if label.partition("[")[0] == "band" for fingerprint in files.values()
    ]


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
    metrics: Sequence[str],
    where: Mapping[str, str],
    notes: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the differences of the methods from the reference on the same skies.

    The sample variance that two methods share on one sky drops out, so that the mean difference is known better than
    the two means. With d_i the difference on sky i of n: mean d and its standard error s = std(d) / sqrt(n) (ddof 1;
    nan for one sky); from three skies on, d -+ t s with t the 97.5 % point of Student's distribution with n - 1 degrees
    of freedom, which for Gaussian d_i covers the true difference in 95 % of all cases (Student 1908, Biometrika 6 1).

    Parameters
    ----------
    rows : mapping
        Name of a method -> its rows, one a sky and form.
    reference : str
    metrics : sequence of str
        Columns that are subtracted.
    where : mapping
        Column -> value of the rows that count: of one form, one field, one area; one row a sky.
    notes : mapping
        Name of a method -> why it is no headline, or "".

    Returns
    -------
    list of dict
        One a method: ``method``, ``n``; for each metric a pair (mean, standard error) and, under ``{metric}_interval``,
        a pair (low, high), nan when there are too few skies; ``note``: why the difference is no headline.
    """

    def values(name: str, metric: str) -> np.ndarray:
        by_sky = sorted((row for row in rows[name] if where.items() <= row.items()), key=lambda row: row["sim"])
        return np.array([row[metric] for row in by_sky], dtype=np.float64)

    lines = []
    for name in rows:
        if name == reference:
            continue
        line: dict[str, Any] = {"method": name, "n": len(values(name, metrics[0]))}
        for metric in metrics:
            d = values(name, metric) - values(reference, metric)
            mean = float(d.mean())
            error = float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else math.nan
            half = float(stdtrit(len(d) - 1, 0.975)) * error if len(d) >= _FEWEST else math.nan
            line[metric] = mean, error
            line[f"{metric}_interval"] = mean - half, mean + half
        lines.append(line | {"note": notes[name] or notes[reference]})
    return lines


def paired_rows(lines: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Return the paired differences as flat rows for a CSV file."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {}
        for name, value in line.items():
            if isinstance(value, tuple) and not name.endswith("_interval"):
                names = (f"{name}_mean", f"{name}_error", f"{name}_low", f"{name}_high")
                row |= dict(zip(names, (*value, *line[f"{name}_interval"]), strict=True))
            elif not isinstance(value, tuple):
                row |= {name: value, "minus": reference} if name == "method" else {name: value}
        rows.append(row)
    return rows


def costs(records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return what the steps of each method took, from the sidecars of what they made.

    Parameters
    ----------
    records : iterable of (name of a method, sidecar)

    Returns
    -------
    list of dict
        One a method and step, in order of appearance: ``method``, ``step``, ``n`` (how often it ran), ``seconds`` a
        pair (mean, standard deviation with ddof 1), ``peak_gb`` the most memory of all runs, 10^9 bytes; nan where it
        is not known.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, record in records:
        groups.setdefault((name, record["stage"]), []).append(record)
    lines = []
    for (name, step), members in groups.items():
        seconds = np.array([record["seconds"] for record in members], dtype=np.float64)
        peaks = [record["peak_gb"] for record in members if record.get("peak_gb") is not None]
        std = float(seconds.std(ddof=1)) if len(seconds) > 1 else math.nan
        line = {"method": name, "step": step, "n": len(members), "seconds": (float(seconds.mean()), std)}
        lines.append(line | {"peak_gb": max(peaks, default=math.nan)})
    return lines


def as_json(
    caption: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    origins: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the whole comparison as JSON has it: no tuples, and null for what is not known."""
    parts = {"methods": to_rows(summary), "differences": pairs, "time_and_memory": to_rows(costs), "origins": origins}
    return {"caption": dict(caption)} | {
        name: [{key: _plain(value) for key, value in row.items()} for row in rows] for name, rows in parts.items()
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _these(names: Sequence[str]) -> str:
    """Return the subject of a sentence, with its verb."""
    return f"Method {names[0]} was" if len(names) == 1 else f"Methods {', '.join(names)} were"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What tables and reports are made of.

    Attributes
    ----------
    caption : mapping
        See ``captions.describe``.
    reference : str
        Method of the paired differences.
    metrics : sequence of Metric
    summary : sequence of mappings
        From ``tables.summarise``.
    paired : sequence of mappings
        From ``paired``, perhaps with more of what tells them apart.
    costs : sequence of mappings
        From ``costs``.
    origins : sequence of mappings
        Rows that say where each method's numbers come from.
    """

    caption: Mapping[str, Any]
    reference: str
    metrics: Sequence[Metric]
    summary: Sequence[Mapping[str, Any]]
    paired: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]]
    origins: Sequence[Mapping[str, str]]

    @property
    def marked(self) -> Sequence[Mapping[str, Any]]:
        """The summary as files have it."""
        return self.summary

    def blocks(self) -> Sequence[tuple[dict[str, str], Sequence[Mapping[str, Any]]]]:
        """Tables of the text files: (entries of the caption, lines), the headline and its differences first."""
        raise NotImplementedError


def without_intervals(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return paired differences with their standard errors alone."""
    return [{name: value for name, value in line.items() if not name.endswith("_interval")} for line in lines]
