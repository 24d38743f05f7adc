"""What a network is for, beside the linear MAP: four kinds of skies on which the linear MAP may not be the best answer.

    python benchmarks/networks.py [--scenarios white uneven ...] [--methods quadratic ...] [overrides]
    python benchmarks/networks.py --choose

All at nside 256 and lmax 750. ``white``: the whole sky with white noise, where only the time may differ; ``uneven``:
the noise of a scan of 5 uK arcmin, which the harmonic weights of the linear MAP take for white; ``masked``: the same in
two caps around the poles of the ecliptic, where the scan is uneven most, .33 of the sky with a taper of 5 degrees; and
``foregrounds``: three bands with foregrounds, combined, of which too few are there to take the dust out. Those of the
training skies are drawn from another seed.

A network that corrects the linear MAP may learn what its equations lack that are not solved to the end: therefore
``linear_map_exact`` is beside it, solved to .001 on a grid without aliases.

``--choose`` trains the networks with each of ``CHOICES`` on the first scenario and tells the loss of the validation
skies; nothing else decides on settings, and they are the same in all scenarios. Further words are overrides of all
runs.

Written to benchmarks/results/delensing/networks_<scenario>.csv, a row for each method: means over the test skies of
A_res, transfer and rho over ``analysis.band`` with their standard deviations, A_res less that of the linear MAP sky by
sky with the standard error of its mean, CPU seconds of the process that trains, the lowest loss of the validation skies
(about 1 for the answer 0), and seconds a sky of all that makes its template of the observed alms: the least of the test
skies, for a machine may have other work. ``--choose`` writes networks_choice.csv.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
from delensing import LEARNING, REPO, STAGES, measured
from linear_map_masked import caps
from omegaconf import DictConfig

from cmbml.core.asset import Assets
from cmbml.core.provenance import Sidecar
from cmbml.start import build
from record import composed, parser, save

SKIES = ("nside=256", "sky.lmax=750", "splits.train=6", "splits.valid=2", "splits.test=8", "run.workers=1")
ONE_BAND = ("sims=cleaned", "instrument=deep", "foregrounds=none", "noise=scan", "noise.factor=5")
F_SKY = 0.33  # of the scenario masked
SCENARIOS = {
    "white": (),
    "uneven": (*ONE_BAND, "mask=none"),
    "masked": (*ONE_BAND, "mask=file"),
    "foregrounds": ("sims=cleaned", "instrument.bands=[93,145,225]", "noise.knee=false", "mask.f_sky=0.6"),
}
CLASSICAL = {
    "quadratic": ("method=quadratic",),
    "linear_map": ("method=linear_map",),
    "linear_map_exact": (
        "method=linear_map",
        "method.name=linear_map_exact",
        "linear_map.tolerance=.001",
        "linear_map.grid=1.5",
    ),
}
NETWORKS = {"delens_unet": (), "correction": ("experiment=correction",)}
METHODS = ("quadratic", "linear_map", *NETWORKS, "linear_map_exact")  # the last leaves other files of the linear MAP
ALL_SEEN = "delens.inputs=[E_wf,B_hp,kappa_qe,kappa_linear]"
CHOICES = {
    "6 epochs, lr .006": ("epochs=6",),
    "6 epochs, lr .002": ("epochs=6", "train.optimizer.lr=2e-3"),
    "12 epochs, lr .006": ("epochs=12",),
}
CHOSEN = ("epochs=12",)
# What makes the template of a sky: the asset beside which the record of each step lies.
STEPS = {
    "quadratic": ("kappa_qe", "estimate", "lensing_template"),
    "linear_map": ("kappa_linear", "estimate", "lensing_template"),
    "linear_map_exact": ("kappa_linear", "estimate", "lensing_template"),
    "delens_unet": ("kappa_qe", "features", "estimate", "lensing_template"),
    "correction": ("kappa_qe", "features", "kappa_linear", "estimate", "lensing_template"),
}


def run(words: Sequence[str]) -> float:
    """Run ``main_delens.py`` to the end; CPU seconds of that process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "main_delens.py", STAGES, *words]
    done = subprocess.run(command, cwd=REPO, env=dict(os.environ), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def words_of(scenario: str, method: str, more: Sequence[str]) -> list[str]:
    """Overrides of a method in a scenario."""
    words = [*SKIES, f"dataset=networks_{scenario}", *SCENARIOS[scenario], *(CLASSICAL | NETWORKS)[method]]
    words += [word for word in more if method in NETWORKS or word.split(".")[0] not in LEARNING]
    return [*words, f"mask.file={mask_file(words)}"] if scenario == "masked" else words


def mask_file(words: Sequence[str]) -> Path:
    """The mask of the scenario masked, which is made where it lacks."""
    cfg = composed("delens", [*words, "mask=none"])
    path = Path(cfg.system.root) / f"networks_mask_{cfg.sky.nside}.fits"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        hp.write_map(path, caps(cfg.sky.nside, F_SKY), coord="G", dtype=np.float32)
    return path


def skies(scenario: str, common: Sequence[str]) -> None:
    """Make all that networks see, and what they are asked for."""
    words = [*words_of(scenario, "delens_unet", common), ALL_SEEN, STAGES]
    names = [stage.name for stage in build(composed("delens", words)).stages]
    run([*words, f"run.only=[{','.join(names[: names.index('train')])}]"])


def trained(words: Sequence[str]) -> tuple[float, float]:
    """Train a network; CPU seconds, and the lowest loss of the validation skies."""
    seconds = run([*words, "run.only=[train]"])
    return seconds, min(float(row["valid_loss"]) for row in files(composed("delens", words)).file("history", {}).read())


def files(cfg: DictConfig) -> Assets:
    """Where what these settings make lies."""
    return Assets(cfg.assets.files, cfg.assets.constants)


def seconds_a_sky(method: str, words: Sequence[str]) -> float:
    """Of the steps that make the template, each the least of the test skies."""
    cfg = composed("delens", words)
    total = 0.0
    for asset in STEPS[method]:
        made = [files(cfg).file(asset, {"split": "test", "sim": sim}) for sim in range(cfg.splits.test)]
        records = [Sidecar.read(Sidecar.path([file])) for file in made]
        total += min(record.seconds for record in records if record is not None)
    return total


def row_of(method: str, values: dict[str, np.ndarray], reference: np.ndarray, **more: float) -> dict[str, Any]:
    """One row of the table; ``values`` are those of the test skies."""
    row: dict[str, Any] = {"method": method, "skies": len(reference)}
    for name, of_skies in values.items():
        row[name] = f"{of_skies.mean():.5f}"
        row[f"{name}_sd"] = f"{of_skies.std(ddof=1):.5f}"
    difference = values["A_res"] - reference
    row["difference"] = f"{difference.mean():.5f}"
    row["difference_error"] = f"{difference.std(ddof=1) / np.sqrt(len(difference)):.5f}"
    return row | {name: f"{value:.4g}" for name, value in more.items()}


def choose(scenario: str, methods: Sequence[str], common: Sequence[str]) -> list[dict[str, Any]]:
    """Losses of the validation skies for each choice of settings, on one scenario."""
    skies(scenario, common)
    rows = []
    for method in (name for name in methods if name in NETWORKS):
        for i, (choice, more) in enumerate(CHOICES.items()):
            words = [*words_of(scenario, method, common), *more]
            _, loss = trained([*words, f"method.name={method}_choice_{i}"])
            rows.append({"scenario": scenario, "method": method, "settings": choice})
            rows[-1] |= {"valid_loss": f"{loss:.5f}"}
            print(*rows[-1].values(), flush=True)
    return rows


def compare(scenario: str, methods: Sequence[str], common: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a scenario."""
    skies(scenario, common)
    found = {}
    more: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(["linear_map", *methods]):
        learned = method in NETWORKS
        words = [*words_of(scenario, method, common), *(CHOSEN if learned else ())]
        more[method] = dict(zip(("training_cpu_s", "valid_loss"), trained(words) if learned else (0, 0), strict=True))
        run(words)
        more[method]["seconds_a_sky"] = seconds_a_sky(method, words)
        of_skies = measured(words)
        found[method] = {name: np.array([row[name] for row in of_skies]) for name in ("A_res", "transfer", "rho")}
    reference = found["linear_map"]["A_res"]
    rows = [{"scenario": scenario} | row_of(x, found[x], reference, **more[x]) for x in methods]
    for row in rows:
        print(*row.values(), flush=True)
    return rows


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    options.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options.add_argument("--choose", action="store_true", help="compare settings on validation skies")
    given, common = options.parse_known_args()
    out = given.out / "delensing"
    if given.choose:
        save("networks_choice", choose(given.scenarios[0], given.methods, common), out)
        return
    for scenario in given.scenarios:
        save(f"networks_{scenario}", compare(scenario, given.methods, common), out)


if __name__ == "__main__":
    main()
