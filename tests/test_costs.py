"""What a dry run says that files and work take, against the records of finished runs; delensing: test_end_to_end.py."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import REPO

FACTOR = 1.5
SMALL = 20e3  # bytes on disk: headers and tables
OF_PICTURES = 3.0  # whose size depends on what is drawn
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
LARGE = "run.only=[synthetic_templates,foregrounds,theory]"  # PySM3 and CAMB stay in the process that has used them
CLEAN = [
    "experiment=tiny", "method=cnilc", "instrument.bands=[100,143]", "cosmology=fiducial", "analysis.lmax=90",
    "foregrounds.components=false", "splits.train=1", "splits.valid=0", "splits.test=1", "run.workers=1",
]  # fmt: skip


def records(root: Path) -> dict[str, list[dict]]:
    """Sidecars below a root, by stage."""
    found = defaultdict(list)
    for path in root.rglob(".*.json"):
        record = json.loads(path.read_text())
        found[record["stage"]].append(record)
    return found


def estimates(said: str) -> dict[str, tuple[float, float]]:
    """Bytes on disk and in memory of each stage, from the table of a dry run."""
    number = r"([\d.]+) (B|kB|MB|GB)"
    rows = re.findall(rf"^  (\w+) +\d+ +\d+ +{number} +{number}", said, re.MULTILINE)
    return {name: (float(a) * UNITS[x], float(b) * UNITS[y]) for name, a, x, b, y in rows}


def compare(said: str, root: Path) -> list[str]:
    """Compare the dry run of all stages, done by one process, with what they have taken; the stages' names."""
    expected, measured = estimates(said), records(root)
    for stage, found in measured.items():
        disk, memory = expected[stage]
        files = [file for record in found for file in record["outputs"].items()]
        factor = OF_PICTURES if any(name.endswith(".png") for name, _ in files) else FACTOR
        total = sum(known["size"] for _, known in files)
        assert total / factor - SMALL < disk < total * factor + SMALL, (stage, disk, total)
        peak = 1e9 * max(record["peak_gb"] for record in found)
        assert peak / FACTOR < memory < FACTOR * peak, (stage, memory, peak)
    return list(measured)


def main(name: str, *words: str) -> str:
    done = subprocess.run([sys.executable, name, *words], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell how much memory it gives")
def test_cleaning(tmp_path):
    words = [*CLEAN, f"system.root={tmp_path}"]
    said = main("main_clean.py", *words, "run.dry=true")
    main("main_clean.py", *words, LARGE)
    main("main_clean.py", *words)
    assert {"synthetic_templates", "mask", "foregrounds", "observe", "clean", "measure"} <= set(compare(said, tmp_path))


@pytest.mark.parametrize("name", ["delens", "sims", "clean", "compare"])
def test_table_of_what_files_hold(composed, name):
    assets = composed(name=name).assets
    assert set(assets.holds) <= set(assets.files)
