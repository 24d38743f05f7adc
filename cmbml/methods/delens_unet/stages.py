"""The stages of the network method: orientations, training, prediction, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmbml.config.checks import FEATURES
from cmbml.core.asset import Every, File, Files, Item
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.training import Training, prediction
from cmbml.sky import rotation
from cmbml.sky.fields import field_map

# What the network is shown and how; training and prediction both depend on it.
GEOMETRY = ("delens.label", "delens.inputs", "patches", "rotation.kind", "sky.nside", "sky.lmax")


@dataclass(frozen=True)
class Pairs(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Skies as the trainer wants them: (inputs, target), each (channels, npix) float32 RING, read when asked for."""

    obs: Files
    features: Files
    label: Files
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]  # one at a time, without slices
        return channels(self.fields, self.obs, self.features, i), self.label[i].data


def channels(fields: Sequence[str], obs: Files, features: Files, i: int) -> np.ndarray:
    """Maps of a sky that the network sees, (channels, npix): of the observation and of the filtered sky."""
    skies = {source: files[i] for source, files in ((False, obs), (True, features)) if _any_of(fields, source)}
    return np.stack([skies[field in FEATURES][field] for field in fields])


def _any_of(fields: Sequence[str], filtered: bool) -> bool:
    return any((field in FEATURES) == filtered for field in fields)


class Rotations(Stage):
    """Index table of every orientation; none for the harmonic rotation, which needs no table."""

    name = "rotations"
    outputs = ("rotation",)
    uses = ("sky.nside",)
    reads = ("rotation.kind", "rotation.pairs")

    def items(self) -> list[Item]:
        """One item a pair of angles."""
        pairs = self.cfg.rotation.pairs if self.cfg.rotation.kind == "permutation" else []
        return [{"theta": theta, "phi": phi} for theta, phi in pairs]

    def run(self, item: Item) -> np.ndarray:
        """Forward table, int32 (npix,): ``rotated = m[table]``."""
        forward, _ = rotation.permutation(self.cfg.sky.nside, item["theta"], item["phi"])
        return forward


class Train(Training):
    """Train the network on all patches of the training skies; keep the weights with the best validation loss."""

    groups = (*Training.groups, "delens")
    inputs = (
        *(
            Every(asset, split=split, name=f"{split}_{asset}")
            for split in ("train", "valid")
            for asset in ("obs", "features", "label")
        ),
        Every("rotation"),
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs", "rotation.symmetries")
    reads = ("system", "splits", "rotation.average")

    def channels(self) -> tuple[Sequence[str], Sequence[str]]:
        """The inputs, and the field of the label."""
        return self.cfg.delens.inputs, [shown(self.cfg.delens.label)]

    def run(
        self, item: Item, *, rotation: Files, scratch: Mapping[str, File], **skies: Files
    ) -> tuple[dict[str, Any], list[dict]]:
        """The trained network as a plain dictionary, and one row an epoch."""
        return self.fitted(self.pairs("train", skies), self.pairs("valid", skies), rotation, scratch)

    def pairs(self, split: str, skies: Mapping[str, Files]) -> Pairs:
        """The skies of a split as the trainer wants them."""
        obs, features, label = (skies[f"{split}_{asset}"] for asset in ("obs", "features", "label"))
        return Pairs(obs, features, label, tuple(self.cfg.delens.inputs))


class Predict(SimStage):
    """What the network finds in the test skies, over the full sky, averaged over orientations and turned back."""

    name = "network_estimate"
    outputs = ("estimate",)
    splits = ("test",)
    parallel = False
    inputs = ("model", Every("obs"), Every("features"), Every("rotation"))
    uses = (*GEOMETRY, "rotation.predict", "rotation.average", "delens.fwhm_arcmin")
    reads = ("splits", "rotation.pairs", "train.batch_size", "system.device", "network")

    def run(self, item: Item, *, model: dict[str, Any], obs: Files, features: Files, rotation: Files) -> SkyMap:
        """Map of `delens.label`: kappa without unit, or a field in uK_CMB with the beam of the observation."""
        label = self.cfg.delens.label
        estimate = prediction(self.cfg, model, channels(self.cfg.delens.inputs, obs, features, 0), rotation)
        is_kappa = label == "kappa"
        unit, fwhm_arcmin = ("1", 0.0) if is_kappa else ("uK_CMB", self.cfg.delens.fwhm_arcmin)
        return SkyMap(estimate, (shown(label),), unit, fwhm_arcmin, self.cfg.sky.lmax, f"{label} by a network")


def shown(label: str) -> str:
    """Return the field that the map of a label shows: ``kappa``, or what follows the target."""
    return label.split("_")[-1]


class Export(Stage):
    """Delensed, observed and unlensed maps as arrays under the names of the earlier TensorFlow code."""

    name = "export"
    outputs = ("npy_pred", "npy_test", "npy_label", "npy_loss_train", "npy_loss_val")
    inputs = (*(Every(asset, split="test") for asset in ("prediction", "obs", "unlensed_alm")), "history")
    uses = ("delens.field",)
    reads = ("delens.export_npy", "rotation.predict")

    def items(self) -> list[Item]:
        """One item, named by the first orientation of the prediction; none unless asked for."""
        theta, phi = self.cfg.rotation.predict[0]
        return [{"theta": theta, "phi": phi}] if self.cfg.delens.export_npy else []

    def run(
        self, item: Item, *, prediction: Files, obs: Files, unlensed_alm: Files, history: list[dict]
    ) -> tuple[np.ndarray, ...]:
        """Arrays (sims, npix), RING, original orientation; losses (epochs,)."""
        field = self.cfg.delens.field
        skies = [np.stack([sky[field] for sky in maps]) for maps in (prediction, obs)]
        form = {"nside": obs[0].nside, "fwhm_arcmin": obs[0].fwhm_arcmin}
        skies.append(np.stack([field_map(alms, field, **form).astype(np.float32) for alms in unlensed_alm]))
        losses = [np.array([row[key] for row in history]) for key in ("train_loss", "valid_loss")]
        return (*skies, *losses)
