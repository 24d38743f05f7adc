"""Transforms beside healpy and lenspyx, and remapping beside a closed form."""

import ducc0
import healpy as hp
import lenspyx
import numpy as np
import pytest
from lenspyx.remapping.utils_geom import Geom

from cmbml.sky import sht

LMAX, NSIDE = 150, 64


def random_alm(lmax: int, shape: tuple = (), seed: int = 0, lmin: int = 0) -> np.ndarray:
    """Alms of C_l = 1 from lmin, by healpy's ordering."""
    rng = np.random.default_rng(seed)
    n = hp.Alm.getsize(lmax)
    ell, m = hp.Alm.getlm(lmax)
    alm = (rng.standard_normal((*shape, n)) + 1j * rng.standard_normal((*shape, n))) / np.sqrt(2)
    alm[..., m == 0] = alm[..., m == 0].real * np.sqrt(2)
    alm[..., ell < lmin] = 0
    return alm


@pytest.fixture
def four_threads():
    """A pool of four threads, whatever the process was given."""
    size = ducc0.misc.thread_pool_size()
    ducc0.misc.resize_thread_pool(4)
    yield
    ducc0.misc.resize_thread_pool(size)


# --- layout ---------------------------------------------------------------------------------------------------------


def test_layout_is_healpys():
    alm, other = random_alm(LMAX, (2,), 1), random_alm(LMAX, (), 2)
    fl = np.linspace(1, 2, LMAX + 1)
    assert sht.alm_size(LMAX) == hp.Alm.getsize(LMAX)
    assert [sht.alm_lmax(np.zeros(hp.Alm.getsize(lmax))) for lmax in (0, 1, 2, 1499, 4024)] == [0, 1, 2, 1499, 4024]
    np.testing.assert_array_equal(sht.truncate(alm, 90)[1], hp.resize_alm(alm[1], LMAX, LMAX, 90, 90))
    np.testing.assert_allclose(sht.almxfl(alm, fl)[0], hp.almxfl(alm[0], fl), rtol=1e-15)
    np.testing.assert_allclose(sht.alm2cl(alm)[1], hp.alm2cl(alm[1]), rtol=1e-12)
    np.testing.assert_allclose(sht.alm2cl(alm, other)[0], hp.alm2cl(alm[0], other), atol=1e-14)


def test_layout_mistakes_are_refused():
    alm = random_alm(LMAX)
    with pytest.raises(ValueError, match="no lmax"):
        sht.alm_lmax(alm[:-1])
    with pytest.raises(ValueError, match="cannot be cut"):
        sht.truncate(alm, LMAX + 1)
    with pytest.raises(ValueError, match="below the alms' lmax"):
        sht.almxfl(alm, np.ones(LMAX))
    with pytest.raises(ValueError, match="truncate one"):
        sht.alm2cl(alm, sht.truncate(alm, 90))
    with pytest.raises(ValueError, match="power of two"):
        sht.synthesis(alm, 48)
    with pytest.raises(ValueError, match="wants pairs"):
        sht.synthesis(alm, NSIDE, spin=2)
    with pytest.raises(ValueError, match="no HEALPix map"):
        sht.analysis(np.zeros(1000), 10)


# --- transforms -----------------------------------------------------------------------------------------------------


def test_synthesis_is_healpys_with_its_sign_of_u():
    t, e, b = random_alm(LMAX, (3,), lmin=2)
    theirs = hp.alm2map([t, e, b], NSIDE)
    np.testing.assert_allclose(sht.synthesis(t, NSIDE), theirs[0], atol=1e-9)
    np.testing.assert_allclose(sht.synthesis(np.stack([e, b]), NSIDE, spin=2), theirs[1:], atol=1e-9)


def test_a_stack_is_transformed_one_by_one():
    alm = random_alm(LMAX, (3, 2), lmin=2)
    stack = sht.synthesis(alm, NSIDE, spin=2)
    np.testing.assert_array_equal(stack[2], sht.synthesis(alm[2], NSIDE, spin=2))
    np.testing.assert_array_equal(sht.synthesis(alm, NSIDE)[1, 1], sht.synthesis(alm[1, 1], NSIDE))
    np.testing.assert_array_equal(sht.analysis(stack, LMAX, spin=2)[0], sht.analysis(stack[0], LMAX, spin=2))


@pytest.mark.parametrize("niter", [0, 1, 3])
def test_analysis_is_healpys(niter):
    sky = np.random.default_rng(5).standard_normal((3, hp.nside2npix(NSIDE)))
    theirs = hp.map2alm(sky, lmax=LMAX, iter=niter)
    ours = np.stack([sht.analysis(sky[0], LMAX, niter=niter), *sht.analysis(sky[1:], LMAX, spin=2, niter=niter)])
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_analysis_converges_to_the_alms_of_a_band_limited_sky():
    eb = random_alm(2 * NSIDE, (2,), lmin=2)
    errors = [
        np.abs(sht.analysis(sht.synthesis(eb, NSIDE, spin=2), 2 * NSIDE, spin=2, niter=n) - eb).max() for n in (0, 1, 8)
    ]
    assert errors[2] < errors[1] / 10 < errors[0] / 10
    assert errors[2] < 1e-3


def test_rotation_is_healpys():
    alm = random_alm(40, (2,))
    theirs = alm[1].copy()
    hp.rotate_alm(theirs, 0.3, 0.7, -1.1)
    np.testing.assert_allclose(sht.rotate_alm(alm, 0.3, 0.7, -1.1)[1], theirs, atol=1e-12)


# --- Gauss-Legendre grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lmax", [1, 2, 16, 97, 151, 301, 1000, 1501, 2251, 3001, 4801])
def test_the_grid_is_lenspyxs_to_the_last_bit(lmax):
    theirs = Geom.get_thingauss_geometry(lmax, 3)
    rings, weight = sht._gauss_grid(lmax)
    names = {"theta": theirs.theta, "phi0": theirs.phi0, "nphi": theirs.nph, "ringstart": theirs.ofs}
    assert rings.keys() == names.keys()
    for name, values in names.items():
        assert rings[name].dtype == values.dtype
        np.testing.assert_array_equal(rings[name], values, err_msg=name)
    np.testing.assert_array_equal(weight, theirs.weight)


@pytest.mark.parametrize("spin", [0, 1, 2, 3])
def test_the_grid_gives_back_what_it_is_given(spin):
    """At l = 400 the rings near the poles have a fourth of the equator's points, and nothing is lost."""
    lmax = 400
    alm = random_alm(lmax, (1 if spin == 0 else 2,), lmin=max(spin, 1))
    field = sht.synthesis_gl(alm, lmax, spin=spin)
    np.testing.assert_allclose(sht.analysis_gl(field, lmax, lmax, spin=spin), alm, atol=1e-11)
    nphi = sht._gauss_grid(lmax)[0]["nphi"]
    assert nphi[0] < nphi.max() / 3


# --- lensing --------------------------------------------------------------------------------------------------------


def lensed_field(lmax: int, seed: int = 7) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """T, E, B of a red sky and a potential whose displacement has 3 arcmin rms."""
    ell = np.arange(lmax + 1)
    t, e, b, phi = random_alm(lmax, (4,), seed, lmin=2) / np.maximum(ell, 1)[hp.Alm.getlm(lmax)[0]]
    phi = sht.almxfl(phi, 1 / np.maximum(ell, 1))
    rms = np.sqrt(np.sum((2 * ell + 1) * ell * (ell + 1) * sht.alm2cl(phi)) / (4 * np.pi))
    return {"T": t, "E": e, "B": b}, phi * np.deg2rad(3 / 60) / rms


def test_lensing_along_meridians_has_a_closed_form():
    """phi = a cos(theta) displaces theta by -a sin(theta): T(theta - a sin theta), and Q likewise, without any turn."""
    a, nside = 0.01, 32
    one = np.zeros(hp.Alm.getsize(3), dtype=complex)
    phi, t, e = one.copy(), one.copy(), one.copy()
    phi[1] = a * np.sqrt(4 * np.pi / 3)  # a_10 of a cos(theta)
    t[1] = np.sqrt(4 * np.pi / 3)  # T = cos(theta)
    e[2] = 1.0
    theta = hp.pix2ang(nside, np.arange(hp.nside2npix(nside)))[0]
    moved = theta - a * np.sin(theta)
    scale = sht.synthesis(np.stack([e, one]), nside, spin=2)[0] @ np.sin(theta) ** 2 / np.sum(np.sin(theta) ** 4)
    got = sht.lens_maps({"T": t, "E": e, "B": one}, phi, nside)
    np.testing.assert_allclose(got[0], np.cos(moved), atol=1e-5)  # the accuracy of the interpolation
    np.testing.assert_allclose(got[1], scale * np.sin(moved) ** 2, atol=1e-5)  # Q of E_20 is sin^2(theta)
    np.testing.assert_allclose(got[2], 0, atol=1e-5)


def test_lensed_maps_are_lenspyxs():
    alms, phi = lensed_field(300)
    ell = np.arange(301)
    gradient = sht.almxfl(phi, np.sqrt(ell * (ell + 1)))
    keys = {"geometry": ("healpix", {"nside": 128}), "epsilon": 1e-10}
    t = lenspyx.alm2lenmap(alms["T"], gradient, **keys)
    q, u = lenspyx.alm2lenmap_spin(np.stack([alms["E"], alms["B"]]), gradient, 2, **keys)
    got = sht.lens_maps(alms, phi, 128)
    for ours, theirs in zip(got, (t, q, u), strict=True):
        assert np.abs(ours - theirs).max() < 2e-5 * theirs.std()  # interpolation in single precision, to 1e-5


def test_lensed_alms_are_those_of_the_lensed_map():
    alms, phi = lensed_field(300)
    lensed = sht.lens(alms, phi, 200)
    sky = sht.lens_maps(alms, phi, 256)
    expected = {"T": sht.analysis(sky[0], 200, niter=5)}
    expected |= zip("EB", sht.analysis(sky[1:], 200, spin=2, niter=5), strict=True)
    for field, alm in expected.items():
        error = np.sqrt(sht.alm2cl(lensed[field] - alm)[2:] / sht.alm2cl(alm)[2:])
        # Lensing smears this sky, cut at full power at l = 300, past the grid: that comes back from the top.
        assert error[:100].max() < 1e-3, field
        assert error.max() < 2e-2, field
        assert np.abs(lensed[field] - sht.truncate(alms[field], 200)).std() > 3e-3 * alm.std()  # and lensing was seen


def test_no_potential_no_lensing():
    alms, phi = lensed_field(120)
    lensed = sht.lens(alms, 0 * phi, 120)
    for field, alm in alms.items():
        np.testing.assert_allclose(lensed[field], alm, atol=2e-5 * np.abs(alm).max())  # single precision


def test_no_bit_depends_on_the_threads(four_threads):
    alms, phi = lensed_field(300)
    pair = np.stack([alms["E"], alms["B"]])
    results = []
    for n in (1, 2, 3, 4):
        sky = sht.synthesis(pair, 128, spin=2, nthreads=n)
        lensed = sht.lens(alms, phi, 200, nthreads=n)
        results.append(
            {
                "synthesis": sky,
                "analysis": sht.analysis(sky, 250, spin=2, nthreads=n),
                "rotation": sht.rotate_alm(pair, 0.1, 0.2, 0.3, nthreads=n),
                "maps": sht.lens_maps(alms, phi, 128, nthreads=n),
                "alms": np.stack(list(lensed.values())),
            }
        )
    for name, first in results[0].items():
        for other in results[1:]:
            np.testing.assert_array_equal(first, other[name], err_msg=name)
