"""What two headers, two columns or a name say against each other, and words that nobody knows."""

import numpy as np
import pytest
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import squared_unit_named, unit_named
from cmbml.maps.foreign import read_map
from cmbml.maps.variance import read_variance
from tests.maps.test_damaged import refused
from tests.maps.test_fitsfile import KEYS, NSIDE, READERS, positive, written

RING = {"ORDERING": "RING"}


@pytest.fixture(params=READERS)
def reader(request):
    """Name of a column, and what reads it from a file."""
    return READERS[request.param]


def read(path, field):
    return read_map(path, NSIDE, field, {"uK_CMB": 1.0}, unit="uK_CMB", **KEYS)[0][0]


@pytest.mark.parametrize(
    ("key", "table", "primary"),
    [("ORDERING", "RING", "NESTED"), ("COORDSYS", "G", "C"), ("COORDSYS", "G", "X"), ("NSIDE", 8, 16)],
)
def test_headers_that_contradict_each_other_are_refused(tmp_path, reader, key, table, primary):
    name, read = reader
    path = written(tmp_path / "x.fits", {name: positive()}, primary={key: primary}, **(RING | {key: table}))
    refused(read, path, f"says {key}={table} in the header of the table and {key}={primary} in that of the file")


@pytest.mark.parametrize(("key", "table", "primary"), [("COORDSYS", "G", "galactic"), ("NSIDE", 8, "8")])
def test_headers_that_mean_the_same_are_not(tmp_path, reader, key, table, primary):
    name, read = reader
    path = written(tmp_path / "x.fits", {name: positive()}, primary={key: primary}, **(RING | {key: table}))
    np.testing.assert_allclose(read(path), positive())


@pytest.mark.parametrize("key", ["SKYCOORD", "COORDTYP"])
def test_other_keywords_of_the_coordinates(tmp_path, reader, key):
    name, read = reader
    refused(read, written(tmp_path / "x.fits", {name: positive()}, **{key: "C"}, **RING), "coordinates 'C'; rotate it")
    path = written(tmp_path / "x.fits", {name: positive()}, **{key: "galactic", "COORDSYS": "G"}, **RING)
    np.testing.assert_allclose(read(path), positive())
    path = written(tmp_path / "x.fits", {name: positive()}, **{key: "C", "COORDSYS": "G"}, **RING)
    refused(read, path, f"says COORDSYS=G and {key}=C in the header of the table; make them alike")
    path = written(tmp_path / "x.fits", {name: positive()}, primary={"COORDSYS": "G"}, **{key: "C"}, **RING)
    refused(read, path, f"says COORDSYS=G in the header of the file and {key}=C in that of the table; make them alike")


def test_the_sign_of_u_is_known_or_refused(tmp_path):
    path = tmp_path / "x.fits"
    for header, sign in (({"POLCONV": "IAU"}, -1), ({"POLCONV": "COSMO"}, 1), ({"POLCCONV": " "}, 1)):
        np.testing.assert_array_equal(read(written(path, {"U": positive()}, **header, **RING), "U"), sign * positive())
    written(path, {"U": positive()}, POLCCONV="left", **RING)
    refused(lambda path: read(path, "U"), path, "the sign of U of 'LEFT', which is not known; write COSMO or IAU")
    written(path, {"U": positive()}, POLCCONV="COSMO", POLCONV="IAU", **RING)
    refused(lambda path: read(path, "U"), path, "says POLCCONV=COSMO and POLCONV=IAU in the header of the table; make")
    written(path, {"U": positive()}, POLCCONV="IAU", primary={"POLCCONV": "COSMO"}, **RING)
    refused(lambda path: read(path, "U"), path, "says POLCCONV=IAU in the header of the table and POLCCONV=COSMO")


@pytest.mark.parametrize("name", ["I_STOKES", "Q", "U-POLARISATION", "B", "HITS", "N_OBS", "II_COV"])
def test_a_single_column_of_something_else_is_no_field(tmp_path, name):
    path = written(tmp_path / "x.fits", {name: positive()}, **RING)
    refused(lambda path: read(path, "E"), path, f"has no column for the field E, it has {name}; rename one to E")


@pytest.mark.parametrize("name", ["E", "PREDICTION", "T", "TEMPERATURE", "signal"])
def test_a_single_column_of_a_name_that_tells_nothing_is_one(tmp_path, name):
    np.testing.assert_array_equal(read(written(tmp_path / "x.fits", {name: positive()}, **RING), "E"), positive())


@pytest.mark.parametrize("names", [("T", "I_STOKES"), ("T", "t")])
def test_two_columns_of_a_field_are_refused(tmp_path, names):
    path = written(tmp_path / "x.fits", dict.fromkeys(names, positive()), **RING)
    refused(lambda path: read(path, "T"), path, f"names T twice, as {names[0]} and {names[1]}")


def test_squares_before_the_index_and_without_brackets(tmp_path):
    for text in ("uK^2_CMB", "uK2_CMB", "uK**2_CMB", "uK_CMB^2", "(uK_CMB)^2", "muK_CMB**2", "uK_CMB2"):
        assert squared_unit_named(text) == "uK_CMB"
    assert squared_unit_named("K^2_CMB") == "K_CMB"
    for text in ("MJy/sr^2", "MJy sr-1^2", "MJy sr^2", "(K_CMB^2", "K_CMB)^2", "(MJy/sr^2", "MJy/sr)^2", "uK2_CMB2"):
        assert squared_unit_named(text) is None
    assert unit_named("MJy sr^(-1)") == "MJy/sr"
    assert unit_named("MJy sr^(-1") is None
    path = written(tmp_path / "x.fits", {"II_COV": positive()}, **RING)
    fits.setval(path, "TUNIT1", value="MJy/sr^2", ext=1)
    read = lambda path: read_variance(path, NSIDE, uk_cmb_per_mjy_sr=2.0)  # noqa: E731
    refused(read, path, r"has the unit 'MJy/sr\^2' in the column II_COV; \(K_CMB\)\^2 or \(MJy/sr\)\^2 is needed")


@pytest.mark.parametrize(
    "word", ["EQUATORIAL J2000", "FK4", "B1950", "C2000", "EQ", "ECLIPTIC (J2000)", "SUPERGALACTIC"]
)
def test_coordinates_that_are_known_are_no_matter_of_opinion(tmp_path, word):
    """With an epoch or without: that a user says they are Galactic does not make them so."""
    path = written(tmp_path / "x.fits", {"T": positive()}, COORDSYS=word, **RING)
    with pytest.raises(UserError, match="rotate it to Galactic"):
        read_map(path, NSIDE, ["T"], {"uK_CMB": 1.0}, unit="uK_CMB", coordinates="G", **KEYS)
