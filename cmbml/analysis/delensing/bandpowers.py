"""Spectra of the B of a sky and of its delensing, scalar or pure, and their bandpowers: what r is measured with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.analysis.measure import MASK
from cmbml.config.truth import cleaned, has_foregrounds_left, masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import demand
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import pseudo, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.likelihood import edges_of_band, modes_and_correlation
from cmbml.sky.masks import apodise, f_sky

BELOW_LMIN_B = 10  # multipoles that r keeps from the B that estimates hold
_COMPLETE = 0.999  # weight from which on a pixel of a masked sky is whole
_BEYOND = 50  # multipoles above twice the band, from which some power leaks into it
_EVERYWHERE = np.array([4 * np.pi])  # spectrum of the window of the full sky

Operator = Callable[[np.ndarray], np.ndarray]


def sees_foregrounds_left(cfg: DictConfig) -> bool:
    """Whether what a combination has left of foregrounds is measured in its own B."""
    return has_foregrounds_left(cfg) and cfg.analysis.r.b == "scalar"


def combines_pure_b(cfg: DictConfig) -> bool:
    """Whether pure B is that of several bands."""
    return cleaned(cfg) and cfg.analysis.r.b == "pure"


def combines_pure_foregrounds(cfg: DictConfig) -> bool:
    """Whether the foregrounds in it are known."""
    return has_foregrounds_left(cfg) and combines_pure_b(cfg)


def propagates_foregrounds(cfg: DictConfig) -> bool:
    """Whether it is known what any weights leave of the foregrounds of the known skies."""
    return has_foregrounds_left(cfg) and (cfg.analysis.r.b == "pure" or not masked(cfg))


def last_multipole(cfg: DictConfig) -> int:
    """The last multipole that r may be measured in."""
    return int(min(cfg.delens.lmin_b - BELOW_LMIN_B, 2 * cfg.sky.nside, cfg.analysis.lmax))


def lmax_of(cfg: DictConfig) -> int:
    """Band limit of the spectra that r is measured with."""
    return int(min(2 * cfg.analysis.r.band[1] + _BEYOND, 2 * cfg.sky.nside, cfg.analysis.lmax))


def window_of_r(cfg: DictConfig, mask: SkyMap) -> np.ndarray:
    """Return the window of the spectra, (npix,).

    That of scalar B is mask^2: the observed maps carry the mask already, and are given it once more. That of pure B
    lies where the mask is 1, for its derivatives must not meet the mask's own.
    """
    if cfg.analysis.r.b == "scalar":
        return mask["mask"].astype(float) ** 2
    whole = (mask["mask"] > _COMPLETE).astype(float)
    window = apodise(whole, cfg.mask.apodise_deg, cfg.mask.apodise_kind)
    demand(bool(window.any()), "The mask is nowhere 1, and leaves no part of the sky for pure B; choose another mask.")
    return window


def pure_operator(cfg: DictConfig, mask: SkyMap) -> Operator:
    """From maps of Q and U to alms of pure B."""
    lmax = lmax_of(cfg)
    window = pseudo.window_of(window_of_r(cfg, mask), lmax)
    return lambda qu: pseudo.pure_b_alm(qu, window, lmax, niter=1)  # far below the pixels' limit


class Bandpowers(Delensing, SimStage):
    """Spectra of B, delensed and not, of its primordial part and of its foregrounds; coupled, with the beam.

    Of the test skies, and of those that tell what is left of lensing, noise and foregrounds (`analysis.r.known`). On a
    masked sky scalar B is the map of B times the mask; its primordial part is given the mask twice, as the observed
    map has it. Pure B is made of Q and U, and those of the template of its B alone: its E would not enter. Where bands
    are combined it is the pure B of each band's own Q and U under the weights of the combination.
    """

    name = "bandpowers"
    splits = ("test",)
    inputs = (
        *("obs", "lensing_template", "unlensed_alm", MASK),
        Optional("foregrounds_left", when=sees_foregrounds_left),
        Optional("combination", Every("band", name="bands"), when=combines_pure_b),
        Optional(Every("foreground"), when=combines_pure_foregrounds),
    )
    outputs = ("r_spectra",)
    uses = (
        "method.name",
        "delens.field",
        "mask",
        "sky.nside",
        "analysis.r.b",
        "analysis.r.band",
        "analysis.lmax",
    )
    reads = ("splits", "sky.fields", "sims", "foregrounds.kind")
    memory = "20 map"

    def check(self) -> None:
        """Refuse what has no B of the kind that is asked for."""
        cfg = self.cfg
        demand(cfg.delens.field == "B", f"r is measured in B, and field={cfg.delens.field}; set field=B.")
        if cfg.analysis.r.b == "scalar":
            return
        demand(masked(cfg), "The full sky has no border to leak at: say analysis.r.b=scalar.")
        demand(
            {"Q", "U"} <= set(cfg.sky.fields),
            "Pure B is made of Q and U, which are not both among sky.fields; add them, or say analysis.r.b=scalar.",
        )
        demand(
            cfg.mask.apodise_deg > 0,
            "mask.apodise_deg=0 gives the window of pure B an edge; give it a few degrees.",
        )

    def items(self) -> list[Item]:
        """The test skies and the known ones."""
        splits = self.cfg.splits
        names = ["test", *([splits.known] if splits.known else [])]
        return [{"split": split, "sim": sim} for split in names for sim in range(splits[split])]

    def run(
        self,
        item: Item,
        *,
        obs: SkyMap,
        lensing_template: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
        foregrounds_left: dict[str, np.ndarray] | None = None,
        **of_bands: Any,
    ) -> dict[str, np.ndarray]:
        """C_l (lmax + 1,) named ``{method}/{a}`` or ``{method}/{a}_x_{b}``; a, b predicted, unlensed, foregrounds."""
        unlensed = unlensed_alm["B"].astype(complex)
        unlensed = sht.almxfl(unlensed, gaussian_beam(obs.fwhm_arcmin, sht.alm_lmax(unlensed)))
        if self.cfg.analysis.r.b == "pure" and mask is not None:
            of_qu = pure_operator(self.cfg, mask)
            observed, known = self._pure_observed(of_qu, obs, **of_bands)
            template = of_qu(_qu_of_b(sht.analysis(lensing_template["B"].astype(float), 2 * obs.nside), obs.nside))
            parts = {"unlensed": of_qu(_qu_of_b(unlensed, obs.nside)), **known}
        else:
            once, twice = self._scalar(mask)
            observed, template = once(obs["B"]), once(lensing_template["B"])
            parts = {"unlensed": twice(sht.synthesis(unlensed, obs.nside))}
            if foregrounds_left is not None:
                left = foregrounds_left["B"].astype(complex)
                parts["foregrounds"] = once(sht.synthesis(left, obs.nside))
        spectra = {}
        for method, b in ((self.cfg.method.name, observed - template), (NONE, observed)):
            for (x, alm), (y, other) in combinations_with_replacement(({"predicted": b} | parts).items(), 2):
                spectra[f"{method}/{x if x == y else f'{x}_x_{y}'}"] = sht.alm2cl(alm, other)
        return spectra

    def _scalar(self, mask: SkyMap | None) -> tuple[Operator, Operator]:
        """From maps of B to alms, times the mask and its square."""
        lmax = lmax_of(self.cfg)
        weights = 1.0 if mask is None else mask["mask"].astype(float)
        return (lambda m: sht.analysis(m * weights, lmax)), (lambda m: sht.analysis(m * weights**2, lmax))

    @staticmethod
    def _pure_observed(
        of_qu: Operator,
        obs: SkyMap,
        combination: Mapping[str, np.ndarray] | None = None,
        bands: Files | None = None,
        foreground: Files | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pure B of the observed sky, and of the ``foregrounds`` in it where they are known."""
        if combination is None or bands is None:
            return of_qu(obs.select("QU").astype(float)), {}

        def combined(maps: Files) -> np.ndarray:
            places = {item["band"]: i for i, item in enumerate(maps.items)}
            pure = (of_qu(maps[places[str(name)]].select("QU").astype(float)) for name in combination["bands"])
            weighed = [
                sht.almxfl(alm, of_band[: sht.alm_lmax(alm) + 1])
                for alm, of_band in zip(pure, combination["weights_b"], strict=True)
            ]
            return np.sum(weighed, axis=0)

        return combined(bands), {} if foreground is None else {"foregrounds": combined(foreground)}


class ForegroundPowers(Delensing):
    """Spectra of B of the foregrounds of the known skies in each band, and between bands, before any combination."""

    name = "foreground_powers"
    inputs = (Every("foreground"), MASK)
    outputs = ("foreground_powers",)
    uses = ("mask", "sky.nside", "analysis.r.b", "analysis.r.band", "analysis.r.known", "analysis.lmax")
    reads = ("splits", "sims.combine", "foregrounds.kind", "foregrounds.vary", "delens.lmin_b")
    memory = "20 map"

    def items(self) -> list[Item]:
        """The first known sky; all of them, where foregrounds differ from sky to sky."""
        cfg = self.cfg
        if not propagates_foregrounds(cfg):
            return []
        split = cfg.analysis.r.known
        n = cfg.splits[split] if any(cfg.foregrounds.vary.values()) else 1
        return [{"split": split, "sim": sim} for sim in range(n)]

    def run(self, item: Item, *, foreground: Files, mask: SkyMap | None = None) -> dict[str, np.ndarray]:
        """``bands``, their names; ``cls`` (nband, nband, lmax + 1), coupled, with the bands' own beams."""
        lmax = lmax_of(self.cfg)
        of_qu = (lambda qu: sht.analysis(qu, lmax, spin=2)[1]) if mask is None else pure_operator(self.cfg, mask)
        alms = {}
        for band, of_band in zip(foreground.items, foreground, strict=True):
            if {"Q", "U"} <= set(of_band.fields):
                alms[band["band"]] = of_qu(of_band.select("QU").astype(float))
        alm = np.stack(list(alms.values()))
        return {"bands": np.array(list(alms)), "cls": sht.alm2cl(alm[:, None], alm[None])}


def _qu_of_b(alm: np.ndarray, nside: int) -> np.ndarray:
    """Q and U (2, npix) of B alone."""
    return sht.synthesis(np.stack([np.zeros_like(alm), alm]), nside, spin=2)


@dataclass(frozen=True)
class Bins:
    """From spectra of `Bandpowers` to bandpowers.

    Attributes
    ----------
    unbiased, windows : array (nbin, lmax + 1)
        Of the bins of the band of r, from ``pseudo.decoupling``, the beam taken out.
    square_cl : array
        Spectrum of the squared window.
    f_sky : float
        <w^2>.
    effective : float
        <w^2>^2 / <w^4>, the part of the modes that is left.
    """

    unbiased: np.ndarray
    windows: np.ndarray
    square_cl: np.ndarray
    f_sky: float
    effective: float

    def modes(self, pseudo_cl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Modes (nbin,) and correlation (nbin, nbin) of maps whose mean spectrum is this, (lmax + 1,)."""
        covariance = pseudo.covariance(pseudo_cl, self.square_cl, self.f_sky)
        return modes_and_correlation(self.unbiased @ covariance @ self.unbiased.T, self.unbiased @ pseudo_cl)

    def of_theory(self, cl: np.ndarray) -> np.ndarray:
        """Bandpowers (nbin,) of a spectrum that reaches the band limit at least."""
        bandpowers: np.ndarray = self.windows @ cl[: self.windows.shape[-1]]
        return bandpowers


def bins_of(cfg: DictConfig, mask: SkyMap | None, fwhm_arcmin: float) -> Bins:
    """Return the bins of the band of r: the full sky's, of scalar B in a mask, or of pure B."""
    lmax = lmax_of(cfg)
    r = cfg.analysis.r
    weights = np.ones(1) if mask is None else window_of_r(cfg, mask)
    cl, square = (
        (_EVERYWHERE, _EVERYWHERE)
        if mask is None
        else (sht.alm2cl(sht.analysis(w, lmax, niter=3)) for w in (weights, weights**2))
    )
    coupling = (pseudo.pure_coupling if r.b == "pure" else pseudo.scalar_coupling)(cl, lmax)
    edges, used = edges_of_band((r.band[0], r.band[1] + 1), r.delta_l, lmax, lmin_b=cfg.delens.lmin_b + 1)
    unbiased, windows = pseudo.decoupling(coupling * gaussian_beam(fwhm_arcmin, lmax) ** 2, edges)
    part = f_sky(weights)
    return Bins(unbiased[used], windows[used], square, part, part**2 / f_sky(weights, 4))
