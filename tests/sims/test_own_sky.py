"""A map of one's own, straight to a delensing: what was simulated and written by another program is found again."""

import csv

import healpy as hp
import numpy as np
import pytest

from cmbml.analysis.delensing.found import Found
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.sims.own_sky import OwnSky
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from tests.conftest import run_here

ITEM = {"split": "test", "sim": 0}
SMALL = (
    "nside=32", "sky.margin=256", "instrument.fwhm_arcmin=30", "delens.lmin_b=30", "analysis.delta_l=10",
    "analysis.zoom=[0,60,40]", "method=linear_map", "run.workers=1", "sky.lmax=80",
)  # fmt: skip


@pytest.mark.usefixtures("sketches")
def test_the_map_of_a_simulated_sky_gives_what_the_simulation_gives(tmp_path):
    """Its pixels in a file of healpy's, in other units, NESTED, and with the sign of U that IAU has."""

    def run(*words):
        code, error = run_here(*words, root=tmp_path)
        assert code == 0, error

    run(
        *SMALL, "dataset=simulated", "splits.train=0", "splits.valid=0", "splits.test=1", "analysis.pictures=0",
        "run.only=[theory,cmb,observe,filters,linear_weights,linear_map,kappa,lensing_template,baseline,measure]",
    )  # fmt: skip
    q, u = hp.read_map(tmp_path / "simulated/Simulations/Test/sim0000/obs_map.fits", field=(3, 4), dtype=float)
    own = tmp_path / "own.fits"
    header = [("POLCCONV", "IAU"), ("COORDSYS", "G")]
    hp.write_map(
        own, hp.reorder([1e-3 * q, -1e-3 * u], r2n=True), nest=True,
        column_names=["Q", "U"], column_units="mK_CMB", extra_header=header,
        dtype=np.float64,
    )  # fmt: skip
    words = [word for word in SMALL if not word.startswith("sky.margin")]
    run(*words, "sims=external", f"sims.external.obs={own}", "dataset=own")
    for name in ("estimate", "template", "prediction"):
        known, found = (
            hp.read_map(tmp_path / f"{dataset}/linear_map/B/Test/sim0000/{name}_map.fits", dtype=float)
            for dataset in ("simulated", "own")
        )
        np.testing.assert_allclose(found, known, atol=1e-4 * known.std())
    assert len(list((tmp_path / "own/linear_map/B/analysis").rglob("*.png"))) == 2
    with (tmp_path / "own/linear_map/B/analysis/kappa.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert "estimate_mean" in rows[0]
    assert not any("truth" in name for name in rows[0])

    # With the truth in files, of another beam, the same is measured as on the simulated sky.
    sky = tmp_path / "simulated/Simulations/Test/sim0000"
    truth = []
    for name in ("unlensed", "lensed"):
        alms = np.load(sky / f"cmb_{name}_alm.npz")
        pair = [sht.almxfl(alms[x].astype(complex), gaussian_beam(20.0, 80)) for x in "EB"]
        maps = 1e-6 * sht.synthesis(np.stack(pair), 32, spin=2)
        truth.append(f"sims.external.truth_{name}={tmp_path / name}.fits")
        hp.write_map(tmp_path / f"{name}.fits", maps, column_names=["Q", "U"], column_units="K_CMB", coord="G")
    kappa = np.load(sky / "cmb_unlensed_alm.npz")["kappa"].astype(complex)
    hp.write_map(tmp_path / "true_kappa.fits", sht.synthesis(kappa, 32), column_names=["kappa"], coord="G")
    truth += [f"sims.external.truth_kappa={tmp_path}/true_kappa.fits", "sims.external.truth_fwhm_arcmin=20"]
    run(*words, "sims=external", f"sims.external.obs={own}", *truth, "dataset=own", "analysis=default")
    known, found = (
        list(csv.DictReader((tmp_path / f"{name}/linear_map/B/analysis/Test/sim0000/metrics.csv").open()))
        for name in ("simulated", "own")
    )
    for here, there in zip(found, known, strict=True):
        for metric in ("A_res", "transfer", "rho", "RMSE"):
            assert float(here[metric]) == pytest.approx(float(there[metric]), rel=0.01), metric
    with (tmp_path / "own/linear_map/B/analysis/kappa.csv").open() as f:
        for row in csv.DictReader(f):
            band = np.arange(int(row["first"]), int(row["last"]) + 1)
            power = np.average(sht.alm2cl(kappa)[band], weights=2 * band + 1)
            assert float(row["truth_mean"]) == pytest.approx(power, rel=0.02)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "sims.external.obs is the file of the map that is delensed"),
        (["sims.external.obs=/nowhere/*.fits"], "finds no file; mend the pattern."),
        (
            ["sims.external.obs={here}/*.fits", "splits.test=3"],
            "finds 2 files, and splits.test is 3; say splits.test=2",
        ),
        (["sims.external.obs={here}/a.fits", "splits.train=1"], "none can be learnt from; splits.train=0."),
        (
            ["sims.external.obs={here}/a.fits", "sims.external.unit=Jy"],
            "sims.external.unit=Jy is not known; choose one",
        ),
        (
            ["sims.external.obs={here}/a.fits", "sims.external.truth_lensed={here}/b.fits"],
            "give sims.external.truth_unlensed and sims.external.truth_lensed, or neither.",
        ),
        (
            ["sims.external.obs={here}/a.fits"]
            + [f"sims.external.truth_{name}={{here}}/*.fits" for name in ("unlensed", "lensed")],
            "finds 2 files, and splits.test is 1; say splits.test=2",
        ),
    ],
)
def test_what_cannot_be_delensed_is_refused_with_the_plan(command, tmp_path, words, told):
    for name in "ab":
        (tmp_path / f"{name}.fits").touch()
    filled = [word.replace("{here}", str(tmp_path)) for word in words]
    code, error = command("sims=external", *SMALL[:1], *SMALL[2:], *filled, "run.dry=true")
    assert (code, error.count("\n")) == (1, 1)
    assert told in error


def test_masked_pixels_may_be_empty_and_t_has_no_dipole(composed, tmp_path):
    """A mask of half the sky, of maps that are constant, and UNSEEN beyond: E, B and T of the other half alone."""
    nside = 16
    npix = 12 * nside**2
    good = np.arange(npix) < npix // 2
    maps = np.where(good, np.array([[1e3], [2.0], [3.0]]), hp.UNSEEN)
    own = tmp_path / "own.fits"
    hp.write_map(own, maps, column_names=list("TQU"), column_units="uK_CMB", coord="G", dtype=np.float64)
    cfg = composed(
        "sims=external", f"sims.external.obs={own}", f"nside={nside}", "sky.lmax=32", "sky.fields=[T,E,B,Q,U]",
        "method=linear_map", "delens.lmin_b=5", "instrument.fwhm_arcmin=200", "analysis.lmax=32",
    )  # fmt: skip
    with pytest.raises(UserError, match="UNSEEN or NaN, and there is no mask"):
        OwnSky(cfg).run(ITEM)
    mask = SkyMap(good[None].astype(np.float32), ("mask",), "1", 0.0, 32)
    obs, alms = OwnSky(cfg).run(ITEM, mask=mask)
    assert np.abs(obs["T"]).max() < 1e-3  # a constant is a monopole, and nothing is left of it
    np.testing.assert_allclose(obs["Q"], np.where(good, 2.0, 0), atol=1e-5)
    tapered = SkyMap((good * np.linspace(0.2, 1, npix))[None].astype(np.float32), ("mask",), "1", 0.0, 32)
    assert np.abs(OwnSky(cfg).run(ITEM, mask=tapered)[0]["T"]).max() < 1e-3  # nor of its step in a taper
    known = hp.map2alm([0 * good, 2.0 * good, 3.0 * good], lmax=32, iter=1)
    for x, alm in zip("EB", known[1:], strict=True):
        np.testing.assert_allclose(alms[x], alm, atol=1e-5)


def test_spectra_of_what_was_found(composed):
    """Of a template that is half of the observed field: a quarter of its power, and so is what is left."""
    cfg = composed(
        "nside=16", "sky.lmax=40", "patches.patch=8", "patches.halo=4", "method=linear_map", "delens.lmin_b=5",
        "instrument.fwhm_arcmin=200", "analysis.lmax=40", "analysis.delta_l=13", "analysis.r.band=[2,40]",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    alm = rng.standard_normal(sht.alm_size(40)) + 0j
    m = sht.synthesis(sht.almxfl(alm, gaussian_beam(200.0, 40)), 16)
    header = (("B",), "uK_CMB", 200.0, 40)
    maps = {"obs": m, "lensing_template": 0.5 * m, "prediction": 0.5 * m}
    rows, _ = Found(cfg).run(ITEM, **{name: SkyMap(x[None], *header) for name, x in maps.items()})
    cl = sht.alm2cl(alm)
    for row in rows:
        band = np.arange(row["first"], row["last"] + 1)
        power = np.average(cl[band], weights=2 * band + 1)
        # The map analysis at 2.5 nside errs by 1 %.
        assert row["observed"] == pytest.approx(power, rel=0.02)
        assert row["template"] == pytest.approx(row["observed"] / 4)
        assert row["delensed"] == pytest.approx(row["observed"] / 4)
        assert row["observed_x_template"] == pytest.approx(row["observed"] / 2)
