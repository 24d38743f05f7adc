"""Shared helpers of the tests."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cmbml.core import config

REPO = Path(__file__).parents[1]


@pytest.fixture
def composed(tmp_path):
    """Function from overrides to a composed and prepared configuration under a temporary root."""

    def make(*overrides: str, name: str = "delens"):
        config.register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
            cfg = compose(name, overrides=[f"system.root={tmp_path}/data", *overrides])
        config.prepare(cfg)
        return cfg

    return make


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Function that runs `main_delens.py`, or another main, in this process; returns (exit code, standard error)."""
    from cmbml.core import start

    def run(*overrides: str, root: str | None = None, config_name: str = "delens") -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # put back afterwards, whatever the run makes of it
        monkeypatch.setattr("sys.argv", ["main_delens.py", f"system.root={root or tmp_path / 'data'}", *overrides])
        try:
            start(REPO / "cfg", config_name)
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run
