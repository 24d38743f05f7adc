"""Text is UTF-8 whatever the locale says."""

import os
import subprocess
import sys

from tests.conftest import REPO

SCRIPT = """
import locale, sys
from pathlib import Path
from cmbml.config.help import help_text
from cmbml.core import handlers
assert locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8"), "the locale is not the one that is tested"
help_text(Path("cfg"), "delens")
folder = Path(sys.argv[1])
text = "\\u00b5K \\u00b1 \\u2113 10\\u2074"
for name in ("a.md", "a.tex", "a.html"):
    handlers.write(folder / name, text)
    assert handlers.read(folder / name) == text
for name, value in {"a.csv": [{"\\u00b5": text}], "a.json": {"\\u00b5": text}, "a.yaml": {"\\u00b5": text}}.items():
    handlers.write(folder / name, value)
    assert handlers.read(folder / name) == value
"""


def test_text_is_utf8_in_the_plainest_locale(tmp_path):
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", SCRIPT, str(tmp_path)],
        cwd=REPO,
        env=plain,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.md").read_bytes() == "\u00b5K \u00b1 \u2113 10\u2074".encode()
