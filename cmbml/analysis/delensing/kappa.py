"""Spectra of the convergence that a method has estimated, beside those of the true one and the estimator's noise."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis.delensing.measure import Delensing
from cmbml.analysis.figures import LOOK, draw_line, limit_floor, multipole_axis
from cmbml.analysis.measure import MASK
from cmbml.analysis.projections import STYLE, new_figure
from cmbml.analysis.spectra import scatter, stack
from cmbml.config.truth import estimates_kappa, has_kappa
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_spectrum


def kappa_spectra(
    estimate: SkyMap, true: np.ndarray | None, *, lmax: int, mask: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the spectra of one estimate of the convergence.

    On a masked sky both carry mask^2, which an estimate is given as far as it does not have it, and the spectra are
    over the mean of mask^4.

    Parameters
    ----------
    estimate : SkyMap
        With ``kappa``.
    true : complex array (nalm,), or None
        The true convergence; None where nobody knows it.
    lmax : int
    mask : array (npix,), optional

    Returns
    -------
    dict of float64 arrays (lmax + 1,)
        ``estimate``; with the truth also ``truth`` and ``cross``.
    """
    seen = 1.0 if mask is None else mask.astype(np.float64)
    part = 1.0 if mask is None else f_sky(mask, 4)
    found = sht.analysis(estimate["kappa"] * seen ** (2 - estimate.masks), lmax)
    cls = {"estimate": sht.alm2cl(found) / part}
    if true is None:
        return cls
    alm = true.astype(np.complex128)
    nside = estimate.nside
    known = sht.truncate(alm, lmax) if mask is None else sht.analysis(sht.synthesis(alm, nside) * seen**2, lmax)
    return cls | {"truth": sht.alm2cl(known) / part, "cross": sht.alm2cl(found, known) / part}


def of_theory(filters: Mapping[str, np.ndarray], lmax: int) -> dict[str, np.ndarray]:
    """Return C_L of the convergence in the fiducial cosmology, and N0_L of the quadratic estimator, (lmax + 1,).

    N0 is 0 where the estimator knows nothing.
    """
    ell = np.arange(lmax + 1.0)
    to_kappa = ell * (ell + 1) / 2
    n0 = filters["n0"][: lmax + 1]
    return {
        "fiducial": to_kappa**2 * filters["pp"][: lmax + 1],
        "n0": to_kappa**2 * np.where(np.isfinite(n0), n0, 0),
    }


class KappaSpectra(Delensing):
    """Bandpowers of the estimated convergence over the test skies, for methods that estimate it.

    An estimate is Wiener-filtered: its spectrum, and that with the truth, are below the truth's where noise is above.
    Their ratio to each other is 1 where the filter is right, and cross / truth is the response, which a bandpower is
    divided by. N0 is that of the quadratic estimator in these filters, whatever the method.
    """

    name = "kappa_spectra"
    version = 2
    inputs = (
        Every("estimate", split="test"),
        Optional(Every("unlensed_alm", split="test"), when=has_kappa),
        "filters",
        MASK,
    )
    outputs = ("kappa_csv", "kappa_png")
    uses = (*Delensing.caption_keys, "analysis.delta_l", "analysis.lmax")
    reads = ("mask.kind", "sims.external")
    memory = "20 map + 20 MB"

    def items(self) -> list[Item]:
        """One item, if there is anything to tell."""
        return [{}] if estimates_kappa(self.cfg) else []

    def run(
        self,
        item: Item,
        *,
        estimate: Files,
        filters: dict[str, np.ndarray],
        unlensed_alm: Files | None = None,
        mask: SkyMap | None = None,
    ) -> tuple[list[dict[str, Any]], Figure]:
        """One row a bin, and one figure."""
        lmax = self.cfg.analysis.lmax
        weight = None if mask is None else mask["mask"]
        truths = [None] * len(estimate) if unlensed_alm is None else (sky["kappa"] for sky in unlensed_alm)
        skies = [
            kappa_spectra(found, true, lmax=lmax, mask=weight) for found, true in zip(estimate, truths, strict=True)
        ]
        stacked = stack(skies, self.edges)
        theory = {name: bin_spectrum(cl, self.edges) for name, cl in of_theory(filters, lmax).items()}
        caption = self.caption(split="test", sims=len(skies), mask=mask)
        return self.rows(stacked, theory), kappa_figure(
            stacked, theory, caption={**caption, "field": "kappa", "unit": "1"}
        )

    def rows(self, stacked: Mapping[str, np.ndarray], theory: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Means and standard deviations over the skies of each bin, first to last multipole."""
        names = [name for name in ("truth", "cross", "estimate") if name in stacked]
        of_skies = {name: scatter(stacked[name]) for name in names}
        rows = []
        for i, ell in enumerate(stacked["ell"]):
            row: dict[str, Any] = {"first": int(self.edges[i]), "last": int(self.edges[i + 1]) - 1, "L": float(ell)}
            for name, (mean, std) in of_skies.items():
                row |= {f"{name}_mean": float(mean[i]), f"{name}_std": float(std[i])}
            rows.append(row | {name: float(cl[i]) for name, cl in theory.items()})
        return rows


NAMES = {"truth": "truth", "cross": "estimate × truth", "estimate": "estimate"}
LOOKS: dict[str, dict[str, Any]] = {
    "truth": LOOK["truth"],
    "cross": {"color": "#009E73", "ls": "--", "marker": "^"},
    "estimate": LOOK["prediction"],
}


def kappa_figure(stacked: Mapping[str, np.ndarray], theory: Mapping[str, np.ndarray], *, caption: Mapping) -> Figure:
    """Draw C_L of the convergence: truth, estimate, their cross spectrum, theory and N0.

    Parameters
    ----------
    stacked : mapping
        From ``spectra.stack``: of ``kappa_spectra``.
    theory : mapping
        ``fiducial`` and ``n0`` in the same bins.
    caption : mapping
        See ``captions.describe``.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 3.8, caption)
        axis = figure.subplots()
        ell = stacked["ell"]
        for name, label in NAMES.items():
            if name in stacked:
                draw_line(axis, ell, *scatter(stacked[name]), label, **LOOKS[name])
        axis.plot(ell, theory["fiducial"], color="0.35", lw=0.7, label="fiducial cosmology")
        n0 = np.where(theory["n0"] > 0, theory["n0"], np.nan)
        axis.plot(ell, n0, color="0.35", lw=0.7, ls="--", label=r"$N_0$ of the quadratic estimator")
        axis.set(yscale="log", ylabel=r"$C_L^{\kappa\kappa}$")
        limit_floor(axis)
        axis.legend(ncols=2)
        multipole_axis(axis)
        axis.set_xlabel("multipole $L$")
    return figure
