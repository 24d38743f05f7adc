"""From what a method estimates to the delensed field: one stage for all methods."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import filtered
from cmbml.sky import sht
from cmbml.sky.fields import field_map
from cmbml.sky.lensing import phi_from_kappa
from cmbml.sky.quadratic import lensing_template


class Template(SimStage):
    """The lensing of the observed field as the estimate has it, and the field without it.

    An estimate of the convergence is handed to the exact operator: the observed Wiener-filtered E (or T), lensed by it
    to the first order or, with `quadratic.template=remap`, in full. An estimate of the lensing is the template itself,
    and one of the unlensed field is what subtracting it from the observed field leaves.
    """

    name = "lensing_template"
    splits = ("test",)
    inputs = ("estimate", "obs", "obs_alm", "filters")
    outputs = ("lensing_template", "prediction")
    uses = ("method.name", "method.target", "delens.field", "quadratic.template", "delens.fwhm_arcmin", "sky.lmax")

    def run(
        self,
        item: Item,
        *,
        estimate: SkyMap,
        obs: SkyMap,
        obs_alm: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
    ) -> tuple[SkyMap, SkyMap]:
        """Template and prediction, uK_CMB, with the beam of the observation."""
        field = self.cfg.delens.field
        target = self.cfg.method.target
        if target == "kappa":
            template = self._template(estimate["kappa"], obs_alm, filters, obs.nside)
        elif target == "lensing":
            template = estimate[field]
        else:
            template = obs[field] - estimate[field]
        note = f"by {self.cfg.method.name}, which estimates {target}"
        header = (field,), "uK_CMB", obs.fwhm_arcmin, obs.lmax
        return (
            SkyMap(np.asarray(template)[None], *header, f"lensing of {field} {note}"),
            SkyMap((obs[field] - template)[None], *header, f"delensed {field} {note}"),
        )

    def _template(
        self, kappa: np.ndarray, obs_alm: dict[str, np.ndarray], filters: dict[str, np.ndarray], nside: int
    ) -> np.ndarray:
        field = self.cfg.delens.field
        lmax = self.cfg.sky.lmax
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        phi = phi_from_kappa(sht.analysis(kappa, lmax))
        phi[[0, 1, lmax + 1]] = 0
        if field == "T":
            lensed = {"T": filtered(obs_alm, "T", filters["wiener_t"], filters, fwhm_arcmin)}
        else:
            lensed = {"E": filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin)}
        alms = lensing_template(lensed, phi, order=self.cfg.quadratic.template)
        return field_map(alms, field, nside=nside, fwhm_arcmin=fwhm_arcmin)
