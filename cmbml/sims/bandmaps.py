"""The observations of a many-band dataset, and the CMB that is in all of them."""

from collections.abc import Iterable

import numpy as np
from omegaconf import DictConfig

from cmbml.core.asset import Item
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.noise import NoiseMaps
from cmbml.sky import sht


class CmbMap(SimStage):
    """The lensed CMB without beam and noise: the truth that methods are measured against."""

    name, inputs, outputs = "cmb_map", ("lensed_alm",), ("cmb_map",)
    uses = ("sky.nside", "sky.lmax", "sky.fields")

    def run(self, item: Item, lensed: dict[str, np.ndarray]) -> SkyMap:
        """Map of `sky.fields`, uK_CMB, RING."""
        sky = self.cfg.sky
        maps = cmb_maps(lensed, tuple(sky.fields), np.ones(sky.lmax + 1), sky.nside)
        return SkyMap(maps, tuple(sky.fields), "uK_CMB", 0.0, sky.lmax, "lensed CMB")

    def cost(self) -> tuple[float, float]:
        """One map."""
        npix = 12 * self.cfg.sky.nside**2 * len(self.cfg.sky.fields)
        return 4 * npix, 8 * npix * 3


class ObserveBands(NoiseMaps):
    """What a band sees of a sky: CMB and foregrounds with its beam, and noise."""

    name, inputs, outputs = "observe", ("lensed_alm",), ("obs",)
    uses = (*NoiseMaps.uses, "foregrounds.kind")

    def __init__(self, config: DictConfig):
        """Read the foregrounds if there are any, after the variances if there are any."""
        super().__init__(config)
        self.uneven, self.foregrounds = len(self.inputs) > 1, config.foregrounds.kind != "none"
        if self.foregrounds:
            self.inputs = (*self.inputs, "foreground")

    def items(self) -> Iterable[Item]:
        """One item a sky and band."""
        return self.bands_of_skies()

    def run(self, item: Item, lensed: dict[str, np.ndarray], *more: SkyMap) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING."""
        variance = more[0] if self.uneven else None
        maps = cmb_maps(lensed, self.fields(item), self.beam(item), self.cfg.sky.nside)
        maps += self.noise(item, variance)
        note = f"lensed CMB, {self.cfg.noise.kind} noise"
        if self.foregrounds:
            maps += more[-1].select(self.fields(item))
            note += f", {more[-1].note}"
        return self.skymap(item, maps, note)


def cmb_maps(alms: dict[str, np.ndarray], fields: tuple[str, ...], beam: np.ndarray, nside: int) -> np.ndarray:
    """Maps (fields, npix) of T, Q, U of a sky's alms with a beam."""
    seen = {x: sht.almxfl(alms[x].astype(np.complex128), beam) for x in "TEB"}
    maps = {}
    if "T" in fields:
        maps["T"] = sht.synthesis(seen["T"], nside)
    if set("QU") & set(fields):
        maps |= zip("QU", sht.synthesis(np.stack([seen["E"], seen["B"]]), nside, spin=2), strict=True)
    return np.stack([maps[field] for field in fields])
