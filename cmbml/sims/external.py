"""Skies that exist already: maps of anyone's become a dataset in the project's own form."""

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import healpy as hp
import numpy as np
from astropy.io import fits
from omegaconf import DictConfig, OmegaConf

from cmbml.core.asset import Item
from cmbml.core.config import matching
from cmbml.core.errors import UserError
from cmbml.core.masked import Masked
from cmbml.core.skymap import SkyMap
from cmbml.sims.bands import SKY, BandStage, told
from cmbml.sky import instrument
from cmbml.sky.units import conversion

OF_CMB = ("K_CMB", "mK_CMB", "uK_CMB")
UNITS = (*OF_CMB, "K_RJ", "mK_RJ", "uK_RJ", "MJy/sr")
_POLARISED = "{x} {x}_STOKES STOKES_{x} {x}_POLARISATION {x}_POLARIZATION"
_COLUMNS = {  # names that columns have in files of Planck, WMAP, healpy and others
    "T": ("T", "I", "TEMPERATURE", "INTENSITY", "SIGNAL", "I_STOKES", "STOKES_I"),
    "Q": _POLARISED.format(x="Q").split(),
    "U": _POLARISED.format(x="U").split(),
}


class ExternalMaps(Masked, BandStage):
    """A stage that brings files of others into the dataset; the mask says which of their pixels may be empty."""

    uses = SKY
    reads = (*BandStage.reads, "instrument.table", "sims.external", "system.root", "dataset")
    masked_inputs = ("mask",)

    def __init__(self, config: DictConfig):
        """Refuse settings that no external map can follow."""
        super().__init__(config)
        given = self.cfg.sims.external
        for group in ("foregrounds", "noise"):
            if config[group].kind != "none":
                raise UserError(f"sims=external takes skies as they are; leave {group}={config[group].kind} out.")
        for key, known in (("unit", UNITS), ("truth_unit", OF_CMB), ("split", tuple(self.cfg.splits))):
            if given[key] not in known and (given[key] is not None or key == "split"):
                raise UserError(f"sims.external.{key}={given[key]} is not known; choose one of {', '.join(known)}.")
        fwhm = given.truth_fwhm_arcmin
        if not isinstance(fwhm, numbers.Real) or fwhm < 0:
            raise UserError(f"sims.external.truth_fwhm_arcmin={fwhm} must be a number that is not negative.")

    @cached_property
    def instrument(self) -> instrument.Instrument:
        """The instrument with the bands that are asked for, and the beams that the files have: none is broadened."""
        bands, given = self.cfg.instrument.bands, self.cfg.sims.external.fwhm_arcmin or {}
        if not OmegaConf.is_dict(given) and given:
            raise UserError(f"sims.external.fwhm_arcmin={given} must be a mapping of bands, like {{100:9.7,143:7.2}}.")
        fwhm = {str(name): value for name, value in given.items()}
        known = told(instrument.read_instrument, self.table, None if bands == "all" else list(bands))
        for name, value in fwhm.items():
            if name not in [band.name for band in known.bands] or not isinstance(value, numbers.Real):
                raise UserError(f"sims.external.fwhm_arcmin={given} must give numbers to bands of the instrument.")
        own = (told(replace, b, fwhm_arcmin=float(fwhm.get(b.name, b.fwhm_arcmin))) for b in known.bands)
        return replace(known, bands=tuple(own))

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Files of each band, and of the truth under ``truth`` if there is one: the k-th is of sky k."""
        given = self.cfg.sims.external
        if "{band}" not in (given.obs or ""):
            raise UserError(
                f"sims.external.obs must be a pattern with {{band}}, like /maps/*_{{band}}.fits; it is {given.obs}."
            )
        files = {band.name: matching(given.obs, band=band.name) for band in self.instrument.bands}
        for name, found in files.items():
            if not found:
                raise UserError(
                    f"sims.external.obs={given.obs} finds no file of the band {name}; mend the pattern, or leave the"
                    " band out of instrument.bands."
                )
        if given.truth is not None:
            files["truth"] = matching(given.truth)
        first, n = next((name, len(found)) for name, found in files.items())
        for name, found in files.items():
            if len(found) != n:
                key = "truth" if name == "truth" else "obs"
                raise UserError(
                    f"sims.external.{key}={given[key]} finds {len(found)} files of {name} and {n} of {first}; a sky"
                    " needs one of each, bring what is missing or narrow the pattern."
                )
        if self.cfg.splits[given.split] != n:
            raise UserError(
                f"sims.external.obs={given.obs} finds {n} skies, and splits.{given.split} is"
                f" {self.cfg.splits[given.split]}; say splits.{given.split}={n}."
            )
        self._refuse_own(files)
        return files

    def _refuse_own(self, files: dict[str, list[Path]]) -> None:
        dataset = (Path(self.cfg.system.root) / self.cfg.dataset).resolve()
        for path in (path for found in files.values() for path in found):
            if path.resolve().is_relative_to(dataset):
                raise UserError(
                    f"{path} lies in the folder of the dataset={self.cfg.dataset} itself and might be overwritten;"
                    " choose another name for the dataset."
                )

    def skies(self) -> list[Item]:
        """One item a sky that is found."""
        split = self.cfg.sims.external.split
        return [{"split": split, "sim": sim} for sim in range(len(next(iter(self.files.values()))))]

    def checked(self, name: str, item: Item) -> Path:
        """File of a band, or of the truth, whose ordering is that of all."""
        path, first = self.files[name][item["sim"]], next(iter(self.files.values()))[0]
        own, others = ordering(path), ordering(first)
        if own != others:
            raise UserError(f"{path} is {own} and {first} is {others}; bring all maps into one ordering.")
        return path


class Truth(ExternalMaps):
    """The CMB of each sky without noise, where it is known."""

    name, outputs = "cmb_map", ("cmb_map",)
    uses = (*SKY, "sims.external.truth_unit", "sims.external.truth_fwhm_arcmin", "sims.external.listing.truth")

    def items(self) -> Iterable[Item]:
        """One item a sky, or none."""
        return self.skies() if "truth" in self.files else []

    def run(self, item: Item, mask: SkyMap | None = None) -> SkyMap:
        """Map of `sky.fields`, uK_CMB, RING."""
        given, sky = self.cfg.sims.external, self.cfg.sky
        factors = {unit: conversion(unit, "uK_CMB", 100.0) for unit in OF_CMB}  # the same at all frequencies
        data, note = read_map(self.checked("truth", item), sky.nside, sky.fields, factors, given.truth_unit, mask)
        return SkyMap(data, tuple(sky.fields), "uK_CMB", float(given.truth_fwhm_arcmin), sky.lmax, note)


class Observations(ExternalMaps):
    """What a band has seen of a sky."""

    name, outputs = "observe", ("obs",)
    uses = (*SKY, "instrument.table", "instrument.contents", "sims.external.unit", "sims.external.fwhm_arcmin",
            "sims.external.listing.obs")  # fmt: skip

    def items(self) -> Iterable[Item]:
        """One item a sky and band."""
        return self.bands_of_skies()

    def run(self, item: Item, mask: SkyMap | None = None) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING."""
        given, path = self.cfg.sims.external, self.checked(item["band"], item)
        factors = {unit: conversion(unit, "uK_CMB", *self.bandpass(item)) for unit in UNITS}
        data, note = read_map(path, self.cfg.sky.nside, self.fields(item), factors, given.unit, mask)
        return self.skymap(item, data, note)


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
    path: Path, nside: int, fields: Sequence[str], factors: Mapping[str, float], unit: str | None = None,
    mask: SkyMap | None = None,
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Read a HEALPix map of anyone's: full sky, RING or NESTED, Galactic.

    Parameters
    ----------
    path : Path
    nside : int
        The map's; another is refused.
    fields : sequence of str
        Of T, Q and U; columns are found by name. U changes its sign if POLCCONV says IAU, and is COSMO otherwise.
    factors : mapping
        Unit -> how many uK_CMB it is. Other units are refused.
    unit : str, optional
        Of these; what each column says (TUNIT) if not given.
    mask : SkyMap, optional
        Where it is 0 pixels may be UNSEEN or not finite; they become 0.

    Returns
    -------
    array, note
        float64 (len(fields), 12 nside^2), uK_CMB, RING; and one line on where they come from.

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
            name = _column(path, table, field)
            values = np.ravel(table.data[name]).astype(np.float64)
            _refuse_nside(path, values.size, nside)
            values = hp.reorder(values, n2r=True) if nested else values
            bad = ~np.isfinite(values) | hp.mask_bad(values)
            _refuse_bad(path, name, bad, mask)
            row[:] = values * factors[unit or _unit(path, table, name, factors)]
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


def _column(path: Path, table: fits.BinTableHDU, field: str) -> str:
    """Name of the column of a field."""
    names = [column.name for column in table.columns]
    found = [name for name in names if name.upper().replace("-", "_").replace(" ", "_") in _COLUMNS[field]]
    if not found:
        raise UserError(
            f"{path} has no column for the field {field}, it has {', '.join(names)}; rename one to {field}, or leave"
            f" {field} out of sky.fields."
        )
    return found[0]


def _unit(path: Path, table: fits.BinTableHDU, name: str, known: Iterable[str]) -> str:
    """Which of the known units a column says, in one of the ways in which they are written."""
    said = str(table.columns[name].unit or "").strip()
    spelt = {unit.lower().replace("_", ""): unit for unit in known}
    text = said.lower().replace("_", "").replace(" ", "").replace("mu", "u")
    if text not in spelt:
        what = f"has the unit {said!r}" if said else "says no unit (TUNIT)"
        raise UserError(
            f"{path}: the column {name} {what}; one of {', '.join(known)} must be there, or in sims.external.unit"
            " (truth_unit for the truth)."
        )
    return spelt[text]
