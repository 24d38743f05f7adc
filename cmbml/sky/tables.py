"""Tables in files of anyone's: one table of a FITS file of many, and text of astropy's forms."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

TEXT = ("name", "fields", "tube", "bandpass", "beam")  # columns that are no numbers


def file_of(path: Path) -> Path:
    """Return the file that a path names, without the ``[TABLE]`` that may follow it.

    Examples
    --------
    >>> file_of(Path("maps/RIMO.fits[BANDPASS_F143]")).name
    'RIMO.fits'
    """
    return _parts(path)[0]


def is_fits(path: Path) -> bool:
    """Whether a path names a FITS file, with or without one of its tables.

    Examples
    --------
    >>> is_fits(Path("RIMO.fits[BANDPASS_F143]")), is_fits(Path("beam.txt"))
    (True, False)
    """
    return ".fits" in path.name


def fits_table(path: Path, band: str = "") -> Table:
    """Read a table of a FITS file: ``file.fits[NAME]``, the only one, or the one that is named after a band.

    An extension is named after the band 30 if it is called 30, or ends with it: ``BANDPASS_030``, ``BANDPASS_F030``.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or no table or several that fit.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> hdus = [fits.BinTableHDU(Table({"x": [value]}), name=name) for value, name in ((1, "F100"), (2, "F143"))]
    >>> with TemporaryDirectory() as folder:
    ...     fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(Path(folder, "x.fits"))
    ...     tables = fits_table(Path(folder, "x.fits[f100]")), fits_table(Path(folder, "x.fits"), "143")
    >>> [int(table["x"][0]) for table in tables]
    [1, 2]
    """
    file, wanted = _parts(path)
    with fits.open(file) as hdus:
        tables = {i: hdu.name for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)}
        return Table.read(hdus[_chosen(tables, wanted, band, file)])


def read_table(path: Path, form: str, band: str = "") -> Table:
    """Read a table with astropy; whatever is wrong becomes one sentence.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> read_table(Path("nowhere.ecsv"), "ascii.ecsv")
    Traceback (most recent call last):
    ValueError: there is no table nowhere.ecsv
    """
    file = file_of(path) if form == "fits" else path
    if not file.is_file():
        raise ValueError(f"there is no table {file}")
    try:
        return fits_table(path, band) if form == "fits" else Table.read(path, format=form)
    except Exception as error:  # astropy raises many kinds
        raise ValueError(f"{path} cannot be read as a table ({form}): {str(error).splitlines()[0]}") from error


def values(column: Any, unit: u.Unit | None, path: Path, *, empty: Any = None) -> list[Any]:
    """Return the plain values of a column: text, or float64 in ``unit``, to which its own unit is converted.

    Parameters
    ----------
    column : Column
    unit : Unit, optional
    path : Path
        Of the table, for sentences.
    empty : optional
        What an empty cell stands for; by default it is refused.

    Raises
    ------
    ValueError
        If there are no such values.

    Examples
    --------
    >>> values(Table({"center_ghz": [0.143] * u.THz})["center_ghz"], u.GHz, Path("x"))
    [143.0]
    """
    blank = np.ma.getmaskarray(column)
    if blank.any() and empty is None:
        raise ValueError(f"the table {path} has an empty cell in its column {column.name}")
    if column.name in TEXT:
        return [empty if none else str(value) for value, none in zip(column, blank, strict=True)]
    try:
        numbers = np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)
        if unit is not None and column.unit is not None:
            numbers = (numbers * column.unit).to_value(unit, equivalencies=u.spectral())
    except (ValueError, u.UnitsError) as error:
        raise ValueError(f"the table {path} has no numbers that fit in its column {column.name}: {error}") from error
    return [empty if none else float(value) for value, none in zip(numbers, blank, strict=True)]


def _parts(path: Path) -> tuple[Path, str]:
    """Return the file that a path names, and the table in it; a file that is called so, brackets and all, is that."""
    found = re.fullmatch(r"(.+)\[([^\[\]]+)\]", path.name)
    if found is None or path.is_file():
        return path, ""
    return path.with_name(found[1]), found[2]


def _chosen(tables: dict[int, str], wanted: str, band: str, file: Path) -> int:
    """Return the number of the extension that is meant, of the tables of a file."""
    if not tables:
        raise ValueError("there is no table in it")
    if wanted:
        fit = [i for i, name in tables.items() if name.upper() == wanted.strip().upper()]
        problem = f"{len(fit) or 'none'} of its tables called {wanted}"
    elif len(tables) == 1:
        return next(iter(tables))
    else:
        after = re.compile(rf"(.*[^0-9A-Za-z])?F?0*{re.escape(band)}", re.IGNORECASE)
        fit = [i for i, name in tables.items() if band and after.fullmatch(name)]
        problem = f"{len(tables)} tables, {len(fit) or 'none'} of them named after the band {band}".rstrip()
    if len(fit) == 1:
        return fit[0]
    names = [name or f"(extension {i} has no name)" for i, name in tables.items()]
    raise ValueError(f"it has {problem}; say which, as in {file.name}[{names[0]}], of {', '.join(names)}")
