"""Trained networks that are given: stored with a card, found by their names, refused where they do not fit."""

import hashlib
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cmbml.config import resolvers
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.methods.delens_unet.stages import Export, Predict, Train
from cmbml.methods.shared.observed_noise import NAMES, ObservedNoise
from cmbml.methods.shared.training import with_seen
from cmbml.train.foreign import check_model
from cmbml.train.network import build
from tests.conftest import REPO

WORDS = ("experiment=tiny", "nside=32", "patches.patch=16", "network.n_filters=2")
TINY = ("experiment=tiny", "field=B", "scale=5")
STORE = runpy.run_path(str(REPO / "demonstrations" / "store.py"))


@pytest.fixture(scope="module")
def composed_once():
    """The configuration of a tiny delensing, in which nothing is resolved."""
    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        return OmegaConf.to_container(compose("delens", overrides=[*WORDS]))


@pytest.fixture
def come_along(composed_once, tmp_path, monkeypatch) -> Path:
    """A folder in place of `assets`, with a network `mine` that has learnt nothing, and noise of a spectrum of 1."""
    folder = tmp_path / "assets" / "models" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "assets" / "instruments").symlink_to(REPO / "assets" / "instruments")
    train = Train(OmegaConf.create(composed_once))
    settings = train.trainer_settings()
    weights = build(settings["network"]).state_dict()
    units = {"input_rms": [1.0] * 3, "target_rms": [1.0]}
    model = with_seen({"settings": settings, "state_dict": weights, **units}, train.seen())
    File(folder / "model.pt").write(model)
    File(folder / "observed_noise.npz").write({x: np.ones(94) for x in NAMES} | {"skies": np.array(2)})
    monkeypatch.setattr(resolvers, "ASSETS", tmp_path / "assets")
    return tmp_path / "assets"


@pytest.fixture
def changed(composed_once, come_along):
    """Function from settings to the configuration with this network given."""

    def make(**settings):
        new = OmegaConf.create(composed_once)
        for key, value in {"method__trained": "mine", **settings}.items():
            OmegaConf.update(new, key.replace("__", "."), value, merge=False)
        return new

    return make


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nside": 16}, "was trained with nside=32; give that to this run, too"),
        ({"rotation__kind": "harmonic"}, "was trained with rotation.kind=none; give that"),
        ({"delens__inputs": ["E_wf"]}, r"inputs=\['E_wf', 'B_hp', 'kappa_qe'\], and here that is \['E_wf'\]"),
        ({"delens__target": "lensing"}, "trained with delens.label=kappa, and here that is lensing_B; give"),
        ({"delens__noise": "theory"}, "for measured noise, and here they are for theory noise. Measured noise wants"),
        ({"splits__train": 0}, "for measured noise, and here they are for theory noise. Measured noise wants"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(changed, settings, said):
    with pytest.raises(UserError, match=said):
        Predict(changed(**settings)).check()


def test_the_network_of_another_job_is_refused(changed, come_along, tmp_path):
    model = torch.load(come_along / "models/mine/model.pt", weights_only=True)
    torch.save({**model, "settings": {**model["settings"], "delens": None}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="model.pt is no network of a method of delensing; give its model.pt"):
        Predict(changed(method__trained=str(tmp_path / "model.pt"))).check()


def test_the_losses_of_no_training_cannot_be_exported(changed):
    with pytest.raises(UserError, match="delens.export_npy writes the losses of a training, too; leave it or method"):
        Export(changed(delens__export_npy=True)).items()


def test_what_a_network_has_not_seen_is_told(changed, caplog):
    Predict(changed()).check()
    assert "other skies" not in caplog.text
    Predict(changed(delens__lmin_b=10, mask__kind="band", instrument__noise_p_uk_arcmin=3)).check()
    (line,) = [message for message in caplog.messages if "other skies" in message]
    for change in ("delens.lmin_b 30 -> 10", "mask.kind none -> band", "white noise of B 1.0 -> 3"):
        assert change in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"delens__noise": "mine", "sky__lmax": 92}, r"no spectrum transfer_t of l = 0 .. 92 \(sky.lmax\); give the"),
        ({"delens__noise": "yours"}, "path of a file like observed_noise.npz nor one of measured, theory, mine"),
        ({"delens__noise": "{folder}/none.npz"}, "none.npz is missing"),
        ({"delens__noise": "{folder}/negative.npz"}, "negative.npz has no spectrum noise_e of l = 0"),
        ({"delens__noise": "{folder}/skies.npz"}, "skies.npz does not say on how many skies it was measured"),
    ],
)  # fmt: skip
def test_noise_that_is_none_is_refused(changed, come_along, tmp_path, settings, said):
    held = dict(np.load(come_along / "models/mine/observed_noise.npz"))
    np.savez(tmp_path / "negative.npz", **{**held, "noise_e": held["noise_e"] - 2.0})
    np.savez(tmp_path / "skies.npz", **{**held, "skies": 0})
    settings["delens__noise"] = settings["delens__noise"].format(folder=tmp_path)
    with pytest.raises(UserError, match=said):
        ObservedNoise(changed(**settings)).check()


def demand_claims(folder: Path) -> str:
    """Compare a card with the files beside it; its text."""
    text = (folder / "README.md").read_text()
    known = yaml.safe_load(text.split("---\n")[1])["files"]
    assert {path.name for path in folder.iterdir()} == {"README.md", *known}
    for name, claim in known.items():
        body = (folder / name).read_bytes()
        assert claim == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert known["model.pt"]["size"] < 3e6
    model = check_model(torch.load(folder / "model.pt", weights_only=True), folder.name, "")
    assert f"{sum(x.numel() for x in model['state_dict'].values())} weights" in text
    assert f"method.trained={folder.name}" in text
    return text


def test_the_cards_of_the_networks_of_this_tree_claim_what_their_files_are():
    folders = [path for path in (REPO / "assets" / "models").glob("*") if path.is_dir()]
    for folder in folders:
        job, words = STORE["NETWORKS"][folder.name]
        assert f"python main_{job}.py {words}\n" in demand_claims(folder)
