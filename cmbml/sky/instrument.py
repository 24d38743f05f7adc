"""Instruments as data: bands with their frequencies, beams and noise, read from tables."""

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u

from cmbml.sky.beams import beam_table, gaussian_beam
from cmbml.sky.tables import file_of, is_fits, read_table, values
from cmbml.sky.units import mjy_sr_per_k_cmb

TQU = ("T", "Q", "U")
# Names that tables of other packages give to our columns, and the unit of each column that has one.
ALIASES = {
    "band": "name",
    "center_frequency": "center_ghz",
    "fwhm": "fwhm_arcmin",
    "bandpass_file": "bandpass",
}
UNITS = {
    "center_ghz": u.GHz,
    "width_ghz": u.GHz,
    "fwhm_arcmin": u.arcmin,
    "noise_t_uk_arcmin": u.uK * u.arcmin,
    "noise_p_uk_arcmin": u.uK * u.arcmin,
    "noise_b_uk_arcmin": u.uK * u.arcmin,
    "mjy_sr_per_k_cmb": u.MJy / u.sr / u.K,
}

DEFAULTS: dict[str, Any] = {"width_ghz": 0.0, "noise_t_uk_arcmin": 0.0, "noise_p_uk_arcmin": 0.0, "fields": "TQU"}
EMPTY = {"bandpass": "", "beam": "", "tube": "", "mjy_sr_per_k_cmb": 0.0}  # what empty cells stand for
_NAME = re.compile(r"[^\W_](?:[\w.+ -]*[\w+-])?", re.ASCII)
FARTHEST = 2.0  # the mean frequency of a bandpass over the band's own, or the other way round


@dataclass(frozen=True)
class Band:
    """One frequency band of an instrument.

    Noise power, with w the white level, for T and for each of E and B:
    N_l = w^2 (1 + (l / l_knee)^alpha), alpha < 0; white if l_knee is 0. No noise if the level is 0.
    Pixels alone make E and B alike; of surveys that publish another level for B, it has one of its own (`noise`).

    Attributes
    ----------
    name : str
        As it stands in file names.
    center_ghz, width_ghz : float
        The band is a top-hat of this width, or a single frequency if it is 0.
    fwhm_arcmin : float
        Of a Gaussian beam; 0 for none.
    noise_t_uk_arcmin, noise_p_uk_arcmin : float
        uK_CMB arcmin, of T and of each of Q and U, or of E where B has its own.
    fields : tuple of str
        ``("T",)`` or ``("T", "Q", "U")``.
    l_knee_t, alpha_t, l_knee_p, alpha_p : float
    noise_b_uk_arcmin, l_knee_b, alpha_b : float
        Of B; 0 for a level like that of E, whose knee it has then, too.
    mjy_sr_per_k_cmb : float
        Published unit factor: MJy/sr that 1 K_CMB is in the band's maps; 0 if it is not known (`intensity_factor`).
    bandpass, beam : str
        Files that replace the top-hat and the Gaussian; empty for none.
    tube : str
        Optics tube that the band shares with others, whose 1/f noise is correlated; empty for none.

    Examples
    --------
    >>> Band("143", 143.0, 40.0, 7.3, 33.0, 70.0, TQU).fields
    ('T', 'Q', 'U')
    >>> Band("143", 143.0, 300.0, 7.3, 33.0, 70.0, TQU)
    Traceback (most recent call last):
    ValueError: band 143: 143.0 GHz with a width of 300.0 is no band
    """

    name: str
    center_ghz: float
    width_ghz: float
    fwhm_arcmin: float
    noise_t_uk_arcmin: float
    noise_p_uk_arcmin: float
    fields: tuple[str, ...]
    l_knee_t: float = 0.0
    alpha_t: float = 0.0
    l_knee_p: float = 0.0
    alpha_p: float = 0.0
    noise_b_uk_arcmin: float = 0.0
    l_knee_b: float = 0.0
    alpha_b: float = 0.0
    mjy_sr_per_k_cmb: float = 0.0
    bandpass: str = ""
    beam: str = ""
    tube: str = ""

    def __post_init__(self) -> None:
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.type is float}
        for name, value in numbers.items():
            if not np.isfinite(value) or (value < 0 and not name.startswith("alpha")):
                raise ValueError(f"band {self.name}: {name} = {value}, and it must be finite and not negative")
        if not 0 <= self.width_ghz < 2 * self.center_ghz:
            raise ValueError(f"band {self.name}: {self.center_ghz} GHz with a width of {self.width_ghz} is no band")
        if self.fields not in (("T",), TQU):
            raise ValueError(f"band {self.name}: fields are T or TQU, not {''.join(self.fields)}")
        for _, knee, alpha in map(self.noise, "TEB"):
            if knee > 0 and alpha >= 0:
                raise ValueError(f"band {self.name}: noise with a knee needs an alpha below 0, not {alpha}")

    def noise(self, field: str) -> tuple[float, float, float]:
        """White level in uK arcmin, l_knee and alpha of T, E or B."""
        if field == "T":
            return self.noise_t_uk_arcmin, self.l_knee_t, self.alpha_t
        if field == "B" and self.noise_b_uk_arcmin > 0:
            return self.noise_b_uk_arcmin, self.l_knee_b, self.alpha_b
        return self.noise_p_uk_arcmin, self.l_knee_p, self.alpha_p


@dataclass(frozen=True)
class Instrument:
    """A set of bands, in the order of their table, and where its numbers come from.

    Examples
    --------
    >>> one = Band("143", 143.0, 40.0, 7.3, 33.0, 70.0, TQU)
    >>> Instrument("mine", "made up", (one,)).band("143") is one
    True
    """

    name: str
    source: str
    bands: tuple[Band, ...]

    def band(self, name: str) -> Band:
        """Return the band of this name; ValueError if there is none."""
        return choose(self.bands, [name], self.name)[0]


def read_instrument(path: str | os.PathLike[str], bands: Sequence[str | int] | None = None) -> Instrument:
    """Read an instrument from a table, one row a band.

    ``.ecsv`` (astropy's): columns named as the attributes of `Band`, of which ``name``, ``center_ghz`` and
    ``fwhm_arcmin`` must be there; ``name`` and ``source`` in its header. Any other suffix: an IPAC table, as
    ``planck_deltabandpass.tbl`` and CMB-ML's, whose columns are ``band``, ``center_frequency`` and ``fwhm``; what else
    it holds is not used. A column that is not there stands for no width, no noise, no knee, no file, no tube, or for T,
    Q and U; so does an empty cell of a file, a tube or a unit factor. Units written in the table are converted. A band
    that stands there once a tube is called ``band_tube``.

    Parameters
    ----------
    path : path
    bands : sequence of str or int, optional
        Names of the bands to keep; all of them if not given. Their order is that of the table, whatever is asked for.

    Raises
    ------
    ValueError
        If the table cannot be read, lacks a column, holds a band twice or one that makes no sense, or does not hold a
        band that is asked for.

    Examples
    --------
    >>> planck = read_instrument("assets/instruments/planck.ecsv", bands=[143, 100])
    >>> [band.name for band in planck.bands]
    ['100', '143']
    """
    path = Path(path)
    own = path.suffix == ".ecsv"
    table = read_table(path, "ascii.ecsv" if own else "ascii.ipac")
    known = {field.name for field in dataclasses.fields(Band)}
    for old, new in () if own else ALIASES.items():
        if old in table.colnames and new not in table.colnames:
            table.rename_column(old, new)
    unknown = [name for name in table.colnames if name not in known]
    if unknown and own:
        raise ValueError(f"the instrument table {path} has a column {unknown[0]}, which no band has")
    missing = [name for name in ("name", "center_ghz", "fwhm_arcmin") if name not in table.colnames]
    if missing:
        raise ValueError(f"the instrument table {path} has no column {missing[0]}")
    columns = {
        name: values(table[name], UNITS.get(name), path, empty=EMPTY.get(name))
        for name in table.colnames
        if name in known
    }
    columns["name"] = _names(columns["name"], columns.get("tube"), path)
    rows = (DEFAULTS | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    found = tuple(Band(**{**row, "fields": tuple(row["fields"])}) for row in rows)
    return Instrument(
        name=str(table.meta.get("name", path.stem)),
        source=str(table.meta.get("source", "")),
        bands=found if bands is None else choose(found, bands, path),
    )


def bandpass(band: Band, folder: str | os.PathLike[str] = ".", *, points: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies, GHz rising, and the response of a band, each (n,).

    The response is one to power (Jy/sr) per frequency, of any normalisation; PySM3 takes ``bandpass_weights`` so.

    Parameters
    ----------
    band : Band
        Its ``bandpass`` file, a table of frequency (GHz unless it names a unit) and response in its first two columns,
        has precedence (``file.fits[TABLE]`` where there are several tables, or one of them is named after the band);
        then a top-hat of ``width_ghz``, edges included; then the one frequency ``center_ghz``.
    folder : path, optional
        Of a file that the band names by a relative path.
    points : int, optional
        Of the top-hat; with 11 across 30 % of the frequency the trapezoidal rule has dust right to 1e-3.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no bandpass.

    Examples
    --------
    >>> band = Band("100", 100.0, 20.0, 10.0, 0.0, 0.0, TQU)
    >>> freqs, response = bandpass(band, points=3)
    >>> freqs.tolist(), response.tolist()
    ([90.0, 100.0, 110.0], [1.0, 1.0, 1.0])
    """
    if band.bandpass:
        return _bandpass_table(Path(folder) / band.bandpass, band)
    if band.width_ghz == 0:
        return np.array([band.center_ghz]), np.ones(1)
    half = band.width_ghz / 2
    return np.linspace(band.center_ghz - half, band.center_ghz + half, points), np.ones(points)


def intensity_factor(band: Band, folder: str | os.PathLike[str] = ".") -> float | None:
    """Return the MJy/sr that 1 K_CMB is in the band's published maps; None if nothing tells.

    That is ``mjy_sr_per_k_cmb`` of the table, or else what the bandpass (a file or a top-hat) gives under the IRAS
    convention (`cmbml.sky.units.mjy_sr_per_k_cmb`). A single frequency is none: at 857 GHz it errs by 58 %.

    Examples
    --------
    >>> planck = read_instrument("assets/instruments/planck.ecsv")
    >>> [intensity_factor(planck.band(name)) for name in ("70", "857")]
    [None, 2.27]
    """
    if band.mjy_sr_per_k_cmb:
        return band.mjy_sr_per_k_cmb
    if not band.bandpass and band.width_ghz == 0:
        return None
    return mjy_sr_per_k_cmb(band.center_ghz, *bandpass(band, folder))


def beam(band: Band, lmax: int, folder: str | os.PathLike[str] = ".") -> np.ndarray:
    """Return b_l of a band, shape (lmax + 1,): its ``beam`` file's (`beam_table`), or a Gaussian's.

    ``folder`` is that of a file which the band names by a relative path.

    Examples
    --------
    >>> band = Band("100", 100.0, 20.0, 10.0, 0.0, 0.0, TQU)
    >>> np.array_equal(beam(band, 16), gaussian_beam(10.0, 16))
    True
    """
    if not band.beam:
        return gaussian_beam(band.fwhm_arcmin, lmax)
    return beam_table(Path(folder) / band.beam, lmax, band.name)


def files(band: Band, folder: str | os.PathLike[str] = ".") -> dict[str, Path]:
    """Return the files that a band names, by what they hold: ``bandpass``, ``beam``.

    Examples
    --------
    >>> band = Band("143", 143.0, 0.0, 7.3, 33.0, 70.0, TQU, bandpass="RIMO.fits[BANDPASS_F143]")
    >>> files(band, "mine")["bandpass"].name
    'RIMO.fits'
    """
    named = {kind: getattr(band, kind) for kind in ("bandpass", "beam")}
    return {kind: file_of(Path(folder) / name) for kind, name in named.items() if name}


def _bandpass_table(path: Path, band: Band) -> tuple[np.ndarray, np.ndarray]:
    """Read frequencies and response from ECSV, IPAC, FITS or plain text."""
    formats = {".ecsv": "ascii.ecsv", ".tbl": "ascii.ipac"}
    table = read_table(path, "fits" if is_fits(path) else formats.get(path.suffix, "ascii"), band.name)
    if len(table.colnames) < 2:
        raise ValueError(f"the bandpass {path} needs two columns, frequency and response")
    first, second = table.colnames[:2]
    has_unit = table[first].unit is not None
    freqs = np.array(values(table[first], u.GHz, path), dtype=np.float64)
    weights = np.array(values(table[second], None, path), dtype=np.float64)
    if len(freqs) > 2 and freqs[0] == 0:  # of a spectrometer, whose wave numbers begin there
        freqs = freqs[1:]
        weights = weights[1:]
    if not (np.all(freqs > 0) and np.all(np.diff(freqs) > 0) and np.all(np.isfinite(weights))):
        raise ValueError(f"the bandpass {path} needs rising positive frequencies and finite responses")
    total = np.trapezoid(weights, freqs) if len(freqs) > 1 else weights.sum()
    if total <= 0:
        raise ValueError(f"the bandpass {path} has no positive response")
    mean = np.trapezoid(weights * freqs, freqs) / total if len(freqs) > 1 else freqs[0]
    if not 1 / FARTHEST < mean / band.center_ghz < FARTHEST:
        said = "in the unit that it says" if has_unit else "read as GHz, for it says no unit"
        raise ValueError(
            f"the bandpass {path} has its mean at {mean:.4g} GHz ({said}), and the band {band.name} is at"
            f" {band.center_ghz:g}; write frequencies in GHz, or their unit into the header of an .ecsv or .fits table"
        )
    return freqs, weights


def _names(given: list[str], tubes: list[str] | None, path: Path) -> list[str]:
    """Return the names of the bands: with the tube where a name stands there once a tube."""
    names = list(given)
    if tubes is not None:
        names = [f"{x}_{tube}" if given.count(x) > 1 and tube else x for x, tube in zip(given, tubes, strict=True)]
    strange = next((name for name in names if not _NAME.fullmatch(name)), None)
    if strange is not None:
        raise ValueError(
            f"the instrument table {path} holds a band called {strange!r}; it is part of names of files: write letters,"
            " digits, and within them . _ + -"
        )
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ValueError(
            f"the instrument table {path} holds the band {double} more than once; give each row a name of its own, as"
            f" {double}_a and {double}_b, or a column tube that tells them apart, and choose by instrument.bands"
        )
    return names


def choose(bands: Sequence[Band], names: Sequence[str | int], where: str | Path) -> tuple[Band, ...]:
    """Return the bands of these names, in the order in which they stand.

    Examples
    --------
    >>> planck = read_instrument("assets/instruments/planck.ecsv")
    >>> [band.name for band in choose(planck.bands, [143, "100"], "the table")]
    ['100', '143']
    """
    wanted = [str(name) for name in names]
    known = [band.name for band in bands]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"{where} has no band {', '.join(unknown)}; it has {', '.join(known)}")
    if not wanted:
        raise ValueError(f"no band of {where} is asked for; it has {', '.join(known)}")
    return tuple(band for band in bands if band.name in wanted)
