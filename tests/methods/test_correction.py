"""A network that is shown the linear MAP of kappa, or corrects it: what it sees and is asked for, where it begins."""

import healpy as hp
import numpy as np
import pytest

from cmbml.core.asset import Files
from cmbml.maps.skymap import SkyMap
from cmbml.methods.delens_unet.stages import Predict, Train
from cmbml.methods.linear_map.stages import Kappa, LinearMap, LinearMapToLearn
from cmbml.sky.lensing import unit_alm
from cmbml.start import build
from cmbml.train.network import build as build_network

NSIDE, LMAX = 16, 40
WORDS = (
    f"nside={NSIDE}", f"sky.lmax={LMAX}", "patches.patch=8", "patches.halo=4", "delens.lmin_b=5", "epochs=1",
    "instrument.fwhm_arcmin=200", "splits.train=1", "splits.valid=1", "splits.test=1",
)  # fmt: skip
CORRECTION = "experiment=correction"


@pytest.fixture(scope="module")
def sky():
    """What there is of a sky: maps that nobody has filtered, and alms of the true and the estimated convergence."""
    alms = [1e-2 * unit_alm(np.random.default_rng(i), LMAX) for i in range(2)]
    maps = np.random.default_rng(2).standard_normal((3, 12 * NSIDE**2)).astype(np.float32)
    return {
        "obs": [SkyMap(maps[:1], ("E",), "uK_CMB", 200.0, LMAX)],
        "features": [SkyMap(maps, ("E_wf", "B_hp", "kappa_qe"), "1", 0.0, LMAX)],
        "label": [SkyMap(hp.alm2map(alms[0], NSIDE)[None].astype(np.float32), ("kappa",), "1", 0.0, LMAX)],
        "unlensed_alm": [{"kappa": alms[0]}],
        "kappa_linear": [{"kappa": alms[1].astype(np.complex64)}],
    }


def test_what_the_network_sees_and_is_asked_for(composed, sky):
    true, linear = (
        hp.alm2map(sky[name][0]["kappa"].astype(complex), NSIDE) for name in ("unlensed_alm", "kappa_linear")
    )
    skies = {f"train_{name}": value for name, value in sky.items()}
    seen, target = Train(composed(*WORDS, CORRECTION)).pairs("train", skies)[0]
    features = sky["features"][0].data
    np.testing.assert_array_equal(seen[:2], features[:2])
    np.testing.assert_allclose(seen[2], linear, atol=1e-6)
    np.testing.assert_allclose(target[0], true - linear, atol=1e-6)
    assert seen.dtype == target.dtype == np.float32

    cfg = composed(*WORDS, "delens.inputs=[kappa_linear,E,B_hp]")  # in the order of the user, and asked for kappa
    del skies["train_unlensed_alm"]
    seen, target = Train(cfg).pairs("train", skies)[0]
    np.testing.assert_allclose(seen[0], linear, atol=1e-6)
    np.testing.assert_array_equal(seen[1:], [sky["obs"][0]["E"], features[1]])
    np.testing.assert_array_equal(target, sky["label"][0].data)


def test_an_untrained_correction_is_the_linear_map(composed, sky):
    """To the last bit; a network that answers something changes it by that."""
    cfg = composed(*WORDS, CORRECTION)
    settings = Train(cfg).trainer_settings()
    net = build_network(settings["network"])
    model = {"settings": settings, "state_dict": net.state_dict(), "epoch": 0, "valid_loss": 0.0}
    model |= {"input_rms": [1.0, 1.0, 1e-2], "target_rms": [1e-2]}
    item = {"split": "test", "sim": 0}
    shown = {name: sky[name] for name in ("obs", "features", "kappa_linear")}
    known = Kappa(cfg).run(item, kappa_linear=sky["kappa_linear"][0])["kappa"].astype(np.float32)
    found = Predict(cfg).run(item, model=model, rotation=Files(()), **shown)
    assert (found.fields, found.unit, found.fwhm_arcmin) == (("kappa",), "1", 0.0)
    np.testing.assert_array_equal(found["kappa"], known)
    model["state_dict"]["head.bias"] = model["state_dict"]["head.bias"] + 0.5
    found = Predict(cfg).run(item, model=model, rotation=Files(()), **shown)
    np.testing.assert_allclose(found["kappa"] - known, 0.5 * 1e-2, atol=1e-7)


def test_the_linear_map_is_made_of_what_a_network_learns_from_and_of_nothing_else(composed):
    def made(*words):
        plan = build(composed(*WORDS, *words)).plan()
        return {name: [work.item.get("split", "") for work in plan[name]] for name in ("label", "linear_map")}

    every = ["train", "valid", "test"]
    assert made() == {"label": every, "linear_map": []}
    assert made("delens.inputs=[E_wf,kappa_linear]") == {"label": every, "linear_map": every}
    assert made(CORRECTION) == {"label": [], "linear_map": every}
    assert made("method=linear_map")["linear_map"] == ["test"]
    # The method and the network share the file of a test sky: it has one fingerprint.
    prints = []
    for words, kind in ((["method=linear_map"], LinearMap), ([CORRECTION], LinearMapToLearn)):
        pipeline = build(composed(*WORDS, *words))
        stage = next(stage for stage in pipeline.stages if type(stage) is kind)
        prints.append(pipeline.fingerprint(stage, {"split": "test", "sim": 0}))
    assert prints[0] == prints[1]
