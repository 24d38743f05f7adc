"""Skies that exist already, for a delensing: maps of T, Q and U of anyone's, of one band or cleaned of many."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import check_coordinates
from cmbml.config.files import demand_the_same_numbers, matching
from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.errors import UserError, demand
from cmbml.core.stage import SimStage
from cmbml.maps.foreign import read_map
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.dipole import analysis_apart, seen_through
from cmbml.sky.observe import analysed
from cmbml.sky.units import conversion

UNITS = ("K_CMB", "mK_CMB", "uK_CMB")
TRUTHS = ("truth_unlensed", "truth_lensed", "truth_kappa")


class OwnMaps(SimStage):
    """A stage that brings maps of a user into the dataset; the mask says which of their pixels may be empty."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    inputs = (Optional("mask", when=masked),)
    reads = ("splits", "sims.external", "mask.kind")

    def __init__(self, config: DictConfig):
        """Refuse settings that no map can follow."""
        super().__init__(config)
        external = self.cfg.sims.external
        for key in ("unit", "truth_unit"):
            demand(
                external[key] is None or external[key] in UNITS,
                f"sims.external.{key}={external[key]} is not known; choose one of {', '.join(UNITS)}, or null for what"
                " files say.",
            )
        check_coordinates("sims.external.coordinates", external.coordinates)
        demand(
            (external.truth_unlensed is None) == (external.truth_lensed is None),
            "The lensing of a sky is told from the unlensed and the lensed truth; give sims.external.truth_unlensed and"
            " sims.external.truth_lensed, or neither.",
        )
        demand(
            external.truth_kappa is None or external.truth_lensed is not None,
            "sims.external.truth_kappa goes with sims.external.truth_unlensed and sims.external.truth_lensed; give"
            " them, too, or leave it out.",
        )

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Files of the observations, and of the truth as far as it is known, by their key: the k-th is of sky k.

        Raises
        ------
        UserError
            When they are not as many as test skies, or their names have other numbers.
        """
        external = self.cfg.sims.external
        if external.obs is None:
            raise UserError(
                "sims.external.obs is the file of the map that is delensed, or a pattern of several; give"
                " sims.external.obs=/path/to/map.fits."
            )
        n = self.cfg.splits.test
        files = {}
        for key in ("obs", *(key for key in TRUTHS if external[key] is not None)):
            pattern = external[key]
            found = matching(pattern)
            demand(bool(found), f"sims.external.{key}={pattern} finds no file; mend the pattern.")
            demand(
                len(found) == n,
                f"sims.external.{key}={pattern} finds {len(found)} files, and splits.test is {n}; say"
                f" splits.test={len(found)}, or narrow the pattern.",
            )
            files[key] = found
        demand_the_same_numbers(files, f"sims.external.obs={external.obs}")
        return files

    @property
    def columns(self) -> list[str]:
        """Of the maps that are read."""
        return [field for field in "TQU" if field in self.cfg.sky.fields or field != "T"]

    def read(self, key: str, item: Item, unit: str, mask: SkyMap | None) -> tuple[dict[str, np.ndarray], str]:
        """Maps (npix,) of a file, uK_CMB, RING, and where they come from; ``unit`` is the key that may give theirs."""
        external = self.cfg.sims.external
        data, note = read_map(
            self.files[key][item["sim"]],
            self.cfg.sky.nside,
            self.columns,
            {unit: conversion(unit, "uK_CMB", 100.0) for unit in UNITS},  # the same at all frequencies
            unit=external[unit],
            mask=mask,
            coordinates=external.coordinates,
            coordinates_key="sims.external.coordinates",
            unit_key=f"sims.external.{unit}",
            fields_key="sky.fields",
        )
        return dict(zip(self.columns, data, strict=True)), note


class OwnSky(OwnMaps):
    """Maps of a user as what `Observe` makes of a simulated sky: times the mask, analysed, with scalar E and B.

    Their beam is `delens.fwhm_arcmin` and their noise that of the group `instrument`, as the user says it. Monopole and
    dipole of T are taken out.
    """

    name = "observe"
    version = 2
    outputs = ("obs", "obs_alm")
    uses = ("delens.fwhm_arcmin", "sky.nside", "sky.lmax", "sky.fields", "sims.external.unit")

    def items(self) -> Iterable[Item]:
        """The test skies, after their files are found; no other has any."""
        lacking = [split for split in ("train", "valid") if self.cfg.splits[split]]
        if lacking:
            raise UserError(
                f"sims=external delenses test skies alone, and none can be learnt from; splits.{lacking[0]}=0."
            )
        return super().items() if self.files else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the sky."""
        return {"sims.external.obs": [self.files["obs"][item["sim"]]]}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Maps of `sky.fields`, uK_CMB, RING, and the alms found in them, with the beam."""
        sky = self.cfg.sky
        given, note = self.read("obs", item, "unit", mask)
        weight = np.ones(1) if mask is None else mask["mask"].astype(np.float64)
        pixels = {field: seen_through(m, weight) if field == "T" else m * weight for field, m in given.items()}
        maps, alms = analysed(pixels, tuple(sky.fields), sky.lmax)
        found = np.stack([maps[field] for field in sky.fields])
        obs = SkyMap(found, tuple(sky.fields), "uK_CMB", self.cfg.delens.fwhm_arcmin, sky.lmax, note)
        return obs, {x: alm.astype(np.complex64) for x, alm in alms.items()}


class OwnTruth(OwnMaps):
    """The unlensed and the lensed sky of each observation, and its convergence, as far as a user knows them.

    Maps of the full sky without noise; the beam `sims.external.truth_fwhm_arcmin` is taken out of the first two.
    """

    name = "truth"
    outputs = ("unlensed_alm", "lensed_alm")
    uses = (
        "sky.nside",
        "sky.lmax",
        "sky.fields",
        "sims.external.truth_unit",
        "sims.external.truth_fwhm_arcmin",
    )

    def items(self) -> Iterable[Item]:
        """The test skies, or none where nobody knows their truth."""
        return super().items() if "truth_lensed" in self.files else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The files of the truth of the sky."""
        return {f"sims.external.{key}": [self.files[key][item["sim"]]] for key in TRUTHS if key in self.files}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Alms of E and B, uK_CMB, of T where `sky.fields` has it; of the unlensed sky ``kappa``, too, if known."""
        sky = self.cfg.sky
        beam = gaussian_beam(self.cfg.sims.external.truth_fwhm_arcmin, sky.lmax)
        skies = []
        for key in ("truth_unlensed", "truth_lensed"):
            maps, _ = self.read(key, item, "truth_unit", mask)
            pair = np.stack([maps["Q"], maps["U"]])
            alms = dict(zip("EB", sht.analysis(pair, sky.lmax, spin=2, niter=3), strict=True))
            if "T" in maps:
                alms["T"] = analysis_apart(maps["T"], sky.lmax, niter=3)
            skies.append({x: sht.almxfl(alm, 1 / beam).astype(np.complex64) for x, alm in alms.items()})
        unlensed, lensed = skies
        if "truth_kappa" in self.files:
            unlensed["kappa"] = self.convergence(item, mask)
        return unlensed, lensed

    def convergence(self, item: Item, mask: SkyMap | None) -> np.ndarray:
        """Alms (nalm,) of the true convergence."""
        external = self.cfg.sims.external
        (kappa,), _ = read_map(
            self.files["truth_kappa"][item["sim"]],
            self.cfg.sky.nside,
            ["kappa"],
            {"1": 1.0},
            unit="1",
            mask=mask,
            coordinates=external.coordinates,
            coordinates_key="sims.external.coordinates",
            unit_key="sims.external.truth_kappa",
            fields_key="sims.external.truth_kappa",
        )
        return sht.analysis(kappa, self.cfg.sky.lmax, niter=3).astype(np.complex64)
