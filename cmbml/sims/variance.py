"""Pixel variances of a frequency map, from a FITS file as Planck publishes it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.sky.noise import degrade_variance

logger = logging.getLogger(__name__)

_COLUMNS = {"T": "II_COV", "Q": "QQ_COV", "U": "UU_COV", "TQ": "IQ_COV", "TU": "IU_COV", "QU": "QU_COV"}
_MICROKELVIN = {"k_cmb": 1e6, "kcmb": 1e6, "mk_cmb": 1e3, "mkcmb": 1e3, "uk_cmb": 1.0, "ukcmb": 1.0, "muk_cmb": 1.0}
_LARGEST_BAD_PART = 0.01


def read_variance(
    path: Path,
    nside: int,
    fields: Sequence[str] = ("T",),
    *,
    uk_cmb_per_mjy_sr: float | None = None,
) -> np.ndarray:
    """Read the variances of the noise of a frequency map, on pixels of ``nside``.

    The columns are found by name, in the first table of the file, full-sky, RING or NESTED: ``II_COV``, ``QQ_COV`` and
    ``UU_COV`` for T, Q and U (``IQ_COV``, ``IU_COV``, ``QU_COV`` for the covariances TQ, TU, QU). A pixel without an
    observation - UNSEEN, not finite, or of a variance that is not positive - takes the mean of the others in the
    smallest coarser pixel that has any; more than 1 % of such pixels are refused. One column is in memory at a time.

    Parameters
    ----------
    path : Path
    nside : int
        Resolution wanted; see ``cmbml.sky.noise.degrade_variance``.
    fields : sequence of str, optional
        Of T, Q, U, TQ, TU, QU.
    uk_cmb_per_mjy_sr : float, optional
        Response of the band, uK_CMB for 1 MJy/sr; wanted when the unit is (MJy/sr)^2, as at 545 and 857 GHz.

    Returns
    -------
    float64 array (len(fields), 12 nside^2), uK_CMB^2, RING

    Raises
    ------
    UserError
        When the file is missing or no full-sky HEALPix table, lacks a column, says no unit that is known, is in other
        coordinates than Galactic, or has too many pixels without a variance.
    """
    try:
        with fits.open(path, memmap=True) as file:
            table = file[1] if len(file) > 1 else None
            if not isinstance(table, fits.BinTableHDU):
                raise UserError(f"The variance map {path} has no table of pixels in its first extension.")
            nested = _nested(path, table.header)
            columns = (_column(path, table, field, uk_cmb_per_mjy_sr, nested=nested) for field in fields)
            return np.stack([degrade_variance(column, nside, nest=True) for column in columns])
    except FileNotFoundError:
        raise UserError(
            f"The variance map {path} is missing; fetch it with `python get_data/fetch.py assets`."
        ) from None
    except (OSError, TypeError) as error:
        raise UserError(f"The variance map {path} cannot be read as a FITS file ({error}); fetch it anew.") from None


def _nested(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether the pixels are in NESTED order; refuse what does not say it, or is not Galactic."""
    ordering = str(header.get("ORDERING", "")).strip().upper()
    if ordering not in ("RING", "NESTED", "NEST"):
        raise UserError(f"The variance map {path} has the ordering {ordering!r}; RING or NESTED is needed.")
    coordinates = str(header.get("COORDSYS", "G")).strip().upper()
    if not coordinates.startswith("G"):
        raise UserError(f"The variance map {path} is in the coordinates {coordinates!r}; Galactic ones are needed.")
    return ordering != "RING"


def _column(path: Path, table: fits.BinTableHDU, field: str, response: float | None, *, nested: bool) -> np.ndarray:
    """One column in NESTED order, uK_CMB^2, float64, without bad pixels."""
    names = {column.name.upper(): column.name for column in table.columns}
    name = names.get(_COLUMNS[field])
    if name is None:
        raise UserError(
            f"The variance map {path} has no column {_COLUMNS[field]} for the field {field}; it has {', '.join(names)}."
        )
    scale = _scale(path, name, str(table.columns[name].unit or ""), response)
    values = np.ravel(table.data[name]).astype(np.float64)
    if not hp.isnpixok(values.size):
        raise UserError(f"The variance map {path} has {values.size} pixels, which are no full HEALPix sky.")
    if not nested:
        values = hp.reorder(values, r2n=True)
    bad = ~np.isfinite(values) | hp.mask_bad(values)
    if len(field) == 1:
        bad |= values <= 0
    if bad.mean() > _LARGEST_BAD_PART:
        raise UserError(
            f"The variance map {path} has no variance for {100 * bad.mean():.2g} % of the pixels of {name};"
            f" {100 * _LARGEST_BAD_PART:g} % are filled in at most, use a map of the full sky."
        )
    if bad.any():
        logger.warning("%s: %d pixels of %s without a variance take the mean around them", path, bad.sum(), name)
        _fill(values, bad)
    values *= scale
    return values


def _scale(path: Path, name: str, unit: str, response: float | None) -> float:
    """Factor from the square of a unit, as Planck's headers write it in several ways, to uK_CMB^2."""
    text = unit.strip().lower().replace(" ", "").replace("**", "^")
    root = text.removesuffix("^2").removeprefix("(").removesuffix(")")
    if not text.endswith("^2") or (root not in _MICROKELVIN and root != "mjy/sr"):
        raise UserError(
            f"The column {name} of the variance map {path} has the unit {unit!r}; (K_CMB)^2 or (MJy/sr)^2 is needed."
        )
    if root in _MICROKELVIN:
        return _MICROKELVIN[root] ** 2
    if response is None:
        raise UserError(
            f"The column {name} of the variance map {path} is in {unit};"
            " the factor of the band from MJy/sr to uK_CMB is needed."
        )
    return response**2


def _fill(values: np.ndarray, bad: np.ndarray) -> None:
    """Replace the bad pixels of a NESTED map, in place, by the mean of the good ones in the next coarser pixel."""
    total, count = np.where(bad, 0.0, values), (~bad).astype(np.float64)
    missing, levels = np.flatnonzero(bad), 0
    while missing.size:
        total, count, levels = total.reshape(-1, 4).sum(axis=1), count.reshape(-1, 4).sum(axis=1), levels + 1
        parent = missing >> (2 * levels)
        found = count[parent] > 0
        values[missing[found]] = total[parent[found]] / count[parent[found]]
        missing = missing[~found]
