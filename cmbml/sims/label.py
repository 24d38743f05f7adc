"""The map that a network is asked for."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage
from cmbml.sky.fields import field_map


class Label(SimStage):
    """Noise-free map of `delens.field`, with the beam of the observation.

    ``delens.target=unlensed`` is the unlensed sky, ``lensing`` the lensed minus the unlensed one.
    """

    name, inputs, outputs = "label", ("unlensed_alm", "lensed_alm"), ("label",)
    uses = ("delens.field", "delens.target", "instrument.fwhm_arcmin", "sky.nside", "sky.lmax")

    def run(self, item: Item, unlensed: dict[str, np.ndarray], lensed: dict[str, np.ndarray]) -> SkyMap:
        """Map of one field, uK_CMB, RING."""
        sky, field, target = self.cfg.sky, self.cfg.delens.field, self.cfg.delens.target
        alms = {x: unlensed[x] if target == "unlensed" else lensed[x] - unlensed[x] for x in lensed}
        fwhm_arcmin = self.cfg.instrument.fwhm_arcmin
        data = field_map(alms, field, nside=sky.nside, fwhm_arcmin=fwhm_arcmin)
        return SkyMap(data[None], (field,), "uK_CMB", fwhm_arcmin, sky.lmax, f"{target} CMB without noise")

    def cost(self) -> tuple[float, float]:
        """One map on disk, two maps and two alms in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 8 * npix * 4
