"""A method of delensing that is no part of cmbml: its stage is here, its option in `method/shrink.yaml`."""

import dataclasses

from cmbml.core.asset import Item
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap


class Shrink(SimStage):
    """A fixed part of the observed field, called its lensing."""

    name = "shrink"
    inputs = ("obs",)
    outputs = ("estimate",)
    splits = ("test",)
    uses = ("delens.field", "method.part")

    def run(self, item: Item, *, obs: SkyMap) -> SkyMap:
        """Map of `delens.field`, uK_CMB, with the beam of the observation."""
        field = self.cfg.delens.field
        return dataclasses.replace(obs, data=self.cfg.method.part * obs.select([field]), fields=(field,))
