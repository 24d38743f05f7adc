"""What is known of the skies of a dataset of many bands, and of what is made of them, before anything is."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf


def masked(config: DictConfig) -> bool:
    """Whether a mask hides a part of the sky."""
    return bool(config.mask.kind != "none")


def has_truth(config: DictConfig) -> bool:
    """Whether the CMB of each sky is known: simulated, or given with the observations."""
    return has_parts(config) or config.sims.external.truth is not None


def has_kappa(config: DictConfig) -> bool:
    """Whether the true convergence of each sky is known: simulated, or given with the observations."""
    return has_parts(config) or config.sims.external.get("truth_kappa") is not None  # bands have no such key


def has_parts(config: DictConfig) -> bool:
    """Whether the skies are simulated here, so that CMB, foregrounds and noise are known apart."""
    return not config.sims.external


def has_foregrounds(config: DictConfig) -> bool:
    """Whether there are simulated foregrounds in the bands."""
    return bool(config.foregrounds.kind != "none")


def cleaned(config: DictConfig) -> bool:
    """Whether what is delensed is combined of several bands."""
    return bool(config.sims.combine)


def purified(config: DictConfig) -> bool:
    """Whether the B that lensing is found in is pure: of bands behind a mask that has a taper."""
    return cleaned(config) and masked(config) and config.mask.apodise_deg > 0


def leaks(config: DictConfig) -> bool:
    """Whether E at the border of a mask is in the B that lensing is found in."""
    return masked(config) and not purified(config)


def has_foregrounds_left(config: DictConfig) -> bool:
    """Whether what is delensed holds what a combination has left of simulated foregrounds."""
    return cleaned(config) and has_foregrounds(config)


def known_skies(combine: Mapping[str, Any], method: Mapping[str, Any], train: int, valid: int) -> str:
    """Skies that tell r what is left: of bands those with other foregrounds, from which the method has not learned."""
    split, skies = ("valid", valid) if "trained" in method else ("train", train)
    return split if combine and skies else "test"


def other_foregrounds(config: DictConfig) -> bool:
    """Whether the skies that tell r what foregrounds leave have others than those that are judged."""
    seed = config.foregrounds.seed
    return seed_of(seed, config.analysis.r.known) != seed_of(seed, "test")


def several_seeds(seed: Any) -> bool:
    """Whether the foregrounds of the splits have seeds of their own, `foregrounds.seed`, that differ."""
    return isinstance(seed, Mapping | DictConfig) and len(set(seed.values())) > 1


def seed_of(seed: Any, split: str) -> int:
    """Seed of the foregrounds of a split."""
    return int(seed[split] if isinstance(seed, Mapping | DictConfig) else seed)


def has_uneven_noise(config: DictConfig) -> bool:
    """Whether the pixels of a band have noise variances of their own."""
    return config.noise.kind in ("scan", "variance_map")


def variants(response: bool, method: Mapping[str, Any], listed: Sequence[Any]) -> int:
    """Number of variants of the first test sky: those listed, where the response of a convergence is asked for."""
    return len(listed) if response and method.get("target") == "kappa" else 0


MEASURES_R = "cmbml.analysis.delensing.r.MeasureR"


def known(split: str, stages: Sequence[str]) -> str | None:
    """Split whose skies get estimates as test skies do, since they tell r what is left; None: test skies alone."""
    return split if split != "test" and MEASURES_R in stages else None


def measured_b(mask: str) -> str:
    """What r is measured in: pure where Q and U are known in a part of the sky, scalar where in all of it."""
    return "scalar" if mask == "none" else "pure"


def estimates_kappa(config: DictConfig) -> bool:
    """Whether the method estimates the convergence."""
    return bool(config.method.target == "kappa")


def estimated(target: str) -> str:
    """What a network's method estimates that is asked for a target."""
    return "kappa" if target == "correction" else target


def corrects(config: DictConfig) -> bool:
    """Whether a network is asked for what the linear MAP of the convergence lacks."""
    return bool(config.delens.label == "correction")


def sees_linear_map(config: DictConfig) -> bool:
    """Whether a network is shown the linear MAP of the convergence, or corrects it."""
    return "kappa_linear" in config.delens.inputs or corrects(config)


def combines_bands(config: DictConfig) -> bool:
    """Whether a method of cleaning is a combination of the bands that keeps the CMB: then it has a beam of its own."""
    return "perform_ILC_at_beam" in config.method


def beams_measured(config: DictConfig) -> dict[str, float]:
    """Beams, arcmin, that prediction and truth of a cleaning will have: by their keys, as far as settings say them."""
    method = config.method
    own = [key for key in ("fwhm_arcmin", "perform_ILC_at_beam") if isinstance(method.get(key), numbers.Real)]
    keys = [f"method.{key}" for key in own[:1]]
    if not keys and "perform_ILC_at_beam" in method:
        keys = ["clean.fwhm_arcmin"]
    if not keys and "trained" in method and method.trained is None:
        keys = ["clean.target_fwhm_arcmin"]
    values = {key: OmegaConf.select(config, key) for key in (*keys, "sims.external.truth_fwhm_arcmin")}
    return {key: float(value) for key, value in values.items() if value is not None}
