"""What a main answers to --help: what it does, commands that compose, the groups and keys of its job, and soon."""

import re
import shlex
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from cmbml.config import resolvers
from cmbml.config.help import help_text
from cmbml.config.options import MAINS, check_options
from tests.conftest import REPO

CFG = REPO / "cfg"
HEAVY = {"torch", "healpy", "camb", "matplotlib", "dask", "scipy", "astropy"}


@pytest.mark.parametrize("job", MAINS)
def test_ten_commands_that_compose(job):
    lines = re.findall(rf"^  python {MAINS[job]}(.*)$", help_text(CFG, job), re.MULTILINE)
    assert len(lines) == 10
    resolvers.register()
    with initialize_config_dir(str(CFG), version_base="1.3"):
        for line in lines:
            words = check_options(CFG, job, shlex.split(line, comments=True))
            if "-m" not in words and "--help" not in words:
                assert compose(job, overrides=words).pipeline


def test_groups_and_keys_are_those_of_the_job():
    text = help_text(CFG, "delens")
    listed = re.search(r"^  network +(.*)$", text, re.MULTILINE)[1].split()
    assert {"resunet", "unet*", "unet_256", "unet_gpu", "unetpp"} <= set(listed)
    assert "unet5" not in text
    assert "target_fwhm_arcmin" not in text
    for key in (
        "field=B",
        "scale=1.0",
        "nside=512",
        "epochs=6",
        "dataset=delens",
        "delens.lmin_b=200",
        "run.dry=false",
    ):
        assert re.search(rf"^  {key} +\w+", text, re.MULTILINE), key
    text = help_text(CFG, "compare", ["job=clean"])
    assert re.search(r"^  job +clean\* delens$", text, re.MULTILINE)
    assert {"unet5", "unet8", "unet_bands*"} <= set(re.search(r"^  network +(.*)$", text, re.MULTILINE)[1].split())


def test_every_key_of_a_root_file_has_a_meaning():
    for job in MAINS:
        text = help_text(CFG, job)
        for line in (CFG / f"{job}.yaml").read_text().splitlines():
            key = re.match(r"(\w+): ", line)
            assert key is None or key[1] == "pipeline" or f"\n  {key[1]}" in text, line


def test_answer_loads_nothing_that_computes():
    """Those libraries are what a start would wait for: no time is measured here, where others compute."""
    program = "import sys, runpy; sys.argv = ['main_delens.py', '--help']"
    program += "; runpy.run_path('main_delens.py', run_name='__main__')"
    program += f"; print('loaded', *sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Delensing: simulate lensed skies")
    assert done.stdout.endswith("\nloaded\n")


def test_torch_compiler_is_not_loaded_with_the_networks():
    program = (
        "import sys, cmbml.networks.unet, cmbml.sky.cosmology; print(*({'torch._dynamo', 'camb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
