"""HEALPix maps of anyone's: FITS files that say in their own ways what they hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import healpy as hp
import numpy as np
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap

_POLARISED = "{x} {x}_STOKES STOKES_{x} {x}_POLARISATION {x}_POLARIZATION"
_COLUMNS = {  # names that columns have in files of Planck, WMAP, healpy and others
    "T": ("T", "I", "TEMPERATURE", "INTENSITY", "SIGNAL", "I_STOKES", "STOKES_I"),
    "Q": _POLARISED.format(x="Q").split(),
    "U": _POLARISED.format(x="U").split(),
    "E": ("E",),
    "B": ("B",),
}


@contextmanager
def opened(path: Path) -> Iterator[fits.BinTableHDU]:
    """Table of a file's first extension; a `UserError` says what cannot be read."""
    try:
        with fits.open(path, memmap=True) as file:
            if len(file) < 2 or not isinstance(file[1], fits.BinTableHDU):
                raise UserError(f"{path} has no table of pixels in its first extension; write it as a HEALPix map.")
            yield file[1]
    except (OSError, TypeError) as error:
        why = str(error).partition(". ")[0]
        raise UserError(f"{path} cannot be read as a FITS file ({why}); bring it anew.") from None


def ordering(path: Path) -> str:
    """RING or NESTED, as the file says; a `UserError` if it says neither."""
    with opened(path) as table:
        said = str(table.header.get("ORDERING", "")).strip().upper()
    if said not in ("RING", "NESTED", "NEST"):
        raise UserError(f"{path} has the ordering {said!r}; write RING or NESTED into its header (ORDERING).")
    return "RING" if said == "RING" else "NESTED"


def read_map(
    path: Path, nside: int, fields: Sequence[str], factors: Mapping[str, float], *, unit: str | None = None,
    mask: SkyMap | None = None, unit_key: str, fields_key: str,
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Read a HEALPix map of anyone's: full sky, RING or NESTED, Galactic.

    Parameters
    ----------
    path : Path
    nside : int
        The map's; another is refused.
    fields : sequence of str
        Of T, Q, U, E and B; columns are found by name, and E or B alone may be the only column of any name. U changes
        its sign if POLCCONV says IAU, and is COSMO otherwise.
    factors : mapping
        Unit -> how many of the unit of the result it is. Other units are refused.
    unit : str, optional
        Of these; what each column says (TUNIT) if not given.
    mask : SkyMap, optional
        Where it is 0 pixels may be UNSEEN or not finite; they become 0.
    unit_key, fields_key : str
        What a user is told to change who has another unit, or lacks a field.

    Returns
    -------
    array, note
        float64 (len(fields), 12 nside^2), RING; and one line on where they come from.

    Raises
    ------
    UserError
        One sentence with file, reason and what to do.
    """
    nested, empty, notes = ordering(path) == "NESTED", np.zeros(12 * nside**2, dtype=bool), [f"from {path.name}"]
    with opened(path) as table:
        _refuse(path, table.header)
        data = np.empty((len(fields), len(empty)))
        for row, field in zip(data, fields, strict=True):
            name = _column(path, table, field, fields_key)
            values = np.ravel(table.data[name]).astype(np.float64)
            _refuse_nside(path, values.size, nside)
            values = hp.reorder(values, n2r=True) if nested else values
            bad = ~np.isfinite(values) | hp.mask_bad(values)
            _refuse_bad(path, name, bad, mask)
            row[:] = values * factors[unit or _unit(path, table, name, factors, unit_key)]
            row[bad] = 0
            empty |= bad
            if field == "U" and str(table.header.get("POLCCONV", "")).strip().upper() == "IAU":
                row *= -1
                notes.append("U turned from the IAU convention")
    if empty.any():
        notes.append(f"{empty.sum()} masked pixels without a value set to 0")
    return data, ", ".join(notes).encode("ascii", "replace").decode()  # headers know no other letters


def _refuse(path: Path, header: fits.Header) -> None:
    """Refuse parts of the sky and coordinates that are not Galactic."""
    if str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT":
        raise UserError(f"{path} holds a part of the sky; write all pixels, UNSEEN where there is no value.")
    coordinates = str(header.get("COORDSYS", "G")).strip().upper()
    if not coordinates.startswith("G"):
        raise UserError(f"{path} is in the coordinates {coordinates!r}; rotate it to Galactic ones.")


def _refuse_nside(path: Path, npix: int, nside: int) -> None:
    if not hp.isnpixok(npix):
        raise UserError(f"{path} has {npix} pixels, which are no full HEALPix sky; bring it anew.")
    if npix != 12 * nside**2:
        has = hp.npix2nside(npix)
        raise UserError(f"{path} has nside {has} where {nside} is needed; say nside={has}, or bring all maps to one.")


def _refuse_bad(path: Path, name: str, bad: np.ndarray, mask: SkyMap | None) -> None:
    seen = bad if mask is None else bad & (mask["mask"] != 0)
    if seen.any():
        where = "and there is no mask" if mask is None else "where the mask is not 0"
        raise UserError(
            f"{path} has {seen.sum()} pixels of {name} that are UNSEEN or NaN, {where}; give a mask that is 0 there"
            " (mask=file mask.file=...)."
        )


def _column(path: Path, table: fits.BinTableHDU, field: str, fields_key: str) -> str:
    """Name of the column of a field."""
    names = [column.name for column in table.columns]
    found = [name for name in names if name.upper().replace("-", "_").replace(" ", "_") in _COLUMNS[field]]
    if field in ("E", "B") and len(names) == 1:
        return names[0]
    if not found:
        raise UserError(
            f"{path} has no column for the field {field}, it has {', '.join(names)}; rename one to {field}, or leave"
            f" {field} out of {fields_key}."
        )
    return found[0]


def _unit(path: Path, table: fits.BinTableHDU, name: str, known: Iterable[str], unit_key: str) -> str:
    """Which of the known units a column says, in one of the ways in which they are written."""
    said = str(table.columns[name].unit or "").strip()
    spelt = {unit.lower().replace("_", ""): unit for unit in known}
    text = said.lower().replace("_", "").replace(" ", "").replace("mu", "u")
    if text not in spelt:
        what = f"has the unit {said!r}" if said else "says no unit (TUNIT)"
        raise UserError(f"{path}: the column {name} {what}; one of {', '.join(known)} must be there, or in {unit_key}.")
    return spelt[text]
