"""The map that a network is asked for."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam


class Label(SimStage):
    """Noise-free map of `delens.field`, with the beam of the observation.

    ``delens.target=unlensed`` is the unlensed sky, ``lensing`` the lensed minus the unlensed one.
    """

    name, inputs, outputs = "label", ("unlensed_alm", "lensed_alm"), ("label",)
    uses = ("delens.field", "delens.target", "instrument.fwhm_arcmin", "sky.nside", "sky.lmax")

    def run(self, item: Item, unlensed: dict[str, np.ndarray], lensed: dict[str, np.ndarray]) -> SkyMap:
        """Map of one field, uK_CMB, RING."""
        sky, field = self.cfg.sky, self.cfg.delens.field
        beam = gaussian_beam(self.cfg.instrument.fwhm_arcmin, sky.lmax)

        def target(x: str) -> np.ndarray:
            alm = unlensed[x] if self.cfg.delens.target == "unlensed" else lensed[x] - unlensed[x]
            return sht.almxfl(alm.astype(complex), beam)

        if field in "TEB":
            data = sht.synthesis(target(field), sky.nside)
        else:
            data = sht.synthesis(np.stack([target("E"), target("B")]), sky.nside, spin=2)["QU".index(field)]
        note = f"{self.cfg.delens.target} CMB without noise"
        return SkyMap(data[None], (field,), "uK_CMB", self.cfg.instrument.fwhm_arcmin, sky.lmax, note)

    def cost(self) -> tuple[float, float]:
        """One map on disk, two maps and two alms in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 8 * npix * 4
