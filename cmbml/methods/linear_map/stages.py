"""The stages of the linear MAP: its weights, the solution, and the map that it is handed on as."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.errors import demand_value
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import filtered
from cmbml.sky import linear_map, sht
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
    splits = ("test",)
    inputs = ("obs_alm", "filters", "linear_weights")
    outputs = ("kappa_linear",)
    uses = ("method.tolerance", "method.iterations", "method.grid", "delens.fwhm_arcmin")
    reads = ("splits",)
    memory = "60 alm"

    def check(self) -> None:
        """Refuse conjugate gradients that never end, or end at once, and a grid that holds no product."""
        m = self.cfg.method
        demand_value(0 < m.tolerance < 1, "method.tolerance", m.tolerance, "between 0 and 1")
        demand_value(m.iterations >= 1, "method.iterations", m.iterations, "at least 1")
        demand_value(1 <= m.grid <= 2, "method.grid", m.grid, "between 1 and 2")

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
        settings = self.cfg.method
        phi = linear_map.solve(
            filtered(obs_alm, "B", np.ones_like(filters["ee"]), filters, fwhm_arcmin),
            filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin),
            linear_map.Weights(**linear_weights),
            tolerance=settings.tolerance,
            iterations=settings.iterations,
            grid=settings.grid,
        )
        return {"kappa": kappa_from_phi(phi).astype(np.complex64)}


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
        data = sht.synthesis(kappa_linear["kappa"].astype(np.complex128), sky.nside)
        return SkyMap(data[None], ("kappa",), "1", 0.0, sky.lmax, "linear MAP")
