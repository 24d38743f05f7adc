"""The stage of the Wiener filter."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import filtered
from cmbml.methods.shared.filters import wiener
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam


class WienerTemplate(SimStage):
    """The observed B times C^lensing / (C^lensing + N): right in power, and blind to what is lensing and what is not.

    It takes the primordial B away with the lensing; nobody should use it, and every table should show it.
    """

    name = "wiener"
    splits = ("test",)
    inputs = ("obs_alm", "filters")
    outputs = ("estimate",)
    uses = ("delens.field", "delens.fwhm_arcmin", "sky.nside", "sky.lmax")
    memory = "12 map"

    def items(self) -> list[Item]:
        """The test skies; only B has a lensing that is (nearly) all of its power."""
        if self.cfg.delens.field != "B":
            raise UserError(f"method=wiener filters the lensing out of B, not out of {self.cfg.delens.field}; field=B.")
        return list(super().items())

    def run(self, item: Item, *, obs_alm: dict[str, np.ndarray], filters: dict[str, np.ndarray]) -> SkyMap:
        """Map of the filtered B, uK_CMB, with the beam of the observation."""
        sky = self.cfg.sky
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        b = filtered(obs_alm, "B", wiener(filters["bb_lensing"], filters["noise_b"]), filters, fwhm_arcmin)
        data = sht.synthesis(sht.almxfl(b, gaussian_beam(fwhm_arcmin, sky.lmax)), sky.nside)
        return SkyMap(data[None], ("B",), "uK_CMB", fwhm_arcmin, sky.lmax, "Wiener-filtered B")
