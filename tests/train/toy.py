"""A training small enough for tests: few filters, skies of random pixels."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmbml.core.asset import File
from cmbml.train.fit import fit

NSIDE = 16
SETTINGS = {
    "train": {
        "epochs": 4,
        "batch_size": 10,
        "loss": "logcosh",
        "optimizer": {"lr": 1e-2, "betas": [0.9, 0.999], "weight_decay": 0.0},
        "schedule": {"name": "piecewise", "boundaries": [0.5], "factors": [1.0, 0.1], "final": 0.0, "steps": None},
        "repeats": 1,
        "keep": "best",
        "standardise": "rms",
        "scale": 2.0,
        "seed": 3,
        "precision": "fp32",
        "compile": False,
        "channels_last": True,
    },
    "network": {
        "_target_": "cmbml.networks.unet.UNet",
        "in_channels": 2,
        "out_channels": 1,
        "n_filters": 3,
        "conv_width": 1,
        "network_depth": 2,
        "growth_factor": 2,
        "dropout": 0.3,
        "norm": "batch",
        "activation": "relu",
    },
    "patches": {"layout": "squares", "patch": 8, "halo": 2},
    "rotation": {"kind": "none", "pairs": [], "predict": [[0, 0]], "symmetries": False, "average": 1},
    "nside": NSIDE,
    "lmax": 2 * NSIDE,
    "spins_in": [0, 0],
    "spins_out": [0],
    "parity_in": [1, -1],
    "parity_out": [1],
}


def settings(**changes: Any) -> dict[str, Any]:
    """The toy's settings with some changed: ``train__loss="l1"``."""
    tree = copy.deepcopy(SETTINGS)
    for name, value in changes.items():
        *path, key = name.split("__")
        node = tree
        for step in path:
            node = node[step]
        node[key] = value
    return tree


@dataclass(frozen=True)
class Skies(Sequence):
    """White target, and two inputs: the target with noise, and noise alone. ``bad`` sky gets an infinite pixel."""

    n: int
    seed: int = 0
    nside: int = NSIDE
    bad: int = -1

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= i < self.n:
            raise IndexError(i)
        rng = np.random.default_rng((self.seed, i))
        target, noise, other = rng.normal(size=(3, 12 * self.nside**2))
        inputs = np.stack((7 * (target + 0.5 * noise), 0.1 * other)).astype(np.float32)
        if i == self.bad:
            inputs[0, 100] = np.float32(1e30)
        return inputs, 3 * target[None].astype(np.float32)


def scratch(folder: Path) -> dict[str, File]:
    return {name: File(Path(folder) / f"{name}.pt") for name in ("last", "best")}


def train(folder: Path, n_train: int = 2, tables: Any = None, *, options: dict[str, Any] | None = None, **changes: Any):
    """Train the toy with its files in ``folder``; returns (model, history)."""
    skies = Skies(n_train), Skies(1, seed=99)
    return fit(settings(**changes), *skies, tables, scratch(folder), device="cpu", **(options or {}))
