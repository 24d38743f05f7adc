"""What the benchmarks share: where a result goes, and the circumstances that stand beside every number."""

import argparse
import csv
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from cmbml.config import resolvers as config
from cmbml.config.options import check_options
from cmbml.core.provenance import environment

_HYDRA = Lock()


def parser(description: str) -> argparse.ArgumentParser:
    """Command line of a benchmark, with the folder of its CSV."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    return made


def composed(job: str, words: Sequence[str]) -> DictConfig:
    """Configuration that a main makes of the words of a command line; one at a time, for Hydra keeps it in a global."""
    config.register()
    folder = Path(__file__).parents[1] / "cfg"
    with _HYDRA, initialize_config_dir(str(folder), version_base="1.3"):
        cfg = compose(job, overrides=check_options(folder, job, words))
    config.prepare(cfg)
    return cfg


def circumstances() -> dict[str, str]:
    """Hardware, commit and command of this run."""
    model, cpuinfo = platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    git = environment()["git"]
    commit = f"{git['commit']}{'-dirty' if git['dirty'] else ''}" if git["commit"] else "unknown"
    return {
        "hardware": f"{model}, {os.cpu_count()} cores",
        "commit": commit,
        "command": f"python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
    }


def save(name: str, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the rows, each with the circumstances, as ``<out>/<name>.csv``."""
    beside = circumstances()
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *beside], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **beside} for row in rows)
