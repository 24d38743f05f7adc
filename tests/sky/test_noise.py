"""Noise in pixels and in harmonics: levels, variances, a scan and a knee.

Two-sided probabilities of chi^2 are held to 1e-3, differences of averages to 4 sigma.
"""

import healpy as hp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from cmbml.sky import noise, sht
from cmbml.sky.noise import noise_cl, white_noise


def mode_power(alm: np.ndarray, cl: np.ndarray, lmin: int = 2) -> tuple[float, int]:
    """Sum over l of (2l + 1) C^_l / C_l, which is chi^2 of as many degrees of freedom, and these."""
    ell = np.arange(lmin, len(cl))
    found = sht.alm2cl(sht.truncate(alm, len(cl) - 1))
    return np.sum((2 * ell + 1) * (found / np.where(cl > 0, cl, 1))[lmin:]), np.sum(2 * ell + 1)


def test_level_is_the_rms_in_a_square_arcminute():
    nside, level = 64, 3.0
    noise = white_noise(np.random.default_rng(1), nside, level, ncomp=2)
    square_arcmin = (180 * 60 / np.pi) ** 2 * 4 * np.pi / noise.shape[1]
    for component in noise:
        # sum of squares / variance is chi^2 of npix degrees; two-sided 1e-3
        total = np.sum(component**2) / (level**2 / square_arcmin)
        assert 5e-4 < chi2.sf(total, component.size) < 1 - 5e-4
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / np.sqrt(noise.shape[1])


def test_spectrum_is_that_of_the_pixels():
    """Sum of (2l+1) C^_l / N_l over l is chi^2 of all modes; below l = nside the quadrature is exact to 1e-3."""
    nside, level = 128, 2.1
    sky = white_noise(np.random.default_rng(2), nside, level, ncomp=3)
    alms = [sht.analysis(sky[0], nside), *sht.analysis(sky[1:], nside, spin=2)]
    for alm in alms:
        assert 5e-4 < chi2.sf(*mode_power(alm, noise_cl(level, nside))) < 1 - 5e-4


def test_same_stream_same_noise():
    one, two = (white_noise(np.random.default_rng(3), 8, level) for level in (1.0, 2.0))
    np.testing.assert_allclose(2 * one, two, rtol=1e-14)


# --- pixel variances ------------------------------------------------------------------------------------------------


def uneven(nside: int, seed: int = 0) -> np.ndarray:
    """Variances of a lognormal distribution, uK^2."""
    return np.exp(np.random.default_rng(seed).normal(1, 0.8, 12 * nside**2))


def test_each_pixel_has_its_variance():
    nside, ndraw = 4, 600
    variance, rng = np.stack([uneven(nside, seed) for seed in range(3)]), np.random.default_rng(4)
    draws = np.array([noise.variance_noise(rng, variance) for _ in range(ndraw)])
    power = (draws**2).sum(axis=0) / variance  # chi^2 of ndraw degrees for every pixel
    assert 5e-4 < chi2.sf(power.sum(), ndraw * variance.size) < 1 - 5e-4
    assert np.var(power) == pytest.approx(2 * ndraw, rel=4 * np.sqrt(2 / variance.size))
    assert np.abs(np.corrcoef(draws.reshape(ndraw, -1)[:, :20].T) - np.eye(20)).max() < 4.5 / np.sqrt(ndraw)


def test_constant_variance_is_white_noise():
    white = white_noise(np.random.default_rng(5), 16, 7.0, ncomp=3)
    variance = np.full((3, 3072), np.deg2rad(7 / 60) ** 2 / hp.nside2pixarea(16))
    np.testing.assert_allclose(noise.variance_noise(np.random.default_rng(5), variance), white, rtol=1e-13)
    np.testing.assert_allclose(noise.white_level(variance), 7.0, rtol=1e-13)


def test_spectrum_of_uneven_noise_is_flat_and_scatters():
    """<C_l> = Omega <sigma^2> at every l; the C_l of a draw have the scatter of 2l + 1 modes, not less."""
    nside = 64
    variance = noise.scan_variance(nside, 5.0)
    drawn = noise.variance_noise(np.random.default_rng(7), variance)
    ell, wanted = np.arange(2, nside + 1), noise_cl(5.0, nside)
    ratio = (sht.alm2cl(sht.analysis(drawn, nside)) / wanted)[2:]
    modes = 2 * ell + 1
    peaked = np.mean(variance**2) / np.mean(variance) ** 2  # fewer effective modes than of a uniform map
    assert np.average(ratio, weights=modes) == pytest.approx(1, abs=4 * np.sqrt(2 * peaked / modes.sum()))
    scatter = np.mean((ratio - 1) ** 2 * modes / 2)
    assert 0.5 < scatter < 2 * peaked


@pytest.mark.parametrize("variance", [-np.ones(12), np.full(12, np.nan)])
def test_impossible_variances_are_refused(variance):
    with pytest.raises(ValueError, match="negative or not finite"):
        noise.variance_noise(np.random.default_rng(0), variance)


# --- degrading ------------------------------------------------------------------------------------------------------


def test_degraded_variance_is_that_of_averaged_noise():
    """Brute force: draw on fine pixels, average them, and measure the variance of the averages."""
    fine, coarse, ndraw = 16, 4, 500
    variance, rng = uneven(fine), np.random.default_rng(8)
    wanted = noise.degrade_variance(variance, coarse)
    parts = hp.reorder(np.arange(12 * fine**2), n2r=True).argsort().reshape(-1, (fine // coarse) ** 2)
    means = np.array([noise.variance_noise(rng, variance)[parts].mean(axis=1) for _ in range(ndraw)])
    power = (hp.reorder(means, n2r=True) ** 2).sum(axis=0) / wanted
    assert 5e-4 < chi2.sf(power.sum(), ndraw * wanted.size) < 1 - 5e-4
    assert np.var(power) == pytest.approx(2 * ndraw, rel=4 * np.sqrt(2 / wanted.size))


def test_degrading_keeps_the_level_and_goes_by_steps():
    variance = np.stack([uneven(16, 1), uneven(16, 2)])
    once = noise.degrade_variance(variance, 2)
    np.testing.assert_allclose(noise.white_level(once), noise.white_level(variance), rtol=1e-13)
    np.testing.assert_allclose(noise.degrade_variance(noise.degrade_variance(variance, 8), 2), once, rtol=1e-13)
    finer = noise.degrade_variance(variance, 64)
    np.testing.assert_allclose(noise.white_level(finer), noise.white_level(variance), rtol=1e-13)
    np.testing.assert_allclose(noise.degrade_variance(finer, 16), variance, rtol=1e-13)
    nested = noise.degrade_variance(hp.reorder(variance, r2n=True), 2, nest=True)
    np.testing.assert_allclose(nested, once, rtol=1e-13)


def test_unknown_variances_have_no_mean():
    for bad in (hp.UNSEEN, np.inf):
        variance = uneven(2)
        variance[5] = bad
        with pytest.raises(ValueError, match="UNSEEN or not finite"):
            noise.degrade_variance(variance, 1)


# --- scan -----------------------------------------------------------------------------------------------------------

# The ecliptic pole of J2000 in Galactic coordinates is known as l = 96.38, b = 29.81 degrees.
POLE = hp.ang2vec(96.38, 29.81, lonlat=True)


@pytest.mark.parametrize(("spin_deg", "precession_deg"), [(85.0, 7.5), (50.0, 45.0)])
def test_hits_are_those_of_a_simulated_scan(spin_deg, precession_deg):
    """Lines of sight turned about the spin axis, that about the anti-Sun, and that along the ecliptic, counted."""
    n, rng = 400_000, np.random.default_rng(9)
    sun, turn, phase = rng.uniform(0, 360, (3, n))
    axis = Rotation.from_euler("ZXY", np.transpose([sun, turn, 0 * sun + precession_deg]), degrees=True)
    sight = axis * Rotation.from_euler("XY", np.transpose([phase, 0 * sun + spin_deg]), degrees=True)
    latitude = np.rad2deg(np.arcsin(sight.apply([1.0, 0.0, 0.0])[:, 2]))
    hits = noise.hit_pattern(64, spin_deg=spin_deg, precession_deg=precession_deg, fov_deg=1.0)
    edges = np.linspace(-90, 90, 13)
    of_pixel = 90 - np.rad2deg(np.arccos(POLE @ np.array(hp.pix2vec(64, np.arange(hits.size)))))
    wanted = np.histogram(of_pixel, edges, weights=hits)[0] / hits.size
    found = np.histogram(latitude, edges)[0] / n
    # 4 sigma of the counts, and 3 % for pixels of 0.9 degrees on the edges of a band
    assert np.all(np.abs(found - wanted) < 4 * np.sqrt(wanted / n) + 0.03 * wanted)


def test_hits_are_symmetric_in_ecliptic_coordinates():
    hits = noise.hit_pattern(32)
    assert hits.mean() == pytest.approx(1, rel=1e-12)
    vectors = np.array(hp.pix2vec(32, np.arange(hits.size)))
    latitude = np.rad2deg(np.abs(np.arcsin(POLE @ vectors)))
    order = latitude.argsort()
    known, others = order[::2], order[1::2]  # the latitude of one half of the pixels tells the hits of the others
    np.testing.assert_allclose(hits[others], np.interp(latitude[others], latitude[known], hits[known]), rtol=1e-2)
    np.testing.assert_allclose(hits[hp.vec2pix(32, *-vectors)], hits, rtol=1e-10)
    assert hits[latitude > 78].min() > 3 * hits[latitude < 45].max()


def test_a_great_circle_scan_is_one_over_cos_latitude():
    """psi = 90 degrees: hits = (2 / pi) / cos b away from the poles."""
    hits = noise.hit_pattern(64, spin_deg=90, precession_deg=0, fov_deg=0.5)
    latitude = np.arcsin(POLE @ np.array(hp.pix2vec(64, np.arange(hits.size))))
    part = np.abs(latitude) < np.deg2rad(75)
    np.testing.assert_allclose(hits[part], 2 / np.pi / np.cos(latitude[part]), rtol=5e-3)


def test_scan_has_the_level_it_is_given():
    variance = noise.scan_variance(32, 12.0, spin_deg=70, precession_deg=22.5)
    hits = noise.hit_pattern(32, spin_deg=70, precession_deg=22.5)
    assert noise.white_level(variance) == pytest.approx(12, rel=1e-12)
    np.testing.assert_allclose(variance * hits, variance[0] * hits[0], rtol=1e-12)
    coarse = noise.degrade_variance(noise.scan_variance(64, 12.0), 32)
    np.testing.assert_allclose(coarse, noise.scan_variance(32, 12.0), rtol=0.06)  # within the pixels hits vary
    with pytest.raises(ValueError, match="unseen"):
        noise.scan_variance(32, 12.0, spin_deg=60, precession_deg=5)


# --- knee -----------------------------------------------------------------------------------------------------------


def test_spectrum_with_a_knee():
    cl = noise_cl(2.0, 300, l_knee=60, alpha=-1.5)
    white = noise_cl(2.0, 300)
    assert cl[60] == pytest.approx(2 * white[60], rel=1e-14)
    np.testing.assert_array_equal(cl[:2], white[:2])
    np.testing.assert_allclose((cl - white)[240] / (cl - white)[15], 16**-1.5, rtol=1e-12)
    np.testing.assert_array_equal(noise_cl(2.0, 300, alpha=-1.0), white)
    for knee in ({"l_knee": -1}, {"l_knee": 10}, {"l_knee": 10, "alpha": 1.0}):
        with pytest.raises(ValueError, match="knee"):
            noise_cl(2.0, 10, **knee)


@pytest.mark.parametrize("spin", [0, 2])
def test_correlated_part_has_its_spectrum(spin):
    """What is left when the white part of the same stream is taken away; chi^2 of all modes, l by l and together."""
    nside, level, knee = 64, 3.0, {"l_knee": 40.0, "alpha": -1.2}
    lmax, ncomp = 2 * nside, 1 + spin // 2
    drawn = noise.knee_noise(np.random.default_rng(10), nside, level, **knee, spin=spin)
    drawn -= white_noise(np.random.default_rng(10), nside, level, ncomp)
    alms = sht.analysis(drawn, lmax, spin=spin, niter=3)
    wanted = noise_cl(level, lmax, **knee) - noise_cl(level, lmax)
    ell = np.arange(2, lmax + 1)
    for alm in alms:
        total, modes = mode_power(alm, wanted)
        assert 5e-4 < chi2.sf(total, modes) < 1 - 5e-4
        single = chi2.sf((2 * ell + 1) * sht.alm2cl(alm)[2:] / wanted[2:], 2 * ell + 1)
        assert 5e-4 / len(ell) < single.min() < 0.06
        assert 5e-4 / len(ell) < 1 - single.max() < 0.06
    if spin == 0:
        np.testing.assert_allclose(sht.alm2cl(alms[0])[:2], 0, atol=1e-7 * wanted[2])
    else:
        cross = sht.alm2cl(alms[0], alms[1])[2:] / wanted[2:]
        assert np.abs(np.sum((2 * ell + 1) * cross)) < 4 * np.sqrt(np.sum(2 * ell + 1))


def test_knee_leaves_the_white_part_alone():
    nside = 16
    uniform = white_noise(np.random.default_rng(11), nside, 3.0, 2)
    np.testing.assert_array_equal(noise.knee_noise(np.random.default_rng(11), nside, 3.0, 0, 0, spin=2), uniform)
    variance = noise.scan_variance(nside, 3.0)
    plain = noise.knee_noise(np.random.default_rng(11), nside, 3.0, 20, -1, spin=2)
    scanned = noise.knee_noise(np.random.default_rng(11), nside, 3.0, 20, -1, spin=2, variance=variance)
    white = noise.variance_noise(np.random.default_rng(11), np.stack([variance, variance]))
    np.testing.assert_allclose(scanned - white, plain - uniform, atol=1e-12)


def test_b_may_have_noise_of_its_own():
    """E and B each have their white level and their knee, in chi^2 of all modes; pixels have the lower of the two."""
    nside, of_e, of_b = 32, (8.0, 60.0, -2.0), (5.0, 30.0, -1.0)
    lmax = 2 * nside
    for e, b in ((of_e, of_b), (of_b, of_e)):
        drawn = noise.knee_noise(np.random.default_rng(12), nside, *e, spin=2, of_b=b)
        for alm, (level, l_knee, alpha) in zip(sht.analysis(drawn, lmax, spin=2, niter=3), (e, b), strict=True):
            wanted = noise_cl(level, lmax, l_knee=l_knee, alpha=alpha)
            for first, last in ((2, 20), (40, lmax)):
                part = np.arange(first, last + 1)
                total = np.sum((2 * part + 1) * sht.alm2cl(alm)[part] / wanted[part])
                assert 5e-4 < chi2.sf(total, np.sum(2 * part + 1)) < 1 - 5e-4, (level, first)
    white = white_noise(np.random.default_rng(12), nside, 5.0, 2)
    beyond = sht.analysis(
        noise.knee_noise(np.random.default_rng(12), nside, 8, 0, 0, spin=2, of_b=(5, 0, 0)) - white, 64, spin=2
    )
    assert np.std(beyond[1]) < 0.03 * np.std(beyond[0])  # leakage of the pixels
    alike = noise.knee_noise(np.random.default_rng(12), nside, *of_e, spin=2, of_b=of_e)
    np.testing.assert_array_equal(alike, noise.knee_noise(np.random.default_rng(12), nside, *of_e, spin=2))


@pytest.mark.parametrize("spin", [0, 2])
def test_a_common_atmosphere_correlates_the_drift_and_leaves_the_white_part(spin):
    """The drifts of two bands have their spectra, and the correlation rho to 4 sigma of their modes."""
    nside, rho, laws = 32, 0.9, ((3.0, 40.0, -2.0), (7.0, 20.0, -1.5))
    lmax, ncomp = 2 * nside, 1 + spin // 2
    drifts = []
    for seed, law in zip((13, 14), laws, strict=True):
        common = (np.random.default_rng(15), rho)
        drawn = noise.knee_noise(np.random.default_rng(seed), nside, *law, spin=spin, shared=common)
        white = white_noise(np.random.default_rng(seed), nside, law[0], ncomp)
        drifts.append(sht.analysis(drawn - white, lmax, spin=spin, niter=3))
    modes = 2 * np.arange(lmax + 1) + 1
    for one, other in zip(*drifts, strict=True):
        wanted = [noise_cl(w, lmax, l_knee=k, alpha=a) - noise_cl(w, lmax) for w, k, a in laws]
        for alm, cl in zip((one, other), wanted, strict=True):
            assert 5e-4 < chi2.sf(*mode_power(alm, cl)) < 1 - 5e-4
        cross = (sht.alm2cl(one, other)[2:] / np.sqrt(wanted[0] * wanted[1])[2:]) @ modes[2:] / modes[2:].sum()
        assert abs(cross - rho) < 4 * np.sqrt((1 + rho**2) / modes[2:].sum())
    no = noise.knee_noise(
        np.random.default_rng(13), nside, *laws[0], spin=spin, shared=(np.random.default_rng(15), 0.0)
    )
    np.testing.assert_array_equal(no, noise.knee_noise(np.random.default_rng(13), nside, *laws[0], spin=spin))
