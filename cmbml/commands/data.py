"""`cmbml data`: what lies under a root that is stale, unused or unfinished; it is removed on request.

It needs no configuration: records say what an item was made of. What a configuration would make anew is what its dry
run tells. Files that no record names and that no run leaves behind are yours, and left alone.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cmbml.commands.packed import AROUND
from cmbml.core import handlers, log
from cmbml.core.errors import UserError
from cmbml.core.provenance import FORM, Sidecar, telling
from cmbml.core.stage import state

KINDS = {
    "stale": "made of something that was made anew since, or damaged",
    "unused": "of skies that were there when others of their split were gathered, and never were",
    "unfinished": "left behind by runs that were killed, or by interrupted trainings and downloads",
}
SHOWN = 5  # of a kind, without --all
LEFT_BY_RUNS = {
    ".tmp-*": "half written by a process that is gone",
    ".*.lock": "a lock that nobody holds",
    "*.part": "a part of a file, which the same command goes on with",
    "*.part.mark": "a part of a file, which the same command goes on with",
    "checkpoints/*.pt": "an interrupted training, which the same command goes on with",
    "checkpoints/.*.json": "of which skies an interrupted training is",
}


@dataclass(frozen=True)
class Made:
    """An item with a record: its dataset, where the record lies, what it says, and the files that were found."""

    dataset: str
    place: Path
    record: Sidecar
    files: tuple[Path, ...]

    @property
    def sky(self) -> tuple[str, str, int] | None:
        """Dataset, split and number of the sky that the item belongs to, if it does to one."""
        item = self.record.item
        return (self.dataset, str(item["split"]), int(item["sim"])) if {"split", "sim"} <= item.keys() else None

    def found(self, kind: str, root: Path, why: str) -> "Found":
        """The item as something that may be removed."""
        first = self.place.with_name(self.place.name.removeprefix(".").removesuffix(".json"))
        return Found(kind, self.dataset, _below(first, root), why, (self.place, *self.files))


@dataclass(frozen=True)
class Found:
    """Something that may be removed: its kind, why, and all its files, the record first."""

    kind: str
    dataset: str
    what: str
    why: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.files if path.exists())


def main(argv: Sequence[str]) -> int:
    """List, and remove what is asked for; the exit code is 1 when that was refused."""
    parser = argparse.ArgumentParser(
        prog="cmbml data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = os.environ.get("CMBML_ROOT", "data")
    parser.add_argument("--root", type=Path, default=Path(root), help="system.root (default $CMBML_ROOT, or data)")
    parser.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="look at these alone")
    parser.add_argument("--remove", nargs="+", default=[], choices=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--all", action="store_true", help=f"list everything, and not the first {SHOWN} of a kind")
    options = parser.parse_args(argv)
    base = options.root.expanduser()
    if not base.is_dir():
        raise UserError(f"--root {options.root} is no folder; give the system.root of the runs.")
    found = list(look(base, options.dataset))
    for line in listing(found, base, everything=options.all):
        sys.stdout.write(f"{line}\n")
    chosen = [one for one in found if one.kind in options.remove]
    if not chosen:
        return 0
    if not options.yes and not _agreed(chosen):
        return 1
    remove(chosen, base)
    return 0


def look(root: Path, only: Sequence[str] = ()) -> Iterator[Found]:
    """All that may be removed, dataset by dataset.

    Raises
    ------
    UserError
        When a dataset that is asked for is not there.
    """
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in AROUND)
    for name in only:
        if name not in names:
            raise UserError(f"--dataset {name} is not under {root}; there are {', '.join(names) or 'none'}.")
    made = [item for name in names for item in census(root, name)]
    makers = {_below(file, root): item for item in made for file in item.files}
    reasons = outdated(made, makers, root)
    spare = never_gathered(made, makers)
    for name in only or names:
        for item in (item for item in made if item.dataset == name):
            if item.place in reasons:
                yield item.found("stale", root, reasons[item.place])
            elif item.sky in spare:
                yield item.found("unused", root, f"{item.record.item['split']} sky {item.record.item['sim']}")
        yield from _left_behind(root / name, root)
    if not only:
        yield from _left_behind(root / "Assets", root)


def census(root: Path, dataset: str) -> Iterator[Made]:
    """All items of a dataset that have a record."""
    paths = sorted(path for path in (root / dataset).rglob("*") if path.is_file())
    named = defaultdict(list)
    for path in paths:
        named[path.name].append(path)
    for path in paths:
        record = Sidecar.read(path) if path.name.startswith(".") and path.suffix == ".json" else None
        if record is not None:
            files = [_meant(path, record.item, named[name]) for name in record.outputs]
            yield Made(dataset, path, record, tuple(file for file in files if file))


def _meant(place: Path, item: Mapping[str, object], candidates: Sequence[Path]) -> Path | None:
    """The file that a record means by a name: beside it, or else in the one folder that ends as its own does.

    An item of a split and a sky has them as the last folders, so that no other sky's file is taken for its own.
    """
    ending = place.parent.parts[-len(item) :] if item else ()
    beside = [path for path in candidates if path.parent == place.parent]
    alike = [path for path in candidates if ending and path.parent.parts[-len(ending) :] == ending]
    return next(iter(beside or alike), None)


def outdated(made: Sequence[Made], makers: Mapping[str, Made], root: Path) -> dict[Path, str]:
    """Why an item is not what a run would believe, by the place of its record; also of what is made of such an item.

    What is only damaged is made again as it was, and does not make stale what was made of it.
    """
    reasons = {item.place: why for item in made if (why := _old(item) or _read_something_else(item, makers, root))}
    stale = set(reasons)
    changed = True
    while changed:
        changed = False
        for item in made:
            if item.place in stale:
                continue
            source = next((name for name in _inputs(item) if name in makers and makers[name].place in stale), None)
            if source:
                reasons[item.place] = f"{source} is stale itself"
                stale.add(item.place)
                changed = True
    return {item.place: why for item in made if (why := _damaged(item))} | reasons


def _inputs(item: Made) -> dict[str, str]:
    """Fingerprint of each file that an item has read, by its name below the root."""
    return {name: fingerprint for files in item.record.inputs.values() for name, fingerprint in files.items()}


def _old(item: Made) -> str:
    return "" if item.record.form == FORM else "made by another version of cmbml, whose records are read no more"


def _damaged(item: Made) -> str:
    sizes = {file.name: file.stat().st_size for file in item.files}
    for name, known in item.record.outputs.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != known.get("size"):
            return f"{name} has {sizes[name]} bytes instead of {known.get('size')}"
    return ""


def _read_something_else(item: Made, makers: Mapping[str, Made], root: Path) -> str:
    """What it has read that is another now; empty where all is the same, or is gone."""
    for label, files in item.record.inputs.items():
        given = "." in label  # a setting names the file of a user, an asset that of a stage
        for name, fingerprint in files.items():
            if given or ":" in fingerprint:  # of what no stage of that run has made: its contents, or size and time
                now = telling(root / name) if given else state(root / name)
                if now and now != fingerprint:
                    return f"{name} was exchanged since"
            elif name in makers and makers[name].record.fingerprint != fingerprint:
                return f"{name} was made anew since"
    return ""


def never_gathered(made: Sequence[Made], makers: Mapping[str, Made]) -> set[tuple[str, str, int]]:
    """Skies that a stage did not read when it gathered others of their split, and that none has gathered.

    A stage gathers when it reads several skies of a split. One that reads a single sky, as a picture does, tells
    nothing; and a sky that is younger than what was gathered waits for its turn.
    """
    gathered = set()
    last: dict[tuple[str, str], float] = {}
    youngest: dict[tuple[str, str, int], float] = {}
    for item in made:
        time = item.place.stat().st_mtime
        if item.sky is not None:
            youngest[item.sky] = max(time, youngest.get(item.sky, 0.0))
        skies = {makers[name].sky for name in _inputs(item) if name in makers} - {None, item.sky}
        gathered |= skies
        for split in {sky[:2] for sky in skies if sky}:
            if sum(sky is not None and sky[:2] == split for sky in skies) > 1:
                last[split] = max(time, last.get(split, 0.0))
    return {sky for sky, time in youngest.items() if sky not in gathered and time < last.get(sky[:2], 0.0)}


def _left_behind(folder: Path, root: Path) -> Iterator[Found]:
    """Temporary files of dead processes, locks that nobody holds, checkpoints, and parts of downloads."""
    for pattern, why in LEFT_BY_RUNS.items():
        for path in sorted(folder.rglob(pattern)) if folder.is_dir() else ():
            if path.suffix == ".lock" and _is_held(path):
                continue
            if path.name.startswith(".tmp-") and not handlers.abandoned(path):
                continue
            yield Found("unfinished", folder.name, _below(path, root), why, (path,))


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


def listing(found: Sequence[Found], root: Path, *, everything: bool) -> Iterator[str]:
    """Lines for people: a kind, its number and bytes, and the first of them."""
    yield f"{root}: {len(found)} things may be removed, {log.size(sum(one.size for one in found))}"
    for kind, meaning in KINDS.items():
        of_kind = [one for one in found if one.kind == kind]
        yield f"{kind}: {len(of_kind)}, {log.size(sum(one.size for one in of_kind))} ({meaning})"
        for one in of_kind if everything else of_kind[:SHOWN]:
            yield f"  {one.what}: {one.why}"
        if not everything and len(of_kind) > SHOWN:
            yield f"  and {len(of_kind) - SHOWN} more (--all)"
    if found:
        yield "--remove stale unused unfinished removes; nothing else that is under the root is touched."


def _agreed(chosen: Sequence[Found]) -> bool:
    """Ask on a terminal; without one nothing is removed."""
    if not sys.stdin.isatty():
        raise UserError("Nothing was removed: there is nobody to ask here; --yes removes without asking.")
    size = log.size(sum(one.size for one in chosen))
    return input(f"Remove {len(chosen)} things, {size}? [y/N] ").strip().lower() in ("y", "yes")


def remove(chosen: Sequence[Found], root: Path) -> None:
    """Remove files, records first, so that an interruption leaves nothing that looks finished; and empty folders.

    Raises
    ------
    UserError
        When a run is at work in one of the datasets.
    """
    for dataset in sorted({one.dataset for one in chosen}):
        held = next((lock for lock in (root / dataset).rglob(".*.lock") if _is_held(lock)), None)
        if held:
            raise UserError(
                f"A run is at work in {root / dataset} ({held.name}); nothing was removed, wait for its end."
            )
    size = sum(one.size for one in chosen)
    for one in chosen:
        for path in one.files:
            path.unlink(missing_ok=True)
        for folder in (parent for path in one.files for parent in path.parents if root in parent.parents):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    sys.stdout.write(f"removed {len(chosen)} things, {log.size(size)}\n")
