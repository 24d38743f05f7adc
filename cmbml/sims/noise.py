"""Noise of the bands of a dataset: pixel variances that are alike for all skies, and one draw a sky and band."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from cmbml.config.truth import has_uneven_noise
from cmbml.core.asset import Input, Item, Optional
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.maps.variance import read_variance
from cmbml.sims.bands import DRAWN, INSTRUMENT, NOISE, BandStage, as_user_error, noise_law, pixel_level
from cmbml.sky import noise


class Variance(BandStage):
    """Pixel variances of a band's noise: of a synthetic scan with the band's noise levels, or from a frequency map."""

    name = "variance"
    version = 2
    outputs = ("variance",)
    uses = (*INSTRUMENT, *NOISE, "sky.nside", "sky.fields", "noise.kind", "noise.files")
    reads = (*BandStage.reads, "noise.folder")
    memory = "20 map"

    def items(self) -> Iterable[Item]:
        """One item a band, where the noise is uneven."""
        return self.bands() if has_uneven_noise(self.cfg) else []

    def check(self) -> None:
        """Refuse a band that `noise.files` does not name."""
        if self.cfg.noise.kind == "variance_map":
            for item in self.bands():
                self.path(item["band"])

    def run(self, item: Item) -> SkyMap:
        """Maps of the variances of the band's fields, uK_CMB^2, RING."""
        band = self.instrument.band(item["band"])
        fields = self.fields(item)
        nside = self.cfg.sky.nside
        if self.cfg.noise.kind == "scan":
            maps = np.stack([as_user_error(noise.scan_variance, nside, pixel_level(band, field)) for field in fields])
            note = "variance of a synthetic scan"
        else:
            path = self.file(band.name)
            maps = read_variance(path, nside, fields, uk_cmb_per_mjy_sr=self.uk_cmb_per_mjy_sr(item))
            note = f"variance of {path.name}"
        return SkyMap(maps, fields, "uK_CMB^2", 0.0, 3 * nside - 1, note)

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The frequency map beside what the table names."""
        known = self.cfg.noise.kind == "variance_map" and item["band"] in self.cfg.noise.files
        return {**super().made_of(item), **({"noise.files": [self.path(item["band"])]} if known else {})}

    def path(self, band: str) -> Path:
        """Where the frequency map of a band lies."""
        files = self.cfg.noise.files
        if band not in files:
            raise UserError(f"noise.files names no variance map of the band {band}; add it, or leave the band out.")
        return Path(self.cfg.noise.folder).expanduser() / files[band]

    def file(self, band: str) -> Path:
        """Frequency map of a band, which is there."""
        path = self.path(band)
        if not path.is_file():
            raise UserError(
                f"The variance map {path} is missing; fetch it with  python get_data/fetch.py assets --only"
                f" planck_{band:>03}, or take noise=scan."
            )
        return path


class NoisyStage(BandStage):
    """A stage that draws the noise of a band of a sky."""

    inputs: ClassVar[tuple[Input, ...]] = (Optional("variance", when=has_uneven_noise),)
    uses: ClassVar[tuple[str, ...]] = (*BandStage.uses, *NOISE, "noise.kind", *DRAWN, "sky.seed")

    def noise(self, item: Item, variance: SkyMap | None) -> np.ndarray:
        """Noise of a band of a sky, (fields, npix): the same whoever asks."""
        cfg = self.cfg.noise
        fields = self.fields(item)
        if cfg.kind == "none":
            return np.zeros((len(fields), 12 * self.cfg.sky.nside**2))
        maps = {}
        if "T" in fields:
            of = None if variance is None else cfg.factor**2 * variance.select("T")
            maps["T"] = self.draw(item, "T", of)[0]
        if "Q" in fields or "U" in fields:
            of = None if variance is None else cfg.factor**2 * variance.select([x for x in "QU" if x in fields])
            maps |= zip("QU", self.draw(item, "P", of), strict=True)
        return np.stack([maps[field] for field in fields])

    def draw(self, item: Item, kind: str, variance: np.ndarray | None) -> np.ndarray:
        """One draw of T, or of Q and U (``kind`` P)."""
        cfg = self.cfg.noise
        band = self.instrument.band(item["band"])
        sky = (self.cfg.sky.seed, item["split"], item["sim"])
        known = None if variance is None else noise.white_level(variance).mean()
        laws = [
            noise_law(band, x, factor=cfg.factor, knee=cfg.knee, white=known) for x in ("T" if kind == "T" else "EB")
        ]
        shared = None
        if band.tube and cfg.tube_correlation > 0:
            shared = (self.rng(f"noise/{kind}/tube", *sky, band.tube), cfg.tube_correlation)
        return noise.knee_noise(
            self.rng(f"noise/{kind}", *sky, band.name),
            self.cfg.sky.nside,
            *laws[0],
            spin=0 if kind == "T" else 2,
            of_b=None if kind == "T" else laws[1],
            shared=shared,
            variance=variance,
        )


class NoiseMaps(NoisyStage):
    """The noise of each sky and band alone, as it is in the observation; on request (`foregrounds.components`)."""

    name = "noise"
    outputs = ("noise",)
    reads = (*BandStage.reads, "foregrounds.components")
    memory = "12 map"

    def items(self) -> Iterable[Item]:
        """One item a sky and band, if components are asked for and there is noise."""
        wanted = self.cfg.foregrounds.components and self.cfg.noise.kind != "none"
        return self.bands_of_skies() if wanted else []

    def run(self, item: Item, *, variance: SkyMap | None = None) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING."""
        return self.skymap(item, self.noise(item, variance), f"{self.cfg.noise.kind} noise")
