"""Maps on disk say what they are, and other tools can read them."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap, read_skymap, write_skymap

NSIDE = 8


@pytest.fixture
def sky():
    data = np.random.default_rng(0).standard_normal((2, 12 * NSIDE**2))
    return SkyMap(data, ("T", "E"), "uK_CMB", 5.0, 20, "a note")


def test_round_trip_is_exact_in_single_precision(tmp_path, sky):
    write_skymap(tmp_path / "m.fits", sky)
    back = read_skymap(tmp_path / "m.fits", nside=NSIDE)
    assert (back.data == sky.data.astype(np.float32)).all()
    assert back.data.dtype == np.float32
    assert (back.fields, back.unit, back.fwhm_arcmin, back.lmax, back.note) == (("T", "E"), "uK_CMB", 5.0, 20, "a note")
    assert (back["E"] == back.data[1]).all()
    assert (back.select(["E", "T"]) == back.data[::-1]).all()
    with pytest.raises(UserError, match="'B' is not among them"):
        back["B"]


def test_healpy_reads_the_same_pixels_and_header(tmp_path, sky):
    write_skymap(tmp_path / "m.fits", sky)
    (first, second), header = hp.read_map(tmp_path / "m.fits", field=(0, 1), h=True, dtype=None)
    assert (first == sky.data[0].astype(np.float32)).all()
    assert (second == sky.data[1].astype(np.float32)).all()
    header = dict(header)
    assert [header[k] for k in ("ORDERING", "COORDSYS", "TUNIT1", "TTYPE2", "NSIDE")] == ["RING", "G", "uK_CMB", "E", 8]


def test_same_map_same_bytes(tmp_path, sky):
    for name in "ab":
        write_skymap(tmp_path / f"{name}.fits", sky)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ORDERING": "NESTED"}, "ordering is 'NESTED'; RING is needed"),
        ({"TUNIT1": ""}, "no unit"),
        ({"FWHM": None}, "lacks FWHM"),
        ({"LMAX": None}, "lacks LMAX"),
    ],
)
def test_maps_that_do_not_say_what_they_are_are_refused(tmp_path, sky, change, message):
    path = tmp_path / "m.fits"
    write_skymap(path, sky)
    with fits.open(path, mode="update") as hdus:
        for key, value in change.items():
            if value is None:
                del hdus[1].header[key]
            else:
                hdus[1].header[key] = value
    with pytest.raises(UserError, match=message):
        read_skymap(path)


def test_wrong_nside_bad_pixels_and_broken_files_are_refused(tmp_path, sky):
    path = tmp_path / "m.fits"
    write_skymap(path, sky)
    with pytest.raises(UserError, match="nside is 8 where 16 is needed"):
        read_skymap(path, nside=16)
    with pytest.raises(ValueError, match="non-finite"):
        write_skymap(path, SkyMap(np.full((1, 12), np.nan), ("T",), "uK_CMB", 0.0, 2))
    unseen = SkyMap(np.full((1, 12), hp.UNSEEN), ("T",), "uK_CMB", 0.0, 2)
    write_skymap(path, unseen)
    with pytest.raises(UserError, match="UNSEEN"):
        read_skymap(path)
    path.write_bytes(b"<html>not a map</html>")
    with pytest.raises(UserError, match="cannot be read as a FITS file"):
        read_skymap(path)
