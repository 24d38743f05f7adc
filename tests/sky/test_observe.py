"""Observed maps beside healpy's conversions, and their noise beside its level."""

import healpy as hp
import numpy as np
import pytest
from scipy.stats import chi2

from cmbml.sky import lensing, sht
from cmbml.sky.noise import noise_cl
from cmbml.sky.observe import observe

NSIDE, LMAX, FWHM = 64, 128, 60.0
ALL = ("T", "Q", "U", "E", "B")


@pytest.fixture(scope="module")
def alms() -> dict[str, np.ndarray]:
    """A sky of red spectra, T 100 times E and E 10 times B, to beyond LMAX."""
    ell = np.arange(201)
    red = np.concatenate([[0, 0], 1e4 / ell[2:] ** 2.5])
    cls = {
        "tt": red,
        "ee": red / 1e4,
        "bb": red / 1e6,
        "te": red / 400,
        "pp": red * 1e-12,
        "tp": 0 * red,
        "ep": 0 * red,
    }
    return lensing.draw_alms(cls, 200, {x: np.random.default_rng(i) for i, x in enumerate(("T", "E", "B", "phi"))})


def seen(alms: dict, **changes) -> dict[str, np.ndarray]:
    """Observation with the settings above, noiseless but for ``changes``."""
    settings = {"nside": NSIDE, "lmax": LMAX, "fwhm_arcmin": FWHM, "noise_t_uk_arcmin": 0.0, "noise_p_uk_arcmin": 0.0}
    rngs = {field: np.random.default_rng([7, i]) for i, field in enumerate("TP")}
    return observe(alms, **(settings | {"rngs": rngs, "fields": ALL} | changes))[0]


def test_noiseless_maps_are_healpys(alms):
    """Beam and T, Q, U by healpy, in its sign convention; T, E and B by its analysis and scalar synthesis."""
    lensed = [hp.resize_alm(alms[x], 200, 200, LMAX, LMAX) for x in "TEB"]
    beam = hp.gauss_beam(np.deg2rad(FWHM / 60), lmax=LMAX)
    t, q, u = hp.alm2map([hp.almxfl(alm, beam) for alm in lensed], NSIDE)
    t, e, b = (hp.alm2map(alm, NSIDE) for alm in hp.map2alm([t, q, u], lmax=LMAX, iter=1))
    maps = seen(alms)
    for field, theirs in zip(ALL, (t, q, u, e, b), strict=True):
        assert np.abs(maps[field] - theirs).max() < 1e-9 * theirs.std(), field


def test_e_and_b_maps_show_the_sky(alms):
    """Scalar maps of E and B return the alms that went in, with the beam; E leaks into B by less than 1 % of it."""
    maps = seen(alms)
    beam = hp.gauss_beam(np.deg2rad(FWHM / 60), lmax=LMAX)
    for field in "TEB":
        got = sht.analysis(maps[field], LMAX, niter=3)
        truth = sht.almxfl(sht.truncate(alms[field], LMAX), beam)
        error = np.sqrt(sht.alm2cl(got - truth)[2:100] / sht.alm2cl(truth)[2:100])
        assert error.max() < 0.02, field


def test_without_b_the_sky_has_none(alms):
    """An r = 0 unlensed sky: what is found of B is the quadrature of E, which iterations remove."""
    unlensed = alms | {"B": 0 * alms["B"]}
    leak = [np.std(seen(unlensed, niter=n, lmax=NSIDE)["B"]) for n in (0, 1, 3)]
    e = np.std(seen(unlensed, lmax=NSIDE)["E"])
    assert leak[0] > 5 * leak[1] > 25 * leak[2]
    assert leak[1] < 2e-4 * e
    assert leak[2] < 1e-5 * e


def test_noise_comes_after_the_beam_at_its_level(alms):
    """Observation minus noiseless observation has the spectrum N_l in T, E and B, with no beam in it."""
    levels = {"noise_t_uk_arcmin": 30.0, "noise_p_uk_arcmin": 50.0}
    noisy, clean = seen(alms, **levels), seen(alms)
    ell = np.arange(2, NSIDE + 1)
    for field, level in (("T", 30.0), ("E", 50.0), ("B", 50.0)):
        cl = sht.alm2cl(sht.analysis(noisy[field] - clean[field], NSIDE, niter=3))
        total = np.sum((2 * ell + 1) * (cl / noise_cl(level, NSIDE))[2:])
        assert 5e-4 < chi2.sf(total, np.sum(2 * ell + 1)) < 1 - 5e-4, field  # sigma is 2 %, the beam would take 40 %
    sigma = np.std(noisy["Q"] - clean["Q"]) * hp.nside2resol(NSIDE, arcmin=True)
    assert sigma == pytest.approx(50.0, rel=0.02)


def test_a_field_alone_is_the_same(alms):
    levels = {"noise_t_uk_arcmin": 3.0, "noise_p_uk_arcmin": 5.0}
    whole = seen(alms, **levels)
    for fields in (("B",), ("U", "T"), ("E", "Q")):
        part = seen(alms, fields=fields, **levels)
        assert tuple(part) == fields
        for field in fields:
            np.testing.assert_array_equal(part[field], whole[field])


def test_one_seed_is_one_sky_at_any_nside(alms):
    coarse, fine = seen(alms, lmax=64), seen(alms, nside=2 * NSIDE, lmax=64)
    for field in "TEB":
        one, two = (sht.analysis(maps[field], 64, niter=5) for maps in (coarse, fine))
        np.testing.assert_allclose(one, two, atol=2e-3 * np.abs(two).std())  # E into B by the quadrature


def test_no_bit_depends_on_the_threads(alms):
    one, two = (seen(alms, noise_p_uk_arcmin=5.0, nthreads=n) for n in (1, 2))
    for field in ALL:
        np.testing.assert_array_equal(one[field], two[field])


def test_mistakes_are_refused(alms):
    with pytest.raises(ValueError, match="cannot observe V"):
        seen(alms, fields=("T", "V"))
    with pytest.raises(ValueError, match="3 nside"):
        seen(alms, lmax=192)
