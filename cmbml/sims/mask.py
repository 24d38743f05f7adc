"""The mask of a dataset."""

from pathlib import Path

import healpy as hp
import numpy as np

from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import Stage
from cmbml.sky import masks


class Mask(Stage):
    """Weights of the pixels, 0 to 1: a band around the equator or a map of one's own, tapered at its border.

    One mask serves all skies. On the full sky there is none, and whoever would read it does without
    (`cmbml.core.masked.Masked`). A file is known by its name: after changing its pixels, force this stage.
    """

    name, outputs = "mask", ("mask",)
    uses = ("mask", "sky.nside", "sky.lmax")

    def items(self) -> list[Item]:
        """One item, or none for the full sky."""
        return [] if self.cfg.mask.kind == "none" else [{}]

    def run(self, item: Item) -> SkyMap:
        """Map ``mask``, RING, without unit and beam."""
        mask, sky = self.cfg.mask, self.cfg.sky
        if mask.kind == "band":
            weights, note = masks.band_mask(sky.nside, mask.b_deg), f"latitude beyond {mask.b_deg:g} deg"
        else:
            weights, note = read_mask(Path(mask.file).expanduser(), sky.nside), Path(mask.file).name
        return self.tapered(weights, note)

    def tapered(self, weights: np.ndarray, note: str) -> SkyMap:
        """Map of the weights with the taper of the configuration."""
        mask, sky = self.cfg.mask, self.cfg.sky
        weights = masks.apodise(weights, mask.apodise_deg, mask.apodise_kind)
        if not weights.any():
            raise UserError(f"mask.kind={mask.kind} leaves nothing of the sky; choose another mask.")
        note = f"{note}, taper {mask.apodise_deg:g} deg"
        return SkyMap(weights[None], ("mask",), "1", 0.0, sky.lmax, note)

    def cost(self) -> tuple[float, float]:
        """One map on disk; search trees in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 100 * npix


def read_mask(path: Path, nside: int) -> np.ndarray:
    """Read a mask, float64 (npix,), from the first column of a HEALPix FITS file.

    Raises
    ------
    UserError
        When it is no such file, of another ordering than RING or another nside, or has values outside 0 .. 1.
    """
    try:
        weights, header = hp.read_map(path, nest=None, h=True, dtype=np.float64)
    except FileNotFoundError:
        raise UserError(f"mask.file={path} is missing; give a HEALPix FITS file.") from None
    except Exception as error:
        raise UserError(f"mask.file={path} cannot be read as a HEALPix map ({error}).") from None
    ordering = str(dict(header).get("ORDERING", "")).strip()
    if ordering != "RING":
        raise UserError(f"mask.file={path} has the ordering {ordering!r}; RING is needed, reorder it.")
    if len(weights) != 12 * nside**2:
        raise UserError(
            f"mask.file={path} has nside {hp.npix2nside(len(weights))} where {nside} is needed; adapt one of them."
        )
    if not ((weights >= 0) & (weights <= 1)).all():
        raise UserError(f"mask.file={path} has values that do not lie between 0 and 1; weights of pixels are needed.")
    return weights
