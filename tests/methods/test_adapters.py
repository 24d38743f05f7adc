"""Programs of others: predictions from their files, pyilc in a subprocess, BROOM where it is installed."""

import dataclasses
import sys
import textwrap

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cmbml.config import resolvers as config
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.methods.broom.stages import Broom
from cmbml.methods.external.stages import ReadPredictions
from cmbml.methods.pyilc.stages import Pyilc
from cmbml.sims.bandmaps import cmb_maps
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.start import build
from tests.conftest import REPO

NSIDE, LMAX = 16, 40
NPIX = 12 * NSIDE**2
WORDS = (
    "instrument=toy", f"nside={NSIDE}", f"sky.lmax={LMAX}", "analysis.lmax=30", "analysis.band=[5,20]",
    "mask=none", "foregrounds=none",
)  # fmt: skip
ITEM = {"split": "test", "sim": 0}


class Held(list):
    """Maps in memory in place of files, with their items."""

    def __init__(self, maps, items):
        super().__init__(maps)
        self.items = items


@pytest.fixture(scope="module")
def composed_once(tmp_path_factory):
    """Function from a method to its configuration, in which nothing is resolved; each is composed once."""
    config.register()
    known = {}

    def make(method):
        if method not in known:
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
                root = tmp_path_factory.getbasetemp()
                known[method] = compose("clean", overrides=[f"system.root={root}/data", f"method={method}", *WORDS])
        return known[method]

    return make


@pytest.fixture(scope="module")
def changed(composed_once):
    """Function from a method and settings to a configuration."""

    def make(method, **settings):
        new = OmegaConf.create(OmegaConf.to_container(composed_once(method)))
        for key, value in settings.items():
            OmegaConf.update(new, key.replace("__", "."), value, merge=False, force_add=True)
        return new

    return make


def refused(message, call):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert ". " not in str(caught.value), "more than one sentence"
    return str(caught.value)


def sky(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, NPIX)).astype(np.float32)


@pytest.fixture(scope="module")
def observed(changed):
    """Alms of a CMB, and what the bands see of it beside the noise."""
    cfg = changed("pyilc", method__checkout=None)
    stage = Pyilc(cfg)
    rng = np.random.default_rng(5)
    alms = {x: sht.analysis(hp.smoothing(rng.normal(size=NPIX, scale=80), 0.1), LMAX) for x in "TEB"}
    for x in "EB":
        alms[x][[0, 1, LMAX + 1]] = 0
    items = [{**ITEM, **band} for band in stage.bands()]
    seen = [stage.skymap(i, cmb_maps(alms, ("T", "Q", "U"), stage.beam(i), NSIDE), "") for i in items]
    return alms, Held(seen, items)


# ---- files


def external(changed, tmp_path, **settings):
    given = {"method__predictions": f"{tmp_path}/maps/*.fits", "method__fwhm_arcmin": 300, "splits__test": 2}
    return ReadPredictions(changed("external", **(given | settings)))


def test_predictions_are_read_in_the_order_of_their_names(changed, tmp_path):
    (tmp_path / "maps").mkdir()
    hp.write_map(tmp_path / "maps/cmb_1.fits", sky(1)[0] * 1e-6, column_units="K_CMB", dtype=np.float64)
    hp.write_map(tmp_path / "maps/cmb_0.fits", hp.reorder(sky(0)[0], r2n=True), nest=True, column_units="uK_CMB")
    stage = external(changed, tmp_path, method__lmax=30)
    for item in stage.items():
        found = stage.run(item)
        assert (found.fields, found.unit, found.fwhm_arcmin, found.lmax) == (("T",), "uK_CMB", 300.0, 30)
        np.testing.assert_allclose(found["T"], sky(item["sim"])[0], rtol=1e-6)
    # a unit that is given goes before what a file says; E and B may be the only column of any name
    stage = external(changed, tmp_path, method__unit="mK_CMB", field="E")
    np.testing.assert_allclose(stage.run({"split": "test", "sim": 0})["E"], 1e3 * sky(0)[0], rtol=1e-6)
    stage = external(changed, tmp_path, field="TQU")
    refused(
        "no column for the field Q, it has .*; rename one to Q, or leave Q out of field=TQU", lambda: stage.run(ITEM)
    )


def test_predictions_that_change_are_noticed_and_have_a_name_of_their_own(changed, tmp_path):
    (tmp_path / "maps").mkdir()
    path = tmp_path / "maps/cmb.fits"
    hp.write_map(path, sky(0)[0], column_units="uK_CMB")
    given = {"method__predictions": str(path), "method__fwhm_arcmin": 0, "method__name": "mycode", "splits__test": 1}
    given["pipeline"] = ["cmbml.methods.external.stages.ReadPredictions"]
    given["system__root"] = str(tmp_path / "data")
    build(changed("external", **given)).run()
    assert (tmp_path / "data/sims/mycode/T/Test/sim0000/prediction_map.fits").is_file()
    hp.write_map(path, sky(1)[0], column_units="uK_CMB", overwrite=True)
    (work,) = build(changed("external", **given)).plan()["read_predictions"]
    assert work.why == "method.predictions changed"


def test_predictions_that_do_not_fit_are_refused(changed, tmp_path):
    def bad(message, **settings):
        refused(message, lambda: [stage.run(item) for stage in [external(changed, tmp_path, **settings)]
                                  for item in stage.items()])  # fmt: skip

    bad("finds 0 files, and splits.test is 2; a test sky needs one each")
    bad("method.predictions names no files", method__predictions=None)
    bad("fwhm_arcmin=None must be the beam", method__fwhm_arcmin=None)
    bad("unit=K is not known; choose one of K_CMB, mK_CMB, uK_CMB", method__unit="K")
    bad("lmax=48 must lie between 2 and 3 nside - 1 = 47", method__lmax=48)
    (tmp_path / "maps").mkdir()
    for name in "01":
        hp.write_map(tmp_path / f"maps/{name}.fits", sky(0)[0])
    bad("says no unit .*must be there, or in method.unit")
    bad(
        "lies where method.name=maps writes; choose another",
        method__name="maps",
        system__root=str(tmp_path),
        dataset="",
    )
    bad("finds 2 files, and splits.test is 3", splits__test=3)
    bad("has nside 16 where 8 is needed", nside=8, sky__lmax=20, method__unit="uK_CMB")
    for name in "01":
        hp.write_map(tmp_path / f"maps/{name}.fits", np.where(np.arange(NPIX) < 3, np.nan, sky(0)[0]), overwrite=True)
    bad("3 pixels of .* UNSEEN or NaN, and there is no mask", method__unit="uK_CMB")


# ---- pyilc

STANDIN = """
import sys
import numpy as np
import yaml

print("reading", sys.argv[1])
p = yaml.safe_load(open(sys.argv[1]))
n, lmax = p["N_freqs"], p["ELLMAX"]
assert type(lmax) is int and type(p["N_scales"]) is int and type(p["save_weights"]) is str
assert p["wavelet_type"] == "CosineNeedlets" and len(p["ellpeaks"]) == p["N_scales"] - 1, "ellpeaks"
assert p["ellpeaks"][-1] == lmax + 1 and lmax < 3 * p["N_side"] - 1 and lmax - p["taper_width"] > 10
assert len(p["freq_map_files"]) == len(p["beam_files"]) == len(p["freq_bp_files"]) == n
assert p["ILC_preserved_comp"] == "CMB" and p["save_as"] in ("fits", "hdf5")
assert len(p["ILC_deproj_comps"]) == p["N_deproj"]
assert all(c in ("tSZ", "CIB") for c in p["ILC_deproj_comps"]), "unsupported component type in ILC_deproj_comps"
assert p["beam_type"] == "1DBeams" and p["bandpass_type"] == "ActualBandpasses"
beams = [np.loadtxt(f, usecols=(0, 1)) for f in p["beam_files"]]
assert all(b[0][0] == 0 and b[-1][0] >= lmax for b in beams), "beam profiles"
beams = np.array([b[: lmax + 1, 1] for b in beams])
assert (np.diff(beams[:, -1]) >= 0).all(), "from the widest to the narrowest"
assert all(np.loadtxt(f, unpack=True, usecols=(0, 1)).shape == (2, 2) for f in p["freq_bp_files"])
import healpy as hp
common = hp.gauss_beam(np.radians(p["perform_ILC_at_beam"] / 60), lmax=lmax)
total = 0
for name, beam in zip(p["freq_map_files"], beams):
    kelvin, header = hp.read_map(name, h=True)
    assert dict(header)["TUNIT1"] == "K_CMB" and dict(header)["ORDERING"] == "RING" and np.abs(kelvin).max() < 1e-2
    total = total + hp.almxfl(hp.map2alm(kelvin, lmax=lmax), common / beam) / n
name = p["output_dir"] + p["output_prefix"] + "needletILCmap_component_CMB" + p["output_suffix"] + ".fits"
hp.write_map(name, 1e6 * hp.alm2map(total, p["N_side"]), dtype=np.float64)
"""


@pytest.fixture
def pyilc(changed, tmp_path):
    """Function from a program and settings to the stage that runs it, and its log."""
    log = File(tmp_path / "sim0000" / "pyilc.log")

    def make(program=STANDIN, **settings):
        folder = tmp_path / "clone" / "pyilc"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.py").write_text(textwrap.dedent(program))
        given = {"method__checkout": str(tmp_path / "clone")}
        return Pyilc(changed("pyilc", **(given | settings))), log

    return make


def test_pyilc_gets_our_maps_and_gives_its_own(pyilc, observed):
    """A program that brings all bands to one beam and averages them finds the CMB at that beam, in uK."""
    alms, maps = observed
    stage, log = pyilc(method__perform_ILC_at_beam=450)
    assert stage.items()[0] == ITEM
    found = stage.run(ITEM, bands=maps, scratch={"pyilc_log": log})
    assert (found.fields, found.unit, found.fwhm_arcmin, found.lmax) == (("T",), "uK_CMB", 450.0, LMAX)
    known = sht.synthesis(sht.almxfl(alms["T"], gaussian_beam(450, LMAX)), NSIDE)
    np.testing.assert_allclose(found["T"], known, atol=3e-3 * known.std())  # iterated analysis at 2.5 nside
    assert [path.name for path in log.path.parent.iterdir()] == ["pyilc.log"], "only the log, which the engine removes"


def test_pyilc_that_fails_says_why(pyilc, observed, tmp_path):
    def fails(message, program=STANDIN, **settings):
        stage, log = pyilc(program, **settings)
        said = refused(message, lambda: stage.run(ITEM, bands=observed[1], scratch={"pyilc_log": log}))
        assert [path.name for path in log.path.parent.iterdir()] == ["pyilc.log"]
        return said, log.path.read_text()

    (tmp_path / "sim0000" / ".pyilc-killed").mkdir(parents=True)  # what an earlier run could not remove
    _, log = fails(
        "status 1; its last words are .*AssertionError: unsupported component", method__ILC_deproj_comps=["X"]
    )
    assert log.startswith("reading input.yml\nTraceback")
    fails("status 0; its last words are 'response failed at scale 3'", "print('response failed at scale 3'); quit()")
    stage, log = pyilc(method__python="/no/such/python")
    refused("method.python=/no/such/python is no program that can be run", stage.check)
    refused(
        "method.python=/no/such/python cannot be run",
        lambda: stage.run(ITEM, bands=observed[1], scratch={"pyilc_log": log}),
    )


def test_pyilc_refuses_before_anything_runs(pyilc, tmp_path):
    refused("checkout=None has no pyilc/main.py; give the folder", lambda: pyilc(method__checkout=None)[0].items())
    refused(f"checkout={tmp_path} has no pyilc/main.py", lambda: pyilc(method__checkout=str(tmp_path))[0].items())
    refused("recovers T alone, not field=E", lambda: pyilc(field="E"))
    refused("wavelet_type=Haar is not known; choose CosineNeedlets", lambda: pyilc(method__wavelet_type="Haar"))
    refused(f"ELLMAX={LMAX + 1} must lie between 11 and {LMAX}", lambda: pyilc(method__ELLMAX=LMAX + 1))
    refused("N_deproj=1 is not the number of", lambda: pyilc(method__N_deproj=1))


# ---- BROOM


def test_broom_recovers_the_sky(changed, observed):
    """Up to noise, and to the part of the sky, of the order of ILC_bias_tol, that every ILC takes for noise."""
    pytest.importorskip("broom", reason="BROOM (cmbroom) is not installed")
    alms, maps = observed
    rng = np.random.default_rng(6)
    noise = [3 * rng.normal(size=seen.data.shape) for seen in maps]
    seen = [dataclasses.replace(m, data=m.data + n) for m, n in zip(maps, noise, strict=True)]
    for field in "TE":
        cfg = changed("broom", field=field, method__perform_ILC_at_beam=450)
        found = Broom(cfg).run(ITEM, bands=Held(seen, maps.items))
        assert (found.fields, found.fwhm_arcmin, found.lmax) == ((field,), 450.0, LMAX)
        known = sht.synthesis(sht.almxfl(alms[field], gaussian_beam(450, LMAX)), NSIDE)
        assert np.corrcoef(found[field], known)[0, 1] > 0.99
        assert found[field] @ known / (known @ known) == pytest.approx(1, abs=0.03)


def test_broom_refuses_in_a_sentence(changed, observed, monkeypatch):
    monkeypatch.setitem(sys.modules, "broom", None)  # as if it were not installed
    stage = Broom(changed("broom"))
    refused("needs the package cmbroom, which the extra foreign", stage.check)
    for peaks in ([13, 27, LMAX], [27, 13, LMAX + 1], [27, LMAX + 1]):
        wrong = changed("broom", method__ellpeaks=peaks, method__ELLMAX=LMAX, method__N_scales=4)
        refused("one fewer than N_scales=4, and rise from method.ellmin=0 to ELLMAX", lambda cfg=wrong: Broom(cfg))
    assert Broom(changed("broom", method__N_scales=3)).peaks == [0, 20, LMAX + 1]
    assert Broom(changed("broom", method__ellpeaks=[9, 30])).peaks == [0, 9, 30]
    refused("ELLMAX=41 must lie between 11 and 40", lambda: Broom(changed("broom", method__ELLMAX=LMAX + 1)))
    refused("perform_ILC_at_beam=0 must be", lambda: Broom(changed("broom", method__perform_ILC_at_beam=0)))
    refused("recovers T, E or B, not field=TQU", lambda: Broom(changed("broom", field="TQU")))
