"""The stages of the linear MAP: its weights, the solution, and the map that it is handed on as."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from cmbml.config.truth import sees_linear_map
from cmbml.core.asset import Item
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import filtered, kappa_map
from cmbml.sky import linear_map
from cmbml.sky.lensing import kappa_from_phi


class Weights(Stage):
    """Inverse noise of B, inverse power of the potential, and the preconditioner: one set for all skies."""

    name = "linear_weights"
    inputs = ("filters",)
    outputs = ("linear_weights",)
    uses = ("delens.lmin_b",)
    memory = "12 alm"  # of Wigner functions

    def run(self, item: Item, *, filters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays (lmax + 1,) of `cmbml.sky.linear_map.Weights`."""
        tensor = filters["bb"] - filters["bb_lensing"]
        cls = {"lensed_ee": filters["ee"], "lensed_bb": filters["bb"], "bb": tensor, "pp": filters["pp"]}
        weights = linear_map.weights(cls, filters["noise_b"], filters["wiener_e"], lmin_b=self.cfg.delens.lmin_b)
        return weights._asdict()


class LinearMap(SimStage):
    """The linear MAP of the convergence of the test skies, from B with l >= `delens.lmin_b` and Wiener-filtered E.

    It starts from zero and needs no training sky, no mean field and no calibration. On a masked sky the weights remain
    those of harmonic modes; the estimate is the convergence itself inside the mask, without a factor of it.
    """

    name = "linear_map"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    inputs = ("obs_alm", "filters", "linear_weights")
    outputs = ("kappa_linear",)
    uses = ("linear_map", "delens.fwhm_arcmin")
    reads: ClassVar[tuple[str, ...]] = ("splits",)
    memory = "60 alm"

    def run(
        self,
        item: Item,
        *,
        obs_alm: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        linear_weights: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Alms ``kappa`` (nalm,)."""
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        settings = self.cfg.linear_map
        phi = linear_map.solve(
            filtered(obs_alm, "B", np.ones_like(filters["ee"]), filters, fwhm_arcmin),
            filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin),
            linear_map.Weights(**linear_weights),
            tolerance=settings.tolerance,
            iterations=settings.iterations,
            grid=settings.grid,
        )
        return {"kappa": kappa_from_phi(phi).astype(np.complex64)}


class WeightsToLearn(Weights):
    """The same, if a network is shown the linear MAP or corrects it."""

    reads = ("delens.inputs", "delens.label")

    def items(self) -> Iterable[Item]:
        """One item, or none."""
        return super().items() if sees_linear_map(self.cfg) else []


class LinearMapToLearn(LinearMap):
    """The same of every sky, if a network is shown the linear MAP or corrects it; one file for all methods."""

    splits = ("train", "valid", "test")
    reads = ("splits", "delens.inputs", "delens.label")

    def items(self) -> Iterable[Item]:
        """Every sky, or none."""
        return super().items() if sees_linear_map(self.cfg) else []


class Kappa(SimStage):
    """The linear MAP as a map, the method's answer."""

    name = "kappa"
    splits = ("test",)
    inputs = ("kappa_linear",)
    outputs = ("estimate",)
    uses = ("sky.nside", "sky.lmax")
    reads = ("splits",)
    memory = "6 map"

    def run(self, item: Item, *, kappa_linear: dict[str, np.ndarray]) -> SkyMap:
        """Map of the convergence, RING."""
        sky = self.cfg.sky
        data = kappa_map(kappa_linear, sky.nside)
        return SkyMap(data[None], ("kappa",), "1", 0.0, sky.lmax, "linear MAP")
