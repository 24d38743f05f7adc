"""Cosmological parameters of each sky, and their spectra."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Item
from cmbml.core.stage import SimStage
from cmbml.sims import chains
from cmbml.sims.bands import as_user_error
from cmbml.sims.chains import MissingChain, with_chain
from cmbml.sky import cosmology


class Theory(SimStage):
    """Draw the cosmology of a sky and compute its unlensed spectra with CAMB, up to `sky.lmax` + `sky.margin`.

    Sky after sky, with all cores: skies of one cosmology share a run of CAMB.
    """

    name = "theory"
    outputs = ("parameters", "cls")
    parallel = False
    reads = ("splits", "system.root")
    uses = ("cosmology", "sky.seed", "sky.lmax", "sky.margin")
    memory = "380 MB"  # of CAMB

    def check(self) -> None:
        """Refuse a description that is none, and parameters that are out of range, of the first skies.

        A chain that is still to be fetched is no mistake: a dry run plans without it, a run says so at its first sky.
        """
        with contextlib.suppress(MissingChain):
            for item in itertools.islice(self.items(), 20):
                self.parameters(item)

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The files of the chain, if cosmologies are drawn from one."""
        description: Any = OmegaConf.to_container(self.cfg.cosmology)
        files = chains.files(description, Path(self.cfg.system.root))
        return {"cosmology.chain.path": files} if files else {}

    def parameters(self, item: Item) -> dict[str, float]:
        """Draw the parameters of a sky."""
        rng = self.rng("cosmology", self.cfg.sky.seed, item["split"], item["sim"])
        description: Any = OmegaConf.to_container(self.cfg.cosmology)
        spec = with_chain(description, Path(self.cfg.system.root))
        drawn: dict[str, float] = as_user_error(cosmology.draw_parameters, spec, rng)
        return drawn

    def run(self, item: Item) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Parameters, and spectra of `cmbml.sky.cosmology.spectra`."""
        parameters = self.parameters(item)
        lmax = self.cfg.sky.lmax + self.cfg.sky.margin
        return parameters, as_user_error(cosmology.spectra, parameters, lmax, key="cosmology: ")
