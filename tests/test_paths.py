"""What is typed as a path is one, whatever letters it has; and what a band needs is taken from what is given."""

import pytest
from omegaconf import OmegaConf

from cmbml.config import schema
from cmbml.config.options import check_options
from cmbml.sims.bands import observed
from tests.conftest import REPO

FEW = ("experiment=tiny", "run.only=[theory]", "splits.train=0", "splits.valid=0", "splits.test=1")
EXTERNAL = ("sims=external", "sims.external.obs=m/*_{band}.fits", "sims.external.fwhm_arcmin={100:9,143:8,353:7}")


@pytest.mark.parametrize("name", ["~/x", "a=b", "run[1]/x", "with space/(1)", "~/a=b,1"])
def test_a_root_of_any_name_is_used(command, tmp_path, monkeypatch, name):
    """All that a run writes lies there, the logs of Hydra, too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    typed = f'"{name}"' if "," in name else name
    code, error = command(*FEW, "run.dry=false", root=typed, config_name="sims")
    assert code == 0, error
    root = tmp_path / name.replace("~", "home") if name[0] == "~" else tmp_path / "here" / name
    assert list(root.glob("*/Simulation_Working/*/Test/sim0000/*.npz"))
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*.log")} == {
        root.relative_to(tmp_path).parts[0]
    }
    assert not (tmp_path / "here" / "~").exists()


def test_a_home_of_nobody_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, error = command(*FEW, root="~nobody-here/x", config_name="sims")
    assert code == 1
    assert "system.root=~nobody-here/x is in the home of nobody here; write the whole path" in error
    assert not list(tmp_path.iterdir())


def test_mistakes_in_lists_stay_mistakes():
    words = ["run.only=[a", "instrument.bands=[100,143]", "x={a:1}", "nside=64", "run.only='a=b'"]
    assert check_options(REPO / "cfg", "sims", words) == words


def test_beams_that_are_given_reach_the_comparison(composed):
    """The types of the comparison come after the words of the compared job, and must not undo them."""
    for name, more in (("clean", ()), ("compare", ("job=clean",))):
        cfg = composed(*more, "field=T", "instrument.bands=[100,143]", "nside=64", *EXTERNAL, name=name)
        assert [b.fwhm_arcmin for b in observed(cfg.instrument, 64).bands] == [9, 8]  # 353 is not asked for
    assert composed("experiment=tiny", name="compare").instrument.fwhm_arcmin == 30


def test_no_type_has_a_value():
    for group in vars(schema).values():
        if isinstance(group, type) and group.__module__ == schema.__name__:
            fields = OmegaConf.structured(group)
            plain = [
                key for key in fields if not OmegaConf.is_config(OmegaConf.select(fields, key))
            ]  # others are groups
            assert all(OmegaConf.is_missing(fields, key) for key in plain), group
