"""The map that a network is asked for."""

from collections.abc import Iterable

import numpy as np

from cmbml.config.truth import corrects
from cmbml.core.asset import Item
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.fields import field_map


class Label(SimStage):
    """Noise-free map of `delens.label`: ``kappa``, or a target and a field, ``unlensed_B``, ``lensing_E`` ...

    The convergence has no beam and no unit; ``unlensed`` is the unlensed sky, ``lensing`` the lensed minus the unlensed
    one, both with the beam of the observation.
    """

    name = "label"
    inputs = ("unlensed_alm", "lensed_alm")
    outputs = ("label",)
    uses = ("delens.label", "delens.fwhm_arcmin", "sky.nside", "sky.lmax")
    reads = ("splits", "delens.field", "delens.target")  # which make the label
    memory = "14 map"
    varies = False  # nothing is learnt from them

    def items(self) -> Iterable[Item]:
        """Every sky, unless a network is asked for a correction, whose map the network's own stages make."""
        return [] if corrects(self.cfg) else super().items()

    def run(self, item: Item, *, unlensed_alm: dict[str, np.ndarray], lensed_alm: dict[str, np.ndarray]) -> SkyMap:
        """Map of one field, uK_CMB or without unit, RING."""
        sky = self.cfg.sky
        label = self.cfg.delens.label
        if label == "kappa":
            data = sht.synthesis(unlensed_alm["kappa"].astype(complex), sky.nside)
            return SkyMap(data[None], ("kappa",), "1", 0.0, sky.lmax, "lensing convergence")
        target, field = label.split("_")
        alms = {x: unlensed_alm[x] if target == "unlensed" else lensed_alm[x] - unlensed_alm[x] for x in lensed_alm}
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        data = field_map(alms, field, nside=sky.nside, fwhm_arcmin=fwhm_arcmin)
        return SkyMap(data[None], (field,), "uK_CMB", fwhm_arcmin, sky.lmax, f"{target} CMB without noise")
