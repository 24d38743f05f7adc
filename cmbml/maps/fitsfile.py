"""What a HEALPix FITS file says of its pixels: the one place that reads its header and its columns."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
from astropy.io import fits
from numpy.typing import DTypeLike

from cmbml.core.errors import UserError

MEGAJANSKY = {"MJy/sr": 1.0, "kJy/sr": 1e-3, "Jy/sr": 1e-6}
NO_FACTOR = (
    "and the factor of the band from K_CMB to MJy/sr is not known; write it into the instrument's table"
    " (instrument.table) as mjy_sr_per_k_cmb, like that of planck, or give the band a bandpass there"
)
LARGEST = 1e20  # what is larger stands for no value, like HEALPix's UNSEEN of -1.6e30
LARGEST_NSIDE = 8192
NUMBERS = "iuf"  # kinds of columns that may hold pixels: whole numbers with and without sign, and others
_KINDS = {"b": "true or false", "c": "complex numbers", "S": "texts", "U": "texts", "O": "lists of any length"}
COORDINATES = ("COORDSYS", "SKYCOORD", "COORDTYP", "COORD")  # keywords that mean the same
SIGNS_OF_U = ("POLCCONV", "POLCONV")
_ORDERINGS = {"RING": "RING", "NESTED": "NESTED", "NEST": "NESTED"}
_EPOCH = re.compile(r"[\s_,(-]*[JB]?(19|20)[0-9]{2}(\.[0-9]*)?\)?")  # C2000, EQUATORIAL J2000, FK4 (B1950)
_GALACTIC = dict.fromkeys(("G", "GAL", "GALACTIC"), "G")
_EQUATORIAL = dict.fromkeys(("C", "Q", "CEL", "CELESTIAL", "EQ", "EQUATORIAL", "RADEC", "ICRS", "FK4", "FK5"), "C")
_ECLIPTIC = dict.fromkeys(("E", "ECL", "ECLIP", "ECLIPTIC"), "E")
_SYSTEMS = _GALACTIC | _EQUATORIAL | _ECLIPTIC | dict.fromkeys(("SG", "SGAL", "SUPERGALACTIC"), "SG")
_UNREADABLE = (OSError, TypeError, fits.VerifyError)
_DAMAGED = (*_UNREADABLE, LookupError, ValueError, ArithmeticError, AttributeError, MemoryError)  # by a broken header


@dataclass(frozen=True)
class PixelTable:
    """The table of pixels of an open file.

    Attributes
    ----------
    label : str
        What sentences call the file.
    hdu : BinTableHDU
    primary : Header
        Of the file itself: what it says counts where the table is silent.
    remedy : str
        What to do about a file that is broken.
    """

    label: str
    hdu: fits.BinTableHDU
    primary: fits.Header
    remedy: str = "bring it anew"

    def key(self, name: str, default: Any = "") -> Any:
        """Value of a keyword, of the table or of the file; the default if it is in neither, or blank."""
        return next(iter(self._values(name)), default)

    def _values(self, name: str) -> list[Any]:
        """Values of a keyword, of the table and then of the file; those that are blank are left out."""
        return [value for value, _ in self._placed_values(name)]

    def _placed_values(self, name: str) -> list[tuple[Any, str]]:
        """As ``_values``, with whose header each is in."""
        values = [(self.hdu.header.get(name, ""), "of the table"), (self.primary.get(name, ""), "of the file")]
        return [x for x in values if not isinstance(x[0], fits.card.Undefined) and str(x[0]).strip()]

    def agreed(self, *names: str, meaning: Callable[[str], str] = str) -> str:
        """Word, or number, that both headers mean by all of the keywords that are there; empty if none is.

        Raises
        ------
        UserError
            If a keyword says another than one before it, or the header of the table another than that of the file.
        """
        said = [
            (name, str(value).strip().upper(), whose) for name in names for value, whose in self._placed_values(name)
        ]
        if not said:
            return ""
        meant = [meaning(word) for _, word, _ in said]
        other = next((k for k, word in enumerate(meant) if word != meant[0]), None)
        if other is not None:
            (one, word, whose), (another, against, of) = said[0], said[other]
            where = f" in the header {whose} and {another}={against} in that {of}"
            if whose == of:
                where = f" and {another}={against} in the header {of}"
            raise UserError(f"{self.label} says {one}={word}{where}; make them alike.")
        return meant[0]

    def word(self, name: str) -> str:
        """Value of a keyword that is a word, in capitals; empty if it is not there."""
        return str(self.key(name)).strip().upper()

    @property
    def partial(self) -> bool:
        """Whether the table holds a part of the sky, and says in a column which."""
        scheme = self.word("INDXSCHM")
        if self._listing is not None or scheme == "EXPLICIT":
            return True
        return not scheme and self.word("OBJECT") == "PARTIAL"

    @property
    def _listing(self) -> str | None:
        """Name of the column that says which pixel a row is; None if there is none."""
        return next((name for name in self.hdu.columns.names if name.upper() == "PIXEL"), None)

    @property
    def names(self) -> list[str]:
        """Names of the columns of pixels."""
        return [name for name in self.hdu.columns.names if name.upper() != "PIXEL"]

    @property
    def nside(self) -> int | None:
        """What the header says; None if it says none, and a `UserError` if that is no nside."""
        said = self.agreed("NSIDE")
        if not said:
            return None
        nside = _number(said)
        if nside is None or not 1 <= nside <= LARGEST_NSIDE or not hp.isnsideok(nside, nest=True):
            raise UserError(
                f"{self.label} says NSIDE={self.key('NSIDE')}, which is no power of two from 1 to {LARGEST_NSIDE}; mend"
                " its header."
            )
        return int(nside)

    @property
    def ordering(self) -> str:
        """RING or NESTED; a `UserError` if the file says neither."""
        word = self.agreed("ORDERING", meaning=lambda word: _ORDERINGS.get(word, word))
        if word not in ("RING", "NESTED"):
            raise UserError(f"{self.label} has the ordering {word!r}; write RING or NESTED into its header (ORDERING).")
        return word

    @property
    def u_sign(self) -> int:
        """Factor that turns U into the COSMO convention: -1 if the file says IAU; a `UserError` if it says neither."""
        word = self.agreed(*SIGNS_OF_U)
        if word not in ("", "COSMO", "IAU"):
            raise UserError(
                f"{self.label} has the sign of U of {word!r}, which is not known; write COSMO or IAU into its header"
                " (POLCCONV)."
            )
        return -1 if word == "IAU" else 1

    def refuse_coordinates(self, given: str | None = None, key: str | None = None) -> None:
        """Refuse coordinates that are not Galactic; a file that says none is.

        Parameters
        ----------
        given : str, optional
            G if a file is Galactic that says what is not known.
        key : str, optional
            Where a user gives it.
        """
        word = self.agreed(*COORDINATES, meaning=_system)
        known = word in _SYSTEMS.values()
        if word in ("", "G") or (given == "G" and not known):
            return
        said = next(self.word(name) for name in COORDINATES if self.word(name))
        if known:
            raise UserError(
                f"{self.label} is in the coordinates {said!r}; rotate it to Galactic ones, and write G into its header"
                " (COORDSYS)."
            )
        where = f"say {key}=G" if key else "write G into its header (COORDSYS)"
        raise UserError(
            f"{self.label} is in the coordinates {said!r}, which are not known; if they are Galactic {where}, and else"
            " rotate it to Galactic ones."
        )

    def unit(self, name: str) -> str:
        """Unit of a column as the file writes it; empty if it says none."""
        return str(self.hdu.columns[name].unit or "").strip()

    def number(self, name: str) -> float:
        """Value of a keyword that is a finite number; a `UserError` if it is none."""
        number = _number(self.key(name))
        if number is None or not np.isfinite(number):
            raise UserError(f"{self.label} says {name}={self.key(name)}, which is no number; mend its header.")
        return number

    def stored(self, name: str, *, kinds: str = NUMBERS) -> np.ndarray:
        """Values of a column, in one row, as the file holds them; a `UserError` if they are no numbers."""
        with _told(self.label, self.remedy, _DAMAGED):
            values = np.ravel(self.hdu.data[name])
        kind = values.dtype.kind
        if kind not in kinds:
            raise UserError(
                f"{self.label} holds {_KINDS.get(kind, 'no numbers')} in the column {name}; one number a pixel is"
                " needed."
            )
        return values

    def pixels(
        self,
        name: str,
        *,
        nest: bool = False,
        dtype: DTypeLike = np.float64,
        outside: float = np.nan,
        kinds: str = NUMBERS,
    ) -> np.ndarray:
        """Values of a column on the full sky.

        Parameters
        ----------
        name : str
        nest : bool, optional
            Whether they are wanted in NESTED order, and not in RING.
        dtype : optional
            Of floating point.
        outside : float, optional
            Value of the pixels that a part of the sky does not list.
        kinds : str, optional
            Of numpy's dtypes, that the column may have.

        Returns
        -------
        array (npix,)
            NaN where there is no value: not finite, beyond 1e20 in size (as UNSEEN is), or what the header calls
            BAD_DATA, or TNULL of this column.

        Raises
        ------
        UserError
            If they are no full HEALPix sky, nor a part of one that says which.
        """
        stored = self.stored(name, kinds=kinds)
        if not stored.size:
            raise UserError(f"{self.label} has no pixels in the column {name}; {self.remedy}.")
        values = stored.astype(dtype)
        bad = ~(np.abs(values) <= LARGEST)
        bad_data = _number(self.key("BAD_DATA"))
        if bad_data is not None:
            bad |= np.isclose(values, bad_data, rtol=1e-5, atol=0)  # the header's digits may be fewer
        null = self._null(name)
        if null is not None:
            bad |= stored == null
        values[bad] = np.nan
        if self.partial:
            values = self._placed(values, outside)
        self._refuse_size(values.size)
        wanted = "NESTED" if nest else "RING"
        if wanted == self.ordering:
            return values
        return np.asarray(hp.reorder(values, inp=self.ordering, out=wanted))

    def _null(self, name: str) -> float | None:
        """Value that stands for none in a column, scaled like its others."""
        column = self.hdu.columns[name]
        null = _number(self.hdu.header.get(f"TNULL{self.hdu.columns.names.index(name) + 1}", ""))
        if null is None:
            return None
        return null * (column.bscale or 1) + (column.bzero or 0)

    def _refuse_size(self, npix: int) -> None:
        """Refuse a number of pixels that is no full sky, or not that of which the header speaks."""
        has = f"{self.label} has {npix} pixels"
        if not hp.isnpixok(npix):
            raise UserError(f"{has}, which are no full HEALPix sky; bring it anew.")
        nside = int(hp.npix2nside(npix))
        if not hp.isnsideok(nside, nest=True):
            raise UserError(f"{has}, whose nside of {nside} is no power of two; bring it to one that is.")
        if self.nside not in (None, nside):
            raise UserError(f"{has}, which is nside {nside}, and says NSIDE={self.nside}; bring it anew.")
        if self.partial:
            return
        first = self.number("FIRSTPIX") if self.key("FIRSTPIX") != "" else 0
        last = self.number("LASTPIX") if self.key("LASTPIX") != "" else npix - 1
        if first not in (0, 1) or last - first + 1 != npix:
            raise UserError(
                f"{has}, and says that they are those from {first:g} to {last:g} (FIRSTPIX, LASTPIX); write all pixels"
                f" of the sky, from 0 to {npix - 1}."
            )

    def _placed(self, values: np.ndarray, outside: float) -> np.ndarray:
        """Pixels of the full sky, in the order of the file, from those that the column PIXEL lists."""
        if self._listing is None:
            raise UserError(
                f"{self.label} has no column PIXEL for a part of the sky; write all pixels, UNSEEN where there is no"
                " value."
            )
        if self.word("INDXSCHM") == "IMPLICIT":
            raise UserError(
                f"{self.label} has a column {self._listing}, and says that its rows are all pixels"
                " (INDXSCHM=IMPLICIT); write EXPLICIT, or leave the column out."
            )
        if self.nside is None:
            raise UserError(f"{self.label} holds a part of the sky and no NSIDE; write it into its header.")
        npix = 12 * self.nside**2
        pixels = self.stored(self._listing)
        once = len(np.unique(pixels)) == len(pixels) == len(values)
        if not once or not ((pixels >= 0) & (pixels < npix) & (np.floor(pixels) == pixels)).all():
            raise UserError(
                f"{self.label} holds a part of the sky, and its column PIXEL does not list each pixel once, from 0 to"
                f" {npix - 1}; write all pixels, UNSEEN where there is no value."
            )
        full = np.full(npix, outside, dtype=values.dtype)
        full[pixels.astype(np.int64)] = values
        return full


@contextmanager
def opened(path: Path, *, label: str | None = None, remedy: str = "bring it anew") -> Iterator[PixelTable]:
    """Open the table of a file's first extension.

    Parameters
    ----------
    path : Path
    label : str, optional
        What sentences call the file; its path if not given.
    remedy : str, optional
        What to do about a file that is missing or broken.

    Raises
    ------
    UserError
        If the file is missing, is broken (also while it is read), or has no such table.
    """
    label = label or str(path)
    with _told(label, remedy, _UNREADABLE), ExitStack() as stack:
        with _told(label, remedy, _DAMAGED):
            file = stack.enter_context(fits.open(path, memmap=True))
            table = _extension(file)  # and not len(file), which never ends in some broken files
            if not isinstance(table, fits.BinTableHDU) or not table.columns.names:
                raise UserError(f"{label} has no table of pixels in its first extension; write it as a HEALPix map.")
            if not all(table.columns.names):
                raise UserError(f"{label} has a column without a name (TTYPE); name it.")
        yield PixelTable(label, table, file[0].header, remedy)


def _extension(file: fits.HDUList) -> Any:
    """First extension of a file; None if it has none."""
    with suppress(IndexError):
        return file[1]
    return None


def _system(word: str) -> str:
    """Letter of the coordinates that a word means, with or without an epoch; the word itself if it is not known."""
    return _SYSTEMS.get(word) or _SYSTEMS.get(_EPOCH.sub("", word) or "C", word)


@contextmanager
def _told(label: str, remedy: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what is raised about a file that is missing or broken into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{label} is missing; {remedy}.") from None
    except errors as error:
        why = str(error).partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{label} cannot be read as a FITS file ({why}); {remedy}.") from None


def unit_named(text: str) -> str | None:
    """Return the unit that a text means in the form ``uK_CMB``, ``K_RJ``, ``MJy/sr``; None if it means none of these.

    Prefixes are u (or mu), m, k and M or none, and keep their case: mJy/sr is not MJy/sr. The text may be one of the
    FITS standard (``MJy sr-1``) or of published maps (``Kcmb``, ``Mjy/sr``).
    """
    return _meant(text, power=1)


def squared_unit_named(text: str) -> str | None:
    """Return the unit that a text means the square of: ``(K_CMB)^2``, ``K^2_CMB``, ``MJy2 sr-2``; None if none.

    What is ambiguous is none: MJy/sr^2 may be the square of an intensity without its brackets, or MJy per sr^2.
    """
    whole = re.fullmatch(r"(?:\((.+)\)|([^()/]*K[^()/]*)) ?(?:\^|\*\*) ?2", text.strip())
    unit = unit_named(whole[1] or whole[2]) if whole else None
    return unit or _meant(text, power=2)


def _meant(text: str, power: int) -> str | None:
    """Return the unit whose power, 1 or 2, a text means with the exponent at each of its parts."""
    raised = "" if power == 1 else r"(?:\^|\*\*)?2"
    per_sr = rf" ?/ ?(?i:sr){raised}|[ .*]?(?i:sr)(?:\^|\*\*)?(?:-{power}|\(-{power}\))"
    kelvin = rf"K[_ ]?(?i:CMB|RJ){raised}|K{raised}[_ ]?(?i:CMB|RJ)"
    found = re.fullmatch(rf"(mu|[umkM]?)(?:({kelvin})|[Jj]y{raised}(?:{per_sr}))", text.strip())
    if found is None:
        return None
    prefix = found[1].replace("mu", "u")
    if found[2] is None:
        return f"{prefix}Jy/sr"
    return f"{prefix}K_CMB" if "CMB" in found[2].upper() else f"{prefix}K_RJ"


def _number(value: Any) -> float | None:
    """Return the number that a header holds, also in quotes; None if it is none."""
    if isinstance(value, bool):
        return None
    with suppress(ValueError, TypeError, OverflowError):
        return float(value)
    return None
