"""A user's mistake gets one or two sentences and exit code 1, and leaves nothing behind."""

import re
import subprocess
import sys

import pytest

from cmbml.config.checks import check_name
from cmbml.core.errors import UserError
from tests.conftest import REPO

MISTAKES = {
    "a function of others": (
        ['dataset=${call:os.system,"touch X"}'],
        r"call:'os.system',...} names no function of cmbml or of a plug-in",
    ),
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
    "average": (["rotation.average=9"], r"rotation.average=9 must be a number between 1 and 8"),
    "input": (["delens.inputs=[E_wf,kappa]"], r"delens.inputs: kappa is not known; choose among T, E"),
    "estimator": (["quadratic.estimator=tt"], r"quadratic.estimator=tt is not known; choose one of mv, eb"),
    "low l": (["nside=64"], r"delens.lmin_b=200 must lie between 0 and sky.lmax=187"),
    "wiener": (["method=wiener", "field=E"], r"method=wiener filters the lensing out of B, not out of E"),
    "lmax": (["sky.lmax=5000"], r"sky.lmax=5000 must lie between"),
    "common beam": (["analysis.fwhm_arcmin=1"], r"analysis.fwhm_arcmin=1.0 is finer"),
    "no name": (['dataset=""'], r"dataset is empty; give it a name"),
    "no test skies": (["splits.test=0"], r"splits.test=0 must be a number between 1 and 10000"),
    "no training skies": (["splits.train=0"], r"splits.train=0 leaves none"),
    "no skies to measure on": (["splits.train=0", "method=quadratic"], r"weights are measured on training skies"),
    "stage": (["run.only=[trian]"], r"there is no stage 'trian'; the stages are theory"),
    "missing input": (
        ["run.only=[network_estimate]"],
        r"'network_estimate' reads .*, which is not up to date \(not made yet\)",
    ),
    "no finite number": (["scale=inf"], r"scale=inf must be a number between 1e-09 and 1000000000\."),
    "no number": (["mask.b_deg=nan"], r"mask.b_deg=nan must be a number between 0 and 90\."),
    "huge number": (["mask.f_sky=1e300"], r"mask.f_sky=1e\+300 must be a number between 0 and 1\."),
    "huge number in a list": (["analysis.zoom=[0,1e300,1]"], r"analysis.zoom.1=1e\+300 must be a number"),
    "list for a number": (["train.seed=[1]"], r"train.seed=\[1\] must be a whole number between 0 and 4294967295"),
    "nothing for a number": (["train.epochs=null"], r"train.epochs=None must be a whole number between 1"),
    "negative seed": (["sky.seed=-1"], r"sky.seed=-1 must be a number between 0 and 4294967295"),
    "huge seed": (["sky.seed=99999999999999999999"], r"sky.seed=99999999999999999999 must be a number between"),
    "number of any method": (["+method.own=inf"], r"method.own=inf must be a number between -1e\+15 and 1e\+15"),
    "many skies": (["splits.test=1000000000"], r"splits.test=1000000000 must be a number between 1 and 10000"),
    "nothing for a group": (["train=null"], r"train=null is not known; .* the options are bands"),
    "number for a group": (["method=3"], r"method=3 is not known; .* the options are delens_unet"),
    "nothing for a group within": (["train.optimizer=null"], r"train.optimizer=None must be a mapping"),
    "number for a list": (["train.optimizer.betas=3"], r"train.optimizer.betas=3 must be two numbers"),
    "list for a text": (["train.loss=[mse]"], r"train.loss=\['mse'\] must be one of"),
    "label": (["delens.label=foo"], r"delens.label=foo is not what the network is asked for, kappa; leave it out"),
    "repeated fields": (["sky.fields=[T,E,B,E]"], r"sky.fields=\[T,E,B,E\] names something twice"),
    "repeated inputs": (["delens.inputs=[E,E]"], r"delens.inputs=\[E,E\] names something twice"),
    "cluster": (["system.cluster.kind=text"], r"system.cluster.kind=text is not known; choose one of none, dask"),
    "no stage": (["pipeline=[os.path.join]"], r"names the stage os.path.join, which is none"),
    "stages": (["method.stages=3"], r"pipeline does not resolve|method.stages=3 must be a list"),
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


COMMAND_LINES = {
    "=3": r"Hydra cannot make a configuration of the command line: ",
    "hydra=3": r"Hydra cannot make a configuration of the command line: ",
    "--resolve": r"Hydra cannot make a configuration of the command line: The --resolve flag can only be used",
    "": r"mismatched input '<EOF>'",
    "nside": r"'nside'. missing EQUAL",
    "nside=": r"Value '' of type 'str' could not be converted to Integer",
    "nside=64 128": r"Value '64 128' of type 'str' could not be converted",
    "nside=[1": r"no viable alternative at input '\[1'",
    "nside=choice(1,2)": r"Sweep parameters 'nside=choice\(1,2\)' requires --multirun",
    "nside=${nope}": r"nside does not resolve: Interpolation key 'nope' not found",
    "system.root=${nope}": r"Interpolation key 'nope' not found",
    "+foo=1": r"foo is read by no stage of this pipeline",
    "++foo.bar=1": r"foo.bar is read by no stage of this pipeline",
    "+mask.foo=1": r"mask.foo is read by no stage of this pipeline",
    "+linear_map.foo=1": r"linear_map.foo is read by no stage of this pipeline",
    "~nside": r"sky.nside does not resolve: Interpolation key 'nside' not found",
    "~noise": r"noise.kind does not resolve: Missing mandatory value",
    "~run.dry": r"does not support deletion",
    "experiment=": r"experiment= is not known; for main_sims.py the options are cleaning_demo, ",
    "experiment=nope": r"experiment=nope is not known; for main_sims.py the options are cleaning_demo, ",
    "noise=größe": r"noise=größe is not known; for main_sims.py the options are none, scan, ",
    "noise=[scan,white]": r"noise=\[scan,white\] is not known",
    "run.only=[nope]": r"run.only: there is no stage 'nope'; the stages are ",
    "--config-name=nope": r"Cannot find primary config 'nope'",
    "--config-dir=/nope": r"'/nope' not found",
    "pipeline=[[1,2]]": r"pipeline.0=\[1, 2\] must be a plain value",
    "sims.stages=[foo]": r"sims.stages=.* must be a list of classes of stages",
    "instrument.bands=[7]": r"instrument.bands: .*planck.ecsv has no band 7; it has 30, ",
}


@pytest.mark.parametrize("word", COMMAND_LINES)
def test_what_is_no_word_of_the_command_line(command, word):
    code, error = command(word, "run.dry=true", config_name="sims")
    assert (code, error.count("\n")) == (1, 1), error
    assert re.match(f"Error: .*{COMMAND_LINES[word]}", error), error


@pytest.mark.parametrize("job", ["foo", "", "null", "[clean]", "3"])
def test_a_job_that_there_is_not(command, job):
    code, error = command(f"job={job}", config_name="compare")
    assert code == 1
    assert error == (f"Error: job={job} is not known; for main_analysis_compare.py the options are clean, delens.\n")


def test_root_that_cannot_be_a_folder(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, error = command(root=str(tmp_path / "file" / "data"))
    assert (code, error.count("\n")) == (1, 1)
    assert "Choose another place" in error


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


NAMES = {
    "../evil": "must be a name",
    "/abs": "must be a name",
    "..": "must be a name",
    ".": "must be a name",
    "a/b": "must be a name",
    "a\\b": "must be a name",
    "a\nb": "must be a name",
    "a\x00b": "must be a name",
    " a": "must be a name",
    "a.": "must be a name",
    "größe": "must be a name",
    "a$b": "must be a name",
    "a" * 101: "must be a name",
    "": "is empty; give it a name",
    **dict.fromkeys(("Logs", "rotations", "ASSETS", "Simulations"), "is the name of a folder of cmbml's own"),
    **dict.fromkeys(("Simulation_Working", "comparison"), "is the name of a folder of cmbml's own"),
}


@pytest.mark.parametrize("key", ["dataset", "method.name", "compare.methods"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_of_a_folder_of_its_own_is_refused(name, key):
    with pytest.raises(UserError, match=NAMES[name]) as refused:
        check_name(key, name)
    assert str(refused.value).startswith(key)
    assert str(refused.value).isprintable()


def test_names_are_checked_where_they_become_folders(composed):
    for word in ("dataset=../evil", "method.name=../../x", "assets.constants.label=.."):
        with pytest.raises(UserError, match=f"^{word} must be a name"):
            composed(word)
    with pytest.raises(UserError, match="^compare.methods=../x must be a name"):
        composed("compare.methods=[none,../x]", name="compare")
    with pytest.raises(UserError, match="^method.name=none is what a comparison calls no method"):
        composed("method.name=none")
    with pytest.raises(UserError, match="^assets.constants.root=/ is not system.root"):
        composed("assets.constants.root=/")
    composed("dataset='my data, 2.5'", "method.name='unet [2]=x'")
