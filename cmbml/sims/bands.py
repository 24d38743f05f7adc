"""What the stages of a many-band dataset share: its instrument, its bands, and the beam of a band."""

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import healpy as hp
import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.config.resolvers import shipped
from cmbml.config.truth import has_parts
from cmbml.core.asset import Item
from cmbml.core.errors import UserError
from cmbml.core.provenance import telling
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import dipole, instrument, sht
from cmbml.sky.noise import noise_cl
from cmbml.sky.pixel_window import pixel_window

# What decides what a band is, but for its noise; what decides its noise; what goes before the table.
INSTRUMENT = (
    "instrument.table",
    "instrument.contents",
    "instrument.min_fwhm_pixels",
    "instrument.fwhm_arcmin",
    "instrument.pixel_window",
)
NOISE = ("instrument.noise_t_uk_arcmin", "instrument.noise_p_uk_arcmin")
DRAWN = ("noise.factor", "noise.knee", "noise.tube_correlation")
OVERRIDES = ("fwhm_arcmin", "noise_t_uk_arcmin", "noise_p_uk_arcmin")
SKY = ("sky.nside", "sky.lmax", "sky.fields")


def as_user_error(function: Callable[..., Any], *args: Any, key: str = "", **kwargs: Any) -> Any:
    """Call a function of `cmbml.sky`; what it finds wrong with its arguments is a user's mistake, below ``key``."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise UserError(f"{key}{error}.") from None


def chosen(survey: DictConfig) -> instrument.Instrument:
    """Return the instrument of the group `instrument`: the bands that are asked for, with their own beams.

    `instrument.fwhm_arcmin`, `noise_t_uk_arcmin` and `noise_p_uk_arcmin` go before the table; where a stage does not
    declare one of them, it is the table's.

    Raises
    ------
    UserError
        When a band is not known, or its beam or noise is no number.
    """
    known = _asked_for(survey)
    bands = known.bands
    everywhere = [band.name for band in _read(survey.table, None).bands]
    for column in OVERRIDES:
        given = _given(survey, column, [band.name for band in bands], everywhere)
        bands = tuple(_with(b, column, given[b.name]) if b.name in given else b for b in bands)
    return replace(known, bands=bands)


def _with(band: instrument.Band, column: str, value: float) -> instrument.Band:
    """Return a band with another value of a column; a noise of Q and U is that of E and of B."""
    changes: dict[str, Any] = {column: value}
    if column == "noise_p_uk_arcmin":
        changes["noise_b_uk_arcmin"] = 0.0
    changed: instrument.Band = as_user_error(replace, band, **changes)
    return changed


def observed(survey: DictConfig, nside: int) -> instrument.Instrument:
    """Return the instrument of the group `instrument` (`chosen`), with the beams that maps have.

    No Gaussian beam is narrower than `instrument.min_fwhm_pixels`.
    """
    known = chosen(survey)
    least = survey.min_fwhm_pixels * hp.nside2resol(nside, arcmin=True)
    wide = (replace(b, fwhm_arcmin=b.fwhm_arcmin if b.beam else max(b.fwhm_arcmin, least)) for b in known.bands)
    return replace(known, bands=tuple(wide))


def one_band(survey: DictConfig) -> instrument.Band:
    """Return the one band of the group `instrument` that is delensed, with its own beam.

    Raises
    ------
    UserError
        When it is not one, sees no polarisation, or has a beam that is no Gaussian's.
    """
    known = _asked_for(survey).bands
    everywhere = _read(survey.table, None).bands
    names = [band.name for band in everywhere if "Q" in band.fields and band.noise_p_uk_arcmin > 0]
    advice = f"choose one of {', '.join(names)}, as in instrument.bands=[{names[-1]}]" if names else "choose another"
    if len(known) > 1:
        raise UserError(f"instrument={survey.name} has {len(known)} bands here, and one is delensed; {advice}.")
    (band,) = chosen(survey).bands
    given = survey.noise_p_uk_arcmin is not None
    if "Q" not in band.fields or (band.noise_p_uk_arcmin == 0 and not given):
        raise UserError(
            f"The band {band.name} of instrument={survey.name} has no noise of polarisation, and lensing is found in E"
            f" and B; {advice}."
        )
    if band.beam or survey.pixel_window:
        raise UserError(
            f"instrument={survey.name}: delensing knows Gaussian beams alone; choose a table without beam files, and"
            " instrument.pixel_window=false."
        )
    return band


def one_fwhm(survey: DictConfig, nside: int) -> float:
    """Return the beam, arcmin, that maps of the one band have which is delensed."""
    one_band(survey)
    return float(observed(survey, nside).bands[0].fwhm_arcmin)


def delensed_fwhm(survey: DictConfig, nside: int, combine: Mapping[str, Any]) -> float:
    """Return the beam, arcmin, of the maps that are delensed: the finest band's where several are combined."""
    return finest_fwhm(survey, nside, "B") if combine else one_fwhm(survey, nside)


def finest_fwhm(survey: DictConfig, nside: int, field: str) -> float:
    """Return the narrowest beam, arcmin, among the bands that see a field: one of T, E, B, Q, U, or several."""
    return float(min(band.fwhm_arcmin for band in _seeing(survey, nside, field)))


def channels(survey: DictConfig, nside: int, field: str) -> int:
    """Return the number of maps that the bands have of a field: one a band, or those of T, Q and U for several."""
    return sum(len(band.fields) if len(field) > 1 else 1 for band in _seeing(survey, nside, field))


def _asked_for(survey: DictConfig) -> instrument.Instrument:
    """Return the bands that are asked for, as the table has them."""
    bands = survey.bands
    if bands != "all" and not OmegaConf.is_list(bands):
        raise UserError(f"instrument.bands={bands} must be all or a list of bands, e.g. [100,143].")
    return _read(survey.table, None if bands == "all" else tuple(bands))


def _read(table: str, bands: tuple[str | int, ...] | None) -> instrument.Instrument:
    """Read a table, once for as long as its file does not change: each look at the configuration asks for it."""
    path = shipped(table)
    return _read_once(path, bands, telling(path))


@lru_cache(maxsize=16)
def _read_once(path: Path, bands: tuple[str | int, ...] | None, state: str) -> instrument.Instrument:
    whole = as_user_error(instrument.read_instrument, path)
    if bands is None:
        return whole
    return replace(whole, bands=as_user_error(instrument.choose, whole.bands, bands, path, key="instrument.bands: "))


def _given(survey: DictConfig, column: str, names: list[str], everywhere: list[str]) -> dict[str, float]:
    """Return what the configuration says of a column of the table, by the names of its bands."""
    given = survey.get(column)
    if given is None:
        return {}
    if len(names) == 1 and isinstance(given, numbers.Real):
        return {names[0]: float(given)}
    if not OmegaConf.is_dict(given):
        raise UserError(
            f"instrument.{column}={given} must be a mapping of bands, like {{100:9.7,143:7.2}}, or a number where there"
            " is one band."
        )
    values = {str(name): value for name, value in given.items()}
    if not all(name in everywhere and isinstance(value, numbers.Real) for name, value in values.items()):
        raise UserError(
            f"instrument.{column}={given} must give numbers to bands of the instrument, {', '.join(everywhere)}."
        )
    return {name: float(value) for name, value in values.items()}


def _seeing(survey: DictConfig, nside: int, field: str) -> list[instrument.Band]:
    needed = "T" if "T" in field else "Q"
    seeing = [band for band in observed(survey, nside).bands if needed in band.fields]
    if not seeing:
        raise UserError(f"field={field}: none of instrument.bands={survey.bands} sees it.")
    return seeing


def pixel_level(band: instrument.Band, field: str) -> float:
    """White noise of the pixels of T, Q or U, uK arcmin: that of E and B, or the lower of the two."""
    return min(band.noise(x)[0] for x in ("T" if field == "T" else "EB"))


def noise_law(
    band: instrument.Band, field: str, *, factor: float, knee: bool, white: float | None = None
) -> tuple[float, float, float]:
    """Return level, l_knee and alpha of the noise of T, E or B as it is drawn.

    ``white`` is the level of the pixels where that is known of variances, and not from the table: then E and B keep the
    table's proportion. ``factor`` multiplies the table's levels.
    """
    level, l_knee, alpha = band.noise(field)
    if white is not None:
        pixels = pixel_level(band, field)
        level = white * (level / pixels if pixels else 1.0)
    else:
        level *= factor
    return (level, l_knee, alpha) if knee else (level, 0.0, 0.0)


def noise_covariance(
    bands: Sequence[instrument.Band],
    laws: Sequence[tuple[float, float, float]],
    lmax: int,
    *,
    tube_correlation: float = 0.0,
) -> np.ndarray:
    """Spectra of the noise of bands and between them, (lmax + 1, nband, nband), uK^2; bands of one tube share drifts.

    Parameters
    ----------
    bands : sequence of Band
    laws : sequence of tuple
        Level, l_knee and alpha of each, from `noise_law`.
    lmax : int
    tube_correlation : float, optional
        Of the drifts, the part of the noise that `cmbml.sky.noise.noise_cl` adds for a knee.
    """
    white = [noise_cl(level, lmax) for level, _, _ in laws]
    total = [noise_cl(level, lmax, l_knee=l_knee, alpha=alpha) for level, l_knee, alpha in laws]
    drift = np.sqrt(np.array(total) - white)
    tubes = np.array([[a is b or (a.tube == b.tube != "") for b in bands] for a in bands])
    covariance = np.einsum("ij,il,jl->lij", tube_correlation * tubes, drift, drift)
    diagonal = np.arange(len(bands))
    covariance[:, diagonal, diagonal] = np.transpose(total)
    return covariance


class BandStage(Stage):
    """A stage whose items are bands, of every sky or of all skies alike.

    A file that the instrument's table names by no whole path lies in the folder of the table's own name beside it.
    """

    uses: ClassVar[tuple[str, ...]] = (*INSTRUMENT, *SKY)
    reads: ClassVar[tuple[str, ...]] = ("splits", "instrument.bands", "sims.external")

    @cached_property
    def instrument(self) -> instrument.Instrument:
        """The instrument with the bands that are asked for, and the beams that their maps have."""
        return observed(self.cfg.instrument, self.cfg.sky.nside)

    @property
    def table(self) -> Any:
        """Path of the instrument's table."""
        return shipped(self.cfg.instrument.table)

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The files of bandpass and beam that the table names: of the item's band, or of all."""
        bands = [self.instrument.band(item["band"])] if "band" in item else self.instrument.bands
        folder = self.table.with_suffix("")
        named = ((band.name, instrument.files(band, folder)) for band in bands)
        return {f"{kind} of {name}": [path] for name, files in named for kind, path in files.items()}

    def bands(self) -> list[Item]:
        """One item a band that sees any of `sky.fields`."""
        fields = self.cfg.sky.fields
        seeing: list[Item] = [{"band": band.name} for band in self.instrument.bands if set(fields) & set(band.fields)]
        if not seeing:
            raise UserError(f"sky.fields=[{','.join(fields)}]: none of the bands of the instrument sees them.")
        return seeing

    def skies(self) -> list[Item]:
        """One item a sky."""
        return [{"split": split, "sim": sim} for split in SimStage.splits for sim in range(self.cfg.splits[split])]

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

    def demand_beams(self) -> None:
        """Refuse a band whose beam is not known up to `sky.lmax`."""
        for item in self.bands():
            self.beam(item)

    def bandpass(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in GHz and response of a band."""
        return as_user_error(instrument.bandpass, self.instrument.band(item["band"]), self.table.with_suffix(""))

    def alms(self, maps: np.ndarray, lmax: int) -> np.ndarray:
        """Alms of a band: of T, (1, npix), or of E and B from Q and U, (2, npix).

        Maps of others have a monopole and a dipole, which must not leak (`cmbml.sky.dipole.analysis_apart`).
        """
        if len(maps) == 2:
            return sht.analysis(maps, lmax, spin=2)
        return sht.analysis(maps, lmax) if has_parts(self.cfg) else dipole.analysis_apart(maps, lmax)

    def uk_cmb_per_mjy_sr(self, item: Item) -> float | None:
        """uK_CMB that 1 MJy/sr of a published map of a band is; None if neither table nor bandpass tells."""
        band = self.instrument.band(item["band"])
        factor = as_user_error(instrument.intensity_factor, band, self.table.with_suffix(""))
        return None if factor is None else 1e6 / factor

    def skymap(self, item: Item, data: np.ndarray, note: str) -> SkyMap:
        """Map of a band, uK_CMB."""
        fwhm_arcmin = self.instrument.band(item["band"]).fwhm_arcmin
        return SkyMap(data, self.fields(item), "uK_CMB", fwhm_arcmin, self.cfg.sky.lmax, note)
