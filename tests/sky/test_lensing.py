"""Draws beside their spectra; lensed skies beside CAMB's lensed spectra, within the sample's own variance."""

import numpy as np
import pytest
from camb import correlations
from scipy.stats import chi2

from cmbml.sky import cosmology, lensing, sht
from cmbml.sky.spectra import bin_edges, bin_spectrum, cl_to_dl

PARAMS = {"H0": 67.36, "ombh2": 0.02237, "omch2": 0.12, "tau": 0.0544, "As": 2.1e-9, "ns": 0.9649, "r": 0.01}
FIELDS = ("T", "E", "B", "phi")
# Outside of these tails a chi^2 is a mistake: there are twenty of them, with fixed seeds, and bad luck is 1 in 250.
P_LOW, P_HIGH = 1e-4, 1 - 1e-4


@pytest.fixture(scope="module")
def cls() -> dict[str, np.ndarray]:
    return cosmology.spectra(PARAMS, 3000)


def streams(seed: int) -> dict[str, np.random.Generator]:
    return {field: np.random.default_rng([seed, i]) for i, field in enumerate(FIELDS)}


def p_value(found: np.ndarray, cross: np.ndarray, one: np.ndarray, two: np.ndarray, width: int) -> float:
    """Probability of a larger chi^2 of binned mean spectra (nsim, lmax + 1) of Gaussian fields.

    The variance of one multipole of one sky is (C_1 C_2 + C_12^2) / (2l + 1).
    """
    nsim, n = found.shape
    edges = bin_edges(2, n, width)
    modes = edges[1:] ** 2 - edges[:-1] ** 2  # sum of 2l + 1
    variance = bin_spectrum(one * two + cross**2, edges) / modes / nsim
    z2 = bin_spectrum(found.mean(0) - cross, edges) ** 2 / variance
    return chi2.sf(z2.sum(), z2.size)


# --- draws ----------------------------------------------------------------------------------------------------------


def test_all_ten_spectra_are_drawn(cls):
    lmax, nsim = 300, 12
    skies = [lensing.draw_alms(cls, lmax, streams(seed)) for seed in range(nsim)]
    known = {"TT": "tt", "EE": "ee", "BB": "bb", "TE": "te", "phiphi": "pp", "Tphi": "tp", "Ephi": "ep"}
    for i, one in enumerate(FIELDS):
        for two in FIELDS[i:]:
            found = np.array([sht.alm2cl(sky[one], sky[two]) for sky in skies])
            cross = cls[known[one + two]][: lmax + 1] if one + two in known else np.zeros(lmax + 1)
            autos = [cls[known[x + x]][: lmax + 1] for x in (one, two)]
            assert P_LOW < p_value(found, cross, *autos, width=20) < P_HIGH, (one, two)


def test_a_larger_lmax_only_appends(cls):
    small, large = (lensing.draw_alms(cls, lmax, streams(4)) for lmax in (100, 257))
    for field in FIELDS:
        np.testing.assert_array_equal(sht.truncate(large[field], 100), small[field])
        assert np.all(small[field][[0, 1, 101]] == 0)  # monopole and dipole


def test_each_field_has_its_stream(cls):
    one = lensing.draw_alms(cls, 50, streams(4))
    two = lensing.draw_alms(cls, 50, streams(4) | {"T": np.random.default_rng(9)})
    np.testing.assert_array_equal(one["phi"], two["phi"])
    np.testing.assert_array_equal(one["B"], two["B"])
    assert not np.allclose(one["T"], two["T"])


def test_no_tensors_no_unlensed_b(cls):
    alms = lensing.draw_alms(cls | {"bb": 0 * cls["bb"]}, 50, streams(4))
    np.testing.assert_array_equal(alms["B"], 0)


def test_mistakes_are_refused(cls):
    with pytest.raises(ValueError, match="end below lmax = 3001"):
        lensing.draw_alms(cls, 3001, streams(0))
    with pytest.raises(ValueError, match="not positive definite"):
        lensing.draw_alms(cls | {"te": 100 * cls["te"]}, 50, streams(0))


def test_kappa_is_minus_half_the_laplacian():
    """phi = cos(theta) + sin(theta)^2 cos(2 phi) has laplacian -2 cos(theta) - 6 sin(theta)^2 cos(2 phi)."""
    lmax, nside = 4, 16
    dipole, quadrupole = np.zeros((2, sht.alm_size(lmax)), dtype=complex)
    dipole[1], quadrupole[2 * lmax + 1] = 1.3, 0.4 - 0.2j  # a_10, a_22
    expected = sht.synthesis(dipole, nside) + 3 * sht.synthesis(quadrupole, nside)
    kappa = lensing.kappa_from_phi(dipole + quadrupole)
    np.testing.assert_allclose(sht.synthesis(kappa, nside), expected, atol=1e-12)
    np.testing.assert_allclose(lensing.phi_from_kappa(kappa), dipole + quadrupole, atol=1e-15)


# --- lensed skies ---------------------------------------------------------------------------------------------------


def lensed_spectra(cls: dict, l_unlensed: int, lmax: int, nsim: int) -> dict[str, np.ndarray]:
    """Spectra (nsim, lmax + 1) of lensed skies."""
    found = {name: [] for name in ("tt", "ee", "bb", "te")}
    for seed in range(nsim):
        alms = lensing.draw_alms(cls, l_unlensed, streams(seed))
        sky = sht.lens(alms, alms["phi"], lmax)
        for name in found:
            found[name].append(sht.alm2cl(sky[name[0].upper()], sky[name[1].upper()]))
    return {name: np.array(rows) for name, rows in found.items()}


def assert_spectra_agree(found: dict[str, np.ndarray], theory: dict[str, np.ndarray], width: int) -> None:
    """Compare the mean spectra of all pairs, in the Gaussian variance, which holds for the lensed B below l = 1000."""
    for name, rows in found.items():
        one, two, cross = (theory[x][: rows.shape[1]] for x in (name[0] * 2, name[1] * 2, name))
        p = p_value(rows, cross, one, two, width)
        assert P_LOW < p < P_HIGH, (name, p)


def test_lensed_spectra_are_cambs(cls):
    """CAMB's curved-sky lensing, of the same spectra cut at the same l as the sky.

    The sample measures BB to 0.5 % in each bin; 12 % of it would be missing against the whole spectra.
    """
    l_unlensed, lmax = 1000, 400
    ell = np.arange(l_unlensed + 1)
    unlensed = np.stack([cl_to_dl(cls[name][: l_unlensed + 1]) for name in ("tt", "ee", "bb", "te")], axis=1)
    potential = cls["pp"][: l_unlensed + 1] * (ell * (ell + 1.0)) ** 2 / (2 * np.pi)
    dl = correlations.lensed_cls(unlensed, potential, theta_max=None, sampling_factor=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        theory = {name: dl[:, i] / cl_to_dl(np.ones(len(ell))) for i, name in enumerate(("tt", "ee", "bb", "te"))}
    found = lensed_spectra(cls, l_unlensed, lmax, nsim=8)
    assert_spectra_agree(found, theory, width=40)
    assert p_value(found["bb"], *(3 * [1.03 * theory["bb"][: lmax + 1]]), width=40) < P_LOW  # 3 % would be seen


@pytest.mark.slow
def test_lensed_spectra_are_cambs_own_to_l_1000(cls):
    """Against the lensed spectra of the CAMB run itself; the cut at l = 3000 costs 0.15 % of BB at l = 1000."""
    theory = {name: cls[f"lensed_{name}"] for name in ("tt", "ee", "bb", "te")}
    assert_spectra_agree(lensed_spectra(cls, 3000, 1000, nsim=8), theory, width=50)
