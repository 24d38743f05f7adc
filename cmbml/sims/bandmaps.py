"""The observations of a many-band dataset, and the CMB that is in all of them."""

from collections.abc import Iterable

import numpy as np

from cmbml.config.truth import has_foregrounds
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.noise import NoisyStage
from cmbml.sky import sht


class CmbMap(SimStage):
    """The lensed CMB without beam and noise: the truth that methods are measured against."""

    name = "cmb_map"
    inputs = ("lensed_alm",)
    outputs = ("cmb_map",)
    uses = ("sky.nside", "sky.lmax", "sky.fields")

    def run(self, item: Item, *, lensed_alm: dict[str, np.ndarray]) -> SkyMap:
        """Map of `sky.fields`, uK_CMB, RING."""
        sky = self.cfg.sky
        maps = cmb_maps(lensed_alm, tuple(sky.fields), np.ones(sky.lmax + 1), sky.nside)
        return SkyMap(maps, tuple(sky.fields), "uK_CMB", 0.0, sky.lmax, "lensed CMB")


class ObserveBands(NoisyStage):
    """What a band sees of a sky: CMB and foregrounds with its beam, and noise."""

    name = "observe"
    inputs = ("lensed_alm", *NoisyStage.inputs, Optional("foreground", when=has_foregrounds))
    outputs = ("band",)
    uses = (*NoisyStage.uses, "foregrounds.kind")
    memory = "1 item"

    def items(self) -> Iterable[Item]:
        """One item a sky and band."""
        return self.bands_of_skies()

    def check(self) -> None:
        """Refuse a band without a beam."""
        self.demand_beams()

    def run(
        self,
        item: Item,
        *,
        lensed_alm: dict[str, np.ndarray],
        variance: SkyMap | None = None,
        foreground: SkyMap | None = None,
    ) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING."""
        maps = cmb_maps(lensed_alm, self.fields(item), self.beam(item), self.cfg.sky.nside)
        maps += self.noise(item, variance)
        note = f"lensed CMB, {self.cfg.noise.kind} noise"
        if foreground is not None:
            maps += foreground.select(self.fields(item))
            note += f", {foreground.note}"
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
