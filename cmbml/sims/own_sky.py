"""Skies that exist already, for a delensing: maps of T, Q and U of anyone's, of one band or cleaned of many."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import check_coordinates
from cmbml.config.files import matching
from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.errors import UserError, demand
from cmbml.core.stage import SimStage
from cmbml.maps.foreign import read_map
from cmbml.maps.skymap import SkyMap
from cmbml.sky.dipole import without_dipole
from cmbml.sky.observe import analysed
from cmbml.sky.units import conversion

UNITS = ("K_CMB", "mK_CMB", "uK_CMB")


class OwnSky(SimStage):
    """Maps of a user as what `Observe` makes of a simulated sky: times the mask, analysed, with scalar E and B.

    Their beam is `delens.fwhm_arcmin` and their noise that of the group `instrument`, as the user says it. Monopole and
    dipole of T are taken out.
    """

    name = "observe"
    splits = ("test",)
    inputs = (Optional("mask", when=masked),)
    outputs = ("obs", "obs_alm")
    uses = ("delens.fwhm_arcmin", "sky.nside", "sky.lmax", "sky.fields", "sims.external.unit")
    reads = ("splits", "sims.external", "mask.kind")

    def __init__(self, config: DictConfig):
        """Refuse settings that no map can follow."""
        super().__init__(config)
        unit = self.cfg.sims.external.unit
        demand(
            unit is None or unit in UNITS,
            f"sims.external.unit={unit} is not known; choose one of {', '.join(UNITS)}, or null for what files say.",
        )
        check_coordinates("sims.external.coordinates", self.cfg.sims.external.coordinates)

    @cached_property
    def files(self) -> list[Path]:
        """The k-th is of sky k.

        Raises
        ------
        UserError
            When they are not as many as test skies.
        """
        pattern = self.cfg.sims.external.obs
        if pattern is None:
            raise UserError(
                "sims.external.obs is the file of the map that is delensed, or a pattern of several; give"
                " sims.external.obs=/path/to/map.fits."
            )
        found = matching(pattern)
        n = self.cfg.splits.test
        demand(bool(found), f"sims.external.obs={pattern} finds no file; mend the pattern.")
        demand(
            len(found) == n,
            f"sims.external.obs={pattern} finds {len(found)} files, and splits.test is {n}; say"
            f" splits.test={len(found)}, or narrow the pattern.",
        )
        return found

    def items(self) -> Iterable[Item]:
        """The test skies, after their files are found; no other has any."""
        lacking = [split for split in ("train", "valid") if self.cfg.splits[split]]
        if lacking:
            raise UserError(
                f"sims=external delenses skies of which nobody knows the truth, and none can be learnt from;"
                f" splits.{lacking[0]}=0."
            )
        return super().items() if self.files else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the sky."""
        return {"sims.external.obs": [self.files[item["sim"]]]}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Maps of `sky.fields`, uK_CMB, RING, and the alms found in them, with the beam."""
        sky = self.cfg.sky
        external = self.cfg.sims.external
        columns = [field for field in "TQU" if field in sky.fields or field != "T"]
        data, note = read_map(
            self.files[item["sim"]],
            sky.nside,
            columns,
            {unit: conversion(unit, "uK_CMB", 100.0) for unit in UNITS},  # the same at all frequencies
            unit=external.unit,
            mask=mask,
            coordinates=external.coordinates,
            coordinates_key="sims.external.coordinates",
            unit_key="sims.external.unit",
            fields_key="sky.fields",
        )
        weight = 1.0 if mask is None else mask["mask"].astype(np.float64)
        pixels = {field: m * weight for field, m in zip(columns, data, strict=True)}
        if "T" in pixels:
            pixels["T"], _ = without_dipole(pixels["T"])
        maps, alms = analysed(pixels, tuple(sky.fields), sky.lmax)
        found = np.stack([maps[field] for field in sky.fields])
        obs = SkyMap(found, tuple(sky.fields), "uK_CMB", self.cfg.delens.fwhm_arcmin, sky.lmax, note)
        return obs, {x: alm.astype(np.complex64) for x, alm in alms.items()}
