"""Cosmological parameters of each sky, and their spectra."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Item
from cmbml.sims import chains
from cmbml.sims.bands import as_user_error
from cmbml.sims.chains import MissingChain, with_chain
from cmbml.sims.variants import VariedStage
from cmbml.sky import cosmology


class Theory(VariedStage):
    """Draw the cosmology of a sky and compute its unlensed spectra with CAMB, up to `sky.lmax` + `sky.margin`.

    Sky after sky, with all cores: skies of one cosmology share a run of CAMB.
    """

    name = "theory"
    outputs = ("parameters", "cls")
    parallel = False
    differs_in = "cosmology"
    reads = (*VariedStage.reads, "system.root")
    uses = ("cosmology", "sky.seed", "sky.lmax", "sky.margin")
    memory = "380 MB"  # of CAMB

    def check(self) -> None:
        """Refuse a description that is none, and parameters that are out of range, of the first skies.

        A chain that is still to be fetched is no mistake: a dry run plans without it, a run says so at its first sky.
        """
        with contextlib.suppress(MissingChain):
            for item in itertools.islice(self.items(), 20):
                self.parameters(item)
        for item in self.items():
            key = f"sims.variants.{item['sim']}.cosmology"
            as_user_error(cosmology.demand_known, self.difference(item, {}), key)
            as_user_error(cosmology.demand_in_range, self.difference(item, {}), key)

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The files of the chain, if cosmologies are drawn from one."""
        description: Any = OmegaConf.to_container(self.cfg.cosmology)
        files = chains.files(description, Path(self.cfg.system.root))
        return {"cosmology.chain.path": files} if files else {}

    def parameters(self, item: Item) -> dict[str, float]:
        """Draw the parameters of a sky; a variant has some of its own in place of those that were drawn."""
        rng = self.rng("cosmology", self.cfg.sky.seed, *self.drawn_as(item))
        description: Any = OmegaConf.to_container(self.cfg.cosmology)
        spec = with_chain(description, Path(self.cfg.system.root))
        drawn: dict[str, float] = as_user_error(cosmology.draw_parameters, spec, rng)
        return {**drawn, **self.difference(item, {})}

    def run(self, item: Item) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Parameters, and spectra of `cmbml.sky.cosmology.spectra`."""
        parameters = self.parameters(item)
        lmax = self.cfg.sky.lmax + self.cfg.sky.margin
        return parameters, as_user_error(cosmology.spectra, parameters, lmax, key="cosmology: ")
