"""From a configuration to a finished run, and from a user's mistake to a sentence."""

import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmbml.core import config
from cmbml.core.asset import Assets
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline, unread
from cmbml.core.provenance import flatten
from cmbml.core.stage import Stage

ENGINE_KEYS = ("system", "run", "assets", "pipeline", "sims.stages", "method", "analysis.stages")


def build(cfg: DictConfig) -> Pipeline:
    """Pipeline of a prepared configuration; refuses keys that nothing reads."""
    stages = [_stage_class(path)(cfg) for path in cfg.pipeline]
    root_keys = [key for key in cfg if not OmegaConf.is_config(cfg[key])]
    keys = [key for key in flatten(OmegaConf.to_container(cfg, resolve=True)) if key not in root_keys]
    left = [key for key in unread(keys, stages) if not any(key == e or key.startswith(f"{e}.") for e in ENGINE_KEYS)]
    if left:
        raise UserError(f"The setting {left[0]} is read by no stage of this pipeline; remove it or correct its name.")
    return Pipeline(stages, Assets(cfg.assets.files, cfg.assets.constants))


def _stage_class(path: str) -> type[Stage]:
    try:
        return hydra.utils.get_class(path)
    except Exception as error:
        raise UserError(f"The pipeline names the stage {path}, which cannot be imported: {error}") from None


def run(cfg: DictConfig) -> None:
    """Check the configuration, build the pipeline and do what is not done."""
    config.prepare(cfg)
    build(cfg).run(**OmegaConf.to_container(cfg.run))


def start(config_path: Path, config_name: str) -> None:
    """Entry of a main: Hydra, then `run`; a user's mistake ends with one or two sentences and exit code 1.

    The traceback of such a mistake is shown when the environment has ``HYDRA_FULL_ERROR=1``.
    """
    config.register()
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands the exception over instead of printing it
    try:
        hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)(run)()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if traceback_wanted:
            raise
        sys.stderr.write(f"Error: {_sentence(error)}\n")
        sys.exit(1)


def _sentence(error: BaseException) -> str:
    """What a user needs to know of an error, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename} cannot be used: {error.strerror}. Choose another system.root."
    lines = [line.strip() for e in (error, error.__cause__) if e for line in str(e).splitlines() if line.strip()]
    told = [
        line
        for line in lines
        if not line.startswith(("full_key", "object_type", "To append", "reference_type", "See "))
    ]
    return ". ".join(dict.fromkeys(line.rstrip(".") for line in told[:3])) + "."
