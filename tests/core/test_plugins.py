"""Packages of others that are found by their entry points."""

import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cmbml.config import resolvers
from cmbml.config.help import help_text
from cmbml.config.options import check_options
from cmbml.core.errors import UserError
from cmbml.core.plugins import plugins
from tests.conftest import REPO

CFG = REPO / "cfg"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Function that lays down a package with files of its own, as pip does: a folder and its metadata."""

    def lay(files: dict[str, str], module: str = "other_skies"):
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / "other_skies" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = tmp_path / "other_skies-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-skies\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[cmbml.configs]\nskies = {module}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path / "other_skies"

    yield lay
    for name in [name for name in sys.modules if name.partition(".")[0] == "other_skies"]:
        del sys.modules[name]


def composed(*words: str):
    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CFG), version_base="1.3"):
        return compose("sims", overrides=check_options(CFG, "sims", words))


def test_an_instrument_with_its_table_and_an_experiment(install, tmp_path):
    table = (REPO / "assets" / "instruments" / "toy.ecsv").read_text()
    folder = install(
        {
            "instrument/mine.yaml": "defaults: [_table]\nname: mine\ntable: tables/mine.ecsv\n",
            "experiment/coarse.yaml": "# @package _global_\n# jobs: sims\nnside: 16\ndataset: coarse\n",
            "tables/mine.ecsv": table,
        }
    )
    cfg = composed("instrument=mine", "experiment=coarse", f"system.root={tmp_path}/data")
    resolvers.prepare(cfg)
    assert (cfg.instrument.name, cfg.sky.nside, cfg.dataset) == ("mine", 16, "coarse")
    assert resolvers.shipped("tables/mine.ecsv") == folder / "tables" / "mine.ecsv"
    assert " mine " in help_text(CFG, "sims")
    assert "other_skies" not in sys.modules  # its options are read, and nothing of it is run
    with pytest.raises(
        UserError, match=r"experiment=coarse belongs to main_sims.py; for main_clean.py the options are"
    ):
        check_options(CFG, "clean", ["experiment=coarse"])


def test_one_name_for_two_options_is_refused(install):
    install({"instrument/toy.yaml": "name: toy\n"})
    with pytest.raises(
        UserError, match=r"instrument=toy is both .*cfg/instrument/toy.yaml and .*other_skies/.*another"
    ):
        check_options(CFG, "sims", ["instrument=toy"])


@pytest.mark.parametrize("module", ["gone", "gone.configs", "other_skies.gone"])
def test_a_plugin_that_is_not_there_is_named(install, module):
    install({}, module)
    with pytest.raises(
        UserError, match=f"The plug-in other-skies names the package {module}.*pip uninstall other-skies"
    ):
        plugins()


FOREIGN = (
    "os.system",
    "builtins.eval",
    "cmbml.config.resolvers.os.system",
    "cmbml.core.launch.subprocess.run",
    "cmbml.core.errors.UserError",
    "cmbml.nothing.here",
    "cmbmlandmore.f",
    "cmbml.core.errors",
    "os",
    "",
    "a b.c",
)


@pytest.mark.parametrize("path", FOREIGN)
def test_a_configuration_calls_no_function_of_others(path, tmp_path, caplog):
    cfg = composed("dataset=x")
    cfg.system.root = f"${{call:'{path}','touch {tmp_path}/X'}}"
    with pytest.raises(UserError, match=r"names no function of cmbml or of a plug-in") as caught:
        resolvers.prepare(cfg)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_configuration_calls_functions_of_cmbml_and_of_plugins(install):
    install({"rules.py": "from os import system\n\n\ndef twice(x):\n    return 2 * x\n"})
    assert resolvers.call("other_skies.rules.twice", 3) == 6
    assert resolvers.call("cmbml.config.resolvers.home", "/x") == "/x"
    with pytest.raises(UserError, match="no function of cmbml or of a plug-in"):
        resolvers.call("other_skies.rules.system", "true")
