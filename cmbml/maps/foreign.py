"""HEALPix maps of anyone's: FITS files that say in their own ways what they hold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import healpy as hp
import numpy as np

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import NO_FACTOR, PixelTable, opened, unit_named
from cmbml.maps.resample import empty, filled
from cmbml.maps.skymap import SkyMap

_POLARISED = "{x} {x}_STOKES STOKES_{x} {x}_POLARISATION {x}_POLARIZATION"
_COLUMNS = {  # names that columns have in files of Planck, WMAP, healpy and others
    "T": ("T", "I", "TEMPERATURE", "INTENSITY", "SIGNAL", "I_STOKES", "STOKES_I"),
    "Q": _POLARISED.format(x="Q").split(),
    "U": _POLARISED.format(x="U").split(),
    "E": ("E",),
    "B": ("B",),
}
_ANY_NAME = ("T", "TEMPERATURE", "SIGNAL")  # what healpy, now and before, and others call a single column of anything
_NO_FIELD = re.compile(r"HITS?|N_?HITS|N_?OBS|PIXEL|.*_?COV")


def ordering(path: Path) -> str:
    """RING or NESTED, as the file says; a `UserError` if it says neither."""
    with opened(path) as table:
        return table.ordering


def read_map(
    path: Path,
    nside: int,
    fields: Sequence[str],
    factors: Mapping[str, float | None],
    *,
    unit: str | None = None,
    mask: SkyMap | None = None,
    any_nside: bool = False,
    coordinates: str | None = None,
    coordinates_key: str | None = None,
    unit_key: str,
    fields_key: str,
    mask_key: str = "mask=file mask.file=...",
) -> tuple[np.ndarray, str]:
    """Read a HEALPix map of anyone's: RING or NESTED, Galactic; a part of the sky is UNSEEN elsewhere.

    Parameters
    ----------
    path : Path
    nside : int
        The map's, and the mask's; another of the map is refused unless ``any_nside``.
    fields : sequence of str
        Of T, Q, U, E, B and kappa; columns are found by name, and E, B or kappa alone may be the only column, of a name
        that tells no other. U changes its sign if POLCCONV says IAU, and is COSMO otherwise.
    factors : mapping
        Unit -> how many of the unit of the result it is; None if the band does not tell. Other units are refused.
    unit : str, optional
        Of these; what each column says (TUNIT) if not given.
    mask : SkyMap, optional
        Where it is 0 pixels may have no value (`PixelTable.pixels`); they become 0.
    any_nside : bool, optional
        The map is returned with the nside that it has. Pixels without a value get the mean of those around them
        (`cmbml.maps.resample.filled`); pixels of ``nside`` that hold no other are refused where the mask is not 0.
    coordinates : str, optional
        G if the map is Galactic when it says a word that is not known.
    coordinates_key : str, optional
        Where a user says so.
    unit_key, fields_key, mask_key : str
        What a user is told to change who has another unit, lacks a field, or has pixels without a value.

    Returns
    -------
    array, note
        float64 (len(fields), npix), RING; and one line on where they come from.

    Raises
    ------
    UserError
        One sentence with file, reason and what to do.
    """
    rows = []
    without = np.zeros(1, dtype=bool)
    notes = [f"from {path.name}"]
    with opened(path) as table:
        table.refuse_coordinates(coordinates, coordinates_key)
        for field in fields:
            name = _column(table, field, fields_key)
            values = table.pixels(name)
            if not any_nside:
                _refuse_nside(table, values.size, nside)
            bad = np.isnan(values)
            without = without | bad
            _refuse_bad(table, name, empty(values, nside) if any_nside else bad, mask, mask_key)
            values = filled(values) if any_nside else np.where(bad, 0.0, values)
            values *= _factor(table, name, factors, unit, unit_key)
            if field == "U" and table.u_sign < 0:
                values *= -1
                notes.append("U turned from the IAU convention")
            rows.append(values)
    if without.any():
        what = (
            "pixels without a value filled from those around" if any_nside else "masked pixels without a value set to 0"
        )
        notes.append(f"{without.sum()} {what}")
    return np.stack(rows), ", ".join(notes).encode("ascii", "replace").decode()  # headers know no other letters


def _refuse_nside(table: PixelTable, npix: int, nside: int) -> None:
    if npix != 12 * nside**2:
        has = hp.npix2nside(npix)
        raise UserError(
            f"{table.label} has nside {has} where {nside} is needed; say nside={has}, or bring all maps to one."
        )


def _refuse_bad(table: PixelTable, name: str, bad: np.ndarray, mask: SkyMap | None, mask_key: str) -> None:
    seen = bad if mask is None else bad & (mask["mask"] != 0)
    if seen.any():
        where = "and there is no mask" if mask is None else "where the mask is not 0"
        raise UserError(
            f"{table.label} has {seen.sum()} pixels of {name} that are UNSEEN or NaN, {where}; give a mask that is 0"
            f" there ({mask_key})."
        )


def fields_of(table: PixelTable) -> list[str]:
    """Fields of T, Q, U, E and B that a table has a column of, by its name."""
    return [field for field in _COLUMNS if _named(table, field)]


def _named(table: PixelTable, field: str) -> list[str]:
    """Names of the columns that are called as a field."""
    return [name for name in table.names if _plain(name) in _COLUMNS.get(field, (field.upper(),))]


def _plain(name: str) -> str:
    return name.strip().upper().replace("-", "_").replace(" ", "_")


def _tells_nothing(name: str) -> bool:
    """Whether a column's name leaves open which field it holds."""
    plain = _plain(name)
    of_a_field = any(plain in names for names in _COLUMNS.values())
    return plain in _ANY_NAME or not (of_a_field or _NO_FIELD.fullmatch(plain))


def _column(table: PixelTable, field: str, fields_key: str) -> str:
    """Name of the column of a field."""
    found = _named(table, field)
    if len(found) > 1:
        raise UserError(f"{table.label} names {field} twice, as {' and '.join(found)}; leave one of these columns.")
    if not found and field in ("E", "B", "kappa") and len(table.names) == 1 and _tells_nothing(table.names[0]):
        return table.names[0]
    if not found:
        has = ", ".join(table.names)
        raise UserError(
            f"{table.label} has no column for the field {field}, it has {has}; rename one to {field}, or leave {field}"
            f" out of {fields_key}."
        )
    return found[0]


def _factor(
    table: PixelTable, name: str, factors: Mapping[str, float | None], given: str | None, unit_key: str
) -> float:
    """How many of the unit of the result one of a column is."""
    unit = given or _unit(table, name, factors, unit_key)
    factor = factors[unit]
    if factor is None:
        raise UserError(f"{table.label}: the column {name} is in {unit}, {NO_FACTOR}.")
    return factor


def _unit(table: PixelTable, name: str, known: Iterable[str], unit_key: str) -> str:
    """Which of the known units a column says."""
    said = table.unit(name)
    unit = unit_named(said)
    if unit is None or unit not in known:
        what = f"has the unit {said!r}" if said else "says no unit (TUNIT)"
        raise UserError(
            f"{table.label}: the column {name} {what}; one of {', '.join(known)} must be there, or in {unit_key}."
        )
    return unit
