"""sigma(r) against published numbers, closed forms, and the filters that cannot change it."""

import healpy as hp
import numpy as np
import pytest

from cmbml.analysis.delensing.metrics import delensing_spectra, headline
from cmbml.analysis.delensing.sigma_r import band_of_r, measured_sigma_r, sigma_r
from cmbml.sky import cosmology, sht
from cmbml.sky.spectra import bin_edges

LMAX = 300
R = 0.01
EDGES = bin_edges(30, LMAX + 1, 30)
KEYS = {"f_sky": 0.03, "lmin": 30, "lmax": LMAX}
ELL = np.arange(LMAX + 1)


def white(noise_uk_arcmin, fwhm_arcmin):
    """Noise over the beam squared, from the definitions."""
    sigma = np.radians(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
    return np.radians(noise_uk_arcmin / 60) ** 2 * np.exp(ELL * (ELL + 1) * sigma**2)


@pytest.fixture(scope="module")
def theory():
    """Lensing BB and the tensor BB at r = 1 as r -> 0, where the tilt of the consistency relation vanishes."""
    base = {"H0": 67.36, "ombh2": 0.02237, "omch2": 0.12, "tau": 0.0544, "As": 2.1e-9, "ns": 0.9649}
    cls = cosmology.spectra(base | {"r": R}, LMAX)
    return {"lensing": cls["lensed_bb"] - cls["bb"], "tensor": cls["bb"] / R}


@pytest.fixture(scope="module")
def sky(theory):
    """A Gaussian sky with r = 0.01 through 1 uK arcmin and 5 arcmin."""
    np.random.seed(3)  # noqa: NPY002 (healpy draws from the legacy generator)
    u, s, n = (hp.synalm(cl, LMAX) for cl in (R * theory["tensor"], theory["lensing"], white(1, 5)))
    return {"unlensed": u, "lensed": u + s, "observed": u + s + n}


def measured(sky, theory, prediction=None, target="lensing"):
    return measured_sigma_r(delensing_spectra(**sky, prediction=prediction, target=target), theory["tensor"], EDGES,
                            f_sky=0.03)  # fmt: skip


def test_known_values_for_a_survey_of_20_arcmin(theory):
    known = {1: 20.5, 0.57: 12.0, 0.4: 8.7, 0.3: 6.8, 0.2: 4.8, 0.1: 2.8}
    for a_res, expected in known.items():
        value = sigma_r(a_res * theory["lensing"] + white(1, 20), theory["tensor"], **KEYS)
        # The table has two to three digits; its cosmology is the same.
        assert 1e4 * value == pytest.approx(expected, rel=0.02)


def test_white_spectra_have_a_closed_form():
    noise, tensor = np.full(LMAX + 1, 3.0), np.full(LMAX + 1, 5.0)
    modes = (LMAX + 1) ** 2 - 30**2
    value = sigma_r(noise, tensor, **KEYS, transfer=0.5)
    assert value == pytest.approx(3 / (0.25 * 5) * np.sqrt(2 / (0.03 * modes)), rel=1e-12)


def test_no_delensing_and_a_perfect_one_agree_with_theory(sky, theory):
    noise = white(1, 5)
    none, perfect = measured(sky, theory), measured(sky, theory, sky["lensed"] - sky["unlensed"])
    # One sky's sigma(r) scatters by 4 % for r = 0.01; three times that.
    assert none == pytest.approx(sigma_r(theory["lensing"] + noise, theory["tensor"], **KEYS), rel=0.12)
    assert perfect == pytest.approx(sigma_r(noise, theory["tensor"], **KEYS), rel=0.12)


def test_about_the_skys_own_r_its_signal_is_noise(sky, theory):
    """Fisher's sum with the tensors of r = 0.01 in the variance, against that about r = 0; one sky scatters by 4 %."""
    cls = delensing_spectra(**sky, prediction=None, target="lensing")
    own = measured_sigma_r(cls, theory["tensor"], EDGES, f_sky=0.03, own_r=True)
    rest = theory["lensing"] + white(1, 5)
    known = sigma_r(rest + R * theory["tensor"], theory["tensor"], **KEYS)
    assert own == pytest.approx(known, rel=0.12)
    assert known > 1.3 * sigma_r(rest, theory["tensor"], **KEYS)
    # Of a perfect map nothing but the sample variance is left: sigma(r) / r = sqrt(2 / (f_sky modes)).
    nothing = {"unlensed": sky["unlensed"], "lensed": sky["unlensed"], "observed": sky["unlensed"]}
    cls = delensing_spectra(**nothing, prediction=None, target="lensing")
    bound = R * np.sqrt(2 / (0.03 * ((LMAX + 1) ** 2 - 30**2)))
    assert measured_sigma_r(cls, theory["tensor"], EDGES, f_sky=0.03, own_r=True) == pytest.approx(bound, rel=0.05)


def test_the_band_ends_before_the_estimate_holds_b():
    assert band_of_r([30, 300], lmax=1500, lmin_b=200) == (30, 190)
    assert band_of_r([30, 100], lmax=1500, lmin_b=200) == (30, 100)
    assert band_of_r([30, 300], lmax=150, lmin_b=200) == (30, 150)
    first, last = band_of_r([30, 300], lmax=150, lmin_b=30)
    assert last < first


def test_without_a_bin_sigma_r_is_not_known(sky, theory):
    cls = delensing_spectra(**sky, prediction=None, target="lensing")
    assert np.isnan(measured_sigma_r(cls, theory["tensor"], np.empty(0, dtype=int), f_sky=0.03))


def test_a_template_of_half_amplitude_leaves_a_quarter_of_the_lensing(sky, theory):
    half = 0.5 * (sky["lensed"] - sky["unlensed"])
    result = headline(delensing_spectra(**sky, prediction=half, target="kappa"))
    assert result["A_res"] == pytest.approx(0.25, rel=1e-12)
    assert result["transfer"] == pytest.approx(1, abs=0.1)
    expected = sigma_r(0.25 * theory["lensing"] + white(1, 5), theory["tensor"], **KEYS)
    assert measured(sky, theory, half) == pytest.approx(expected, rel=0.12)


def test_the_trap_leaves_sigma_r_as_it_was(sky, theory):
    lensing, noise = theory["lensing"][2:], white(1, 5)[2:]
    w = np.concatenate([[0, 0], lensing / (lensing + noise)])
    template = sht.almxfl(sky["observed"], w)
    result = headline(delensing_spectra(**sky, prediction=template, target="lensing"))
    assert result["A_res"] == pytest.approx(0.16, abs=0.03)
    assert result["transfer"] == pytest.approx(0.03, abs=0.02)
    # 1 - W is nearly, not exactly, constant in a bin of 30 multipoles: it changes by some per cent there.
    assert measured(sky, theory, template) / measured(sky, theory) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("target", ["lensing", "unlensed"])
def test_an_invertible_filter_of_all_alms_changes_nothing(sky, theory, target):
    f = np.ones(LMAX + 1)
    f[30:] = np.repeat(np.random.default_rng(0).uniform(0.01, 0.9, len(EDGES) - 1), np.diff(EDGES))
    filtered = sht.almxfl(sky["observed"], f)
    prediction = filtered if target == "unlensed" else sky["observed"] - filtered
    assert measured(sky, theory, prediction, target) == pytest.approx(measured(sky, theory), rel=1e-10)


def test_the_wiener_filter_for_the_unlensed_field_wins_nothing(sky, theory):
    u, rest = R * theory["tensor"], theory["lensing"] + white(1, 5)
    w = np.divide(u, u + rest, out=np.zeros_like(u), where=u > 0)
    prediction = sht.almxfl(sky["observed"], w)
    result = headline(delensing_spectra(**sky, prediction=prediction, target="unlensed"))
    assert result["transfer"] < 0.9
    # W changes by half within a bin of 30 multipoles; what that does is of second order.
    assert measured(sky, theory, prediction, "unlensed") / measured(sky, theory) == pytest.approx(1, abs=0.05)


def test_without_primordial_signal_sigma_r_is_not_known(sky, theory):
    s, n = sky["lensed"] - sky["unlensed"], sky["observed"] - sky["lensed"]
    assert np.isnan(measured({"unlensed": 0 * s, "lensed": s, "observed": s + n}, theory, 0.5 * s))
