"""Rotations: the table of pixels against healpy's Rotator, the alms against fields evaluated at rotated points."""

import healpy as hp
import numpy as np
import pytest
from scipy.special import sph_harm_y

from cmbml.sky import sht
from cmbml.sky.rotation import permutation, rotate_alm_deg, rotate_maps

PAIRS = [(60, -30), (60, -60), (120, 30), (120, 60), (240, -30), (240, -60), (240, 30), (240, 60)]
ANGLES = [(120, 30), (240, -60), (-50, 400), (0, 77)]
FULL = [pytest.param(256, *p, marks=() if p in PAIRS[2:4] else pytest.mark.slow) for p in PAIRS]
FULL += [pytest.param(512, *p, marks=pytest.mark.slow) for p in PAIRS]


def displacement(forward, theta, phi):
    """Angle between the rotated centre of each source and the centre of its target, in pixel widths."""
    nside = hp.npix2nside(forward.size)
    moved = hp.Rotator(rot=[phi, theta])(np.array(hp.pix2vec(nside, forward)))
    chord = np.linalg.norm(moved - np.array(hp.pix2vec(nside, np.arange(forward.size))), axis=0)
    return 2 * np.arcsin(chord / 2) / np.sqrt(4 * np.pi / forward.size)


def random_alm(lmax, seed=0, lmin=0, ncomp=()):
    """White alms with a real m = 0 part and nothing below lmin."""
    rng = np.random.default_rng(seed)
    alm = rng.standard_normal((*ncomp, sht.alm_size(lmax))) + 1j * rng.standard_normal((*ncomp, sht.alm_size(lmax)))
    ell, m = hp.Alm.getlm(lmax)
    return np.where(m == 0, alm.real, alm) * (ell >= lmin)


@pytest.mark.parametrize(("nside", "theta", "phi"), [(64, *p) for p in PAIRS] + FULL)
def test_permutation_is_a_local_bijection(nside, theta, phi):
    """Wanted are .53, 2.6 and 6 pixels; the bounds are a little above what is reached, so that a loss shows."""
    forward, inverse = permutation(nside, theta, phi)
    every = np.arange(12 * nside**2)
    assert np.array_equal(forward[inverse], every)
    assert np.array_equal(inverse[forward], every)
    moved = displacement(forward, theta, phi)
    assert moved.mean() < 0.475
    assert np.percentile(moved, 99) < 1.7
    assert moved.max() < 5


@pytest.mark.parametrize("nside", [1, 2, 4, 32])
@pytest.mark.parametrize(("theta", "phi"), [*ANGLES, (0.01, 0), (1, 1), (90, 45), (359, 0)])
def test_permutation_of_awkward_sizes_and_angles(nside, theta, phi):
    forward, inverse = permutation(nside, theta, phi)
    every = np.arange(12 * nside**2)
    assert np.array_equal(forward[inverse], every)
    assert np.array_equal(inverse[forward], every)
    assert displacement(forward, theta, phi).max() < 8  # turns of a few degrees have longer tails than generic ones


def test_permutation_is_exact_where_the_grid_has_the_symmetry():
    """Turns by 90 degrees about z, and half a turn about y, map pixel centres on pixel centres."""
    nside, pixel = 16, np.arange(12 * 16**2)
    x, y, z = hp.pix2vec(nside, pixel)
    assert np.array_equal(permutation(nside, 0, 0)[0], pixel)
    assert np.array_equal(permutation(nside, 0, 90)[0], hp.vec2pix(nside, -y, x, z))
    assert np.array_equal(permutation(nside, 180, 0)[0], hp.vec2pix(nside, -x, y, -z))


def test_permutation_returns_stacked_maps_bit_for_bit():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 2, 12 * 16**2)).astype(np.float32)
    forward, inverse = permutation(16, 60, -30)
    rotated = maps[..., forward]
    assert not np.array_equal(rotated, maps)
    assert rotated[..., inverse].tobytes() == maps.tobytes()


def test_permutation_does_not_depend_on_threads():
    one, two = permutation(64, 120, 60, nthreads=1), permutation(64, 120, 60, nthreads=2)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


@pytest.mark.parametrize("nside", [0, -4, 3, 48, 2.5, 16384])
def test_permutation_refuses_nside(nside):
    with pytest.raises(ValueError, match="nside must be a power of two"):
        permutation(nside, 60, 30)


@pytest.mark.parametrize("angles", [(np.nan, 0), (0, np.inf)])
def test_angles_must_be_finite(angles):
    with pytest.raises(ValueError, match="finite"):
        permutation(4, *angles)
    with pytest.raises(ValueError, match="finite"):
        rotate_alm_deg(random_alm(4), *angles)


@pytest.mark.parametrize(("theta", "phi"), ANGLES)
def test_rotated_scalar_field_is_the_field_at_the_rotated_points(theta, phi):
    """rotated(n) = m(R^-1 n), the right side summed over scipy's Y_lm. Rounding is of order 1e-14 l."""
    lmax, nside = 12, 8
    alm = random_alm(lmax)
    point = hp.Rotator(rot=[phi, theta]).I(np.array(hp.pix2vec(nside, np.arange(12 * nside**2))))
    colat, lon = hp.vec2ang(point.T)
    direct = sum(
        (1 if m == 0 else 2) * (a * sph_harm_y(ell, m, colat, lon)).real
        for a, ell, m in zip(alm, *hp.Alm.getlm(lmax), strict=True)
    )
    got = sht.synthesis(rotate_alm_deg(alm, theta, phi), nside)
    np.testing.assert_allclose(got, direct, atol=1e-11)


def polarisation(nside, rot, coefficients):
    """Q and U of the tensor field M'(n) = R M(R^-1 n) R^T, M_ij(n) a quadratic polynomial, projected on the sphere.

    Q = M_tt - M_pp and U = M_tp + M_pt in the basis of the directions south (t) and east (p). The field holds E and B
    and l <= 4 only.
    """
    theta, phi = hp.pix2ang(nside, np.arange(12 * nside**2))
    ct, st, cp, sp = np.cos(theta), np.sin(theta), np.cos(phi), np.sin(phi)
    here = np.array([st * cp, st * sp, ct])
    south, east = np.array([ct * cp, ct * sp, -st]), np.array([-sp, cp, 0 * cp])
    back = rot.T @ here
    powers = np.array([np.ones_like(ct), *back, back[0] * back[1], back[1] * back[2], back[0] ** 2])
    tensor = np.einsum("ia,abk,jb,kn->ijn", rot, coefficients, rot, powers)
    tt, pp = np.einsum("in,ijn,jn->n", south, tensor, south), np.einsum("in,ijn,jn->n", east, tensor, east)
    return np.array([tt - pp, 2 * np.einsum("in,ijn,jn->n", south, tensor, east)])


@pytest.mark.parametrize(("theta", "phi"), ANGLES)
def test_rotated_polarisation_is_the_rotated_tensor_field(theta, phi):
    """Closed form, without harmonics. The analysis of such low l converges to 1e-10 in a few iterations."""
    rng = np.random.default_rng(1)
    coefficients = rng.standard_normal((3, 3, 7))
    coefficients += coefficients.swapaxes(0, 1)
    before = polarisation(16, np.eye(3), coefficients)
    after = polarisation(16, hp.Rotator(rot=[phi, theta]).mat, coefficients)
    e, b = sht.analysis(before, 4, spin=2, niter=5)
    assert min(np.std(e), np.std(b)) > 0.1  # both parities are there to be turned
    got = rotate_maps(before, theta, phi, spins=[2, 2], lmax=4, niter=8)
    np.testing.assert_allclose(got, after, atol=1e-8)
    np.testing.assert_allclose(
        rotate_maps(after, theta, phi, spins=[2, 2], lmax=4, niter=8, inverse=True), before, atol=1e-8
    )


@pytest.mark.parametrize(("theta", "phi"), ANGLES)
def test_rotation_of_alms_against_healpy_round_trip_and_spectra(theta, phi):
    alm = random_alm(100, ncomp=(3,))
    turned = rotate_alm_deg(alm, theta, phi)
    library = [hp.Rotator(rot=[phi, theta]).rotate_alm(a.copy()) for a in alm]
    np.testing.assert_allclose(turned, library, atol=1e-11)  # two recursions of the Wigner d, rounding grows with l
    np.testing.assert_allclose(rotate_alm_deg(turned, theta, phi, inverse=True), alm, atol=1e-11)
    np.testing.assert_allclose(sht.alm2cl(turned), sht.alm2cl(alm), rtol=1e-11)


def test_rotate_maps_turns_scalars_and_pairs_in_one_stack():
    """T, then Q and U, against healpy's rotate_map_alms of the three together; single precision stays single."""
    nside, lmax = 16, 16
    rotator = hp.Rotator(rot=[30, 120])
    alm = random_alm(lmax, lmin=2, ncomp=(3,))
    tqu = np.array([sht.synthesis(alm[0], nside), *sht.synthesis(alm[1:], nside, spin=2)])
    got = rotate_maps(tqu, 120, 30, spins=[0, 2, 2], lmax=lmax, niter=8)
    np.testing.assert_allclose(got, rotator.rotate_map_alms(tqu, lmax=lmax), atol=1e-3 * tqu.std())  # its analysis: 3
    assert rotate_maps(tqu.astype(np.float32), 120, 30, spins=[0, 0, 0], lmax=lmax).dtype == np.float32


@pytest.mark.parametrize("spins", [[0, 0], [2, 0, 0], [0, 0, 2], [1, 0, 0], [2, 2, 2]])
def test_rotate_maps_refuses_spins(spins):
    with pytest.raises(ValueError, match="spin"):
        rotate_maps(np.zeros((3, 48)), 10, 10, spins=spins, lmax=2)


@pytest.mark.parametrize(("theta", "phi"), PAIRS)
def test_permutation_and_harmonic_rotation_share_their_angles(theta, phi):
    """A displacement of .55 pixel rms leaves 1 - rho = (.55 pixel)^2 l(l+1) / 4, 1e-3 at the mean l of about 7."""
    nside, lmax = 64, 10
    m = sht.synthesis(random_alm(lmax, seed=3, lmin=2), nside)
    exact = rotate_maps(m[None], theta, phi, spins=[0], lmax=lmax)[0]
    table = m[permutation(nside, theta, phi)[0]]
    assert np.corrcoef(exact, table)[0, 1] > 0.997
    other = rotate_maps(m[None], theta, -phi, spins=[0], lmax=lmax)[0]
    assert np.corrcoef(other, table)[0, 1] < 0.5
