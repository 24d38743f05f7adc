"""The stages of the network method: orientations, training, prediction, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.core.asset import Every, File, Files, Item
from cmbml.core.checks import FEATURES, check_patches
from cmbml.core.skymap import SkyMap
from cmbml.core.stage import SimStage, Stage
from cmbml.sky import rotation
from cmbml.sky.fields import field_map
from cmbml.train.fit import fit
from cmbml.train.network import probe
from cmbml.train.predict import predict_sky
from cmbml.train.settings import read_train

# What the network is shown and how; training and prediction both depend on it.
GEOMETRY = ("delens.label", "delens.inputs", "patches", "rotation.kind", "sky.nside", "sky.lmax")
ODD = ("B", "B_hp")  # fields that change sign in a mirror


@dataclass(frozen=True)
class Pairs(Sequence):
    """Skies as the trainer wants them: (inputs, target), each (channels, npix) float32 RING, read when asked for."""

    obs: Files
    features: Files
    label: Files
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return channels(self.fields, self.obs, self.features, i), self.label[i].data


def channels(fields: Sequence[str], obs: Files, features: Files, i: int) -> np.ndarray:
    """Maps of a sky that the network sees, (channels, npix): of the observation and of the filtered sky."""
    skies = {source: files[i] for source, files in ((False, obs), (True, features)) if _any_of(fields, source)}
    return np.stack([skies[field in FEATURES][field] for field in fields])


def _any_of(fields: Sequence[str], filtered: bool) -> bool:
    return any((field in FEATURES) == filtered for field in fields)


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
        *(Every(asset, split=split) for split in ("train", "valid") for asset in ("obs", "features", "label")),
        Every("rotation"),
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs", "rotation.symmetries")
    reads = ("system", "splits", "rotation.average")

    def __init__(self, config: DictConfig):
        """Check the patches, the training's settings and the network before anything runs."""
        super().__init__(config)
        settings = self.trainer_settings()
        check_patches(settings["nside"], **settings["patches"])
        read_train(settings["train"])
        self.weights, self.values = probe(settings, (len(settings["spins_in"]), 1))

    def run(
        self,
        item: Item,
        *skies: Files,
        scratch: Mapping[str, File],
    ) -> tuple[dict[str, Any], list[dict[str, float]]]:
        """The trained network as a plain dictionary, and one row an epoch."""
        fields, system = tuple(self.cfg.delens.inputs), self.cfg.system
        return fit(
            self.trainer_settings(),
            Pairs(*skies[:3], fields),
            Pairs(*skies[3:6], fields),
            skies[6],
            scratch,
            devices=system.devices,
            device=system.device,
            checkpoint_every=system.checkpoint_every,
            log_dir=str(scratch["last"].path.parents[1] / "tensorboard") if system.tensorboard else None,
        )

    def trainer_settings(self) -> dict[str, Any]:
        """Plain settings of `cmbml.train.fit.fit`: those of the configuration, nside, lmax and the channels' spins."""
        cfg = OmegaConf.to_container(self.cfg)
        fields = {"in": cfg["delens"]["inputs"], "out": [shown(cfg["delens"]["label"])]}
        return {
            **{group: cfg[group] for group in ("train", "network", "patches", "rotation", "delens")},
            "nside": cfg["sky"]["nside"],
            "lmax": cfg["sky"]["lmax"],
            **{f"spins_{side}": [2 if x in ("Q", "U") else 0 for x in names] for side, names in fields.items()},
            **{f"parity_{side}": [-1 if x in ODD else 1 for x in names] for side, names in fields.items()},
        }

    def cost(self) -> tuple[float, float]:
        """Weights on disk; skies, tables, weights, and one batch of layers with their gradients in memory."""
        cfg, npix = self.cfg, 12 * self.cfg.sky.nside**2
        maps = (cfg.splits.train + cfg.splits.valid) * (len(cfg.delens.inputs) + 1) + len(cfg.rotation.pairs)
        layers = 2 * cfg.train.batch_size * self.values
        return 4.0 * self.weights, 4.0 * (npix * (maps + 10) + 4 * self.weights + layers)


class Predict(SimStage):
    """What the network finds in the test skies, over the full sky, averaged over orientations and turned back."""

    name, outputs, splits, parallel = "predict", ("estimate",), ("test",), False
    inputs = ("model", Every("obs"), Every("features"), Every("rotation"))
    uses = (*GEOMETRY, "rotation.predict", "rotation.average", "instrument.fwhm_arcmin")
    reads = ("splits", "rotation.pairs", "train.batch_size", "system.device")

    def run(self, item: Item, model: dict[str, Any], obs: Files, features: Files, tables: Files) -> SkyMap:
        """Map of `delens.label`: kappa without unit, or a field in uK_CMB with the beam of the observation."""
        label, rotated = self.cfg.delens.label, self.cfg.rotation
        known = [list(pair) for pair in rotated.pairs]
        pairs = [list(pair) for pair in rotated.predict]
        estimate = predict_sky(
            model,
            channels(self.cfg.delens.inputs, obs, features, 0),
            pairs=pairs,
            tables=[tables[known.index(pair)] if any(pair) and len(tables) else None for pair in pairs],
            average=rotated.average,
            batch_size=self.cfg.train.batch_size,
            device=self.cfg.system.device,
        )
        is_kappa = label == "kappa"
        unit, fwhm_arcmin = ("1", 0.0) if is_kappa else ("uK_CMB", self.cfg.instrument.fwhm_arcmin)
        return SkyMap(estimate, (shown(label),), unit, fwhm_arcmin, self.cfg.sky.lmax, f"{label} by a network")

    def cost(self) -> tuple[float, float]:
        """One map on disk; maps and network in memory."""
        npix = 12 * self.cfg.sky.nside**2
        return 4 * npix, 60 * npix


def shown(label: str) -> str:
    """Return the field that the map of a label shows: ``kappa``, or what follows the target."""
    return label.split("_")[-1]


class Export(Stage):
    """Delensed, observed and unlensed maps as arrays under the names of the earlier TensorFlow code."""

    name = "export"
    outputs = ("npy_pred", "npy_test", "npy_label", "npy_loss_train", "npy_loss_val")
    inputs = (*(Every(asset, split="test") for asset in ("prediction", "obs", "unlensed_alm")), "history")
    uses, reads = ("delens.field",), ("delens.export_npy", "rotation.predict")

    def items(self) -> list[Item]:
        """One item, named by the first orientation of the prediction; none unless asked for."""
        theta, phi = self.cfg.rotation.predict[0]
        return [{"theta": theta, "phi": phi}] if self.cfg.delens.export_npy else []

    def run(self, item: Item, predictions: Files, obs: Files, unlensed: Files, history: list[dict]) -> tuple:
        """Arrays (sims, npix), RING, original orientation; losses (epochs,)."""
        field = self.cfg.delens.field
        skies = [np.stack([sky[field] for sky in maps]) for maps in (predictions, obs)]
        form = {"nside": obs[0].nside, "fwhm_arcmin": obs[0].fwhm_arcmin}
        skies.append(np.stack([field_map(alms, field, **form).astype(np.float32) for alms in unlensed]))
        losses = [np.array([row[key] for row in history]) for key in ("train_loss", "valid_loss")]
        return (*skies, *losses)
