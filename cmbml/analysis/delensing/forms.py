"""The native and common form of the maps of one sky, and the alms of its spectra."""

import numpy as np
from omegaconf import DictConfig

from cmbml.analysis.common import beam_ratio, common_form, deconvolved_alm
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam


class Forms:
    """The native and common form of maps of one sky, and the alms that their spectra are made of.

    Parameters
    ----------
    cfg : DictConfig
        With ``delens.field``, ``analysis.fwhm_arcmin`` and ``analysis.lmax``.
    sky : SkyMap
        The observation, or a prediction from it: its nside and beam count.
    mask : SkyMap or None
    """

    def __init__(self, cfg: DictConfig, sky: SkyMap, mask: SkyMap | None):
        self.cfg = cfg
        self.nside = sky.nside
        self.fwhm_arcmin = sky.fwhm_arcmin
        self.mask = None if mask is None else mask["mask"].astype(float)

    def tapered(self, m: np.ndarray) -> np.ndarray:
        """Give a map of the full sky the mask."""
        return m if self.mask is None else m * self.mask

    def alm(self, m: np.ndarray, *, times: int) -> np.ndarray:
        """Beam-deconvolved alms (nalm,) of a map, which is given the mask so many times."""
        m = m.astype(float) if self.mask is None else m * self.mask**times
        fwhm_arcmin = 0.0 if self.cfg.delens.field in "QU" else self.fwhm_arcmin
        return deconvolved_alm(m, fwhm_arcmin=fwhm_arcmin, lmax=self.cfg.analysis.lmax)

    def of(self, m: np.ndarray, alm: np.ndarray) -> dict[str, np.ndarray]:
        """Maps (npix,) by the name of their form, of a map with the mask; ``alm`` are its own where there is none."""
        a = self.cfg.analysis
        if self.cfg.delens.field in "QU":
            return {"native": m}
        if self.mask is None:
            beam = gaussian_beam(self.fwhm_arcmin, a.lmax) * beam_ratio(self.fwhm_arcmin, a.fwhm_arcmin, a.lmax)
            common = sht.synthesis(sht.almxfl(alm, beam), self.nside)
        else:
            common = common_form(m, fwhm_arcmin=self.fwhm_arcmin, to_fwhm_arcmin=a.fwhm_arcmin, lmax=a.lmax)
        return {"native": m, "common": common}
