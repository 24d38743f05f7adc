"""Shared helpers of the tests."""

import os
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure

from cmbml.config import resolvers as config
from cmbml.config.options import check_options

REPO = Path(__file__).parents[1]
# Numba does not ask OMP_NUM_THREADS, and torch would go on with as many threads as it has started.
if "OMP_NUM_THREADS" in os.environ:
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

LONGEST = ("test_readme", "test_end_to_end", "test_fuzz")
# Tests that may be skipped where continuous integration says that skips are refused, and why.
MAY_BE_SKIPPED = {
    "there is a GPU": "the test is about machines without one",
    "there is no GPU": "most machines of continuous integration have none",
    "BROOM (cmbroom) is not installed": "it is GPL and an extra of its own",
    "no Chromium is installed (Debian: apt-get install chromium)": ".ci/run installs it where that is possible",
}
SKIPPED: list[str] = []


def pytest_collection_modifyitems(items):
    """The longest files first: a worker that begins one at the end is left alone with it."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_runtest_logreport(report):
    """Keep why a test was skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        SKIPPED.append(report.longrepr[2].removeprefix("Skipped: "))


def pytest_collectreport(report):
    """The same of whole files."""
    if report.skipped:
        SKIPPED.append(report.longrepr[2].removeprefix("Skipped: "))


def pytest_sessionfinish(session):
    """End with an error where skips are refused and one is not among those that may be."""
    if os.environ.get("CMBML_SKIPS") == "refused" and not hasattr(session.config, "workerinput") and refused(SKIPPED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Say which."""
    if os.environ.get("CMBML_SKIPS") == "refused":
        for reason in refused(SKIPPED):
            terminalreporter.write_line(f"A test must not be skipped here: {reason}", red=True)


def refused(reasons: list[str]) -> list[str]:
    """The reasons that are not among those for which a test may be skipped."""
    return sorted(set(reasons) - MAY_BE_SKIPPED.keys())


@pytest.fixture
def composed(tmp_path):
    """Function from overrides to a composed and prepared configuration under a temporary root."""
    return configurations(tmp_path)


def configurations(root: Path):
    """The same under another root, as of fixtures that many tests share."""

    def make(*overrides: str, name: str = "delens"):
        config.register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
            cfg = compose(name, overrides=[f"system.root={root}/data", *check_options(REPO / "cfg", name, overrides)])
        config.prepare(cfg)
        return cfg

    return make


def run_here(*words: str, root: str | Path, config_name: str = "delens", full_error: str = "0") -> tuple[int, str]:
    """Run `main_delens.py`, or another main, in this process; returns (exit code, standard error).

    Options (``-m``) come before overrides.
    """
    from cmbml.start import start

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as error:
        patch.setenv("HYDRA_FULL_ERROR", full_error)  # put back afterwards, whatever the run makes of it
        patch.setattr("sys.argv", ["main_delens.py", *words, f"system.root={root}"])
        try:
            start(REPO / "cfg", config_name)
        except SystemExit as end:
            return end.code, error.getvalue()
    return 0, error.getvalue()


@pytest.fixture
def command(tmp_path):
    """`run_here` with a temporary root, unless another one is given."""

    def run(*overrides: str, root: str | None = None, **keys: str) -> tuple[int, str]:
        return run_here(*overrides, root=root or tmp_path / "data", **keys)

    return run


@pytest.fixture
def sketches(monkeypatch):
    """Pictures that this process writes stay empty, for drawing them takes most of the time of a small run.

    For tests of the way from a command to the files: what a picture looks like is the matter of tests/analysis.
    """
    drawn = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **keys: drawn(Figure((1, 1)), *args, **keys))
