"""Sky maps as values: HEALPix FITS files that say their unit, ordering, beam and band limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
from astropy.io import fits

from cmbml.core.errors import UserError


@dataclass(frozen=True)
class SkyMap:
    """Maps of one sky that share beam and band limit.

    Attributes
    ----------
    data : ndarray, shape (nfield, npix)
        Pixel values in RING order; float32 on disk.
    fields : tuple of str
        What each row shows: ``T E B Q U kappa``.
    unit : str
        ``uK_CMB``, or ``1`` for the convergence.
    fwhm_arcmin : float
        Full width at half maximum of the Gaussian beam that the maps carry; 0 for none.
    lmax : int
        Band limit of what was synthesised.
    note : str
        One line for the header.
    """

    data: np.ndarray
    fields: tuple[str, ...]
    unit: str
    fwhm_arcmin: float
    lmax: int
    note: str = ""

    @property
    def nside(self) -> int:
        """HEALPix resolution."""
        return hp.npix2nside(self.data.shape[-1])

    def __getitem__(self, field: str) -> np.ndarray:
        if field not in self.fields:
            raise UserError(f"The map holds the fields {', '.join(self.fields)}; {field!r} is not among them.")
        return self.data[self.fields.index(field)]

    def select(self, fields: Sequence[str]) -> np.ndarray:
        """Rows of the named fields, shape (len(fields), npix)."""
        return np.stack([self[f] for f in fields])

    def header(self) -> dict[str, Any]:
        """All but the data and the note, as plain values."""
        return {"unit": self.unit, "fwhm_arcmin": self.fwhm_arcmin, "lmax": self.lmax, "nside": self.nside}


def write_skymap(path: Path, value: SkyMap) -> None:
    """Write a sky map as a HEALPix FITS table: float32, RING, one column a field."""
    if not np.isfinite(value.data).all():
        raise ValueError(f"{path.name}: a map with non-finite pixels is not written.")
    hp.write_map(
        path,
        list(np.atleast_2d(value.data).astype(np.float32)),
        nest=False,
        coord="G",
        dtype=np.float32,
        column_names=list(value.fields),
        column_units=value.unit,
        overwrite=True,
        extra_header=[
            ("POLCCONV", "COSMO", "sign convention of Q and U"),
            ("FWHM", value.fwhm_arcmin, "[arcmin] Gaussian beam of the maps"),
            ("LMAX", value.lmax, "band limit"),
            ("NOTE", value.note),
        ],
    )


def _refuse(path: Path, header: Mapping[str, Any], nside: int | None) -> None:
    def bad(why: str) -> None:
        raise UserError(f"{path}: {why}.")

    if header.get("ORDERING", "").strip() != "RING":
        bad(f"the ordering is {header.get('ORDERING')!r}; RING is needed")
    if not str(header.get("TUNIT1", "")).strip():
        bad("the map has no unit (TUNIT1); write one, e.g. uK_CMB")
    for key in ("NSIDE", "FWHM", "LMAX"):
        if key not in header:
            bad(f"the header lacks {key}")
    if nside is not None and header["NSIDE"] != nside:
        bad(f"nside is {header['NSIDE']} where {nside} is needed")


def read_skymap(path: Path, *, nside: int | None = None) -> SkyMap:
    """Read a sky map and refuse one that does not say what it is.

    Raises
    ------
    UserError
        Without a unit, beam or band limit, of another ordering than RING, of another nside than the one asked for,
        or with pixels that are UNSEEN or not finite.
    """
    try:
        table, header = fits.getdata(path, 1, header=True, memmap=False)
    except (OSError, IndexError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path}: not a readable FITS map ({error}).") from None
    _refuse(path, header, nside)
    data = np.stack([np.ravel(table[name]) for name in table.names]).astype(np.float32)
    if not np.isfinite(data).all() or (data == hp.UNSEEN).any():
        raise UserError(f"{path}: the map has pixels that are UNSEEN or not finite, and no mask says so.")
    if data.shape[1] != hp.nside2npix(header["NSIDE"]):
        raise UserError(f"{path}: {data.shape[1]} pixels are not a full sky of nside {header['NSIDE']}.")
    return SkyMap(
        data=data,
        fields=tuple(table.names),
        unit=header["TUNIT1"].strip(),
        fwhm_arcmin=float(header["FWHM"]),
        lmax=int(header["LMAX"]),
        note=str(header.get("NOTE", "")),
    )
