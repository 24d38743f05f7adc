"""`cmbml results`: render the published results of `results/` into a page; with --add, publish one more.

An entry whose numbers do not stand in its table is refused. A result of another version of a dataset is shown as such.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cmbml.analysis.tables import format_value
from cmbml.commands.data import Made, census
from cmbml.commands.pack import fingerprint, of_dataset
from cmbml.commands.packed import sha256
from cmbml.commands.published import COMMIT, FORM, VERSIONS, Numbers, Published, read, versions
from cmbml.core import handlers
from cmbml.core.errors import UserError

BEGIN = "<!-- results: begin; made by `cmbml results` -->"
END = "<!-- results: end -->"
MADE_BY = ("commit", "made by commit")  # in table.json, of delensing and of cleaning
JUDGED = "A_res"  # what a note strikes out
CHOSEN = ("A_res", "transfer", "rho", "sigma_r", "RMSE", "NRMSE", "PSNR")  # what --add takes, where a table has it


def main(argv: Sequence[str]) -> int:
    """Render, check or add; the exit code is 1 when a page is not up to date (--check)."""
    parser = argparse.ArgumentParser(
        prog="cmbml results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path("results"), help="of the entries (default %(default)s)")
    add("--page", type=Path, default=Path("docs/results.md"), help="page with the markers (default %(default)s)")
    add("--check", action="store_true", help="write nothing; exit code 1 when the page is another")
    add("--add", type=Path, metavar="COMPARISON", help="folder with the table.csv and table.json of a comparison")
    add("--method", help="of --add: which row to publish")
    add("--baselines", nargs="+", default=[], metavar="METHOD", help="of --add: rows to compare with")
    add("--hardware", default="", help="of --add: on what it ran")
    add("--row", nargs="+", default=[], metavar="COLUMN=VALUE", help="of --add: where a method has several rows")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        raise UserError(f"--folder {options.folder} is no folder; there are no published results.")
    if options.add:
        if wrong := [word for word in options.row if "=" not in word]:
            raise UserError(f"--row {wrong[0]} is no COLUMN=VALUE.")
        where = dict(word.split("=", 1) for word in options.row)
        publish(options.add, options.folder, options.method, options.baselines, options.hardware, where)
    text = handlers.read(options.page)
    anew = filled(text, rendered(read(options.folder), versions(options.folder)), options.page)
    if options.check:
        sys.stdout.write(f"{options.page} is {'up to date' if anew == text else 'not what cmbml results writes'}\n")
        return int(anew != text)
    handlers.write(options.page, anew)
    sys.stdout.write(f"{options.page} written\n")
    return 0


def filled(text: str, block: str, page: Path) -> str:
    """A page with the block between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} lacks the lines {BEGIN} and {END}, between which results are written.")
    return f"{before}{BEGIN}\n\n{block}\n{END}{after}"


def rendered(results: Sequence[Published], current: dict[str, str]) -> str:
    """All results as Markdown, a table for each dataset, field, and version of the dataset.

    Raises
    ------
    UserError
        When nobody has said which version of a dataset counts.
    """
    groups: dict[tuple[str, str, bool, str, float], list[Published]] = {}
    for one in results:
        if one.dataset not in current:
            raise UserError(f"{one.place}: {VERSIONS} has no fingerprint of its dataset {one.dataset}.")
        old = one.fingerprint != current[one.dataset]
        groups.setdefault((one.dataset, one.field, old, one.fingerprint, one.beam_arcmin), []).append(one)
    parts = [_group(groups[key], old=key[2]) for key in sorted(groups)]
    return "\n".join(parts) if parts else "None is published yet.\n"


def _group(results: Sequence[Published], *, old: bool) -> str:
    """Table of the results of one version of a dataset, the baselines first."""
    first = results[0]
    names = list(dict.fromkeys(name for one in results for name in one.metrics))
    warning = "**another version of the dataset: not to be compared with other tables** · " if old else ""
    caption = (
        f"{warning}dataset {_plain(first.dataset)} · fingerprint `{first.fingerprint}` · field {_plain(first.field)} ·"
        f" maps at {first.beam_arcmin:.4g} arcmin · ± standard deviation over the skies"
    )
    header = ["published method", *map(_plain, names), "skies", "commit", "hardware", "table"]
    lines = [header, ["---"] * len(header), *_baselines(results, names)]
    for one in results:
        cells = _cells(one.method, one.metrics, one.notes[one.method], names)
        lines.append([*cells, str(one.skies), f"`{one.commit[:10]}`", _plain(one.hardware), f"`results/{one.table}`"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = {name: note for one in results for name, note in one.notes.items() if note}
    foot = "".join(
        f"\n{_plain(name)}: {JUDGED} is no headline, {_plain(note).rstrip('.')}.\n" for name, note in notes.items()
    )
    return f"{caption}\n\n{table}\n{foot}"


def _baselines(results: Sequence[Published], names: Sequence[str]) -> Iterator[list[str]]:
    """Rows of the baselines: one for all results that have the same numbers."""
    seen = []
    published = {one.method for one in results}
    for one in results:
        for name, numbers in one.baselines.items():
            if name not in published and (name, numbers) not in seen:
                seen.append((name, numbers))
                yield [*_cells(name, numbers, one.notes[name], names), str(one.skies), "", "", f"`results/{one.table}`"]


def _cells(method: str, numbers: Numbers, note: str, names: Iterable[str]) -> list[str]:
    cells = [_plain(method)]
    for name in names:
        text = format_value(numbers[name]["mean"], numbers[name]["std"]) if name in numbers else "-"
        cells.append(f"~~{text}~~" if note and name == JUDGED else text)
    return cells


def _plain(text: str) -> str:
    """A text that is not Markdown and not HTML."""
    for letter, written in {"&": "&amp;", "`": "'", "<": "&lt;", ">": "&gt;", "|": r"\|", "\n": " "}.items():
        text = text.replace(letter, written)
    return text


def publish(
    comparison: Path,
    folder: Path,
    method: str,
    baselines: Sequence[str],
    hardware: str,
    where: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the entry of a method of a comparison, and copy its table.

    Raises
    ------
    UserError
        When something is not said, or the comparison is not as runs leave it.
    """
    if not method or not baselines or not hardware:
        raise UserError("--add needs --method, --baselines and --hardware.")
    comparison = comparison.resolve()
    root, dataset, field = comparison.parents[2], comparison.parents[1].name, comparison.name
    told = handlers.read(comparison / "table.json")
    where = {"form": FORM, **where}
    found = [row for row in handlers.read(comparison / "table.csv") if where.items() <= row.items()]
    rows = {row["method"]: row for row in found}
    if len(rows) < len(found):
        raise UserError(f"{comparison}/table.csv has several rows of a method; choose one of them with --row.")
    if missing := next((name for name in (method, *baselines) if name not in rows), None):
        raise UserError(f"{comparison} has no row of {missing}; it has {', '.join(rows) or 'none'}.")
    origin: Mapping[str, object] = next((one for one in told["origins"] if one["method"] == method), {})
    commit = next((str(origin[key]) for key in MADE_BY if key in origin), "none")
    if not re.fullmatch(COMMIT, commit):
        raise UserError(f"{method} was made by no commit that others can have ({commit}); run it on a clean checkout.")
    of_dataset(root, dataset, [comparison.parent.name])  # refuses what is stale
    version = fingerprint(of_dataset(root, dataset))
    known = sha256(comparison / "table.csv")
    table = folder / "tables" / f"{dataset}_{field}_{known[:8]}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(comparison / "table.csv", table)
    place = folder / f"{dataset}_{field}_{method}.yaml"
    entry = {
        "method": method,
        "field": field,
        "dataset": {"name": dataset, "fingerprint": version},
        "beam_arcmin": _beam(census(root, dataset), method),
        "table": {"file": f"tables/{table.name}", "sha256": known, "row": where},
        "metrics": _numbers(rows[method]),
        "baselines": {name: _numbers(rows[name]) for name in baselines},
        "hardware": hardware,
        "commit": commit,
    }
    handlers.write(place, entry)
    if dataset not in versions(folder):
        handlers.write(folder / VERSIONS, versions(folder) | {dataset: version})
    return place


def _numbers(row: dict[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"mean": row[f"{name}_mean"], "std": row[f"{name}_std"]} for name in CHOSEN if f"{name}_mean" in row}


def _beam(made: Iterable[Made], method: str) -> float:
    """The beam at which a method was measured, from the record of the measurement."""
    for item in made:
        beam = item.record.settings.get("analysis.fwhm_arcmin")
        if beam and "metrics.csv" in item.record.outputs and method in item.place.parts:
            return float(beam)
    raise UserError(f"No record of a measurement of {method} says at which beam (analysis.fwhm_arcmin).")
