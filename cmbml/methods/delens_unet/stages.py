"""The stages of the network method: orientations, training, prediction, export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.config.checks import FEATURES, FIELDS, LINEAR, OF_KAPPA
from cmbml.config.truth import cleaned, corrects, sees_linear_map
from cmbml.core.asset import Every, File, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.filtered_sky import kappa_map
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
class Shown:
    """What the network sees of some skies, read when it is asked for.

    Attributes
    ----------
    fields : tuple of str
        In the order of the channels.
    nside : int
    obs, features : Files
        Maps of the observation and of the filtered sky.
    kappa_linear : Files, or None
        Alms of the linear MAP, where the network sees it or corrects it.
    """

    fields: tuple[str, ...]
    nside: int
    obs: Files
    features: Files
    kappa_linear: Files | None = None

    def channels(self, i: int) -> np.ndarray:
        """Maps of a sky, (channels, npix) float32, RING."""
        maps = {LINEAR: self.linear_map(i)} if LINEAR in self.fields else {}
        for files, known in ((self.obs, FIELDS), (self.features, FEATURES)):
            wanted = [field for field in self.fields if field in known]
            if wanted:
                maps |= zip(wanted, files[i].select(wanted), strict=True)
        return np.stack([maps[field] for field in self.fields])

    def linear_map(self, i: int) -> np.ndarray:
        """The linear MAP of the convergence of a sky, (npix,) float32, RING."""
        if self.kappa_linear is None:
            raise ValueError("nobody has asked for the linear MAP")
        return kappa_map(self.kappa_linear[i], self.nside).astype(np.float32)


@dataclass(frozen=True)
class Pairs(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Skies as the trainer wants them: (inputs, target), each (channels, npix) float32 RING, read when asked for.

    The target is the label, or without one what the linear MAP lacks of the true convergence.
    """

    shown: Shown
    label: Files
    unlensed_alm: Files | None = None

    def __len__(self) -> int:
        return len(self.shown.obs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]  # one at a time, without slices
        if self.unlensed_alm is None:
            return self.shown.channels(i), self.label[i].data
        true = kappa_map(self.unlensed_alm[i], self.shown.nside).astype(np.float32)
        return self.shown.channels(i), (true - self.shown.linear_map(i))[None]


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
    "foregrounds.kind",
    "sims.combine",
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
        return {
            "sky.lmax": cfg.sky.lmax,
            "delens.fwhm_arcmin": cfg.delens.fwhm_arcmin,
            "delens.lmin_b": cfg.delens.lmin_b,
            "delens.noise": "measured" if is_known(cfg) else "theory",
            "quadratic.estimator": cfg.quadratic.estimator,
            "mask.kind": cfg.mask.kind,
            **_noise(cfg),
        }


def _noise(cfg: DictConfig) -> dict[str, Any]:
    """White noise of the one band, or of which bands a sky is combined."""
    if cleaned(cfg):
        return {"instrument.name": cfg.instrument.name, "foregrounds.kind": cfg.foregrounds.kind}
    band = one_band(cfg.instrument)
    return {f"white noise of {x}": round(float(band.noise(x)[0]), 4) for x in "TEB"}


class Train(OfSky, Training):
    """Train the network on all patches of the training skies; keep the weights with the best validation loss."""

    inputs = (
        *(
            Every(asset, split=split, name=f"{split}_{asset}")
            for split in ("train", "valid")
            for asset in ("obs", "features", "label")
        ),
        Every("rotation"),
        *(
            Optional(*(Every(asset, split=split, name=f"{split}_{asset}") for split in ("train", "valid")), when=when)
            for asset, when in (("kappa_linear", sees_linear_map), ("unlensed_alm", corrects))
        ),
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs", "rotation.symmetries")
    reads = ("system", "rotation.average", "method.trained", *SEEN)

    def items(self) -> list[Item]:
        """One training; none where the network is given."""
        return [{}] if is_trained_here(self.cfg) else []

    def channels(self) -> tuple[Sequence[str], Sequence[str]]:
        """The inputs, and the field of the label."""
        return self.cfg.delens.inputs, [field_of(self.cfg.delens.label)]

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
        obs, features = (skies[f"{split}_{asset}"] for asset in ("obs", "features"))
        linear = skies.get(f"{split}_kappa_linear")
        shown = Shown(tuple(self.cfg.delens.inputs), self.cfg.sky.nside, obs, features, linear)
        return Pairs(shown, skies[f"{split}_label"], skies.get(f"{split}_unlensed_alm"))


class Predict(WithNetwork, OfSky, SimStage):
    """What the network finds in the test skies, over the full sky, averaged over orientations and turned back.

    A correction is added to the linear MAP: a network that answers 0 estimates the linear MAP itself.
    """

    name = "network_estimate"
    outputs = ("estimate",)
    splits = ("test",)
    parallel = False
    inputs = (
        Optional("model", when=is_trained_here),
        Every("obs"),
        Every("features"),
        Every("rotation"),
        Optional(Every("kappa_linear"), when=sees_linear_map),
    )
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
        if {*FEATURES, LINEAR} & set(self.cfg.delens.inputs) and noise not in (None, here):
            raise UserError(
                f"The network of {name} has learnt from maps that were filtered for {short(noise)} noise, and here they"
                f" are for {here} noise. Measured noise wants training skies (splits.train), or delens.noise=FILE with"
                " the observed_noise.npz of the dataset that the network was trained on."
            )

    def run(
        self,
        item: Item,
        *,
        obs: Files,
        features: Files,
        rotation: Files,
        kappa_linear: Files | None = None,
        model: dict[str, Any] | None = None,
    ) -> SkyMap:
        """Map of kappa without unit, or of a field in uK_CMB with the beam of the observation."""
        label = self.cfg.delens.label
        model = self.trained if model is None else model
        shown = Shown(tuple(self.cfg.delens.inputs), self.cfg.sky.nside, obs, features, kappa_linear)
        estimate = prediction(self.cfg, model, shown.channels(0), rotation)
        if corrects(self.cfg):
            estimate = estimate + shown.linear_map(0)
        field = field_of(label)
        unit, fwhm_arcmin = ("1", 0.0) if field == "kappa" else ("uK_CMB", self.cfg.delens.fwhm_arcmin)
        return SkyMap(estimate, (field,), unit, fwhm_arcmin, self.cfg.sky.lmax, f"{label} by a network")


def shown_and_asked(cfg: DictConfig) -> dict[str, Any]:
    """Label and inputs of a network, as plain values."""
    return {"label": cfg.delens.label, "inputs": list(cfg.delens.inputs)}


def field_of(label: str) -> str:
    """Return the field that an estimate shows: ``kappa``, or what follows the target."""
    return "kappa" if label in OF_KAPPA else label.split("_")[-1]


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
