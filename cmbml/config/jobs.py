"""The typed roots of the configuration: which groups and keys each job has."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from cmbml.config.limits import keyed, within
from cmbml.config.schema import (
    METHOD,
    NETWORK,
    NSIDE,
    TRAIN,
    Analysis,
    Assets,
    Clean,
    CleaningAnalysis,
    Compare,
    Cosmology,
    Delens,
    DelensSplits,
    Foregrounds,
    Instrument,
    LinearMap,
    Mask,
    Noise,
    Patches,
    Quadratic,
    Rotation,
    Run,
    Sims,
    Sky,
    Splits,
    System,
)


@dataclass
class Root:
    """What every job has."""

    nside: int = within(*NSIDE)
    dataset: str = MISSING
    system: System = dataclasses.field(default_factory=System)
    run: Run = dataclasses.field(default_factory=Run)
    sky: Sky = dataclasses.field(default_factory=Sky)
    cosmology: Cosmology = dataclasses.field(default_factory=Cosmology)
    instrument: Instrument = dataclasses.field(default_factory=Instrument)
    mask: Mask = dataclasses.field(default_factory=Mask)
    splits: Splits = dataclasses.field(default_factory=Splits)
    sims: Sims = dataclasses.field(default_factory=Sims)
    assets: Assets = dataclasses.field(default_factory=Assets)
    pipeline: list[str] = MISSING


@dataclass
class Config(Root):
    """Everything that `main_delens.py` knows; a method has keys of its own."""

    splits: DelensSplits = dataclasses.field(default_factory=DelensSplits)
    foregrounds: Foregrounds = dataclasses.field(default_factory=Foregrounds)
    noise: Noise = dataclasses.field(default_factory=Noise)
    field: str = MISSING
    scale: float = within(1e-9, 1e9)
    epochs: int = within(1, 1e6)
    rotation: Rotation = dataclasses.field(default_factory=Rotation)
    patches: Patches = dataclasses.field(default_factory=Patches)
    delens: Delens = dataclasses.field(default_factory=Delens)
    quadratic: Quadratic = dataclasses.field(default_factory=Quadratic)
    linear_map: LinearMap = dataclasses.field(default_factory=LinearMap)
    method: dict[str, Any] = keyed(METHOD)
    network: dict[str, Any] = keyed(NETWORK)
    train: dict[str, Any] = keyed(TRAIN)
    analysis: Analysis = dataclasses.field(default_factory=Analysis)


@dataclass
class SimsConfig(Root):
    """Everything that `main_sims.py` knows."""

    foregrounds: Foregrounds = dataclasses.field(default_factory=Foregrounds)
    noise: Noise = dataclasses.field(default_factory=Noise)


@dataclass
class CleanConfig(SimsConfig):
    """Everything that `main_clean.py` knows; a method has keys of its own."""

    field: str = MISSING
    scale: float = within(1e-9, 1e9)
    epochs: int = within(1, 1e6)
    clean: Clean = dataclasses.field(default_factory=Clean)
    rotation: Rotation = dataclasses.field(default_factory=Rotation)
    patches: Patches = dataclasses.field(default_factory=Patches)
    method: dict[str, Any] = keyed(METHOD)
    network: dict[str, Any] = keyed(NETWORK)
    train: dict[str, Any] = keyed(TRAIN)
    analysis: CleaningAnalysis = dataclasses.field(default_factory=CleaningAnalysis)


@dataclass
class CompareConfig(Config):
    """What `main_analysis_compare.py` knows beside, of delensing methods."""

    compare: Compare = dataclasses.field(default_factory=Compare)


@dataclass
class CompareCleanConfig(CleanConfig):
    """What `main_analysis_compare.py` knows beside, of cleaning methods."""

    compare: Compare = dataclasses.field(default_factory=Compare)
