"""A user's mistake gets one or two sentences and exit code 1, and leaves nothing behind."""

import re
import subprocess
import sys

import pytest

from cmbml.core.errors import UserError
from tests.conftest import REPO

MISTAKES = {
    "unknown key": (["sky.nsied=64"], r"nsied"),
    "unknown root key": (["nsides=64"], r"nsides"),
    "unknown group option": (["network=unett"], r"unett"),
    "unknown instrument": (
        ["instrument=plank"],
        r"plank is not known; .* the options are cmbs4_lat.*, toy\.$",
    ),
    "wrong type": (["nside=many"], r"'many'.*Integer"),
    "wrong type in a group": (["analysis.fwhm_arcmin=wide"], r"'wide'.*Float"),
    "beam": (
        ["instrument.fwhm_arcmin=wide"],
        r"^Error: instrument.fwhm_arcmin=wide must be a mapping of bands, .*number",
    ),
    "noise": (["instrument.noise_p_uk_arcmin=-1"], r"noise_p_uk_arcmin = -1.0, and it must be finite and not negative"),
    "many bands": (["instrument=planck"], r"planck has 9 bands here.*choose one of 30, .*, as in instrument.bands=\["),
    "no polarisation": (["instrument=planck", "instrument.bands=[857]"], r"The band 857 .* no noise of polarisation"),
    "unknown band": (["instrument=planck", "instrument.bands=[144]"], r"has no band 144; it has 30, 44"),
    "wrong type of the training": (["train.batch_size=lots"], r"lots"),
    "wrong type of the network": (["network.n_filters=lots"], r"n_filters"),
    "unknown loss": (["train.loss=l7"], r"l7"),
    "field": (["field=X"], r"field=X is not known; choose one of T, E, B, Q, U"),
    "nside": (["nside=100"], r"nside=100 must be a power of two"),
    "patch": (["patches.patch=96"], r"patches.patch=96 must be a power of two that divides nside=512"),
    "patch larger than nside": (["nside=64", "delens.lmin_b=30"], r"divides nside=64"),
    "target": (["delens.target=kapa"], r"delens.target=kapa is not known"),
    "spin and symmetries": (["delens.inputs=[Q,U]"], r"not right for Q: set rotation.symmetries=false"),
    "spin": (["delens.inputs=[Q,U]", "rotation=permutation"], r"rotation=permutation cannot turn Q"),
    "average": (["rotation.average=9"], r"rotation.average=9 must lie between 1 and 8"),
    "input": (["delens.inputs=[E_wf,kappa]"], r"delens.inputs: kappa is not known; choose among T, E"),
    "estimator": (["quadratic.estimator=tt"], r"quadratic.estimator=tt is not known; choose one of mv, eb"),
    "low l": (["nside=64"], r"delens.lmin_b=200 must lie between 0 and sky.lmax=187"),
    "wiener": (["method=wiener", "field=E"], r"method=wiener filters the lensing out of B, not out of E"),
    "lmax": (["sky.lmax=5000"], r"sky.lmax=5000 must lie between"),
    "common beam": (["analysis.fwhm_arcmin=1"], r"analysis.fwhm_arcmin=1.0 is finer"),
    "no name": (['dataset=""'], r"dataset is empty; give it a name"),
    "no test skies": (["splits.test=0"], r"splits.test=0 must be larger than 0"),
    "no training skies": (["splits.train=0"], r"splits.train=0 leaves none"),
    "no skies to measure on": (["splits.train=0", "method=quadratic"], r"weights are measured on training skies"),
    "stage": (["run.only=[trian]"], r"there is no stage 'trian'; the stages are theory"),
    "missing input": (
        ["run.only=[network_estimate]"],
        r"'network_estimate' reads .*, which is not up to date \(not made yet\)",
    ),
    "devices": (["system.devices=-1"], r"system.devices=-1 must be auto or a positive number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(command, mistake, tmp_path):
    overrides, message = MISTAKES[mistake]
    code, error = command(*overrides)
    assert code == 1
    assert error.startswith("Error: ")
    assert re.search(message, error, re.DOTALL), error
    assert error.count("\n") == 1
    assert error.count(". ") <= 2, "more than two or three sentences"
    assert "Traceback" not in error
    left = [p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.suffix != ".log" and ".hydra" not in p.parts]
    assert not left


@pytest.mark.parametrize(
    ("name", "word", "told"),
    [
        ("delens", "network=unet5", "belongs to main_clean.py; for main_delens.py the options are resunet, unet, "),
        ("delens", "experiment=cmbml_512", "belongs to main_sims.py and main_clean.py; .* unet_unlensed"),
        ("clean", "experiment=delens_gpu", "belongs to main_delens.py; .* cleaning_demo, cmbml_128, "),
        ("sims", "network=unet", "belongs to main_delens.py; main_sims.py has no such group, its groups are "),
    ],
)
def test_option_of_another_job(command, name, word, told):
    code, error = command(word, config_name=name)
    assert (code, error.count("\n")) == (1, 1)
    assert re.match(f"Error: {word} {told}", error), error


def test_root_that_cannot_be_a_folder(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, error = command(root=str(tmp_path / "file" / "data"))
    assert (code, error.count("\n")) == (1, 1)
    assert "Choose another system.root" in error


def test_root_that_cannot_be_written(command):
    code, error = command(root="/sys/cmbml")  # where not even the superuser makes folders
    assert (code, error.count("\n")) == (1, 1)
    assert "/sys/cmbml" in error


def test_the_command_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "main_delens.py", "field=X", f"system.root={tmp_path}"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "Error: field=X is not known; choose one of T, E, B, Q, U.\n"


def test_traceback_of_a_mistake_for_who_wants_it(command):
    """With HYDRA_FULL_ERROR=1 the mistake itself leaves the program, and Python shows where it happened."""
    with pytest.raises(UserError, match="field=X is not known") as caught:
        command("field=X", full_error="1")
    assert "checks" in [place.path.stem for place in caught.traceback]
