"""Beams beside the Gaussian profile that their name promises, and beside the files they were written to."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.special import eval_legendre

from cmbml.sky.beams import beam_table, gaussian_beam


def test_half_maximum_is_at_half_the_width():
    fwhm_arcmin, lmax = 60.0, 1200
    ell = np.arange(lmax + 1)
    profile = (2 * ell + 1) * gaussian_beam(fwhm_arcmin, lmax) / (4 * np.pi)
    angle = np.deg2rad(fwhm_arcmin / 60) / 2
    ratio = profile @ eval_legendre(ell, np.cos(angle)) / profile.sum()
    assert abs(ratio - 0.5) < 1e-4  # the sphere's curvature, sigma^2


def test_is_healpys_and_ends():
    np.testing.assert_allclose(gaussian_beam(8.3, 3000), hp.gauss_beam(np.deg2rad(8.3 / 60), lmax=3000), rtol=1e-12)
    np.testing.assert_array_equal(gaussian_beam(0.0, 10), np.ones(11))


def _healpy(path, beam):
    hp.write_cl(path, beam, dtype=np.float64)


def _planck(path, beam):
    Table({"TEMPERATURE": beam, "E": 0 * beam, "B": 0 * beam}).write(path)


def _listed(path, beam):
    Table({"ELL": np.arange(len(beam)), "B_L": beam}).write(path)


def _one_column(path, beam):
    np.savetxt(path, beam, header="b_l")


def _two_columns(path, beam):
    np.savetxt(path, np.transpose([np.arange(len(beam)), beam]), header="l b_l")


WRITERS = [
    ("b.fits", _healpy), ("b.fits", _planck), ("b.fits", _listed), ("b.txt", _one_column), ("b.dat", _two_columns),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[w.__name__ for _, w in WRITERS])
def test_table_is_what_was_written(tmp_path, name, write):
    beam = 1 / (1 + (np.arange(301) / 100.0) ** 2)
    write(tmp_path / name, beam)
    np.testing.assert_allclose(beam_table(tmp_path / name, 250), beam[:251], rtol=1e-12)
    with pytest.raises(ValueError, match="ends at l = 300, below lmax = 301"):
        beam_table(tmp_path / name, 301)


def test_refuses_what_is_no_beam(tmp_path):
    path = tmp_path / "b.txt"
    beam = gaussian_beam(30, 100)
    np.savetxt(path, 2 * beam)
    with pytest.raises(ValueError, match="not normalised: b_0 = 2"):
        beam_table(path, 100)
    np.savetxt(path, np.transpose([np.arange(2, 103), beam]))
    with pytest.raises(ValueError, match="does not list l = 0"):
        beam_table(path, 50)
    np.savetxt(path, np.where(np.arange(101) == 7, np.nan, beam))
    with pytest.raises(ValueError, match="not finite"):
        beam_table(path, 100)
    np.savetxt(path, 1 / beam)
    with pytest.raises(ValueError, match="grows to"):
        beam_table(path, 100)
    pairs = fits.Column(name="B", format="2D", array=np.transpose([beam, beam]))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([pairs])]).writeto(tmp_path / "pairs.fits")
    with pytest.raises(ValueError, match="a row of it holds several values"):
        beam_table(tmp_path / "pairs.fits", 100)
    path.write_text("no beam\n")
    for missing in (path, tmp_path / "nowhere.fits", tmp_path / "nowhere.txt"):
        with pytest.raises(ValueError, match="cannot be read"):
            beam_table(missing, 100)
