"""Every command of the README runs: as it stands when it is short, else in a reduced form made from the same line."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REPO

README = (REPO / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
# What makes any line small; a later word on the command line wins over an earlier one.
SMALL = shlex.split(
    "nside=32 epochs=1 sky.margin=64 splits.train=1 splits.valid=1 splits.test=1 network.n_filters=2 patches.patch=16"
    " patches.halo=8 instrument.fwhm_arcmin=60 analysis.fwhm_arcmin=120 analysis.lmax=90 analysis.band=[5,60]"
    " analysis.delta_l=10 analysis.zoom=[0,60,60]"
)
BENCHMARKS = {
    "engine": ["--items", "20", "--kilobytes", "1"],
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


@pytest.mark.parametrize("line", [c for c in COMMANDS if "main_" in c])
def test_pipeline_command(line, root, command):
    words = [*launcher(shlex.split(line)), f"system.root={root}"]
    if "run.dry=true" in line or "--cfg" in line:
        assert "Error" not in run(*words)
    else:
        overrides = [word.split(",")[0] if "-m" in words else word for word in words if "=" in word]  # a sweep's first
        code, error = command(*overrides, "run.dry=true", "run.only=[]", "run.start=null")
        assert code == 0, error  # the line at its full size
        if "run.start" in line or "run.force" in line:
            run(sys.executable, "main_delens.py", f"system.root={root}", *SMALL)  # what it goes on from
        run(*words, *SMALL)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "benchmarks/" in c])
def test_benchmark_command(command, tmp_path):
    name = re.search(r"benchmarks/(\w+)\.py", command)[1]
    output = run(*launcher(shlex.split(command)), *BENCHMARKS[name], "--out", str(tmp_path))
    assert "ratio" in output
    assert (tmp_path / f"{name}.csv").read_text().count("\n") >= 2


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
    kinds = ("make ", "main_", "benchmarks/")
    assert COMMANDS
    assert all(any(kind in c for kind in kinds) for c in COMMANDS)
    assert (
        run("make", "--no-print-directory", "-n", "demo").splitlines()[-1]
        == ".venv/bin/python main_delens.py field=B scale=5"
    )


def test_groups_and_options_of_the_table_are_those_that_exist():
    listed = {
        m[1]: set(re.findall(r"`(\w+)`", m[2])) for m in re.finditer(r"^\| `(\w+)` \| ([^|]*) \|", README, re.MULTILINE)
    }
    found = {}
    for path in (REPO / "cfg").glob("*/*.yaml"):
        found.setdefault(path.parent.name, set()).add(path.stem)
    assert listed == found
