"""What decides how well a network delenses: rotations, orientations averaged, halo, the quadratic estimate as input.

    python benchmarks/delensing.py [--variants default no_rotation ...] [--seeds 0 1 2] [--jobs 2] [overrides]

Every variant is the default of ``main_delens.py`` but for the overrides of its line in ``VARIANTS``; each is trained
with every seed, predicts the test skies once (``rotation.average=1``), and is measured as the command itself does it.
What only changes a prediction is made from the same trained network. Further words are overrides of all runs, e.g.
``scale=5 epochs=4``.

Written to benchmarks/results/delensing/variants.csv: A_res, rho and transfer over ``analysis.band`` for every variant,
seed and test sky, and A_res over that of the quadratic estimator on the same sky (``ratio``).
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cmbml.core.asset import Assets
from record import composed, parser, save

REPO = Path(__file__).parents[1]
# Name of a training: its overrides, and the predictions made from it: name -> overrides.
VARIANTS = {
    "default": ((), {"": (), "average_4": ("rotation.average=4",), "average_8": ("rotation.average=8",)}),
    "no_rotation": (("rotation=none",), {"": ()}),
    "permutation": (
        ("rotation=permutation",),
        {"": ("rotation.predict=[[0,0]]",), "two_orientations": ("rotation.predict=[[0,0],[120,30]]",)},
    ),
    "harmonic": (
        ("rotation=harmonic",),
        {"": ("rotation.predict=[[0,0]]",), "two_orientations": ("rotation.predict=[[0,0],[120,30]]",)},
    ),
    "no_halo": (("patches.halo=0",), {"": ()}),
    "wide_halo": (("patches.halo=16",), {"": ()}),
    "no_kappa_qe": (("delens.inputs=[E_wf,B_hp]",), {"": ()}),
}
STAGES = "analysis.stages=[cmbml.analysis.delensing.measure.Baseline,cmbml.analysis.delensing.measure.Measure]"
COLUMNS = ("A_res", "rho", "transfer")
LEARNING = ("network", "train", "patches", "rotation")  # groups that the quadratic estimator does not read


def run(words: list[str], threads: int) -> float:
    """Run ``main_delens.py`` to the end; seconds."""
    start = time.perf_counter()
    limits = {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "main_delens.py", STAGES, *words]
    done = subprocess.run(command, cwd=REPO, env={**os.environ, **limits}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start


def measured(words: list[str]) -> list[dict[str, float]]:
    """Native-form metrics of every test sky, of the method that these overrides name."""
    cfg = composed("delens", words)
    assets = Assets(cfg.assets.files, cfg.assets.constants)
    rows = []
    for sim in range(cfg.splits.test):
        table = assets.file("metrics", {"split": "test", "sim": sim}).read()
        rows += [row for row in table if row["method"] == cfg.method.name and row["form"] == "native"]
    return [{name: float(row[name]) for name in COLUMNS} for row in rows]


def train(variant: str, seed: int, common: list[str], threads: int) -> list[dict]:
    """Rows of one training: a row for each of its predictions and test skies."""
    overrides, predictions = VARIANTS[variant]
    rows = []
    for prediction, more in predictions.items():
        words = [
            "rotation.average=1",
            *common,
            *overrides,
            f"method.name=variant_{variant}_{seed}",
            f"train.seed={seed}",
            *more,
        ]
        seconds = run([*words, "run.workers=1"], threads)
        name = f"{variant} {prediction}".strip()
        for sim, values in enumerate(measured(words)):
            rows.append({"variant": name, "seed": seed, "sim": sim, **values, "seconds": round(seconds, 1)})
    return rows


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--jobs", type=int, default=1, help="trainings side by side, on equal shares of the cores")
    given, common = options.parse_known_args()
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    run(
        [*common, "run.only=[theory,cmb,observe,label,observed_noise,filters,quadratic_estimate,features]"],
        os.cpu_count() or 1,
    )
    words = [word for word in common if word.split(".")[0] not in LEARNING]
    run([*words, "method=quadratic"], os.cpu_count() or 1)
    classical = [row["A_res"] for row in measured([*words, "method=quadratic"])]
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(train, v, s, common, threads) for s in given.seeds for v in given.variants]
        rows = []
        for job in jobs:
            rows += [{**row, "ratio": row["A_res"] / classical[row["sim"]]} for row in job.result()]
            save("variants", rows, given.out / "delensing")  # what is there stays, whatever comes
    print(f"quadratic estimator: A_res {np.mean(classical):.4f}")
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        seeds = [np.mean([row["A_res"] for row in mine if row["seed"] == seed]) for seed in given.seeds]
        spread = f"{np.std(seeds, ddof=1):.4f}" if len(seeds) > 1 else "-"
        a, t, r = (np.mean([row[key] for row in mine]) for key in ("A_res", "transfer", "ratio"))
        print(f"{name:28s} A_res {a:.4f} (seeds {spread}) transfer {t:.3f} ratio to the quadratic estimator {r:.3f}")


if __name__ == "__main__":
    main()
