"""Networks that were trained before: the file that `method.trained` names, and whether it fits a run."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cmbml.config.resolvers import of_model
from cmbml.core.asset import File, Item
from cmbml.core.errors import UserError, demand
from cmbml.core.provenance import changes
from cmbml.methods.shared.training import Seeing
from cmbml.train.foreign import check_model
from cmbml.train.network import shown

logger = logging.getLogger(__name__)


def is_trained_here(cfg: DictConfig) -> bool:
    """Whether the pipeline trains the network, and is not given one."""
    return not cfg.method.trained


class WithNetwork(Seeing):
    """A stage that predicts with the network that the pipeline trains, or with that of `method.trained`.

    Of several bases of a stage it is the first. It reads `method.trained`, `network` and `rotation`.
    """

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The network that is given, beside what the item is made of otherwise."""
        files = super().made_of(item)
        return files if is_trained_here(self.cfg) else {**files, "method.trained": [self.given]}

    @property
    def given(self) -> Path:
        """The file of the network that is given."""
        return of_model("method.trained", self.cfg.method.trained, "model.pt")

    @cached_property
    def trained(self) -> dict[str, Any]:
        """The network that is given.

        Raises
        ------
        UserError
            When it cannot be read, or was not trained for this.
        """
        path = self.given
        demand(
            path.is_file(), f"method.trained={path} is no file of a network; give the model.pt of one that was trained."
        )
        model = check_model(File(path).read(), f"method.trained={path}", self.cfg.network["_target_"])
        settings = model["settings"]
        self.demand_fit(model, f"method.trained={path}")
        there = {"nside": settings["nside"], "rotation.kind": settings["rotation"]["kind"]}
        here = {"nside": self.cfg.sky.nside, "rotation.kind": self.cfg.rotation.kind}
        if there != here:
            told = ", ".join(f"{key}={shown(value)}" for key, value in there.items() if value != here[key])
            raise UserError(
                f"The network of method.trained={path} was trained with {told}; give that to this run, too."
            )
        return model

    def demand_fit(self, model: Mapping[str, Any], name: str) -> None:
        """Refuse a network that sees or gives something else than this run wants; ``name`` is what to call it."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse a network that was not trained for this, and tell how its skies differed from these."""
        super().check()
        if is_trained_here(self.cfg):
            return
        then = self.trained["settings"].get("seen")
        now = self.seen()
        known = {key: then[key] for key in now if key in then} if isinstance(then, Mapping) else {}
        differ = changes(known, {key: now[key] for key in known})
        if differ:
            told = ", ".join(map(shown, differ))
            logger.warning("The network of method.trained has learnt from other skies than these: %s", told)
