"""Noise of the bands of a dataset: pixel variances that are alike for all skies, and one draw a sky and band."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from cmbml.config.truth import has_uneven_noise
from cmbml.core.asset import Input, Item, Optional
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.maps.variance import read_variance
from cmbml.sims.bands import INSTRUMENT, NOISE, BandStage, as_user_error
from cmbml.sky import noise
from cmbml.sky.instrument import Band


class Variance(BandStage):
    """Pixel variances of a band's noise: of a synthetic scan with the band's noise levels, or from a frequency map.

    A frequency map is known by its name: after changing its pixels, force this stage.
    """

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
                self.named(item["band"])

    def run(self, item: Item) -> SkyMap:
        """Maps of the variances of the band's fields, uK_CMB^2, RING."""
        band = self.instrument.band(item["band"])
        fields = self.fields(item)
        nside = self.cfg.sky.nside
        if self.cfg.noise.kind == "scan":
            maps = np.stack([as_user_error(noise.scan_variance, nside, level(band, field)) for field in fields])
            note = "variance of a synthetic scan"
        else:
            path = self.file(band.name)
            maps = read_variance(path, nside, fields, uk_cmb_per_mjy_sr=self.uk_cmb_per_mjy_sr(item))
            note = f"variance of {path.name}"
        return SkyMap(maps, fields, "uK_CMB^2", 0.0, 3 * nside - 1, note)

    def named(self, band: str) -> str:
        """What `noise.files` says of a band."""
        files = self.cfg.noise.files
        if band not in files:
            raise UserError(f"noise.files names no variance map of the band {band}; add it, or leave the band out.")
        return str(files[band])

    def file(self, band: str) -> Path:
        """Frequency map of a band."""
        path = Path(self.cfg.noise.folder).expanduser() / self.named(band)
        if not path.is_file():
            raise UserError(
                f"The variance map {path} is missing; fetch it with  python get_data/fetch.py assets --only"
                f" planck_{band:>03}, or take noise=scan."
            )
        return path


class NoisyStage(BandStage):
    """A stage that draws the noise of a band of a sky."""

    inputs: ClassVar[tuple[Input, ...]] = (Optional("variance", when=has_uneven_noise),)
    uses: ClassVar[tuple[str, ...]] = (*BandStage.uses, *NOISE, "noise.kind", "noise.factor", "noise.knee", "sky.seed")

    def noise(self, item: Item, variance: SkyMap | None) -> np.ndarray:
        """Noise of a band of a sky, (fields, npix): the same whoever asks."""
        cfg = self.cfg.noise
        fields = self.fields(item)
        if cfg.kind == "none":
            return np.zeros((len(fields), 12 * self.cfg.sky.nside**2))
        rng = {x: self.rng(f"noise/{x}", self.cfg.sky.seed, item["split"], item["sim"], item["band"]) for x in "TP"}
        band = self.instrument.band(item["band"])
        maps = {}
        if "T" in fields:
            of = None if variance is None else cfg.factor**2 * variance.select("T")
            maps["T"] = self.draw(rng["T"], level(band, "T"), (band.l_knee_t, band.alpha_t), 0, of)[0]
        if "Q" in fields or "U" in fields:
            of = None if variance is None else cfg.factor**2 * variance.select([x for x in "QU" if x in fields])
            maps |= zip("QU", self.draw(rng["P"], level(band, "Q"), (band.l_knee_p, band.alpha_p), 2, of), strict=True)
        return np.stack([maps[field] for field in fields])

    def draw(
        self,
        rng: np.random.Generator,
        level_uk_arcmin: float,
        knee: tuple[float, float],
        spin: int,
        variance: np.ndarray | None,
    ) -> np.ndarray:
        """One draw of T, or of Q and U."""
        cfg = self.cfg.noise
        nside = self.cfg.sky.nside
        w = cfg.factor * level_uk_arcmin if variance is None else noise.white_level(variance).mean()
        return noise.knee_noise(rng, nside, w, *(knee if cfg.knee else (0.0, 0.0)), spin=spin, variance=variance)


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


def level(band: Band, field: str) -> float:
    """White noise of a field, uK arcmin."""
    return band.noise_t_uk_arcmin if field == "T" else band.noise_p_uk_arcmin
