"""Stages: one step of a pipeline each, from the values of some assets to the values of others."""

import logging
import os
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.core import handlers, locks, memory, provenance
from cmbml.core.asset import Assets, File, Files, Input, Item, sources
from cmbml.core.errors import UserError
from cmbml.core.provenance import Sidecar, damage, digest, flatten, telling
from cmbml.core.seeds import rng_for

logger = logging.getLogger(__name__)

_ABSENT = object()
THREAD_VARIABLES = ("OMP_NUM_THREADS", "DUCC0_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Stage:
    """One step. A subclass says what it reads, makes and uses, and computes in `run`.

    Attributes
    ----------
    name : str
        What users type in ``run.only``.
    inputs : tuple of str, Every, Record or Optional
        Assets whose values `run` gets as keywords, each under its name. An `Every` arrives as a `Files` sequence; what
        is `Optional` arrives only under the settings that its function names.
    outputs : tuple of str
        Assets whose values `run` returns: one value, or a tuple in this order.
    uses : tuple of str
        Configuration keys that change the result; a key stands for all below it. They enter the fingerprint.
    reads : tuple of str
        Configuration keys that do not change the result of an item (number of sims, of devices).
    scratch : tuple of str
        Assets that `run` keeps for itself between interruptions; passed as ``scratch={name: Scratch}`` and removed when
        the item is done, or when they are of other inputs.
    version : int
        Raised when the algorithm changes the numbers.
    memory : str
        What `run` holds beside the program itself, for the dry run, in units like ``20 map + 5 alm``
        (`cmbml.core.asset.Assets`); ``item`` is what most stages hold.
    work : tuple of str
        Numbers among the settings that the time of an item grows with, where the size of its outputs does not tell, for
        the dry run; one that counts squared stands twice.
    parallel : bool
        Whether items may run side by side in worker processes; otherwise each has all cores.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]] = ()
    outputs: ClassVar[tuple[str, ...]]
    uses: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    scratch: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    memory: ClassVar[str] = "1 item"
    work: ClassVar[tuple[str, ...]] = ()
    parallel: ClassVar[bool] = True

    def __init__(self, config: DictConfig):
        """Keep the declared keys of the configuration, and no other: what is not declared cannot be read."""
        self.cfg = self._restrict(config, (*self.uses, *self.reads))
        self.settings = flatten(OmegaConf.to_container(self._restrict(config, self.uses), resolve=True))
        self.sources = sources(self.inputs, self.cfg)
        self.seeds: list[str] = []

    def _restrict(self, config: DictConfig, keys: Sequence[str]) -> DictConfig:
        part = OmegaConf.create({})
        for key in keys:
            value = OmegaConf.select(config, key, default=_ABSENT)
            if value is _ABSENT:
                raise UserError(f"Stage {self.name!r} uses the setting {key}, which the configuration does not have.")
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
            OmegaConf.update(part, key, value, force_add=True)
        OmegaConf.set_struct(part, True)
        return part

    def check(self) -> None:
        """Refuse what would fail later; asked of every stage that has something to do, before any of them begins."""

    def items(self) -> Iterable[Item]:
        """Units of work; a stage that runs once has one empty item."""
        return [{}]

    def settings_of(self, item: Item) -> dict[str, Any]:
        """Settings that decide the result of an item: those of all (`settings`), and what sets this one apart."""
        return self.settings

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """Files of a user that decide the result of an item, by the setting that names them: ``{"mask.file": [path]}``.

        Their contents enter its fingerprint, so that it is made anew when one is exchanged under its name.
        """
        return {}

    def found(self, asset: str) -> Iterable[Item]:
        """Items of an asset that this stage reads with `Every` and that no stage of its pipeline makes."""
        return []

    def missing(self, file: File, item: Item) -> str:
        """What a user is told of a file that this stage reads, that no stage makes and that is not there."""
        return f"Stage {self.name!r} reads {file.path}, which is missing and which no stage makes."

    def run(self, *args: Any, **inputs: Any) -> Any:
        """Compute the outputs of one item, the only argument without a keyword, from the values of its inputs."""
        raise NotImplementedError

    def cost(self, assets: Assets) -> tuple[float, float]:
        """Estimate of (bytes on disk, bytes of memory beside the program) of one item, for the dry run."""
        return sum(map(assets.size, self.outputs)), assets.taken(self.memory)

    def rng(self, purpose: str, *key: object) -> np.random.Generator:
        """Generator of the named stream (see `cmbml.core.seeds`); its name is kept for the sidecar."""
        self.seeds.append("/".join([purpose, *map(str, key)]))
        return rng_for(purpose, *key)


class SimStage(Stage):
    """A stage whose items are simulated skies: ``(split, sim)``.

    Attributes
    ----------
    splits : tuple of str
        Those whose sims it takes.
    varies : bool
        Whether a stage of test skies takes two kinds more that most runs have none of: their variants, a split of its
        own, and the skies of the split that ``splits.known`` names.
    """

    reads: ClassVar[tuple[str, ...]] = ("splits",)
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    varies: ClassVar[bool] = True

    def items(self) -> Iterable[Item]:
        """Every sim of every split of this stage."""
        numbers = {split: self.cfg.splits[split] for split in self.splits}
        if self.varies and "test" in numbers:
            numbers["variants"] = self.cfg.splits.get("variants", 0)
            known = self.cfg.splits.get("known")
            numbers |= {known: self.cfg.splits[known]} if known else {}
        return [{"split": split, "sim": sim} for split, n in numbers.items() for sim in range(n)]


@dataclass(frozen=True)
class ReadFile:
    """A file that an item reads, and what it has to be: of a fingerprint, by its record, or of a size and time.

    One that is ``given`` by a user (`Stage.made_of`) is known by its contents.
    """

    path: Path
    fingerprint: str
    record: Path | None = None
    given: bool = False

    def holds(self) -> bool:
        """Whether it is still that."""
        if self.given:
            return telling(self.path) == self.fingerprint
        if self.record is None:
            return state(self.path) == self.fingerprint
        record = Sidecar.read(self.record)
        return record is not None and record.fingerprint == self.fingerprint


def state(path: Path) -> str | None:
    """Size and time of a file that no stage makes; None when it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def stamp(path: Path) -> int | None:
    """Time of a file; None when it is missing."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def demand_unchanged(read_files: Iterable[ReadFile]) -> None:
    """Refuse files that are no longer what they have to be.

    Raises
    ------
    UserError
        When another run has exchanged one of them meanwhile.
    """
    for file in read_files:
        if not file.holds() and file.given:
            raise UserError(
                f"{file.path} was exchanged while this run made something of it, which is not kept; repeat the command."
            )
        if not file.holds():
            raise UserError(
                f"{file.path} is not what it was when this run was planned: another run, with other settings, has"
                " exchanged it meanwhile. Nothing was made of it; repeat the command when that run is over, or give"
                " one of the two another dataset."
            )


@dataclass(frozen=True)
class Scratch(File):
    """A file that a stage keeps for itself; what was made of inputs that were exchanged meanwhile is not written."""

    read_files: tuple[ReadFile, ...]

    def write(self, value: Any) -> None:
        """Write the value, unless an input is no longer what it was (`demand_unchanged`)."""
        demand_unchanged(self.read_files)
        super().write(value)


@dataclass(frozen=True)
class Work:
    """One item of one stage: what it reads and makes, and why it has to run (empty when it is done)."""

    item: Item
    fingerprint: str
    inputs: Mapping[str, File | Files]
    input_fingerprints: dict[str, dict[str, str]]
    outputs: tuple[File, ...]
    scratch: Mapping[str, File]
    why: str
    read_files: tuple[ReadFile, ...] = ()
    planned_at: int | None = None

    def made_since(self) -> bool:
        """Whether another run has made the item since this one was planned."""
        if self.planned_at == stamp(Sidecar.path(self.outputs)):
            return False
        record = Sidecar.read(Sidecar.path(self.outputs))
        if record is None or record.fingerprint != self.fingerprint:
            return False
        return not damage(self.outputs, record.outputs)

    def demand_inputs(self) -> None:
        """Refuse inputs that are no longer those of the plan (`demand_unchanged`)."""
        demand_unchanged(self.read_files)

    def demand_inputs_of_made(self) -> None:
        """Refuse them after they were read: what was kept of them is forgotten, too."""
        try:
            self.demand_inputs()
        except UserError:
            self.forget()
            raise

    def note(self) -> File:
        """File that tells of which inputs the scratch files are: hidden, beside the first of them."""
        return next(iter(self.scratch.values())).record()

    def forget(self) -> None:
        """Remove the scratch files, and then their note."""
        for file in (*self.scratch.values(), self.note()) if self.scratch else ():
            file.remove()

    def take_up(self, stage: str) -> None:
        """Leave the scratch files of an interrupted run if they are of these inputs, and remove them otherwise."""
        inputs = {label: digest(list(files.values())) for label, files in self.input_fingerprints.items()}
        try:
            noted = self.note().read()
        except UserError:  # none, or damaged
            noted = None
        if noted == inputs:
            return
        if any(file.exists() for file in self.scratch.values()):
            logger.warning(
                "%s %s: an interrupted run has read other inputs, or does not tell which; it begins anew",
                *(stage, dict(self.item)),
            )
        self.forget()
        self.note().write(inputs)


@dataclass(frozen=True)
class Outcome:
    """How an item ended; `error` is empty when it ended well, and ``shared`` says that another run has made it."""

    item: Item
    seconds: float
    error: str = ""
    trace: str = ""
    shared: bool = False


def execute(stage: Stage, work: Work, *, fresh: bool, threads: int | None = None) -> Outcome:
    """Run one item: read, compute, write every output atomically, and the sidecar last.

    Parameters
    ----------
    fresh : bool
        Forget what an interrupted run left in the scratch files.
    threads : int, optional
        Threads that the numerical libraries of a worker process may use.
    """
    if threads is not None:
        os.environ.update({name: str(threads) for name in THREAD_VARIABLES})
    start = time.perf_counter()
    try:
        made = _execute(stage, work, fresh, start)
    except UserError as error:
        return Outcome(work.item, time.perf_counter() - start, str(error))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return Outcome(work.item, time.perf_counter() - start, message, traceback.format_exc())
    return Outcome(work.item, time.perf_counter() - start, shared=not made)


def _execute(stage: Stage, work: Work, fresh: bool, start: float) -> bool:
    """Make what an item lacks; False when another run has made it meanwhile."""
    sidecar = Sidecar.path(work.outputs)
    with locks.held(sidecar, f"{stage.name} {dict(work.item)}"):
        if work.made_since():
            return False
        if sidecar.is_dir():
            raise UserError(
                f"{sidecar} is a folder, where the record of {work.outputs[0].path.name} belongs; remove it."
            )
        if fresh:
            work.forget()
        work.demand_inputs()
        if work.scratch:
            work.take_up(stage.name)
        stage.seeds = []
        memory.forget_peak()
        values = {name: source.read() if isinstance(source, File) else source for name, source in work.inputs.items()}
        scratch = {name: Scratch(file.path, work.read_files) for name, file in work.scratch.items()}
        made = stage.run(work.item, **values, **({"scratch": scratch} if scratch else {}))
        made = made if isinstance(made, tuple) else (made,)
        pairs = [(file.path, value) for file, value in zip(work.outputs, made, strict=True)]
        with handlers.written(pairs) as temporary:
            outputs = {path.name: provenance.contents(tmp) for (path, _), tmp in zip(pairs, temporary, strict=True)}
            work.demand_inputs_of_made()
            sidecar.unlink(missing_ok=True)  # and not before: a command that fails has forgotten nothing
        work.demand_inputs_of_made()
        record = Sidecar(
            stage=stage.name,
            version=stage.version,
            item=dict(work.item),
            fingerprint=work.fingerprint,
            settings=stage.settings_of(work.item),
            inputs=work.input_fingerprints,
            outputs=outputs,
            seeds=stage.seeds,
            seconds=round(time.perf_counter() - start, 3),
            peak_gb=memory.peak_gb(),
            form=provenance.FORM,
            **provenance.environment(),
        )
        with handlers.atomic(sidecar) as tmp:
            tmp.write_text(record.text(), encoding="utf-8")
        work.forget()
    return True
