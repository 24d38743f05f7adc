"""Every configuration composes, resolves and builds its pipeline; every root key is read in one place."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cmbml.config.options import MAINS, check_options, jobs_of, jobs_served, name_of
from cmbml.core.errors import UserError
from cmbml.core.provenance import flatten
from cmbml.sims.bands import one_band
from cmbml.sky.instrument import read_instrument
from cmbml.start import build, unread
from tests.conftest import REPO

CFG = REPO / "cfg"
ROOTS = [p.stem for p in CFG.glob("*.yaml")]
FILES = sorted(p for p in CFG.glob("*/*.yaml") if not p.stem.startswith("_"))
INSTRUMENTS = [p.stem for p in FILES if p.parent.name == "instrument"]
BELONGS = {f"{path.parent.name}={path.stem}": jobs_of(path) for path in FILES}
NAMES = {f"{path.parent.name}={path.stem}": name_of(path) for path in FILES}  # by which users know them
OF_FILES = ["experiment=demo", "experiment=planck_pr3"]  # skies of files: what simulated skies read is idle
UNFINISHED = {
    "sims=external",
    "sims=external_sky",
    "sims=external_bands",
    "analysis=without_truth",
    "method=external",
    "method=pyilc",
    *OF_FILES,
}  # they have tests of their own
# Options that every job has are tested with the delensing, and these with many bands, too.
TESTED_TWICE = {"system=dask", "cosmology=wmap9_chain"}


def options(job: str) -> list[str]:
    """Options that are tested with a job."""
    mine = [option for option, jobs in BELONGS.items() if job in jobs and option not in UNFINISHED]
    instruments = [
        o for o in mine if o.startswith("instrument=") and job == "sims"
    ]  # delensing: one band of each, below
    others = [o for o in mine if not o.startswith("instrument=")]
    return instruments + [o for o in others if BELONGS[o] != set(MAINS) or job == "delens" or o in TESTED_TWICE]


OF_OTHERS = {*options("sims"), *options("delens")}
OF_CLEANING = ["instrument=litebird", *(option for option in options("clean") if option not in OF_OTHERS)]
CLASSICAL = (
    "method=quadratic",
    "method=wiener",
    "method=linear_map",
    "experiment=linear_map_1024",
)  # they do not read what those that learn do
LEARNING = {"network", "train", "patches", "rotation", "delens", "quadratic", "linear_map"}
BANDS = {"foregrounds", "noise"}  # of one band nobody reads them
OF_CLEANED = ("sims=cleaned", "mask=galactic", "experiment=bands_to_r")
OF_BANDS = [o for o in options("delens") if o.split("=")[0] in BANDS or o in OF_CLEANED]
OF_R = {f"analysis.r.{key}" for key in ("b", "delta_l", "free", "known")}  # what analysis=r alone reads
SCALAR_ROOT_KEYS = ("field", "scale", "nside", "epochs")


@pytest.mark.parametrize("name", ROOTS)
def test_root_composes_and_builds(composed, name):
    cfg = composed(name=name)
    assert build(cfg).stages
    assert set(cfg.assets.holds) <= set(cfg.assets.files)


@pytest.mark.parametrize("option", [option for option in options("delens") if option not in OF_BANDS])
def test_option_composes_builds_and_is_read(composed, option, tmp_path):
    (tmp_path / "mask.fits").touch()
    cfg = composed(option, f"mask.file={tmp_path}/mask.fits")  # which mask=file asks for, and no other option reads
    stages = build(cfg).stages
    first = ["theory", "mask", "cmb", "observe", "label", "observed_noise", "filters"]
    assert [s.name for s in stages][:7] == first
    keys = set(unread(list(flatten(OmegaConf.to_container(cfg))), stages))
    assert keys & OF_R == (set() if option == "analysis=r" else OF_R)
    idle = {key.split(".")[0] for key in keys - OF_R}
    assert idle <= {*BANDS, *(LEARNING if option in CLASSICAL else ())}, "a key that no stage reads"
    network = instantiate({**OmegaConf.to_container(cfg.network), "in_channels": 1, "out_channels": 1})
    assert sum(p.numel() for p in network.parameters()) > 0


@pytest.mark.parametrize("option", OF_BANDS)
def test_option_of_a_delensing_of_bands_composes_builds_and_is_read(composed, option):
    more = ["mask=band"] if option in ("foregrounds=none", "foregrounds=residual") else []  # there is no dust to follow
    one_sky = option in ("foregrounds=pysm", "foregrounds=residual")  # which all splits share, and that is said
    more += ["foregrounds.seed={train: 0, valid: 0, test: 0}"] if one_sky else []
    cfg = composed("sims=cleaned", option, *more)
    stages = build(cfg).stages
    assert {"observe", "combine", "observed_noise", "filters"} <= {stage.name for stage in stages}
    idle = {key.split(".")[0] for key in set(unread(list(flatten(OmegaConf.to_container(cfg))), stages)) - OF_R}
    assert idle <= (LEARNING if option.startswith("experiment") else set()), "a key that no stage reads"


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_one_band_of_any_instrument_is_delensed(composed, name):
    table = read_instrument(REPO / "assets" / "instruments" / f"{name}.ecsv")
    band = next(band.name for band in table.bands if "Q" in band.fields)
    cfg = composed(f"instrument={name}", f"instrument.bands=[{band}]")
    keys = unread(list(flatten(OmegaConf.to_container(cfg))), build(cfg).stages)
    assert {key.split(".")[0] for key in set(keys) - OF_R} == BANDS, "a key that no stage reads"


@pytest.mark.parametrize("option", options("sims"))
def test_option_of_many_bands_composes_builds_and_is_read(composed, option):
    cfg = composed(option, name="sims")
    stages = build(cfg).stages
    assert unread(list(flatten(OmegaConf.to_container(cfg))), stages) == []


@pytest.mark.parametrize("option", OF_CLEANING)
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


EXPERIMENTS = [(job, option) for job in ("delens", "clean") for option in options(job) if "experiment=" in option]
EXPERIMENTS += [("clean", "experiment=demo")]  # the other wants files


@pytest.mark.parametrize(("job", "option"), EXPERIMENTS, ids=str)
def test_an_experiment_is_the_same_in_a_comparison(composed, job, option):
    """What a job and the comparison of its methods share is equal, so that the results are found."""
    made = OmegaConf.to_container(composed(option, name=job), resolve=True)
    compared = OmegaConf.to_container(composed(option, f"job={job}", name="compare"), resolve=True)
    for group in ("sky", "instrument", "splits", "analysis", "cosmology", "mask", "dataset", "delens", "clean"):
        ours = made.get(group)
        theirs = compared.get(group)
        if isinstance(ours, dict):
            ours.pop("stages", None)
            theirs.pop("stages", None)
        assert ours == theirs, group


@pytest.mark.parametrize("job", MAINS)
def test_option_of_another_job_is_refused_with_those_of_this_one(job):
    jobs = {*jobs_served(job, ())}
    for option, belongs in BELONGS.items():
        if belongs & jobs:
            check_options(CFG, job, [option])
            continue
        group = option.split("=")[0]
        offered = [NAMES[o] for o, b in BELONGS.items() if o.startswith(f"{group}=") and b & jobs]
        if option.split("=")[1] in offered:  # another file of this name is this job's
            (known,) = check_options(CFG, job, [option])
            assert BELONGS[known] & jobs
            assert f"{group}={NAMES[known]}" == option
            continue
        with pytest.raises(UserError, match=f"^{option} belongs to main_") as caught:
            check_options(CFG, job, ["nside=64", option])
        sentence = str(caught.value)
        expected = f"options are {', '.join(sorted(offered))}." if offered else f"{MAINS[job]}.* has no such group"
        assert re.search(expected, sentence), sentence
        assert sentence.count(".") == sentence.count(".py") + 1


def test_option_of_the_compared_job_is_accepted():
    check_options(CFG, "compare", ["job=clean", "network=unet_bands"])
    with pytest.raises(UserError, match=r"for main_analysis_compare.py job=clean the options are .*unet_bands"):
        check_options(CFG, "compare", ["job=clean", "network=resunet"])


def test_option_of_another_package_belongs_to_every_job_unless_it_says_otherwise(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.yaml").write_text("# A network.\n")
    (tmp_path / "network" / "theirs.yaml").write_text("# A network.\n# jobs: clean\n")
    for words in ([f"hydra.searchpath=[file://{tmp_path}]"], ["--config-dir", str(tmp_path)]):
        check_options(CFG, "delens", [*words, "network=mine"])
        with pytest.raises(UserError, match=r"^network=theirs belongs to main_clean.py; .* mine, .*resunet"):
            check_options(CFG, "delens", [*words, "network=theirs"])
    with pytest.raises(UserError, match="^network=theirs is not known"):
        check_options(CFG, "delens", ["network=unet,theirs"])


def test_jobs_are_those_that_have_a_main():
    assert {path.name for path in REPO.glob("main_*.py")} == set(MAINS.values())
    for option, jobs in BELONGS.items():
        assert jobs, option
        assert jobs <= set(MAINS), option


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
