"""The stages of the linear MAP: its weights, the solution, its errors, and the map that it is handed on as."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import leaks, masked, sees_linear_map
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import bin_ratio, filtered, kappa_map
from cmbml.sky import linear_map, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing import kappa_from_phi, phi_from_kappa, unit_alm
from cmbml.sky.lensing_theory import Coupling
from cmbml.sky.masks import f_sky
from cmbml.sky.quadratic import FirstOrder

LEAKS = ("mask.kind", "mask.apodise_deg", "sims.combine")  # what decides whether E leaks into B
UNLENSED = 4  # skies of the mean field
SOLUTION = ("linear_map.tolerance", "linear_map.iterations", "linear_map.grid", "delens.fwhm_arcmin")


def legs(
    obs_alm: Mapping[str, np.ndarray], filters: Mapping[str, np.ndarray], fwhm_arcmin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Observed B, and Wiener-filtered E, both without beam and transfer, (nalm,), uK."""
    one = np.ones_like(filters["ee"])
    b = filtered(obs_alm, "B", one, filters, fwhm_arcmin)
    return b, filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin)


def how(settings: DictConfig) -> dict[str, Any]:
    """Keywords of ``cmbml.sky.linear_map.solve``."""
    return {"tolerance": settings.tolerance, "iterations": settings.iterations, "grid": settings.grid}


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


class MeanField(Stage):
    """What the mask alone makes of the estimate: its mean over a few Gaussian skies of E and noise, without lensing.

    E that leaks into B at the border of the mask looks like lensing, alike on every sky. Without any lensing there is
    little else in the estimate, so that few skies tell it. They need no truth: they are of the fiducial spectrum of E
    and the noise of the filters. What the noise of these skies leaves in their mean is filtered out
    (`without_scatter`): at L > 100 there is nothing else in it, and it would be left in every sky.
    """

    name = "linear_mean_field"
    version = 2
    inputs = ("filters", "linear_weights", Optional("mask", when=masked))
    outputs = ("linear_mean_field",)
    uses = (*SOLUTION, "sky.nside", "sky.lmax", "sky.seed")
    reads: ClassVar[tuple[str, ...]] = LEAKS
    memory = "60 alm + 10 map"

    def items(self) -> list[Item]:
        """One item if the sky is masked, and its B not pure: there is no E then that could leak."""
        return [{}] if leaks(self.cfg) else []

    def run(
        self, item: Item, *, filters: dict[str, np.ndarray], linear_weights: dict[str, np.ndarray], mask: SkyMap
    ) -> dict[str, np.ndarray]:
        """Alms ``kappa`` (nalm,)."""
        sky = self.cfg.sky
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        beam = gaussian_beam(fwhm_arcmin, sky.lmax)
        roots = [np.sqrt(filters["ee"] + filters["noise_e"]), np.sqrt(filters["noise_b"])]
        seen = [beam * filters[f"transfer_{x}"] * root for x, root in zip("eb", roots, strict=True)]
        estimates = []
        for k in range(UNLENSED):
            drawn = [unit_alm(self.rng(f"linear_mean_field/{x}", sky.seed, k), sky.lmax) for x in "EB"]
            alms = np.stack([sht.almxfl(alm, root) for alm, root in zip(drawn, seen, strict=True)])
            found = sht.analysis(sht.synthesis(alms, sky.nside, spin=2) * mask["mask"], sky.lmax, spin=2)
            pair = legs(dict(zip("EB", found, strict=True)), filters, fwhm_arcmin)
            phi = linear_map.solve(*pair, linear_map.Weights(**linear_weights), **how(self.cfg.linear_map))
            estimates.append(kappa_from_phi(phi))
        return {"kappa": without_scatter(estimates).astype(np.complex64)}


def without_scatter(estimates: Sequence[np.ndarray]) -> np.ndarray:
    """Wiener-filtered mean of n fields (nalm,) that have one part in common and another each of its own.

    Of the power of the mean, S/n is of the parts of their own; S is the mean power about the mean times n / (n - 1).
    """
    n = len(estimates)
    mean = np.mean(estimates, axis=0)
    power = sht.alm2cl(mean)
    own = (np.mean([sht.alm2cl(alm) for alm in estimates], axis=0) - power) / (n - 1)
    return sht.almxfl(mean, np.clip(1 - bin_ratio(own, power), 0, 1))


class LinearMap(SimStage):
    """The linear MAP of the convergence of the test skies, from B with l >= `delens.lmin_b` and Wiener-filtered E.

    It starts from zero and needs no training sky and no calibration. On a masked sky the weights remain those of
    harmonic modes; the estimate is the convergence itself inside the mask, without a factor of it, and fades in the
    taper and behind it, where nothing is known. What the mask alone makes, the mean field, is subtracted; it is of
    L < 80, and A_res does not know it (`docs/adr/0015-the-linear-map-behind-a-mask.md`). Uneven noise makes none.
    """

    name = "linear_map"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    inputs = ("obs_alm", "filters", "linear_weights", Optional("linear_mean_field", when=leaks))
    outputs = ("kappa_linear",)
    uses = SOLUTION
    reads: ClassVar[tuple[str, ...]] = ("splits", "linear_map", *LEAKS)
    memory = "60 alm"

    def run(
        self,
        item: Item,
        *,
        obs_alm: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        linear_weights: dict[str, np.ndarray],
        linear_mean_field: dict[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Alms ``kappa`` (nalm,)."""
        seen = legs(obs_alm, filters, self.cfg.delens.fwhm_arcmin)
        phi = linear_map.solve(*seen, linear_map.Weights(**linear_weights), **how(self.cfg.linear_map))
        kappa = kappa_from_phi(phi)
        if linear_mean_field is not None:
            kappa -= linear_mean_field["kappa"]
        return {"kappa": kappa.astype(np.complex64)}


class WeightsToLearn(Weights):
    """The same, if a network is shown the linear MAP or corrects it."""

    reads = ("delens.inputs", "delens.label")

    def items(self) -> Iterable[Item]:
        """One item, or none."""
        return super().items() if sees_linear_map(self.cfg) else []


class MeanFieldToLearn(MeanField):
    """The same, if a network is shown the linear MAP or corrects it."""

    reads = (*LEAKS, "delens.inputs", "delens.label")

    def items(self) -> list[Item]:
        """One item if the sky is masked, or none."""
        return super().items() if sees_linear_map(self.cfg) else []


class LinearMapToLearn(LinearMap):
    """The same of every sky, if a network is shown the linear MAP or corrects it; one file for all methods."""

    splits = ("train", "valid", "test")
    reads = ("splits", "linear_map", *LEAKS, "delens.inputs", "delens.label")

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


class Posterior(SimStage):
    """What the linear MAP does not know: the error of the convergence, and of A_res, from samples of its posterior.

    `linear_map.samples` solutions of perturbed data (`cmbml.sky.linear_map.sample`), each at the cost of the MAP. The
    truth is not asked: were a sample the true sky, the residual of B would be the lensing that the difference of sample
    and MAP makes of the observed E, and beside it what no potential makes of that E to first order, whose power is that
    of theory.
    """

    name = "posterior"
    splits = ("test",)
    varies = False  # nobody asks for the errors of other skies
    inputs = (
        "obs_alm",
        "filters",
        "linear_weights",
        "kappa_linear",
        Optional("mask", when=masked),
        Optional("linear_mean_field", when=leaks),
    )
    outputs = ("kappa_sigma", "posterior")
    uses = (*SOLUTION, "linear_map.samples", "sky.nside", "sky.lmax", "sky.seed")
    reads = ("splits", *LEAKS)
    memory = "65 alm"

    def items(self) -> list[Item]:
        """The test skies, if there are samples."""
        return list(super().items()) if self.cfg.linear_map.samples else []

    def run(
        self,
        item: Item,
        *,
        obs_alm: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        linear_weights: dict[str, np.ndarray],
        kappa_linear: dict[str, np.ndarray],
        mask: SkyMap | None = None,
        linear_mean_field: dict[str, np.ndarray] | None = None,
    ) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Map of the standard deviation of kappa about the MAP; spectra, sample by sample, (samples, lmax + 1).

        ``kappa``: of sample less MAP, the power of the error of the MAP; ``lensing`` and ``residual``: of the B, uK^2,
        that the sample and that sample less MAP make; ``missed`` (lmax + 1,): of the lensing B that is in neither. On a
        masked sky those of B are of fields times the mask, and kappa, of which nothing is known behind it, is not.
        """
        sky = self.cfg.sky
        b, e = legs(obs_alm, filters, self.cfg.delens.fwhm_arcmin)
        weights = linear_map.Weights(**linear_weights)
        mean = phi_from_kappa(kappa_linear["kappa"].astype(np.complex128))
        field = 0.0 if linear_mean_field is None else phi_from_kappa(linear_mean_field["kappa"].astype(np.complex128))
        lensing = FirstOrder(e)
        of_mean = lensing.lens(mean)[1]
        square = np.zeros(12 * sky.nside**2)
        spectra: dict[str, list[np.ndarray]] = {"kappa": [], "lensing": [], "residual": []}
        for k in range(self.cfg.linear_map.samples):
            rng = self.rng("posterior", sky.seed, item["split"], item["sim"], k)
            away = linear_map.sample(b, e, weights, rng, start=mean, **how(self.cfg.linear_map)) - mean - field
            kappa = kappa_from_phi(away)
            square += sht.synthesis(kappa, sky.nside) ** 2
            spectra["kappa"].append(sht.alm2cl(kappa))
            of_away = lensing.lens(away)[1]
            spectra["residual"].append(sht.alm2cl(of_away))
            spectra["lensing"].append(sht.alm2cl(of_mean + of_away))
        sigma = np.sqrt(square / self.cfg.linear_map.samples)
        note = f"standard deviation of {self.cfg.linear_map.samples} samples about the linear MAP"
        first_order = Coupling(sky.lmax).lensing_bb(filters["wiener_e"] * filters["ee"], filters["pp"])
        missed = np.maximum(filters["bb_lensing"] - first_order, 0) * (1 if mask is None else f_sky(mask["mask"]))
        return (
            SkyMap(sigma[None], ("kappa",), "1", 0.0, sky.lmax, note),
            {**{name: np.stack(cls) for name, cls in spectra.items()}, "missed": missed},
        )
