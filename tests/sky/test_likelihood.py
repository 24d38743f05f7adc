"""r of bandpowers: against distributions of scipy, another minimiser, another formula of sigma(r), and drawn skies."""

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from cmbml.analysis.delensing.sigma_r import sigma_r
from cmbml.sky.likelihood import Likelihood, edges_of_band, modes_left

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Eight bins of 30 <= l < 190 in units of the lensing's power, with tensors of r = 1, made up but alike.
T = np.array([55.0, 45.0, 36.0, 26.0, 17.0, 10.0, 6.0, 4.0])
R = np.array([0.27, 0.26, 0.25, 0.24, 0.22, 0.22, 0.21, 0.21])
N = np.array([0.13, 0.14, 0.076, 0.023, 0.022, 0.022, 0.018, 0.016])
F = np.array([0.29, 0.074, 0.052, 0.040, 0.026, 0.016, 0.015, 0.012])
MODES = np.round(0.1 * np.diff(np.arange(30, 191, 20) ** 2))


def drawn(amplitudes, count, seed=1):
    """Bandpowers of chi^2 modes about r T + A F + R + N."""
    rng = np.random.default_rng(seed)
    power = amplitudes[0] * T + amplitudes[1] * F + R + N
    return power * rng.chisquare(MODES, (count, len(MODES))) / MODES


def test_deviance_is_that_of_chi2():
    """Two models' difference is that of scipy's densities of nu P / C."""
    data = drawn((0.01, 1.0), 20)
    likelihood = Likelihood(np.stack([T, F]), R + N, MODES)
    models = likelihood.power(np.array([[0.0, 1.0], [0.02, 0.5]]))
    ours = likelihood.deviance(data, models[0]) - likelihood.deviance(data, models[1])
    logs = [np.sum(stats.chi2.logpdf(MODES * data / c, MODES) + np.log(MODES / c), axis=1) for c in models]
    np.testing.assert_allclose(ours, -2 * (logs[0] - logs[1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("free", [1, 2, 3])
def test_fit_is_another_minimisers(free):
    """Also for skies whose best r is negative, and with A_lens free; the interval is where the profile rises by 1."""
    shapes = np.stack([T, F, R])[:free]
    fixed = R + N + F - np.sum([0 * T, F, R][:free], axis=0)
    likelihood = Likelihood(shapes, fixed, MODES)
    data = drawn((0.0, 1.0), 6)

    def minus_two_log(amplitudes, data):
        power = fixed + amplitudes @ shapes
        return np.inf if np.any(power <= 0) else np.sum(MODES * (data / power + np.log(power / data) - 1))

    fit = likelihood.fit(data)
    assert (fit.best[:, 0] < 0).any()
    for i, sky in enumerate(data):
        start = np.array([0.01, 1.0, 1.0])[:free]
        found = optimize.minimize(
            minus_two_log, start, sky, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}
        )
        assert fit.deviance[i] == pytest.approx(found.fun, abs=1e-6)
        np.testing.assert_allclose(fit.best[i], found.x, rtol=1e-3, atol=1e-5)
        for bound in (fit.low[i], fit.high[i]):
            if free == 1:
                value = minus_two_log(np.array([bound]), sky)
            else:
                value = optimize.minimize(
                    lambda a, r=bound, sky=sky: minus_two_log(np.array([r, *a]), sky),
                    fit.best[i, 1:],
                    method="Nelder-Mead",
                    options={"xatol": 1e-8, "fatol": 1e-10},
                ).fun
            assert value - found.fun == pytest.approx(1, abs=1e-4)
        assert fit.low[i] < fit.best[i, 0] < fit.high[i]
    np.testing.assert_allclose((fit.high - fit.low) / 2, fit.sigma, rtol=0.2)


def test_correlated_bins_are_a_gaussian_where_modes_are_many():
    rng = np.random.default_rng(2)
    modes = 1e10 * MODES
    correlation = np.eye(8) + 0.3 * (np.abs(np.subtract.outer(range(8), range(8))) == 1)
    likelihood = Likelihood(np.stack([T, F]), R + N, modes, correlation)
    power = likelihood.power(np.array([0.01, 1.0]))
    scatter = np.sqrt(2 / modes) * power
    covariance = correlation * np.outer(scatter, scatter)
    data = rng.multivariate_normal(power, covariance)
    expected = (data - power) @ np.linalg.solve(covariance, data - power)
    assert likelihood.deviance(data, power) == pytest.approx(expected, rel=1e-3)
    shapes = likelihood.shapes
    information = shapes @ np.linalg.solve(covariance, shapes.T)
    np.testing.assert_allclose(likelihood.information(power), information, rtol=1e-9)
    linear = np.linalg.solve(information, shapes @ np.linalg.solve(covariance, data - R - N))
    np.testing.assert_allclose(likelihood.fit(data).best, linear, atol=1e-3 * np.sqrt(np.linalg.inv(information)[1, 1]))
    np.testing.assert_allclose(likelihood.weights(power) @ shapes.T, np.eye(2), atol=1e-9)


def test_sigma_r_is_that_of_the_metric():
    """Bins of one multipole, no foregrounds: Knox's sum over l."""
    ell = np.arange(191)
    tensor = 1 / (1.0 + ell)
    noise = 0.02 + 1e-4 * ell
    likelihood = Likelihood(tensor[None, 30:], noise[30:], 0.3 * (2 * ell[30:] + 1))
    expected = sigma_r(noise, tensor, f_sky=0.3, lmin=30, lmax=190)
    assert likelihood.sigma_r(noise[30:]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("treated", ["absent", "free"])
@pytest.mark.parametrize("training", [2, 6])
def test_r_of_drawn_skies(monkeypatch, treated, training):
    """Bias against the r of each sky within two errors, which are a tenth of sigma; the interval holds r in 68 %."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import r_bias

    parts = {"T": T, "R": R, "N": N, "F": F}
    rng = np.random.default_rng(3)
    row = r_bias.experiment(rng, parts, MODES, r=0.01, draws=1500, training=training, treated=treated)
    assert row["bias_error_over_sigma"] < 0.1
    assert abs(row["bias"]) < 2 * row["bias_error"]
    assert 0.66 < row["coverage"] < 0.70
    assert row["sigma_told"] == pytest.approx(row["sigma_seen"], rel=0.06)


def test_foregrounds_that_are_ignored_become_r(monkeypatch):
    """By as much as the model without them is best fitted to mean bandpowers that have them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import r_bias

    rng = np.random.default_rng(4)
    row = r_bias.experiment(
        rng, {"T": T, "R": R, "N": N, "F": F}, MODES, r=0.0, draws=400, training=100, treated="ignored"
    )
    mean = R + N + F
    expected = optimize.minimize_scalar(
        lambda r: np.sum(MODES * (mean / (r * T + R + N) + np.log(r * T + R + N))), bounds=(0, 0.01), method="bounded"
    ).x
    assert abs(row["bias"] - expected) < 3 * row["bias_error"]
    assert row["bias"] > 10 * row["bias_error"]


def test_a_measured_shape_costs_modes():
    """Scatter of P - R-hat, both drawn, of a sky that is all lensing."""
    rng = np.random.default_rng(5)
    skies = 3
    nu = np.array([100.0])
    difference = rng.chisquare(nu, 200_000) - rng.chisquare(nu * skies, 200_000) / skies
    left = modes_left(nu, np.array([1.0]), np.array([1.0]), skies)
    assert np.var(difference / nu) == pytest.approx(2 / left[0], rel=0.02)


@pytest.mark.parametrize(
    ("band", "message"),
    [((30, 191), "must end at 190, 10 below lmin_b"), ((30, 200), "22|must end at 190"), ((190, 30), "does not lie")],
)
def test_bands_are_refused(band, message):
    with pytest.raises(ValueError, match=message):
        edges_of_band(band, 20, 300, lmin_b=200)


@pytest.mark.parametrize("band", [(2, 40), (10, 50), (23, 61), (30, 190)])
def test_bins_begin_at_2_and_keep_the_band(band):
    edges, used = edges_of_band(band, 20, 250, lmin_b=200)
    assert edges[0] == 2
    assert edges[-1] == 251
    assert (edges[:-1][used][0], edges[1:][used][-1]) == band
    assert np.diff(edges).min() >= 5


def test_bandpowers_without_noise_are_refused():
    likelihood = Likelihood(T[None], R + N, MODES)
    with pytest.raises(ValueError, match="with the noise in them"):
        likelihood.deviance(np.append(R[:-1], -0.1), R + N)
    assert likelihood.deviance(R, likelihood.power(np.array([-1.0]))) == np.inf


def test_a_model_without_power_is_refused():
    with pytest.raises(ValueError, match="the model of r = 0 must be above 0"):
        Likelihood(T[None], R - 0.3, MODES).fit(R + N)
