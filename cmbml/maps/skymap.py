"""Sky maps as values: HEALPix FITS files that say their unit, ordering, beam and band limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import PixelTable, opened


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
    masks : int
        Factors of the mask of their dataset that the maps carry: what they show was multiplied by it so many times.

    Examples
    --------
    >>> sky = SkyMap(np.arange(24.0).reshape(2, 12), ("E", "B"), unit="uK_CMB", fwhm_arcmin=5.0, lmax=2)
    >>> sky.nside, float(sky["B"][0]), sky.select(["B"]).shape
    (1, 12.0, (1, 12))
    """

    data: np.ndarray
    fields: tuple[str, ...]
    unit: str
    fwhm_arcmin: float
    lmax: int
    note: str = ""
    masks: int = 0

    @property
    def nside(self) -> int:
        """HEALPix resolution."""
        return int(hp.npix2nside(self.data.shape[-1]))

    def __getitem__(self, field: str) -> np.ndarray:
        if field not in self.fields:
            raise UserError(f"The map holds the fields {', '.join(self.fields)}; {field!r} is not among them.")
        row: np.ndarray = self.data[self.fields.index(field)]
        return row

    def select(self, fields: Sequence[str]) -> np.ndarray:
        """Rows of the named fields, shape (len(fields), npix)."""
        return np.stack([self[f] for f in fields])

    def header(self) -> dict[str, Any]:
        """Unit, beam, band limit and resolution, as plain values."""
        return {"unit": self.unit, "fwhm_arcmin": self.fwhm_arcmin, "lmax": self.lmax, "nside": self.nside}


def write_skymap(path: Path, value: SkyMap) -> None:
    """Write a sky map as a HEALPix FITS table: float32, RING, one column a field.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> sky = SkyMap(np.ones((1, 12)), ("kappa",), unit="1", fwhm_arcmin=0.0, lmax=2, masks=2)
    >>> with TemporaryDirectory() as folder:
    ...     write_skymap(Path(folder, "sky.fits"), sky)
    ...     again = read_skymap(Path(folder, "sky.fits"), nside=1)
    >>> again.header(), again.masks, bool((again["kappa"] == sky["kappa"]).all())
    ({'unit': '1', 'fwhm_arcmin': 0.0, 'lmax': 2, 'nside': 1}, 2, True)
    """
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
            *([("MASKS", value.masks, "factors of the mask in the maps")] if value.masks else []),
        ],
    )


def read_skymap(path: Path, *, nside: int | None = None) -> SkyMap:
    """Read a sky map and refuse one that does not say what it is.

    Raises
    ------
    UserError
        Without a unit, beam or band limit, of another ordering than RING, of another nside than the one asked for,
        or with pixels that are UNSEEN or not finite.
    """
    with opened(path) as table:
        _refuse(table, nside)
        names = table.names
        data = np.stack([table.pixels(name, dtype=np.float32) for name in names])
        if np.isnan(data).any():
            raise UserError(f"{path}: the map has pixels that are UNSEEN or not finite, and no mask says so.")
        return SkyMap(
            data=data,
            fields=tuple(names),
            unit=table.unit(names[0]),
            fwhm_arcmin=table.number("FWHM"),
            lmax=int(table.number("LMAX")),
            note=str(table.key("NOTE")),
            masks=int(table.number("MASKS")) if table.key("MASKS") != "" else 0,
        )


def _refuse(table: PixelTable, nside: int | None) -> None:
    if table.ordering != "RING":
        raise UserError(f"{table.label}: the ordering is {table.ordering!r}; RING is needed.")
    table.refuse_coordinates()
    if table.u_sign < 0:
        raise UserError(f"{table.label}: the sign of U is that of IAU; COSMO is needed (POLCCONV).")
    if not table.names or not table.unit(table.names[0]):
        raise UserError(f"{table.label}: the map has no unit (TUNIT1); write one, e.g. uK_CMB.")
    for key in ("NSIDE", "FWHM", "LMAX"):
        if table.key(key) == "":
            raise UserError(f"{table.label}: the header lacks {key}.")
    if nside is not None and table.nside != nside:
        raise UserError(f"{table.label}: nside is {table.nside} where {nside} is needed.")
