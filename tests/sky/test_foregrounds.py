"""Foregrounds beside closed forms by astropy, and beside PySM3 itself on template files of its own format."""

import os
import pickle
import socket

import healpy as hp
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.models import BlackBody

from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.foregrounds import (
    MissingTemplates,
    evaluate,
    missing_templates,
    offline_pysm,
    preset_sky,
    smoothed,
    synthetic_sky,
    template_files,
)
from cmbml.sky.synthetic import AME_PEAK_GHZ, AME_WIDTH, REFERENCE_GHZ

NSIDE = 4
CMBML = ["d9", "s4", "f1", "a1", "co1", "cib1", "ksz1", "tsz1", "rg1"]
OTHERS = ["d1", "d8", "d12", "s7", "a2", "co3", "ksz2", "dip2"]


def rj_to_cmb(freq: float) -> float:
    """uK_CMB of one uK_RJ by astropy's equivalencies."""
    one = (1 * u.K).to(u.Jy / u.sr, equivalencies=u.brightness_temperature(freq * u.GHz))
    return one.to_value(u.K, equivalencies=u.thermodynamic_temperature(freq * u.GHz, 2.7255 * u.K))


def planck(freq: float, kelvin: np.ndarray) -> np.ndarray:
    return BlackBody(kelvin * u.K)(freq * u.GHz).value


def maps(*fields: str) -> dict[str, np.ndarray]:
    """Templates of random pixels."""
    rng = np.random.default_rng(6)
    ranges = {"I": (1, 9), "Q": (-1, 1), "U": (-1, 1), "index": (-0.5, 1.5), "temperature": (15, 25)}
    return {field: rng.uniform(*ranges[field], 12 * NSIDE**2).astype(np.float32) for field in fields}


@pytest.mark.parametrize("freq", [28.4, 357.5, 866.8])
def test_dust_is_a_modified_black_body(freq):
    dust, ref = maps("I", "Q", "U", "index", "temperature"), REFERENCE_GHZ["dust"]
    # In flux I ~ nu^beta B_nu(T); per uK_RJ by nu^2.
    law = (freq / ref) ** (dust["index"].astype(float) - 2)
    law = law * planck(freq, dust["temperature"]) / planck(ref, dust["temperature"]) * rj_to_cmb(freq)
    expected = law * np.array([dust[field] for field in "IQU"], dtype=float)
    np.testing.assert_allclose(evaluate([synthetic_sky("dust", dust)], freq), expected, rtol=2e-6)


@pytest.mark.parametrize("freq", [28.4, 100.89])
def test_power_laws(freq):
    synchrotron, freefree = maps("I", "Q", "U", "index"), maps("I")
    found = evaluate([synthetic_sky("synchrotron", synchrotron)], freq)
    law = (freq / 23.0) ** synchrotron["index"].astype(float) * rj_to_cmb(freq)
    np.testing.assert_allclose(found, law * np.array([synchrotron[field] for field in "IQU"]), rtol=2e-6)
    found = evaluate([synthetic_sky("freefree", freefree)], freq)
    np.testing.assert_allclose(found[0], freefree["I"] * (freq / 30.0) ** -2.14 * rj_to_cmb(freq), rtol=2e-6)
    assert not found[1:].any()


@pytest.mark.parametrize("freq", [28.4, 70.4])
def test_ame_is_log_normal_in_flux(freq):
    ame, ref = maps("I"), REFERENCE_GHZ["ame"]
    flux = np.exp(-0.5 * (np.log(np.array([freq, ref]) / AME_PEAK_GHZ) / AME_WIDTH) ** 2)
    law = flux[0] / flux[1] * (ref / freq) ** 2 * rj_to_cmb(freq)
    found = evaluate([synthetic_sky("ame", ame)], freq)
    np.testing.assert_allclose(found[0], ame["I"] * law, rtol=2e-6)
    assert not found[1:].any()


def test_a_band_averages_power():
    """A top-hat and a ramp: int W I dnu / int W dB/dT dnu on a fine grid; I is nu^2 times the power law in uK_RJ."""
    freefree = maps("I")
    freqs, fine = np.linspace(25.0, 35.0, 41), np.linspace(25.0, 35.0, 4001)
    cmb = (1 * u.K).to_value(u.Jy / u.sr, u.thermodynamic_temperature(fine * u.GHz, 2.7255 * u.K))
    rj = (1 * u.K).to_value(u.Jy / u.sr, u.brightness_temperature(fine * u.GHz))
    for shape in (np.ones_like, lambda nu: 3 * (nu - 20)):
        law = np.trapezoid(shape(fine) * rj * (fine / 30) ** -2.14, fine) / np.trapezoid(shape(fine) * cmb, fine)
        found = evaluate([synthetic_sky("freefree", freefree)], freqs, shape(freqs))
        np.testing.assert_allclose(found[0], freefree["I"] * law, rtol=1e-4)


def test_sum_pickle_and_nothing():
    """A worker that gets the models by pickle sees the same bytes; skies add up."""
    dust = synthetic_sky("dust", maps("I", "Q", "U", "index", "temperature"))
    freefree = synthetic_sky("freefree", maps("I"))
    total = evaluate((sky for sky in (dust, freefree)), 143.0)
    np.testing.assert_array_equal(evaluate(pickle.loads(pickle.dumps([dust, freefree])), 143.0), total)
    np.testing.assert_allclose(total, evaluate([dust], 143.0) + evaluate([freefree], 143.0), rtol=1e-12)
    with pytest.raises(ValueError, match="no foregrounds"):
        evaluate([], 143.0)


def lay(folder, names: list[str]) -> None:
    """Write templates in PySM3's format: maps with a unit in the header, two columns of text."""
    rng = np.random.default_rng(7)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            np.savetxt(path, np.column_stack([np.linspace(1, 1000, 500), np.linspace(1, 3, 500)]))
        elif name.endswith(".dat"):
            np.savetxt(path, np.column_stack([np.geomspace(1e2, 1e5, 20), rng.uniform(1, 2, (20, 164))]))
        else:
            unit = "MJy/sr" if "cib" in name else "Jy/sr" if "radio_" in name else "uK_RJ"
            unit = "" if any(part in name for part in ("beta", "curvature", "specind")) else unit
            sky = rng.uniform(20, 30, (3, 12 * NSIDE**2)).astype(np.float32)
            hp.write_map(path, sky, column_units=unit or None, dtype=np.float32)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("preset", CMBML + OTHERS)
def test_presets_are_pysms_own(preset, tmp_path):
    """The named files, and they alone, are what PySM3 needs; the result is that of PySM3's own Sky."""
    bands = [([99.0, 101.0, 116.0], [0.5, 1.0, 0.7]), ([143.0], None)][preset == "d8" :]  # d8 fails over a band
    names = template_files([preset], NSIDE, bands=[freqs for freqs, _ in bands])
    assert missing_templates([preset], NSIDE, tmp_path, bands=[freqs for freqs, _ in bands]) == names
    lay(tmp_path, names)
    sky = preset_sky(preset, NSIDE, tmp_path, bands=[freqs for freqs, _ in bands])
    for freqs, weights in bands:
        weights = None if weights is None else np.array(weights)
        with offline_pysm(tmp_path) as pysm3:
            own = pysm3.Sky(nside=NSIDE, preset_strings=[preset], output_unit="uK_CMB")
            expected = np.atleast_2d(own.get_emission(freqs * u.GHz, weights).value)
        found = evaluate([sky], freqs, weights)
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
        assert not found[len(expected) :].any()
    assert found[0].std() > 0 or preset.startswith("co")  # 143 GHz is no line


def test_names_of_files():
    """Resolutions, layers and the frequencies about a band, as PySM3's settings and models spell them."""
    assert template_files(["d9", "s4"], 512) == [
        "dust_gnilc/gnilc_dust_template_nside2048_2023.02.10.fits",
        "synch/synch_template_nside2048_2023.02.25.fits",
    ]
    assert template_files(["s4"], 4096) == ["synch/synch_template_nside4096_2023.02.25.fits"]
    cib = "websky/0.4/cib/cib_{}.fits"
    bands = [np.array([28.4]), np.array([143.0]), np.array([340.0, 360.0]), np.array([2000.0])]
    used = ["0027.3", "0030.0", "0143.0", "0340.0", "0353.0", "0375.0"]
    assert template_files(["cib1"], 512, bands=bands) == [cib.format(freq) for freq in used]
    assert len(template_files(["cib1", "rg1"], 512)) == 92
    assert template_files(["co1"], 2048) == ["co/HFI_CompMap_CO-Type1_2048_R2.00_ring.fits"]
    assert template_files(["a1", "dip1"], 64).count("pysm_2/emissivity.txt") == 1


@pytest.mark.usefixtures("no_network")
def test_missing_files_are_named_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSM_LOCAL_DATA", "elsewhere")
    with pytest.raises(MissingTemplates, match="^f1's templates pysm_2/ff_t_new.fits are not in"):
        preset_sky("f1", NSIDE, tmp_path)
    with pytest.raises(ValueError, match="and 43 more"):
        preset_sky("cib1", NSIDE, tmp_path)
    lay(tmp_path, template_files(["cib1"], NSIDE, bands=[[28.4]]))
    sky = preset_sky("cib1", NSIDE, tmp_path, bands=[[28.4]])
    with pytest.raises(ValueError, match="beyond its folder"):
        evaluate([sky], 353.0)
    assert os.environ["PYSM_LOCAL_DATA"] == "elsewhere"


@pytest.mark.parametrize(
    ("preset", "reason"),
    [("d99", "no preset d99"), ("d6", "every band"), ("s6", "new sky"), ("rg2", "beam"), ("c1", "CMB")],
)
def test_presets_that_are_refused(preset, reason):
    with pytest.raises(ValueError, match=reason):
        template_files([preset], NSIDE)


@pytest.mark.parametrize("count", [1, 3])
def test_smoothing_multiplies_the_alms(count):
    """A band-limited sky is degraded as its alms times b_l are evaluated, Q and U with spin 2."""
    lmax, rng = 40, np.random.default_rng(8)
    alms = rng.standard_normal((3, sht.alm_size(lmax))) + 1j * rng.standard_normal((3, sht.alm_size(lmax)))
    alms[:, : lmax + 1].imag = 0
    alms[1:] = sht.almxfl(alms[1:], np.arange(lmax + 1) >= 2)
    beam = gaussian_beam(400.0, lmax)

    def sky(alm, nside):
        return np.concatenate([sht.synthesis(alm[:1], nside), sht.synthesis(alm[1:], nside, spin=2)])[:count]

    found = smoothed(sky(alms, 32), beam, nside=16, niter=3)
    expected = sky(sht.almxfl(alms, beam), 16)  # three iterations analyse it to 1e-5
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())
    with pytest.raises(ValueError, match="l = 40 is too fine for maps of nside 8"):
        smoothed(sky(alms, 32), beam, nside=8)
