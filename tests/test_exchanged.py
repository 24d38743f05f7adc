"""Whatever a result is made of is noticed when it is exchanged under its name, with the same size and time, too."""

import os

import healpy as hp
import numpy as np
import pytest
from astropy.table import Table

from cmbml.core.errors import UserError
from cmbml.core.provenance import PARTS, WHOLE, telling
from cmbml.core.stage import ReadFile, Work
from cmbml.sims.chains import with_chain
from cmbml.start import build
from tests.conftest import REPO

NSIDE = 16
SIMS = ("splits.train=0", "splits.valid=0", "splits.test=1", "instrument=toy", "nside=16", "sky.lmax=40")
CHAIN = (
    "cosmology=wmap9_chain", "cosmology.chain.path=chain", "cosmology.chain.names={{ns:ns}}",
)  # fmt: skip
BAND = {"foregrounds", "components", "noise", "observe", "band_pictures"}
CMB = {"cmb", "cmb_map", "observe", "band_pictures", "theory"}
FOREIGN = ("sims=external", "sims.external.obs={root}/m/{{band}}.fits", *SIMS)


def exchange(path, how):
    """Put other contents of the same size under the same name, in place or by a rename, with the same time."""
    old = path.read_bytes()
    stat = path.stat()
    target = path if how == "written" else path.with_name("new")
    target.write_bytes(bytes([old[0] ^ 1]) + old[1:-1] + bytes([old[-1] ^ 1]))
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    target.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def fingerprints(cfg):
    """Fingerprint of each item of each stage, in a pipeline that is built anew."""
    pipeline = build(cfg)
    return {
        (stage.name, *map(str, item.values())): pipeline.fingerprint(stage, item)
        for stage in pipeline.stages
        for item in stage.items()
    }


def prepared(root, kind):
    """Write what a case names below a root; the file that is to be exchanged."""
    names = {
        "mask": "mask.fits", "chain": "chain/ns", "packed": "chain.tar.gz",
        "variance": "v/HFI_SkyMap_143_2048_R3.01_full.fits",
        "obs": "m/143.fits", "truth": "cmb.fits", "trained": "model.pt", "predictions": "cmb.fits",
        "observed": "observed_noise.npz",
        "program": "clone/pyilc/main.py", "spectra": "spectra.yml", "beam": "beam.txt", "bandpass": "RIMO.fits",
        "dust": "pysm/pysm_2/dust_t_new.fits",
    }  # fmt: skip
    path = root / names[kind]
    for name in (path, *([root / "m/100.fits"] if kind in ("obs", "truth") else [])):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(kind.encode() * 10)
    if kind == "spectra":
        (root / "clone/pyilc").mkdir(parents=True)
        (root / "clone/pyilc/main.py").touch()
    if kind == "truth":
        (root / "m/143.fits").write_bytes(b"obs")
    if kind in ("beam", "bandpass"):
        table = Table.read(REPO / "assets/instruments/toy.ecsv")
        table[kind] = ["", {"beam": str(path), "bandpass": f"{path}[F143]"}[kind], "", ""]
        table.write(root / "mine.ecsv")
    return path


PYSM = (
    *SIMS, "foregrounds=pysm", "foregrounds.presets=[d1]", "foregrounds.folder={root}/pysm", "mask=galactic",
    "foregrounds.components=true",
)  # fmt: skip
CODE = (*SIMS, "method=external", "method.predictions={root}/cmb.fits", "method.fwhm_arcmin=0")
MINE = (*SIMS, "instrument.table={root}/mine.ecsv", "noise=white", "foregrounds.components=true")
CASES = {
    "mask of many bands": (
        "mask", "sims", (*SIMS, "mask=file", "mask.file={root}/mask.fits"), {"mask", "band_pictures"}
    ),
    "mask of one": (
        "mask", "delens", ("experiment=tiny", "method=wiener", "mask=file", "mask.file={root}/mask.fits"),
        {
            "mask", "observe", "observed_noise", "filters", "wiener", "lensing_template", "baseline", "measure",
            "pictures", "summary",
        },
    ),
    "beam": ("beam", "sims", MINE, BAND),
    "bandpass": ("bandpass", "sims", MINE, BAND),
    "chain": ("chain", "sims", (*SIMS, *CHAIN), CMB),
    "packed chain": ("packed", "sims", (*SIMS, *CHAIN), CMB),
    "variance map": (
        "variance", "sims", (*SIMS, "noise=variance_map", "noise.folder={root}/v"),
        {"variance", "noise", "observe", "band_pictures"},
    ),
    "template of PySM": (
        "dust", "sims", PYSM, {"mask", "foregrounds", "components", "observe", "band_pictures"}
    ),
    "maps of others": ("obs", "sims", (*FOREIGN, "instrument.bands=[100,143]"), {"observe", "band_pictures"}),
    "maps whose CMB is subtracted": (
        "obs", "sims",
        (*SIMS, "foregrounds=residual", "foregrounds.residual.obs={root}/m/{{band}}.fits",
         "foregrounds.residual.cmb={root}/m/100.fits", "instrument.bands=[100,143]"),
        {"foregrounds", "observe", "band_pictures"},
    ),
    "truth of others": (
        "truth", "sims", (*FOREIGN, "instrument.bands=[100,143]", "sims.external.truth={root}/cmb.fits"),
        {"cmb_map", "band_pictures"},
    ),
    "trained network": (
        "trained", "clean", (*SIMS, "method=patch_unet", "method.trained={root}/model.pt"),
        {"predict", "measure", "pictures", "summary"},
    ),
    "trained network of delensing": (
        "trained", "delens", ("experiment=tiny", "method.trained={root}/model.pt"),
        {"network_estimate", "lensing_template", "kappa_spectra", "measure", "pictures", "summary"},
    ),
    "noise that was measured elsewhere": (
        "observed", "delens", ("experiment=tiny", "method=wiener", "delens.noise={root}/observed_noise.npz"),
        {"observed_noise", "filters", "wiener", "lensing_template", "measure", "pictures", "summary"},
    ),
    "predictions of others": (
        "predictions", "clean", CODE, {"read_predictions", "measure", "pictures", "summary"}
    ),
    "program": (
        "program", "clean", (*SIMS, "method=pyilc", "method.checkout={root}/clone"),
        {"pyilc", "measure", "pictures", "summary"},
    ),
    "spectra of a program": (
        "spectra", "clean",
        (*SIMS, "method=pyilc", "method.checkout={root}/clone", "method.param_dict_file={root}/spectra.yml"),
        {"pyilc", "measure", "pictures", "summary"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_exchanged_under_its_name_is_noticed(composed, tmp_path, case):
    kind, job, words, stale = CASES[case]
    root = tmp_path / "data"
    root.mkdir()
    path = prepared(root, kind)
    cfg = composed(*(word.format(root=root) for word in words), name=job)
    before = fingerprints(cfg)
    assert fingerprints(cfg) == before
    for how in ("written", "renamed"):
        exchange(path, how)
        after = fingerprints(cfg)
        assert {stage for stage, *rest in after if after[stage, *rest] != before[stage, *rest]} == stale
        if kind in ("beam", "bandpass", "variance", "obs"):  # the other bands stay what they are
            assert not [key for key in after if "100" in key and after[key] != before[key]]
        before = after


def test_a_table_that_is_exchanged_is_read_anew(composed, tmp_path):
    """Another noise of a band, in a file of the same size and time."""
    path = tmp_path / "mine.ecsv"
    path.write_text((REPO / "assets/instruments/toy.ecsv").read_text())
    os.utime(path, ns=(0, 0))
    cfg = composed(*SIMS, f"instrument.table={path}", name="sims")
    before = fingerprints(cfg)
    path.write_text(path.read_text().replace("360,200,", "360,300,"))
    os.utime(path, ns=(0, 0))
    after = fingerprints(cfg)
    assert {stage for stage, *rest in after if after[stage, *rest] != before[stage, *rest]} == BAND
    observe = next(stage for stage in build(cfg).stages if stage.name == "observe")
    assert observe.instrument.band("217").noise_t_uk_arcmin == 300


def test_a_mask_is_made_anew_and_a_dry_run_says_why(composed, tmp_path, caplog):
    path = tmp_path / "mask.fits"
    path.touch()
    cfg = composed(*SIMS, "mask=file", f"mask.file={path}", "mask.apodise_deg=0", name="sims")
    for row in (1, 0):
        weights = np.eye(2)[row].repeat(6 * NSIDE**2)
        hp.write_map(path, weights, dtype=np.float64, overwrite=True)
        os.utime(path, ns=(0, 0))
        plan = build(cfg).plan()
        assert [work.why for work in plan["mask"]] == ["not made yet" if row else "mask.file changed"]
        with caplog.at_level("INFO"):
            build(cfg).run(only=["mask"], dry=True)
        assert ("mask.file changed" in caplog.text) == (row == 0)
        build(cfg).run(only=["mask"])
        (made,) = plan["mask"][0].outputs
        np.testing.assert_array_equal(made.read()["mask"], weights)
        assert [work.why for work in build(cfg).plan()["mask"]] == [""]


def test_a_chain_that_is_exchanged_is_read_anew(tmp_path):
    spec = {"chain": {"path": "chain", "names": {"ns": "ns"}}}
    path = tmp_path / "chain" / "ns"
    path.parent.mkdir()
    for value in (0.91, 0.92):
        path.write_text(f"1 {value}\n")
        os.utime(path, ns=(0, 0))
        assert with_chain(spec, tmp_path)["chain"]["ns"] == [value]


@pytest.mark.parametrize("place", [0, WHOLE // 2, -1])
def test_large_files_are_told_by_parts_of_them(tmp_path, place):
    """From beginning to end, whatever their time says; and by their time."""
    path = tmp_path / "map.fits"
    values = np.random.default_rng(1).integers(0, 256, 4 * WHOLE, dtype=np.uint8)
    path.write_bytes(values.tobytes())
    os.utime(path, ns=(0, 0))
    first = telling(path)
    assert telling(path) == first
    values[place : place + 4 * WHOLE // PARTS if place >= 0 else None] ^= 1
    path.write_bytes(values.tobytes())
    os.utime(path, ns=(0, 0))
    assert telling(path) != first
    second = telling(path)
    os.utime(path, ns=(0, 1))
    assert telling(path) != second


def test_small_files_are_told_by_their_contents_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    first = telling(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(0, 1))
    (tmp_path / "b").write_bytes(b"same")
    assert telling(tmp_path / "a") == telling(tmp_path / "b") == first
    assert telling(tmp_path / "c") == telling(tmp_path) == ""


def test_a_file_that_is_exchanged_during_the_work_is_refused(tmp_path):
    path = tmp_path / "mask.fits"
    path.write_bytes(b"one")
    file = ReadFile(path, telling(path), given=True)
    work = Work({}, "", {}, {}, (), {}, "", (file,))
    work.demand_inputs()
    exchange(path, "renamed")
    with pytest.raises(UserError, match=r"mask.fits was exchanged while this run made something of it"):
        work.demand_inputs()
