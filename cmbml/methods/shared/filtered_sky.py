"""Filtered skies: what the quadratic estimator works with, and what networks may be shown beside the observed maps."""

from collections.abc import Mapping

import numpy as np

from cmbml.config.checks import FEATURES
from cmbml.config.truth import masked
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.spectra import bin_spectrum


def filtered(
    obs_alm: Mapping[str, np.ndarray], field: str, fl: np.ndarray, filters: Mapping[str, np.ndarray], fwhm_arcmin: float
) -> np.ndarray:
    """Observed alms (nalm,) of a field, times f_l over the beam and the transfer of the observation."""
    alm = obs_alm[field].astype(np.complex128)
    seen = gaussian_beam(fwhm_arcmin, sht.alm_lmax(alm)) * filters[f"transfer_{field.lower()}"]
    return sht.almxfl(alm, fl / seen)


def without_mean_field(
    kappa: Mapping[str, np.ndarray], mean_field: Mapping[str, np.ndarray] | None, *, averaged: bool
) -> np.ndarray:
    """Estimate of the convergence less the mean field; as it is without one.

    The mean m over N skies holds 1/N of each of them: subtracted from one of its own skies, it would take 1/N of the
    signal away. Such a sky is given the mean of the others instead, x - (N m - x) / (N - 1) = (x - m) N / (N - 1), so
    that the signal has the same amplitude in all skies. What the mean field has of scatter stays in the estimate:
    1/N of the power of a sky's own signal and noise, for averaged skies 1/(N - 1).

    Parameters
    ----------
    kappa, mean_field : mapping
        Alms ``kappa`` (nalm,); of the mean field also ``n``, the number of skies N.
    averaged : bool
        Whether this sky is one of those N.

    Returns
    -------
    complex128 array (nalm,)
    """
    alm = kappa["kappa"].astype(np.complex128)
    if mean_field is None:
        return alm
    n = int(mean_field["n"])
    return (alm - mean_field["kappa"]) * (n / (n - 1) if averaged else 1)


def bin_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratio of two spectra (lmax + 1,), averaged in six bins to a factor e in l, as a step function; 1 below l = 2."""
    lmax = len(above) - 1
    edges = np.unique(np.geomspace(2, lmax + 1, 1 + max(1, int(6 * np.log(lmax)))).astype(int))
    values = bin_spectrum(above, edges) / bin_spectrum(below, edges)
    return np.concatenate([np.ones(edges[0]), np.repeat(values, np.diff(edges))])


def kappa_map(alms: Mapping[str, np.ndarray], nside: int) -> np.ndarray:
    """Map (npix,) of the alms ``kappa`` (nalm,) of an estimate, RING."""
    return sht.synthesis(alms["kappa"].astype(np.complex128), nside)


class Features(SimStage):
    """Maps of the filtered sky for the network, made when `delens.inputs` names one of them.

    ``E_wf``: Wiener-filtered E; ``B_hp``: inverse-variance filtered B without l < `delens.lmin_b`; ``kappa_qe``:
    Wiener-filtered quadratic estimate of the convergence, on a masked sky less its mean field. There all three carry
    the mask, E and B once and the estimate twice.
    """

    name = "features"
    inputs = ("obs_alm", "kappa_qe", "filters", Optional("mean_field", when=masked))
    outputs = ("features",)
    uses = ("delens.fwhm_arcmin", "sky.nside", "sky.lmax")
    reads = ("splits", "delens.inputs", "mask.kind")

    def items(self) -> list[Item]:
        """Every sky, if the network sees a filtered map."""
        return list(super().items()) if set(FEATURES) & set(self.cfg.delens.inputs) else []

    def run(
        self,
        item: Item,
        *,
        obs_alm: dict[str, np.ndarray],
        kappa_qe: dict[str, np.ndarray],
        filters: dict[str, np.ndarray],
        mean_field: dict[str, np.ndarray] | None = None,
    ) -> SkyMap:
        """Three maps, RING."""
        sky = self.cfg.sky
        fwhm_arcmin = self.cfg.delens.fwhm_arcmin
        estimate = without_mean_field(kappa_qe, mean_field, averaged=item["split"] == "train")
        alms = [
            filtered(obs_alm, "E", filters["wiener_e"], filters, fwhm_arcmin),
            filtered(obs_alm, "B", filters["inverse_b"], filters, fwhm_arcmin),
            sht.almxfl(estimate, filters["wiener_phi"]),
        ]
        data = sht.synthesis(np.stack(alms), sky.nside)
        return SkyMap(data, FEATURES, "1", 0.0, sky.lmax, "E_wf in uK_CMB, B_hp in 1/uK_CMB, kappa_qe without unit")
