"""Planck's public maps as a dataset: stand-ins with the columns, headers and names of the released files."""

import re
import shutil

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

from cmbml.maps.skymap import read_skymap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.pixel_window import pixel_window
from tests.conftest import REPO, run_here

NSIDE = 32
LMAX = 150  # of the stand-ins: more than the run holds
BAD = np.float32(-1.6375e30)
MJY = {545: 58.04, 857: 2.27}  # MJy/sr per K_CMB: Planck 2015 results VIII
FWHM = {30: 32.29, 44: 27.94, 70: 13.08, 100: 9.66, 143: 7.22, 217: 4.9, 353: 4.92, 545: 4.67, 857: 4.22}
DUST = {30: 0.1, 44: 0.12, 70: 0.2, 100: 0.4, 143: 0.7, 217: 1.8, 353: 8.0, 545: 70.0, 857: 5000.0}
RELEASED = {
    **{band: f"LFI_SkyMap_0{band}-BPassCorrected_1024_R3.00_full.fits" for band in (30, 44, 70)},
    **{band: f"HFI_SkyMap_{band}_2048_R3.01_full.fits" for band in (100, 143, 217, 545, 857)},
    353: "HFI_SkyMap_353-psb_2048_R3.01_full.fits",
}
NILC = "COM_CMB_IQU-nilc_2048_R3.00_full.fits"
STOKES = ("I_STOKES", "Q_STOKES", "U_STOKES")


def drawn(*key: int) -> np.ndarray:
    """Alms of T, E and B, K_CMB, with power beyond what the run holds; those of l < 2 vanish."""
    ell, m = hp.Alm.getlm(LMAX)
    size = np.where(ell < 2, 0, 3e-5 / np.maximum(ell, 1)) * [[1.0], [0.1], [0.05]]
    real, imaginary = np.random.default_rng(key).normal(size=(2, *size.shape))
    return size * np.where(m == 0, real, (real + 1j * imaginary) / np.sqrt(2))


@pytest.fixture(scope="module")
def skies():
    """Alms of the CMB and of the dust."""
    return {"cmb": drawn(1), "dust": drawn(2)}


def observed(skies, band: int, window: np.ndarray) -> np.ndarray:
    """Alms that a band sees: CMB, dust, and some of its own."""
    alms = skies["cmb"] + DUST[band] * skies["dust"] * [[1.0], [0.05], [0.05]] + 0.02 * drawn(band)
    return np.array([hp.almxfl(alm, window) for alm in alms])


def write(path, columns, *, extname="FREQ-MAP", nside):
    """Write a table as the Planck Legacy Archive does; columns are (name, format, unit, values)."""
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name=name, format=kind, unit=unit, array=values) for name, kind, unit, values in columns],
        name=extname,
    )
    table.header.update(
        {
            "PIXTYPE": "HEALPIX", "COORDSYS": "GALACTIC", "ORDERING": "NESTED", "NSIDE": nside,
            "FIRSTPIX": 0, "LASTPIX": 12 * nside**2 - 1, "INDXSCHM": "IMPLICIT", "POLCCONV": "COSMO",
            "BAD_DATA": float(BAD),
        }
    )  # fmt: skip
    second = fits.BinTableHDU.from_columns([fits.Column(name="INT_BEAM", format="E", array=np.ones(4))], name="BEAM-WF")
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), table, *([second] if extname == "COMP-MAP" else [])]).writeto(path)


@pytest.fixture
def released(tmp_path, skies):
    """Folder with the stand-ins; LFI's have the nside 64, HFI's and NILC's 128."""
    folder = tmp_path / "data" / "Assets" / "Planck"
    for band, name in RELEASED.items():
        nside = 64 if band < 100 else 128
        window = gaussian_beam(FWHM[band], LMAX) * pixel_window(nside, LMAX)
        maps = hp.alm2map(observed(skies, band, window), nside, lmax=LMAX)
        maps = hp.reorder(maps * MJY.get(band, 1.0), r2n=True).astype(np.float32)
        unit = "MJy/sr" if band in MJY else "K_CMB"
        seen = STOKES if band < 500 else STOKES[:1]
        if band == 353:
            maps[:, [77, 5000, 90001]] = BAD  # alone among others
        columns = [(x, "E", unit, m) for x, m in zip(seen, maps, strict=False)]
        columns.append(("HITS", "J", "", np.ones(12 * nside**2)))
        pairs = ("II", "IQ", "IU", "QQ", "QU", "UU") if band < 500 else ("II",)
        columns += [(f"{pair}_COV", "E", f"({unit})^2", np.ones(12 * nside**2)) for pair in pairs]
        write(folder / name, columns, nside=nside)
    window = gaussian_beam(5.0, LMAX) * pixel_window(128, LMAX)
    maps = hp.alm2map(np.array([hp.almxfl(alm, window) for alm in skies["cmb"]]), 128, lmax=LMAX)
    good = np.abs(hp.pix2ang(128, np.arange(12 * 128**2), lonlat=True)[1]) > 20
    columns = [(x, "E", "K_CMB", hp.reorder(m, r2n=True)) for x, m in zip(STOKES, maps, strict=True)]
    columns += [(x, "E", "", hp.reorder(good.astype(float), r2n=True)) for x in ("TMASK", "PMASK")]
    write(folder / NILC, columns, extname="COMP-MAP", nside=128)
    return folder


WORDS = ("experiment=planck_pr3", f"nside={NSIDE}", "run.workers=1")


def test_public_maps_become_a_sky_that_is_cleaned(released, skies, tmp_path):
    """Each band is the drawn sky with the beam of two pixels, without pixel window, to the run's lmax; ILC works."""
    only = "run.only=[mask,cmb_map,observe,clean,measure,summary]"
    code, error = run_here(*WORDS, only, root=tmp_path / "data", config_name="clean")
    assert code == 0, error
    folder = tmp_path / "data/planck_pr3/Simulations/Test/sim0000"
    lmax = int(2.93 * NSIDE)
    cut = np.where(np.arange(LMAX + 1) <= lmax, 1e6, 0.0)
    two_pixels = 2 * hp.nside2resol(NSIDE, arcmin=True)
    for band in RELEASED:
        found = read_skymap(folder / f"obs_{band}_map.fits", nside=NSIDE)
        assert found.fwhm_arcmin == pytest.approx(two_pixels)
        alms = observed(skies, band, cut * gaussian_beam(two_pixels, LMAX))
        expected = np.array(hp.alm2map(alms, NSIDE, lmax=LMAX))[: len(found.fields)]
        assert len(expected) == (1 if band in MJY else 3)
        # one quadrature with one iteration; where pixels were filled, those around them
        tolerance = 5e-3 if band == 353 else 1e-3
        for row, map_ in zip(found.data, expected, strict=True):
            assert np.std(row - map_) < tolerance * np.std(map_)
    truth = read_skymap(folder / "cmb_map_fid.fits", nside=NSIDE)
    alms = np.array([hp.almxfl(alm, cut * gaussian_beam(5.0, LMAX)) for alm in skies["cmb"]])
    for row, map_ in zip(truth.data, hp.alm2map(alms, NSIDE, lmax=LMAX), strict=True):
        assert np.std(row - map_) < 1e-3 * np.std(map_)
    assert (truth.fwhm_arcmin, truth.note) == (5.0, f"from {NILC}, resampled from nside 128")
    assert "3 pixels without a value filled" in read_skymap(folder / "obs_353_map.fits").note
    results = tmp_path / "data/planck_pr3/cnilc/T"
    assert "planck_pr3" in (results / "analysis/table.md").read_text()
    cleaned = read_skymap(results / "Test/sim0000/prediction_map.fits")["T"]
    alm = sht.almxfl(skies["cmb"][0], cut * gaussian_beam(two_pixels, LMAX))
    seen = read_skymap(tmp_path / "data/planck_pr3/Simulation_Working/Simulation_Mask/mask_map.fits")["mask"] == 1
    assert np.corrcoef(cleaned[seen], sht.synthesis(alm, NSIDE)[seen])[0, 1] > 0.99


def test_a_hole_outside_the_mask_is_refused(released, tmp_path):
    """A pixel of the run that holds no value at all; the same hole behind the mask is filled."""
    path = released / RELEASED[143]
    for latitude, accepted in ((0.0, True), (60.0, False)):
        with fits.open(path, mode="update") as file:
            pixel = hp.ang2pix(NSIDE, 10.0, latitude, nest=True, lonlat=True)
            file[1].data["Q_STOKES"][16 * pixel : 16 * (pixel + 1)] = BAD
        words = (*WORDS, "instrument.bands=[143]", "run.only=[mask,observe]", f"dataset=hole{latitude:g}")
        code, error = run_here(*words, root=tmp_path / "data", config_name="clean")
        assert (code == 0) == accepted, error
    assert "has 1 pixels of Q_STOKES that are UNSEEN or NaN, where the mask is not 0" in error


RESIDUAL = (
    "foregrounds=residual", f"nside={NSIDE}", "run.workers=1", "run.only=[mask,foregrounds]", "instrument=planck",
    "instrument.bands=[143,545]", "splits.train=0", "splits.valid=0", "splits.test=1",
)  # fmt: skip


def hole_file(path) -> np.ndarray:
    """Write a mask with a disc of 5 degrees, some pixels of nside 128 apart from it; its pixels at the run's nside."""
    weights = np.ones(12 * 128**2)
    weights[hp.query_disc(128, hp.ang2vec(40.0, 50.0, lonlat=True), np.radians(5))] = 0
    weights[hp.ang2pix(128, 200.0, -30.0, lonlat=True)] = 0
    hp.write_map(path, weights, dtype=np.float64, coord="G")
    return hp.ud_grade(weights, NSIDE) < 1


def test_what_is_left_of_observations_without_the_cmb_is_their_foreground(released, skies, tmp_path):
    """Dust, and what each band has of its own, at the beam of the run; in a hole nothing beyond its border."""
    (tmp_path / "holes").mkdir()
    hole = hole_file(tmp_path / "holes" / "holes.fits")
    path = released / RELEASED[143]
    with fits.open(path, mode="update") as file:  # a source that the mask covers, and pixels without a value in it
        pixels = hp.query_disc(128, hp.ang2vec(40.0, 50.0, lonlat=True), np.radians(2.0), nest=True)
        file[1].data["I_STOKES"][pixels] = 1e-4
        file[1].data["I_STOKES"][pixels[:30]] = BAD
    words = (*RESIDUAL, f"foregrounds.residual.holes.file={tmp_path}/holes/holes.fits")
    code, error = run_here(*words, root=tmp_path / "data", config_name="sims")
    assert code == 0, error
    two_pixels = 2 * hp.nside2resol(NSIDE, arcmin=True)
    cut = np.where(np.arange(LMAX + 1) <= int(2.93 * NSIDE), 1e6, 0.0) * gaussian_beam(two_pixels, LMAX)
    folder = tmp_path / "data/sims/Simulation_Working/Simulation_Foregrounds"
    for band, fields in ((143, 3), (545, 1)):
        found = read_skymap(folder / f"foregrounds_{band}_map.fits", nside=NSIDE)
        assert (len(found.fields), found.fwhm_arcmin) == (fields, pytest.approx(two_pixels))
        assert f"RESIDUAL foregrounds, with noise: {RELEASED[band]} less {NILC}, {hole.sum()} pixels" in found.note
        alms = DUST[band] * skies["dust"] * [[1.0], [0.05], [0.05]] + 0.02 * drawn(band)
        expected = np.array(hp.alm2map(np.array([hp.almxfl(alm, cut) for alm in alms]), NSIDE, lmax=LMAX))[:fields]
        # the source, seven times as bright as the dust, is broadened to the beam of 3.7 degrees, and rings
        far = hp.query_disc(NSIDE, hp.ang2vec(40.0, 50.0, lonlat=True), np.radians(25))
        away = ~hole
        away[far] = False
        for row, map_ in zip(found.data.astype(float), expected, strict=True):
            assert np.std((row - map_)[away]) < 2e-3 * np.std(map_)
            neighbours = hp.get_all_neighbours(NSIDE, np.flatnonzero(hole)).T
            known = np.where(neighbours >= 0, row[neighbours], np.nan)
            np.testing.assert_allclose(row[hole], np.nanmean(known, axis=1), rtol=0, atol=1e-5 * np.std(row))
            border = neighbours[(neighbours >= 0) & ~hole[neighbours]]
            assert row[border].min() <= row[hole].min() <= row[hole].max() <= row[border].max()


def test_residual_foregrounds_are_observed_like_others_and_can_be_smoothed(released, tmp_path):
    """An observation less the foreground is the CMB; a wider beam takes from the foreground what it says."""
    root = tmp_path / "data"
    words = [word for word in RESIDUAL if not word.startswith("run.only")]
    words += ["instrument.bands=[143]", "cosmology=fiducial", "sky.fields=[T]", "sky.margin=64", "noise=none"]
    only = "run.only=[theory,foregrounds,cmb,observe]"
    assert run_here(*words, only, root=root, config_name="sims")[0] == 0
    widened = (*words, "dataset=wide", "foregrounds.residual.fwhm_arcmin=400", "run.only=[foregrounds]")
    assert run_here(*widened, root=root, config_name="sims")[0] == 0
    folder = "Simulation_Working/Simulation_Foregrounds/foregrounds_143_map.fits"
    plain, wide = (read_skymap(root / name / folder) for name in ("sims", "wide"))
    cls = [hp.anafast(m["T"].astype(float), lmax=60) for m in (plain, wide)]
    ratio = gaussian_beam(400.0, 60) / gaussian_beam(plain.fwhm_arcmin, 60)
    assert wide.fwhm_arcmin == 400.0
    np.testing.assert_allclose(cls[1][2:30], (ratio**2 * cls[0])[2:30], rtol=2e-2)
    sky = root / "sims/Simulations/Test/sim0000"
    seen = read_skymap(sky / "obs_143_map.fits")
    with np.load(sky / "cmb_lensed_alm.npz") as alms:
        cmb = hp.almxfl(alms["T"].astype(complex), gaussian_beam(plain.fwhm_arcmin, 93))
    rest = seen["T"] - plain["T"] - hp.alm2map(cmb, NSIDE)
    assert np.std(rest) < 1e-4 * np.std(seen["T"])
    assert "RESIDUAL foregrounds" in seen.note


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("foregrounds.residual.obs=none/{{band}}.fits", "finds 0 files of the band 143, and one is needed; mend"),
        ("foregrounds.residual.unit=K", "foregrounds.residual.unit=K is not known; choose one of K_CMB"),
        ("foregrounds.residual.coordinates=C", "foregrounds.residual.coordinates=C must be null or G"),
        ("foregrounds.residual.holes.coordinates=C", "foregrounds.residual.holes.coordinates=C must be null or G"),
        ("foregrounds.residual.holes.threshold=2", "foregrounds.residual.holes.threshold=2 must be a number between 0"),
        ("foregrounds.vary.amplitude=0.1", "and those of observations, are one sky"),
        ("mask=galactic", "mask=galactic takes the shape of the dust, which a residual does not show"),
    ],
)
def test_residuals_that_cannot_be_made_are_refused(tmp_path, word, said):
    code, error = run_here(*RESIDUAL, word, "run.dry=true", root=tmp_path, config_name="sims")
    assert code == 1
    assert said in error


def test_half_missions_are_two_skies(released, tmp_path):
    """The patterns of the page pair the files, here of other bands, each with its own reference."""
    page = (REPO / "docs" / "howto" / "planck.md").read_text()
    words = [
        word.replace("data/Assets/Planck", str(released)) for word in re.findall(r"'(sims\.external\.\S+_.*)'", page)
    ]
    words = [word for word in words if "smica" not in word]
    assert len(words) == 2
    for half, source in ((1, 143), (2, 217)):
        for band in ("100", "353-psb"):
            shutil.copy(released / RELEASED[source], released / f"HFI_SkyMap_{band}_2048_R3.01_halfmission-{half}.fits")
        shutil.copy(released / NILC, released / NILC.replace("full", f"hm{half}"))
    words += ["splits.test=2", "instrument.bands=[100,353]", "run.only=[mask,cmb_map,observe]", "sky.fields=[T]"]
    code, error = run_here(*WORDS, *words, root=tmp_path / "data", config_name="clean")
    assert code == 0, error
    for half in (1, 2):
        folder = tmp_path / f"data/planck_pr3/Simulations/Test/sim000{half - 1}"
        assert f"hm{half}.fits" in read_skymap(folder / "cmb_map_fid.fits").note
        for band in (100, 353):
            assert f"halfmission-{half}.fits" in read_skymap(folder / f"obs_{band}_map.fits").note


def test_the_catalogue_has_the_files_that_are_read():
    text = (REPO / "get_data" / "manifest.yaml").read_text()
    for name in (*RELEASED.values(), NILC):
        assert re.search(
            rf"url: https://irsa\.ipac\.caltech\.edu/\S+/{re.escape(name)}\n    to: Planck/{re.escape(name)}", text
        )
