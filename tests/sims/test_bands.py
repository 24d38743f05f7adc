"""A dataset of many bands, as `main_sims.py` makes it: what is in the maps, and that workers do not change them."""

from pathlib import Path

import healpy as hp
import numpy as np
import pytest
from astropy import units as u
from hydra import compose, initialize_config_dir

from cmbml.config import resolvers as config
from cmbml.core.errors import UserError
from cmbml.maps.skymap import read_skymap
from cmbml.sims.theory import Theory
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.noise import noise_cl
from cmbml.start import build
from tests.conftest import REPO
from tests.core.test_engine import contents

NSIDE, LMAX = 16, 40
SMALL = (
    f"nside={NSIDE}", f"sky.lmax={LMAX}", "sky.margin=20", "splits.train=1", "splits.valid=1", "splits.test=1",
    "instrument=toy", "cosmology=fiducial", "run.workers=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a finished small dataset, made by two workers, and its configuration."""
    root = tmp_path_factory.mktemp("bands")
    config.register()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        cfg = compose("sims", overrides=[f"system.root={root}", *SMALL])
    config.prepare(cfg)
    build(cfg).run(workers=2)
    return root / cfg.dataset, cfg


def band(made, name: str, split: str = "Test") -> dict:
    """Maps of a band of a sky, by what they show."""
    folder, _ = made
    sims, fore = folder / "Simulations" / split / "sim0000", folder / "Simulation_Working" / "Simulation_Foregrounds"
    paths = {
        "obs": sims / f"obs_{name}_map.fits",
        "noise": sims / f"noise_{name}_map.fits",
        "cmb": sims / "cmb_map_fid.fits",
        "foregrounds": fore / f"foregrounds_{name}_map.fits",
    }
    return {key: read_skymap(path) for key, path in paths.items()}


def test_an_observation_is_the_sum_of_its_parts(made):
    """CMB with the beam, foregrounds and noise, each made by another stage and read back from its file."""
    for name in ("100", "353"):
        maps = band(made, name)
        obs, cmb = maps["obs"], maps["cmb"]
        assert (obs.unit, obs.lmax, obs.fields, cmb.fwhm_arcmin) == ("uK_CMB", LMAX, ("T", "Q", "U"), 0.0)
        lensed = np.load(made[0] / "Simulations" / "Test" / "sim0000" / "cmb_lensed_alm.npz")
        alm = hp.almxfl(lensed["T"].astype(complex), hp.gauss_beam(np.radians(obs.fwhm_arcmin / 60), LMAX))
        expected = hp.alm2map(alm, NSIDE) + maps["foregrounds"]["T"] + maps["noise"]["T"]
        np.testing.assert_allclose(obs["T"], expected, atol=1e-5 * np.abs(expected).max())
        level = np.std(maps["noise"]["Q"]) * hp.nside2resol(NSIDE, arcmin=True)  # of one square arcminute
        assert level == pytest.approx(instrument(made).band(name).noise_p_uk_arcmin, rel=5 / np.sqrt(24 * NSIDE**2))


def instrument(made):
    return next(stage for stage in build(made[1]).stages if stage.name == "observe").instrument


def test_foregrounds_scale_between_bands_as_their_physics_says(made):
    """Dust alone, pixel by pixel, between 217 and 353 GHz: a modified black body of its template's index."""
    folder = made[0] / "Simulation_Working" / "Simulation_Foregrounds"
    dust = {n: read_skymap(folder / f"dust_{n}_map.fits") for n in ("217", "353")}
    alms = {n: sht.analysis(m["T"].astype(float), LMAX) for n, m in dust.items()}
    beams = {n: gaussian_beam(m.fwhm_arcmin, LMAX) for n, m in dust.items()}
    same = {n: hp.almxfl(alm, 1 / beams[n])[:10] for n, alm in alms.items()}  # m = 0, low l
    cmb = u.thermodynamic_temperature
    freq = {n: instrument(made).band(n).center_ghz * u.GHz for n in dust}
    brightness = {n: (1 * u.uK).to_value(u.MJy / u.sr, cmb(freq[n], T_cmb=2.7255 * u.K)) for n in dust}
    x = {n: (6.62607015e-34 * f.to_value(u.Hz) / (1.380649e-23 * 21.0)) for n, f in freq.items()}
    planck = {n: freq[n].value ** (3 + 1.539) / np.expm1(x[n]) for n in dust}
    ratio = (same["353"] * brightness["353"]).real.sum() / (same["217"] * brightness["217"]).real.sum()
    assert ratio == pytest.approx(planck["353"] / planck["217"], rel=0.05)


def test_tree_is_that_of_cmbml(made):
    folder, _ = made
    names = {str(p.relative_to(folder)) for p in folder.rglob("*.*") if not p.name.startswith(".")}
    for split in ("Train", "Valid", "Test"):
        assert {f"Simulations/{split}/sim0000/{x}" for x in ("cmb_map_fid.fits", "obs_143_map.fits")} <= names
        assert f"Simulation_Working/Simulation_C_Configs/{split}/sim0000/cosmo_params.yaml" in names
        assert f"Simulation_Working/Simulation_CMB_Power_Spectra/{split}/sim0000/cmb_cls.npz" in names
    assert {"Simulation_Working/Simulation_Pictures/bands.png", "Simulation_Working/Simulation_Mask/mask_map.fits"} <= (
        names
    )
    note = read_skymap(folder / "Simulations/Test/sim0000/obs_143_map.fits").note
    assert "SYNTHETIC" in note


def test_one_worker_makes_the_same_bytes_and_growing_changes_nothing(made, composed):
    folder, _ = made
    cfg = composed(
        *SMALL, "splits.test=2", "run.only=[synthetic_templates,mask,foregrounds,theory,cmb,observe]", name="sims"
    )
    build(cfg).run(workers=1, only=list(cfg.run.only))
    two, one = contents(folder), contents(Path(cfg.system.root) / cfg.dataset)
    shared = sorted(set(one) & set(two))
    assert len(shared) > 20
    assert all(one[name] == two[name] for name in shared)


def test_spectra_are_cambs_through_the_beam(composed):
    """T and E of 10 skies without foregrounds and noise against CAMB's lensed spectra times b_l^2."""
    cfg = composed(
        *SMALL, "nside=32", "sky.lmax=64", "foregrounds=none", "noise=none", "instrument.bands=[143]", name="sims"
    )
    stages = {stage.name: stage for stage in build(cfg).stages}
    found, n = [], 10
    for sim in range(n):
        item = {"split": "test", "sim": sim}
        _, cls = stages["theory"].run(item)
        _, lensed = stages["cmb"].run(item, cls=cls)
        obs = stages["observe"].run({**item, "band": "143"}, lensed_alm=lensed)
        alms = sht.analysis(obs.data[0], 64), *sht.analysis(obs.data[1:], 64, spin=2)
        found.append([sht.alm2cl(alm)[2:] for alm in alms[:2]])
    ell = np.arange(2, 65)
    b = hp.gauss_beam(np.radians(obs.fwhm_arcmin / 60), 64)[2:]
    for mean, theory in zip(np.mean(found, axis=0), (cls["lensed_tt"], cls["lensed_ee"]), strict=True):
        modes = n * (2 * ell + 1)
        x = mean / (theory[2:65] * b**2) - 1
        assert abs(np.sum(modes * x) / modes.sum()) < 4 * np.sqrt(2 / modes.sum())
        assert 0.5 < np.mean(x**2 * modes / 2) < 1.7  # 63 multipoles: 1 within .18


@pytest.mark.parametrize("kind", ["scan", "white"])
def test_noise_has_its_level_and_its_knee(composed, kind):
    """Spectrum of a band's noise over 12 skies against (level)^2 [1 + (l / l_knee)^alpha], within its variance."""
    cfg = composed(*SMALL, "instrument=so_lat", "instrument.bands=[145]", f"noise={kind}", name="sims")
    stages = {stage.name: stage for stage in build(cfg).stages}
    stage, only = stages["observe"], stages["observe"].instrument.bands[0]
    variance = stages["variance"].run({"band": "145"}) if kind == "scan" else None
    cls = []
    for sim in range(12):
        noise = stage.noise({"split": "test", "sim": sim, "band": "145"}, variance)
        cls.append(sht.alm2cl(sht.analysis(noise[0], 30)))
    cl, ell = np.mean(cls, axis=0)[2:], np.arange(2, 31)
    theory = noise_cl(only.noise_t_uk_arcmin, 30, l_knee=only.l_knee_t, alpha=only.alpha_t)[2:]
    assert only.l_knee_t > 30
    np.testing.assert_allclose(cl / theory, 1, atol=4 * np.sqrt(2 / (12 * (2 * ell[0] + 1))))
    modes = 12 * (2 * ell + 1)
    assert np.sum(modes * cl / theory) / modes.sum() == pytest.approx(1, abs=4 * np.sqrt(2 / modes.sum()))


def test_varied_foregrounds_differ_from_sky_to_sky_and_stay_put(composed):
    cfg = composed(*SMALL, "foregrounds.vary.amplitude=0.2", "splits.test=2", name="sims")
    pipeline = build(cfg)
    pipeline.run(only=["synthetic_templates", "foregrounds"])
    paths = sorted((Path(cfg.system.root) / cfg.dataset).rglob("sim*/foregrounds_353_map.fits"))
    assert len(paths) == 4
    skies = [read_skymap(path)["T"] for path in paths]
    ratios = np.array([np.median(sky / skies[0]) for sky in skies[1:]])
    assert np.all(np.abs(np.log(ratios)) > 1e-3)
    assert np.all(np.abs(np.log(ratios)) < 5 * 0.2 * np.sqrt(2))


def test_narrow_beams_are_widened_to_what_pixels_hold(composed):
    cfg = composed("nside=64", "instrument=planck", name="sims")
    observe = next(stage for stage in build(cfg).stages if stage.name == "observe")
    assert {b.fwhm_arcmin for b in observe.instrument.bands} == {2 * hp.nside2resol(64, arcmin=True)}
    cfg.instrument.min_fwhm_pixels = 0.0
    observe = next(stage for stage in build(cfg).stages if stage.name == "observe")
    assert [b.fwhm_arcmin for b in observe.instrument.bands][:2] == [32.29, 27.94]


@pytest.mark.parametrize("fields", ["[U,Q]", "[T,Q]", "[]", "[T,E]"])
def test_fields_that_no_band_is_observed_in_are_refused(composed, fields):
    with pytest.raises(UserError, match=r"sky.fields=.*bands are observed in T, Q and U; choose"):
        composed(f"sky.fields={fields}", name="sims")


def test_polarisation_alone_is_that_of_a_dataset_with_t_and_is_cleaned(made, composed):
    """Every map of Q and U bit for bit, from the templates to the observation; then B from the simulation to the table.

    A band that sees T alone (545) is none of such a dataset.
    """
    words = (*SMALL, "sky.fields=[Q,U]", "method=hilc", "field=B", "analysis.pictures=0", "mask=galactic")
    cfg = composed(*words, name="clean")
    build(cfg).run()
    root, folder = Path(cfg.system.root) / cfg.dataset, made[0]
    found = sorted(path.relative_to(root) for path in root.rglob("*_map*.fits"))
    found = [path for path in found if (folder / path).is_file() and "Mask" not in str(path)]
    assert len(found) > 20
    for path in found:
        ours, theirs = read_skymap(root / path), read_skymap(folder / path)
        assert ours.fields == ("Q", "U")
        np.testing.assert_array_equal(ours.data, theirs.select("QU"), err_msg=str(path))
    rows = (root / "hilc" / "B" / "analysis" / "table.csv").read_text().splitlines()
    assert len(rows) == 4
    cfg = composed("instrument=planck", "sky.fields=[Q,U]", "nside=16", "sky.lmax=40", name="sims")
    (observe,) = [stage for stage in build(cfg).stages if stage.name == "observe"]
    assert {item["band"] for item in observe.items()} == {"30", "44", "70", "100", "143", "217", "353"}
    cfg.instrument.bands = ["545", "857"]
    with pytest.raises(UserError, match=r"sky.fields=\[Q,U\]: none of the bands of the instrument sees them"):
        next(stage for stage in build(cfg).stages if stage.name == "observe").items()


def test_a_cosmology_that_cannot_be_drawn_is_a_mistake_of_the_user(composed):
    cfg = composed("cosmology=wmap9", "cosmology.gaussian.mean=[1,2]", name="sims")
    with pytest.raises(UserError, match="as many means and sigmas as names"):
        Theory(cfg).run({"split": "test", "sim": 0})


@pytest.mark.parametrize("knee", [True, False])
def test_noise_of_bands_of_one_tube_is_correlated(composed, knee):
    """Its 1/f part with .9, its white part not at all: at each l the mean of six skies is within 4 sigma of its modes.

    With r = (l / l_knee)^alpha the correlation is .9 sqrt(r1 r2 / ((1 + r1)(1 + r2))).
    """
    bands = ("93", "145", "225")  # the last is of another tube
    cfg = composed(
        *SMALL, "instrument=so_sat", f"instrument.bands=[{','.join(bands)}]", f"noise.knee={knee}", name="sims"
    )
    stage = next(stage for stage in build(cfg).stages if stage.name == "observe")
    ell = np.arange(2, LMAX + 1)
    red = {band.name: knee * (ell / band.l_knee_p) ** band.alpha_p for band in stage.instrument.bands}
    n = 6
    cls = {(a, b): np.zeros(LMAX - 1) for a in bands for b in bands}
    for sim in range(n):
        item = {"split": "test", "sim": sim}
        alms = {b: sht.analysis(stage.noise({**item, "band": b}, None)[1:], LMAX, spin=2, niter=3)[1] for b in bands}
        for a, b in cls:
            cls[a, b] += sht.alm2cl(alms[a], alms[b])[2:] / n
    for a, b, rho in (("93", "145", 0.9), ("93", "225", 0.0), ("145", "225", 0.0)):
        wanted = rho * np.sqrt(red[a] * red[b] / ((1 + red[a]) * (1 + red[b])))
        found = cls[a, b] / np.sqrt(cls[a, a] * cls[b, b])
        scatter = (1 - wanted**2) / np.sqrt(n * (2 * ell + 1))
        for part in (ell < 12, ell > 30):
            assert abs(np.mean((found - wanted)[part])) < 4 * np.sqrt(np.mean(scatter[part] ** 2) / part.sum()) + 0.01
    cfg.noise.tube_correlation = 0.0
    stage = next(stage for stage in build(cfg).stages if stage.name == "observe")
    maps = {b: stage.noise({"split": "test", "sim": 0, "band": b}, None)[1] for b in bands}
    assert abs(np.corrcoef(maps["93"], maps["145"])[0, 1]) < 0.5
