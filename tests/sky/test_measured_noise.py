"""Transfer and noise of an observation, measured on skies that are known, against those with which they were drawn."""

import healpy as hp
import numpy as np
import pytest

from cmbml.sky import sht
from cmbml.sky.lensing import unit_alm
from cmbml.sky.lensing_theory import reconstruction
from cmbml.sky.measured_noise import PRIOR, WIDTH, seen_through, transfer_and_noise

LMAX, SKIES = 400, 3
ELL = np.arange(LMAX + 1.0)
SIGNAL = 1e3 * np.exp(-ELL / 80) + 5  # falls by a factor of 150
BUMP = 200 * np.exp(-(((ELL - 320) / 80) ** 2))  # as aliased power has it
NOISE = 20 * (1 + (60 / (ELL + 20)) ** 2) + BUMP
TRANSFER = 1 - 0.08 * (ELL / LMAX) ** 4


def spectra(noise: np.ndarray, transfer: np.ndarray = TRANSFER, skies: int = SKIES) -> np.ndarray:
    """<d d>, <d X>, <X X> of drawn skies."""
    found = 0.0
    for i in range(skies):
        x = sht.almxfl(unit_alm(np.random.default_rng([i, 1]), LMAX), np.sqrt(SIGNAL))
        n = sht.almxfl(unit_alm(np.random.default_rng([i, 2]), LMAX), np.sqrt(noise))
        d = sht.almxfl(x, transfer) + n
        found = found + np.stack([sht.alm2cl(d), sht.alm2cl(d, x), sht.alm2cl(x)]) / skies
    return found


def scatter(at: int) -> float:
    """Relative scatter of a power in a bin: the root of 2 over its modes."""
    width = min(max(at // 4, 2), WIDTH)
    return np.sqrt(2 / (SKIES * 2 * at * width))


def test_coloured_noise_of_unknown_spectrum_is_found():
    """To four times the scatter of a bin's modes, and 2 % for what the straight lines between bins cut off the bump."""
    transfer, noise = transfer_and_noise(*spectra(NOISE), skies=SKIES)
    for at in (5, 20, 60, 150, 250, 280, 320, 360, 390):
        assert noise[at] == pytest.approx(NOISE[at], rel=4 * scatter(at) + 0.02), at
        error = np.sqrt(NOISE[at] / SIGNAL[at] / 2) * scatter(at)
        assert transfer[at] == pytest.approx(TRANSFER[at], abs=4 * error + 2e-3), at


def test_the_sample_variance_of_the_skies_is_not_in_it():
    """Noise of a thousandth of the signal is found to its own scatter, not to that of the signal."""
    _, noise = transfer_and_noise(*spectra(SIGNAL / 1000), skies=SKIES)
    below = slice(30, LMAX - WIDTH)
    np.testing.assert_allclose(noise[below], SIGNAL[below] / 1000, rtol=4 * scatter(30))


def test_filters_of_measured_noise_are_those_of_the_noise_itself():
    """Inverse-variance and Wiener filters, and N0, which averages over all multipoles, within the errors of a bin."""
    cls = {"lensed_ee": SIGNAL, "lensed_bb": SIGNAL / 10, "bb": 0 * SIGNAL, "pp": 1e-6 / (ELL + 1) ** 4}
    transfer, noise = transfer_and_noise(*spectra(NOISE), skies=SKIES)
    found = reconstruction(cls, noise / transfer**2, lmin_b=30)
    known = reconstruction(cls, NOISE / TRANSFER**2, lmin_b=30)
    for name in ("wiener_e", "inverse_e", "inverse_b"):
        np.testing.assert_allclose(found[name][30:], known[name][30:], rtol=4 * scatter(30))
    np.testing.assert_allclose(found["n0"][2:], known["n0"][2:], rtol=0.02)
    np.testing.assert_allclose(found["residual"][2:], known["residual"][2:], rtol=0.01)


def test_noise_of_e_and_of_b_are_told_apart():
    cls = {"lensed_ee": SIGNAL, "lensed_bb": SIGNAL / 10, "bb": 0 * SIGNAL, "pp": 1e-6 / (ELL + 1) ** 4}
    both = reconstruction(cls, NOISE, noise_b=3 * NOISE, lmin_b=30)
    np.testing.assert_array_equal(both["wiener_e"], reconstruction(cls, NOISE, lmin_b=30)["wiener_e"])
    np.testing.assert_array_equal(both["inverse_b"], reconstruction(cls, 3 * NOISE, lmin_b=30)["inverse_b"])


def test_a_transfer_that_nobody_can_tell_is_one():
    """Behind a beam that leaves nothing, regression is noise over nothing; the transfer stays far within the prior."""
    transfer, _ = transfer_and_noise(*spectra(1e8 * NOISE), skies=SKIES)
    assert np.abs(transfer - 1).max() < PRIOR / 2
    nothing = np.zeros(LMAX + 1)
    transfer, noise = transfer_and_noise(NOISE, nothing, nothing)
    np.testing.assert_array_equal(transfer, 1)
    assert noise[350] == pytest.approx(NOISE[350], rel=0.02)


@pytest.mark.parametrize("lmax", [2, 3, 7, 40])
def test_any_band_limit_has_bins(lmax):
    transfer, noise = transfer_and_noise(*(np.full(lmax + 1, x) for x in (0.25 + 2.0, 0.5, 1.0)), skies=1e6)
    np.testing.assert_allclose(transfer, 0.5, rtol=1e-4)
    np.testing.assert_allclose(noise, 2, rtol=1e-4)


def test_masked_sky_is_that_of_fine_pixels():
    """The same product on a HEALPix map of eight times the band limit; a mask of cos theta squared has l <= 2."""
    lmax, nside = 32, 64
    e, b = (unit_alm(np.random.default_rng(i), lmax) for i in range(2))
    e[[0, 1, lmax + 1]] = b[[0, 1, lmax + 1]] = 0
    mask = hp.pix2vec(nside, np.arange(12 * nside**2))[2] ** 2
    expected = sht.analysis(sht.synthesis(np.stack([e, b]), nside, spin=2) * mask, lmax, spin=2, niter=3)
    weights = sht.analysis(mask, lmax, niter=3)
    np.testing.assert_allclose(seen_through(np.stack([e, b]), weights, spin=2), expected, atol=2e-4)
    t = seen_through(e[None], weights, spin=0)[0]
    np.testing.assert_allclose(t, sht.analysis(sht.synthesis(e, nside) * mask, lmax, niter=3), atol=2e-4)
