"""The pixel window beside what averaging a fine map over coarse pixels does."""

import healpy as hp
import numpy as np
import pytest

from cmbml.sky import sht
from cmbml.sky.pixel_window import pixel_window


def averaged(nside: int, fine: int, ell: int, spin: int = 0) -> float:
    """Amplitude left of the power of one l, summed over every m, when fine pixels are averaged into coarse ones."""
    where = hp.Alm.getidx(ell, ell, np.arange(ell + 1))
    power = 0
    for m in range(ell + 1):
        for phase in (1,) if m == 0 else (np.sqrt(0.5), 1j * np.sqrt(0.5)):
            alm = np.zeros(sht.alm_size(ell), dtype=complex)
            alm[where[m]] = phase
            sky = sht.synthesis(np.stack([alm, 0 * alm]) if spin else alm[None], fine, spin=spin)
            power += np.square(hp.ud_grade(sky, nside)).mean() * len(sky)
    return np.sqrt(4 * np.pi * power / (2 * ell + 1))


@pytest.mark.parametrize(("nside", "fine", "ell"), [(2, 64, 3), (4, 64, 4), (4, 128, 8), (8, 128, 8)])
def test_is_what_averaging_does_to_the_power_of_a_multipole(nside, fine, ell):
    sampled = averaged(nside, fine, ell) * pixel_window(fine, ell)[ell]  # the fine map holds points, and not means
    np.testing.assert_allclose(sampled, pixel_window(nside, ell)[ell], rtol=1e-4)  # the nodes and the fine window


def test_polarisation_loses_a_little_more():
    ratio = averaged(8, 64, 8, spin=2) * pixel_window(64, 8)[8] / pixel_window(8, 8)[8]
    assert -4e-3 < ratio - 1 < 0


def test_power_of_a_sky_averaged_down():
    nside, lmax = 32, 64
    rng = np.random.default_rng(3)
    white = rng.standard_normal((2, sht.alm_size(lmax)))
    white[1, : lmax + 1] = 0  # m = 0 is real
    alm = sht.almxfl(white[0] + 1j * white[1], 1 / np.arange(1.0, lmax + 2))
    fine = sht.synthesis(sht.almxfl(alm, pixel_window(256, lmax)), 256)
    found = sht.alm2cl(sht.analysis(hp.ud_grade(fine, nside), lmax, niter=3))
    ratio = found / sht.alm2cl(alm) / pixel_window(nside, lmax) ** 2
    # Anisotropic pixels mix the multipoles a little: 2e-3 in a bin of 13.
    np.testing.assert_allclose(ratio.reshape(5, 13).mean(axis=1), 1, atol=5e-3)


def test_depends_on_l_over_nside_nearly_alone():
    windows = [pixel_window(nside, 3 * nside)[:: nside // 64] for nside in (64, 512, 2048)]
    assert all(w[0] == 1 and np.all(np.diff(w) < 0) for w in windows)
    np.testing.assert_allclose(windows[0], windows[2], atol=2e-3)
    np.testing.assert_allclose(windows[1], windows[2], atol=2e-4)


def test_low_multipoles_see_the_size_of_the_pixel():
    # 1 - l(l+1) <g^2> / 4 in power; a flat square of side a has <g^2> = a^2 / 3, and longer shapes have more.
    nside = 256
    w = pixel_window(nside, 20)
    square = 20 * 21 * hp.nside2pixarea(nside) / 3 / 4
    assert 1.0 < (1 - w[20] ** 2) / square < 1.3


@pytest.mark.parametrize(("nside", "lmax", "word"), [(48, 10, "power of two"), (16, 65, "ends at l"), (16, -1, "ends")])
def test_refuses(nside, lmax, word):
    with pytest.raises(ValueError, match=word):
        pixel_window(nside, lmax)
