"""The stage that brings predictions of another program into the comparison."""

import numbers
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from cmbml.config.checks import check_coordinates
from cmbml.config.files import demand_the_same_numbers, matching
from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage
from cmbml.maps.foreign import read_map
from cmbml.maps.skymap import SkyMap
from cmbml.sky.units import conversion

UNITS = ("K_CMB", "mK_CMB", "uK_CMB")


class ReadPredictions(SimStage):
    """Maps that another program made of the test skies: in the order of their names, the k-th is of test sky k."""

    name = "read_predictions"
    splits = ("test",)
    inputs = (Optional("mask", when=masked),)
    outputs = ("prediction",)
    uses = ("clean.field", "sky.nside", "method.unit", "method.coordinates", "method.fwhm_arcmin", "method.lmax")
    reads = (
        *SimStage.reads,
        "method.name",
        "method.predictions",
        "sims.external",
        "system.root",
        "dataset",
        "mask.kind",
    )

    def __init__(self, config: DictConfig):
        """Refuse settings that no map can follow."""
        super().__init__(config)
        method = self.cfg.method
        most = 3 * self.cfg.sky.nside - 1
        if method.unit not in (*UNITS, None):
            raise UserError(f"method.unit={method.unit} is not known; choose one of {', '.join(UNITS)}.")
        check_coordinates("method.coordinates", method.coordinates)
        if not isinstance(method.fwhm_arcmin, numbers.Real) or method.fwhm_arcmin < 0:
            raise UserError(
                f"method.fwhm_arcmin={method.fwhm_arcmin} must be the beam that the predictions carry, in arcmin; 0 if"
                " they estimate the sky without any."
            )
        if not isinstance(method.lmax, int) or not 2 <= method.lmax <= most:
            raise UserError(f"method.lmax={method.lmax} must lie between 2 and 3 nside - 1 = {most}.")

    @cached_property
    def files(self) -> list[Path]:
        """File of each test sky."""
        method = self.cfg.method
        n = self.cfg.splits.test
        if not method.predictions:
            raise UserError("method.predictions names no files; give a pattern of maps, like /maps/cmb_*.fits.")
        paths = matching(method.predictions)
        if len(paths) != n:
            raise UserError(
                f"method.predictions={method.predictions} finds {len(paths)} files, and splits.test is {n}; a test sky"
                " needs one each, bring what is missing or narrow the pattern."
            )
        self._demand_the_same_numbers(paths)
        results = (Path(self.cfg.system.root) / self.cfg.dataset / method.name).resolve()
        for path in paths:
            if path.resolve().is_relative_to(results):
                raise UserError(f"{path} lies where method.name={method.name} writes; choose another name.")
        return paths

    def _demand_the_same_numbers(self, paths: list[Path]) -> None:
        """Refuse predictions whose numbers are not those of the truth of the test skies, where that is in files."""
        truth = matching(self.cfg.sims.external.get("truth") or "", split="Test")[-len(paths) :]
        if len(truth) == len(paths):
            demand_the_same_numbers({"the predictions": paths, "the truth": truth}, "method.predictions")

    def items(self) -> list[Item]:
        """The test skies, of which each must have a file."""
        return list(super().items()) if self.files else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the sky."""
        return {"method.predictions": [self.files[item["sim"]]]}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING, with the beam that it is said to have."""
        method = self.cfg.method
        fields = tuple(self.cfg.clean.field)
        factors = {unit: conversion(unit, "uK_CMB", 100.0) for unit in UNITS}  # the same at all frequencies
        data, note = read_map(
            self.files[item["sim"]],
            self.cfg.sky.nside,
            fields,
            factors,
            unit=method.unit,
            mask=mask,
            unit_key="method.unit",
            coordinates=method.coordinates,
            coordinates_key="method.coordinates",
            fields_key=f"field={self.cfg.clean.field}",
        )
        return SkyMap(data, fields, "uK_CMB", float(method.fwhm_arcmin), method.lmax, note)
