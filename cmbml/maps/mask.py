"""Masks from FITS files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import healpy as hp
import numpy as np

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import NUMBERS, PixelTable, opened


@contextmanager
def _mask(path: Path, *, column: str | None, coordinates: str | None, key: str) -> Iterator[PixelTable]:
    label = f"{key}.file={path}"
    with opened(path, label=label, remedy="give a HEALPix FITS file") as table:
        if column is not None and column not in table.names:
            raise UserError(f"{label} has no column {key}.column={column}; it has {', '.join(table.names)}.")
        table.refuse_coordinates(coordinates, f"{key}.coordinates")
        if not table.names:
            raise UserError(f"{label} has no column of pixels beside PIXEL; give one of weights.")
        yield table


def check_mask(path: Path, *, column: str | None = None, coordinates: str | None = None, key: str = "mask") -> None:
    """Look at what the file of a mask says of itself, and at none of its pixels.

    Parameters
    ----------
    path, column, coordinates, key
        As in ``read_mask``.

    Raises
    ------
    UserError
        As ``read_mask``, but for the values and the ordering.
    """
    with _mask(path, column=column, coordinates=coordinates, key=key):
        pass


def read_mask(
    path: Path,
    nside: int,
    *,
    column: str | None = None,
    threshold: float | None = None,
    coordinates: str | None = None,
    key: str = "mask",
) -> np.ndarray:
    """Read a mask from a HEALPix FITS file, RING or NESTED, Galactic; 0 outside the part of the sky that it lists.

    Parameters
    ----------
    path : Path
    nside : int
    column : str, optional
        Name of the column; the first if not given.
    threshold : float, optional
        With it, a mask of another nside is averaged to this one, and a pixel is good (1) where the mean is above.
    coordinates : str, optional
        G: a file whose word for them is not known is Galactic.
    key : str, optional
        Where a user says which file, column and threshold, for sentences.

    Returns
    -------
    float64 array (npix,), RING

    Raises
    ------
    UserError
        When it is no such file, does not say its ordering, is in other coordinates, has values outside 0 .. 1, or
        another nside and there is no threshold.
    """
    label = f"{key}.file={path}"
    with _mask(path, column=column, coordinates=coordinates, key=key) as table:
        weights = table.pixels(column or table.names[0], outside=0.0, kinds=f"{NUMBERS}b")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise UserError(f"{label} has values that do not lie between 0 and 1; weights of pixels are needed.")
    if len(weights) == 12 * nside**2:
        return weights
    if threshold is None:
        raise UserError(
            f"{label} has nside {hp.npix2nside(len(weights))} where {nside} is needed; with {key}.threshold=0.9 it is"
            " averaged, and good where the mean is above."
        )
    mean = np.asarray(hp.ud_grade(weights, nside))
    return (mean > threshold).astype(np.float64)
