"""Maps of others as a dataset: what is brought in, what is refused, and what is noticed."""

import healpy as hp
import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from omegaconf import OmegaConf

from cmbml.config.files import matching
from cmbml.core.errors import UserError
from cmbml.maps.foreign import read_map
from cmbml.maps.skymap import SkyMap, read_skymap
from cmbml.sky import sht
from cmbml.start import build
from tests.conftest import REPO

NSIDE = 8
NPIX = 12 * NSIDE**2
FACTORS = {"K_CMB": 1e6, "uK_CMB": 1.0}
NAMES = ("I_STOKES", "Q_STOKES", "U_STOKES")
KEYS = {"unit_key": "sims.external.unit", "fields_key": "sky.fields"}


def sky(*key: int) -> np.ndarray:
    """T, Q, U in RING order, of order 1; float32, as files have them."""
    return np.random.default_rng(key).normal(size=(3, NPIX)).astype(np.float32)


def written(path, maps, *, unit="K_CMB", ordering="NESTED", names=NAMES, **header):
    """Write maps given in RING order as Planck does."""
    columns = []
    for name, values in zip(names, maps, strict=True):
        data = hp.reorder(values, r2n=True) if ordering == "NESTED" and hp.isnpixok(values.size) else values
        columns.append(fits.Column(name=name, format="E", array=data, unit=unit))
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update({"PIXTYPE": "HEALPIX", "ORDERING": ordering, "COORDSYS": "GALACTIC", **header})
    path.parent.mkdir(parents=True, exist_ok=True)
    table.writeto(path, overwrite=True)
    return path


@pytest.fixture
def maps(tmp_path):
    """Two skies of two bands, the second in MJy/sr, and the truth."""
    for sim in range(2):
        written(tmp_path / f"maps/{sim}/map_100_R3.fits", 1e-4 * sky(sim, 100))
        written(tmp_path / f"maps/{sim}/map_143_R3.fits", sky(sim, 143), unit="Mjy/sr")
        written(
            tmp_path / f"maps/{sim}/cmb.fits", sky(sim), unit="mK_CMB", names=("TEMPERATURE", "Q-POLARISATION", "U")
        )
    return tmp_path / "maps"


@pytest.fixture
def pipeline(composed, maps):
    """Function from settings, changed after the configuration was composed once, to the pipeline."""
    table = (REPO / "assets/instruments/toy.ecsv").read_text().replace("212.132,TQU", "212.132,TQU,371.74")
    table = table.replace("TQU\n", "TQU,0\n").replace(
        "noise_p_uk_arcmin,fields", "noise_p_uk_arcmin,fields,mjy_sr_per_k_cmb"
    )
    column = "# - {name: fields, datatype: string}\n"
    (maps.parent / "toy.ecsv").write_text(
        table.replace(column, column + "# - {name: mjy_sr_per_k_cmb, datatype: float64}\n")
    )
    given = (
        "sims=external", "instrument=toy", f"instrument.table={maps.parent}/toy.ecsv",
        "instrument.bands=[100,143]", f"nside={NSIDE}", "splits.test=2",
        f'sims.external.obs="{maps}/*/map_{{band}}_*.fits"', "sims.external.fwhm_arcmin={143:7}",
    )  # fmt: skip
    cfg = composed(*given, name="sims")

    def make(**settings):
        changed = OmegaConf.create(OmegaConf.to_container(cfg))  # with nothing resolved
        for key, value in settings.items():
            OmegaConf.update(changed, key, value, merge=False)
        return build(changed, [*(x.split("=")[0] for x in given), *settings])

    return make


def test_maps_become_a_dataset(pipeline, maps, tmp_path):
    """Beside the arrays that were written, with the table's factor of 143 GHz, and astropy's equivalency."""
    truth = {"sims.external.truth": f"{maps}/*/cmb.fits", "sims.external.truth_fwhm_arcmin": 5}
    pipeline(**truth).run(only=["cmb_map", "observe"])
    t_cmb = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=2.7255).Tcmb0
    for sim in range(2):
        folder = tmp_path / f"data/sims/Simulations/Test/sim000{sim}"
        known = {
            "obs_100_map": (100 * sky(sim, 100), 480, "map_100_R3"),  # the instrument's beam
            "obs_143_map": (1e6 / 371.74 * sky(sim, 143), 7, "map_143_R3"),
            "cmb_map_fid": (1e3 * sky(sim), 5, "cmb"),
        }
        for name, (values, fwhm_arcmin, source) in known.items():
            found = read_skymap(folder / f"{name}.fits", nside=NSIDE)
            np.testing.assert_allclose(found.data, values, rtol=2e-6)  # single precision
            assert (found.fields, found.unit, found.fwhm_arcmin) == (("T", "Q", "U"), "uK_CMB", fwhm_arcmin)
            assert found.note == f"from {source}.fits"
    # a unit that is given goes before the files'; a brightness temperature is the intensity 2 k nu^2 T / c^2
    pipeline(**truth, **{"sims.external.unit": "K_RJ"}).run(only=["observe"])
    per_k = (2 * constants.k_B * (143 * u.GHz) ** 2 / constants.c**2 / u.sr).to(u.MJy / u.sr / u.K) * u.K
    in_cmb = per_k.to_value(u.uK, u.thermodynamic_temperature(143 * u.GHz, t_cmb))
    np.testing.assert_allclose(read_skymap(folder / "obs_143_map.fits").data, in_cmb * sky(1, 143), rtol=2e-6)


def test_intensity_wants_the_factor_of_the_band(composed, tmp_path):
    """Planck's published factors, not those of a single frequency; none for a band without factor and bandpass."""
    factors = {100: 244.1, 143: 371.74, 217: 483.69, 353: 287.45, 545: 58.04, 857: 2.27}
    cfg = composed(
        "sims=external", "instrument=planck", f"nside={NSIDE}", "splits.test=1", "sky.fields=[T]",
        f"sims.external.obs={tmp_path}/m/map_{{band}}.fits", name="sims",
    )  # fmt: skip
    for unit, mjy, given in (("MJy/sr", 1, None), ("kJy sr-1", 1e-3, None), ("Jy/sr", 1e-6, None), (None, 1, "MJy/sr")):
        for band in (30, *factors):
            written(tmp_path / f"m/map_{band}.fits", sky(band)[:1], unit=unit, names=NAMES[:1])
        cfg.sims.external.unit = given
        cfg.instrument.bands = list(factors)
        build(cfg).run(only=["observe"], force=["observe"])
        for band, factor in factors.items():
            found = read_skymap(tmp_path / f"data/sims/Simulations/Test/sim0000/obs_{band}_map.fits")
            np.testing.assert_allclose(found.data, 1e6 * mjy / factor * sky(band)[:1], rtol=2e-6)
        cfg.instrument.bands = [30]
        with pytest.raises(UserError, match=r"I_STOKES is in .?Jy/sr, and the factor of the band .*mjy_sr_per_k_cmb"):
            build(cfg).run(only=["observe"], force=["observe"])


def test_the_first_skies_are_those_to_learn_from(pipeline, maps, tmp_path):
    pipeline(**{"splits.valid": 1, "splits.test": 1}).run(only=["observe"])
    for k, split in enumerate(("Valid", "Test")):
        found = read_skymap(tmp_path / f"data/sims/Simulations/{split}/sim0000/obs_100_map.fits")
        np.testing.assert_allclose(found.data, 100 * sky(k, 100), rtol=2e-6)


def test_splits_may_be_folders(pipeline, maps, tmp_path):
    for k, split in enumerate(("Test", "Valid")):  # their names are not in the order of the splits
        (maps / f"{k}").rename(maps / split)
    settings = {"sims.external.obs": f"{maps}/{{split}}/map_{{band}}_*.fits", "splits.valid": 1}
    with pytest.raises(UserError, match="finds 1 skies of Test, and splits.test is 2; say splits.test=1"):
        pipeline(**settings)
    pipeline(**settings, **{"splits.test": 1}).run(only=["observe"])
    for k, split in enumerate(("Test", "Valid")):
        found = read_skymap(tmp_path / f"data/sims/Simulations/{split}/sim0000/obs_100_map.fits")
        np.testing.assert_allclose(found.data, 100 * sky(k, 100), rtol=2e-6)


def test_alms_of_the_truth_are_those_that_its_map_was_made_of(pipeline, maps, tmp_path):
    """They end at 2 nside: three iterations find them to 1e-3."""
    lmax = 2 * NSIDE
    alms = np.random.default_rng(3).normal(scale=1e-4, size=(3, sht.alm_size(lmax), 2)) @ [1, 1j]
    alms[:, : lmax + 1] = alms[:, : lmax + 1].real
    alms[1:, [0, 1, lmax + 1]] = 0  # spin 2 begins at l = 2
    qu = sht.synthesis(alms[1:], NSIDE, spin=2)
    for sim in range(2):
        written(maps / f"{sim}/cmb.fits", np.stack([sht.synthesis(alms[0], NSIDE), *qu]).astype(np.float32))
    for fields, known in (("TQU", "TEB"), ("T", "T")):
        settings = {"sims.external.truth": f"{maps}/*/cmb.fits", "sky.lmax": lmax, "sky.fields": list(fields)}
        pipeline(**settings).run(only=["cmb_map"])
        found = np.load(tmp_path / "data/sims/Simulations/Test/sim0001/cmb_lensed_alm.npz")
        assert set(found) == set(known)
        for x, alm in zip(known, alms, strict=False):
            assert np.abs(found[x] - 1e6 * alm).max() < 1e-3 * 1e6 * np.abs(alm).max()


def test_pictures_do_without_the_truth_and_nothing_runs_twice(pipeline, maps, tmp_path):
    settings = {"mask.kind": "band", "instrument.bands": [100], "instrument.fwhm_arcmin": None}
    pipeline(**settings).run(dry=True)
    assert not list(tmp_path.glob("data/sims"))
    pipeline(**settings).run()
    assert len(list(tmp_path.glob("data/sims/Simulation_Working/Simulation_Pictures/*.png"))) == 2
    assert not [work for works in pipeline(**settings).plan().values() for work in works if work.why]
    written(maps / "1" / "map_100_R3.fits", sky(1, 1))
    plan = pipeline(**settings, **{"sims.external.truth": f"{maps}/*/cmb.fits"}).plan()
    assert [work.why for work in plan["observe"]] == ["", "sims.external.obs changed"]
    assert [len([w for w in plan[name] if w.why]) for name in ("mask", "cmb_map", "observe")] == [0, 2, 1]


def test_files_are_sorted_with_their_numbers_as_numbers(pipeline, maps, tmp_path):
    """sim10 after sim9, whatever follows the number: the truth and the bands of one sky meet."""
    for sim in range(1, 12):
        for band in (100, 143):
            written(maps / f"many/sim{sim}_{band}.fits", sky(sim, band))
        written(maps / f"many/truth/sim{sim}.fits", sky(sim))
    settings = {"sims.external.obs": f"{maps}/many/sim*_{{band}}.fits", "splits.test": 11}
    truth = {"sims.external.truth": f"{maps}/many/truth/sim*[0-9].fits"}  # an expression, for no file has that name
    pipeline(**settings, **truth).run(only=["cmb_map", "observe"])
    for k in (1, 9, 10):
        folder = tmp_path / f"data/sims/Simulations/Test/sim{k:04d}"
        np.testing.assert_allclose(read_skymap(folder / "obs_143_map.fits").data, 1e6 * sky(k + 1, 143), rtol=2e-6)
        np.testing.assert_allclose(read_skymap(folder / "cmb_map_fid.fits").data, 1e6 * sky(k + 1), rtol=2e-6)
    (maps / "many/truth/sim4.fits").rename(maps / "many/truth/sim12.fits")
    with pytest.raises(UserError, match="file 4 of truth is sim5.fits and that of 100 is sim4_100.fits; their numbers"):
        pipeline(**settings, **truth)
    (maps / "many/sim7_143.fits").rename(maps / "many/sim0_143.fits")
    with pytest.raises(UserError, match="file 1 of 143 is sim0_143.fits and that of 100 is sim1_100.fits"):
        pipeline(**settings)


def test_folders_may_have_brackets_in_their_names(pipeline, maps, tmp_path, monkeypatch):
    inside = tmp_path / "run[1] of {x}"
    maps.rename(inside)
    pipeline(**{"sims.external.obs": f"{inside}/*/map_{{band}}_*.fits"}).run(only=["observe"])
    found = read_skymap(tmp_path / "data/sims/Simulations/Test/sim0001/obs_100_map.fits")
    np.testing.assert_allclose(found.data, 100 * sky(1, 100), rtol=2e-6)
    (inside / "0").rename(inside / "[0]")
    (inside / "1").rename(inside / "[1]")
    monkeypatch.chdir(inside)
    for pattern in ("[?]/map_{band}_R3.fits", "[[]*/map_{band}_R3.fits"):
        assert len(pipeline(**{"sims.external.obs": pattern}).stages[1].files["100"]) == 2
    (tmp_path / "map[a].fits").touch()
    assert matching(f"{tmp_path}/map[{{band}}].fits", band="a") == [tmp_path / "map[a].fits"]


def test_what_does_not_fit_is_refused_before_anything_runs(pipeline, maps):
    def refused(message, key, value):
        with pytest.raises(UserError, match=message) as caught:
            pipeline(**({key: value} if key else {}))
        assert ". " not in str(caught.value), "more than one sentence"

    ours = "sims.external"
    refused("sims.external.obs must be a pattern with {band}, like", f"{ours}.obs", f"{maps}/*.fits")
    refused("must be a pattern with {band}.*it is None", f"{ours}.obs", None)
    refused("map_{band}_.*finds no file of the band 217; mend the pattern", "instrument.bands", [143, 217])
    refused("truth=.*finds 1 files of truth and 2 of 100; a sky", f"{ours}.truth", f"{maps}/0/cmb.fits")
    refused("finds 2 skies, and splits.train=0, splits.valid=0, splits.test=3; say splits.test=2", "splits.test", 3)
    refused("splits.train=1, .*, splits.test=2; they must be as many together", "splits.train", 1)
    refused("unit=K is not known; choose one of K_CMB, mK_CMB, uK_CMB, K_RJ", f"{ours}.unit", "K")
    refused("truth_unit=K_RJ is not known; choose one of K_CMB, mK_CMB, uK_CMB", f"{ours}.truth_unit", "K_RJ")
    refused("fwhm_arcmin=7 must be a mapping", "instrument.fwhm_arcmin", 7)
    refused("must give numbers to bands of the instrument", "instrument.fwhm_arcmin", {44: 7})
    refused("truth_fwhm_arcmin=-1 must be a number that is not negative", f"{ours}.truth_fwhm_arcmin", -1)
    refused("takes skies as they are; leave foregrounds=pysm out", "foregrounds.kind", "pysm")
    refused("map_100_R3.fits lies in the folder of the dataset=../maps itself", "dataset", "../maps")
    refused("coordinates=C must be null or G; rotate the maps", f"{ours}.coordinates", "C")
    refused("coordinates=3 must be null or G", f"{ours}.coordinates", 3)
    refused("resample=yes must be true or false", f"{ours}.resample", "yes")
    written(maps / "1" / "map_143_R3.fits", sky(1, 143), unit="MJy/sr", ordering="RING")
    with pytest.raises(UserError, match="map_143_R3.fits is RING and .*0/map_100_R3.fits is NESTED; bring all maps"):
        pipeline().run(only=["observe"])
    (maps / "1" / "map_143_R3.fits").unlink()
    refused("finds 1 files of 143 and 2 of 100; a sky needs one of each", "", None)


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_files_that_will_not_do_are_refused(tmp_path):
    def refused(message, table=None, fields="TQU", make=True, **how):
        if make:
            written(tmp_path / "map.fits", sky() if table is None else table, **how)
        with pytest.raises(UserError, match=message) as caught:
            read_map(tmp_path / "map.fits", NSIDE, fields, FACTORS, **KEYS)
        assert "map.fits" in str(caught.value)
        assert ". " not in str(caught.value), "more than one sentence"

    refused("has nside 4 where 8 is needed; say nside=4", np.ones((3, 192)))
    refused("has 100 pixels, which are no full HEALPix sky", np.ones((3, 100)))
    refused("says no unit \\(TUNIT\\); one of K_CMB, uK_CMB must be there, or in sims.external.unit", unit=None)
    refused("has the unit 'K'; one of", unit="K")
    refused("has the unit 'K_RJ'; one of", unit="K_RJ")
    refused("ordering 'SPIRAL'; write RING or NESTED", ordering="SPIRAL")
    refused("coordinates 'C'; rotate it to Galactic", COORDSYS="C")
    refused("a part of the sky; write all pixels", INDXSCHM="EXPLICIT")
    refused("no column for the field Q, it has I_STOKES; rename one", sky()[:1], names=NAMES[:1])
    refused("no column for the field E, it has I_STOKES, Q_STOKES, U_STOKES; rename one", fields="E")
    for value in (np.nan, np.inf, hp.UNSEEN):
        table = sky()
        table[1, 5:7] = value
        refused("has 2 pixels of Q_STOKES that are UNSEEN or NaN, and there is no mask; give a mask", table)
    whole = written(tmp_path / "map.fits", sky()).read_bytes()
    (tmp_path / "map.fits").write_bytes(whole[: len(whole) // 2])
    refused("cannot be read as a FITS file", make=False)
    (tmp_path / "map.fits").write_text("<html>Not found</html>")
    refused("cannot be read as a FITS file", make=False)
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "map.fits", overwrite=True)
    refused("no table of pixels", make=False)


def test_coordinates_that_are_not_known_are_galactic_on_request(pipeline, maps):
    """Blank ones are in any case; known ones that are not Galactic never."""
    path = maps / "0/map_100_R3.fits"
    galactic = {"sims.external.coordinates": "G"}
    written(path, 1e-4 * sky(0, 100), COORDSYS="galaktisch")
    with pytest.raises(UserError, match="'GALAKTISCH', which are not known; .* say sims.external.coordinates=G"):
        pipeline().run(only=["observe"])
    pipeline(**galactic).run(only=["observe"])
    for settings in ({}, galactic):
        written(path, 2e-4 * sky(0, 100), COORDSYS="C")
        with pytest.raises(UserError, match="coordinates 'C'; rotate it to Galactic"):
            pipeline(**settings).run(only=["observe"])
        written(path, 3e-4 * sky(0, 100), COORDSYS=" ")
        pipeline(**settings).run(only=["observe"])


def test_empty_pixels_are_filled_where_the_mask_is_zero(tmp_path):
    table, weights = sky(), np.ones((1, NPIX))
    table[0, 3], table[2, 3], table[1, 700] = np.nan, hp.UNSEEN, hp.UNSEEN
    weights[0, [3, 4]] = 0
    mask = SkyMap(weights, ("mask",), "1", 0.0, 2)
    path = written(tmp_path / "Größe.fits", table, unit="uK_CMB")
    with pytest.raises(UserError, match="1 pixels of Q_STOKES that are UNSEEN or NaN, where the mask is not 0"):
        read_map(path, NSIDE, "TQU", FACTORS, mask=mask, **KEYS)
    weights[0, 700] = 0
    found, note = read_map(path, NSIDE, "TQU", FACTORS, mask=mask, **KEYS)
    known = sky()
    known[0, 3] = known[2, 3] = known[1, 700] = 0
    np.testing.assert_array_equal(found, known)
    assert note == "from Gr??e.fits, 2 masked pixels without a value set to 0"


def test_healpys_own_maps_and_the_iau_convention(tmp_path):
    hp.write_map(tmp_path / "map.fits", sky(), column_units="uK_CMB", extra_header=[("POLCCONV", "COSMO")])
    found, _ = read_map(tmp_path / "map.fits", NSIDE, "TQU", FACTORS, **KEYS)
    np.testing.assert_array_equal(found, sky())
    path = written(tmp_path / "iau.fits", sky(), ordering="RING", unit="Kcmb", POLCCONV="IAU")
    found, note = read_map(path, NSIDE, "TQU", FACTORS, **KEYS)
    np.testing.assert_allclose(found, 1e6 * sky().astype(np.float64) * [[1], [1], [-1]], rtol=1e-12)
    assert note == "from iau.fits, U turned from the IAU convention"
