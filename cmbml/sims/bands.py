"""What the stages of a many-band dataset share: its instrument, its bands, and the beam of a band."""

import numbers
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import healpy as hp
import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.config.resolvers import shipped
from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import instrument
from cmbml.sky.pixel_window import pixel_window

# What decides what a band is.
INSTRUMENT = (
    "instrument.table",
    "instrument.contents",
    "instrument.min_fwhm_pixels",
    "instrument.fwhm_arcmin",
    "instrument.pixel_window",
)
SKY = ("sky.nside", "sky.lmax", "sky.fields")


def as_user_error(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of `cmbml.sky`; what it finds wrong with its arguments is a user's mistake."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise UserError(f"{error}.") from None


def observed(survey: DictConfig, nside: int) -> instrument.Instrument:
    """Return the instrument of the group `instrument`: the bands that are asked for, with the beams that maps have.

    `instrument.fwhm_arcmin` goes before the table; no Gaussian beam is narrower than `instrument.min_fwhm_pixels`.

    Raises
    ------
    UserError
        When a band is not known, or its beam is no number.
    """
    names = None if survey.bands == "all" else list(survey.bands)
    widths = survey.fwhm_arcmin or {}
    if not OmegaConf.is_dict(widths) and widths:
        raise UserError(f"instrument.fwhm_arcmin={widths} must be a mapping of bands, like {{100:9.7,143:7.2}}.")
    published = as_user_error(instrument.read_instrument, shipped(survey.table), names)
    fwhm = {str(name): value for name, value in widths.items()}
    for name, value in fwhm.items():
        if name not in [band.name for band in published.bands] or not isinstance(value, numbers.Real):
            raise UserError(f"instrument.fwhm_arcmin={widths} must give numbers to bands of the instrument.")
    least = survey.min_fwhm_pixels * hp.nside2resol(nside, arcmin=True)
    bands = []
    for band in published.bands:
        band = as_user_error(replace, band, fwhm_arcmin=float(fwhm.get(band.name, band.fwhm_arcmin)))
        bands.append(band if band.beam else replace(band, fwhm_arcmin=max(band.fwhm_arcmin, least)))
    return replace(published, bands=tuple(bands))


def finest_fwhm(survey: DictConfig, nside: int, field: str) -> float:
    """Return the narrowest beam, arcmin, among the bands that see a field: one of T, E, B, Q, U, or several."""
    return float(min(band.fwhm_arcmin for band in _seeing(survey, nside, field)))


def channels(survey: DictConfig, nside: int, field: str) -> int:
    """Return the number of maps that the bands have of a field: one a band, or those of T, Q and U for several."""
    return sum(len(band.fields) if len(field) > 1 else 1 for band in _seeing(survey, nside, field))


def _seeing(survey: DictConfig, nside: int, field: str) -> list[instrument.Band]:
    needed = "T" if "T" in field else "Q"
    seeing = [band for band in observed(survey, nside).bands if needed in band.fields]
    if not seeing:
        raise UserError(f"field={field}: none of instrument.bands={survey.bands} sees it.")
    return seeing


class BandStage(Stage):
    """A stage whose items are bands, of every sky or of all skies alike.

    A file that the instrument's table names lies in the folder of the table's own name beside it.
    """

    uses = (*INSTRUMENT, *SKY)
    reads = ("splits", "instrument.bands")

    @cached_property
    def instrument(self) -> instrument.Instrument:
        """The instrument with the bands that are asked for, and the beams that their maps have."""
        return observed(self.cfg.instrument, self.cfg.sky.nside)

    @property
    def table(self) -> Any:
        """Path of the instrument's table."""
        return shipped(self.cfg.instrument.table)

    def bands(self) -> list[Item]:
        """One item a band."""
        return [{"band": band.name} for band in self.instrument.bands]

    def skies(self) -> list[Item]:
        """One item a sky."""
        return [{"split": split, "sim": sim} for split, n in self.cfg.splits.items() for sim in range(n)]

    def bands_of_skies(self) -> Iterable[Item]:
        """One item a sky and band."""
        return [{**sky, **band} for sky in self.skies() for band in self.bands()]

    def fields(self, item: Item) -> tuple[str, ...]:
        """Fields of a band's maps: those of `sky.fields` that the band has."""
        return tuple(x for x in self.instrument.band(item["band"]).fields if x in self.cfg.sky.fields)

    def beam(self, item: Item) -> np.ndarray:
        """b_l of a band, (lmax + 1,), with the pixel window where `instrument.pixel_window` says so."""
        sky = self.cfg.sky
        beam = as_user_error(instrument.beam, self.instrument.band(item["band"]), sky.lmax, self.table.with_suffix(""))
        return beam * pixel_window(sky.nside, sky.lmax) if self.cfg.instrument.pixel_window else beam

    def bandpass(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in GHz and response of a band."""
        return as_user_error(instrument.bandpass, self.instrument.band(item["band"]), self.table.with_suffix(""))

    def skymap(self, item: Item, data: np.ndarray, note: str) -> SkyMap:
        """Map of a band, uK_CMB."""
        fwhm_arcmin = self.instrument.band(item["band"]).fwhm_arcmin
        return SkyMap(data, self.fields(item), "uK_CMB", fwhm_arcmin, self.cfg.sky.lmax, note)

    def cost(self) -> tuple[float, float]:
        """A map in single precision on disk, some in double precision in memory."""
        npix = 12 * self.cfg.sky.nside**2 * len(self.cfg.sky.fields)
        return 4 * npix, 8 * npix * 4
