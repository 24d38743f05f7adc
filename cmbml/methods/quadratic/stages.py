"""The stages of the quadratic estimator: the estimate, its mean field and Wiener weights, the filtered convergence."""

import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import FEATURES
from cmbml.config.truth import masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import bin_ratio, filtered, without_mean_field
from cmbml.sky import sht
from cmbml.sky.lensing import kappa_from_phi
from cmbml.sky.quadratic import phi_gradient


def weights_measured(cfg: DictConfig) -> bool:
    """Whether the Wiener weights of the estimate are measured, and not those of theory."""
    return bool(cfg.quadratic.wiener == "measured")


def needed(cfg: DictConfig) -> bool:
    """Whether the method estimates the convergence, or its network sees a filtered map."""
    return cfg.method.target == "kappa" or bool(set(FEATURES) & set(cfg.delens.inputs))


class Estimate(SimStage):
    """Unbiased quadratic estimate of the convergence, from EE and EB or, with `quadratic.estimator=eb`, EB alone.

    On a masked sky it is the convergence times mask^2, one factor from each leg, plus what the mask alone makes: the
    mean field (`MeanField`).
    """

    name = "quadratic_estimate"
    inputs = ("obs_alm", "filters")
    outputs = ("kappa_qe",)
    uses = ("quadratic.estimator", "delens.fwhm_arcmin")
    reads = ("splits", "method.target", "delens.inputs", "quadratic")

    def items(self) -> list[Item]:
        """Every sky, if the method or its network needs it."""
        return list(super().items()) if needed(self.cfg) else []

    def run(
        self, item: Item, *, obs_alm: dict[str, np.ndarray], filters: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Alms ``kappa`` (nalm,)."""
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        with_ee = self.cfg.quadratic.estimator == "mv"
        e_inverse = filtered(obs_alm, "E", filters["inverse_e"], filters, fwhm_arcmin) if with_ee else None
        b_inverse = filtered(obs_alm, "B", filters["inverse_b"], filters, fwhm_arcmin)
        e_wiener = filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin)
        phi = sht.almxfl(phi_gradient(e_inverse, b_inverse, e_wiener), _finite(filters["n0"]))
        return {"kappa": kappa_from_phi(phi).astype(np.complex64)}


class MeanField(Stage):
    """What the mask makes of a sky without lensing: the mean of the estimate over the N training skies.

    A mask couples multipoles as lensing does, alike on every sky; the lensing itself differs from sky to sky and
    averages out. The mean keeps 1/N of the power of signal and noise of one sky, which subtracting it then adds to the
    estimate: at high L, where the mean field is small, it does more harm than good with few skies.
    """

    name = "mean_field"
    inputs = (Every("kappa_qe", split="train"),)
    outputs = ("mean_field",)
    reads = ("mask.kind", "splits.train", "method.target", "delens.inputs")
    memory = "6 alm"

    def items(self) -> list[Item]:
        """One item if the sky is masked and its convergence estimated."""
        if self.cfg.mask.kind == "none" or not needed(self.cfg):
            return []
        if self.cfg.splits.train < 2:
            raise UserError("The mean field of a masked sky needs at least two training skies; raise splits.train.")
        return [{}]

    def run(self, item: Item, *, kappa_qe: Files) -> dict[str, np.ndarray]:
        """Alms ``kappa`` (nalm,), and ``n``, the number of skies."""
        total = sum(estimate["kappa"].astype(np.complex128) for estimate in kappa_qe)
        return {"kappa": total / len(kappa_qe), "n": np.array(len(kappa_qe))}


class Weights(Stage):
    """Wiener weights of the estimate, measured on the training skies: W_L = C^{kappa kappa_qe} / C^{kappa_qe kappa_qe}.

    They hold what theory leaves out: the part of the response and the noise (N1) that is of higher order. On a masked
    sky kappa is the true convergence times mask^2, as the estimate has it, and the estimate is taken without its mean
    field. Both spectra then are mixed by the same mask^2, and their ratio needs no f_sky; with the convergence of the
    full sky it would be <mask^2> / <mask^4> too large. The scatter of the mean field, 1 / (N - 1) of the power, stands
    in the denominator, close to the 1/N of other skies.
    """

    name = "weights"
    inputs = (
        Every("kappa_qe", split="train"),
        Every("unlensed_alm", split="train"),
        "filters",
        Optional("mean_field", "mask", when=masked),
    )
    outputs = ("weights",)
    uses = ("sky.lmax",)
    reads = ("quadratic.wiener", "splits.train", "mask.kind")
    memory = "20 map"

    def items(self) -> list[Item]:
        """One item, if they are measured."""
        if not weights_measured(self.cfg):
            return []
        if not self.cfg.splits.train:
            raise UserError(
                "Wiener weights are measured on training skies; raise splits.train, or take those of theory with"
                " quadratic.wiener=theory."
            )
        return [{}]

    def run(
        self,
        item: Item,
        *,
        kappa_qe: Files,
        unlensed_alm: Files,
        filters: dict[str, np.ndarray],
        mean_field: dict[str, np.ndarray] | None = None,
        mask: SkyMap | None = None,
    ) -> dict[str, np.ndarray]:
        """``wiener`` (lmax + 1,): the theory's times the measured correction in bins, W_measured / W_theory."""
        lmax = self.cfg.sky.lmax
        cross = np.zeros(lmax + 1)
        auto = np.zeros(lmax + 1)
        for estimate, truth in zip(kappa_qe, unlensed_alm, strict=True):
            kappa = estimate["kappa"] if mean_field is None else without_mean_field(estimate, mean_field, averaged=True)
            cross += sht.alm2cl(kappa, truth["kappa"] if mask is None else _seen(truth["kappa"], mask, lmax))
            auto += sht.alm2cl(kappa)
        theory = filters["wiener_phi"]
        correction = bin_ratio(theory * cross, theory**2 * auto)
        return {"wiener": theory * np.clip(correction, 0, 2)}


class Kappa(SimStage):
    """Wiener-filtered convergence of the test skies: the quadratic estimator's answer.

    On a masked sky it is an estimate of the convergence times mask^2, less the mean field.
    """

    name = "kappa"
    version = 2
    splits = ("test",)
    inputs = (
        "kappa_qe",
        "filters",
        Optional("weights", when=weights_measured),
        Optional("mean_field", when=masked),
    )
    outputs = ("estimate",)
    uses = ("quadratic.wiener", "sky.nside", "sky.lmax")
    reads = ("splits", "mask.kind")
    memory = "10 map"

    def run(
        self,
        item: Item,
        *,
        kappa_qe: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        weights: dict[str, np.ndarray] | None = None,
        mean_field: dict[str, np.ndarray] | None = None,
    ) -> SkyMap:
        """Map of the convergence, RING."""
        sky = self.cfg.sky
        wiener = filters["wiener_phi"] if weights is None else weights["wiener"]
        kappa = without_mean_field(kappa_qe, mean_field, averaged=item["split"] == "train")
        data = sht.synthesis(sht.almxfl(kappa, wiener), sky.nside)
        header = ("kappa",), "1", 0.0, sky.lmax, "quadratic estimate, Wiener-filtered"
        return SkyMap(data[None], *header, masks=2 if masked(self.cfg) else 0)


def _seen(kappa: np.ndarray, mask: SkyMap, lmax: int) -> np.ndarray:
    """Alms of the convergence times mask^2."""
    seen = sht.synthesis(kappa.astype(np.complex128), mask.nside) * mask["mask"] ** 2
    return sht.analysis(seen, lmax)


def _finite(n0: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(n0), n0, 0)
