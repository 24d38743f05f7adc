"""Unlensed and lensed skies of one draw."""

import numpy as np

from cmbml.core.asset import Item
from cmbml.sims.variants import VariedStage
from cmbml.sky import lensing, sht


class Cmb(VariedStage):
    """Draw T, E, B and the lensing potential, and lens them; both skies as alms up to `sky.lmax`.

    The draw reaches `sky.lmax` + `sky.margin`: what lies beyond would lens power into the sky as well. Cut at l = 2524,
    the lensed BB lacks .07 % at l = 100, .7 % at 1000 and 3 % at 1500; cut at 1500, 2 % at 100 and 17 % at 1000. The
    primordial B of the tensors is in both skies. The potential of a variant whose ``lensing`` is A is sqrt(A) times as
    strong.
    """

    name = "cmb"
    inputs = ("cls",)
    outputs = ("unlensed_alm", "lensed_alm")
    uses = ("sky.seed", "sky.lmax", "sky.margin")
    memory = "44 drawn_alm"  # the grid on which the sky is lensed
    differs_in = "lensing"

    def run(self, item: Item, *, cls: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Dictionaries of alms: T, E, B (uK_CMB), phi and kappa of the unlensed sky; T, E, B of the lensed one."""
        sky = self.cfg.sky
        rngs = {x: self.rng(f"cmb/{x}", sky.seed, *self.drawn_as(item)) for x in ("T", "E", "B", "phi")}
        unlensed = lensing.draw_alms(cls, sky.lmax + sky.margin, rngs)
        unlensed["phi"] *= np.sqrt(self.difference(item, 1.0))
        lensed = sht.lens({x: unlensed[x] for x in "TEB"}, unlensed["phi"], sky.lmax)
        unlensed["kappa"] = lensing.kappa_from_phi(unlensed["phi"])
        return (
            {x: sht.truncate(alm, sky.lmax).astype(np.complex64) for x, alm in unlensed.items()},
            {x: alm.astype(np.complex64) for x, alm in lensed.items()},
        )
