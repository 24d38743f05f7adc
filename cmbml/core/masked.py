"""Stages that read more when the sky is masked."""

from typing import ClassVar

from omegaconf import DictConfig

from cmbml.core.asset import Every
from cmbml.core.stage import Stage


class Masked(Stage):
    """A stage whose last inputs are there only when the sky is masked (``mask.kind`` is not none).

    On the full sky it reads what it would read without any masks in the world, so that neither its work nor its
    fingerprints know of them.

    Attributes
    ----------
    masked_inputs : tuple of str or Every
        What is read after `inputs`; `run` gets them as arguments that default to None.
    """

    masked_inputs: ClassVar[tuple[str | Every, ...]] = ()

    def __init__(self, config: DictConfig):
        """Add the inputs of a masked sky."""
        super().__init__(config)
        if config.mask.kind != "none":
            self.inputs = (*self.inputs, *self.masked_inputs)
