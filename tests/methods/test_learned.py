"""What learned methods share: targets, what a network sees of a sky, and a network that finds the CMB."""

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cmbml.analysis.cleaning.measure import Curves
from cmbml.config import resolvers as config
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.band_network import BandSkies, PredictBands, Target, TrainBands
from cmbml.sims.bandmaps import CmbMap, ObserveBands
from cmbml.sky import sht
from tests.conftest import REPO

NSIDE, LMAX = 16, 40
WORDS = (
    "instrument=planck_cmbml", "instrument.bands=[30,353,545]", f"nside={NSIDE}", f"sky.lmax={LMAX}", "mask=none",
    "analysis.lmax=40", "analysis.band=[4,30]", "foregrounds=none", "noise=none", "method=patch_unet",
)  # fmt: skip


class Held(list):
    """Maps in memory in place of files, with their items."""

    def __init__(self, maps, items):
        super().__init__(maps)
        self.items = items


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Function from settings to a configuration, which was composed once and in which nothing is resolved."""
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        cfg = compose("clean", overrides=[f"system.root={tmp_path_factory.getbasetemp()}/data", *WORDS])

    def make(**settings):
        new = OmegaConf.create(OmegaConf.to_container(cfg))
        for key, value in settings.items():
            OmegaConf.update(new, key.replace("__", "."), value, merge=False)
        return new

    return make


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Alms of T, E and B, falling with l."""
    rng, ell = np.random.default_rng(seed), np.arange(LMAX + 1)
    white = rng.normal(size=(3, sht.alm_size(LMAX), 2)) @ [1, 1j]
    white[:, : LMAX + 1] = white[:, : LMAX + 1].real * 2**0.5
    amplitude = np.where(ell > 1, 300 / (ell + 5.0), 0.0)
    return {x: sht.almxfl(alm, amplitude).astype(np.complex64) for x, alm in zip("TEB", white, strict=True)}


def by_healpy(alms: dict, fwhm_arcmin: float) -> np.ndarray:
    """T, Q, U, E, B with a beam."""
    ell = np.arange(LMAX + 1)
    sigma = np.radians(fwhm_arcmin / 60) / 8**0.5 / np.log(2) ** 0.5
    seen = [hp.almxfl(alms[x].astype(complex), np.exp(-ell * (ell + 1) * sigma**2 / 2)) for x in "TEB"]
    return np.concatenate([hp.alm2map(seen, NSIDE, pol=True), [hp.alm2map(alm, NSIDE) for alm in seen[1:]]])


@pytest.mark.parametrize(("own", "asked", "carried"), [(0.0, 500.0, 500.0), (300.0, 500.0, 400.0), (300.0, 0.0, 0.0)])
@pytest.mark.parametrize(("field", "rows"), [("T", [0]), ("TQU", [0, 1, 2]), ("B", [4])])
def test_target_is_the_truth_at_its_beam(changed, own, asked, carried, field, rows):
    alms = drawn(0)  # which have the beam `own` already; 300 and 400 arcmin are 500 together
    cmb = SkyMap(np.zeros((3, 12 * NSIDE**2)), ("T", "Q", "U"), "uK_CMB", own, LMAX)
    made = Target(changed(field=field, clean__target_fwhm_arcmin=asked)).run({}, lensed_alm=alms, cmb_map=cmb)
    assert (made.fields, made.fwhm_arcmin) == (tuple(field), asked or own)
    np.testing.assert_allclose(made.data, by_healpy(alms, asked if own == 0 else carried)[rows], atol=1e-4)


def test_targets_that_there_are_not_are_refused(changed):
    cmb = SkyMap(np.zeros((3, 12 * NSIDE**2)), ("T", "Q", "U"), "uK_CMB", 300.0, LMAX)
    with pytest.raises(UserError, match=r"clean.target_fwhm_arcmin=200.0 is finer than the 300.0"):
        Target(changed(clean__target_fwhm_arcmin=200.0)).run({}, lensed_alm=drawn(0), cmb_map=cmb)
    with pytest.raises(UserError, match="method=patch_unet learns from skies whose CMB is known; name it in"):
        Target(changed(sims__external={"truth": None}))


def dataset(cfg, split: str, n: int, seed: int) -> tuple[Held, Held]:
    """Observations of all bands, in an order that nobody asked for, and the targets of n skies."""
    observe, cmb, target = ObserveBands(cfg), CmbMap(cfg), Target(cfg)
    alms = [drawn(seed + sim) for sim in range(n)]
    items = [{"split": split, "sim": sim, **band} for band in reversed(observe.bands()) for sim in reversed(range(n))]
    skies = [{"split": split, "sim": sim} for sim in range(n)]
    truths = [cmb.run(item, lensed_alm=alms[item["sim"]]) for item in skies]
    targets = [
        target.run(item, lensed_alm=alms[item["sim"]], cmb_map=truth) for item, truth in zip(skies, truths, strict=True)
    ]
    seen = [observe.run(item, lensed_alm=alms[item["sim"]]) for item in items]
    return Held(seen, items), Held(targets, skies)


def training(cfg, n: int, seed: int) -> dict:
    """What `TrainBands` reads: n training skies and one for validation."""
    found = {}
    for split, of, first in (("train", n, seed), ("valid", 1, 50)):
        found[f"{split}_band"], found[f"{split}_target"] = dataset(cfg, split, of, first)
    return found


@pytest.mark.parametrize(
    ("field", "rows", "spins"),
    [("T", [(30, 0), (353, 0), (545, 0)], [0, 0, 0]), ("E", [(30, 3), (353, 3)], [0, 0]),
     ("TQU", [(30, 0), (30, 1), (30, 2), (353, 0), (353, 1), (353, 2), (545, 0)], [0, 2, 2, 0, 2, 2, 0])],
)  # fmt: skip
def test_network_sees_the_bands_in_the_order_of_the_instrument(changed, field, rows, spins):
    cfg = changed(field=field, rotation__symmetries=False, rotation__average=1, instrument__min_fwhm_pixels=0.0)
    stage = TrainBands(cfg)
    beams = {int(band.name): band.fwhm_arcmin for band in stage.instrument.bands}
    skies = BandSkies(stage, *dataset(cfg, "train", 2, 5))
    assert (len(skies), cfg.clean.channels) == (2, len(rows))
    settings = stage.trainer_settings()
    assert (settings["spins_in"], settings["spins_out"]) == (spins, [2 * (x in "QU") for x in field])
    for sim, (inputs, target) in enumerate(skies):
        seen = {band: by_healpy(drawn(5 + sim), fwhm_arcmin) for band, fwhm_arcmin in beams.items()}
        for maps in seen.values():  # of the band's own Q and U
            maps[3] = hp.alm2map(hp.map2alm(maps[:3], LMAX, iter=1, pol=True)[1], NSIDE)
        np.testing.assert_allclose(inputs, [seen[band][row] for band, row in rows], rtol=0, atol=1e-3)
        finest = by_healpy(drawn(5 + sim), cfg.clean.fwhm_arcmin)["TQUEB".index(field[0])]
        np.testing.assert_allclose(target[0], finest, atol=1e-3)


def trained(cfg, folder, seed: int = 0) -> tuple[SkyMap, SkyMap]:
    """Prediction and truth of a test sky, of a network that saw a few others."""
    stage, scratch = TrainBands(cfg), {name: File(folder / f"{name}.pt") for name in ("last", "best")}
    model, history = stage.run({}, **training(cfg, 3, seed), scratch=scratch)
    assert len(history) == cfg.train.epochs
    obs, truth = dataset(cfg, "test", 2, 90)
    one = [i for i, item in enumerate(obs.items) if item["sim"] == 1]
    seen = Held([obs[i] for i in one], [obs.items[i] for i in one])
    return PredictBands(cfg).run({"split": "test", "sim": 1}, model=model, bands=seen), truth[1]


@pytest.mark.parametrize(("field", "kind"), [("B", "permutation"), ("TQU", "harmonic")])
def test_network_finds_the_cmb_of_a_clear_sky(changed, tmp_path, field, kind):
    pair = [120, 30]
    turns = {"kind": kind, "pairs": [pair], "predict": [[0, 0], pair], "symmetries": field != "TQU", "average": 1}
    cfg = changed(
        field=field, epochs=5, rotation=turns, train__batch_size=4, train__optimizer__lr=1e-2, network__n_filters=4,
        system__device="cpu",
    )  # fmt: skip
    found, truth = trained(cfg, tmp_path)
    assert (found.fields, found.unit, found.lmax) == (tuple(field), "uK_CMB", LMAX)
    assert found.fwhm_arcmin == truth.fwhm_arcmin == cfg.clean.fwhm_arcmin
    for a, b in zip(found.data, truth.data, strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.3 * b.std()


def test_a_network_serves_other_skies_of_the_same_bands(changed, tmp_path, caplog):
    cfg = changed(epochs=1, network__n_filters=4, system__device="cpu")
    stage, scratch = TrainBands(cfg), {name: File(tmp_path / f"{name}.pt") for name in ("last", "best")}
    model, _ = stage.run({}, **training(cfg, 1, 0), scratch=scratch)
    path = tmp_path / "model.pt"
    File(path).write(model)
    obs, _ = dataset(cfg, "test", 1, 90)
    item, own = {"split": "test", "sim": 0}, PredictBands(cfg).run({"split": "test", "sim": 0}, model=model, bands=obs)
    given = {
        "method__trained": str(path),
        "splits": {"train": 0, "valid": 0, "test": 1},
        "sims__external": {"truth": None},
    }
    there = PredictBands(changed(**given)).run(item, bands=obs)
    np.testing.assert_array_equal(there.data, own.data)
    assert there.fwhm_arcmin == own.fwhm_arcmin
    PredictBands(changed(**given)).check()
    assert "other skies" not in caplog.text
    PredictBands(changed(**given, noise__kind="scan", instrument__fwhm_arcmin={"30": 500.0})).check()
    assert "other skies than these: beam of 30 439.7" in caplog.text
    assert "-> 500.0, noise.kind none -> scan" in caplog.text
    assert [list(kind(changed(**given)).items()) for kind in (Target, TrainBands, Curves)] == [[], [], []]
    with pytest.raises(
        UserError, match="finds T from T of 30, .* and here B is wanted from B of 30, B of 353; give the"
    ):
        PredictBands(changed(**given, field="B")).run(item, bands=obs)
    (tmp_path / "text.pt").write_text("<html>")
    mistakes = {
        tmp_path / "text.pt": "cannot be read",
        scratch["last"].path: "holds no model: its .* is missing",
        tmp_path / "none.pt": "is no file of a network; give the model.pt",
    }
    for path, words in mistakes.items():
        with pytest.raises(UserError, match=f"{path} {words}"):
            PredictBands(changed(**{**given, "method__trained": str(path)})).run(item, bands=obs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits__valid": 0}, "splits.valid=0 leaves none"),
        ({"field": "TQU"}, "field=TQU: Q and U mix .* rotation=harmonic or rotation=none"),
        ({"patches__patch": 24}, "patches.patch=24 must be a power of two"),
        ({"train__repeats": 0}, "train.repeats=0"),
        ({"patches": {"layout": "mosaic", "patch": 16, "halo": 0}}, "A mosaic of the sky has none of the symmetries"),
    ],
)
def test_settings_that_do_not_suit_are_refused_before_anything_runs(changed, change, said):
    with pytest.raises(UserError, match=said):
        TrainBands(changed(**change))


def test_paper_is_the_published_setting(composed):
    cfg = composed("experiment=cmbnncs_paper", name="clean")
    train = TrainBands(cfg)
    settings = train.trainer_settings()
    assert [band.name for band in train.instrument.bands] == ["100", "143", "217", "353"]
    assert (cfg.method.name, cfg.clean.target_fwhm_arcmin, settings["network"]["linear_output"]) == (
        "cmbnncs_paper", 0.0, False,
    )  # fmt: skip
    keys = ("epochs", "batch_size", "loss", "repeats", "scale", "standardise", "keep")
    assert [settings["train"][key] for key in keys] == [120, 12, "l1", 3, 1 / 5, "none", "last"]
    assert settings["train"]["optimizer"] == {"lr": 0.1, "betas": [0.9, 0.999], "weight_decay": 0.0}
    lr, schedule = settings["train"]["optimizer"]["lr"], settings["train"]["schedule"]
    assert (schedule["name"], lr * schedule["final"], schedule["steps"]) == ("exponential", pytest.approx(1e-6), 10000)
    assert settings["patches"] == {"layout": "mosaic", "patch": 64, "halo": 0}
    assert settings["rotation"]["kind"] == "none"
