"""Metrics on constructed cases whose answers are closed forms."""

import healpy as hp
import numpy as np
import pytest

from cmbml.analysis.delensing.metrics import METRICS, Measured, delensing_ratios, delensing_spectra, headline, verdict
from cmbml.analysis.metrics import pixel_metrics
from cmbml.core.errors import UserError

LMAX = 250
# Power per multipole of the constructed fields: primordial, lensing, noise.
CU, CS, CN = 0.1, 1.0, 0.06
# The band 20 .. 200 holds 201^2 - 20^2 = 40001 modes. The largest relative error below is that of the transfer,
# sqrt((CS + CU + CN) / CU / 40001) = .017; four times that is allowed.
TOLERANCE = 0.07


def draw(cl, seed):
    np.random.seed(seed)  # noqa: NPY002 (healpy draws from the legacy generator)
    return hp.synalm(np.full(LMAX + 1, cl), LMAX)


@pytest.fixture(scope="module")
def sky():
    u, s, n = draw(CU, 1), draw(CS, 2), draw(CN, 3)
    return {"unlensed": u, "lensed": u + s, "observed": u + s + n}


def cross(a, b, lmin=20, lmax=200):
    ell = np.arange(lmin, lmax + 1)
    return np.sum((2 * ell + 1) * hp.alm2cl(a, b)[lmin : lmax + 1])


def test_pixel_metrics_of_a_constant_offset():
    t = np.array([-3.0, 1.0, 2.0, 4.0])
    m = pixel_metrics(t, t - 0.5)
    expected = {"MAE": 0.5, "MSE": 0.25, "RMSE": 0.5, "NRMSE": 0.5 / np.sqrt(7.5), "PSNR": 20 * np.log10(7 / 0.5)}
    expected["R2"] = 1 - 0.25 / 6.5  # the mean is 1
    assert m == pytest.approx(expected, rel=1e-14)


def test_pixel_metrics_of_gaussian_noise():
    rng = np.random.default_rng(0)
    t, error = rng.uniform(-5, 5, 200_000), rng.normal(0, 2, 200_000)
    m = pixel_metrics(t, t + error)
    # Relative errors of the estimates are at most 1/sqrt(N) = .0022; five times that.
    assert m["RMSE"] == pytest.approx(2, rel=0.011)
    assert m["MAE"] == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.011)
    assert m["NRMSE"] == pytest.approx(2 / (10 / np.sqrt(12)), rel=0.011)


def test_r2_is_the_part_of_the_variance_that_a_fit_explains():
    rng = np.random.default_rng(2)
    x, noise = rng.standard_normal((2, 1000))
    t = 3 + x + 0.5 * noise
    fit = np.polyval(np.polyfit(x, t, 1), x)
    # Of a least-squares fit it is the square of the correlation, of the mean it is 0, and zero points do not matter.
    assert pixel_metrics(t, fit)["R2"] == pytest.approx(np.corrcoef(t, fit)[0, 1] ** 2, rel=1e-10)
    assert pixel_metrics(t, np.full(1000, t.mean()))["R2"] == pytest.approx(0, abs=1e-12)
    assert pixel_metrics(t + 100, fit + 100)["R2"] == pytest.approx(pixel_metrics(t, fit)["R2"], rel=1e-9)


def test_an_outlier_in_the_prediction_lowers_psnr():
    rng = np.random.default_rng(1)
    t = rng.standard_normal(1000)
    p = t + 0.1 * rng.standard_normal(1000)
    bad = p.copy()
    bad[7] = 1e4
    assert pixel_metrics(t, bad)["PSNR"] < pixel_metrics(t, p)["PSNR"] - 60


def test_a_perfect_prediction_and_an_empty_truth():
    t = np.arange(4.0)
    assert pixel_metrics(t, t) == {"MAE": 0, "MSE": 0, "RMSE": 0, "NRMSE": 0, "R2": 1, "PSNR": np.inf}
    m = pixel_metrics(np.zeros(4), t)
    assert np.isnan([m["NRMSE"], m["R2"], m["PSNR"]]).all()
    assert m["MAE"] == 1.5


def test_single_precision_maps_are_measured_in_double():
    t = np.full(100_000, 1000.0, dtype=np.float32)
    t[::2] = -1000
    m = pixel_metrics(t, t + np.float32(0.25))
    assert m["MSE"] == 0.0625


def test_only_good_pixels_count():
    t, p = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.5, 1.5, np.nan, 99.0])
    good = np.array([True, True, False, False])
    assert pixel_metrics(t, p, mask=good) == pixel_metrics(t[:2], p[:2])
    with pytest.raises(UserError, match="not finite"):
        pixel_metrics(t, p)
    with pytest.raises(UserError, match="no pixel"):
        pixel_metrics(t, p, mask=~good & good)
    with pytest.raises(UserError, match="one nside"):
        pixel_metrics(t, p[:3])


def test_a_perfect_lensing_estimate_leaves_nothing_and_keeps_all(sky):
    lensing = sky["lensed"] - sky["unlensed"]
    result = headline(delensing_spectra(**sky, prediction=lensing, target="lensing"))
    # One rounding of l - (l - u) at 1e-16 of the fields.
    assert result == pytest.approx({"A_res": 0, "rho": 1, "transfer": 1}, abs=1e-12)


def test_a_template_of_half_amplitude(sky):
    lensing = sky["lensed"] - sky["unlensed"]
    cls = delensing_spectra(**sky, prediction=0.5 * lensing, target="lensing")
    transfer = 1 + 0.5 * cross(lensing, sky["unlensed"]) / cross(sky["unlensed"], sky["unlensed"])
    assert headline(cls) == pytest.approx({"A_res": 0.25, "rho": 1, "transfer": transfer}, rel=1e-12)
    ratios = delensing_ratios(cls)
    np.testing.assert_allclose(ratios["A_res"], 0.25, rtol=1e-10)
    np.testing.assert_allclose(ratios["rho"], 1, rtol=1e-10)
    # The delensed map itself is what was observed less the template, noise and all.
    delensed = sky["observed"] - 0.5 * lensing
    np.testing.assert_allclose(cls["predicted"], hp.alm2cl(delensed), rtol=1e-10)
    np.testing.assert_allclose(cls["predicted_x_unlensed"], hp.alm2cl(delensed, sky["unlensed"]), atol=1e-12)


@pytest.mark.parametrize("target", ["lensing", "unlensed"])
def test_no_delensing_is_one_by_definition(sky, target):
    cls = delensing_spectra(**sky, target=target)
    result = headline(cls)
    assert result["A_res"] == 1
    # The delensed sky of the lensing target is free of noise; the filter's answer is the observed map itself.
    kept = sky["lensed"] if target == "lensing" else sky["observed"]
    expected = cross(kept, sky["unlensed"]) / cross(sky["unlensed"], sky["unlensed"])
    assert result["transfer"] == pytest.approx(expected, rel=1e-12)
    rho = 0 if target == "lensing" else np.sqrt(CU / (CU + CS + CN))
    assert result["rho"] == pytest.approx(rho, rel=TOLERANCE)
    assert verdict(result["A_res"], result["transfer"]) == ""
    np.testing.assert_allclose(cls["predicted"], hp.alm2cl(sky["observed"]), rtol=1e-12)


def test_the_trap_a_wiener_filter_has_a_small_residual_because_it_removes_the_signal(sky):
    w = CS / (CS + CU + CN)
    result = headline(delensing_spectra(**sky, prediction=w * sky["observed"], target="lensing"))
    # e = W (s + u + n): residual (1-W)^2 CS + W^2 (CU + CN) = (1 - W) CS; transfer 1 - W; rho = sqrt(W).
    assert result["A_res"] == pytest.approx(1 - w, rel=TOLERANCE)
    assert result["rho"] == pytest.approx(np.sqrt(w), rel=TOLERANCE)
    assert result["transfer"] == pytest.approx(1 - w, rel=TOLERANCE)
    assert "transfer 0.1" in verdict(result["A_res"], result["transfer"])


def test_a_direct_estimate_of_the_unlensed_field_is_a_filter(sky):
    w = CU / (CS + CU + CN)
    result = headline(delensing_spectra(**sky, prediction=w * sky["observed"], target="unlensed"))
    assert result["A_res"] == pytest.approx((1 - w) * CU / CS, rel=TOLERANCE)
    assert result["rho"] == pytest.approx(np.sqrt(w), rel=TOLERANCE)
    assert result["transfer"] == pytest.approx(w, rel=TOLERANCE)
    assert verdict(result["A_res"], result["transfer"]) != ""


def test_an_estimate_with_independent_noise_keeps_the_signal(sky):
    lensing = sky["lensed"] - sky["unlensed"]
    w = 0.6  # s and its estimate e = W (s + m) with C_m = CS (1 - W) / W: A_res = 1 - W, rho = sqrt(W)
    estimate = w * (lensing + draw(CS * (1 - w) / w, 4))
    result = headline(delensing_spectra(**sky, prediction=estimate, target="lensing"))
    assert result == pytest.approx({"A_res": 1 - w, "rho": np.sqrt(w), "transfer": 1}, rel=TOLERANCE)
    assert verdict(result["A_res"], result["transfer"]) == ""


@pytest.mark.parametrize("level", [0.0, 1e-14])
def test_without_primordial_signal_the_transfer_is_not_known(level, sky):
    u, lensing = level * sky["unlensed"], draw(CS, 2)
    cls = delensing_spectra(u, u + lensing, u + lensing, 0.5 * lensing, target="lensing")
    result = headline(cls)
    assert np.isnan(result["transfer"])
    assert result["A_res"] == pytest.approx(0.25, rel=1e-10)
    assert "not known" in verdict(result["A_res"], result["transfer"])


def test_headline_is_the_ratio_of_powers_and_not_the_mean_of_ratios():
    ones = np.ones(4)
    residual, lensing = np.array([9.0, 1.0, 4.0, 9.0]), np.array([1.0, 2.0, 1.0, 1.0])
    cls = dict.fromkeys(("unlensed", "estimate", "reference", "estimate_x_reference", "delensed_x_unlensed"), ones)
    result = headline(cls | {"residual": residual, "lensing": lensing}, lmin=1, lmax=2)
    # (3 * 1 + 5 * 4) / (3 * 2 + 5 * 1); the mean of the ratios would be 2.25.
    assert result["A_res"] == pytest.approx(23 / 11, rel=1e-14)


def test_bands_and_targets_that_make_no_sense_are_refused(sky):
    cls = delensing_spectra(**sky, target="lensing")
    for lmin, lmax in [(200, 100), (20, LMAX + 1), (-1, 5)]:
        with pytest.raises(UserError, match="does not lie within"):
            headline(cls, lmin=lmin, lmax=lmax)
    with pytest.raises(UserError, match="known are kappa, lensing, unlensed"):
        delensing_spectra(**sky, target="phi")


def test_kappa_is_judged_as_an_estimate_of_the_lensing(sky):
    template = 0.7 * (sky["lensed"] - sky["unlensed"])
    kappa, lensing = (delensing_spectra(**sky, prediction=template, target=x) for x in ("kappa", "lensing"))
    assert all((kappa[name] == lensing[name]).all() for name in lensing)
    assert headline(kappa)["A_res"] == pytest.approx(0.09, rel=1e-10)


@pytest.mark.parametrize(
    ("a_res", "transfer", "stands"),
    [(0.4, 1.0, True), (0.4, 0.9, True), (0.4, 0.89, False), (0.4, 1.11, False), (1.0, 0.7, True), (1.2, 0.7, False)],
)
def test_verdict(a_res, transfer, stands):
    assert (verdict(a_res, transfer) == "") is stands


def test_multipoles_whose_b_entered_the_estimate_have_numbers_of_their_own():
    left = np.where(np.arange(41) < 20, 0.25, 0.64)
    flat = {name: np.ones(41) for name in ("lensing", "unlensed", "estimate", "reference", "estimate_x_reference")}
    cls = flat | {"residual": left, "delensed_x_unlensed": np.sqrt(left)}
    keys = {"pixels": {}, "cls": cls, "none": cls, "tensor": None, "edges": np.empty(0, int), "f_sky": 1.0}
    of = {metric.name: metric.of for metric in METRICS}
    measured = Measured(band=(2, 19), above=(20, 40), **keys)
    found = [of[name](measured) for name in ("A_res", "transfer", "A_res_above", "transfer_above")]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.64, 0.8])
    assert np.isnan(of["A_res_above"](Measured(band=(2, 19), above=(60, 40), **keys)))
