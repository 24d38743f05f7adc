"""The common form against closed forms: a Gaussian beam multiplies a map of one multipole by a number."""

import numpy as np
import pytest

from cmbml.analysis.captions import describe
from cmbml.analysis.common import beam_ratio, common_form, deconvolved_alm
from cmbml.core.errors import UserError
from cmbml.sky import sht

NSIDE, LMAX = 32, 48
# The transforms with three iterations are accurate to a few 1e-8 of the map's maximum at lmax = 1.5 nside.
EXACT = {"niter": 3}
TOLERANCE = 1e-6


def sigma(fwhm_arcmin):
    return np.radians(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))


def one_multipole(ell, m, value=1 + 2j):
    alm = np.zeros(sht.alm_size(LMAX), dtype=complex)
    alm[m * (2 * LMAX + 1 - m) // 2 + ell] = value
    return alm


@pytest.mark.parametrize(("ell", "m"), [(2, 1), (17, 5), (40, 40)])
def test_scalar_map_of_one_multipole_is_scaled_by_the_beam_ratio(ell, m):
    sky = sht.synthesis(one_multipole(ell, m), NSIDE)
    out = common_form(sky, fwhm_arcmin=60, to_fwhm_arcmin=180, lmax=LMAX, **EXACT)
    factor = np.exp(-ell * (ell + 1) * (sigma(180) ** 2 - sigma(60) ** 2) / 2)
    np.testing.assert_allclose(out, factor * sky, atol=TOLERANCE * np.abs(sky).max())


def test_q_and_u_are_smoothed_as_a_spin_2_pair():
    ell = 30
    sky = sht.synthesis(np.stack([one_multipole(ell, 3), one_multipole(ell, 7)]), NSIDE, spin=2)
    out = common_form(sky, fwhm_arcmin=0, to_fwhm_arcmin=240, lmax=LMAX, spin=2, **EXACT)
    factor = np.exp(-ell * (ell + 1) * sigma(240) ** 2 / 2)
    np.testing.assert_allclose(out, factor * sky, atol=TOLERANCE * np.abs(sky).max())


def test_the_same_beam_leaves_the_multipoles_up_to_lmax_and_removes_the_rest():
    low, high = sht.synthesis(one_multipole(44, 4), NSIDE), sht.synthesis(one_multipole(45, 4), NSIDE)
    out = common_form(low + high, fwhm_arcmin=30, to_fwhm_arcmin=30, lmax=44, **EXACT)
    # What lies above lmax is no longer band-limited for the analysis: its quadrature error (about 1e-3) stays.
    np.testing.assert_allclose(out, low, atol=5e-3 * np.abs(high).max())


def test_beam_ratio_never_divides_an_underflowed_beam():
    wide = beam_ratio(600, 600.0001, 4000)
    assert np.isfinite(wide).all()
    assert wide[-1] > 0.8


def test_a_narrower_beam_is_refused():
    with pytest.raises(UserError, match=r"20.*cannot be brought to 5.*at least 20"):
        common_form(np.zeros(12), fwhm_arcmin=20, to_fwhm_arcmin=5, lmax=2)


def test_what_fills_masked_pixels_does_not_reach_the_good_ones():
    rng = np.random.default_rng(1)
    sky, mask = rng.standard_normal(12 * NSIDE**2), np.arange(12 * NSIDE**2) > 2000
    keys = {"fwhm_arcmin": 0, "to_fwhm_arcmin": 200, "lmax": LMAX, "mask": mask}
    other = np.where(mask, sky, np.nan)
    np.testing.assert_array_equal(common_form(sky, **keys), common_form(other, **keys))


def test_deconvolved_alm_takes_the_beam_out_again():
    rng = np.random.default_rng(2)
    alm = rng.standard_normal(sht.alm_size(LMAX)) + 1j * rng.standard_normal(sht.alm_size(LMAX))
    alm[: LMAX + 1] = alm[: LMAX + 1].real
    ell = np.arange(LMAX + 1)
    beam = np.exp(-ell * (ell + 1) * sigma(120) ** 2 / 2)
    out = deconvolved_alm(sht.synthesis(sht.almxfl(alm, beam), NSIDE), fwhm_arcmin=120, lmax=LMAX, **EXACT)
    np.testing.assert_allclose(out, alm, atol=1e-5)


def test_a_beam_that_erased_the_map_is_refused_with_the_usable_lmax():
    # b_l = 1e-6 where l(l+1) = 2 ln(1e6) / sigma^2.
    usable = int((-1 + np.sqrt(1 + 8 * np.log(1e6) / sigma(300) ** 2)) / 2)
    with pytest.raises(UserError, match=f"{usable} or less"):
        deconvolved_alm(np.zeros(12 * 256**2), fwhm_arcmin=300, lmax=400)


def test_describe_names_what_is_known_in_a_fixed_order():
    text = describe(
        {"noise_uk_arcmin": 1.0, "field": "B", "unit": "uK_CMB", "nside": 512, "sim": 3, "r": 0.01, "lmax": None}
    )
    assert text == "field B [µK_CMB] · sim 3 · nside 512 · noise 1 µK arcmin · r 0.01"
    assert describe({"field": "kappa", "unit": "1"}) == "field kappa"
