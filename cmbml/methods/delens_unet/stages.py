"""The stages of the network method: orientations, training, prediction, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.core.asset import Every, File, Files, Item
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage, Stage
from cmbml.sky import rotation
from cmbml.train.fit import fit
from cmbml.train.network import probe
from cmbml.train.predict import predict_sky
from cmbml.train.settings import read_train

# What the network is shown and how; training and prediction both depend on it.
GEOMETRY = ("delens.field", "delens.target", "delens.inputs", "patches", "rotation.kind", "sky.nside", "sky.lmax")


@dataclass(frozen=True)
class Pairs(Sequence):
    """Skies as the trainer wants them: (inputs, target), each (channels, npix) float32 RING, read when asked for."""

    obs: Files
    label: Files
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.obs[i].select(self.fields), self.label[i].data


class Rotations(Stage):
    """Index table of every orientation; none for the harmonic rotation, which needs no table."""

    name, outputs = "rotations", ("rotation",)
    uses, reads = ("sky.nside",), ("rotation.kind", "rotation.pairs")

    def items(self) -> list[Item]:
        """One item a pair of angles."""
        pairs = self.cfg.rotation.pairs if self.cfg.rotation.kind == "permutation" else []
        return [{"theta": theta, "phi": phi} for theta, phi in pairs]

    def run(self, item: Item) -> np.ndarray:
        """Forward table, int32 (npix,): ``rotated = m[table]``."""
        forward, _ = rotation.permutation(self.cfg.sky.nside, item["theta"], item["phi"])
        return forward

    def cost(self) -> tuple[float, float]:
        """One table on disk; search trees in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 40 * npix


class Train(Stage):
    """Train the network on all patches of the training skies; keep the weights with the best validation loss."""

    name, outputs, scratch, parallel = "train", ("model", "history"), ("last", "best"), False
    inputs = (
        Every("obs", split="train"),
        Every("label", split="train"),
        Every("obs", split="valid"),
        Every("label", split="valid"),
        Every("rotation"),
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs")
    reads = ("system", "splits")

    def __init__(self, config: DictConfig):
        """Check the training's settings and the network before anything runs."""
        super().__init__(config)
        settings = self.trainer_settings()
        read_train(settings["train"])
        self.weights, self.values = probe(settings, (len(settings["spins_in"]), 1))

    def run(
        self,
        item: Item,
        obs: Files,
        label: Files,
        valid_obs: Files,
        valid_label: Files,
        tables: Files,
        scratch: Mapping[str, File],
    ) -> tuple[dict[str, Any], list[dict[str, float]]]:
        """The trained network as a plain dictionary, and one row an epoch."""
        fields, system = tuple(self.cfg.delens.inputs), self.cfg.system
        return fit(
            self.trainer_settings(),
            Pairs(obs, label, fields),
            Pairs(valid_obs, valid_label, fields),
            tables,
            scratch,
            devices=system.devices,
            device=system.device,
            checkpoint_every=system.checkpoint_every,
            log_dir=str(scratch["last"].path.parents[1] / "tensorboard") if system.tensorboard else None,
        )

    def trainer_settings(self) -> dict[str, Any]:
        """Plain settings of `cmbml.train.fit.fit`: those of the configuration, nside, lmax and the channels' spins."""
        cfg = OmegaConf.to_container(self.cfg)
        spins = {field: 2 if field in "QU" else 0 for field in (*cfg["delens"]["inputs"], cfg["delens"]["field"])}
        return {
            **{group: cfg[group] for group in ("train", "network", "patches", "rotation", "delens")},
            "nside": cfg["sky"]["nside"],
            "lmax": cfg["sky"]["lmax"],
            "spins_in": [spins[field] for field in cfg["delens"]["inputs"]],
            "spins_out": [spins[cfg["delens"]["field"]]],
        }

    def cost(self) -> tuple[float, float]:
        """Weights on disk; skies, tables, weights, and one batch of layers with their gradients in memory."""
        cfg, npix = self.cfg, 12 * self.cfg.sky.nside**2
        maps = (cfg.splits.train + cfg.splits.valid) * (len(cfg.delens.inputs) + 1) + len(cfg.rotation.pairs)
        layers = 2 * cfg.train.batch_size * self.values
        return 4.0 * self.weights, 4.0 * (npix * (maps + 10) + 4 * self.weights + layers)


class Predict(SimStage):
    """Full-sky predictions for the test skies, averaged over orientations and turned back.

    With ``delens.target=lensing`` the network's estimate of the lensing is subtracted from the observed map: the
    prediction is the delensed field for every target.
    """

    name, outputs, splits, parallel = "predict", ("prediction",), ("test",), False
    inputs = ("model", "obs", Every("rotation"))
    uses = (*GEOMETRY, "rotation.predict")
    reads = ("splits", "rotation.pairs", "train.batch_size", "system.device")

    def run(self, item: Item, model: dict[str, Any], obs: SkyMap, tables: Files) -> SkyMap:
        """Delensed map with the beam of the observation."""
        field, target = self.cfg.delens.field, self.cfg.delens.target
        known = [list(pair) for pair in self.cfg.rotation.pairs]
        pairs = [list(pair) for pair in self.cfg.rotation.predict]
        estimate = predict_sky(
            model,
            obs.select(self.cfg.delens.inputs),
            pairs=pairs,
            tables=[tables[known.index(pair)] if any(pair) and len(tables) else None for pair in pairs],
            batch_size=self.cfg.train.batch_size,
            device=self.cfg.system.device,
        )
        data = estimate if target == "unlensed" else obs.select([field]) - estimate
        return SkyMap(data, (field,), "uK_CMB", obs.fwhm_arcmin, obs.lmax, f"delensed by a network, target {target}")

    def cost(self) -> tuple[float, float]:
        """One map on disk; maps and network in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 60 * npix


class Export(Stage):
    """Predictions, inputs and labels as arrays under the names of the earlier TensorFlow code."""

    name = "export"
    outputs = ("npy_pred", "npy_test", "npy_label", "npy_loss_train", "npy_loss_val")
    inputs = (Every("prediction", split="test"), Every("obs", split="test"), Every("label", split="test"), "history")
    uses, reads = ("delens.field",), ("delens.export_npy", "rotation.predict")

    def items(self) -> list[Item]:
        """One item, named by the first orientation of the prediction; none unless asked for."""
        theta, phi = self.cfg.rotation.predict[0]
        return [{"theta": theta, "phi": phi}] if self.cfg.delens.export_npy else []

    def run(self, item: Item, predictions: Files, obs: Files, labels: Files, history: list[dict]) -> tuple:
        """Arrays (sims, npix), RING, original orientation; losses (epochs,)."""
        field = self.cfg.delens.field
        skies = [np.stack([sky[field] for sky in maps]) for maps in (predictions, obs, labels)]
        losses = [np.array([row[key] for row in history]) for key in ("train_loss", "valid_loss")]
        return (*skies, *losses)
