"""Instrument beams in harmonic space."""

import os
from pathlib import Path

import numpy as np

from cmbml.sky.tables import fits_table, is_fits

_LARGEST = 1.05  # b_l, of a beam that is normalised to 1 %


def gaussian_beam(fwhm_arcmin: float, lmax: int) -> np.ndarray:
    """Return b_l = exp(-l(l+1) sigma^2 / 2), sigma = FWHM / sqrt(8 ln 2), shape (lmax + 1,).

    One b_l serves T, E and B alike; the factor exp(2 sigma^2) of spin 2 is left out, 1e-4 for a beam of half a degree.

    Examples
    --------
    Widths of beams add in quadrature:

    >>> both = gaussian_beam(30.0, lmax=16) * gaussian_beam(40.0, lmax=16)
    >>> np.allclose(both, gaussian_beam(50.0, lmax=16))
    True
    """
    sigma = np.deg2rad(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
    ell = np.arange(lmax + 1)
    beam: np.ndarray = np.exp(-ell * (ell + 1) * sigma**2 / 2)
    return beam


def beam_table(path: str | os.PathLike[str], lmax: int, band: str = "") -> np.ndarray:
    """Read b_l (the amplitude, not its square) from a file, shape (lmax + 1,).

    FITS: the first column of the table, from l = 0 on (the form of Planck's beam windows and of healpy), or the second
    if the first is named ``ELL`` or ``L``; of several tables the one that ``file.fits[TABLE]`` says, or that is named
    after the band (`cmbml.sky.tables.fits_table`). Text: one column of b_l from l = 0 on, or two, l and b_l; lines that
    begin with # are comments. One b_l serves T, E and B: further columns of a file are not used.

    Raises
    ------
    ValueError
        If the file cannot be read as such a table, does not begin at l = 0 with b_0 = 1 to 1 %, or ends below lmax.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "beam.txt"
    ...     np.savetxt(path, gaussian_beam(60.0, lmax=32))
    ...     beam = beam_table(path, lmax=16)
    >>> np.array_equal(beam, gaussian_beam(60.0, lmax=16))
    True
    """
    path = Path(path)
    try:
        ell, beam = _fits_columns(path, band) if is_fits(path) else _text_columns(path)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a table of a beam, b_l: {error}") from error
    if ell is not None and not np.array_equal(ell, np.arange(len(ell))):
        raise ValueError(f"the beam {path} does not list l = 0, 1, 2, ...")
    if len(beam) <= lmax:
        raise ValueError(f"the beam {path} ends at l = {len(beam) - 1}, below lmax = {lmax}")
    if not np.all(np.isfinite(beam[: lmax + 1])):
        raise ValueError(f"the beam {path} has values that are not finite below lmax = {lmax}")
    if abs(beam[0] - 1) > 0.01:
        raise ValueError(f"the beam {path} is not normalised: b_0 = {beam[0]:.4g}, and it must be 1")
    if np.abs(beam[: lmax + 1]).max() > _LARGEST:
        raise ValueError(f"the beam {path} grows to {np.abs(beam[: lmax + 1]).max():.4g}, and b_l is at most 1")
    return beam[: lmax + 1]


def _fits_columns(path: Path, band: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Return l, if it is there, and b_l of a table of a FITS file."""
    table = fits_table(path, band)
    columns = [np.asarray(table[name], dtype=np.float64) for name in table.colnames[:2]]
    if any(min(np.shape(column)[0], np.size(column) // max(np.shape(column)[0], 1)) > 1 for column in columns):
        raise ValueError("a row of it holds several values")
    columns = [column.ravel() for column in columns]
    has_ell = table.colnames[0].upper() in ("ELL", "L")
    return (columns[0], columns[1]) if has_ell else (None, columns[0])


def _text_columns(path: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """Return l, if it is there, and b_l of a text file."""
    columns = np.loadtxt(path, ndmin=2).T
    return (columns[0], columns[1]) if len(columns) > 1 else (None, columns[0])
