"""`cmbml doctor` finds what is there, and says what the lack of the rest costs."""

import os
import re

import pytest

from cmbml.commands import doctor, main
from cmbml.commands.fetch import script


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """Function to (exit code, line by what it is about), with a root of its own."""
    monkeypatch.delenv("PYSM_LOCAL_DATA", raising=False)

    def run() -> tuple[int, dict[str, str]]:
        code = main(["doctor", "--root", str(tmp_path / "root")])
        rows = re.findall(r"^ ([!\- ]) (.+?)  +(.*)$", capsys.readouterr().out, re.MULTILINE)
        return code, {what: f"{mark} {text}" for mark, what, text in rows}

    return run


def test_what_is_here(told, tmp_path):
    (tmp_path / "root" / "mine" / "Simulations").mkdir(parents=True)
    code, lines = told()
    assert code == 0
    assert lines["datasets"] == "  mine"
    assert lines["torch"].startswith("  2.")
    assert lines["folder"] == f"  {tmp_path}/root can be written"
    assert 1 <= int(lines["cores"].split()[0]) <= os.cpu_count()
    assert lines["planck_nilc"].startswith("- 1 of 1 missing, about 1.")
    assert lines["planck_nilc"].endswith("(cmbml fetch assets --only 'planck_nilc'); costs mask=planck")
    assert lines["d9"].endswith("costs d9 among the presets of foregrounds=pysm")


def test_what_was_fetched_is_found(told, tmp_path, monkeypatch):
    catalogue = script("catalogue")
    manifest = catalogue.read_manifest(script("fetch").MANIFEST)
    (template,) = catalogue.templates(manifest, ["f1"])
    for path in ("Planck/COM_CMB_IQU-nilc_2048_R3.00_full.fits", template.to):
        place = tmp_path / "root" / "Assets" / path
        place.parent.mkdir(parents=True)
        place.touch()
    _, lines = told()
    assert lines["planck_nilc"] == lines["f1"] == "  there"
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(tmp_path / "elsewhere"))
    assert told()[1]["f1"].startswith("- 1 of 1 missing")


def test_what_nothing_can_run_without(told, tmp_path, monkeypatch):
    (tmp_path / "root").write_text("a file")
    assert told()[0] == 1
    (tmp_path / "root").unlink()
    monkeypatch.setattr(doctor, "needed", lambda: ["numpy", "no-such-distribution"])
    code, lines = told()
    assert code == 1
    assert lines["no-such-distribution"] == "! missing; costs no run (pip install cmbml)"


def test_rule_of_thumb():
    """35 maps of 4 bytes for each of two workers."""
    exact = 2 * 35 * 4 * 12 * 512**2
    assert doctor._largest_nside(exact) == 512
    assert doctor._largest_nside(exact - 1) == 256


def test_every_extra_is_an_extra():
    """What is said to be missing is what the extras of the project bring."""
    from tests.test_packaging import PROJECT

    brought = {re.split(r"[^\w-]", text)[0] for texts in PROJECT["optional-dependencies"].values() for text in texts}
    assert set(doctor.EXTRAS) <= brought
