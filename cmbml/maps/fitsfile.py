"""What a HEALPix FITS file says of its pixels: the one place that reads its header and its columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
from astropy.io import fits
from numpy.typing import DTypeLike

from cmbml.core.errors import UserError

UNITS = ("K_CMB", "mK_CMB", "uK_CMB", "K_RJ", "mK_RJ", "uK_RJ", "MJy/sr")


@dataclass(frozen=True)
class PixelTable:
    """The table of pixels of an open file.

    Attributes
    ----------
    label : str
        What sentences call the file.
    hdu : BinTableHDU
    """

    label: str
    hdu: fits.BinTableHDU

    def key(self, name: str, default: Any = "") -> Any:
        """Value of a keyword."""
        return self.hdu.header.get(name, default)

    def word(self, name: str) -> str:
        """Value of a keyword that is a word, in capitals; empty if it is not there."""
        return str(self.key(name)).strip().upper()

    @property
    def names(self) -> list[str]:
        """Names of the columns of pixels."""
        return [column.name for column in self.hdu.columns]

    @property
    def ordering(self) -> str:
        """RING or NESTED; a `UserError` if the file says neither."""
        word = self.word("ORDERING")
        if word not in ("RING", "NESTED", "NEST"):
            raise UserError(f"{self.label} has the ordering {word!r}; write RING or NESTED into its header (ORDERING).")
        return "RING" if word == "RING" else "NESTED"

    @property
    def u_sign(self) -> int:
        """Factor that turns U into the COSMO convention: -1 if the file says IAU."""
        return -1 if self.word("POLCCONV") == "IAU" else 1

    def refuse_coordinates(self) -> None:
        """Refuse coordinates that are not Galactic; a file that says none is."""
        word = str(self.key("COORDSYS", "G")).strip().upper()
        if not word.startswith("G"):
            raise UserError(f"{self.label} is in the coordinates {word!r}; rotate it to Galactic ones.")

    def unit(self, name: str) -> str:
        """Unit of a column as the file writes it; empty if it says none."""
        return str(self.hdu.columns[name].unit or "").strip()

    def pixels(self, name: str, *, nest: bool = False, dtype: DTypeLike = np.float64) -> np.ndarray:
        """Values of a column on the full sky.

        Parameters
        ----------
        name : str
        nest : bool, optional
            Whether they are wanted in NESTED order, and not in RING.
        dtype : optional
            Of floating point.

        Returns
        -------
        array (npix,)
            NaN where there is no value: UNSEEN, or not finite.

        Raises
        ------
        UserError
            If they are no full HEALPix sky.
        """
        values = np.ravel(self.hdu.data[name]).astype(dtype)
        if not hp.isnpixok(values.size):
            raise UserError(f"{self.label} has {values.size} pixels, which are no full HEALPix sky; bring it anew.")
        values[~np.isfinite(values) | hp.mask_bad(values)] = np.nan
        if nest and self.ordering == "RING":
            return hp.reorder(values, r2n=True)
        if not nest and self.ordering == "NESTED":
            return hp.reorder(values, n2r=True)
        return values


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
    try:
        with fits.open(path, memmap=True) as file:
            if len(file) < 2 or not isinstance(file[1], fits.BinTableHDU):
                raise UserError(f"{label} has no table of pixels in its first extension; write it as a HEALPix map.")
            yield PixelTable(label, file[1])
    except FileNotFoundError:
        raise UserError(f"{label} is missing; {remedy}.") from None
    except (OSError, TypeError, fits.VerifyError) as error:
        why = str(error).partition(". ")[0]
        raise UserError(f"{label} cannot be read as a FITS file ({why}); {remedy}.") from None


def unit_named(text: str) -> str | None:
    """Which of `UNITS` a text means, in one of the ways in which they are written; None if it is none of them."""
    known = {_spelling(unit): unit for unit in UNITS}
    return known.get(_spelling(text))


def squared_unit_named(text: str) -> str | None:
    """Which of `UNITS` a text means the square of: ``(K_CMB)^2``, ``Kcmb^2``; None if it is none of them."""
    text = _spelling(text).replace("**", "^")
    if not text.endswith("^2"):
        return None
    return unit_named(text.removesuffix("^2").removeprefix("(").removesuffix(")"))


def _spelling(unit: str) -> str:
    return unit.lower().replace("_", "").replace(" ", "").replace("mu", "u")
