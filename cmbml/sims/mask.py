"""The mask of a dataset."""

from pathlib import Path

import healpy as hp
import numpy as np
from astropy.io import fits

from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import masks


class Mask(Stage):
    """Weights of the pixels, 0 to 1: a band around the equator or a map of one's own, tapered at its border.

    One mask serves all skies. On the full sky there is none, and whoever would read it does without
    (`cmbml.core.asset.Optional`). A file is known by its name: after changing its pixels, force this stage.
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
            path = Path(mask.file).expanduser()
            weights = read_mask(path, sky.nside, column=mask.column, threshold=mask.threshold)
            note = path.name
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


def read_mask(path: Path, nside: int, *, column: str | None = None, threshold: float | None = None) -> np.ndarray:
    """Read a mask from a HEALPix FITS file, RING or NESTED.

    Parameters
    ----------
    path : Path
    nside : int
    column : str, optional
        Name of the column; the first if not given.
    threshold : float, optional
        With it, a mask of another nside is averaged to this one, and a pixel is good (1) where the mean is above.

    Returns
    -------
    float64 array (npix,), RING

    Raises
    ------
    UserError
        When it is no such file, does not say its ordering, has values outside 0 .. 1, or another nside and there is no
        threshold.
    """
    try:
        with fits.open(path) as file:
            names = list(file[1].columns.names)
            ordering = str(file[1].header.get("ORDERING", "")).strip()
        if column is not None and column not in names:
            raise UserError(f"mask.file={path} has no column mask.column={column}; it has {', '.join(names)}.")
        weights = hp.read_map(path, field=names.index(column) if column else 0, dtype=np.float64)
    except (FileNotFoundError, UserError) as error:
        given = isinstance(error, UserError)
        raise error if given else UserError(f"mask.file={path} is missing; give a HEALPix FITS file.") from None
    except Exception as error:
        raise UserError(f"mask.file={path} cannot be read as a HEALPix map ({error}).") from None
    if ordering not in ("RING", "NESTED"):
        raise UserError(f"mask.file={path} has the ordering {ordering!r}; RING or NESTED is needed.")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise UserError(f"mask.file={path} has values that do not lie between 0 and 1; weights of pixels are needed.")
    if len(weights) == 12 * nside**2:
        return weights
    if threshold is None:
        raise UserError(
            f"mask.file={path} has nside {hp.npix2nside(len(weights))} where {nside} is needed; with mask.threshold=0.9"
            " it is averaged, and good where the mean is above."
        )
    return (hp.ud_grade(weights, nside) > threshold).astype(np.float64)
