"""A wheel, and a package that plugs into it, used outside the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import healpy as hp
import numpy as np
import pytest

from cmbml.commands import HELPERS, JOBS
from cmbml.config.options import MAINS
from cmbml.config.places import folder
from cmbml.maps.skymap import read_skymap
from tests.conftest import REPO, run_here

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
SOURCES = ("cmbml", "cfg", "assets", "get_data", "pyproject.toml", "setup.py", "README.md", "LICENSE")
SMALL = ("experiment=tiny", "nside=32", "splits.train=1", "splits.test=1", "run.workers=1")

STAND_INS = ("model.pt", "observed_noise.npz")  # of a network that comes along


def build(source: Path, place: Path) -> Path:
    """The wheel of a source tree, made without any download."""
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", place, source], check=True)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of this tree: nothing that an earlier build has left in it is carried along."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, copy)
    for name in STAND_INS:
        (copy / "assets" / "models" / "mine").mkdir(parents=True, exist_ok=True)
        (copy / "assets" / "models" / "mine" / name).write_bytes(b"none")
    return build(copy, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    """The wheel of the package in `demonstrations/plugin/`."""
    place = tmp_path_factory.mktemp("plugin")
    shutil.copytree(REPO / "demonstrations" / "plugin", place / "source")
    return build(place / "source", place)


@pytest.fixture(scope="module")
def installed(wheel, plugin, tmp_path_factory):
    """Function that runs `cmbml WORDS` of both wheels in an empty folder; the libraries are those of this environment.

    A path in a .pth file does not obey the .pth files that lie there, so that this tree is not importable by it.
    """
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    Path(site.strip(), "tested.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, plugin], check=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CMBML_ROOT")}

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [venv / "bin" / "cmbml", *words], cwd=elsewhere, env=environ, capture_output=True, text=True
        )

    run.folder = elsewhere
    return run


def test_the_wheel_has_every_module_option_and_table(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(REPO)) for path in (REPO / "cmbml").rglob("*.py")}
    for name, pattern in (
        ("cfg", "*.yaml"), ("assets", "*.ecsv"), ("assets", "*.gz"), ("assets", "models/*/*"), ("get_data", "*.*"),
    ):  # fmt: skip
        wanted |= {f"cmbml/_data/{path.relative_to(REPO)}" for path in (REPO / name).rglob(pattern)}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert {"cmbml/_data/cfg/method/wiener.yaml", "cmbml/_data/get_data/manifest.yaml", "cmbml/start.py"} <= wanted
    assert {
        *wanted,
        *(f"cmbml/_data/assets/models/mine/{name}" for name in ("model.pt", "observed_noise.npz")),
    } <= names
    assert not any(name.startswith(("tests/", "cfg/", "demonstrations/")) or name.endswith(".png") for name in names)


def test_the_tiny_job_outside_the_repository_and_a_method_of_another_package(installed):
    done = installed("delens", *SMALL, "epochs=1", "patches.patch=16", "patches.halo=0")
    assert done.returncode == 0, done.stderr
    results = installed.folder / "data" / "delens_tiny"
    assert (results / "delens_unet" / "B" / "analysis" / "table.md").is_file()
    record = json.loads((results / "Simulations/Test/sim0000/.obs_map.fits.json").read_text())
    assert record["git"] == {"commit": None, "dirty": None}  # wherever it is installed, it is no commit of that place
    assert record["packages"]["cmbml-shrink"] == "1.0"

    done = installed("delens", *SMALL, "method=shrink", "method.part=0.25")
    assert done.returncode == 0, done.stderr
    assert "cmb: 0 of 3 made" in done.stdout
    assert "shrink: 1 of 1 made" in done.stdout
    assert (results / "shrink" / "B" / "analysis" / "table.md").is_file()


def test_the_skies_that_come_along_are_cleaned(installed):
    """Beside the truth as the wheel brought it: each sky better than its best band, everywhere that the mask leaves."""
    done = installed("clean", "experiment=demo", "run.only=[mask,cmb_map,observe,clean]")
    assert done.returncode == 0, done.stderr
    shipped = REPO / "assets" / "demo_simulation"
    assert sum(path.stat().st_size for path in shipped.rglob("*.*")) < 2e6
    seen = read_skymap(shipped / "mask_map.fits.gz")["mask"] > 0.5
    for sim in ("sim0000", "sim0001", "sim0002"):
        cleaned = read_skymap(installed.folder / f"data/demo/cnilc/T/Test/{sim}/prediction_map.fits", nside=32)
        truth = read_skymap(shipped / sim / "cmb_map_fid.fits.gz")["T"]
        truth = hp.smoothing(truth, fwhm=np.radians(cleaned.fwhm_arcmin / 60), lmax=80)
        bands = [read_skymap(path)["T"] for path in sorted((shipped / sim).glob("obs_*"))]
        assert len(bands) == 9
        of_bands = min(np.std((band - truth)[seen]) for band in bands)
        assert np.std((cleaned["T"] - truth)[seen]) < min(3.0, 0.5 * of_bands)  # uK; found: 1.1


@pytest.mark.slow
def test_the_command_beside_them_makes_them(tmp_path):
    folder = REPO / "assets" / "demo_simulation"
    (words,) = re.findall(r"^python main_sims.py (.*)$", (folder / "README.md").read_text(), re.MULTILINE)
    only = "run.only=[synthetic_templates,mask,foregrounds,theory,cmb,cmb_map,observe]"
    assert run_here(*words.split(), only, root=tmp_path, config_name="sims")[0] == 0
    made = tmp_path / "demo_simulation"
    for path in folder.rglob("*.gz"):
        place = "Simulations/Test" if "sim0" in path.parent.name else "Simulation_Working/Simulation_Mask"
        (again,) = made.glob(f"{place}/**/{path.relative_to(folder).with_suffix('')}")
        found = read_skymap(again)
        stored = read_skymap(path)
        assert found.header() == stored.header()
        scale = np.std(stored.data)
        np.testing.assert_allclose(found.data, stored.data, rtol=1e-4, atol=1e-4 * scale)  # other machines, CAMBs


def test_networks_that_come_along_are_found_by_their_names(installed):
    done = installed("delens", "delens.noise=yours", "run.dry=true")
    said, _, names = done.stderr.partition(" nor one of ")
    assert (done.returncode, said.partition(" is ")[0]) == (1, "Error: delens.noise=yours")
    assert {"measured", "theory", "mine"} <= set(names.rstrip(".\n").split(", "))
    done = installed("delens", "method.trained=mine", "run.dry=true")
    assert re.search(r"Error: .*/cmbml/_data/assets/models/mine/model.pt cannot be read", done.stderr), done.stderr


def test_commands_of_the_installed_package(installed):
    text = installed("delens", "--help").stdout
    assert "  cmbml delens experiment=tiny  " in text
    assert " shrink " in text
    assert "main_delens.py" not in text
    done = installed("clean", "method=shrink")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: method=shrink belongs to cmbml delens; for cmbml clean the options are ")
    done = installed("fetch", "assets", "--only", "wmap9_chains", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 files to bring" in done.stdout
    assert installed("--help").stdout.startswith("usage: cmbml COMMAND")
    done = installed("fecth")
    assert (done.returncode, done.stderr) == (2, "Error: cmbml has no command 'fecth'; did you mean fetch?\n")


def test_what_the_page_says():
    """Its commands are those of the program, and the lines for a plug-in those of the one that is shown."""
    text = (REPO / "docs" / "package.md").read_text()
    assert set(re.findall(r"`cmbml ([a-z]+)", text)) == {*JOBS, *HELPERS}
    assert set(JOBS) == set(MAINS)
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    said = tomllib.loads((REPO / "demonstrations/plugin/pyproject.toml").read_text())["project"]["entry-points"]
    assert tomllib.loads(shown)["project"]["entry-points"] == said


def test_places(tmp_path):
    """What a wheel brought goes before what happens to lie beside the package."""
    package = tmp_path / "cmbml"
    assert folder("cfg", package) == tmp_path / "cfg"
    (package / "_data" / "cfg").mkdir(parents=True)
    (tmp_path / "cfg").mkdir()
    assert folder("cfg", package) == package / "_data" / "cfg"
