"""The stages of the linear MAP: behind a mask, and what their samples say of their errors."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from cmbml.analysis.delensing.metrics import expected
from cmbml.maps.skymap import SkyMap
from cmbml.methods.linear_map.stages import Kappa, LinearMap, MeanField, Posterior, Weights
from cmbml.methods.shared.filters import Filters
from cmbml.methods.shared.lensing_template import Template
from cmbml.methods.shared.observed_noise import ObservedNoise
from cmbml.sims.mask import Mask
from cmbml.sims.observe import Observe
from cmbml.sky import lensing, linear_map, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import Coupling, fiducial
from cmbml.sky.masks import apodise, band_mask
from cmbml.sky.noise import scan_variance, variance_noise
from cmbml.sky.quadratic import lensing_template

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NSIDE, LMAX = 128, 300
# Hardly any noise, so that estimates up to l = 300 say something.
WORDS = (
    "method=linear_map", f"nside={NSIDE}", f"sky.lmax={LMAX}", "sky.fields=[E,B,Q,U]", "instrument.fwhm_arcmin=5",
    "instrument.noise_p_uk_arcmin=0.3", "delens.lmin_b=100", "splits.train=0", "linear_map.grid=1.5",
    "linear_map.tolerance=1e-3",
)  # fmt: skip
BAND = ("mask=band", "mask.b_deg=20", "mask.apodise_deg=10")
FULL_SIZE = ("method=linear_map", "sky.fields=[E,B,Q,U]", "splits.train=1")
ITEM = {"split": "test", "sim": 0}


class Run:
    """What the stages make of a sky, truly lensed or, band-limited as the model has it, to first order."""

    def __init__(self, cfg, seed: int, *, first_order: bool = False, train: int | None = None):
        self.cfg = cfg
        self.mask = {"mask": Mask(cfg).run({})} if cfg.mask.kind != "none" else {}
        lmax = cfg.sky.lmax
        measured = {}
        if train is not None:
            alms, _ = sky(train, lmax)
            seen = Observe(cfg).run({"split": "train", "sim": 0}, lensed_alm=alms, **self.mask)[1]
            measured = {"observed_noise": ObservedNoise(cfg).run({}, obs_alm=[seen], lensed_alm=[alms], **self.mask)}
        filters = Filters(cfg).run({}, **measured)
        if first_order:
            whole = Coupling(lmax).lensing_bb(filters["ee"], filters["pp"])
            filters |= {"bb": filters["bb"] - filters["bb_lensing"] + whole, "bb_lensing": whole}
        self.lensed, self.truth = sky_of_first_order(seed, lmax) if first_order else sky(seed, lmax)
        self.obs, obs_alm = Observe(cfg).run({"split": "test", "sim": seed}, lensed_alm=self.lensed, **self.mask)
        self.seen = {"obs_alm": obs_alm, "filters": filters}
        self.given = {**self.seen, "linear_weights": Weights(cfg).run({}, filters=filters)}
        self.field = (
            {"linear_mean_field": MeanField(cfg).run({}, **self.mask, **self.of_filters())} if self.mask else {}
        )
        self.found = LinearMap(cfg).run(ITEM, **self.given, **self.field)
        self.kappa = self.found["kappa"].astype(complex)

    def of_filters(self) -> dict:
        return {name: self.given[name] for name in ("filters", "linear_weights")}

    def posterior(self):
        return Posterior(self.cfg).run(ITEM, **self.given, kappa_linear=self.found, **self.mask, **self.field)

    def a_res(self, *band: int) -> float:
        """A_res of the template in a band, on the full sky or inside the mask."""
        estimate = Kappa(self.cfg).run(ITEM, kappa_linear=self.found)
        made = Template(self.cfg).run(ITEM, estimate=estimate, obs=self.obs, **self.seen)[0]["B"].astype(float)
        nside, lmax = self.cfg.sky.nside, self.cfg.sky.lmax
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, lmax)
        lensing = sht.synthesis(sht.almxfl(self.lensed["B"] - self.truth["B"], beam), nside)
        weight = self.mask["mask"]["mask"].astype(float) if self.mask else 1.0
        left, whole = (
            sht.alm2cl(sht.analysis(m, band[1])) for m in (weight * (weight * lensing - made), weight**2 * lensing)
        )
        ell = np.arange(band[0], band[1] + 1)
        return float((2 * ell + 1) @ left[ell] / ((2 * ell + 1) @ whole[ell]))


def sky(seed: int, lmax: int) -> tuple[dict, dict]:
    """Alms of a lensed sky, and what it was."""
    rngs = {x: np.random.default_rng([seed, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
    alms = lensing.draw_alms(fiducial(), lmax + 1000, rngs)
    seen = sht.lens({x: alms[x] for x in "TEB"}, alms["phi"], lmax)
    before = {x: sht.truncate(alms[x], lmax) for x in "TEB"}
    return seen, before | {"kappa": lensing.kappa_from_phi(sht.truncate(alms["phi"], lmax))}


def sky_of_first_order(seed: int, lmax: int) -> tuple[dict, dict]:
    """The like of E and phi up to lmax alone."""
    drawn = (lensing.unit_alm(np.random.default_rng([seed, i]), lmax) for i in range(3))
    cls = (fiducial()[name][: lmax + 1] for name in ("lensed_ee", "bb", "pp"))
    e, b, phi = (sht.almxfl(alm, np.sqrt(cl)) for alm, cl in zip(drawn, cls, strict=True))
    seen = {"T": 0 * e, "E": e, "B": b + lensing_template({"E": e}, phi)["B"]}
    return seen, {"B": b, "kappa": lensing.kappa_from_phi(phi)}


def slope(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Of b on a, over some pixels."""
    return float(a[where] @ b[where] / (a[where] @ a[where]))


def test_behind_a_mask_the_estimate_is_the_convergence_itself(composed):
    """Not mask^2 times it, as the quadratic estimate is: up to the taper, and nearly so in it, where mask^2 is .26."""
    full, part = (Run(composed(*WORDS, *more), 1, first_order=True) for more in ((), BAND))
    mask = part.mask["mask"]["mask"].astype(float)
    band = (np.arange(LMAX + 1) >= 30) * (np.arange(LMAX + 1) <= 150)
    truth, one, other = (
        sht.synthesis(sht.almxfl(alm, band), NSIDE) for alm in (full.truth["kappa"], full.kappa, part.kappa)
    )
    inside = mask > 0.99
    taper = (mask > 0.3) & (mask < 0.7)
    assert slope(truth, other, inside) == pytest.approx(slope(truth, one, inside), abs=0.03)
    assert slope(truth, other, taper) > 2.5 * np.mean(mask[taper] ** 2) * slope(truth, one, taper)
    assert abs(slope(truth, other, mask == 0)) < 0.05  # nothing is known there, and nothing said


def test_the_mean_field_of_a_mask_is_subtracted(composed):
    """A sky without lensing shows it and little else at low L; less the mean over others, a part of it is left.

    At high L there is none, and the estimate stays as it is: a plain mean of four would add a quarter of its power.
    """
    run = Run(composed(*WORDS, *BAND), 5, first_order=True)
    item = {"split": "test", "sim": 6}
    alms = {"T": 0 * run.lensed["E"], "E": run.lensed["E"], "B": run.truth["B"]}
    _, obs_alm = Observe(run.cfg).run(item, lensed_alm=alms, **run.mask)
    given = {"obs_alm": obs_alm, **run.of_filters()}
    with_it, without = (
        sht.alm2cl(LinearMap(run.cfg).run(item, **given, **field)["kappa"].astype(complex)) for field in ({}, run.field)
    )
    modes = 2 * np.arange(LMAX + 1) + 1
    low, high = slice(2, 21), slice(100, LMAX + 1)
    assert modes[low] @ without[low] < 0.6 * (modes[low] @ with_it[low])
    assert modes[high] @ without[high] == pytest.approx(modes[high] @ with_it[high], rel=0.02)


@pytest.fixture
def coverage(monkeypatch):
    """Part of the modes of kappa, in bins of L, whose truth lies within one sigma_L of the MAP."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    errors = importlib.import_module("kappa_errors")

    def of_bins(run: Run, posterior: dict[str, np.ndarray], edges: tuple[int, ...]) -> list[float]:
        sigmas = errors.in_sigmas(run.kappa - run.truth["kappa"], posterior["kappa"].mean(axis=0), edges)
        return errors.within(sigmas)

    return of_bins


@pytest.mark.parametrize("target", ["lensing", "unlensed"])
def test_template_and_prediction_are_the_observation(composed, target):
    """Whichever of the two an estimate is."""
    cfg = composed("method=delens_unet", f"delens.target={target}", "nside=16", "sky.lmax=32", "delens.lmin_b=20")
    rng = np.random.default_rng(0)
    obs, estimate = (SkyMap(rng.standard_normal((1, 3072)), ("B",), "uK_CMB", 5.0, 32) for _ in range(2))
    template, prediction = Template(cfg).run(ITEM, estimate=estimate, obs=obs, obs_alm={}, filters={})
    np.testing.assert_allclose(template["B"] + prediction["B"], obs["B"], rtol=1e-6)
    np.testing.assert_allclose((template if target == "lensing" else prediction)["B"], estimate["B"], rtol=1e-9)


def test_samples_know_the_errors(composed, coverage):
    """68 % of the modes of kappa, A_res and its scatter without the truth, and a map of sigma that is of these samples.

    The part of the modes within one sigma scatters by .005 in the first bin, that of the fewest modes.
    """
    run = Run(composed(*WORDS, "linear_map.samples=4"), 3, first_order=True)
    sigma, posterior = run.posterior()
    covered = coverage(run, posterior, (20, 100, 200, 301))
    says = expected(posterior, (20, 90))
    assert covered == pytest.approx([0.68] * 3, abs=0.02)
    assert says["A_res_expected"] == pytest.approx(run.a_res(20, 90), abs=4 * says["A_res_sigma"])
    assert says["A_res_sigma"] < 0.03
    power = (2 * np.arange(LMAX + 1) + 1) @ posterior["kappa"].mean(axis=0) / (4 * np.pi)
    assert np.mean(sigma["kappa"].astype(float) ** 2) == pytest.approx(power, rel=0.01)


def test_the_expected_a_res_knows_what_the_model_misses(composed):
    """Of a truly lensed sky, of whose B the model to lmax = 300 makes a fifth."""
    run = Run(composed(*WORDS, "linear_map.samples=4"), 3)
    says = expected(run.posterior()[1], (20, 90))
    assert says["A_res_expected"] == pytest.approx(run.a_res(20, 90), abs=4 * says["A_res_sigma"])
    assert says["A_res_sigma"] < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(("b_deg", "limits"), [(21.0, (0.02, 0.01, 0.001)), (0.0, (2e-4, 1e-4, 1e-5))])
def test_mean_field(b_deg, limits):
    """Of 20 unlensed skies with the noise of a scan, over the power of kappa, at L = 2-9, 10-79 and 80-300.

    Behind a mask there is one, because E leaks into B at its border; uneven noise alone makes none.
    """
    n, lmin_b, noise_uk_arcmin = 20, 100, 0.5
    mask = apodise(band_mask(NSIDE, b_deg), 5.0) if b_deg else np.ones(12 * NSIDE**2)
    variance = scan_variance(NSIDE, noise_uk_arcmin)
    beam = gaussian_beam(5.0, LMAX)
    noise = np.average(variance, weights=mask**2) * 4 * np.pi / (12 * NSIDE**2) / beam**2
    ee = fiducial()["lensed_ee"][: LMAX + 1]
    wiener_e = ee / (ee + noise)
    weights = linear_map.weights(fiducial(), noise, wiener_e, lmin_b=lmin_b)
    total = {"mean": 0.0, "power": 0.0}
    for seed in range(n):
        e = sht.almxfl(lensing.unit_alm(np.random.default_rng(seed), LMAX), np.sqrt(ee) * beam)
        seen = sht.synthesis(np.stack([e, 0 * e]), NSIDE, spin=2)
        seen += variance_noise(np.random.default_rng([seed, 1]), np.stack([variance] * 2))
        e, b = (sht.almxfl(alm, 1 / beam) for alm in sht.analysis(seen * mask, LMAX, spin=2))
        kappa = lensing.kappa_from_phi(linear_map.solve(b, sht.almxfl(e, wiener_e), weights))
        total["mean"] += kappa / n
        total["power"] += sht.alm2cl(kappa) / n
    ell = np.arange(LMAX + 1)
    field = (sht.alm2cl(total["mean"]) - total["power"] / n) * n / (n - 1)  # less the scatter of n skies
    power = (ell * (ell + 1) / 2) ** 2 * fiducial()["pp"][: LMAX + 1]
    parts = []
    for first, last in ((2, 9), (10, 79), (80, 300)):
        band = slice(first, last + 1)
        parts.append((2 * ell[band] + 1) @ field[band] / ((2 * ell[band] + 1) @ power[band]))
    assert all(abs(part) < limit for part, limit in zip(parts, limits, strict=True)), parts
    assert b_deg == 0 or parts[0] > 0.005  # or the page that speaks of it is wrong


@pytest.mark.slow
def test_samples_know_the_errors_at_full_size(composed, coverage):
    run = Run(composed(*FULL_SIZE, "linear_map.samples=4"), 3, train=13)
    _, posterior = run.posterior()
    covered = coverage(run, posterior, (20, 100, 200, 400, 600, 900, 1200, 1501))
    assert covered == pytest.approx([0.68] * 7, abs=0.02)
    says = expected(posterior, (20, 200))
    assert says["A_res_expected"] == pytest.approx(run.a_res(20, 200), abs=0.01)
