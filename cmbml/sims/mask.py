"""The mask of a dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.stage import Stage
from cmbml.maps.mask import check_mask, read_mask
from cmbml.maps.skymap import SkyMap
from cmbml.sky import masks


class Mask(Stage):
    """Weights of the pixels, 0 to 1: a band around the equator or a map of one's own, tapered at its border.

    One mask serves all skies. On the full sky there is none, and whoever would read it does without
    (`cmbml.core.asset.Optional`).
    """

    name = "mask"
    outputs = ("mask",)
    uses: ClassVar[tuple[str, ...]] = ("mask", "sky.nside", "sky.lmax")
    memory = "21 map"

    def items(self) -> list[Item]:
        """One item, or none for the full sky."""
        return [] if self.cfg.mask.kind == "none" else [{}]

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the mask, if it is one."""
        mask = self.cfg.mask
        return {"mask.file": [Path(mask.file).expanduser()]} if mask.kind == "file" and mask.file else {}

    def check(self) -> None:
        """Refuse a file that is no map in Galactic coordinates."""
        mask = self.cfg.mask
        if mask.kind == "file":
            check_mask(Path(mask.file).expanduser(), column=mask.column, coordinates=mask.coordinates)

    def run(self, item: Item) -> SkyMap:
        """Map ``mask``, RING, without unit and beam."""
        mask = self.cfg.mask
        sky = self.cfg.sky
        if mask.kind == "band":
            weights = masks.band_mask(sky.nside, mask.b_deg)
            note = f"latitude beyond {mask.b_deg:g} deg"
        else:
            path = Path(mask.file).expanduser()
            how = {"column": mask.column, "threshold": mask.threshold, "coordinates": mask.coordinates}
            weights = read_mask(path, sky.nside, **how)
            note = path.name
        return self.tapered(weights, note)

    def tapered(self, weights: np.ndarray, note: str) -> SkyMap:
        """Map of the weights with the taper of the configuration."""
        mask = self.cfg.mask
        sky = self.cfg.sky
        weights = masks.apodise(weights, mask.apodise_deg, mask.apodise_kind)
        if not weights.any():
            raise UserError(f"mask.kind={mask.kind} leaves nothing of the sky; choose another mask.")
        note = f"{note}, taper {mask.apodise_deg:g} deg"
        return SkyMap(weights[None], ("mask",), "1", 0.0, sky.lmax, note)
