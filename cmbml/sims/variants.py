"""Variants of a test sky, which differ from it in one thing: for what a method answers when its skies are others.

A variant has the random numbers of the first test sky, so that what differs between the two is the one thing that does.
Filters, weights and networks remain those of the dataset: they do not know of it.
"""

from typing import Any, ClassVar

from omegaconf import OmegaConf

from cmbml.core.asset import Item
from cmbml.core.stage import SimStage


class VariedStage(SimStage):
    """A stage that makes skies, in which variants may differ.

    Attributes
    ----------
    differs_in : str
        Key of `sims.variants` that this stage obeys.
    """

    differs_in: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = (*SimStage.reads, "sims.variants")

    def difference(self, item: Item, default: Any) -> Any:
        """What a variant has of `differs_in`; ``default`` for one that does not say it, and for all other skies."""
        if item["split"] != "variants":
            return default
        variants: Any = OmegaConf.to_container(self.cfg.sims.variants)
        return variants[item["sim"]].get(self.differs_in, default)

    def settings_of(self, item: Item) -> dict[str, Any]:
        """With what sets a variant apart."""
        told = self.difference(item, None)
        return self.settings if told is None else {**self.settings, f"variant.{self.differs_in}": told}

    def drawn_as(self, item: Item) -> tuple[str, int]:
        """Split and number of the sky whose random numbers these are: its own, or for a variant the first test sky."""
        return ("test", 0) if item["split"] == "variants" else (item["split"], item["sim"])
