"""What headers and columns of HEALPix files mean: alike in maps, masks and variances, wherever it is said."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.fitsfile import squared_unit_named, unit_named
from cmbml.maps.foreign import read_map
from cmbml.maps.mask import read_mask
from cmbml.maps.skymap import SkyMap, read_skymap, write_skymap
from cmbml.maps.variance import read_variance

NSIDE = 8
NPIX = 12 * NSIDE**2
KEYS = {"unit_key": "the unit", "fields_key": "the fields"}


def positive() -> np.ndarray:
    """One column that may be a map, a mask and a variance: between 0 and 1; its index is its order."""
    return (np.arange(NPIX, dtype=np.float32) + 1) / (NPIX + 1)


def written(path, columns, *, primary=None, **header):
    """Write columns as they are, with headers of the table and of the file."""
    units = {"T": "uK_CMB", "U": "uK_CMB", "II_COV": "uK_CMB^2", "QU_COV": "uK_CMB^2"}
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format={"f": "E", "i": "J"}[values.dtype.kind], array=values, unit=units.get(name))
            for name, values in columns.items()
        ]
    )
    table.header.update(header)
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    fits.HDUList([first, table]).writeto(path, overwrite=True)
    return path


def temperature(path, mask=None):
    return read_map(path, NSIDE, "T", {"uK_CMB": 1.0}, mask=mask, **KEYS)[0][0]


READERS = {
    "map": ("T", temperature),
    "mask": ("M", lambda path: read_mask(path, NSIDE)),
    "variance": ("II_COV", lambda path: read_variance(path, NSIDE)[0]),
}


@pytest.fixture(params=READERS)
def reader(request):
    """Name of a column, and what reads it from a file."""
    return READERS[request.param]


@pytest.mark.parametrize("word", ["NESTED", "NEST", "nested "])
@pytest.mark.parametrize("where", ["table", "primary"])
def test_ordering_counts_in_either_header(tmp_path, reader, word, where):
    name, read = reader
    headers = {"primary": {"ORDERING": word}, "ORDERING": " "} if where == "primary" else {"ORDERING": word}
    path = written(tmp_path / "x.fits", {name: positive()}, **headers)
    np.testing.assert_allclose(read(path), positive()[hp.ring2nest(NSIDE, np.arange(NPIX))], rtol=1e-12)


@pytest.mark.parametrize("word", ["C", "ECLIPTIC", "EQUATORIAL"])
@pytest.mark.parametrize("where", ["table", "primary"])
def test_other_coordinates_are_refused_in_either_header(tmp_path, reader, word, where):
    name, read = reader
    headers = {"primary": {"COORDSYS": word}} if where == "primary" else {"COORDSYS": word}
    path = written(tmp_path / "x.fits", {name: positive()}, ORDERING="RING", **headers)
    with pytest.raises(UserError, match=f"coordinates '{word}'; rotate it to Galactic"):
        read(path)


@pytest.mark.parametrize("header", [{}, {"COORDSYS": "  "}, {"COORDSYS": "Galactic"}, {"COORDSYS": "g"}])
def test_galactic_or_silent_is_galactic(tmp_path, reader, header):
    name, read = reader
    path = written(tmp_path / "x.fits", {name: positive()}, ORDERING="RING", **header)
    np.testing.assert_allclose(read(path), positive(), rtol=1e-12)


@pytest.mark.parametrize("key", ["mask.coordinates", "method.coordinates"])
def test_a_word_that_is_not_known_is_galactic_where_a_key_says_so(tmp_path, key):
    """Those that are known, and are others, are never."""

    def read(path, given):
        if key == "mask.coordinates":
            return read_mask(path, NSIDE, coordinates=given)
        how = {"unit": "uK_CMB", "unit_key": "", "fields_key": "", "coordinates": given, "coordinates_key": key}
        return read_map(path, NSIDE, ["T"], {"uK_CMB": 1.0}, **how)[0][0]

    path = written(tmp_path / "x.fits", {"T": positive()}, ORDERING="RING", COORDSYS="galaktisch")
    with pytest.raises(UserError, match=f"'GALAKTISCH', which are not known; .* say {key}=G"):
        read(path, None)
    np.testing.assert_allclose(read(path, "G"), positive(), rtol=1e-12)
    with pytest.raises(UserError, match="coordinates 'C'; rotate it to Galactic"):
        read(written(tmp_path / "y.fits", {"T": positive()}, ORDERING="RING", COORDSYS="C"), "G")


def test_the_iau_convention_of_the_primary_header(tmp_path):
    path = written(tmp_path / "x.fits", {"U": positive()}, primary={"POLCCONV": "iau"}, ORDERING="RING")
    np.testing.assert_array_equal(read_map(path, NSIDE, "U", {"uK_CMB": 1.0}, **KEYS)[0][0], -positive())


@pytest.mark.parametrize("nest", [False, True])
def test_a_part_of_the_sky_is_read_by_its_pixels(tmp_path, nest):
    """As healpy writes it; the rows lie in any order."""
    whole = positive()
    whole[5:50] = hp.UNSEEN
    header = {"column_names": ["T"], "column_units": "uK_CMB", "nest": nest, "partial": True}
    hp.write_map(tmp_path / "x.fits", whole, **header)
    with fits.open(tmp_path / "x.fits") as file:
        table = file[1].data
        mixed = np.random.default_rng(0).permutation(len(table))
        columns = {"PIXEL": table["PIXEL"][mixed].astype("i4"), "T": table["T"][mixed].astype("f4")}
        said = {key: file[1].header[key] for key in ("ORDERING", "NSIDE", "INDXSCHM")}
    known = np.where(whole == hp.UNSEEN, 0, whole)
    known = hp.reorder(known, n2r=True) if nest else known
    mask = SkyMap((known > 0)[None].astype(float), ("mask",), "1", 0.0, 2)
    for path in (tmp_path / "x.fits", written(tmp_path / "y.fits", columns, **said)):
        np.testing.assert_array_equal(read_mask(path, NSIDE), known)
        np.testing.assert_array_equal(temperature(path, mask), known)
        with pytest.raises(UserError, match="45 pixels of T that are UNSEEN or NaN, and there is no mask"):
            temperature(path)


@pytest.mark.parametrize("pixels", [[0, 1, 1], [0, 1, NPIX], [-1, 0, 1]])
def test_a_part_of_the_sky_must_say_which(tmp_path, pixels):
    columns = {"PIXEL": np.array(pixels, dtype="i4"), "T": positive()[:3]}
    said = {"ORDERING": "RING", "INDXSCHM": "EXPLICIT"}
    with pytest.raises(UserError, match="does not list each pixel once, from 0 to 767"):
        temperature(written(tmp_path / "x.fits", columns, NSIDE=NSIDE, **said))
    with pytest.raises(UserError, match="no NSIDE"):
        temperature(written(tmp_path / "x.fits", columns, **said))


@pytest.mark.parametrize(
    ("value", "header"),
    [
        (-32768.0, {"BAD_DATA": -32768.0}),
        (-32768.0, {"BAD_DATA": "-3.2768E+04"}),
        (np.float32(1.1e20), {}),
        (-np.float32(1.1e20), {}),
        (-999, {"TNULL1": -999}),
        (-999, {"TNULL1": -999, "TSCAL1": 0.5, "TZERO1": 3.0}),
    ],
)
def test_other_marks_of_a_pixel_without_a_value(tmp_path, value, header):
    """Integers too, scaled or not, whose TNULL is the number that is stored."""
    whole = np.arange(NPIX, dtype="i4" if isinstance(value, int) else "f4")
    whole[7] = value
    path = written(tmp_path / "x.fits", {"T": whole}, ORDERING="RING", **header)
    with pytest.raises(UserError, match="1 pixels of T that are UNSEEN or NaN"):
        temperature(path)
    mask = SkyMap((np.arange(NPIX) != 7)[None].astype(float), ("mask",), "1", 0.0, 2)
    known = np.arange(NPIX) * header.get("TSCAL1", 1) + header.get("TZERO1", 0)
    np.testing.assert_allclose(temperature(path, mask), np.where(np.arange(NPIX) == 7, 0, known), rtol=1e-6)
    path = written(tmp_path / "x.fits", {"M": whole}, ORDERING="RING", **header)
    with pytest.raises(UserError, match="do not lie between 0 and 1"):
        read_mask(path, NSIDE)


def test_bad_variances_are_filled(tmp_path):
    whole = np.ones(NPIX, dtype="f4")
    whole[7] = 0.5
    path = written(tmp_path / "x.fits", {"II_COV": whole}, ORDERING="NESTED", BAD_DATA=0.5)
    np.testing.assert_allclose(read_variance(path, NSIDE)[0], 1)


def test_our_own_maps_obey_the_same_header(tmp_path):
    path = tmp_path / "x.fits"
    for key, value, message in (
        ("COORDSYS", "C", "coordinates 'C'"),
        ("POLCCONV", "IAU", "IAU"),
        ("BAD_DATA", 1.0, "UNSEEN"),
    ):
        write_skymap(path, SkyMap(np.ones((1, NPIX)), ("U",), "uK_CMB", 0.0, 2))
        assert (read_skymap(path)["U"] == 1).all()
        with fits.open(path, mode="update") as file:
            file[1].header[key] = value
        with pytest.raises(UserError, match=message):
            read_skymap(path)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("MJy/sr", "MJy/sr"), ("Mjy/sr", "MJy/sr"), ("MJy sr-1", "MJy/sr"), ("MJy.sr**-1", "MJy/sr"),
        ("MJy sr^(-1)", "MJy/sr"), ("kJy/sr", "kJy/sr"), ("Jy/sr", "Jy/sr"), ("Jy sr-1", "Jy/sr"),
        ("mJy/sr", "mJy/sr"), ("K_CMB", "K_CMB"), ("Kcmb", "K_CMB"), ("KCMB", "K_CMB"), ("K CMB", "K_CMB"),
        ("uK_CMB", "uK_CMB"), ("muK_cmb", "uK_CMB"), ("mK_CMB", "mK_CMB"), ("MK_CMB", "MK_CMB"), ("uK_RJ", "uK_RJ"),
        ("K", None), ("uK", None), ("k_cmb", None), ("UK_CMB", None), ("Jy", None), ("MJy/sr/sr", None), ("", None),
        ("K_CMB^2", None),
    ],
)  # fmt: skip
def test_units_keep_their_case(text, unit):
    assert unit_named(text) == unit
    if unit:
        assert squared_unit_named(f"({text})^2") == squared_unit_named(f"({text})**2") == unit
        assert squared_unit_named(text) is None


def test_squares_with_the_exponent_at_each_part():
    for text in ("MJy2 sr-2", "MJy^2/sr^2", "MJy**2 sr**-2", "MJy2/sr2"):
        assert squared_unit_named(text) == "MJy/sr"
    assert squared_unit_named("Kcmb^2") == squared_unit_named("K_CMB2") == "K_CMB"
    assert squared_unit_named("(mJy/sr)^2") == "mJy/sr"
    for text in ("MJy2/sr", "MJy2 sr-1", "K^2", "K2", ""):
        assert squared_unit_named(text) is None


def test_small_and_large_units_are_not_mistaken_for_each_other(tmp_path):
    def named(name, unit):
        path = written(tmp_path / "x.fits", {name: positive()}, ORDERING="RING")
        with fits.open(path, mode="update") as file:
            file[1].header["TUNIT1"] = unit
        return path

    known = positive().astype(np.float64)
    factors = {"K_CMB": 1e6, "mK_CMB": 1e3, "MJy/sr": 2.0, "Jy/sr": 2e-6}
    for unit, factor in (("MJy sr-1", 2.0), ("Jy/sr", 2e-6), ("Kcmb", 1e6), ("mK_CMB", 1e3)):
        found = read_map(named("T", unit), NSIDE, "T", factors, **KEYS)[0][0]
        np.testing.assert_allclose(found, factor * known, rtol=1e-12)
        square = read_variance(named("II_COV", f"({unit})^2"), NSIDE, uk_cmb_per_mjy_sr=2.0)[0]
        np.testing.assert_allclose(square, factor**2 * known, rtol=1e-12)
    for unit in ("mJy/sr", "MK_CMB"):
        with pytest.raises(UserError, match=f"has the unit '{unit}'"):
            read_map(named("T", unit), NSIDE, "T", factors, **KEYS)
        with pytest.raises(UserError, match="has the unit"):
            read_variance(named("II_COV", f"({unit})^2"), NSIDE, uk_cmb_per_mjy_sr=2.0)
