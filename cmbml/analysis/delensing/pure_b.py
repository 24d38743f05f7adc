"""Pure B of masked skies and of their delensing: what r of a part of the sky is measured with."""

from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.config.truth import masked
from cmbml.core.asset import Item
from cmbml.core.errors import demand
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import pseudo, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.likelihood import edges_of_band, modes_and_correlation
from cmbml.sky.masks import apodise, f_sky

_COMPLETE = 0.999  # weight from which on a pixel of a masked sky is whole
_BEYOND = 50  # multipoles above twice the band, from which some power leaks into it


def lmax_of(cfg: DictConfig, last: int) -> int:
    """Band limit of the pure spectra of a band of r that ends at ``last``."""
    return int(min(2 * last + _BEYOND, 2 * cfg.sky.nside, cfg.analysis.lmax))


def window_within(cfg: DictConfig, mask: SkyMap) -> np.ndarray:
    """The window of pure B, (npix,): it lies where the mask is 1, for its derivatives must not meet the mask's own."""
    whole = (mask["mask"] > _COMPLETE).astype(float)
    window = apodise(whole, cfg.mask.apodise_deg, cfg.mask.apodise_kind)
    demand(bool(window.any()), "The mask is nowhere 1, and leaves no part of the sky for pure B; choose another mask.")
    return window


class PureSpectra(Delensing, SimStage):
    """Spectra of the pure B of a masked sky, delensed and not, and of its primordial part; coupled, with the beam.

    Q and U of the template are made of its B alone: its E would not enter pure B.
    """

    name = "pure_spectra"
    splits = ("test",)
    inputs = ("obs", "lensing_template", "unlensed_alm", "mask")
    outputs = ("pure_spectra",)
    uses = (
        "method.name",
        "delens.field",
        "delens.lmin_b",
        "mask",
        "sky.nside",
        "sky.fields",
        "analysis.band_r",
        "analysis.lmax",
    )
    memory = "20 map"

    def check(self) -> None:
        """Refuse maps without Q and U, and a window with an edge."""
        demand(
            {"Q", "U"} <= set(self.cfg.sky.fields),
            "Pure B is made of Q and U, which are not both among sky.fields; add them, or measure without analysis=r.",
        )
        demand(
            self.cfg.mask.apodise_deg > 0,
            "mask.apodise_deg=0 gives the window of pure B an edge; give it a few degrees.",
        )

    def items(self) -> list[Item]:
        """The test skies, if they are masked."""
        return list(super().items()) if masked(self.cfg) else []

    def run(
        self,
        item: Item,
        *,
        obs: SkyMap,
        lensing_template: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        mask: SkyMap,
    ) -> dict[str, np.ndarray]:
        """C_l (lmax + 1,) named ``{method}/{name}`` as those of `measure`."""
        lmax = lmax_of(self.cfg, self.band_r[1])
        window = pseudo.window_of(window_within(self.cfg, mask), lmax)

        def pure(qu: np.ndarray) -> np.ndarray:
            return pseudo.pure_b_alm(qu, window, lmax)

        def of_b(alm: np.ndarray) -> np.ndarray:
            return pure(sht.synthesis(np.stack([np.zeros_like(alm), alm]), obs.nside, spin=2))

        observed = pure(np.stack([obs["Q"], obs["U"]]).astype(float))
        template = of_b(sht.analysis(lensing_template["B"].astype(float), 2 * obs.nside))
        primordial = unlensed_alm["B"].astype(complex)
        primordial = of_b(sht.almxfl(primordial, gaussian_beam(obs.fwhm_arcmin, sht.alm_lmax(primordial))))
        spectra = {}
        for method, b in ((self.cfg.method.name, observed - template), (NONE, observed)):
            spectra[f"{method}/predicted"] = sht.alm2cl(b)
            spectra[f"{method}/predicted_x_unlensed"] = sht.alm2cl(b, primordial)
            spectra[f"{method}/unlensed"] = sht.alm2cl(primordial)
        return spectra


@dataclass(frozen=True)
class PureBins:
    """Bandpowers of pure spectra.

    Attributes
    ----------
    unbiased, windows : array (nbin, lmax + 1)
        Of the bins of the band of r, from ``pseudo.decoupling``, the beam taken out.
    square_cl : array
        Spectrum of the squared window.
    f_sky : float
        <w^2>.
    """

    unbiased: np.ndarray
    windows: np.ndarray
    square_cl: np.ndarray
    f_sky: float

    def modes(self, pseudo_cl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Modes (nbin,) and correlation (nbin, nbin) of maps whose mean pure spectrum is this."""
        covariance = pseudo.covariance(pseudo_cl, self.square_cl, self.f_sky)
        return modes_and_correlation(self.unbiased @ covariance @ self.unbiased.T, self.unbiased @ pseudo_cl)


def pure_bins(cfg: DictConfig, mask: SkyMap, band: tuple[int, int], fwhm_arcmin: float) -> PureBins:
    """Return the bins of `PureSpectra` of a band, whose first and last multipole are given."""
    lmax = lmax_of(cfg, band[1])
    weights = window_within(cfg, mask)
    beam = gaussian_beam(fwhm_arcmin, lmax)
    coupling = pseudo.pure_coupling(sht.alm2cl(sht.analysis(weights, lmax, niter=3)), lmax)
    edges, used = edges_of_band((band[0], band[1] + 1), cfg.analysis.delta_l, lmax, lmin_b=cfg.delens.lmin_b + 1)
    unbiased, windows = pseudo.decoupling(coupling * beam**2, edges)
    square = sht.alm2cl(sht.analysis(weights**2, lmax))
    return PureBins(unbiased[used], windows[used], square, f_sky(weights))
