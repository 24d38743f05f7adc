"""Gains of bands in what they see of the CMB: exact spectra, drawn spectra, another reference, derivatives."""

import numpy as np
import pytest
from scipy import optimize, stats

from cmbml.core.errors import UserError
from cmbml.methods.ilc import calibration
from cmbml.sky import sht

GAINS = np.array([1.03, 0.98, 1.0, 1.01, 0.99])
REFERENCE = 2
ELL = np.linspace(130, 970, 16)
CMB = 30 + 25 * np.cos(ELL / 45)  # peaks and troughs, as no foreground has them
MIXING = np.array([[1.0, 0.1], [0.3, 0.15], [0.04, 0.3], [0.02, 0.7], [0.01, 1.4]])
FOREGROUNDS = np.stack([20 * (ELL / 100) ** -0.8, 40 * (ELL / 100) ** -0.4], axis=-1)
NOISE = np.array([np.diag([2.0, 1.0, 0.02, 0.03, 0.5])] * 16)
MODES = 50 * (2 * ELL + 1)


def model(count: int) -> np.ndarray:
    """Spectra of bands 0 to count - 1, noise included."""
    cmb = CMB[:, None, None] * np.outer(GAINS, GAINS)
    seen = np.einsum("ik,bk,jk->bij", MIXING, FOREGROUNDS, MIXING)
    return (cmb + seen + NOISE)[:, :count, :count]


@pytest.mark.parametrize("reference", [0, 2, 4])
def test_exact_spectra_give_exact_gains(reference):
    """Where there are many modes, so that nothing counts that was thought before."""
    found, errors = calibration.gains(model(5), NOISE, 1e4 * MODES, reference)
    assert errors[reference] == 0
    assert errors.max() < 1e-4
    assert found == pytest.approx(GAINS / GAINS[reference], abs=2e-5)


def test_drawn_spectra_give_gains_that_are_right_on_average():
    """Within three errors of the mean, which are far below the percent of the gains; each knows its error."""
    draws = [stats.wishart(df=int(n), scale=c / int(n)) for c, n in zip(model(5), MODES, strict=True)]
    skies = np.stack([draw.rvs(24, random_state=i) for i, draw in enumerate(draws)], axis=1)
    found, errors = np.moveaxis([calibration.gains(sky, NOISE, MODES, REFERENCE) for sky in skies], 1, 0)
    scatter = found.std(axis=0, ddof=1)
    assert np.all(np.abs(found.mean(axis=0) - GAINS) <= 3 * scatter / np.sqrt(len(found)) + 1e-9)
    assert np.all(scatter < 2e-3)
    others = np.arange(5) != REFERENCE
    np.testing.assert_allclose(errors.mean(axis=0)[others], scatter[others], rtol=0.35)  # of 24 draws, to 15 %


def test_without_foregrounds_two_bands_are_enough():
    cmb = CMB[:, None, None] * np.outer(GAINS[:2], GAINS[:2])
    found, _ = calibration.gains(cmb + NOISE[:, :2, :2], NOISE[:, :2, :2], 1e4 * MODES, 0)
    assert found == pytest.approx([1, GAINS[1] / GAINS[0]], abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_derivatives(count):
    fit = calibration._Fit(model(count), NOISE[:, :count, :count], MODES, 1)
    rng = np.random.default_rng(0)
    place = fit.start() * (1 + 0.1 * rng.standard_normal(len(fit.start())))
    numeric = optimize.approx_fprime(place, lambda x: fit(x)[0], 1e-7)
    assert fit(place)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-5)


def test_alms_of_two_bands():
    """The same sky with other beams, gains and noise."""
    lmax = 300
    rng = np.random.default_rng(1)
    ell = np.arange(lmax + 1)
    beams = np.exp(-ell * (ell + 1) * np.array([[1e-6], [8e-6]]))
    draws = rng.standard_normal((3, 2, sht.alm_size(lmax)))
    sky, *noises = draws[:, 0] + 1j * draws[:, 1]
    bands = [
        sht.almxfl(sky, gain * beam) + 0.1 * noise for gain, beam, noise in zip((1, 0.97), beams, noises, strict=True)
    ]
    told = np.array([0.1**2 * 2 * np.eye(2)] * (lmax + 1))
    assert calibration.reach(beams, 1000) == lmax
    found, errors = calibration.calibrate(np.stack(bands), beams, told, 0, end=lmax)
    assert found == pytest.approx([1, 0.97], abs=3 * errors[1])
    assert errors[1] < 1e-3


@pytest.mark.parametrize(("last", "width"), [(169, 0.0), (1000, 8e-5)])
def test_bands_that_end_too_early(last, width):
    ell = np.arange(1500)
    with pytest.raises(UserError, match="end at l = 169"):
        calibration.reach(np.exp(-ell * (ell + 1) * np.full((2, 1), width)), last)
