"""A pipeline of three stages on numbers, for the tests of the engine."""

import os
import signal
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Assets, Every
from cmbml.core.pipeline import Pipeline
from cmbml.core.stage import SimStage, Stage

FILES = {
    "noise": "{root}/{split}/{sim}/noise.npy",
    "twice": "{root}/{split}/{sim}/twice.npz",
    "mean": "{root}/mean.csv",
    "state": "{root}/state.npy",
}


def kill_here(cfg, where):
    """Die by SIGKILL at the named place, once: the file tells where and is removed first."""
    if cfg.kill and Path(cfg.kill).exists() and Path(cfg.kill).read_text() == where:
        Path(cfg.kill).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Noise(SimStage):
    name = "noise"
    outputs = ("noise",)
    uses = ("noise", "seed")
    reads = ("splits", "kill")

    def run(self, item):
        if item["sim"] == self.cfg.noise.bad_sim:
            raise ValueError("this sim cannot be made")
        kill_here(self.cfg, "noise")
        rng = self.rng("noise", self.cfg.seed, item["split"], item["sim"])
        return self.cfg.noise.level * rng.standard_normal(1000)


class KillsItsWriter:
    """Array that is asked for when the file is already half written."""

    def __init__(self, cfg, array):
        self.cfg, self.array = cfg, array

    def __array__(self, dtype=None, copy=None):
        kill_here(self.cfg, "write")
        return self.array


class Twice(SimStage):
    name = "twice"
    inputs = ("noise",)
    outputs = ("twice",)
    uses = ("factor",)
    reads = ("splits", "kill")

    def run(self, item, noise):
        kill_here(self.cfg, "twice")
        return {"x": self.cfg.factor * noise, "y": KillsItsWriter(self.cfg, noise)}


class Mean(Stage):
    name = "mean"
    inputs = (Every("twice", split="train"),)
    outputs = ("mean",)
    reads = ("kill",)
    scratch = ("state",)

    def run(self, item, twice, scratch):
        done = scratch["state"].read().tolist() if scratch["state"].exists() else []
        for i in range(len(done), len(twice)):
            done.append(float(np.mean(twice[i]["x"])))
            scratch["state"].write(np.array(done))
            if i == 1:
                kill_here(self.cfg, "mean")
        return [{"sim": i, "mean": m} for i, m in enumerate(done)]


class Hungry(SimStage):
    """Holds 200 MB while it works on its second sim."""

    name = "hungry"
    outputs = ("noise",)
    splits = ("train",)

    def run(self, item):
        return np.ones(25_000_000 if item["sim"] == 1 else 1).max()


def toy_config(**changes):
    """Configuration of the toy; keys with a dot as keyword dictionaries."""
    base = {
        "splits": {"train": 3, "valid": 0, "test": 2},
        "noise": {"level": 1.0, "bad_sim": -1},
        "seed": 1,
        "factor": 2.0,
        "kill": "",
    }
    return OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(changes))


def toy(root, **changes):
    """Pipeline of the toy under a folder."""
    cfg = toy_config(**changes)
    return Pipeline([Noise(cfg), Twice(cfg), Mean(cfg)], Assets(FILES, {"root": str(root)}))


def run_toy(root, kill):
    """Run the toy to its end, or to where it is to be killed."""
    toy(root, kill=str(kill)).run()
