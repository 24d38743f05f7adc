"""Pipelines: an ordered list of stages, checked before anything runs, then done item by item."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from cmbml.core import cluster, log, outlook
from cmbml.core.asset import Assets, Every, File, Files, Item, Record, Source
from cmbml.core.errors import UserError
from cmbml.core.provenance import FORM, Sidecar, changes, damage, digest, environment, telling
from cmbml.core.stage import THREAD_VARIABLES, Outcome, ReadFile, Stage, Work, execute, stamp, state

OLD = "made by cmbml 0.1.0"
NEWER = "made by a newer cmbml"


class Pipeline:
    """Stages over one table of assets.

    Parameters
    ----------
    stages : sequence of Stage
    assets : Assets
    place : mapping, optional
        Where items run (`cmbml.core.cluster`).
    unless_read : mapping, optional
        Field of items -> values: items that have one of them are left out unless an item of a later stage reads them.

    Raises
    ------
    UserError
        When two stages make the same asset, a stage reads what only a later one makes, a path template has a field
        that nobody fills, or two stages have one name.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        assets: Assets,
        place: Mapping[str, Any] = cluster.NONE,
        *,
        unless_read: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ):
        self.stages = list(stages)
        self.assets = assets
        self.cluster = place
        self._on_cluster = place["kind"] != "none"
        self.producer: dict[str, Stage] = {}
        self._items = {stage.name: list(stage.items()) for stage in self.stages}
        self._fingerprints: dict[tuple[Any, ...], str] = {}
        self._groups: dict[tuple[Any, ...], tuple[Files, tuple[ReadFile, ...]]] = {}
        self._check()
        if unless_read:
            self._leave_out_unread(unless_read)

    def _check(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"Two stages of the pipeline have one name; the names are {', '.join(names)}.")
        for stage in self.stages:
            fields = [field for item in self._items[stage.name][:1] for field in item]
            for name in (*stage.outputs, *stage.scratch) if self._items[stage.name] else ():
                self.assets.check(name, fields, stage.name)
                self.assets.check_suffix(name)
            self._check_inputs(stage, fields)
            for name in stage.outputs:
                if name in self.producer:
                    raise UserError(
                        f"Stages {self.producer[name].name!r} and {stage.name!r} both make the asset {name!r}."
                    )
                self.producer[name] = stage
        taken: dict[str, str] = {}
        for stage in self.stages:
            for name in (*stage.outputs, *stage.scratch):
                self.assets.claim(name, self._items[stage.name], taken)

    def _check_inputs(self, stage: Stage, fields: Sequence[str]) -> None:
        """Refuse what a stage reads and no stage before it makes, or what has no name of its own."""
        keywords = [source.name for source in stage.sources]
        if len(set(keywords)) < len(keywords):
            raise UserError(f"Stage {stage.name!r} reads two inputs under one name: {', '.join(keywords)}.")
        for source in stage.sources:
            name = source.asset
            made_later = [s.name for s in self.stages if name in s.outputs and name not in self.producer]
            if made_later:
                raise UserError(
                    f"Stage {stage.name!r} reads {name!r}, which stage {made_later[0]!r} makes only later;"
                    " put that one first."
                )
            if name not in self.producer and self._items[stage.name]:
                listed = list(stage.found(name))[:1] if isinstance(source, Every) else [{}]
                for item in listed:
                    self.assets.check(name, [*fields, *item], stage.name)

    def _leave_out_unread(self, unless_read: Mapping[str, Sequence[Any]]) -> None:
        """Keep the items that have none of these values, and those that kept items read."""
        wanted: dict[str, set[tuple[Any, ...]]] = {stage.name: set() for stage in self.stages}
        for stage in reversed(self.stages):
            self._items[stage.name] = [
                item
                for item in self._items[stage.name]
                if tuple(item.values()) in wanted[stage.name]
                or not any(item.get(field) in values for field, values in unless_read.items())
            ]
            for item in self._items[stage.name]:
                for source in stage.sources:
                    maker = self.producer.get(source.asset)
                    if maker is not None:
                        wanted[maker.name].update(tuple(i.values()) for i in self._items_read(maker, source, item))

    def _source(self, stage: Stage, item: Item, source: Source) -> tuple[File | Files, tuple[ReadFile, ...]]:
        """Files of one input of an item, and what each of them has to be."""
        maker = self.producer.get(source.asset)
        if maker is None:
            return self._outside(stage, item, source)
        if isinstance(source, Every):
            return self._every(maker, source, item)
        (made_item,) = self._items_read(maker, source, item)
        if self._items[maker.name] and len(made_item) < len(self._items[maker.name][0]):
            raise UserError(
                f"Stage {stage.name!r} reads one {source.asset!r} for an item that does not say which; use Every."
            )
        file = self.assets.file(source.asset, made_item)
        return file, (self._made(maker, file, made_item),)

    def _items_read(self, maker: Stage, source: Source, item: Item) -> list[Item]:
        """Which of the maker's items an item reads: all that match, or the one that it shares its fields with."""
        fields = self._items[maker.name][0] if self._items[maker.name] else {}
        where = {key: item[key] for key in fields if key in item}
        if not isinstance(source, Every):
            return [where]
        where |= source.where
        return [i for i in self._items[maker.name] if all(i[key] == value for key, value in where.items())]

    def _made(self, maker: Stage, file: File, item: Item) -> ReadFile:
        """A file of an item of a stage: known by the record that lies beside the first output."""
        record = self.assets.file(maker.outputs[0], item).record().path
        return ReadFile(file.path, self.fingerprint(maker, item), record)

    def _outside(self, stage: Stage, item: Item, source: Source) -> tuple[File | Files, tuple[ReadFile, ...]]:
        """Files that no stage makes, known by size and time: the item's own, or those that the stage has found."""
        if not isinstance(source, Every):
            file = self.assets.file(source.asset, item)
            return file, (ReadFile(file.path, _state(stage, file, item)),)
        listed = [{**item, **i} for i in stage.found(source.asset) if source.where.items() <= i.items()]
        self.assets.claim(source.asset, listed, {})
        pairs = [(self.assets.file(source.asset, i), i) for i in listed]
        pairs = [(file.record() if isinstance(source, Record) else file, i) for file, i in pairs]
        pairs = [(file, i) for file, i in pairs if file.exists() or not source.optional]
        if not pairs and not source.optional:
            raise UserError(f"Stage {stage.name!r} reads every {source.asset!r}, and there is none: no stage makes it.")
        states = tuple(ReadFile(file.path, _state(stage, file, i)) for file, i in pairs)
        return Files(tuple(file for file, _ in pairs), tuple(i for _, i in pairs)), states

    def _every(self, maker: Stage, source: Every, item: Item) -> tuple[Files, tuple[ReadFile, ...]]:
        fields = self._items[maker.name][0] if self._items[maker.name] else {}
        where = {**{k: v for k, v in item.items() if k in fields}, **source.where}
        key = (source.asset, *sorted(where.items()))
        if key not in self._groups:
            chosen = self._items_read(maker, source, item)
            files = tuple(self.assets.file(source.asset, i) for i in chosen)
            made = tuple(self._made(maker, file, i) for file, i in zip(files, chosen, strict=True))
            self._groups[key] = Files(files, tuple(chosen)), made
        return self._groups[key]

    def fingerprint(self, stage: Stage, item: Item) -> str:
        """Hash of all that decides the outputs of an item."""
        key = (stage.name, *item.values())
        if key not in self._fingerprints:
            files = {s.label: self._source(stage, item, s)[1] for s in stage.sources} | _given(stage, item)
            inputs = {label: [file.fingerprint for file in of_label] for label, of_label in files.items()}
            self._fingerprints[key] = digest(stage.name, stage.version, stage.settings_of(item), item, inputs)
        return self._fingerprints[key]

    # ---- what has to be done

    def plan(self, force: Sequence[str] = (), *, verify: bool = False) -> dict[str, list[Work]]:
        """Work of every stage, done or not; no data is opened, unless to ``verify`` the contents of what is done."""
        causes: dict[str, str] = {}
        plan = {}
        for stage in self.stages:
            forced = stage.name in force
            plan[stage.name] = [self._work(stage, item, forced, verify, causes) for item in self._items[stage.name]]
        return plan

    def _work(self, stage: Stage, item: Item, forced: bool, verify: bool, causes: dict[str, str]) -> Work:
        inputs = {source: self._source(stage, item, source) for source in stage.sources}
        files = {source.label: of_source for source, (_, of_source) in inputs.items()} | _given(stage, item)
        fingerprints = {
            label: {self.assets.shown(file.path): file.fingerprint for file in of_label}
            for label, of_label in files.items()
        }
        outputs = tuple(self.assets.file(name, item) for name in stage.outputs)
        fingerprint = self.fingerprint(stage, item)
        planned_at = stamp(Sidecar.path(outputs))
        record = Sidecar.read(Sidecar.path(outputs))
        if record is None:
            why = "not made yet"
        elif record.form != FORM:
            why = OLD if record.form < FORM else NEWER
        elif record.fingerprint != fingerprint:
            why = self._cause(stage, item, record, fingerprints, causes)
            causes.setdefault(stage.name, why)
        else:
            why = "forced" if forced else damage(outputs, record.outputs, thorough=verify)
        return Work(
            item=item,
            fingerprint=fingerprint,
            inputs={source.name: values for source, (values, _) in inputs.items()},
            input_fingerprints=fingerprints,
            outputs=outputs,
            scratch={name: self.assets.file(name, item) for name in stage.scratch},
            why=why,
            read_files=tuple(file for of_label in files.values() for file in of_label),
            planned_at=planned_at,
        )

    def _cause(
        self, stage: Stage, item: Item, record: Sidecar, inputs: dict[str, dict[str, str]], causes: dict[str, str]
    ) -> str:
        """Why a finished item has another fingerprint now: its settings, its version, or what it reads."""
        differences = changes(record.settings, stage.settings_of(item))
        if record.version != stage.version:
            differences.append(f"version {record.version} -> {stage.version}")
        if differences:
            return ", ".join(differences)
        makers = {source.label: self.producer.get(source.asset) for source in stage.sources}
        for label, files in inputs.items():
            old = record.inputs.get(label, {})
            if len(old) != len(files):
                return f"{label}: {len(old)} -> {len(files)} items"
            if list(old.values()) != list(files.values()):
                maker = makers.get(label)
                return causes.get(maker.name, f"{label} changed") if maker else f"{label} changed"
        return "made under another name"

    def selected(self, *, only: Sequence[str] = (), start: str | None = None, force: Sequence[str] = ()) -> list[Stage]:
        """Stages that ``run.only`` and ``run.start`` leave; unknown names are refused."""
        names = [stage.name for stage in self.stages]
        for key, wanted in (("only", only), ("start", [start] if start else []), ("force", force)):
            for name in wanted:
                if name not in names:
                    raise UserError(f"run.{key}: there is no stage {name!r}; the stages are {', '.join(names)}.")
        first = names.index(start) if start else 0
        before = [name for name in only if names.index(name) < first]
        if before:
            raise UserError(f"run.only names {before[0]}, which comes before run.start={start}; leave one of them out.")
        return [s for i, s in enumerate(self.stages) if i >= first and (not only or s.name in only)]

    def _refuse_stale_inputs(self, stages: Sequence[Stage], plan: dict[str, list[Work]]) -> None:
        chosen = {stage.name for stage in stages}
        for stage in stages:
            for source in stage.sources if any(w.why for w in plan[stage.name]) else ():
                name = source.asset
                maker = self.producer.get(name)
                if maker is None or maker.name in chosen:
                    continue
                stale = [w for w in plan[maker.name] if w.why]
                if stale:
                    path = stale[0].outputs[maker.outputs.index(name)].path
                    raise UserError(
                        f"Stage {stage.name!r} reads {path}, which is not up to date ({stale[0].why}), and stage"
                        f" {maker.name!r} is not selected; add it to run.only or leave it out."
                    )

    def _refuse_old(self, plan: dict[str, list[Work]]) -> None:
        """Refuse data of another version, which would all be made anew."""
        old = [work.outputs[0].path for works in plan.values() for work in works if work.why == OLD]
        if old:
            raise UserError(
                f"{len(old)} items of this dataset were made by cmbml 0.1.0, whose records are read no more"
                f" ({old[0]} is the first); give the dataset another name, or remove its folder to make it anew."
            )
        newer = [work.outputs[0].path for works in plan.values() for work in works if work.why == NEWER]
        if newer:
            raise UserError(
                f"{len(newer)} items of this dataset were made by a newer cmbml, whose records this one cannot read"
                f" ({newer[0]} is the first); use that version, or give the dataset another name."
            )

    # ---- doing it

    def run(
        self,
        *,
        only: Sequence[str] = (),
        start: str | None = None,
        force: Sequence[str] = (),
        dry: bool = False,
        verify: bool = False,
        workers: int = 1,
    ) -> None:
        """Do what is not done, stage by stage, and end with one table."""
        stages = self.selected(only=only, start=start, force=force)
        plan = self.plan(force, verify=verify)
        self._refuse_stale_inputs(stages, plan)
        self._refuse_old(plan)
        for stage in stages:
            if any(work.why for work in plan[stage.name]):
                stage.check()
        if dry:
            outlook.report(stages, plan, workers, self.assets)
            return
        environment()
        needed = any(work.why for stage in stages if stage.parallel for work in plan[stage.name])
        with cluster.backend(self.cluster if needed else cluster.NONE, workers):
            rows = [self._do(stage, plan[stage.name], workers, stage.name in force) for stage in stages]
        log.table("Done", ["stage", "done / total", "made now", "seconds", "first output"], rows)

    def _do(self, stage: Stage, works: Sequence[Work], workers: int, fresh: bool) -> list[object]:
        """Do what is to do of a stage; its row of the table.

        Raises
        ------
        UserError
            When an item has failed, after all others.
        """
        begin = time.perf_counter()
        todo = [work for work in works if work.why]
        total = len(works)
        outcomes = list(self._outcomes(stage, todo, workers, fresh))
        seconds = time.perf_counter() - begin
        order = {str(dict(work.item)): i for i, work in enumerate(todo)}
        failed = sorted((o for o in outcomes if o.error), key=lambda o: order[str(dict(o.item))])
        made = len(todo) - len(failed)
        why = todo[0].why if todo else "nothing to do"
        log.log.info("%s: %d of %d made in %.1f s (%s)", stage.name, made, total, seconds, why)
        if failed:
            _report_failure(stage, failed, total)
        where = log.shown(works[0].outputs[0].path, self.assets.constants.get("root")) if works else "-"
        return [stage.name, f"{total} / {total}", len(todo), f"{seconds:.1f}", where]

    def _outcomes(self, stage: Stage, todo: Sequence[Work], workers: int, fresh: bool) -> Iterator[Outcome]:
        """Run items side by side, in worker processes or on a cluster, or one after another with all threads."""
        side_by_side = stage.parallel and (self._on_cluster or (workers > 1 and len(todo) > 1))
        bar = {"total": len(todo), "desc": stage.name, "unit": "item", "disable": True if not todo else None}
        if not side_by_side or not todo:
            yield from tqdm((execute(stage, work, fresh=fresh) for work in todo), **bar)
            return
        workers = -1 if self._on_cluster else min(workers, len(todo))  # -1: all that the cluster has
        threads = self.cluster["threads"] if self._on_cluster else max(1, cpu_count() // workers)
        with _environment({name: str(threads) for name in THREAD_VARIABLES}), warnings.catch_warnings():
            # joblib's word for idle workers of an earlier stage that are replaced: nothing is lost.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
            jobs = (delayed(execute)(stage, work, fresh=fresh, threads=threads) for work in todo)
            try:
                yield from tqdm(Parallel(n_jobs=workers, return_as="generator_unordered")(jobs), **bar)
            except cluster.killed():
                raise UserError(
                    f"A worker process of stage {stage.name!r} was killed, perhaps for want of memory; finished items"
                    " are kept. Repeat the command, with a smaller run.workers if it happens again."
                ) from None


def _given(stage: Stage, item: Item) -> dict[str, tuple[ReadFile, ...]]:
    """Files of a user that an item is made of, by the setting that names them."""
    return {
        label: tuple(ReadFile(path, telling(path), given=True) for path in paths)
        for label, paths in stage.made_of(item).items()
    }


def _state(stage: Stage, file: File, item: Item) -> str:
    """Size and time of a file that no stage makes; a user is told when it is missing."""
    found = state(file.path)
    if found is None:
        raise UserError(stage.missing(file, item))
    return found


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the worker processes that start within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _report_failure(stage: Stage, failed: Sequence[Outcome], total: int) -> None:
    for outcome in failed:
        if outcome.trace:
            log.log.error("%s %s\n%s", stage.name, dict(outcome.item), outcome.trace)
    item = ", ".join(f"{k}={v}" for k, v in failed[0].item.items())
    kept = total - len(failed)
    raise UserError(
        f"Stage {stage.name!r} failed{f' for {item}' if item else ''}: {failed[0].error.rstrip('.')}."
        + (f" {kept} of {total} items are done and kept; repeat the command to go on." if total > 1 else "")
    )
