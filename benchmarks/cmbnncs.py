"""What each change of CMBNNCS does: as it was published, with one change each, with all of them, and by default.

    python benchmarks/cmbnncs.py [overrides] [--epochs 60] [--jobs 2] [--seeds 0 1] [--variants paper all ...]

``paper`` is ``experiment=cmbnncs_paper`` with UNet5, every other variant that but for the overrides of its line in
``VARIANTS``; ``default`` is ``method=cmbnncs``. All are trained for as many epochs, and the learning rate comes to its
end with the training (``train.schedule.steps=null``), which is shorter than the published one. A batch is one sky, a
mosaic or its twelve faces, so that all but ``default`` take as many steps: with the published batch of twelve skies a
dataset of twelve would allow three steps an epoch. The first words are overrides of all runs, of the dataset as well:
``nside=128 splits.train=24 dataset=bench``.

Written to benchmarks/results/cmbnncs.csv: RMSE in uK and other metrics of every variant, seed and test sky, with the
common beam and outside the mask (on the full sky if there is none), and the seconds of its training.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cmbml.core.asset import Assets
from cmbml.core.provenance import Sidecar
from record import composed, parser, save

REPO = Path(__file__).parents[1]
PAPER = ("experiment=cmbnncs_paper", "network=unet5", "train.schedule.steps=null", "train.batch_size=1")
CHANGES = {
    "linear_output": ("network.linear_output=true",),
    "robust_all_bands": ("train.standardise=robust", "scale=1", "instrument.bands=all"),
    "best_on_valid": ("train.keep=best",),
    "true_neighbours": ("patches.layout=squares", "patches.halo=16", "train.batch_size=12"),
    "target_beam": ("clean.target_fwhm_arcmin=${clean.fwhm_arcmin}",),
}
VARIANTS = {
    "paper": PAPER,
    **{name: (*PAPER, *words) for name, words in CHANGES.items()},
    "all": (*PAPER, *(word for words in CHANGES.values() for word in words)),
    "default": ("method=cmbnncs",),
}
COLUMNS = ("RMSE", "MAE", "corr", "transfer")


def run(words: Sequence[str], threads: int) -> None:
    """Run a main to the end."""
    limits = {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *words], cwd=REPO, env={**os.environ, **limits}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def measured(words: Sequence[str]) -> list[dict[str, float]]:
    """Metrics of every test sky, and the seconds of the training, of the method that these overrides name."""
    cfg = composed("clean", words)
    assets = Assets(cfg.assets.files, cfg.assets.constants)
    seconds = Sidecar.read(Sidecar.path([assets.file("model", {})])).seconds
    area, rows = "full" if cfg.mask.kind == "none" else "mask", []
    for sim in range(cfg.splits.test):
        table = assets.file("metrics", {"split": "test", "sim": sim}).read()
        (row,) = [x for x in table if (x["form"], x["area"]) == ("common", area)]
        rows.append({"sim": sim, **{name: float(row[name]) for name in COLUMNS}, "train_s": seconds})
    return rows


def variant(name: str, seed: int, common: Sequence[str], epochs: int, threads: int) -> list[dict]:
    """Rows of one training, one a test sky."""
    words = [*VARIANTS[name], f"epochs={epochs}", f"train.seed={seed}", f"method.name=bench_{name}_{seed}", *common]
    run(["main_clean.py", *words, "run.only=[target,train,predict,measure]", "run.workers=1"], threads)
    return [{"variant": name, "seed": seed, "epochs": epochs, **row} for row in measured(words)]


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0])
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--jobs", type=int, default=1, help="trainings side by side, on equal shares of the cores")
    given, common = options.parse_known_args()
    cores = os.cpu_count() or 1
    run(["main_sims.py", *common], cores)
    with ThreadPoolExecutor(given.jobs) as pool:
        keys = (common, given.epochs, max(1, cores // given.jobs))
        jobs = [pool.submit(variant, name, seed, *keys) for seed in given.seeds for name in given.variants]
        rows = []
        for job in jobs:
            rows += job.result()
            save("cmbnncs", rows, given.out)  # what is there stays, whatever comes
    first = None
    for name in given.variants:
        mine = [row for row in rows if row["variant"] == name]
        values = {key: np.mean([row[key] for row in mine]) for key in (*COLUMNS, "train_s")}
        first = first or values["RMSE"]
        told = "".join(f" {key} {value:9.4g}" for key, value in values.items())
        print(f"{name:18s}{told} RMSE ratio to {given.variants[0]} {values['RMSE'] / first:.3f}")


if __name__ == "__main__":
    main()
