"""The lensed sky as an instrument sees it."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage
from cmbml.sky.observe import observe


class Observe(SimStage):
    """Beam, HEALPix sampling, white noise after the beam, analysis to `sky.lmax`; scalar E and B beside T, Q, U."""

    name, inputs, outputs = "observe", ("lensed_alm",), ("obs",)
    uses = ("instrument", "sky.seed", "sky.nside", "sky.lmax", "sky.fields")

    def run(self, item: Item, lensed: dict[str, np.ndarray]) -> SkyMap:
        """Observed maps of `sky.fields`, uK_CMB, RING."""
        sky, instrument = self.cfg.sky, self.cfg.instrument
        maps = observe(
            {x: alm.astype(complex) for x, alm in lensed.items()},
            nside=sky.nside,
            lmax=sky.lmax,
            fwhm_arcmin=instrument.fwhm_arcmin,
            noise_t_uk_arcmin=instrument.noise_t_uk_arcmin,
            noise_p_uk_arcmin=instrument.noise_p_uk_arcmin,
            fields=tuple(sky.fields),
            rngs={x: self.rng(f"noise/{x}", sky.seed, item["split"], item["sim"]) for x in "TP"},
        )
        note = f"lensed CMB, noise T {instrument.noise_t_uk_arcmin:.4g} P {instrument.noise_p_uk_arcmin:.4g} uK arcmin"
        return SkyMap(
            np.stack([maps[x] for x in sky.fields]), tuple(sky.fields), "uK_CMB", instrument.fwhm_arcmin, sky.lmax, note
        )

    def cost(self) -> tuple[float, float]:
        """One column a field on disk; maps and alms in double precision in memory."""
        npix, n = 12 * self.cfg.sky.nside**2, len(self.cfg.sky.fields)
        return 4 * n * npix, 8 * npix * (2 * n + 6)
