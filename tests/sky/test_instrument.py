"""Instruments: the shipped tables beside what their papers say in other words, and tables of every kind."""

import dataclasses
from pathlib import Path

import numpy as np
import pysm3
import pytest
import yaml
from astropy import units as u
from astropy.modeling.models import BlackBody
from astropy.table import Table

from cmbml.sky.beams import gaussian_beam
from cmbml.sky.instrument import Band, bandpass, beam, intensity_factor, read_instrument
from cmbml.sky.units import conversion

REPO = Path(__file__).parents[2]
TABLES = REPO / "assets" / "instruments"
NAMES = sorted(path.stem for path in TABLES.glob("*.ecsv"))
BAND = Band("143", 143.0, 0.0, 7.2, 33.0, 70.2, ("T", "Q", "U"))


def shipped(name, bands=None):
    return read_instrument(TABLES / f"{name}.ecsv", bands)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_tables_agree_with_their_configuration(name):
    instrument = shipped(name)
    cfg = yaml.safe_load((REPO / "cfg" / "instrument" / f"{name}.yaml").read_text())
    assert (cfg["defaults"], cfg["name"], cfg["table"]) == (["_table"], name, f"instruments/{name}.ecsv")
    assert instrument.name == name
    assert len(instrument.source) > 20
    assert np.all(np.diff([band.center_ghz for band in instrument.bands]) > 0)
    for band in instrument.bands:
        polarised = band.fields == ("T", "Q", "U")
        assert band.fwhm_arcmin > 0
        assert band.noise_t_uk_arcmin > 0
        assert polarised == (band.noise_p_uk_arcmin > 0)
        if polarised:  # detectors that see both give sqrt(2); Planck's 100 to 353 GHz and SPT-3G's do not quite
            assert 1.3 < band.noise_p_uk_arcmin / band.noise_t_uk_arcmin < 2.9


def test_there_is_a_table_for_each_instrument():
    options = {path.stem for path in (REPO / "cfg" / "instrument").glob("*.yaml")}
    assert set(NAMES) == options - {"_table"}


# What the abstracts say of bands together, uK arcmin, to the figures they give.
@pytest.mark.parametrize(
    ("name", "bands", "column", "together"),
    [
        ("so_sat", ["93", "145"], "noise_t_uk_arcmin", 2.0),  # arXiv:1808.07445
        ("so_lat", ["93", "145"], "noise_t_uk_arcmin", 6.0),  # arXiv:1808.07445
        ("litebird", None, "noise_p_uk_arcmin", 2.16),  # arXiv:2312.05184
    ],
)
def test_bands_together(name, bands, column, together):
    levels = np.array([getattr(band, column) for band in shipped(name, bands).bands])
    assert np.sum(levels**-2.0) ** -0.5 == pytest.approx(together, rel=0.05)


@pytest.mark.parametrize("name", ["planck", "planck_cmbml"])
def test_plancks_noise_where_it_is_given_as_intensity(name):
    for band, level in zip(shipped(name, [545, 857]).bands, (0.78, 0.72), strict=True):  # kJy/sr deg
        one = (1 * u.uK).to_value(u.kJy / u.sr, u.thermodynamic_temperature(band.center_ghz * u.GHz, 2.7255 * u.K))
        assert band.noise_t_uk_arcmin * one / 60 == pytest.approx(level, rel=1e-4)
        assert band.fields == ("T",)


def test_beams_of_cmbml_are_those_of_plancks_high_frequencies_in_one_proportion():
    planck = [9.682, 7.303, 5.021, 4.944, 4.831, 4.638]  # of its delta bandpasses, arcmin
    broad = [band.fwhm_arcmin for band in shipped("planck_cmbml").bands[3:]]
    np.testing.assert_allclose(broad, np.array(planck) * 20.6 / 4.638, atol=0.06)  # rounded to 0.1


def test_b_of_cmbs4s_small_telescopes_has_its_own_noise():
    """Of the preliminary baseline design report; the large ones publish one level for both."""
    published = {
        "E": [
            (3.74, 60, -2.2),
            (4.73, 60, -2.2),
            (0.93, 60, -2.2),
            (0.82, 60, -2.2),
            (1.25, 65, -3.1),
            (1.34, 65, -3.1),
        ],
        "B": [(3.53, 60, -1.7), (4.46, 60, -1.7), (0.88, 60, -1.7), (0.78, 60, -1.7), (1.23, 60, -3), (1.34, 60, -3)],
    }
    published["E"] += [(3.48, 65, -3.1), (8.08, 65, -3.1)]
    published["B"] += [(3.48, 60, -3), (5.97, 60, -3)]
    for field, laws in published.items():
        assert [band.noise(field) for band in shipped("cmbs4_sat").bands] == laws
    assert all(band.noise("E") == band.noise("B") for band in shipped("cmbs4_lat").bands)


@pytest.mark.parametrize("name", ["so_lat", "so_sat", "cmbs4_lat", "cmbs4_pole_lat", "cmbs4_sat", "spt3g", "planck"])
def test_tubes_are_of_neighbouring_bands(name):
    """Dichroic pixels of the ground; no tube of a satellite."""
    bands = shipped(name).bands
    of_tube = {tube: [band.name for band in bands if band.tube == tube] for tube in {band.tube for band in bands}}
    known = {"planck": [], "spt3g": [["95", "150", "220"]], "so_lat": [["27", "39"], ["93", "145"], ["225", "280"]]}
    if name in known:
        assert sorted(names for tube, names in of_tube.items() if tube) == sorted(known[name])
    assert name == "planck" or "" not in of_tube


def test_knees_of_the_simons_observatory():
    red = [100, 39, 230, 1500, 17000, 31000]  # uK^2 s at l = 1000, arXiv:1808.07445, table 2
    white = np.square([48, 24, 5.4, 6.7, 15, 36])
    for band, r, w in zip(shipped("so_lat").bands, red, white, strict=True):
        assert w * (1000 / band.l_knee_t) ** band.alpha_t == pytest.approx(r, rel=1e-4)


def test_bands_are_chosen_by_name_and_keep_their_order():
    assert [band.name for band in shipped("planck", [353, "100", 143]).bands] == ["100", "143", "353"]
    assert shipped("planck").band("217") == shipped("planck").bands[5]
    for names, word in ((["100", "150"], "has no band 150; it has 30, 44"), ([], "no band of")):
        with pytest.raises(ValueError, match=word):
            shipped("planck", names)


def test_a_band_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BAND.fwhm_arcmin = 5.0


IPAC = """\
|band|center_frequency|        fwhm|
|char|          double|      double|
|    |             GHz|      arcmin|
|null|            null|        null|
   30             28.4         75.0
  857            866.8         20.6
"""


def test_delta_bandpass_table_is_an_instrument(tmp_path):
    (tmp_path / "x_deltabandpass.tbl").write_text(IPAC)
    instrument = read_instrument(tmp_path / "x_deltabandpass.tbl")
    assert instrument.name == "x_deltabandpass"
    quiet = {"width_ghz": 0.0, "noise_t_uk_arcmin": 0.0, "noise_p_uk_arcmin": 0.0, "fields": ("T", "Q", "U")}
    assert instrument.bands == (
        Band(name="30", center_ghz=28.4, fwhm_arcmin=75.0, **quiet),
        Band(name="857", center_ghz=866.8, fwhm_arcmin=20.6, **quiet),
    )


def test_units_of_a_table_are_converted(tmp_path):
    columns = {"name": ["a"], "center_ghz": [0.143] * u.THz, "fwhm_arcmin": [0.5] * u.deg, "noise_t_uk_arcmin": [0.06]}
    table = Table(columns)
    table["noise_t_uk_arcmin"].unit = u.mK * u.arcmin
    table.write(tmp_path / "x.ecsv")
    (band,) = read_instrument(tmp_path / "x.ecsv").bands
    assert (band.center_ghz, band.fwhm_arcmin) == (pytest.approx(143), pytest.approx(30))
    assert band.noise_t_uk_arcmin == pytest.approx(60)


GOOD = {"name": ["a", "b"], "center_ghz": [100.0, 143.0], "fwhm_arcmin": [10.0, 7.0]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fwhm_arcmin": None}, "has no column fwhm_arcmin"),
        ({"fwhm": [1.0, 2.0]}, "a column fwhm, which no band has"),
        ({"name": ["a", "a"]}, "the band a more than once"),
        *(
            ({"name": ["a", name]}, "part of names of files")
            for name in ("x/../../y", "..", "{split}", "a*", "a\nb", "ü")
        ),
        ({"fwhm_arcmin": [10.0, -7.0]}, "band b: fwhm_arcmin = -7.0"),
        ({"center_ghz": [np.nan, 143.0]}, "band a: center_ghz = nan"),
        ({"width_ghz": [10.0, 300.0]}, "band b: 143.0 GHz with a width of 300.0"),
        ({"fields": ["TQU", "QU"]}, "band b: fields are T or TQU, not QU"),
        ({"l_knee_p": [0.0, 50.0]}, "band b: noise with a knee needs an alpha below 0"),
        ({"center_ghz": ["x", "y"]}, "no numbers that fit in its column center_ghz"),
    ],
)
def test_refuses_a_table_that_makes_no_sense(tmp_path, change, word):
    columns = {k: v for k, v in (GOOD | change).items() if v is not None}
    Table(columns).write(tmp_path / "x.ecsv")
    with pytest.raises(ValueError, match=word):
        read_instrument(tmp_path / "x.ecsv")


def test_refuses_a_file_that_is_no_table(tmp_path):
    with pytest.raises(ValueError, match="there is no table"):
        read_instrument(tmp_path / "x.ecsv")
    for name in ("x.ecsv", "x.tbl"):
        (tmp_path / name).write_text("<html>not found</html>\n")
        with pytest.raises(ValueError, match="cannot be read as a table"):
            read_instrument(tmp_path / name)


def test_single_frequency_and_top_hat():
    freqs, weights = bandpass(BAND)
    assert (freqs.tolist(), weights.tolist()) == ([143.0], [1.0])
    freqs, weights = bandpass(dataclasses.replace(BAND, width_ghz=40.0))
    assert (freqs[0], freqs[-1]) == (123.0, 163.0)
    assert np.ptp(weights) == 0
    fine = bandpass(dataclasses.replace(BAND, width_ghz=40.0), points=401)
    assert conversion("uK_RJ", "uK_CMB", freqs, weights) == pytest.approx(
        conversion("uK_RJ", "uK_CMB", *fine), rel=1e-3
    )
    dust = [np.trapezoid(w * f**3.5, f) for f, w in ((freqs, weights), fine)]
    assert dust[0] == pytest.approx(dust[1], rel=1e-3)


FREQS, RESPONSE = np.array([90.0, 95.0, 105.0, 108.0]), np.array([0.2, 1.0, 0.9, 0.1])


def _text(folder):
    np.savetxt(folder / "b.txt", np.transpose([FREQS, RESPONSE]), header="nu response")
    return "b.txt"


def _ecsv(folder):
    Table({"nu": FREQS * 1e9 * u.Hz, "response": RESPONSE}).write(folder / "b.ecsv")
    return "b.ecsv"


def _ipac(folder):
    Table({"bandpass_frequency": FREQS * u.GHz, "bandpass_weight": RESPONSE}).write(
        folder / "b.tbl", format="ascii.ipac"
    )
    return "b.tbl"


def _fits(folder):
    wavenumber = (FREQS * u.GHz).to(1 / u.cm, u.spectral())
    Table({"WAVENUMBER": wavenumber, "TRANSMISSION": RESPONSE}).write(folder / "b.fits")
    return "b.fits"


@pytest.mark.parametrize("write", [_text, _ecsv, _ipac, _fits])
def test_bandpass_of_a_file(tmp_path, write):
    freqs, weights = bandpass(dataclasses.replace(BAND, bandpass=write(tmp_path)), tmp_path)
    np.testing.assert_allclose(freqs, FREQS, rtol=1e-12)
    np.testing.assert_allclose(weights, RESPONSE, rtol=1e-12)


def test_intensity_of_a_published_map(tmp_path):
    """At the centre of a spectrum that falls as 1 / nu (IRAS): its own map over its own brightness in the band.

    A blackbody of 2.7255 K and one of 2.7265 K differ by 1 mK_CMB, to 1e-3 of it.
    """
    freqs = np.linspace(600, 1100, 501)
    response = np.exp(-(((freqs - 840) / 90) ** 2))
    np.savetxt(tmp_path / "b.txt", np.transpose([freqs, response]))
    band = dataclasses.replace(BAND, center_ghz=857.0, bandpass="b.txt")
    both = [BlackBody(t * u.K)(freqs * u.GHz).to_value(u.MJy / u.sr) for t in (2.7255, 2.7265)]
    per_k = np.trapezoid(response * (both[1] - both[0]), freqs) / np.trapezoid(response * 857 / freqs, freqs) / 1e-3
    assert intensity_factor(band, tmp_path) == pytest.approx(per_k, rel=5e-3)  # at x = 15 the second order is 3e-3
    assert intensity_factor(dataclasses.replace(band, mjy_sr_per_k_cmb=2.27), tmp_path) == 2.27
    assert intensity_factor(dataclasses.replace(BAND, width_ghz=40.0)) == pytest.approx(384, rel=0.05)
    assert intensity_factor(BAND) is None


def test_pysm_reads_a_bandpass_as_we_do():
    # A flat spectrum in Jy/sr, seen by the band, must come out as the same Jy/sr: that is what weights of power mean.
    flat = [conversion("Jy/sr", "uK_RJ", f) for f in FREQS]
    weights = pysm3.normalize_weights(FREQS, RESPONSE)
    seen = np.trapezoid(weights * flat, FREQS)
    assert seen == pytest.approx(conversion("Jy/sr", "uK_RJ", FREQS, RESPONSE), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("# f w\n100 1\n90 1\n", "rising positive frequencies"),
        ("# f w\n90 0\n100 0\n", "no positive response"),
        ("# f\n90\n100\n", "needs two columns"),
        ("", "cannot be read"),
    ],
)
def test_refuses_a_bandpass_that_is_none(tmp_path, text, word):
    (tmp_path / "b.txt").write_text(text)
    with pytest.raises(ValueError, match=word):
        bandpass(dataclasses.replace(BAND, bandpass="b.txt"), tmp_path)


def test_beam_is_the_files_where_there_is_one(tmp_path):
    np.testing.assert_array_equal(beam(BAND, 50), gaussian_beam(7.2, 50))
    np.savetxt(tmp_path / "b.txt", gaussian_beam(90, 80))
    np.testing.assert_allclose(
        beam(dataclasses.replace(BAND, beam="b.txt"), 50, tmp_path), gaussian_beam(90, 50), rtol=1e-12
    )
