"""What lensing reconstruction needs to know of a dataset: fiducial spectra, filters, normalisation, limits."""

from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Item
from cmbml.core.stage import Stage
from cmbml.sims.bands import as_user_error, one_band
from cmbml.sky import cosmology
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import reconstruction
from cmbml.sky.noise import noise_cl


class Filters(Stage):
    """Spectra, filters and normalisation of lensing reconstruction in the fiducial cosmology, and its limits.

    One set serves all skies, whatever their own cosmology: an observer does not know it.
    """

    name = "filters"
    version = 2
    outputs = ("filters",)
    uses = ("delens.fiducial", "delens.fwhm_arcmin", "delens.lmin_b", "quadratic.estimator", "instrument", "sky.lmax")
    memory = "12 alm + 380 MB"  # of Wigner functions and of CAMB

    def check(self) -> None:
        """Refuse a fiducial cosmology that CAMB cannot compute."""
        as_user_error(cosmology.demand_in_range, OmegaConf.to_container(self.cfg.delens.fiducial), "delens.fiducial")

    def run(self, item: Item) -> dict[str, np.ndarray]:
        """Arrays over l = 0 .. `sky.lmax`.

        ``tt ee bb te pp`` lensed spectra of the fiducial cosmology, ``bb_lensing`` without and ``bb_tensor`` only with
        tensors at r = 1, ``noise_t noise_p noise_b`` (T, E, B) over the beam squared, what
        ``lensing_theory.reconstruction`` returns, and
        ``residual_quadratic residual_iterative``, the theory of A_res for BB.
        """
        lmax = self.cfg.sky.lmax
        band = one_band(self.cfg.instrument)
        parameters: Any = OmegaConf.to_container(self.cfg.delens.fiducial)
        cls = as_user_error(cosmology.spectra, parameters, lmax, key="delens.fiducial: ")
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, lmax)
        noise = {}
        for x in "TEB":
            level, l_knee, alpha = band.noise(x)
            noise[x] = noise_cl(level, lmax, l_knee=l_knee, alpha=alpha) / beam**2
        given = {"noise_b": noise["B"], "lmin_b": self.cfg.delens.lmin_b}
        quadratic = reconstruction(cls, noise["E"], estimator=self.cfg.quadratic.estimator, **given)
        iterative = reconstruction(cls, noise["E"], estimator="eb", iterative=True, **given)
        return {
            **{x: cls[f"lensed_{x}"] for x in ("tt", "ee", "bb", "te")},
            "pp": cls["pp"],
            "bb_lensing": cls["lensed_bb"] - cls["bb"],
            "bb_tensor": cls["bb"] / parameters["r"],
            "noise_t": noise["T"],
            "noise_p": noise["E"],
            "noise_b": noise["B"],
            **quadratic,
            "residual_quadratic": quadratic["residual"],
            "residual_iterative": iterative["residual"],
        }
