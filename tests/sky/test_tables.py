"""Many tables in one file, units, empty cells and bands of several tubes: each works, or is told how to choose."""

import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from cmbml.sky.beams import beam_table, gaussian_beam
from cmbml.sky.instrument import Band, bandpass, beam, files, read_instrument

BAND = Band("143", 143.0, 0.0, 7.2, 33.0, 70.2, ("T", "Q", "U"))
FREQS = {"100": np.array([0.0, 85.0, 100.0, 115.0]), "143": np.array([0.0, 120.0, 143.0, 165.0])}
RESPONSE = {"100": np.array([0.0, 0.3, 1.0, 0.2]), "143": np.array([0.0, 0.1, 0.9, 0.4])}


def rimo(path, names):
    """Write a file as Planck's instrument model: wave numbers from 0 on, one extension a band after one of maps."""
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"FREQUENCY": ["100", "143"]}), name="MAP_PARAMS")]
    for band, name in names:
        wavenumber = (FREQS[band] * u.GHz / 299792458e2 / (u.Hz * u.cm)).to(1 / u.cm)
        hdus.append(fits.BinTableHDU(Table({"WAVENUMBER": wavenumber, "TRANSMISSION": RESPONSE[band]}), name=name))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (("BANDPASS_F100", "BANDPASS_F143"), "rimo.fits"),  # HFI
        (("BANDPASS_0100", "BANDPASS_0143"), "rimo.fits"),  # LFI
        (("100", "143"), "rimo.fits"),
        (("A", "B"), "rimo.fits[b]"),
        (("BANDPASS_F143", "OTHER_F143"), "rimo.fits[OTHER_F143]"),
    ],
)
def test_a_bandpass_of_many_is_the_one_of_the_band(tmp_path, names, asked):
    rimo(tmp_path / "rimo.fits", zip(("100", "143"), names, strict=True))
    freqs, response = bandpass(dataclasses.replace(BAND, bandpass=asked), tmp_path)
    np.testing.assert_allclose(freqs, FREQS["143"][1:], rtol=1e-12)
    np.testing.assert_array_equal(response, RESPONSE["143"][1:])
    assert files(dataclasses.replace(BAND, bandpass=asked), tmp_path) == {"bandpass": tmp_path / "rimo.fits"}


@pytest.mark.parametrize(
    ("names", "asked", "word"),
    [
        (
            ("A", "B"),
            "rimo.fits",
            r"3 tables, none of them .* band 143; say which, as in rimo.fits\[MAP_PARAMS\], of M",
        ),
        (("F143", "X_143"), "rimo.fits", r"3 tables, 2 of them named after the band 143; say which"),
        (("F1143", "X_43"), "rimo.fits", r"3 tables, none of them"),
        (("A", "B"), "rimo.fits[C]", r"none of its tables called C; say which.* of MAP_PARAMS, A, B"),
        (("A", "B"), "other.fits[B]", r"there is no table .*other.fits$"),
        (("A", "B"), "b.txt[B]", r"there is no table"),
    ],
)
def test_a_bandpass_that_is_not_told_is_refused(tmp_path, names, asked, word):
    rimo(tmp_path / "rimo.fits", zip(("100", "143"), names, strict=True))
    (tmp_path / "b.txt").write_text("100 1\n143 1\n")
    with pytest.raises(ValueError, match=word):
        bandpass(dataclasses.replace(BAND, bandpass=asked), tmp_path)


def test_a_beam_of_many_is_the_one_of_the_band(tmp_path):
    beams = {"F100": gaussian_beam(60, 80), "F143": gaussian_beam(90, 80)}
    hdus = [fits.BinTableHDU(Table({"TEMPERATURE": b}), name=f"BEAM_{name}") for name, b in beams.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "b.fits")
    for name in ("b.fits", "b.fits[BEAM_F143]"):
        found = beam(dataclasses.replace(BAND, beam=name), 50, tmp_path)
        np.testing.assert_array_equal(found, beams["F143"][:51])
    np.testing.assert_array_equal(beam_table(tmp_path / "b.fits[BEAM_F100]", 50), beams["F100"][:51])
    with pytest.raises(ValueError, match=r"2 tables, none of them .*say which, as in b.fits\[BEAM_F100\]"):
        beam_table(tmp_path / "b.fits", 50)


def test_a_file_may_have_brackets_in_its_name(tmp_path):
    rimo(tmp_path / "a[b].fits", [("143", "F143")])
    rimo(tmp_path / "a.fits[b]", [("143", "F143")])
    for name in ("a[b].fits", "a.fits[b]"):
        freqs, _ = bandpass(dataclasses.replace(BAND, bandpass=name), tmp_path)
        np.testing.assert_allclose(freqs, FREQS["143"][1:], rtol=1e-12)


@pytest.mark.parametrize(("scale", "says"), [(1e9, r"1.457e\+11"), (1 / 29.9792458, "4.861")])
def test_frequencies_that_are_no_gigahertz_want_their_unit(tmp_path, scale, says):
    """In Hz, or as wave numbers in 1/cm: right with the unit, refused without."""
    freqs = FREQS["143"][1:] * scale
    response = RESPONSE["143"][1:]
    np.savetxt(tmp_path / "b.txt", np.transpose([freqs, response]))
    with pytest.raises(ValueError, match=f"mean at {says} GHz .*no unit.* band 143 is at 143; write .* in GHz"):
        bandpass(dataclasses.replace(BAND, bandpass="b.txt"), tmp_path)
    Table({"f": freqs * (u.Hz if scale > 1 else 1 / u.cm), "response": response}).write(tmp_path / "b.ecsv")
    found, _ = bandpass(dataclasses.replace(BAND, bandpass="b.ecsv"), tmp_path)
    np.testing.assert_allclose(found, FREQS["143"][1:], rtol=1e-9)


def table(path, **columns):
    bands = {"name": ["93", "145"], "center_ghz": [93.0, 145.0], "fwhm_arcmin": [30.0, 20.0]}
    Table(bands | columns).write(path)
    return path


def test_an_empty_cell_is_no_file(tmp_path):
    cells = {name: MaskedColumn(["x.fits", ""], mask=[False, True]) for name in ("beam", "bandpass")}
    factor = MaskedColumn([244.1, np.nan], mask=[False, True])
    path = table(tmp_path / "x.ecsv", **cells, mjy_sr_per_k_cmb=factor)
    first, second = read_instrument(path).bands
    assert (first.beam, first.bandpass, first.mjy_sr_per_k_cmb) == ("x.fits", "x.fits", 244.1)
    assert (second.beam, second.bandpass, second.mjy_sr_per_k_cmb) == ("", "", 0.0)
    np.testing.assert_array_equal(beam(second, 30), gaussian_beam(20.0, 30))
    width = MaskedColumn([10.0, 10.0], mask=[False, True])
    with pytest.raises(ValueError, match="an empty cell in its column width_ghz"):
        read_instrument(table(tmp_path / "y.ecsv", width_ghz=width))


def test_a_band_of_several_tubes(tmp_path):
    """Its rows are told apart by their tubes, or by names of their own; a band of one tube keeps its name."""
    columns = {"name": ["93", "93", "145"], "center_ghz": [93.0, 94.0, 145.0], "fwhm_arcmin": [30.0, 29.0, 20.0]}
    Table(columns | {"tube": ["i1", "i3", "i1"]}).write(tmp_path / "x.ecsv")
    bands = read_instrument(tmp_path / "x.ecsv", bands=["93_i3", "145"]).bands
    assert [(band.name, band.center_ghz, band.tube) for band in bands] == [("93_i3", 94.0, "i3"), ("145", 145.0, "i1")]
    with pytest.raises(ValueError, match="has no band 93; it has 93_i1, 93_i3, 145"):
        read_instrument(tmp_path / "x.ecsv", bands=["93"])
    for i, more in enumerate(({}, {"tube": ["i1", "i1", "i3"]})):
        Table(columns | more).write(tmp_path / f"{i}.ecsv")
        with pytest.raises(
            ValueError, match=r"the band 93(_i1)? more than once; give each row a name of its own, as 93"
        ):
            read_instrument(tmp_path / f"{i}.ecsv")
