"""Skies that exist already: maps of anyone's become a dataset in the project's own form."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import healpy as hp
import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import check_coordinates
from cmbml.config.files import demand_the_same_numbers, matching
from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage
from cmbml.maps.fitsfile import MEGAJANSKY
from cmbml.maps.foreign import ordering, read_map
from cmbml.maps.resample import resampled
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import SKY, BandStage, as_user_error, chosen
from cmbml.sky import dipole, instrument, sht
from cmbml.sky.pixel_window import pixel_window
from cmbml.sky.units import conversion

OF_CMB = ("K_CMB", "mK_CMB", "uK_CMB")
TEMPERATURES = (*OF_CMB, "K_RJ", "mK_RJ", "uK_RJ")
UNITS = (*TEMPERATURES, *MEGAJANSKY)


class ExternalMaps(BandStage):
    """A stage that brings files of others into the dataset; the mask says which of their pixels may be empty."""

    uses: ClassVar[tuple[str, ...]] = SKY
    reads: ClassVar[tuple[str, ...]] = (
        *BandStage.reads,
        "instrument.table",
        "instrument.min_fwhm_pixels",
        "instrument.fwhm_arcmin",
        "sims.external",
        "system.root",
        "dataset",
        "mask.kind",
    )
    inputs = (Optional("mask", when=masked),)

    def __init__(self, config: DictConfig):
        """Refuse settings that no external map can follow."""
        super().__init__(config)
        external = self.cfg.sims.external
        for group in ("foregrounds", "noise"):
            if config[group].kind != "none":
                raise UserError(f"sims=external takes skies as they are; leave {group}={config[group].kind} out.")
        for key, choices in (("unit", UNITS), ("truth_unit", OF_CMB)):
            if external[key] not in choices and external[key] is not None:
                raise UserError(
                    f"sims.external.{key}={external[key]} is not known; choose one of {', '.join(choices)}."
                )
        check_coordinates("sims.external.coordinates", external.coordinates)
        if not isinstance(external.resample, bool):
            raise UserError(f"sims.external.resample={external.resample} must be true or false.")
        fwhm = external.truth_fwhm_arcmin
        if not isinstance(fwhm, numbers.Real) or fwhm < 0:
            raise UserError(f"sims.external.truth_fwhm_arcmin={fwhm} must be a number that is not negative.")

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Files of each band, and of the truth under ``truth`` if there is one: the k-th is of sky k."""
        external = self.cfg.sims.external
        if "{band}" not in (external.obs or ""):
            raise UserError(
                f"sims.external.obs must be a pattern with {{band}}, like /maps/*_{{band}}.fits; it is {external.obs}."
            )
        files = {item["band"]: self._found("obs", band=item["band"]) for item in self.bands()}
        for name, paths in files.items():
            if not paths:
                raise UserError(
                    f"sims.external.obs={external.obs} finds no file of the band {name}; mend the pattern, or leave the"
                    " band out of instrument.bands."
                )
        if external.truth is not None:
            files["truth"] = self._found("truth")
        first, n = next((name, len(paths)) for name, paths in files.items())
        for name, paths in files.items():
            if len(paths) != n:
                key = "truth" if name == "truth" else "obs"
                raise UserError(
                    f"sims.external.{key}={external[key]} finds {len(paths)} files of {name} and {n} of {first}; a sky"
                    " needs one of each, bring what is missing or narrow the pattern."
                )
        demand_the_same_numbers(files, f"sims.external.obs={external.obs}")
        splits = {split: self.cfg.splits[split] for split in SimStage.splits}
        if sum(splits.values()) != n:
            asked = ", ".join(f"splits.{name}={of}" for name, of in splits.items())
            hint = (
                f"say splits.test={n}" if not (splits["train"] or splits["valid"]) else "they must be as many together"
            )
            raise UserError(f"sims.external.obs={external.obs} finds {n} skies, and {asked}; {hint}.")
        self._refuse_the_dataset_itself(files)
        return files

    def _found(self, key: str, **fields: str) -> list[Path]:
        """Files of a pattern in the order of the skies: split by split where it has ``{split}``."""
        pattern = self.cfg.sims.external[key]
        paths = []
        if "{split}" not in pattern:
            return matching(pattern, **fields)
        for split in SimStage.splits:
            n = self.cfg.splits[split]
            of_split = matching(pattern, split=split.capitalize(), **fields)
            if of_split and len(of_split) != n:
                raise UserError(
                    f"sims.external.{key}={pattern} finds {len(of_split)} skies of {split.capitalize()},"
                    f" and splits.{split} is {n}; say splits.{split}={len(of_split)}."
                )
            paths += of_split
        return paths

    def _refuse_the_dataset_itself(self, files: dict[str, list[Path]]) -> None:
        dataset = (Path(self.cfg.system.root) / self.cfg.dataset).resolve()
        for path in (path for paths in files.values() for path in paths):
            if path.resolve().is_relative_to(dataset):
                raise UserError(
                    f"{path} lies in the folder of the dataset={self.cfg.dataset} itself and might be overwritten;"
                    " choose another name for the dataset."
                )

    def skies(self) -> list[Item]:
        """One item a sky, after the files are found."""
        return super().skies() if self.files else []

    def path(self, name: str, item: Item) -> Path:
        """File of a band, or of the truth, for a sky: first come those for training, the test skies last."""
        earlier = SimStage.splits[: SimStage.splits.index(item["split"])]
        before = sum(self.cfg.splits[split] for split in earlier)
        return self.files[name][before + item["sim"]]

    def checked(self, name: str, item: Item) -> Path:
        """File of a band, or of the truth, for a sky, whose ordering is that of all."""
        path = self.path(name, item)
        first = next(iter(self.files.values()))[0]
        ordering_here = ordering(path)
        ordering_of_first = ordering(first)
        if ordering_here != ordering_of_first:
            raise UserError(
                f"{path} is {ordering_here} and {first} is {ordering_of_first}; bring all maps into one ordering."
            )
        return path

    def read(
        self,
        path: Path,
        fields: Sequence[str],
        factors: Mapping[str, float | None],
        unit: str,
        mask: SkyMap | None,
        beam: np.ndarray,
    ) -> tuple[np.ndarray, str]:
        """Maps of a file, and where they come from.

        ``unit`` is the key that may give their unit, ``beam`` (lmax + 1,) what they are convolved with if they are
        resampled: they lose the pixel window of the file.
        """
        external = self.cfg.sims.external
        nside = self.cfg.sky.nside
        data, note = read_map(
            path,
            nside,
            fields,
            factors,
            unit=external[unit],
            mask=mask,
            any_nside=external.resample,
            coordinates=external.coordinates,
            coordinates_key="sims.external.coordinates",
            unit_key=f"sims.external.{unit}",
            fields_key="sky.fields",
        )
        if not external.resample:
            return data, note
        has = hp.npix2nside(data.shape[1])
        lmax = min(len(beam) - 1, sht.accurate_lmax(has))
        data = resampled(data, fields, nside, beam[: lmax + 1] / pixel_window(has, lmax))
        return data, f"{note}, resampled from nside {has}"


class Truth(ExternalMaps):
    """The CMB of each sky without noise, where it is known: its map, and its alms with the beam that it has."""

    name = "cmb_map"
    version = 2
    outputs = ("cmb_map", "lensed_alm")
    uses = (*SKY, "sims.external.truth_unit", "sims.external.truth_fwhm_arcmin", "sims.external.resample")

    def items(self) -> Iterable[Item]:
        """One item a sky, or none."""
        return self.skies() if "truth" in self.files else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the sky."""
        return {"sims.external.truth": [self.path("truth", item)]}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Map of `sky.fields`, uK_CMB, RING; and the alms of T, E and B, as far as it has T, and Q with U."""
        external = self.cfg.sims.external
        sky = self.cfg.sky
        factors = {unit: conversion(unit, "uK_CMB", 100.0) for unit in OF_CMB}  # the same at all frequencies
        path = self.checked("truth", item)
        data, note = self.read(path, sky.fields, factors, "truth_unit", mask, np.ones(sky.lmax + 1))
        truth = SkyMap(data, tuple(sky.fields), "uK_CMB", float(external.truth_fwhm_arcmin), sky.lmax, note)
        alms = {}
        if "T" in truth.fields:
            alms["T"] = dipole.analysis_apart(truth["T"], sky.lmax, niter=3)
        if {"Q", "U"} <= set(truth.fields):
            alms |= zip("EB", sht.analysis(truth.select("QU"), sky.lmax, spin=2, niter=3), strict=True)
        return truth, {x: alm.astype(np.complex64) for x, alm in alms.items()}


class Observations(ExternalMaps):
    """What a band has seen of a sky."""

    name = "observe"
    version = 2
    outputs = ("band",)
    uses = (
        *SKY,
        "instrument.table",
        "instrument.contents",
        "sims.external.unit",
        "sims.external.resample",
        "instrument.fwhm_arcmin",
        "instrument.min_fwhm_pixels",
        "instrument.pixel_window",
    )

    def items(self) -> Iterable[Item]:
        """One item a sky and band."""
        return self.bands_of_skies()

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the sky and band beside what the instrument's table names."""
        return {**super().made_of(item), "sims.external.obs": [self.path(item["band"], item)]}

    def run(self, item: Item, *, mask: SkyMap | None = None) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING."""
        path = self.checked(item["band"], item)
        factors = to_uk_cmb(self, item)
        data, note = self.read(path, self.fields(item), factors, "unit", mask, self.wanted(item))
        return self.skymap(item, data, note)

    def wanted(self, item: Item) -> np.ndarray:
        """b_l that a band's map should have, (lmax + 1,), over that of its file; 1 if it is not resampled."""
        if not self.cfg.sims.external.resample:
            return np.ones(self.cfg.sky.lmax + 1)
        return over_own_beam(self, item)


def to_uk_cmb(stage: BandStage, item: Item) -> dict[str, float | None]:
    """How many uK_CMB one of each unit is in a band; None where neither table nor bandpass tells."""
    per_mjy = stage.uk_cmb_per_mjy_sr(item)
    factors: dict[str, float | None] = {unit: per_mjy and mjy * per_mjy for unit, mjy in MEGAJANSKY.items()}
    return factors | {unit: conversion(unit, "uK_CMB", *stage.bandpass(item)) for unit in TEMPERATURES}


def over_own_beam(stage: BandStage, item: Item) -> np.ndarray:
    """b_l that the maps of a band have over that of the band's own table, (lmax + 1,)."""
    wanted = stage.beam(item)
    own = chosen(stage.cfg.instrument).band(item["band"])
    has = as_user_error(instrument.beam, own, stage.cfg.sky.lmax, stage.table.with_suffix(""))
    return np.divide(wanted, has, out=np.zeros_like(wanted), where=has > 0)
