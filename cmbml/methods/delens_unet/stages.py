"""The stages of the network method: orientations, training, prediction, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import FEATURES
from cmbml.core.asset import Every, File, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.observed_noise import is_known
from cmbml.methods.shared.trained import WithNetwork, is_trained_here
from cmbml.methods.shared.training import Seeing, Training, prediction
from cmbml.sims.bands import one_band
from cmbml.sky import rotation
from cmbml.sky.fields import field_map
from cmbml.train.network import shown as short

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


# What else the maps of a sky depend on; the stages that make them use it.
SEEN = (
    "instrument",
    "delens.fwhm_arcmin",
    "delens.lmin_b",
    "delens.noise",
    "quadratic.estimator",
    "mask.kind",
    "splits",
)


class OfSky(Seeing):
    """A stage that shows the maps of a sky, observed and filtered, to a network."""

    def seen(self) -> dict[str, Any]:
        """Band limit, beam, filters, mask, and white noise in uK arcmin."""
        cfg = self.cfg
        band = one_band(cfg.instrument)
        return {
            "sky.lmax": cfg.sky.lmax,
            "delens.fwhm_arcmin": cfg.delens.fwhm_arcmin,
            "delens.lmin_b": cfg.delens.lmin_b,
            "delens.noise": "measured" if is_known(cfg) else "theory",
            "quadratic.estimator": cfg.quadratic.estimator,
            "mask.kind": cfg.mask.kind,
            **{f"white noise of {x}": round(float(band.noise(x)[0]), 4) for x in "TEB"},
        }


class Train(OfSky, Training):
    """Train the network on all patches of the training skies; keep the weights with the best validation loss."""

    inputs = (
        *(
            Every(asset, split=split, name=f"{split}_{asset}")
            for split in ("train", "valid")
            for asset in ("obs", "features", "label")
        ),
        Every("rotation"),
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs", "rotation.symmetries")
    reads = ("system", "rotation.average", "method.trained", *SEEN)

    def items(self) -> list[Item]:
        """One training; none where the network is given."""
        return [{}] if is_trained_here(self.cfg) else []

    def channels(self) -> tuple[Sequence[str], Sequence[str]]:
        """The inputs, and the field of the label."""
        return self.cfg.delens.inputs, [shown(self.cfg.delens.label)]

    def trainer_settings(self) -> dict[str, Any]:
        """Those of every training, and what the network is shown and asked for."""
        return {**super().trainer_settings(), "delens": shown_and_asked(self.cfg)}

    def run(
        self, item: Item, *, rotation: Files, scratch: Mapping[str, File], **skies: Files
    ) -> tuple[dict[str, Any], list[dict]]:
        """The trained network as a plain dictionary, and one row an epoch."""
        return self.fitted(self.pairs("train", skies), self.pairs("valid", skies), rotation, scratch)

    def pairs(self, split: str, skies: Mapping[str, Files]) -> Pairs:
        """The skies of a split as the trainer wants them."""
        obs, features, label = (skies[f"{split}_{asset}"] for asset in ("obs", "features", "label"))
        return Pairs(obs, features, label, tuple(self.cfg.delens.inputs))


class Predict(WithNetwork, OfSky, SimStage):
    """What the network finds in the test skies, over the full sky, averaged over orientations and turned back."""

    name = "network_estimate"
    outputs = ("estimate",)
    splits = ("test",)
    parallel = False
    inputs = (Optional("model", when=is_trained_here), Every("obs"), Every("features"), Every("rotation"))
    uses = (*GEOMETRY, "rotation.predict", "rotation.average", "delens.fwhm_arcmin")
    reads = ("rotation.pairs", "train.batch_size", "system.device", "network", "method.trained", *SEEN)

    def demand_fit(self, model: Mapping[str, Any], name: str) -> None:
        """Refuse a network that was shown other maps or asked for another one."""
        then = model["settings"].get("delens")
        if not isinstance(then, Mapping):
            raise UserError(f"{name} is no network of a method of delensing; give its model.pt.")
        for key, here in shown_and_asked(self.cfg).items():
            if then.get(key) != here:
                raise UserError(
                    f"The network of {name} was trained with delens.{key}={short(then.get(key))}, and here that is"
                    f" {here}; give this run the same (delens.label follows from delens.target and field), or another"
                    " network."
                )
        seen = model["settings"].get("seen")
        noise = seen.get("delens.noise") if isinstance(seen, Mapping) else None
        here = self.seen()["delens.noise"]
        if set(FEATURES) & set(self.cfg.delens.inputs) and noise not in (None, here):
            raise UserError(
                f"The network of {name} has learnt from maps that were filtered for {short(noise)} noise, and here they"
                f" are for {here} noise. Measured noise wants training skies (splits.train), or delens.noise=FILE with"
                " the observed_noise.npz of the dataset that the network was trained on."
            )

    def run(
        self, item: Item, *, obs: Files, features: Files, rotation: Files, model: dict[str, Any] | None = None
    ) -> SkyMap:
        """Map of `delens.label`: kappa without unit, or a field in uK_CMB with the beam of the observation."""
        label = self.cfg.delens.label
        model = self.trained if model is None else model
        estimate = prediction(self.cfg, model, channels(self.cfg.delens.inputs, obs, features, 0), rotation)
        is_kappa = label == "kappa"
        unit, fwhm_arcmin = ("1", 0.0) if is_kappa else ("uK_CMB", self.cfg.delens.fwhm_arcmin)
        return SkyMap(estimate, (shown(label),), unit, fwhm_arcmin, self.cfg.sky.lmax, f"{label} by a network")


def shown_and_asked(cfg: DictConfig) -> dict[str, Any]:
    """Label and inputs of a network, as plain values."""
    return {"label": cfg.delens.label, "inputs": list(cfg.delens.inputs)}


def shown(label: str) -> str:
    """Return the field that the map of a label shows: ``kappa``, or what follows the target."""
    return label.split("_")[-1]


class Export(Stage):
    """Delensed, observed and unlensed maps as arrays under the names of the earlier TensorFlow code."""

    name = "export"
    outputs = ("npy_pred", "npy_test", "npy_label", "npy_loss_train", "npy_loss_val")
    inputs = (*(Every(asset, split="test") for asset in ("prediction", "obs", "unlensed_alm")), "history")
    uses = ("delens.field",)
    reads = ("delens.export_npy", "rotation.predict", "method.trained")

    def items(self) -> list[Item]:
        """One item, named by the first orientation of the prediction; none unless asked for."""
        if self.cfg.delens.export_npy and not is_trained_here(self.cfg):
            raise UserError("delens.export_npy writes the losses of a training, too; leave it or method.trained out.")
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
