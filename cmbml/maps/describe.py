"""What a FITS file holds, and what each reader of maps says to it."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import healpy as hp
import numpy as np

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import COORDINATES, SIGNS_OF_U, PixelTable, opened, squared_unit_named, unit_named
from cmbml.maps.foreign import fields_of, read_map
from cmbml.maps.mask import read_mask
from cmbml.maps.skymap import read_skymap
from cmbml.maps.variance import COLUMNS, read_variance


@dataclass(frozen=True)
class Column:
    """Numbers of a column of pixels: those without a value are counted, and left out of the others.

    ``listed`` are the pixels that the file has, ``bad`` those of them that have no value (`PixelTable.pixels`).
    """

    name: str
    unit: str
    listed: int
    bad: int
    least: float
    mean: float
    most: float
    std: float


@dataclass(frozen=True)
class Reading:
    """What a reader makes of the file: how it is asked for, and the sentence with which it refuses, or nothing."""

    reader: str
    how: str
    refused: str = ""


@dataclass(frozen=True)
class MapFile:
    """A HEALPix FITS file: what its header says (`facts`), its columns, and what the readers make of it."""

    facts: dict[str, str]
    columns: list[Column]
    readings: list[Reading]


def describe(path: Path, units: Iterable[str]) -> MapFile:
    """Read what a file says of itself, then let every reader of maps try it; a column is in memory at a time.

    Parameters
    ----------
    path : Path
    units : iterable of str
        Units that maps of others may have.

    Raises
    ------
    UserError
        When it is no FITS file with a table of pixels, or broken.
    """
    with opened(path) as table:
        facts = _facts(table)
        columns = [column for name in table.names if (column := _column(table, name)) is not None]
        fields = fields_of(table)
        names = [name.upper() for name in table.names]
        weights = [c.name for c in columns if c.least >= 0 and c.most <= 1 and c.most > c.least]
        nside = _nside(table)
    readings = [_read("a map of cmbml's own", "as an asset of a stage", partial(read_skymap, path))]
    if nside is None:
        return MapFile(facts, columns, readings)
    factors = dict.fromkeys(units, 1.0)
    of_others = partial(
        read_map,
        path,
        nside,
        factors=factors,
        unit_key="sims.external.unit",
        fields_key="sky.fields",
        coordinates_key="sims.external.coordinates",
    )
    tried = [_read(f"{field} of a sky of others", "", partial(of_others, [field])) for field in fields]
    readings += [reading for reading in tried if reading.refused]
    taken = [field for field, reading in zip(fields, tried, strict=True) if not reading.refused]
    if taken:
        how = f"sims=external nside={nside}, with its path in sims.external.obs, {{band}} for the name of its band"
        readings.append(Reading(f"{', '.join(taken)} of a sky of others", how))
    if not fields:
        readings.append(Reading("a sky of others", "", "no column is called T, Q, U, E or B; rename one"))
    for name in weights:
        how = f"mask=file mask.file={path} mask.column={name}"
        readings.append(_read(f"{name}, a mask", how, partial(read_mask, path, nside, column=name)))
    variances = [field for field, column in COLUMNS.items() if column in names]
    if variances:
        read = partial(read_variance, path, nside, variances, uk_cmb_per_mjy_sr=1.0)
        readings.append(_read("variances of the noise", "noise=variance_map", read))
    return MapFile(facts, columns, readings)


def _read(reader: str, how: str, call: Callable[[], object]) -> Reading:
    """Let a reader try."""
    try:
        call()
    except UserError as error:
        return Reading(reader, how, str(error).rstrip("."))
    return Reading(reader, how)


def _facts(table: PixelTable) -> dict[str, str]:
    """What the header says; what it does not say is said so."""

    def said(*names: str) -> str:
        return next((str(table.key(name)).strip() for name in names if table.key(name) != ""), "")

    nside = _nside(table)
    sky = "a part of the sky" if table.partial else "full sky"
    beam = said("FWHM")
    return {
        "nside": f"{nside}, {sky}" if nside else "not said, and the number of pixels tells none",
        "ordering": table.word("ORDERING") or "not said (ORDERING)",
        "coordinates": said(*COORDINATES).upper() or "not said (COORDSYS): taken for Galactic",
        "sign of U": said(*SIGNS_OF_U).upper() or "not said (POLCCONV): taken for COSMO",
        "beam": f"{beam} (FWHM; arcmin in maps of cmbml's own)" if beam else "not said (FWHM)",
        "lmax": said("LMAX") or "not said (LMAX)",
        "note": said("NOTE"),
    }


def _nside(table: PixelTable) -> int | None:
    """What the header says, or else what the number of pixels means."""
    with suppress(UserError):
        if table.nside is not None:
            return table.nside
    with suppress(UserError):
        rows = sum(table.stored(name).size for name in table.names[:1])
        return None if table.partial or not rows or not hp.isnpixok(rows) else int(hp.npix2nside(rows))
    return None


def _column(table: PixelTable, name: str) -> Column | None:
    """Numbers of a column; None where its pixels cannot be told, which a reader says in its sentence."""
    try:
        values = table.pixels(name, nest=table.ordering == "NESTED")
    except UserError:
        return None
    listed = int(table.stored(name).size)
    good = values[np.isfinite(values)]
    unit = table.unit(name)
    meant = unit_named(unit) or (f"({squared_unit_named(unit)})^2" if squared_unit_named(unit) else "")
    numbers = (good.min(), good.mean(), good.max(), good.std()) if good.size else (np.nan,) * 4
    shown = f"{unit} = {meant}" if meant and meant != unit else unit
    return Column(name, shown or "not said", listed, listed - good.size, *map(float, numbers))
