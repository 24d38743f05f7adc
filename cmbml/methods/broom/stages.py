"""The stage that runs BROOM's needlet ILC; the package is imported in the run alone."""

import importlib.util
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import has_parts
from cmbml.core.asset import Files, Item
from cmbml.core.errors import UserError, demand
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.foreign_ilc import ForeignIlc
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam


class Broom(ForeignIlc):
    """The NILC of BROOM (https://github.com/alecarones/broom) on T, E or B, with cosine needlets.

    It gets alms at the common beam and gives a map. It knows Gaussian beams alone, by which it leaves bands out of the
    scales that they do not resolve.
    """

    name = "broom"

    def __init__(self, config: DictConfig):
        """Refuse several fields at once."""
        super().__init__(config)
        if len(self.cfg.clean.field) > 1:
            raise UserError(f"method=broom recovers T, E or B, not field={self.cfg.clean.field}.")

    def check(self) -> None:
        """Refuse to begin without the package."""
        super().check()
        demand(
            importlib.util.find_spec("broom") is not None,
            "method=broom needs the package cmbroom, which the extra foreign brings (pip install -e '.[foreign]').",
        )

    def run(self, item: Item, *, bands: Files) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING, with the beam that was asked for."""
        from broom import Configs, component_separation

        alms = {}
        fwhm_arcmin = {}
        for i, band in enumerate(bands.items):
            sky = bands[i]
            if ("T" if self.cfg.clean.field == "T" else "Q") in sky.fields:
                alms[band["band"]] = self.alm(band, sky)
                fwhm_arcmin[band["band"]] = sky.fwhm_arcmin
        target = self.target(fwhm_arcmin.values())
        beam = gaussian_beam(target, self.lmax)
        total = SimpleNamespace(total=np.stack([sht.almxfl(alm, beam) for alm in alms.values()]))
        found = component_separation(Configs(config=self.asked(fwhm_arcmin, target)), total)
        return self.cleaned(found.total[0], target, "BROOM, NILC")

    def alm(self, item: Item, sky: SkyMap) -> np.ndarray:
        """Alms of a band to ELLMAX, without its beam."""
        field = self.cfg.clean.field
        if field == "T":
            alm = self.alms(sky.select("T"), self.lmax)[0]
        else:
            alm = self.alms(sky.select("QU"), self.lmax)["EB".index(field)]
        beam = 1 / self.beam(item)[: self.lmax + 1]
        if not has_parts(self.cfg):
            beam[:2] = 0  # monopole and dipole of maps of others would decide on the weights
        return sht.almxfl(alm, beam)

    def asked(self, fwhm_arcmin: Mapping[str, float], target: float) -> dict[str, Any]:
        """BROOM's configuration, for bands with these beams and a result with the beam ``target``."""
        field = self.cfg.clean.field
        bands = [self.instrument.band(name) for name in fwhm_arcmin]
        # it wants the last peak within the band limit
        needlets = {"needlet_windows": "cosine", "ell_peaks": [*self.peaks[:-1], self.lmax]}
        return {
            "nside": self.cfg.sky.nside,
            "lmin": 0,
            "lmax": self.lmax,
            "data_type": "alms",
            "field_in": field,
            "field_out": field,
            "fwhm_out": target,
            "units": "uK_CMB",
            "bring_to_common_resolution": False,
            "save_compsep_products": False,
            "return_compsep_products": True,
            "instrument": {"frequency": [b.center_ghz for b in bands], "fwhm": list(fwhm_arcmin.values())},
            "compsep": [
                {
                    "method": "ilc",
                    "domain": "needlet",
                    "needlet_config": needlets,
                    "ilc_bias": self.cfg.method.ILC_bias_tol,
                }
            ],
            **{f"generate_input_{part}": False for part in ("foregrounds", "noise", "cmb", "data")},
        }
