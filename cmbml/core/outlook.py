"""What a dry run tells: what there is to do and why, and what it takes of disk, memory and time.

Time is taken from the records of earlier runs under the same root.
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cmbml.core import log, memory
from cmbml.core.asset import Assets, File
from cmbml.core.provenance import Sidecar, changes
from cmbml.core.stage import Stage, Work

MOST = 200  # records of a stage that are read
SMALL = 100_000  # bytes; what is written below it does not tell how much work it was
NEARLY = 1.5  # factor within which sizes are known beforehand


@dataclass(frozen=True)
class Pace:
    """Seconds that an item takes, and whether they are those of the same settings, or guessed from others."""

    seconds: float
    same: bool


def report(stages: Sequence[Stage], plan: Mapping[str, Sequence[Work]], workers: int, assets: Assets) -> None:
    """Log one table of all stages."""
    rows: list[list[object]] = []
    disk = 0.0
    most = 0.0
    seconds = 0.0
    paces: list[Pace | None] = []
    program = memory.held()  # which has imported what the stages need
    for stage in stages:
        todo = [work for work in plan[stage.name] if work.why]
        item_disk, item_memory = stage.cost(assets) if todo else (0.0, 0.0)
        stage_disk = len(todo) * item_disk
        at_once = min(workers if stage.parallel else 1, len(todo))
        stage_memory = at_once * (program + item_memory)
        disk += stage_disk
        most = max(most, stage_memory)
        shown = ""
        if todo:
            known = pace(stage, assets, len(todo[0].read_files))
            paces.append(known)
            took = len(todo) / at_once * known.seconds if known else 0.0
            seconds += took
            shown = f"{'' if known.same else '~'}{log.duration(took)}" if known else "?"
        why = todo[0].why if todo else ""
        row = [stage.name, len(plan[stage.name]), len(todo), log.size(stage_disk), log.size(stage_memory), shown, why]
        rows.append(row)
    title = f"Dry run: nothing is written. About {log.size(disk)} of disk and {log.size(most)} of memory at most."
    title = f"{title} {_time_in_words(seconds, paces)}".rstrip()
    log.table(title, ["stage", "items", "to do", "disk", "memory", "time", "why"], rows)


def _time_in_words(seconds: float, paces: Sequence[Pace | None]) -> str:
    """How long all takes that there is to do, and what is not known of it."""
    if not any(paces):
        return "No record of an earlier run tells how long it takes." if paces else ""
    notes = []
    if any(known and not known.same for known in paces):
        notes.append("~ guessed from other settings")
    if None in paces:
        notes.append("? without a record")
    least = "At least" if None in paces else "About"
    doubts = f" ({'; '.join(notes)})" if notes else ""
    return f"{least} {log.duration(seconds)} by earlier runs{doubts}."


def pace(stage: Stage, assets: Assets, reads: int = 0) -> Pace | None:
    """Mean of the records whose settings are nearest to those of a stage; None where there is no record.

    The nearest differ in the fewest settings. Their seconds are scaled to the work of an item now: by the settings
    of `Stage.work` and the number of files that it ``reads``, or else by the size of what it makes.
    """
    found = [(len(changes(record.settings, stage.settings)), record) for record in _records(stage, assets)]
    if not found:
        return None
    least = min(count for count, _ in found)
    near = [record for count, record in found if count == least]
    seconds = sum(record.seconds for record in near) / len(near)
    more = _more_work(stage, near[0], reads) if stage.work else _larger(stage, near[0], assets)
    if least == 0 and 1 / NEARLY < more < NEARLY:
        return Pace(seconds, same=True)
    return Pace(more * seconds, same=False)


def _more_work(stage: Stage, record: Sidecar, reads: int) -> float:
    """How many times as much an item works now, by the numbers that its stage names."""
    then = sum(map(len, record.inputs.values()))
    factor = reads / then if reads and then else 1.0
    for key in stage.work:
        old = record.settings.get(key)
        if isinstance(old, int | float) and old > 0:
            factor *= stage.settings[key] / old
    return factor


def _larger(stage: Stage, record: Sidecar, assets: Assets) -> float:
    """How many times as large the files are that an item makes now."""
    then = sum(known.get("size", 0) for known in record.outputs.values())
    now = sum(map(assets.size, stage.outputs))
    return now / then if min(now, then) > SMALL else 1.0


def _records(stage: Stage, assets: Assets) -> Iterator[Sidecar]:
    """Records of a stage, of any dataset and settings."""
    pattern = File(Path(assets.pattern(stage.outputs[0]))).record().path
    for path in islice(glob.iglob(str(pattern)), MOST):
        record = Sidecar.read(Path(path))
        if record is not None and record.stage == stage.name:
            yield record
