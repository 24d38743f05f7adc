"""Variances of frequency maps, from files in the forms in which Planck publishes them."""

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from cmbml.core.errors import UserError
from cmbml.maps.variance import read_variance
from cmbml.sims.noise import Variance

NSIDE = 16
NPIX = 12 * NSIDE**2
COLUMNS = ("I_STOKES", "Q_STOKES", "U_STOKES", "HITS", "II_COV", "IQ_COV", "IU_COV", "QQ_COV", "QU_COV", "UU_COV")


@pytest.fixture
def values():
    """Columns of a polarised map in RING order, K_CMB and K_CMB^2; the variances are lognormal."""
    rng = np.random.default_rng(0)
    table = {name: rng.normal(0, 1e-4, NPIX) for name in COLUMNS}
    return table | {f"{x}{x}_COV": 1e-10 * np.exp(rng.normal(0, 0.5, NPIX)) for x in "IQU"}


def written(path, table, *, unit="Kcmb^2", ordering="NESTED", rows=1, **header):
    """Write columns given in RING order; ``rows`` > 1 puts that many pixels into a row of the table."""
    columns = []
    for name, column in table.items():
        data = hp.reorder(column, r2n=True) if ordering == "NESTED" else column
        form = f"{rows}E" if rows > 1 else "E"
        data = data.astype(np.float32).reshape(-1, rows) if rows > 1 else data.astype(np.float32)
        columns.append(
            fits.Column(name=name, format=form, array=data, unit=unit if name.upper().endswith("COV") else "Kcmb")
        )
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update({"PIXTYPE": "HEALPIX", "ORDERING": ordering, "COORDSYS": "GALACTIC", "NSIDE": NSIDE, **header})
    hdu.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize(("ordering", "rows", "unit"), [("NESTED", 1, "Kcmb^2"), ("RING", 1024, "(K_CMB)^2")])
def test_columns_are_found_and_degraded(tmp_path, values, ordering, rows, unit):
    """Beside healpy's own reader and the variance of the mean of 16 pixels, sum / 16^2."""
    path = written(tmp_path / "map.fits", values, unit=unit, ordering=ordering, rows=rows)
    found = read_variance(path, 4, ("T", "Q", "U"))
    for row, field in zip(found, (4, 7, 9), strict=True):
        nested = hp.read_map(path, field=field, nest=True, dtype=np.float64)
        mean = 1e12 * nested.reshape(-1, 16).sum(axis=1) / 16**2
        np.testing.assert_allclose(row, hp.reorder(mean, n2r=True), rtol=1e-12)
    same = read_variance(path, NSIDE)
    np.testing.assert_allclose(same, 1e12 * values["II_COV"].astype(np.float32).astype(np.float64)[None], rtol=1e-12)


def test_units(tmp_path, values):
    path, column = tmp_path / "map.fits", {"II_COV": 1e10 * values["II_COV"]}
    microkelvin = read_variance(written(path, column, unit="(uK_CMB)^2"), 8)
    for unit, factor in (("mK_CMB^2", 1e6), ("(Mjy/sr)^2", 17.0**2), ("(MJy/sr)^2", 17.0**2)):
        found = read_variance(written(path, column, unit=unit), 8, uk_cmb_per_mjy_sr=17.0)
        np.testing.assert_allclose(found, factor * microkelvin, rtol=1e-12)


def test_gaps_take_the_mean_of_the_smallest_pixel_around_them(tmp_path, values):
    nested = hp.reorder(values["II_COV"], r2n=True).astype(np.float32)
    holes = {7: hp.UNSEEN, 100: np.nan, 101: 0.0, **dict.fromkeys(range(1000, 1004), hp.UNSEEN)}
    broken = nested.copy()
    broken[list(holes)] = list(holes.values())
    path = written(tmp_path / "map.fits", {"ii_cov": hp.reorder(broken.astype(float), n2r=True)})
    found = hp.reorder(read_variance(path, NSIDE)[0], r2n=True) / 1e12
    good = np.setdiff1d(np.arange(NPIX), list(holes))
    np.testing.assert_allclose(found[good], nested[good], rtol=1e-6)
    assert found[7] == pytest.approx(nested[4:7].mean(), rel=1e-6)
    assert found[100] == found[101] == pytest.approx(nested[102:104].mean(), rel=1e-6)
    around = np.setdiff1d(np.arange(992, 1008), range(1000, 1004))  # a whole coarser pixel is lost: the next one
    np.testing.assert_allclose(found[1000:1004], nested[around].mean(), rtol=1e-6)


def test_a_file_that_will_not_do_is_refused(tmp_path, values):
    def refused(message, fields=("T",), make=True, **how):
        if make:
            written(tmp_path / "map.fits", how.pop("table", values), **how)
        with pytest.raises(UserError, match=message) as caught:
            read_variance(tmp_path / "map.fits", 8, fields)
        assert "map.fits" in str(caught.value)

    refused("is missing; fetch it with `python get_data/fetch.py assets`", make=False)
    refused("no column QQ_COV", fields=("Q",), table={"I_STOKES": values["HITS"], "II_COV": values["II_COV"]})
    refused("has the unit ''", unit="")
    refused("has the unit 'K'", unit="K")
    refused("the factor of the band", unit="(Mjy/sr)^2")
    refused("ordering 'SPIRAL'", ordering="SPIRAL")
    refused("coordinates 'ECLIPTIC'", COORDSYS="ECLIPTIC")
    refused("no full HEALPix sky", ordering="RING", table={"II_COV": np.ones(100)})
    half = np.where(np.arange(NPIX) < NPIX / 2, hp.UNSEEN, values["II_COV"])
    refused("no variance for 50 % of the pixels", table={"II_COV": half})
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "map.fits", overwrite=True)
    refused("no table of pixels", make=False)
    (tmp_path / "map.fits").write_text("<html>Not found</html>")
    refused("cannot be read as a FITS file", make=False)


def test_intensity_takes_the_factor_of_the_band_or_none(composed, tmp_path, values):
    """The variance goes with the square of the factor that the band's map has; without one it is refused."""
    column = {"II_COV": 1e10 * values["II_COV"]}
    cfg = composed("noise=variance_map", "instrument=planck", f"nside={NSIDE}", "sky.fields=[T]", name="sims")
    cfg.noise.folder, cfg.noise.files = str(tmp_path), {"857": "map.fits", "70": "map.fits"}
    stage = Variance(cfg)
    written(tmp_path / "map.fits", column, unit="kJy2 sr-2")
    found = stage.run({"band": "857"})["T"]
    np.testing.assert_allclose(found, (1e3 / 2.27) ** 2 * column["II_COV"].astype(np.float32), rtol=1e-6)
    with pytest.raises(UserError, match="II_COV is in kJy2 sr-2, and the factor of the band .*mjy_sr_per_k_cmb"):
        stage.run({"band": "70"})
