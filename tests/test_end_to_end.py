"""The delensing job from the command line, at its smallest size."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import yaml

from cmbml.config import resolvers
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.core.provenance import Sidecar
from cmbml.script import pipeline
from tests.conftest import REPO, run_here
from tests.test_costs import compare
from tests.test_trained import STORE, TINY, demand_claims

STAGES = [
    "theory",
    "mask",
    "cmb",
    "observe",
    "label",
    "observed_noise",
    "filters",
    "quadratic_estimate",
    "mean_field",
    "features",
    "rotations",
    "train",
    "network_estimate",
    "lensing_template",
    "export",
    "curves",
    "measure",
    "pictures",
    "summary",
]
# CAMB leaves a process large: the peak of what follows would be that of CAMB.
ALONE = ("run.only=[theory]", "run.only=[mask,cmb,observe,label,observed_noise]", "run.only=[filters]")
MEASURED = ["curves", "measure", "pictures", "summary"]


def output_of(root: Path) -> Path:
    """Where a run's words go: beside its root."""
    return root.with_name(f"{root.name}.output")


def start(root: Path, *overrides: str) -> subprocess.Popen:
    """Start `main_delens.py` on the tiny experiment; what it says goes to a file, which no orphan holds open."""
    with output_of(root).open("w") as output:
        words = [sys.executable, "main_delens.py", *TINY, f"system.root={root}", *overrides]
        return subprocess.Popen(words, cwd=REPO, stdout=output, stderr=subprocess.STDOUT, text=True)


def run(root: Path, *overrides: str) -> str:
    """Run to the end and return what it said."""
    code = start(root, *overrides).wait()
    output = output_of(root).read_text()
    assert code == 0, output
    return output


def contents(root: Path) -> dict[str, bytes]:
    """Files but for logs and sidecars, which hold times."""
    files = (p for p in root.rglob("*") if p.is_file() and "Logs" not in p.parts and not p.name.startswith("."))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def table(output: str) -> dict[str, list[str]]:
    """Rows of the closing or the dry run's table, by stage."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines() if line.startswith("  ")]
    return {row[0]: row[1:] for row in rows if row[0] in STAGES}


def here(root: Path, *overrides: str) -> str:
    """Run in this process, without workers, and return what it said."""
    folder = root / "Logs" / "here"
    code, error = run_here(*TINY, "run.workers=1", *overrides, f"hydra.run.dir={folder}", root=root)
    assert code == 0, error
    said = (folder / "delens.log").read_text()
    (folder / "delens.log").unlink()
    return said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Root of a finished run, of a process of its own, in which nothing has changed the number of torch's threads."""
    root = tmp_path_factory.mktemp("tiny")
    for words in ALONE:
        run(root, words, "run.workers=1")
    assert list(table(run(root, "delens.export_npy=true", "run.workers=1"))) == STAGES
    return root


def test_finished_run_is_not_redone(done):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if "Logs" not in p.parts and p.is_file()}
    rows = table(here(done, "delens.export_npy=true"))
    assert {name: row[1] for name, row in rows.items()} == dict.fromkeys(STAGES, "0")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_dry_run_names_what_an_override_makes_stale(done):
    stale = {
        "scale=2": (["train", "network_estimate", "lensing_template", *MEASURED], "train.scale 5.0 -> 2.0"),
        "field=E": (["network_estimate", "lensing_template", *MEASURED], "not made yet"),
        "analysis.fwhm_arcmin=90": (["measure", "summary"], "analysis.fwhm_arcmin 60.0 -> 90.0"),
        "splits.train=4": (
            [
                *("theory", "cmb", "observe", "label", "observed_noise", "filters", "quadratic_estimate", "features"),
                *("train", "network_estimate", "lensing_template", *MEASURED),
            ],
            "obs[train]: 3 -> 4 items",
        ),
    }
    for override, (stages, why) in stale.items():
        rows = table(here(done, override, "run.dry=true"))
        assert [name for name, row in rows.items() if int(row[1])] == stages
        first = next(name for name in ("train", "lensing_template", "measure") if name in stages)
        assert rows[first][-1] == why


def test_dry_run_tells_what_the_run_took(done):
    every = [*STAGES, "baseline", "kappa_spectra"]
    said = run(done, "delens.export_npy=true", "run.workers=1", "run.dry=true", f"run.force=[{','.join(every)}]")
    assert re.search(r"at most\. About \S+ (s|min) by earlier runs\.$", said, re.MULTILINE)
    assert set(compare(said, done)) == {*every} - {"mask", "mean_field", "rotations"}


def test_prediction_is_a_whole_sky_that_other_tools_read(done):
    folder = done / "delens_tiny" / "delens_unet" / "B"
    prediction, header = hp.read_map(folder / "Test" / "sim0001" / "prediction_map.fits", h=True, dtype=None)
    header = dict(header)
    assert len(prediction) == 12 * 64**2
    assert (header["TUNIT1"], header["TTYPE1"], header["FWHM"], header["LMAX"]) == ("uK_CMB", "B", 30.0, 187)
    exported = np.load(folder / "npy" / "B_pred_epochs_3_0_0.npy")
    assert (exported[1] == prediction).all()
    assert np.load(folder / "npy" / "B_label_epochs_3_0_0.npy")[1] == pytest.approx(
        unlensed_map(done, "sim0001"), abs=1e-6
    )


def unlensed_map(root: Path, sim: str) -> np.ndarray:
    """The truth with the beam of the observation, by healpy."""
    with np.load(root / "delens_tiny" / "Simulations" / "Test" / sim / "cmb_unlensed_alm.npz") as alms:
        b = hp.almxfl(alms["B"].astype(complex), hp.gauss_beam(np.deg2rad(0.5), lmax=187))
    return hp.alm2map(b, 64)


def test_table_agrees_with_the_maps(done):
    """RMSE and transfer from the files, with healpy, against the table."""
    folder = done / "delens_tiny" / "delens_unet" / "B"
    with (folder / "analysis" / "table.csv").open() as f:
        lines = {(row["method"], row["form"]): row for row in csv.DictReader(f)}
    rmse = {"delens_unet": [], "no delensing": []}
    for sim in ("sim0000", "sim0001"):
        sky = done / "delens_tiny" / "Simulations" / "Test" / sim
        truth = unlensed_map(done, sim)
        maps = {
            "no delensing": hp.read_map(sky / "obs_map.fits", field=2, dtype=float),
            "delens_unet": hp.read_map(folder / "Test" / sim / "prediction_map.fits", dtype=float),
        }
        for name, m in maps.items():
            rmse[name].append(np.sqrt(np.mean((m - truth) ** 2)))
    for name, values in rmse.items():
        line = lines[name, "native"]
        assert float(line["RMSE_mean"]) == pytest.approx(np.mean(values), rel=1e-4)
        assert float(line["RMSE_std"]) == pytest.approx(np.std(values, ddof=1), rel=1e-2)
    assert float(lines["no delensing", "native"]["A_res_mean"]) == 1
    # At lmax 187 there is next to no lensing to be reconstructed: the template may take away little, and keeps most.
    line = lines["delens_unet", "native"]
    assert 0.5 < float(line["A_res_mean"]) < 1.01
    assert 0.8 < float(line["transfer_mean"]) < 1.1


def test_sidecar_of_a_sky(done):
    record = json.loads((done / "delens_tiny/Simulations/Test/sim0000/.obs_map.fits.json").read_text())
    assert record["settings"]["delens.fwhm_arcmin"] == 30.0
    assert record["seeds"] == ["noise/T/0/test/0", "noise/P/0/test/0"]


def test_workers_do_not_change_the_bytes_of_skies(done, tmp_path):
    here(tmp_path, "run.only=[theory,cmb,observe,label]", "run.workers=2", "splits.train=1", "splits.test=1")
    two = contents(tmp_path)
    assert two.items() <= contents(done).items()
    assert len(two) == 7 * 3


@pytest.fixture(scope="module")
def stored(done, tmp_path_factory) -> Path:
    """A folder of assets with the network of the finished run as `mine`."""
    to = tmp_path_factory.mktemp("assets")
    (to / "instruments").symlink_to(REPO / "assets" / "instruments")
    STORE["store_network"]("mine", "delens", " ".join(TINY), done, to)
    return to


def test_the_card_of_a_stored_network_claims_what_its_files_are(done, stored):
    text = demand_claims(stored / "models" / "mine")
    assert f"```bash\npython main_delens.py {' '.join(TINY)}\n```" in text
    assert (done / "delens_tiny/delens_unet/B/analysis/table.md").read_text().strip() in text
    assert str(done.parent) not in text
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert settings["delens.inputs"] == ["E_wf", "B_hp", "kappa_qe"]


def test_a_stored_network_predicts_without_training_as_where_it_was_trained(done, stored, tmp_path, monkeypatch):
    """In its dataset, and in another that has the noise of its filters and no training sky."""
    monkeypatch.setattr(resolvers, "ASSETS", stored)
    given = pipeline("delens", *TINY, "method.trained=mine", "method.name=given", f"system.root={done}")
    elsewhere = pipeline("delens", *TINY, "method.trained=mine", "delens.noise=mine", f"system.root={tmp_path}")
    plans = [run.plan() for run in (given, elsewhere)]
    splits = [{name: {x.item.get("split") for x in works} for name, works in plan.items() if works} for plan in plans]
    assert not {"train", "curves"} & {*splits[0], *splits[1]}
    assert {split for found in splits[1].values() for split in found} == {"test", None}
    assert [splits[0][x] for x in ("theory", "cmb", "observe")] == [{"train", "test"}] * 3
    assert [splits[0][x] for x in ("label", "quadratic_estimate", "features")] == [{"test"}] * 3
    assert [name for name, works in plans[0].items() if any(work.why for work in works)] == [
        "network_estimate", "lensing_template", "measure", "pictures", "summary", "kappa_spectra",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"table.csv is not up to date \(not made yet\); run  the command"):
        STORE["finished"](given, {"summary": "table_md"}, "the command")
    for name in ("theory", "cmb", "observe"):  # which are the same there
        for work in plans[1][name]:
            for path in (*(file.path for file in work.outputs), Sidecar.path(work.outputs)):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(done / path.relative_to(tmp_path), path)
    elsewhere.run(only=["observed_noise", "filters", "quadratic_estimate", "features", "network_estimate"])
    given.run(only=["network_estimate"])
    for sim in range(2):
        estimates = [
            File(root / f"delens_tiny/{method}/B/Test/sim000{sim}/estimate_map.fits").read()["kappa"]
            for root, method in ((done, "delens_unet"), (done, "given"), (tmp_path, "delens_unet"))
        ]
        for other in estimates[1:]:  # single precision, and sums in another order on another number of threads
            np.testing.assert_allclose(other, estimates[0], rtol=0, atol=1e-5 * estimates[0].std())
    shutil.rmtree(done / "delens_tiny" / "given")  # the other tests compare what is in it


def test_killed_run_resumes_to_the_same_bytes(done, tmp_path):
    """SIGKILL as soon as a stage has written something, twice; the same command then ends with the files of `done`."""
    for folder in ("Simulation_C_Configs", "Simulation_CMB_Power_Spectra"):  # for it need not wait for CAMB
        place = Path("delens_tiny", "Simulation_Working", folder)
        shutil.copytree(done / place, tmp_path / place)
    for name, workers in (("obs_map.fits", 2), ("last.pt", 1)):
        process = start(tmp_path, "delens.export_npy=true", "system.checkpoint_every=1", f"run.workers={workers}")
        while process.poll() is None and not list(tmp_path.rglob(name)):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(tmp_path.rglob("table.csv")), "the run was over before it could be killed"
        kept = {k: v for k, v in contents(tmp_path).items() if "checkpoints" not in k}
        assert kept.items() < contents(done).items()
    assert list(tmp_path.rglob("last.pt")), "the training was not begun"
    assert list(table(here(tmp_path, "delens.export_npy=true"))) == STAGES
    assert contents(tmp_path) == contents(done)


# Counts what is written, renamed and recorded, and dies at the k-th of these.
DIES = """
import os, signal, sys
from pathlib import Path
from cmbml.core import handlers
from cmbml.start import start

left = int(sys.argv.pop(1))
write, replace = handlers._write, os.replace

def count():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def counted_write(tmp, path, value):
    write(tmp, path, value)
    count()

def counted_replace(tmp, path):
    count()
    replace(tmp, path)

handlers._write, handlers.os.replace = counted_write, counted_replace
start(Path("cfg").absolute(), "delens")
"""
# Stage -> items and outputs; each item is written, renamed, and recorded. The last first: none reads what died before.
KILLED = {
    "summary": (1, 5),
    "pictures": (2, 3),
    "measure": (2, 2),
    "features": (6, 1),
    "label": (6, 1),
    "observe": (6, 2),
}


def test_a_kill_at_any_write_of_a_stage_leaves_the_same_bytes(done, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(done, root)
    expected = contents(done)
    for i, (stage, (items, outputs)) in enumerate(KILLED.items()):
        k = int(np.random.default_rng(i).integers(1, items * (2 * outputs + 1) + 1))
        words = [*TINY, f"system.root={root}", "run.workers=1", f"run.only=[{stage}]", f"run.force=[{stage}]"]
        died = subprocess.run([sys.executable, "-c", DIES, str(k), *words], cwd=REPO, capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, (stage, k, died.stdout[-500:], died.stderr[-500:])
        assert contents(root).items() <= expected.items(), stage  # whole files, each of the right bytes
    assert list(table(here(root, "delens.export_npy=true"))) == STAGES
    assert contents(root) == expected
