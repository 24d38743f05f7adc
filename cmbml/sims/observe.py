"""The lensed sky as an instrument sees it."""

import numpy as np

from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.observe import observe


class Observe(SimStage):
    """Beam, HEALPix sampling, white noise after the beam, analysis to `sky.lmax`; scalar E and B beside T, Q, U.

    The noisy T, Q and U are multiplied by the mask before the analysis, so that E and B are those of the masked sky.
    """

    name = "observe"
    inputs = ("lensed_alm", Optional("mask", when=masked))
    outputs = ("obs", "obs_alm")
    uses = ("instrument", "sky.seed", "sky.nside", "sky.lmax", "sky.fields")
    reads = ("splits", "mask.kind")

    def run(
        self, item: Item, *, lensed_alm: dict[str, np.ndarray], mask: SkyMap | None = None
    ) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Observed maps of `sky.fields`, uK_CMB, RING, and the alms found in them, with the beam."""
        sky = self.cfg.sky
        instrument = self.cfg.instrument
        maps, alms = observe(
            {x: alm.astype(complex) for x, alm in lensed_alm.items()},
            nside=sky.nside,
            lmax=sky.lmax,
            fwhm_arcmin=instrument.fwhm_arcmin,
            noise_t_uk_arcmin=instrument.noise_t_uk_arcmin,
            noise_p_uk_arcmin=instrument.noise_p_uk_arcmin,
            fields=tuple(sky.fields),
            mask=None if mask is None else mask["mask"],
            rngs={x: self.rng(f"noise/{x}", sky.seed, item["split"], item["sim"]) for x in "TP"},
        )
        note = f"lensed CMB, noise T {instrument.noise_t_uk_arcmin:.4g} P {instrument.noise_p_uk_arcmin:.4g} uK arcmin"
        data = np.stack([maps[x] for x in sky.fields])
        fwhm_arcmin = instrument.fwhm_arcmin
        obs = SkyMap(data, tuple(sky.fields), "uK_CMB", fwhm_arcmin, sky.lmax, note)
        return obs, {x: alm.astype(np.complex64) for x, alm in alms.items()}

    def cost(self) -> tuple[float, float]:
        """One column a field and three alms on disk; maps and alms in double precision in memory."""
        npix = 12 * self.cfg.sky.nside**2
        n = len(self.cfg.sky.fields)
        return 4 * n * npix + 24 * sht.alm_size(self.cfg.sky.lmax), 8 * npix * (2 * n + 6)
