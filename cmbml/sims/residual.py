"""Foregrounds of observations: what is left of the maps of the bands when a map of the CMB is subtracted from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import healpy as hp
import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import check_coordinates
from cmbml.config.files import matching
from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.maps.foreign import read_map
from cmbml.maps.mask import read_mask
from cmbml.maps.resample import resampled
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import BandStage, as_user_error
from cmbml.sims.external import OF_CMB, UNITS, over_own_beam, to_uk_cmb
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.inpainting import inpainted
from cmbml.sky.pixel_window import pixel_window
from cmbml.sky.units import conversion

KEY = "foregrounds.residual"


class Residual(BandStage):
    """The foregrounds of a band as an observation has them: its map less a map of the CMB, holes filled.

    Both maps are brought to the beam and the pixels of the dataset in harmonic space, as far as either of them can be
    analysed. The noise of the observation is in the difference, and so is whatever the map of the CMB got wrong; it is
    one sky, the same in all skies of the dataset. Pixels of a hole have the mean of their neighbours
    (`cmbml.sky.inpainting`).
    """

    name = "foregrounds"
    outputs = ("foreground",)
    uses = (
        *BandStage.uses,
        "foregrounds.kind",
        "foregrounds.residual.unit",
        "foregrounds.residual.cmb_unit",
        "foregrounds.residual.cmb_fwhm_arcmin",
        "foregrounds.residual.fwhm_arcmin",
        "foregrounds.residual.holes.column",
        "foregrounds.residual.holes.threshold",
    )
    reads = (*BandStage.reads, "foregrounds.residual")  # the files are known by their contents

    def __init__(self, config: DictConfig):
        """Refuse units that are not known."""
        super().__init__(config)
        given = self.cfg.foregrounds.residual
        for key, choices in (("unit", UNITS), ("cmb_unit", OF_CMB)):
            if given[key] not in choices and given[key] is not None:
                raise UserError(f"{KEY}.{key}={given[key]} is not known; choose one of {', '.join(choices)}.")
        check_coordinates(f"{KEY}.coordinates", given.coordinates)
        check_coordinates(f"{KEY}.holes.coordinates", given.holes.coordinates)

    def items(self) -> Iterable[Item]:
        """One item a band: they are alike for all skies."""
        return self.bands()

    def check(self) -> None:
        """Refuse a band without a beam."""
        self.demand_beams()

    def path(self, key: str, **fields: str) -> Path:
        """The one file of a pattern.

        Raises
        ------
        UserError
            When there is none, or more than one.
        """
        pattern = self.cfg.foregrounds.residual[key]
        found = matching(pattern, **fields) if pattern else []
        if len(found) != 1:
            what = f" of the band {fields['band']}" if fields else ""
            raise UserError(
                f"{KEY}.{key}={pattern} finds {len(found)} files{what}, and one is needed; mend the pattern."
            )
        return found[0]

    def holes_file(self) -> Path | None:
        """The file that says which pixels are filled, if there is one."""
        name = self.cfg.foregrounds.residual.holes.file
        return Path(name).expanduser() if name else None

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The two maps and the holes, beside what the instrument's table names."""
        holes = self.holes_file()
        return {
            **super().made_of(item),
            f"{KEY}.obs": [self.path("obs", band=item["band"])],
            f"{KEY}.cmb": [self.path("cmb")],
            **({f"{KEY}.holes.file": [holes]} if holes else {}),
        }

    def run(self, item: Item) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING, with the band's beam or the wider `fwhm_arcmin`."""
        given = self.cfg.foregrounds.residual
        sky = self.cfg.sky
        hole = self.hole()
        paths = self.path("obs", band=item["band"]), self.path("cmb")
        of_cmb: dict[str, float | None] = {unit: conversion(unit, "uK_CMB", 100.0) for unit in OF_CMB}
        observed = self.read(paths[0], item, to_uk_cmb(self, item), "unit", hole)
        cmb = self.read(paths[1], item, of_cmb, "cmb_unit", hole)
        sides = [hp.npix2nside(maps.shape[1]) for maps in (observed, cmb)]
        lmax = min(sky.lmax, *map(sht.accurate_lmax, sides))
        smooth = self.widening(item, lmax)
        transfers = (
            over_own_beam(self, item)[: lmax + 1],
            self.beam(item)[: lmax + 1] / gaussian_beam(given.cmb_fwhm_arcmin, lmax),
        )
        left, of_the_cmb = (
            resampled(maps, self.fields(item), sky.nside, smooth * transfer / pixel_window(nside, lmax))
            for maps, nside, transfer in zip((observed, cmb), sides, transfers, strict=True)
        )
        filled = [as_user_error(inpainted, row, hole, key=f"{KEY}.holes.file: ") for row in left - of_the_cmb]
        note = f"RESIDUAL foregrounds, with noise: {paths[0].name} less {paths[1].name}, {hole.sum()} pixels inpainted"
        made = self.skymap(item, np.stack(filled), note.encode("ascii", "replace").decode())
        return replace(made, fwhm_arcmin=max(made.fwhm_arcmin, given.fwhm_arcmin or 0.0))

    def read(
        self, path: Path, item: Item, factors: Mapping[str, float | None], unit: str, hole: np.ndarray
    ) -> np.ndarray:
        """Maps of a file, uK_CMB, (fields, npix) of its own nside."""
        given = self.cfg.foregrounds.residual
        sky = self.cfg.sky
        maps, _ = read_map(
            path,
            sky.nside,
            self.fields(item),
            factors,
            unit=given[unit],
            mask=SkyMap(1.0 - hole[None], ("mask",), "1", 0.0, sky.lmax),
            any_nside=True,
            coordinates=given.coordinates,
            coordinates_key=f"{KEY}.coordinates",
            unit_key=f"{KEY}.{unit}",
            fields_key="sky.fields",
            mask_key=f"{KEY}.holes.file=...",
        )
        return maps

    def hole(self) -> np.ndarray:
        """Pixels of the dataset that are filled, bool (npix,)."""
        nside = self.cfg.sky.nside
        holes = self.cfg.foregrounds.residual.holes
        path = self.holes_file()
        if path is None:
            return np.zeros(12 * nside**2, dtype=bool)
        weights = read_mask(
            path,
            nside,
            column=holes.column,
            threshold=holes.threshold,
            coordinates=holes.coordinates,
            key=f"{KEY}.holes",
        )
        return weights <= holes.threshold

    def widening(self, item: Item, lmax: int) -> np.ndarray:
        """b_l of what makes the beam of a band as wide as `fwhm_arcmin`, (lmax + 1,); 1 where it is."""
        wanted = self.cfg.foregrounds.residual.fwhm_arcmin or 0.0
        missing = max(wanted**2 - self.instrument.band(item["band"]).fwhm_arcmin ** 2, 0.0) ** 0.5
        return gaussian_beam(missing, lmax)
