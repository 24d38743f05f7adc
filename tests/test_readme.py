"""Every command of README and guide runs: as it stands when it is short, else in a reduced form made from the line.

Where processes are not the point it runs in this one. The lines share a root: what one has made the next one finds.
"""

import importlib
import itertools
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest

from cmbml.config.options import MAINS, name_of
from cmbml.core import handlers
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.start import build
from tests.conftest import REPO, run_here
from tests.test_trained import STORE, demand_claims

PAGES = (
    "README.md",
    "docs/install.md",
    "docs/first-runs.md",
    "docs/guide/delensing.md",
    "docs/guide/skies.md",
    "docs/guide/cleaning.md",
    "docs/guide/settings.md",
    "docs/guide/runs.md",
    "docs/explanation/a-res-and-transfer.md",
    "docs/explanation/linear-map.md",
    "docs/howto/nodes.md",
    "docs/howto/own-maps.md",
    "docs/howto/sweep.md",
    "docs/results.md",
)
KINDS = ("make ", "python main_", "python benchmarks/", "python get_data/", "torchrun ")


def typed(page: str) -> list[str]:
    """Lines of the blocks of a page for a shell, broken ones whole."""
    text = re.sub(r" \\\n +", " ", (REPO / page).read_text())
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


# What stands on several pages runs once.
COMMANDS = [line for line in dict.fromkeys(itertools.chain(*map(typed, PAGES))) if line.startswith(KINDS)]
# What makes any line small; a later word on the command line wins over an earlier one.
SKY = shlex.split(
    "nside=32 sky.margin=64 splits.train=1 splits.valid=1 splits.test=1 delens.lmin_b=20 instrument.fwhm_arcmin=60"
    " analysis.fwhm_arcmin=120 analysis.lmax=90 analysis.band=[5,60] analysis.delta_l=10 analysis.zoom=[0,60,60]"
    " run.workers=1"
)
SMALL = [*SKY, "epochs=1", "train.batch_size=8", "network.n_filters=2", "patches.patch=16", "patches.halo=8"]
BANDS = shlex.split(
    "nside=16 sky.lmax=40 sky.margin=20 splits.train=1 splits.valid=1 splits.test=1 cosmology=fiducial"
    " instrument.bands=[100,143] instrument.table=instruments/toy.ecsv foregrounds.components=false run.workers=1"
)
ROAD = shlex.split(
    "nside=32 sky.lmax=90 sky.margin=64 foregrounds.nside_sky=32 splits.train=1 splits.test=1 delens.lmin_b=60"
    " instrument.bands=[39,145,225] analysis.r.band=[20,49] analysis.r.delta_l=10 analysis.band=[20,50] run.workers=1"
)
SIMULATED = "run.only=[theory,cmb,observe,label]"
FILTERED = "theory,mask,cmb,observe,label,observed_noise,filters"
TRAINED = f"run.only=[{FILTERED},quadratic_estimate,mean_field,features,rotations,train]"
CLEANED = [*BANDS, "nside=32", "sky.lmax=80", "epochs=1"]
CLASSICAL = ("method=quadratic", "method=wiener", "method=linear_map")
BENCHMARKS = {
    "delensing": [*(w for w in SMALL if "zoom" not in w), *shlex.split("--variants no_halo --seeds 0")],
    "cmbnncs": [*CLEANED[:-1], *shlex.split("--variants default --epochs 1")],
    "engine": ["--items", "20", "--kilobytes", "1"],
    "r_bias": ["--draws", "40"],
    "ilc": ["--nside", "16", "--threads", "1", "--repeat", "1", "--no-broom"],
    "reconstruct": ["--nside", "32", "--lmax", "80"],
    "rotation": ["--nside", "16"],
    "skies": ["--nside", "16", "--margin", "64", "--repeat", "1"],
}


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == code, done.stdout
    return done.stdout


def here(*words: str, **keys: str) -> None:
    """Run a main in this process."""
    code, error = run_here(*words, **keys)
    assert code == 0, error


@pytest.fixture
def planned(composed):
    """Function that plans a line at its full size: all of a dry run but Hydra's part of it."""

    def plan(*words: str, name: str = "delens") -> None:
        words = [word for word in words if not word.startswith("hydra")]
        build(composed(*words, name=name), [word.partition("=")[0] for word in words]).run(dry=True)

    return plan


def words_of(line: str) -> list[str]:
    """What stands behind the name of the main."""
    words = shlex.split(line)
    return words[next(i for i, word in enumerate(words) if word.startswith("main_")) + 1 :]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def made_small(line: str) -> list[str]:
    """What makes a line of the delensing small."""
    if "bands_to_r" in line:
        return ROAD
    if "linear_map_1024" in line:
        return [*SKY, "sky.lmax=90"]
    return SKY if any(word in line for word in CLASSICAL) else SMALL


def launcher(words: list[str]) -> list[str]:
    """The line's program, from this environment."""
    if words[0] == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return [sys.executable, *words[1:]]


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_delens" in c])
def test_pipeline_command(line, root, composed, planned, sketches, capsys, tmp_path):
    program, words = [*launcher(shlex.split(line)), f"system.root={root}"], words_of(line)
    if "--cfg" in line:
        assert "Error" not in run(*program)
        return
    if "sims=external" in line:
        words = own_sky(words, tmp_path)
        small = ["nside=64", "sky.lmax=128", "splits.test=1", "delens.lmin_b=30"]
        small += ["analysis.band=[5,60]"] if "truth" in line else []
        here(*words, *small, root=tmp_path / "data")
        assert list(tmp_path.rglob("metrics.csv" if "truth" in line else "found.csv"))
        return
    one = [word.split(",")[0] if "-m" in words else word for word in words if word != "-m"]  # a sweep's first
    if "run.dry" not in line:  # which plans it below
        planned(*one)
    small = made_small(line)
    # The lines of the comparison's methods have field=B; what others make does not take the place of theirs.
    own = [] if "field=B" in words or "method.name" in line else ["method.name=own"]
    if "submitit" in line:  # for want of a Slurm, what would be handed to it
        here("--cfg", "hydra", *one, root=root)
        assert "SlurmLauncher" in capsys.readouterr().out
    elif "launcher" in line:
        assert "Dry run" in run(*program, *small, "run.dry=true")
    elif "torchrun" in line:
        run(*program, *own, *small, TRAINED, "run.force=[train]")
    elif "devices" in line:
        here(*words, *own, *small, TRAINED, "run.force=[train]", root=root)
    elif "run.start" in line or "run.force" in line:
        here(*own, *small, TRAINED, root=root)  # what it goes on from
        here(*words, *own, *small, *([TRAINED] if "run.force" in line else []), root=root)
    elif "cosmology" in line:  # which is another one for each sky: CAMB runs for one of them
        build(composed(*words, *small)).stages[0].run({"split": "test", "sim": 0})
        here(*words, *own, *small, "cosmology=fiducial", "dataset=own", root=root)
    elif "run.dry" in line:
        here(*words, root=root)
    else:
        here(*words, *own, *small, *([SIMULATED] if "scale=1,5" in line else []), root=root)


def own_sky(words: list[str], folder: Path) -> list[str]:
    """The words of a line that reads `/data/` or `sims/`, after files were written into a folder."""
    npix = 12 * 64**2
    noise = np.random.default_rng(0).standard_normal((2, npix))
    handlers.write(folder / "map.fits", SkyMap(noise, ("Q", "U"), "uK_CMB", 5.0, 128))
    handlers.write(folder / "mask.fits", SkyMap(np.ones((1, npix)), ("mask",), "1", 0.0, 128))
    for name in ("obs", "unlensed", "lensed"):
        handlers.write(folder / "sims" / f"{name}_0.fits", SkyMap(noise, ("Q", "U"), "uK_CMB", 0.0, 128))
    handlers.write(folder / "sims" / "kappa_0.fits", SkyMap(noise[:1], ("kappa",), "1", 0.0, 128))
    return [word.replace("/data/", f"{folder}/").replace('"sims/', f'"{folder}/sims/') for word in words]


def own_maps(words: list[str], folder: Path) -> list[str]:
    """The words of a line that reads `maps/`, after as many skies as it wants were written into a folder."""
    skies = sum(int(word.partition("=")[2]) for word in words if word.startswith("splits."))
    sky = SkyMap(np.ones((3, 12 * 16**2)), ("T", "Q", "U"), "uK_CMB", 9.0, 40)
    for sim in range(skies):
        for name in (f"sky{sim}_100_map", f"sky{sim}_143_map", f"cmb_{sim}"):
            handlers.write(folder / "maps" / f"{name}.fits", sky)
    return [word.replace("maps/", f"{folder}/maps/") for word in words]


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_sims" in c])
def test_bands_command(line, tmp_path, planned, sketches):
    words, keys = words_of(line), {"root": tmp_path / "data", "config_name": "sims"}
    if "external" in line:
        words = own_maps(words, tmp_path)
        here(*words, "nside=16", "sky.lmax=40", "run.workers=1", **keys)
        assert len(list(tmp_path.rglob("Test/sim000?/obs_*_map.fits"))) == 4
        return
    if "run.dry" in line:
        here(*words, **keys)
    else:
        planned(*words, name="sims")
        # The workers of Dask start with an import of PySM3 unless there are no foregrounds.
        here(*words, *BANDS, *(["foregrounds=none"] if "dask" in line else []), **keys)
        assert len(list(tmp_path.rglob("obs_143_map.fits"))) == 3


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_clean" in c])
def test_cleaning_command(line, tmp_path, root, planned, sketches):
    words, keys = [word for word in words_of(line) if word != "-m"], {"root": root, "config_name": "clean"}
    sweep = next((word for word in words if "," in word and "[" not in word), "")
    (key, _, values), rest = sweep.partition("="), [word for word in words if word != sweep]
    for one in [f"{key}={value}" for value in values.split(",")] if sweep else [""]:
        given = [*rest, one] if one else rest
        if "external" in line:  # what it does with such maps is seen in tests/sims/test_external.py
            here(*own_maps(given, tmp_path), "run.dry=true", root=tmp_path / "data", config_name="clean")
        elif "run.dry" in line:
            here(*given, root=tmp_path, config_name="clean")
        else:
            planned(*given, name="clean")
            own = [w for w in CLEANED if not ("litebird" in line and w.startswith("instrument."))]
            here(*given, *own, *(["instrument.bands=[100,119]"] if "litebird" in line else []), **keys)


@pytest.mark.parametrize("line", [c for c in COMMANDS if "get_data" in c])
def test_fetch_command(line, tmp_path):
    assert "files to bring" in run(*launcher(shlex.split(line)), "--root", str(tmp_path))


def test_comparison_commands(root, sketches):
    """The comparisons of the pages, after the methods that they name."""
    for words in (*CLASSICAL, "scale=5", "experiment=unet_unlensed scale=5"):
        small = SKY if any(word in words for word in CLASSICAL) else SMALL
        here("field=B", *words.split(), *small, root=root)
    lines = [c for c in COMMANDS if "main_analysis_compare" in c and "job=clean" not in c]
    assert lines
    for line in lines:
        here(*words_of(line), *SKY, root=root, config_name="compare")
        page = (root / "delens" / "Comparison" / "B" / "report.html").read_text()
        asked = re.search(r"compare.methods=\[none,(.*?)\]", line)
        names = asked[1].split(",") if asked else ("wiener", "quadratic", "linear_map", "delens_unet")
        assert all(name in page for name in names)


def test_cleaning_comparison_command(root, sketches, tmp_path):
    """The comparison of the methods that the cleaning's first line has run."""
    (line,) = [c for c in COMMANDS if "job=clean" in c]
    here(*words_of(line), *CLEANED, root=root, config_name="compare")
    small = " ".join(CLEANED)
    network = STORE["NETWORKS"]["patch_unet"][1]
    job, picture, stage, asset = STORE["PICTURES"]["demo_cleaning.png"]
    stored = [
        *STORE["store_network"]("patch_unet", "clean", f"{network} {small}", root, tmp_path),
        STORE["store_picture"]("demo.png", job, f"{picture} {small}", stage, asset, root, tmp_path),
    ]
    assert [path.name for path in stored] == ["model.pt", "README.md", "demo.png"]
    assert "shown        ['T of 100', 'T of 143']" in demand_claims(tmp_path / "models" / "patch_unet")
    page = (root / "cleaning_demo" / "Comparison" / "T" / "report.html").read_text()
    assert all(name in page for name in ("noise_wiener", "hilc", "cnilc", "patch_unet"))


@pytest.fixture
def script(root, monkeypatch, capsys):
    """Function that runs a benchmark, and what it starts, in this process; returns what it has printed."""
    really = subprocess.run

    def run_main(command: list[str], **keys) -> subprocess.CompletedProcess:
        mains = {"main_delens.py": "delens", "main_sims.py": "sims", "main_clean.py": "clean"}
        if command[0] != sys.executable or command[1] not in mains:
            return really(command, **keys)
        code, error = run_here(*command[2:], root=root, config_name=mains[command[1]])
        return subprocess.CompletedProcess(command, code, "", error)

    def run_script(path: str, *words: str) -> str:
        monkeypatch.setattr(subprocess, "run", run_main)
        monkeypatch.setattr(futures, "ProcessPoolExecutor", lambda n, **keys: futures.ThreadPoolExecutor(n))
        for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # which a benchmark sets for what it starts
            monkeypatch.setenv(key, os.environ.get(key, "1"))
        monkeypatch.setattr(sys, "argv", [path, *words])
        monkeypatch.syspath_prepend(REPO / "benchmarks")
        runpy.run_path(str(REPO / path), run_name="__main__")
        return capsys.readouterr().out

    yield run_script
    logging.disable(logging.NOTSET)  # which a benchmark may have quietened, for itself


def test_benchmarks_understand_the_words_of_the_mains(monkeypatch, tmp_path):
    """The names of options, and paths as they are typed; what a main refuses is refused."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    composed = importlib.import_module("record").composed
    cfg = composed("clean", ["experiment=tiny", f"system.root={tmp_path}/a=b"])
    assert (cfg.dataset, cfg.system.root) == ("sims_tiny", f"{tmp_path}/a=b")
    with pytest.raises(UserError, match="method=wiener belongs to main_delens.py"):
        composed("clean", ["method=wiener"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_command(name, tmp_path, root, script):
    mains = [f"system.root={root}"] if name in ("delensing", "cmbnncs") else []
    assert "ratio" in script(f"benchmarks/{name}.py", *BENCHMARKS[name], "--out", str(tmp_path), *mains)
    assert next(tmp_path.rglob("*.csv")).read_text().count("\n") >= 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_command(command):
    does = {
        "make demo": "python main_delens.py field=B scale=5",
        "make test": 'python -m pytest -m "not slow"',
        "make test-slow": "python -m pytest -m slow",
        "make lint": "ruff check .",
        "make install": "pip install --quiet -c constraints.txt",
    }
    assert does[command] in run("make", "--no-print-directory", "-n", "-B", *command.split()[1:])


def test_what_is_stored_is_what_the_commands_of_the_demonstrations_make():
    told = "".join(run("make", "--no-print-directory", "-n", "assets").split("\n")).replace(".venv/bin/", "")
    for job, words in STORE["NETWORKS"].values():
        program = f"python main_{job}.py"
        first = words.split()[0]
        assert f"{program} {words}" in told or f"{program} -m {first}" in told
    for job, words, *_ in STORE["PICTURES"].values():
        assert f"python {MAINS[job]} {words}" in told


def test_nothing_else_is_promised():
    assert typed("README.md")
    assert all(line.startswith(KINDS) for line in typed("README.md"))
    assert all(re.search(r"\.py|^make ", line) for line in COMMANDS)
    benchmarks = re.findall(r"benchmarks/(\w+)\.py", "\n".join(COMMANDS))
    assert set(benchmarks) == BENCHMARKS.keys()
    steps = [line for line in run("make", "--no-print-directory", "-n", "demo").splitlines() if "main_" in line]
    demo = "\n".join(line.removeprefix(".venv/bin/") for line in steps)
    assert f"```bash\n{demo}\n```" in (REPO / "docs/first-runs.md").read_text()


def test_groups_and_options_of_the_table_are_those_that_exist():
    page = (REPO / "docs/guide/settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, re.MULTILINE)
    listed = {group: set(re.findall(r"`(\w+)`", options)) for group, options in rows}
    found = {}
    for path in (REPO / "cfg").glob("*/[!_]*.yaml"):
        found.setdefault(path.parent.name, set()).add(name_of(path))
    assert found.pop("run") == {"default"}  # nothing to choose
    for group in ("instrument", "network", "method"):  # to which one may be added without a word here
        assert listed.pop(group) <= found.pop(group)
    assert listed == found
