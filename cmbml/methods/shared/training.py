"""What learned methods of both jobs share: the stage that trains a network, and its prediction of a sky."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cmbml.config.checks import check_patches
from cmbml.core.asset import Assets, File
from cmbml.core.errors import UserError
from cmbml.core.launch import count_devices
from cmbml.core.stage import Stage
from cmbml.train.data import Skies
from cmbml.train.fit import fit
from cmbml.train.foreign import check_model
from cmbml.train.images import check_symmetries
from cmbml.train.network import probe
from cmbml.train.predict import predict_sky
from cmbml.train.settings import read_train

ODD = ("B", "B_hp")  # fields that change sign in a mirror


class Seeing(Stage):
    """A stage that shows maps to a network."""

    def seen(self) -> dict[str, Any]:
        """Plain values of what these maps depend on beside their fields and nside, by what they are called."""
        return {}


class Training(Seeing):
    """A stage that trains a network on patches of skies and keeps one set of its weights.

    Of several bases of a stage it is the last, so that another may say the channels.
    """

    name = "train"
    outputs = ("model", "history")
    scratch = ("last", "best")
    work = ("train.epochs", "train.repeats", "sky.nside", "sky.nside")
    parallel = False
    groups: ClassVar[tuple[str, ...]] = ("train", "network", "patches", "rotation")

    def __init__(self, config: DictConfig):
        """Check the patches, the training's settings and the network before anything runs."""
        super().__init__(config)
        if not list(self.items()):
            return
        settings = self.trainer_settings()
        check_patches(settings["nside"], settings["patches"]["patch"], settings["patches"]["halo"])
        read_train(settings["train"])
        check_symmetries(settings, settings["rotation"]["average"])
        lacking = [split for split in ("train", "valid") if not self.cfg.splits[split]]
        if lacking:
            raise UserError(
                f"A network needs skies to learn from; splits.{lacking[0]}=0 leaves none. Give method.trained one"
                " that was trained before, or take a method that learns nothing."
            )

    def channels(self) -> tuple[Sequence[str], Sequence[str]]:
        """Fields of the maps that the network sees, and of those that it gives."""
        raise NotImplementedError

    @cached_property
    def size(self) -> tuple[int, int]:
        """Number of the network's weights, and of the values that its layers give for one patch."""
        inputs, outputs = self.channels()
        return probe(self.trainer_settings(), (len(inputs), len(outputs)))

    def check(self) -> None:
        """Refuse a network that cannot map the patches' inputs to their targets, and devices that are not there."""
        _ = self.size
        count_devices(self.cfg.system.devices, self.cfg.system.device)

    def trainer_settings(self) -> dict[str, Any]:
        """Plain settings of `cmbml.train.fit.fit`: those of the configuration, nside, lmax and the channels' spins."""
        cfg: Any = OmegaConf.to_container(self.cfg)
        channels = dict(zip(("in", "out"), self.channels(), strict=True))
        return {
            **{group: cfg[group] for group in self.groups},
            "nside": cfg["sky"]["nside"],
            "lmax": cfg["sky"]["lmax"],
            **{f"spins_{side}": [2 if x in ("Q", "U") else 0 for x in names] for side, names in channels.items()},
            **{f"parity_{side}": [-1 if x in ODD else 1 for x in names] for side, names in channels.items()},
        }

    def fitted(
        self, train: Skies, valid: Skies, tables: Sequence[np.ndarray], scratch: Mapping[str, File]
    ) -> tuple[dict[str, Any], list[dict[str, float]]]:
        """The trained network as a plain dictionary, which knows what it has seen, and one row an epoch."""
        system = self.cfg.system
        model, history = fit(
            self.trainer_settings(),
            train,
            valid,
            tables,
            scratch,
            devices=system.devices,
            device=system.device,
            checkpoint_every=system.checkpoint_every,
            log_dir=str(scratch["last"].path.parents[1] / "tensorboard") if system.tensorboard else None,
        )
        return with_seen(model, self.seen()), history

    def cost(self, assets: Assets) -> tuple[float, float]:
        """Weights on disk; skies, tables, weights, and one batch of layers with their gradients in memory."""
        cfg = self.cfg
        npix = 12 * self.cfg.sky.nside**2
        maps = (cfg.splits.train + cfg.splits.valid) * sum(map(len, self.channels())) + len(cfg.rotation.pairs)
        weights, values = self.size
        layers = 2 * cfg.train.batch_size * values
        return 4.0 * weights, 4.0 * (npix * (maps + 10) + 4 * weights + layers)


def with_seen(model: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """A model whose settings tell what its network has seen (`Seeing.seen`)."""
    return {**model, "settings": {**model["settings"], "seen": dict(seen)}}


def prediction(
    cfg: DictConfig, model: Mapping[str, Any], inputs: np.ndarray, tables: Sequence[np.ndarray]
) -> np.ndarray:
    """What a network finds in a sky, (cout, npix), averaged as the group `rotation` says.

    ``tables`` are those of ``rotation.pairs`` when they are permutations, else empty. The file of the model may name a
    network of `cmbml.networks`, or the one of this run's configuration.
    """
    check_model(model, "The model of this method", cfg.network["_target_"])
    trained_pairs = [list(pair) for pair in cfg.rotation.pairs]
    pairs = [list(pair) for pair in cfg.rotation.predict]
    by_pair: list[Any] = [tables[trained_pairs.index(pair)] if any(pair) and len(tables) else None for pair in pairs]
    return predict_sky(
        model,
        inputs,
        pairs=pairs,
        tables=by_pair,
        average=cfg.rotation.average,
        batch_size=cfg.train.batch_size,
        device=cfg.system.device,
    )
