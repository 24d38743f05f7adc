"""Units of maps beside astropy's equivalencies, PySM3's band factors and Planck's law itself."""

import numpy as np
import pysm3
import pytest
from astropy import units as u
from astropy.modeling.physical_models import BlackBody
from pysm3 import units as pysm_units

from cmbml.sky.units import T_CMB, conversion, intensity

FREQS = [28.4, 100.0, 217.0, 857.0]
BAND = np.array([120.0, 130.0, 143.0, 150.0, 165.0])  # not equally spaced
RESPONSE = np.array([0.1, 0.9, 1.0, 0.7, 0.2])


@pytest.mark.parametrize("freq", FREQS)
def test_astropys_equivalencies(freq):
    nu, sky = freq * u.GHz, 3.0 * u.MJy / u.sr
    cmb = sky.to_value(u.uK, u.thermodynamic_temperature(nu, T_cmb=T_CMB * u.K))
    rj = sky.to_value(u.uK, u.brightness_temperature(nu))
    assert 3 * conversion("MJy/sr", "uK_CMB", freq) == pytest.approx(cmb, rel=1e-9)
    assert 3 * conversion("MJy/sr", "uK_RJ", freq) == pytest.approx(rj, rel=1e-9)
    assert conversion("mK_RJ", "K_CMB", freq) == pytest.approx(1e-3 * cmb / rj, rel=1e-9)


def test_thermodynamic_unit_is_the_slope_of_plancks_law():
    nu, step = FREQS * u.GHz, 1e-3
    bright, faint = (BlackBody((T_CMB + s) * u.K)(nu).to_value(u.Jy / u.sr) for s in (step / 2, -step / 2))
    np.testing.assert_allclose(intensity("K_CMB", FREQS), (bright - faint) / step, rtol=1e-5)  # differences of 1e-3 K


@pytest.mark.parametrize("weights", [None, RESPONSE, 7 * RESPONSE])
@pytest.mark.parametrize(("source", "target"), [("uK_RJ", "uK_CMB"), ("uK_CMB", "MJy/sr"), ("K_RJ", "MJy/sr")])
def test_pysms_factors_of_a_band(source, target, weights):
    given = getattr(pysm_units, source), pysm_units.Unit(target)
    theirs = pysm3.bandpass_unit_conversion(BAND * u.GHz, weights, output_unit=given[1], input_unit=given[0])
    assert conversion(source, target, BAND, weights) == pytest.approx(theirs.value, rel=1e-6)  # their T_CMB, constants


def test_factors_chain_and_narrow_bands_are_single_frequencies():
    chain = conversion("uK_RJ", "MJy/sr", BAND, RESPONSE) * conversion("MJy/sr", "uK_CMB", BAND, RESPONSE)
    assert chain == pytest.approx(conversion("uK_RJ", "uK_CMB", BAND, RESPONSE), rel=1e-12)
    narrow = conversion("uK_RJ", "uK_CMB", [142.99, 143, 143.01])
    assert narrow == pytest.approx(conversion("uK_RJ", "uK_CMB", 143), rel=1e-6)
    assert conversion("uK_RJ", "uK_CMB", 0.1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("unit", ["K", "uKCMB", "pK_CMB", ""])
def test_refuses_what_is_no_unit(unit):
    with pytest.raises(ValueError, match="no unit of a map"):
        conversion("uK_RJ", unit, 100.0)


def test_refuses_a_frequency_that_is_not_positive():
    with pytest.raises(ValueError, match="not positive"):
        conversion("uK_RJ", "uK_CMB", [0.0, 100.0])
