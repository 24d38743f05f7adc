"""From a configuration to a finished run, and from a user's mistake to a sentence."""

import dataclasses
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmbml.config import costs
from cmbml.config import resolvers as config
from cmbml.config.help import help_text
from cmbml.config.options import check_options
from cmbml.core import launch
from cmbml.core.asset import Assets
from cmbml.core.cluster import end_workers
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.stage import Stage

SPOKEN = (UserError, HydraException, OmegaConfBaseException)  # what tells a user what is wrong
ENGINE_KEYS = (
    *("system", "run", "assets", "sims", "foregrounds.stage"),
    *("method.name", "method.target", "method.stages", "analysis.stages"),
)


def build(cfg: DictConfig, overridden: Sequence[str] = ()) -> Pipeline:
    """Pipeline of a prepared configuration.

    Raises
    ------
    UserError
        When a stage cannot be imported, the stages do not fit together, or none of them reads an overridden key.
    """
    stages = [_stage_class(path)(cfg) for path in cfg.pipeline]
    for key in [*unknown(overridden, cfg), *unread(overridden, stages)]:
        method = f", whose method is {cfg.method.name}" if "method" in cfg else ""
        raise UserError(f"{key} is read by no stage of this pipeline{method}; leave it out.")
    holds: Any = OmegaConf.to_container(cfg.assets.holds, resolve=True)
    place: Any = OmegaConf.to_container(cfg.system.cluster)
    assets = Assets(cfg.assets.files, cfg.assets.constants, holds, costs.units(cfg))
    nothing_learns = bool(OmegaConf.select(cfg, "method.trained"))
    return Pipeline(stages, assets, place, unless_read={"split": ("train", "valid")} if nothing_learns else {})


def unread(keys: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    """Dotted configuration keys that neither the engine nor a stage reads; the keys of the root are read by others."""
    read = {*ENGINE_KEYS, *(key for stage in stages for key in (*stage.uses, *stage.reads))}
    return [
        key
        for key in keys
        if "." in key and not any(f"{key}.".startswith(f"{r}.") or f"{r}.".startswith(f"{key}.") for r in read)
    ]


def unknown(keys: Sequence[str], cfg: DictConfig) -> list[str]:
    """Keys that were added to those of the schema, ``+foo=1`` or ``+mask.foo=1``: nothing reads them."""
    return [key for key in keys if _was_added(key, cfg)]


def _was_added(key: str, cfg: DictConfig) -> bool:
    node: Any = cfg
    for name in key.split("."):
        if not OmegaConf.is_dict(node) or name not in node:
            return False
        kind = OmegaConf.get_type(node)
        if dataclasses.is_dataclass(kind) and name not in [field.name for field in dataclasses.fields(kind)]:
            return True
        node = OmegaConf.select(node, name)
    return False


def _stage_class(path: str) -> type[Stage]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UserError(f"The pipeline names the stage {path}, which cannot be imported: {error}.") from None
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise UserError(f"The pipeline names the stage {path}, which is none; name a class made from Stage.")
    return found


def run(cfg: DictConfig) -> None:
    """Check the configuration, build the pipeline and do what is not done."""
    config.prepare(cfg)
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    pipeline = build(cfg, [override.split("=")[0].lstrip("+~") for override in overrides])
    pipeline.run(
        only=cfg.run.only,
        start=cfg.run.start,
        force=cfg.run.force,
        dry=cfg.run.dry,
        verify=cfg.run.verify,
        workers=cfg.run.workers,
    )


def start(config_path: Path, config_name: str, *, say: Callable[[str], str] = str) -> None:
    """Entry of a main: Hydra, then `run`; a user's mistake ends with one or two sentences and exit code 1.

    The traceback of such a mistake is shown when the environment has ``HYDRA_FULL_ERROR=1``. Of the processes that
    torchrun or Slurm started, rank 0 does the work and the others train with it. ``--help`` is answered here. ``say``
    turns what users read into the words of the program that they started.
    """
    arguments = sys.argv[1:]
    wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if {"--help", "-h"} & set(arguments):  # Hydra's own lists the options of every job, and needs seconds for it
        with _sentences(wanted, say):
            sys.stdout.write(say(help_text(config_path, config_name, arguments)))
        return
    with _sentences(wanted, say):
        follower = launch.group().rank > 0
    if follower:
        with _interruptible(), _sentences(wanted, say):
            launch.meet()
        with _sentences(wanted, say):
            launch.follow()
        return
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands an exception over instead of printing it

    begun = [word for word in arguments if word in ("-m", "--multirun")]  # a list, which goes to other processes

    def job(cfg: DictConfig) -> None:
        begun.append("job")
        with _sentences(wanted, say):
            run(cfg)

    with _interruptible(), _sentences(wanted, say), _composing(begun):
        sys.argv[1:] = check_options(config_path, config_name, arguments)
        launch.meet()
        hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)(job)()
    launch.dismiss()


@contextmanager
def _interruptible() -> Iterator[None]:
    """End with one line and exit code 130 after Ctrl-C, with 143 after SIGTERM, and leave no worker behind."""

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()  # others cannot take signals
    before = signal.signal(signal.SIGTERM, terminate) if in_main else None
    try:
        yield
    except KeyboardInterrupt:
        end_workers()
        sys.stderr.write("Interrupted; the same command goes on where this one stopped.\n")
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            end_workers()
            sys.stderr.write("Terminated; the same command goes on where this one stopped.\n")
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _composing(begun: Sequence[str]) -> Iterator[None]:
    """Take what goes wrong before a job has begun for a mistake on the command line, of whatever kind it is.

    The jobs of a sweep may be those of other processes: what they have begun is not known here.
    """
    try:
        yield
    except (*SPOKEN, OSError):
        raise
    except Exception as error:
        if begun:
            raise
        raise UserError(f"Hydra cannot make a configuration of the command line: {error}.") from error


@contextmanager
def _sentences(traceback_wanted: bool, say: Callable[[str], str] = str) -> Iterator[None]:
    """End the program with a sentence when the user has made a mistake."""
    try:
        yield
    except (*SPOKEN, OSError) as error:
        if traceback_wanted:
            raise
        sys.stderr.write(f"Error: {say(_sentence(error))}\n")
        raise SystemExit(1) from None


def _sentence(error: BaseException) -> str:
    """What a user needs to know of an error, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options:
        options = [name for name in error.options if not name.startswith("_")]  # what options share is none itself
        return f"{str(error).splitlines()[0]}; the options are {', '.join(options)}."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}. Choose another place, or name, for it."
    noise = ("full_key", "object_type", "reference_type", "To append")
    lines = [line.strip().rstrip(".") for e in (error, error.__cause__) if e for line in str(e).splitlines()]
    sentences = [line for line in lines if line and not line.startswith(noise)]
    return ". ".join(dict.fromkeys(sentences[:2])) + ". --cfg job prints all keys and their values."
