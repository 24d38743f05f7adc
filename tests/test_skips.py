"""Where skips are refused, a suite with one that has no good reason fails, in one process and in several."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO

SUITE = """
import pytest

def test_fine():
    pass

def test_skipped():
    pytest.skip("{reason}")
"""


@pytest.mark.parametrize(
    ("reason", "words", "code"),
    [("there is no GPU", [], 0), ("I am tired", ["-n", "1"], 1)],
)
def test_refused(reason, words, code, tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    shutil.copy(REPO / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_some.py").write_text(SUITE.format(reason=reason))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words, "tests"],
        cwd=tmp_path,
        env={**os.environ, "CMBML_SKIPS": "refused", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("must not be skipped here: I am tired" in done.stdout) == bool(code)


def test_reasons_of_the_list_are_given_by_tests():
    """A reason that no test gives any more leaves the list."""
    from tests.conftest import MAY_BE_SKIPPED

    texts = [path.read_text() for path in (REPO / "tests").rglob("*.py") if path.name != "conftest.py"]
    for reason in MAY_BE_SKIPPED:
        assert any(reason in text for text in texts)
