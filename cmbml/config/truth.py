"""What is known of the skies of a dataset of many bands."""

from omegaconf import DictConfig


def has_truth(config: DictConfig) -> bool:
    """Whether the CMB of each sky is known: simulated, or given with the observations."""
    return has_parts(config) or config.sims.external.truth is not None


def has_parts(config: DictConfig) -> bool:
    """Whether the skies are simulated here, so that CMB, foregrounds and noise are known apart."""
    return not config.sims.external
