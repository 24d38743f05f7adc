"""The stages of the baselines of a comparison."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import has_foregrounds, has_parts, has_truth, has_uneven_noise
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import DRAWN, NOISE, BandStage, noise_covariance, noise_law
from cmbml.sky import noise, sht
from cmbml.sky.beams import gaussian_beam


class PerfectIlc(SimStage):
    """The truth at the beam of an internal linear combination: what one without noise and foregrounds would find."""

    name = "perfect_ilc"
    splits = ("test",)
    inputs = ("lensed_alm", "cmb_map")
    outputs = ("prediction",)
    uses = ("clean.field", "clean.fwhm_arcmin", "method.perform_ILC_at_beam", "sky.nside", "sky.lmax")
    memory = "14 map"

    def __init__(self, config: DictConfig):
        """Refuse skies whose truth is not known, and beams that are none."""
        super().__init__(config)
        if not has_truth(config):
            raise UserError("method=perfect_ilc is the truth at a beam; give sims.external.truth.")
        beam = self.cfg.method.perform_ILC_at_beam
        if beam is not None and not (isinstance(beam, int | float) and beam >= 0):
            raise UserError(f"method.perform_ILC_at_beam={beam} must be a number of arcmin that is not negative.")

    def run(self, item: Item, *, lensed_alm: dict[str, np.ndarray], cmb_map: SkyMap) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING; with the truth's own beam where that is wider."""
        sky = self.cfg.sky
        beam = self.cfg.method.perform_ILC_at_beam
        fwhm_arcmin = max(self.cfg.clean.fwhm_arcmin if beam is None else beam, cmb_map.fwhm_arcmin)
        missing = gaussian_beam((fwhm_arcmin**2 - cmb_map.fwhm_arcmin**2) ** 0.5, sky.lmax)
        seen = {x: sht.almxfl(lensed_alm[x].astype(np.complex128), missing) for x in scalars(self.cfg.clean.field)}
        return skymap(seen, self.cfg.clean.field, sky, fwhm_arcmin, "the truth at the beam of an ILC")


class NoiseWiener(BandStage):
    """A Wiener filter of all bands as they would be without foregrounds: what noise alone leaves to be found.

    With s the sky, b_l the beams of the bands, n their noise in this sky, and N_l its model, a matrix over the bands,
    diagonal but for the 1/f noise that bands of one tube share,

        estimate = (1 + C I)^-1 C b^T N^-1 (b s + n),    I = b^T N^-1 b,

    the inverse-variance combination of the deconvolved bands, whose noise is 1 / I, filtered with C / (C + 1 / I). C is
    the lensed spectrum of the sky's own cosmology. It estimates the sky without a beam, with the expected squared error

        sum_l (2l + 1) / (4 pi) C / (1 + C I).

    E is filtered together with T, with which it is correlated, where the bands see T: C and I are matrices then, I a
    diagonal one, and the error is that of the formula with C_EE - C_TE^2 / (C_TT + 1 / I_T) in place of C_EE. T alone
    is filtered alone.

    The filter is isotropic. Where the noise is uneven, N is that of the mean variance, and a method that knows which
    pixels are deep can find more: then it is a baseline, and no bound.
    """

    name = "noise_wiener"
    version = 2
    inputs = (
        "cls",
        "lensed_alm",
        Every("band", name="bands"),
        Optional(Every("foreground"), when=has_foregrounds),
        Optional(Every("variance"), when=has_uneven_noise),
    )
    outputs = ("prediction",)
    uses = (*BandStage.uses, *NOISE, "clean.field", "foregrounds.kind", "noise.kind", *DRAWN)

    def __init__(self, config: DictConfig):
        """Refuse skies whose parts are not known."""
        super().__init__(config)
        if not has_parts(config):
            raise UserError("method=noise_wiener takes the foregrounds away, which are not known of sims=external.")
        if config.noise.kind == "none":
            raise UserError("method=noise_wiener is the baseline that noise sets; choose another noise than none.")

    def items(self) -> Iterable[Item]:
        """The test skies."""
        return [item for item in self.skies() if item["split"] == "test"]

    def check(self) -> None:
        """Refuse a band without a beam, or without noise in what is filtered."""
        self.demand_beams()
        for item in self.bands() if self.cfg.noise.kind != "variance_map" else ():
            for field in self.filtered():
                if ("T" if field == "T" else "Q") in self.fields(item):
                    self.law(item, field, None)

    def run(
        self,
        item: Item,
        *,
        cls: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        bands: Files,
        foreground: Files | None = None,
        variance: Files | None = None,
    ) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING, without a beam."""
        lmax = self.cfg.sky.lmax
        lensed = {x: lensed_alm[x].astype(np.complex128) for x in "TEB"}
        precision = {x: np.zeros(lmax + 1) for x in self.filtered()}
        summed = {x: np.zeros_like(lensed[x]) for x in precision}
        weights_of = {x: self.band_weights(bands.items, x, variance) for x in precision}
        for i, band in enumerate(bands.items):
            beam = self.beam(band)
            of_foregrounds = None if foreground is None else _of_band(foreground, band)
            for x, alm in self.noise_alms(bands[i], lensed, beam, of_foregrounds).items():
                weight = weights_of[x][band["band"]]
                precision[x] += beam * weight
                summed[x] += sht.almxfl(alm, weight)
        weights = joint_filter(cls, precision)
        combined = {x: sht.almxfl(lensed[x], inverse) + summed[x] for x, inverse in precision.items()}
        found = {}
        for x, of_x in zip(precision, weights, strict=True):
            found[x] = np.sum([sht.almxfl(alm, w) for alm, w in zip(combined.values(), of_x, strict=True)], axis=0)
        note = f"isotropic Wiener filter of {', '.join(precision)} and noise, without foregrounds"
        return skymap(found, self.cfg.clean.field, self.cfg.sky, 0.0, note)

    def filtered(self) -> str:
        """The scalars that are filtered together: those of `clean.field`, and T beside E where T is seen."""
        field = self.cfg.clean.field
        return "TE" if field == "E" and "T" in self.cfg.sky.fields else scalars(field)

    def noise_alms(
        self, seen: SkyMap, lensed: Mapping[str, np.ndarray], beam: np.ndarray, foreground: SkyMap | None
    ) -> dict[str, np.ndarray]:
        """Alms of the noise of a band, of what is filtered and it sees.

        They come by plain quadrature: of noise it has the right spectrum up to 3 nside, and iterations have not.
        """
        alms: dict[str, np.ndarray] = {}
        wanted = self.filtered()
        for spin, fields, pixels in ((0, "T", "T"), (2, "EB", "QU")):
            if set(fields) & set(wanted) and set(pixels) <= set(seen.fields):
                cmb = sht.synthesis(np.stack([sht.almxfl(lensed[x], beam) for x in fields]), seen.nside, spin=spin)
                left = seen.select(pixels) - cmb - (0 if foreground is None else foreground.select(pixels))
                found = sht.analysis(left, self.cfg.sky.lmax, spin=spin, niter=0)
                alms |= {x: alm for x, alm in zip(fields, found, strict=True) if x in wanted}
        return alms

    def band_weights(self, items: Sequence[Item], field: str, variance: Files | None) -> dict[str, np.ndarray]:
        """N^-1 b of the bands that see T, E or B, each (lmax + 1,), by their names."""
        lmax = self.cfg.sky.lmax
        seeing = [item for item in items if ("T" if field == "T" else "Q") in self.fields(item)]
        bands = [self.instrument.band(item["band"]) for item in seeing]
        laws = [self.law(item, field, variance) for item in seeing]
        covariance = noise_covariance(bands, laws, lmax, tube_correlation=self.cfg.noise.tube_correlation)
        beams = np.stack([self.beam(item) for item in seeing], axis=-1)
        weights = np.linalg.solve(covariance, beams[:, :, None])[:, :, 0]
        return {band.name: of_band for band, of_band in zip(bands, weights.T, strict=True)}

    def law(self, item: Item, field: str, variance: Files | None) -> tuple[float, float, float]:
        """Level, l_knee and alpha of the noise of a band, as it was drawn."""
        cfg = self.cfg.noise
        band = self.instrument.band(item["band"])
        white = None
        if variance is not None:
            fields = "T" if field == "T" else "QU"
            white = cfg.factor * noise.white_level(_of_band(variance, item).select(fields)).mean()
        level, l_knee, alpha = noise_law(band, field, factor=cfg.factor, knee=cfg.knee, white=white)
        if level == 0:
            raise UserError(
                f"method=noise_wiener: the band {band.name} has no noise in {field}; leave it out of instrument.bands."
            )
        return level, l_knee, alpha


def joint_filter(cls: Mapping[str, np.ndarray], precision: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (1 + C I)^-1 C, shape (n, n, lmax + 1), of the n fields of ``precision`` (I, the inverse of their noise).

    C holds the lensed spectra, of which T and E have a cross spectrum.
    """
    lmax = len(next(iter(precision.values()))) - 1
    spectra = np.zeros((lmax + 1, len(precision), len(precision)))
    for i, x in enumerate(precision):
        for j, y in enumerate(precision):
            if x == y or {x, y} == {"T", "E"}:
                spectra[:, i, j] = cls["lensed_" + "".join(sorted(x + y, key="TEB".index)).lower()][: lmax + 1]
    inverse = np.stack(list(precision.values()), axis=-1)[:, None, :]
    filtered: np.ndarray = np.linalg.solve(np.eye(len(precision)) + spectra * inverse, spectra)
    return np.moveaxis(filtered, 0, -1)


def scalars(field: str) -> str:
    """Alms that a field is made of: T, E and B for T, Q, U, and else itself."""
    return "TEB" if field == "TQU" else field


def skymap(alms: Mapping[str, np.ndarray], field: str, sky: DictConfig, fwhm_arcmin: float, note: str) -> SkyMap:
    """Map of T, E or B, or of T, Q and U."""
    if field == "TQU":
        maps = [
            sht.synthesis(alms["T"], sky.nside),
            *sht.synthesis(np.stack([alms[x] for x in "EB"]), sky.nside, spin=2),
        ]
    else:
        maps = [sht.synthesis(alms[field], sky.nside)]
    return SkyMap(np.stack(maps), tuple(field), "uK_CMB", fwhm_arcmin, sky.lmax, note)


def _of_band(maps: Files, item: Item) -> SkyMap:
    """The map of an item's band, of no other is a file read."""
    return maps[[known["band"] for known in maps.items].index(item["band"])]
