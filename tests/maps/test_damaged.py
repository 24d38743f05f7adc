"""Headers that contradict the pixels or themselves, columns of other things than numbers, and broken files."""

from contextlib import suppress

import numpy as np
import pytest
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.describe import describe
from cmbml.maps.skymap import SkyMap, read_skymap, write_skymap
from tests.maps.test_fitsfile import NPIX, READERS, positive, written

RING = {"ORDERING": "RING"}


@pytest.fixture(params=READERS)
def reader(request):
    """Name of a column, and what reads it from a file."""
    return READERS[request.param]


def refused(read, path, message):
    """One sentence, without a traceback, that names the file."""
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert ". " not in str(caught.value), "more than one sentence"


def unit(name):
    return "uK_CMB^2" if name == "II_COV" else "uK_CMB"


def raw(path, name, column, **header):
    """Write a column as astropy has it."""
    table = fits.BinTableHDU.from_columns([fits.Column(name=name, unit=unit(name), **column)])
    table.header.update(RING | header)
    table.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"NSIDE": 16}, "has 768 pixels, which is nside 8, and says NSIDE=16"),
        ({"NSIDE": 4}, "has 768 pixels, which is nside 8, and says NSIDE=4"),
        ({"NSIDE": "abc"}, "says NSIDE=abc, which is no power of two from 1 to 8192"),
        ({"NSIDE": 12}, "says NSIDE=12, which is no power of two"),
        ({"NSIDE": 2**29}, "says NSIDE=536870912, which is no power of two from 1 to 8192"),
        ({"NSIDE": "inf"}, "says NSIDE=inf, which is no power of two"),
        ({"NSIDE": "nan"}, "says NSIDE=nan, which is no power of two"),
        ({"NSIDE": True}, "says NSIDE=True, which is no power of two"),
        ({"FIRSTPIX": 768, "LASTPIX": 1535}, "says that they are those from 768 to 1535"),
        ({"FIRSTPIX": 0, "LASTPIX": 191}, "says that they are those from 0 to 191"),
        ({"LASTPIX": 3071}, "says that they are those from 0 to 3071"),
        ({"LASTPIX": "all"}, "says LASTPIX=all, which is no number"),
    ],
)
def test_a_header_that_contradicts_the_pixels_is_refused(tmp_path, reader, header, message):
    name, read = reader
    refused(read, written(tmp_path / "x.fits", {name: positive()}, **RING, **header), message)


@pytest.mark.parametrize("header", [{"NSIDE": 8}, {"NSIDE": "8"}, {"FIRSTPIX": 0, "LASTPIX": 767}, {"LASTPIX": 767}])
def test_a_header_that_agrees_with_the_pixels_is_not(tmp_path, reader, header):
    name, read = reader
    np.testing.assert_allclose(read(written(tmp_path / "x.fits", {name: positive()}, **RING, **header)), positive())


@pytest.mark.parametrize("scheme", [{}, {"INDXSCHM": "EXPLICIT"}, {"OBJECT": "FULLSKY"}, {"INDXSCHM": "unknown"}])
def test_a_column_of_pixels_is_obeyed_whatever_the_scheme(tmp_path, reader, scheme):
    name, read = reader
    order = np.random.default_rng(0).permutation(NPIX)
    columns = {"Pixel": order.astype("i4"), name: positive()[order]}
    np.testing.assert_allclose(read(written(tmp_path / "x.fits", columns, NSIDE=8, **RING, **scheme)), positive())


def test_a_column_of_pixels_and_an_implicit_scheme_is_refused(tmp_path, reader):
    name, read = reader
    columns = {"PIXEL": np.arange(NPIX, dtype="i4"), name: positive()}
    path = written(tmp_path / "x.fits", columns, NSIDE=8, INDXSCHM="IMPLICIT", **RING)
    refused(read, path, "has a column PIXEL, and says that its rows are all pixels")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"format": "4A", "array": np.full(NPIX, "1.0")}, "holds texts in the column"),
        ({"format": "C", "array": positive().astype("c8")}, "holds complex numbers in the column"),
        ({"format": "PE()", "array": np.array([np.ones(2)] * NPIX, dtype=object)}, "holds lists of any length"),
        ({"format": "E", "array": np.ones(0)}, "has no pixels in the column"),
        ({"format": "E", "array": np.ones(108)}, "has 108 pixels, whose nside of 3 is no power of two"),
    ],
)
@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_columns_that_hold_no_sky_are_refused(tmp_path, reader, column, message, ordering):
    name, read = reader
    refused(read, raw(tmp_path / "x.fits", name, column, ORDERING=ordering), message)


def test_truths_are_a_mask_and_no_map(tmp_path):
    column = {"format": "L", "array": positive() > 0.5}
    name, read = READERS["mask"]
    np.testing.assert_array_equal(read(raw(tmp_path / "x.fits", name, column)), positive() > 0.5)
    name, read = READERS["map"]
    refused(read, raw(tmp_path / "x.fits", name, column), "holds true or false in the column T")


@pytest.mark.parametrize(
    ("form", "pixels", "message"),
    [
        ("2A", ["0", "1", "2"], "holds texts in the column PIXEL"),
        ("E", [0, 1, np.nan], "does not list each pixel once"),
        ("E", [0, 1, np.inf], "does not list each pixel once"),
        ("E", [0, 1, 1.5], "does not list each pixel once"),
    ],
)
def test_pixels_are_whole_numbers(tmp_path, reader, form, pixels, message):
    name, read = reader
    listing = fits.Column(name="PIXEL", format=form, array=np.array(pixels))
    values = fits.Column(name=name, format="E", array=np.ones(3), unit=unit(name))
    table = fits.BinTableHDU.from_columns([listing, values])
    table.header.update(RING | {"NSIDE": 8})
    table.writeto(tmp_path / "x.fits")
    refused(read, tmp_path / "x.fits", message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"TFIELDS =                    1", b"TFIELDS =                  'a'"),
        (b"TFIELDS =                    1", b"TFIELDS =                    7"),
        (b"TFIELDS =                    1", b"TFIELDS =                    0"),
        (b"TFORM1  = 'E       '", b"TFORM1  = '9999999Z'"),
        (b"TTYPE1  =", b"XTYPE1  ="),
        (b"TFORM1  = 'E       '", b"XFORM1  = 'E       '"),
        (b"NAXIS1  =                    4", b"XAXIS1  =                    4"),
        (b"NAXIS2  =                  768", b"NAXIS2  =  9223372036854775807"),
        (b"NAXIS2  =                  768", b"NAXIS2  =                 -768"),
        (b"NAXIS   =                    2", b"NAXIS   =                   -2"),
        (b"BITPIX  =                    8", b"BITPIX  =                   77"),
        (b"PCOUNT  =                    0", b"PCOUNT  =                 'no'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_are_a_sentence_or_do_no_harm(tmp_path, reader, old, new):
    name, read = reader
    path = written(tmp_path / "x.fits", {name: positive()}, **RING)
    whole = path.read_bytes()
    assert old in whole[2880:]
    path.write_bytes(whole[:2880] + whole[2880:].replace(old, new, 1))
    with suppress(UserError):
        np.testing.assert_allclose(read(path), positive())
    with suppress(UserError):
        describe(path, ["uK_CMB"])


@pytest.mark.parametrize(
    ("key", "value"), [("FWHM", "wide"), ("LMAX", "inf"), ("LMAX", "nan"), ("NSIDE", "abc"), ("NSIDE", 16)]
)
def test_our_own_maps_say_numbers(tmp_path, key, value):
    path = tmp_path / "x.fits"
    write_skymap(path, SkyMap(np.ones((1, NPIX)), ("T",), "uK_CMB", 0.0, 2))
    fits.setval(path, key, value=value, ext=1)
    refused(read_skymap, path, f"says {key}={value}")
