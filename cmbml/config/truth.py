"""What is known of the skies of a dataset of many bands."""

from omegaconf import DictConfig


def masked(config: DictConfig) -> bool:
    """Whether a mask hides a part of the sky."""
    return bool(config.mask.kind != "none")


def has_truth(config: DictConfig) -> bool:
    """Whether the CMB of each sky is known: simulated, or given with the observations."""
    return has_parts(config) or config.sims.external.truth is not None


def has_parts(config: DictConfig) -> bool:
    """Whether the skies are simulated here, so that CMB, foregrounds and noise are known apart."""
    return not config.sims.external


def has_foregrounds(config: DictConfig) -> bool:
    """Whether there are simulated foregrounds in the bands."""
    return bool(config.foregrounds.kind != "none")


def has_uneven_noise(config: DictConfig) -> bool:
    """Whether the pixels of a band have noise variances of their own."""
    return config.noise.kind in ("scan", "variance_map")
