"""What lensing reconstruction needs to know of a dataset: fiducial spectra, filters, normalisation, limits."""

import logging
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.config.truth import cleaned
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import Stage
from cmbml.methods.shared.observed_noise import is_known, is_measured
from cmbml.sims.bands import as_user_error, one_band
from cmbml.sky import cosmology
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import reconstruction
from cmbml.sky.noise import noise_cl

logger = logging.getLogger(__name__)


def tells_of_its_weights(cfg: DictConfig) -> bool:
    """Whether the noise of what is combined of several bands is that of the weights, and not measured."""
    return cleaned(cfg) and not is_known(cfg)


class Filters(Stage):
    """Spectra, filters and normalisation of lensing reconstruction in the fiducial cosmology, and its limits.

    One set serves all skies, whatever their own cosmology: an observer does not know it. The noise and the transfer of
    the observation are those measured on the training skies (`ObservedNoise`), of this dataset or of the one whose file
    `delens.noise` names; with `delens.noise=theory`, and where there are no training skies, those of the instrument's
    table and 1. What is combined of several bands then has the noise that its weights make, in the mean of the skies.
    """

    name = "filters"
    inputs = (
        Optional("observed_noise", when=is_known),
        Optional(Every("combination", name="combinations"), when=tells_of_its_weights),
    )
    outputs = ("filters",)
    uses = ("delens.fiducial", "delens.fwhm_arcmin", "delens.lmin_b", "quadratic.estimator", "instrument", "sky.lmax")
    reads = ("delens.noise", "splits.train", "sims.combine")
    version = 3
    memory = "12 alm + 380 MB"  # of Wigner functions and of CAMB

    def check(self) -> None:
        """Refuse a fiducial cosmology that CAMB cannot compute."""
        as_user_error(cosmology.demand_in_range, OmegaConf.to_container(self.cfg.delens.fiducial), "delens.fiducial")

    def run(
        self, item: Item, *, observed_noise: dict[str, np.ndarray] | None = None, combinations: Files | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays over l = 0 .. `sky.lmax`.

        ``tt ee bb te pp`` lensed spectra of the fiducial cosmology, ``bb_lensing`` without and ``bb_tensor`` only with
        tensors at r = 1; of the observation ``transfer_t transfer_e transfer_b``, ``noise_t noise_e noise_b`` over the
        squared beam and transfer, and ``skies``, the number of those on which they were measured, 0 for those of the
        instrument; ``wiener_t``, what ``lensing_theory.reconstruction`` returns, and ``residual_quadratic
        residual_iterative``, the theory of A_res for BB.
        """
        lmax = self.cfg.sky.lmax
        parameters: Any = OmegaConf.to_container(self.cfg.delens.fiducial)
        cls = as_user_error(cosmology.spectra, parameters, lmax, key="delens.fiducial: ")
        seen = self._observation(combinations) | (observed_noise or {})
        self._say(int(seen["skies"]))
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, lmax)
        for x in "teb":
            seen[f"noise_{x}"] = seen[f"noise_{x}"] / (beam * seen[f"transfer_{x}"]) ** 2
        known = {"lmin_b": self.cfg.delens.lmin_b, "noise_b": seen["noise_b"]}
        quadratic = reconstruction(cls, seen["noise_e"], estimator=self.cfg.quadratic.estimator, **known)
        iterative = reconstruction(cls, seen["noise_e"], estimator="eb", iterative=True, **known)
        return {
            **{x: cls[f"lensed_{x}"] for x in ("tt", "ee", "bb", "te")},
            "pp": cls["pp"],
            "bb_lensing": cls["lensed_bb"] - cls["bb"],
            "bb_tensor": cls["bb"] / parameters["r"],
            **seen,
            "wiener_t": wiener(cls["lensed_tt"], seen["noise_t"]),
            **quadratic,
            "residual_quadratic": quadratic["residual"],
            "residual_iterative": iterative["residual"],
        }

    def _observation(self, combinations: Files | None) -> dict[str, np.ndarray]:
        """Noise of the instrument, or of the weights, with the beam, and a transfer of 1."""
        lmax = self.cfg.sky.lmax
        found = {f"transfer_{x}": np.ones(lmax + 1) for x in "teb"} | {"skies": np.array(0)}
        if cleaned(self.cfg):
            known = list(combinations or ())
            means = {f"noise_{x}": np.mean([one[f"noise_{x}"] for one in known], axis=0) for x in "eb" if known}
            return found | {"noise_t": np.full(lmax + 1, np.inf)} | means
        band = one_band(self.cfg.instrument)
        for x in "teb":
            level, l_knee, alpha = band.noise(x.upper())
            found[f"noise_{x}"] = noise_cl(level, lmax, l_knee=l_knee, alpha=alpha)
        return found

    def _say(self, skies: int) -> None:
        """Tell what the filters are made of."""
        if skies:
            where = "" if is_measured(self.cfg) else f" of the dataset of delens.noise={self.cfg.delens.noise}"
            logger.info("filters: of the noise and transfer measured on %d training skies%s", skies, where)
            return
        why = "delens.noise=theory" if self.cfg.splits.train else "there are no training skies, splits.train=0"
        whose = "the noise that the weights make" if cleaned(self.cfg) else "the instrument's noise"
        logger.warning("filters: of %s, not of that measured in its maps: %s", whose, why)


def wiener(signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """C / (C + N), 0 where there is no signal.

    Examples
    --------
    >>> wiener(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 0.5, 0.75]
    """
    return np.divide(signal, signal + noise, out=np.zeros_like(signal), where=signal > 0)
