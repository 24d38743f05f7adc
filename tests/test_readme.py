"""Every command of the README runs: as it stands when it is short, else in a reduced form made from the same line."""

import itertools
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from cmbml.core import handlers
from cmbml.core.skymap import SkyMap
from tests.conftest import REPO

README = (REPO / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
# What makes any line small; a later word on the command line wins over an earlier one.
SKY = shlex.split(
    "nside=32 sky.margin=64 splits.train=1 splits.valid=1 splits.test=1 delens.lmin_b=20 instrument.fwhm_arcmin=60"
    " analysis.fwhm_arcmin=120 analysis.lmax=90 analysis.band=[5,60] analysis.delta_l=10 analysis.zoom=[0,60,60]"
)
SMALL = [*SKY, "epochs=1", "train.batch_size=8", "network.n_filters=2", "patches.patch=16", "patches.halo=8"]
BANDS = shlex.split(
    "nside=16 sky.lmax=40 sky.margin=20 splits.train=1 splits.valid=1 splits.test=1 cosmology=fiducial"
    " instrument.bands=[100,143] instrument.table=instruments/toy.ecsv foregrounds.components=false"
)
CLASSICAL = ("method=quadratic", "method=wiener")
BENCHMARKS = {
    "delensing": [*(w for w in SMALL if "zoom" not in w), "system.root={out}", "--variants", "no_halo", "--seeds", "0"],
    "engine": ["--items", "20", "--kilobytes", "1"],
    "reconstruct": ["--nside", "32", "--lmax", "80"],
    "rotation": ["--nside", "16"],
    "skies": ["--nside", "16"],
}


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def launcher(words: list[str]) -> list[str]:
    """The line's program, from this environment."""
    if words[0] == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return [sys.executable, *words[1:]]


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_delens" in c])
def test_pipeline_command(line, root, command):
    words = [*launcher(shlex.split(line)), f"system.root={root}"]
    if "--cfg" in line:
        assert "Error" not in run(*words)
        return
    if "submitit" in line:  # for want of a Slurm, what would be handed to it
        one = [word.split(",")[0] for word in words if word != "-m"]
        assert "SlurmLauncher" in run(*one, "--cfg", "hydra")
    overrides = [word.split(",")[0] if "-m" in words else word for word in words if "=" in word]  # a sweep's first

    def here(*given: str) -> None:
        code, error = command(*given)
        assert code == 0, error

    here(*overrides, "run.dry=true", "run.only=[]", "run.start=null")  # the line at its full size
    small = SKY if any(word in line for word in CLASSICAL) else SMALL
    if "run.start" in line or "run.force" in line:
        here(f"system.root={root}", *SMALL)  # what it goes on from
    if "launcher" in line:
        assert "submitit" in line or "Dry run" in run(*words, *small, "run.dry=true")
        return
    if "-m" in words:
        run(*words, *small, *(["run.only=[theory,cmb,observe,label]"] if "scale=" in line else []))
    elif "torchrun" in line or "devices" in line:
        run(*words, *small)
    elif "run.dry" not in line:
        here(*overrides, *small)


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_sims" in c])
def test_bands_command(line, tmp_path, command):
    words = [word.replace("maps/", f"{tmp_path}/maps/") for word in shlex.split(line)[2:]]

    def here(*given: str) -> None:
        code, error = command(*words, *given, config_name="sims")
        assert code == 0, error

    if "external" in line:  # maps that exist already
        for band, sim in itertools.product((100, 143), range(2)):
            sky = SkyMap(np.ones((3, 12 * 16**2)), ("T", "Q", "U"), "uK_CMB", 9.0, 40)
            handlers.write(tmp_path / "maps" / f"sky{sim}_{band}_map.fits", sky)
        here("nside=16", "sky.lmax=40")
        assert len(list(tmp_path.rglob("Test/sim000?/obs_*_map.fits"))) == 4
        return
    here("run.dry=true")  # the line at its full size
    if "run.dry" not in line:
        here(*BANDS, *(["foregrounds=none"] if "dask" in line else []))  # whose workers start with an import of PySM3
        assert len(list(tmp_path.rglob("obs_143_map.fits"))) == 3


@pytest.mark.parametrize("line", [c for c in COMMANDS if "get_data" in c])
def test_fetch_command(line, tmp_path):
    assert "files to bring" in run(*launcher(shlex.split(line)), "--root", str(tmp_path))


def test_comparison_commands(root, command):
    """The comparisons of the README, after the methods that they name."""
    for words in ("method=wiener", "method=quadratic", "scale=5", "experiment=unet_unlensed network.network_depth=2"):
        small = SKY if any(word in words for word in CLASSICAL) else SMALL
        code, error = command("field=B", *words.split(), *small, f"system.root={root}")
        assert code == 0, error
    lines = [c for c in COMMANDS if "main_analysis_compare" in c]
    assert lines
    for line in lines:
        code, error = command(*shlex.split(line)[2:], *SKY, f"system.root={root}", config_name="compare")
        assert code == 0, error
        page = (root / "delens" / "Comparison" / "B" / "report.html").read_text()
        assert all(name in page for name in ("wiener", "quadratic", "delens_unet"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if "benchmarks/" in c])
def test_benchmark_command(command, tmp_path):
    name = re.search(r"benchmarks/(\w+)\.py", command)[1]
    words = [word.format(out=tmp_path) for word in BENCHMARKS[name]]
    output = run(*launcher(shlex.split(command)), *words, "--out", str(tmp_path))
    assert "ratio" in output
    assert next(tmp_path.rglob("*.csv")).read_text().count("\n") >= 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_command(command):
    does = {
        "make demo": "python main_delens.py field=B scale=5",
        "make test": 'python -m pytest -m "not slow"',
        "make test-slow": "python -m pytest -m slow",
        "make lint": "ruff check .",
    }
    assert does[command] in run("make", "--no-print-directory", "-n", *command.split()[1:])


def test_nothing_else_is_promised():
    kinds = ("make ", "main_", "benchmarks/", "get_data/")
    assert COMMANDS
    assert all(any(kind in c for kind in kinds) for c in COMMANDS)
    assert [
        line.removeprefix(".venv/bin/") for line in run("make", "--no-print-directory", "-n", "demo").splitlines()[-3:]
    ] == COMMANDS[2:5]


def test_groups_and_options_of_the_table_are_those_that_exist():
    listed = {
        m[1]: set(re.findall(r"`(\w+)`", m[2])) for m in re.finditer(r"^\| `(\w+)` \| ([^|]*) \|", README, re.MULTILINE)
    }
    found = {}
    for path in (REPO / "cfg").glob("*/*.yaml"):
        found.setdefault(path.parent.name, set()).add(path.stem)
    assert listed == found
