"""Pixel variances of a frequency map, from a FITS file as Planck publishes it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import MEGAJANSKY, NO_FACTOR, PixelTable, opened, squared_unit_named
from cmbml.sky.noise import degrade_variance

logger = logging.getLogger(__name__)

COLUMNS = {"T": "II_COV", "Q": "QQ_COV", "U": "UU_COV"}
_MICROKELVIN = {"K_CMB": 1e6, "mK_CMB": 1e3, "uK_CMB": 1.0}
_LARGEST_BAD_PART = 0.01


def read_variance(
    path: Path,
    nside: int,
    fields: Sequence[str] = ("T",),
    *,
    uk_cmb_per_mjy_sr: float | None = None,
) -> np.ndarray:
    """Read the variances of the noise of a frequency map, on pixels of ``nside``.

    The columns are found by name, in the first table of the file, RING or NESTED: ``II_COV``, ``QQ_COV`` and ``UU_COV``
    for T, Q and U. A pixel without a value (`PixelTable.pixels`), or of a variance that is not positive, takes the
    mean of the others in the smallest coarser pixel that has any; more than 1 % of such pixels are refused. One column
    is in memory at a time.

    Parameters
    ----------
    path : Path
    nside : int
        Resolution wanted; see ``cmbml.sky.noise.degrade_variance``.
    fields : sequence of str, optional
        Of T, Q, U.
    uk_cmb_per_mjy_sr : float, optional
        Response of the band, uK_CMB for 1 MJy/sr; wanted when the unit is the square of an intensity, as at 545
        and 857 GHz.

    Returns
    -------
    float64 array (len(fields), 12 nside^2), uK_CMB^2, RING

    Raises
    ------
    UserError
        When the file is missing or no full-sky HEALPix table, lacks a column, says no unit that is known, is in other
        coordinates than Galactic, or has too many pixels without a variance.
    """
    label = f"The variance map {path}"
    with opened(path, label=label, remedy="fetch it with `python get_data/fetch.py assets`") as table:
        table.refuse_coordinates()
        columns = (_column(table, field, uk_cmb_per_mjy_sr) for field in fields)
        return np.stack([degrade_variance(column, nside, nest=True) for column in columns])


def _column(table: PixelTable, field: str, response: float | None) -> np.ndarray:
    """One column in NESTED order, uK_CMB^2, float64, without bad pixels."""
    names = {name.upper(): name for name in table.names}
    name = names.get(COLUMNS[field])
    if name is None:
        raise UserError(
            f"{table.label} has no column {COLUMNS[field]} for the field {field}; it has {', '.join(names)}."
        )
    scale = _scale(table, name, response)
    values = table.pixels(name, nest=True)
    bad = np.isnan(values) | (values <= 0)
    if bad.mean() > _LARGEST_BAD_PART:
        raise UserError(
            f"{table.label} has no variance for {100 * bad.mean():.2g} % of the pixels of {name};"
            f" {100 * _LARGEST_BAD_PART:g} % are filled in at most, use a map of the full sky."
        )
    if bad.any():
        logger.warning("%s: %d pixels of %s without a variance take the mean around them", table.label, bad.sum(), name)
        _fill(values, bad)
    values *= scale
    return values


def _scale(table: PixelTable, name: str, response: float | None) -> float:
    """Factor from the square of a column's unit to uK_CMB^2."""
    said = table.unit(name)
    unit = squared_unit_named(said)
    if unit in _MICROKELVIN:
        return _MICROKELVIN[unit] ** 2
    if unit not in MEGAJANSKY:
        raise UserError(f"{table.label} has the unit {said!r} in the column {name}; (K_CMB)^2 or (MJy/sr)^2 is needed.")
    if response is None:
        raise UserError(f"{table.label}: the column {name} is in {said}, {NO_FACTOR}.")
    return (MEGAJANSKY[unit] * response) ** 2


def _fill(values: np.ndarray, bad: np.ndarray) -> None:
    """Replace the bad pixels of a NESTED map, in place, by the mean of the good ones in the next coarser pixel."""
    total = np.where(bad, 0.0, values)
    count = (~bad).astype(np.float64)
    missing = np.flatnonzero(bad)
    levels = 0
    while missing.size:
        total = total.reshape(-1, 4).sum(axis=1)
        count = count.reshape(-1, 4).sum(axis=1)
        levels += 1
        parent = missing >> (2 * levels)
        has_good = count[parent] > 0
        values[missing[has_good]] = total[parent[has_good]] / count[parent[has_good]]
        missing = missing[~has_good]
