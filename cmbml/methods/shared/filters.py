"""What lensing reconstruction needs to know of a dataset: fiducial spectra, filters, normalisation, limits."""

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Item
from cmbml.core.stage import Stage
from cmbml.sky import cosmology
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import reconstruction
from cmbml.sky.noise import noise_cl


class Filters(Stage):
    """Spectra, filters and normalisation of lensing reconstruction in the fiducial cosmology, and its limits.

    One set serves all skies, whatever their own cosmology: an observer does not know it.
    """

    name = "filters"
    outputs = ("filters",)
    uses = ("delens.fiducial", "delens.lmin_b", "quadratic.estimator", "instrument", "sky.lmax")

    def run(self, item: Item) -> dict[str, np.ndarray]:
        """Arrays over l = 0 .. `sky.lmax`.

        ``tt ee bb te pp`` lensed spectra of the fiducial cosmology, ``bb_lensing`` without and ``bb_tensor`` only with
        tensors at r = 1, ``noise_t noise_p`` over the beam squared, what ``lensing_theory.reconstruction`` returns, and
        ``residual_quadratic residual_iterative``, the theory of A_res for BB.
        """
        lmax = self.cfg.sky.lmax
        instrument = self.cfg.instrument
        parameters = OmegaConf.to_container(self.cfg.delens.fiducial)
        cls = cosmology.spectra(parameters, lmax)
        beam = gaussian_beam(instrument.fwhm_arcmin, lmax)
        levels = {"t": instrument.noise_t_uk_arcmin, "p": instrument.noise_p_uk_arcmin}
        keys = {
            "noise_uk_arcmin": levels["p"],
            "fwhm_arcmin": instrument.fwhm_arcmin,
            "lmax": lmax,
            "lmin_b": self.cfg.delens.lmin_b,
        }
        quadratic = reconstruction(cls, estimator=self.cfg.quadratic.estimator, **keys)
        iterative = reconstruction(cls, estimator="eb", iterative=True, **keys)
        return {
            **{x: cls[f"lensed_{x}"] for x in ("tt", "ee", "bb", "te")},
            "pp": cls["pp"],
            "bb_lensing": cls["lensed_bb"] - cls["bb"],
            "bb_tensor": cls["bb"] / parameters["r"],
            **{f"noise_{x}": noise_cl(level, lmax) / beam**2 for x, level in levels.items()},
            **quadratic,
            "residual_quadratic": quadratic["residual"],
            "residual_iterative": iterative["residual"],
        }

    def cost(self) -> tuple[float, float]:
        """Twenty spectra on disk; three tables of Wigner functions in memory."""
        lmax = self.cfg.sky.lmax
        return 20 * 8 * lmax, 3 * 8 * 1.5 * lmax**2 + 0.5e9
