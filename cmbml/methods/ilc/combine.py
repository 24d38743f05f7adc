"""From the bands to one sky of E and B that is delensed: the combination, its noise, its foregrounds."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from cmbml.config.truth import has_foregrounds_left, has_parts, has_uneven_noise, masked, purified
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import demand
from cmbml.maps.skymap import SkyMap
from cmbml.methods.ilc.calibration import calibrate, reach
from cmbml.methods.ilc.scales import bin_windows, make_scales
from cmbml.methods.ilc.stages import beam_ratio, rebeamed
from cmbml.methods.ilc.weights import fit, harmonic_weights, noise_spectrum
from cmbml.sims.bands import DRAWN, NOISE, BandStage, noise_covariance, noise_law
from cmbml.sky import noise, pseudo, sht

logger = logging.getLogger(__name__)

_GAIN = 0.2  # of a band, away from 1: beyond, something else is wrong
_CRITERION = 1e-3  # a band serves the bins up to whose end its beam is above this


class MaskedBands(BandStage):
    """A stage that works on E and B of all bands of a sky, behind the mask."""

    def items(self) -> Iterable[Item]:
        """Every sky."""
        return self.skies()

    def polarised(self) -> list[str]:
        """Names of the bands that see Q and U."""
        names = [item["band"] for item in self.bands() if {"Q", "U"} <= set(self.fields(item))]
        demand(bool(names), "Nothing can be combined: none of instrument.bands sees Q and U, or sky.fields lacks them.")
        return names

    def analysed(self, maps: Files, names: Sequence[str], mask: SkyMap | None, lmax: int) -> np.ndarray:
        """Alms of E and B of the bands, behind the mask, and of their pure B where it has a taper, (nband, 3, nalm)."""
        weight = np.ones(12 * self.cfg.sky.nside**2) if mask is None else mask["mask"].astype(np.float64)
        window = pseudo.window_of(weight, sht.accurate_lmax(self.cfg.sky.nside)) if purified(self.cfg) else None
        places = {item["band"]: i for i, item in enumerate(maps.items)}
        alms = np.empty((len(names), 3, sht.alm_size(lmax)), dtype=np.complex128)
        for found, name in zip(alms, names, strict=True):
            qu = maps[places[name]].select("QU") * (weight > 0)  # the window's derivatives go on behind its border
            if window is None:
                found[:2] = sht.analysis(qu * weight, lmax, spin=2)
                found[2] = found[1]
            else:
                found[:2], found[2] = pseudo.masked_alms(qu, window, lmax)
        return alms


class Combine(MaskedBands):
    """E and B of the bands combined with the least variance in bins of multipoles, as an observation to be delensed.

    The maps are multiplied by the mask first, and weights are found and used behind it: on the full sky the Galaxy's
    plane would decide on them, and buy its suppression with noise everywhere else. Each of E and B has bins of
    `sims.combine.BinSize` multipoles (Tegmark et al. 2003, PRD 68 123523), to the end of the maps.

    Where `sims.combine.reference` names a band, the others are calibrated against it in E first: E is so far above the
    noise that the least variance is had by cancelling it, where two bands differ by a percent in what they say of it.

    E that leaks at the mask's border is in the map of B, as in that of any masked sky. In the alms, of which the
    lensing is found, B is pure (`cmbml.sky.pseudo`): there it would be noise up to l of several hundred.
    """

    name = "combine"
    inputs = (
        Every("band", name="bands"),
        Optional("mask", when=masked),
        Optional(Every("variance"), when=has_uneven_noise),
    )
    outputs = ("obs", "obs_alm", "combination")
    uses = (*BandStage.uses, *NOISE, "noise.kind", *DRAWN, "delens.fwhm_arcmin", "sims.combine")
    reads = (*BandStage.reads, "mask.kind", "mask.apodise_deg")
    memory = "8 alm + 40 map"

    def check(self) -> None:
        """Refuse bands whose beams end before the maps do, or that cannot be calibrated."""
        names = self.polarised()
        beams = self.beams(names)
        self.scales(beams)
        reference = self.cfg.sims.combine.reference
        if reference is not None:
            demand(
                str(reference) in names,
                f"sims.combine.reference={reference} is none of the bands that are combined: {', '.join(names)}.",
            )
            reach(beams, self.accurate)

    def run(
        self, item: Item, *, bands: Files, mask: SkyMap | None = None, variance: Files | None = None
    ) -> tuple[SkyMap, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Maps and alms of E and B, uK_CMB, times the mask, with the beam `delens.fwhm_arcmin`; the combination.

        The combination holds ``bands``, their names; ``gains`` (nband,), 1 where nothing is calibrated; ``weights_e
        weights_b`` (nband, lmax + 1), by which alms of the bands are multiplied before they are added, what calibrates
        them and brings them to the beam included; and ``noise_e noise_b`` (lmax + 1,), uK^2: the spectrum of the noise
        of the full sky that they make, with the beam.
        """
        cfg = self.cfg
        names = self.polarised()
        beams = self.beams(names)
        alms = self.analysed(bands, names, mask, cfg.sky.lmax)
        noises = {field: self.noise(names, field, variance, mask) for field in "EB"}
        gains = self.gains(names, alms[:, 0], beams, noises["E"], mask)
        ratio = beam_ratio(beams, cfg.delens.fwhm_arcmin) / gains[:, None]
        made: dict[str, np.ndarray] = {"bands": np.array(names), "gains": gains}
        seen = {}
        for i, (field, scales) in enumerate(self.scales(beams).items()):
            weights = fit(rebeamed(alms[:, i], ratio), scales, np.ones((len(names), 1)))
            whole = harmonic_weights(weights) * ratio
            seen[field] = rebeamed(alms[:, i], whole).sum(axis=0)
            made[f"weights_{field.lower()}"] = whole
            made[f"noise_{field.lower()}"] = noise_spectrum(weights, ratio, noises[field])
        fields = tuple(field for field in cfg.sky.fields if field in seen)
        data = sht.synthesis(np.stack([seen[field] for field in fields]), cfg.sky.nside)
        note = f"harmonic internal linear combination of {len(names)} bands"
        obs = SkyMap(data, fields, "uK_CMB", cfg.delens.fwhm_arcmin, cfg.sky.lmax, note)
        seen["B"] = rebeamed(alms[:, 2], made["weights_b"]).sum(axis=0)
        return obs, {field: alm.astype(np.complex64) for field, alm in seen.items()}, made

    def beams(self, names: Sequence[str]) -> np.ndarray:
        """Beams of bands, (nband, lmax + 1)."""
        return np.stack([self.beam({"band": name}) for name in names])

    def scales(self, beams: np.ndarray) -> dict[str, list]:
        """Bins of E and of B with the bands that serve them."""
        lmax = self.cfg.sky.lmax
        last = int(np.flatnonzero((beams > _CRITERION).any(axis=0))[-1])
        demand(
            last == lmax,
            f"Beyond l = {last} no band's beam is above {_CRITERION:g}, and sky.lmax={lmax}; set sky.lmax={last}.",
        )
        widths = self.cfg.sims.combine.BinSize
        return {x: make_scales(bin_windows(0, lmax, widths[x]), beams, criterion=_CRITERION) for x in "EB"}

    @property
    def accurate(self) -> int:
        """Multipole to which the analysis of pixels makes no noise of its own."""
        return int(min(self.cfg.sky.lmax, 2 * self.cfg.sky.nside))

    def gains(
        self, names: Sequence[str], alms: np.ndarray, beams: np.ndarray, noise: np.ndarray, mask: SkyMap | None
    ) -> np.ndarray:
        """Gains of bands whose alms of E are given (nband, nalm), against the reference; (nband,)."""
        reference = self.cfg.sims.combine.reference
        if reference is None:
            return np.ones(len(names))
        square = 1.0 if mask is None else mask["mask"].astype(np.float64) ** 2
        part = float(np.mean(square))
        place = names.index(str(reference))
        end = reach(beams, self.accurate)
        found, errors = calibrate(alms, beams, part * noise, place, end=end, f_sky=part**2 / float(np.mean(square**2)))
        of_bands = zip(names, found, errors, strict=True)
        told = ", ".join(f"{name} {gain:.4f} ± {error:.4f}" for name, gain, error in of_bands)
        demand(
            bool((np.abs(found - 1) < _GAIN).all()),
            f"Against the band {reference} the gains of the bands come out as {told}, as nobody's are: their units or"
            " their beams are not what they are said to be, or too few see the CMB; set sims.combine.reference=null.",
        )
        logger.info("Gains: %s", told)
        return found

    def noise(self, names: Sequence[str], field: str, variance: Files | None, mask: SkyMap | None) -> np.ndarray:
        """N_ab(l) of the bands on the full sky, with no beam divided out, (lmax + 1, nband, nband)."""
        return noise_covariance(
            [self.instrument.band(name) for name in names],
            [self.law(name, field, variance, mask) for name in names],
            self.cfg.sky.lmax,
            tube_correlation=self.cfg.noise.tube_correlation,
        )

    def law(self, name: str, field: str, variance: Files | None, mask: SkyMap | None) -> tuple[float, float, float]:
        """Level, l_knee and alpha of the noise of a band; behind the mask, where pixels have their own variances."""
        cfg = self.cfg.noise
        band = self.instrument.band(name)
        if not has_parts(self.cfg):
            return band.noise(field)
        if cfg.kind == "none":
            return 0.0, 0.0, 0.0
        white = None
        if variance is not None:
            of_band = variance[[item["band"] for item in variance.items].index(name)].select("QU").astype(np.float64)
            weight = np.ones(of_band.shape[-1]) if mask is None else mask["mask"].astype(np.float64) ** 2
            white = cfg.factor * noise.white_level(of_band * weight / weight.mean()).mean()
        return noise_law(band, field, factor=cfg.factor, knee=cfg.knee, white=white)


class ForegroundsLeft(MaskedBands):
    """What a combination leaves of the foregrounds, where they are known apart, to twice `delens.lmin_b`."""

    name = "foregrounds_left"
    inputs = ("combination", Optional(Every("foreground"), when=has_foregrounds_left), Optional("mask", when=masked))
    outputs = ("foregrounds_left",)
    uses = (*BandStage.uses, "delens.lmin_b", "foregrounds.kind")
    reads = (*BandStage.reads, "mask.kind", "mask.apodise_deg", "sims.combine")
    memory = "40 map"

    def items(self) -> Iterable[Item]:
        """Every sky, if there are foregrounds."""
        return super().items() if has_foregrounds_left(self.cfg) else []

    def run(
        self, item: Item, *, combination: dict[str, np.ndarray], foreground: Files, mask: SkyMap | None = None
    ) -> dict[str, np.ndarray]:
        """Alms ``E`` and ``B`` of the maps, uK_CMB, times the mask, with the beam of the combination."""
        lmax = min(self.cfg.sky.lmax, 2 * self.cfg.delens.lmin_b)
        names = [str(name) for name in combination["bands"]]
        alms = self.analysed(foreground, names, mask, lmax)
        left = {x: rebeamed(alms[:, i], combination[f"weights_{x.lower()}"]).sum(axis=0) for i, x in enumerate("EB")}
        return {field: alm.astype(np.complex64) for field, alm in left.items()}
