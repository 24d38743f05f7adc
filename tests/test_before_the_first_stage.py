"""What settings alone decide is refused before the first stage runs: a plan that is made can be carried out."""

import sys

import pytest
import torch

from cmbml.analysis.common import usable_lmax
from cmbml.sky.beams import gaussian_beam
from tests.conftest import REPO

LATE = {  # job, words, and what is said; each of these failed after hours of simulation
    "multipoles beyond the beam": (
        ("clean", "method=hilc", "analysis.lmax=160"),
        "clean.fwhm_arcmin=300 leaves nothing of the map at analysis.lmax=160; set analysis.lmax to 141 or less",
    ),
    "a network's multipoles beyond the beam": (
        ("clean", "method=patch_unet", "analysis.lmax=160"),
        "clean.target_fwhm_arcmin=300 leaves nothing of the map at analysis.lmax=160",
    ),
    "multipoles beyond the beam that is asked for": (
        ("clean", "method=cnilc", "method.perform_ILC_at_beam=400", "analysis.fwhm_arcmin=500"),
        "method.perform_ILC_at_beam=400 leaves nothing of the map at analysis.lmax=141; set analysis.lmax to 105",
    ),
    "a beam wider than the common one": (
        ("clean", "method=perfect_ilc", "method.perform_ILC_at_beam=400", "analysis.lmax=100"),
        "method.perform_ILC_at_beam=400 is wider than the common beam analysis.fwhm_arcmin=375; widen that",
    ),
    "delensing beyond the beam": (
        ("delens", "instrument.fwhm_arcmin=300", "analysis.lmax=187", "method=quadratic"),
        "delens.fwhm_arcmin=300 leaves nothing of the map at analysis.lmax=187; set analysis.lmax to 141",
    ),
    "too few bands": (
        ("clean", "method=hilc", "instrument.bands=[100]", "method.ILC_deproj_comps=[dust,sync]", "method.ELLMAX=60"),
        "Only 1 of 1 bands have a beam above method.wavelet_beam_criterion=0.001 up to the end of scale 0",
    ),
    "spectra that are no mapping": (("clean", "method=hilc", "method.seds=3"), "method.seds=3 must be a mapping."),
    "a band without noise": (
        ("clean", "method=noise_wiener", "instrument.noise_t_uk_arcmin={100:0}"),
        "the band 100 has no noise in T; leave it out of instrument.bands",
    ),
    "a band without a variance map": (
        ("sims", "noise=variance_map", "instrument=litebird", "instrument.bands=[119]"),
        "noise.files names no variance map of the band 119",
    ),
    "no such preset": (
        ("sims", "foregrounds=pysm", "foregrounds.presets=[d9,x7]", "foregrounds.nside_sky=64", "mask=none"),
        "foregrounds.presets: PySM3 has no preset x7; it has",
    ),
    "a mask along dust that there is not": (
        ("sims", "foregrounds=pysm", "foregrounds.presets=[s1]", "foregrounds.nside_sky=64"),
        "mask=galactic takes the shape of the dust, and foregrounds.presets names no model of it",
    ),
    "a mask that is no map": (
        ("delens", "mask=file", f"mask.file={REPO}/README.md"),
        "README.md cannot be read as a FITS file",
    ),
    "no skies to learn from": (("delens", "splits.train=0"), "Give method.trained one that was trained before"),
}
if not torch.cuda.is_available():
    LATE["a GPU that is not there"] = (("delens", "system.device=cuda"), "system.device=cuda, but torch sees no GPU")


@pytest.mark.parametrize("mistake", LATE)
def test_what_settings_decide_is_refused_by_the_plan(command, mistake):
    (job, *words), message = LATE[mistake]
    code, error = command("experiment=tiny", *words, "run.dry=true", config_name=job)
    assert (code, error.count("\n")) == (1, 1), error
    assert message in error


def test_a_package_that_is_missing_is_said_by_the_plan(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "broom", None)  # as if it were not installed
    code, error = command("experiment=tiny", "method=broom", "run.dry=true", config_name="clean")
    assert (code, error.count("\n")) == (1, 1), error
    assert "method=broom needs the package cmbroom" in error


def test_a_bands_beam_file_that_ends_too_early(command, tmp_path):
    table = (REPO / "assets" / "instruments" / "toy.ecsv").read_text(encoding="utf-8")
    table = table.replace("- {name: fields,", "- {name: beam, datatype: string}\n# - {name: fields,")
    table = table.replace(",fields\n", ",beam,fields\n").replace(",TQU\n", ",short.txt,TQU\n")
    (tmp_path / "mine.ecsv").write_text(table, encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "short.txt").write_text("\n".join("1" * 100), encoding="utf-8")
    code, error = command(
        "experiment=tiny", f"instrument.table={tmp_path}/mine.ecsv", "foregrounds=none", config_name="sims"
    )
    assert (code, error.count("\n")) == (1, 1), error
    assert "ends at l = 99, below lmax = 187" in error
    assert not list((tmp_path / "data").rglob("*.npz")), "and nothing was simulated"


def test_wide_beams_end_the_measurement_where_they_end(composed):
    """So that every method measures the dataset that it is given; beams of the default sky change nothing."""
    for name, words, lmax in (
        ("clean", ["experiment=tiny"], 141),
        ("clean", [], 160),
        ("delens", ["experiment=tiny"], 187),
        ("delens", ["experiment=tiny", "instrument.fwhm_arcmin=300"], 141),
    ):
        assert composed(*words, name=name).analysis.lmax == lmax
    for fwhm_arcmin in (0.0, 30.0, 137.4, 300.0):
        usable = usable_lmax(fwhm_arcmin, 500)
        beam = gaussian_beam(fwhm_arcmin, 501)
        assert beam[usable] >= 1e-6
        assert usable == 500 or beam[usable + 1] < 1e-6
