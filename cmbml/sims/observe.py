"""The lensed sky as an instrument sees it."""

from dataclasses import replace

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import one_band
from cmbml.sims.variants import VariedStage
from cmbml.sky.instrument import Band
from cmbml.sky.observe import observe


class Observe(VariedStage):
    """Beam, HEALPix sampling, the band's noise after the beam, analysis to `sky.lmax`; scalar E and B beside T, Q, U.

    The noisy T, Q and U are multiplied by the mask before the analysis, so that E and B are those of the masked sky.
    """

    name = "observe"
    inputs = ("lensed_alm", Optional("mask", when=masked))
    outputs = ("obs", "obs_alm")
    uses = ("instrument", "delens.fwhm_arcmin", "sky.seed", "sky.nside", "sky.lmax", "sky.fields")
    reads = (*VariedStage.reads, "mask.kind")
    differs_in = "noise"

    def __init__(self, config: DictConfig):
        """Refuse an instrument that has no one band to observe with."""
        super().__init__(config)
        self.band = one_band(self.cfg.instrument)

    def run(
        self, item: Item, *, lensed_alm: dict[str, np.ndarray], mask: SkyMap | None = None
    ) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Observed maps of `sky.fields`, uK_CMB, RING, and the alms found in them, with the beam."""
        sky = self.cfg.sky
        band = _noisier(self.band, self.difference(item, 1.0))
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        maps, alms = observe(
            {x: alm.astype(complex) for x, alm in lensed_alm.items()},
            nside=sky.nside,
            lmax=sky.lmax,
            fwhm_arcmin=fwhm_arcmin,
            noise_t_uk_arcmin=band.noise_t_uk_arcmin,
            noise_p_uk_arcmin=band.noise_p_uk_arcmin,
            knee_t=(band.l_knee_t, band.alpha_t),
            knee_p=(band.l_knee_p, band.alpha_p),
            noise_b=band.noise("B"),
            fields=tuple(sky.fields),
            mask=None if mask is None else mask["mask"],
            rngs={x: self.rng(f"noise/{x}", sky.seed, *self.drawn_as(item)) for x in "TP"},
        )
        note = f"lensed CMB, noise T {band.noise_t_uk_arcmin:.4g} P {band.noise_p_uk_arcmin:.4g} uK arcmin"
        data = np.stack([maps[x] for x in sky.fields])
        obs = SkyMap(data, tuple(sky.fields), "uK_CMB", fwhm_arcmin, sky.lmax, note)
        return obs, {x: alm.astype(np.complex64) for x, alm in alms.items()}


def _noisier(band: Band, factor: float) -> Band:
    """A band with so many times the noise."""
    levels = ("noise_t_uk_arcmin", "noise_p_uk_arcmin", "noise_b_uk_arcmin")
    return replace(band, **{name: factor * getattr(band, name) for name in levels})
