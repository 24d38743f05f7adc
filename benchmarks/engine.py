"""Time to find that 10,000 finished items need nothing, beside checking the same files by hashing their contents.

    python benchmarks/engine.py [--items 10000] [--kilobytes 256]

The alternative is what a pipeline without fingerprints from the configuration has to do: read every output and compare
its SHA-256 with the recorded one. Prints both times and their ratio and writes benchmarks/results/engine.csv.
"""

import hashlib
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from cmbml.core.stage import SimStage
from record import parser, save

FILES = {"draw": "{root}/{split}/{sim}/draw.npy", "scaled": "{root}/{split}/{sim}/scaled.npy"}


class Draw(SimStage):
    """Random numbers."""

    name = "draw"
    outputs = ("draw",)
    uses = ("n",)

    def run(self, item):
        """As many as the configuration says."""
        return np.random.default_rng(item["sim"]).standard_normal(self.cfg.n)


class Scale(SimStage):
    """The same numbers, scaled."""

    name = "scale"
    inputs = ("draw",)
    outputs = ("scaled",)
    uses = ("factor",)

    def run(self, item, draw):
        """One product."""
        return self.cfg.factor * draw


def pipeline(root: str, items: int, kilobytes: int) -> Pipeline:
    """Two stages of half the items each."""
    splits = {"train": items // 2, "valid": 0, "test": 0}
    cfg = OmegaConf.create({"splits": splits, "n": kilobytes * 128, "factor": 2.0})
    return Pipeline([Draw(cfg), Scale(cfg)], Assets(FILES, {"root": root}))


def timed(function) -> tuple[float, object]:
    """Seconds and value of a call."""
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def hashes(root: str) -> dict[Path, str]:
    """SHA-256 of the contents of every output."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(root).rglob("*.npy"))}


def main() -> None:
    """Make the items, then check them both ways."""
    arguments = parser(__doc__)
    arguments.add_argument("--items", type=int, default=10_000)
    arguments.add_argument("--kilobytes", type=int, default=256)
    options = arguments.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as root:
        pipeline(root, options.items, options.kilobytes).run()
        recorded = hashes(root)
        engine, plan = timed(lambda: pipeline(root, options.items, options.kilobytes).plan())
        assert not any(work.why for works in plan.values() for work in works)
        contents, again = timed(lambda: hashes(root))
        assert again == recorded
    row = {
        "items": options.items,
        "kilobytes": options.kilobytes,
        "engine_seconds": round(engine, 3),
        "hash_contents_seconds": round(contents, 3),
        "ratio": round(contents / engine, 2),
    }
    print("\n".join(f"{key}: {value}" for key, value in row.items()))
    save("engine", [row], options.out)


if __name__ == "__main__":
    main()
