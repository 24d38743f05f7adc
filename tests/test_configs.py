"""Every configuration composes, resolves and builds its pipeline; every root key is read in one place."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cmbml.core.provenance import flatten
from cmbml.sims.bands import one_band
from cmbml.sky.instrument import read_instrument
from cmbml.start import build, unread
from tests.conftest import REPO

CFG = REPO / "cfg"
ROOTS = [p.stem for p in CFG.glob("*.yaml")]
# The options of the two jobs: those that only a dataset of many bands has, and the others.
FILES = sorted(p for p in CFG.glob("*/*.yaml") if not p.stem.startswith("_"))
INSTRUMENTS = [p.stem for p in FILES if p.parent.name == "instrument"]
BANDS = {f"{p.parent.name}={p.stem}" for p in FILES if p.parent.name in ("foregrounds", "noise", "instrument")} | {
    "mask=galactic", "sims=bands", "assets=sims", "experiment=cmbml_512",
    "experiment=cmbml_128", "sims=external"}  # fmt: skip
# Those that only the cleaning of bands has, or the comparison.
CLEANING = {f"{p.parent.name}={p.stem}" for p in FILES if re.search(r"\$\{clean\.|target: cmb", p.read_text())} | {
    "experiment=cleaning_demo", "experiment=cmbnncs_paper", "patches=mosaic", "assets=clean"}  # fmt: skip
COMPARING = {"job=clean", "job=delens", "assets=compare", "assets=compare_clean"}
OPTIONS = sorted({f"{p.parent.name}={p.stem}" for p in FILES} - BANDS - CLEANING - COMPARING)
CLASSICAL = ("method=quadratic", "method=wiener")  # they do not read what those that learn do
LEARNING = {"network", "train", "patches", "rotation", "delens", "quadratic"}
SCALAR_ROOT_KEYS = ("field", "scale", "nside", "epochs")


@pytest.mark.parametrize("name", ROOTS)
def test_root_composes_and_builds(composed, name):
    assert build(composed(name=name)).stages


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes_builds_and_is_read(composed, option, tmp_path):
    (tmp_path / "mask.fits").touch()
    cfg = composed(option, f"mask.file={tmp_path}/mask.fits")  # which mask=file asks for, and no other option reads
    stages = build(cfg).stages
    assert [s.name for s in stages][:6] == ["theory", "mask", "cmb", "observe", "label", "filters"]
    idle = {key.split(".")[0] for key in unread(list(flatten(OmegaConf.to_container(cfg))), stages)}
    assert idle <= (LEARNING if option in CLASSICAL else set()), "a key that no stage reads"
    network = instantiate({**OmegaConf.to_container(cfg.network), "in_channels": 1, "out_channels": 1})
    assert sum(p.numel() for p in network.parameters()) > 0


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_one_band_of_any_instrument_is_delensed(composed, name):
    table = read_instrument(REPO / "assets" / "instruments" / f"{name}.ecsv")
    band = next(band.name for band in table.bands if "Q" in band.fields)
    cfg = composed(f"instrument={name}", f"instrument.bands=[{band}]")
    idle = {key.split(".")[0] for key in unread(list(flatten(OmegaConf.to_container(cfg))), build(cfg).stages)}
    assert idle == set(), "a key that no stage reads"


@pytest.mark.parametrize(
    "option", sorted({*BANDS, "system=dask", "experiment=tiny", "cosmology=wmap9_chain"} - {"sims=external"})
)
def test_option_of_many_bands_composes_builds_and_is_read(composed, option):
    cfg = composed(option, name="sims")
    stages = build(cfg).stages
    assert unread(list(flatten(OmegaConf.to_container(cfg))), stages) == []


@pytest.mark.parametrize("option", [*sorted(CLEANING - {"method=external", "method=pyilc"}), "instrument=litebird"])
def test_option_of_cleaning_composes_builds_and_is_read(composed, option):
    halves = {
        "network=unet5": ["method=cmbnncs"],
        "network=unet8": ["method=cmbnncs", "nside=128", "patches.halo=64"],
        "method=cnilc_cmbml": ["nside=512"],
    }
    learned = ["method=patch_unet", "rotation=none"] if option.split("=")[0] in ("network", "patches") else []
    cfg = composed(option, *halves.get(option, learned), name="clean")
    stages = build(cfg).stages
    idle = {key.split(".")[0] for key in unread(list(flatten(OmegaConf.to_container(cfg))), stages)}
    learns = any("train" in stage.name for stage in stages)
    assert idle <= ({"clean"} if learns else {*LEARNING, "clean"}), "a key that no stage reads"  # clean: read by others


def test_cmbml_is_the_published_setting(composed):
    cfg = composed("experiment=cmbml_512", name="sims")
    assert (cfg.sky.nside, cfg.sky.lmax, cfg.foregrounds.nside_sky, cfg.dataset) == (512, 1535, 2048, "CMB_ML_512_1450")
    assert tuple(cfg.splits.values()) == (1000, 250, 200)
    assert " ".join(cfg.foregrounds.presets) == "d9 s4 f1 a1 co1 cib1 ksz1 tsz1 rg1"
    observe = next(s for s in build(cfg).stages if s.name == "observe")
    assert {b.name: b.fwhm_arcmin for b in observe.instrument.bands} == {
        "30": 75, "44": 65, "70": 55, "100": 43, "143": 32.4, "217": 22.3, "353": 22.0, "545": 21.5, "857": 20.6,
    }  # fmt: skip


@pytest.mark.parametrize("key", SCALAR_ROOT_KEYS)
def test_root_key_is_read_in_exactly_one_place(key):
    uses = [
        path.relative_to(CFG)
        for path in CFG.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if re.search(rf"\$\{{{key}\}}", line.split("#")[0])
    ]
    shared = [path for path in uses if path.parent != Path(".")]
    assert len(uses) == len(set(uses))
    assert len(shared) == 1 or sorted(map(str, uses)) == ["clean.yaml", "delens.yaml"], uses


def test_root_keys_arrive_where_they_are_used(composed):
    cfg = composed("experiment=unet_unlensed", "field=E", "scale=5", "nside=128", "epochs=7")
    assert (cfg.delens.field, cfg.delens.inputs, cfg.delens.label, cfg.train.scale) == ("E", ["E"], "unlensed_E", 5.0)
    assert (cfg.sky.nside, cfg.sky.lmax, cfg.train.epochs) == (128, 375, 7)


def test_paper_is_the_published_setting(composed):
    cfg = composed("experiment=paper_2048")
    assert (cfg.sky.nside, cfg.sky.lmax, cfg.patches.patch, cfg.train.epochs, cfg.train.batch_size) == (
        2048, 3000, 512, 2000, 16,
    )  # fmt: skip
    assert (cfg.network.n_filters, cfg.network.network_depth, cfg.network.conv_width) == (256, 3, 3)
    band = one_band(cfg.instrument)
    assert (band.noise_t_uk_arcmin, band.noise_p_uk_arcmin, cfg.delens.fwhm_arcmin) == (1.5, 2.1, 20.0)
    grid = cfg.cosmology.grid
    assert len(grid.As) * len(grid.r) == cfg.splits.train + cfg.splits.valid + cfg.splits.test == 30


def test_every_group_says_what_it_is():
    for path in Path(CFG).rglob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path} does not begin with a line that says what it is"
