"""`cmbml doctor`: what is installed and found here, and what each missing thing costs."""

import argparse
import fnmatch
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from joblib import cpu_count

from cmbml.commands.fetch import script
from cmbml.config.options import groups_of, options_of
from cmbml.config.places import ASSETS, CFG, GET_DATA
from cmbml.core import log
from cmbml.core.errors import UserError
from cmbml.core.plugins import plugins

EXTRAS = {  # what is of no use without a distribution
    "distributed": "system=dask and system=slurm (pip install 'cmbml[cluster]')",
    "dask-jobqueue": "system=slurm (pip install 'cmbml[cluster]')",
    "hydra-joblib-launcher": "hydra/launcher=joblib (pip install 'cmbml[cluster]')",
    "hydra-submitit-launcher": "hydra/launcher=submitit_slurm (pip install 'cmbml[cluster]')",
    "cmbroom": "method=broom (pip install 'cmbml[foreign]'; GPL)",
    "tensorboard": "system.tensorboard=true (pip install 'cmbml[tensorboard]')",
}
FETCHED = {  # pattern of the manifest's names -> what is of no use without such files
    "planck_[0-9]*": "noise=variance_map and experiment=cmbml_512",
    "planck_nilc": "mask=planck",
    "wmap9_chains": "cosmology=wmap9_chain",
}
MAPS_AT_ONCE = 35  # of an item of most stages, as `cmbml.config.costs` counts
ROOM = 2e9  # bytes that a small run and its logs want


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what its lack costs, or whether nothing works without it."""

    what: str
    found: str
    costs: str = ""
    fatal: bool = False


def main(argv: Sequence[str]) -> int:
    """Print all findings; the exit code is 1 when nothing can run."""
    parser = argparse.ArgumentParser(prog="cmbml doctor", description=__doc__.partition(": ")[2])
    root = os.environ.get("CMBML_ROOT", "data")
    parser.add_argument("--root", type=Path, default=Path(root), help="system.root (default $CMBML_ROOT, or data)")
    options = parser.parse_args(argv)
    fatal = 0
    for title, findings in sections(options.root.expanduser()):
        sys.stdout.write(f"{title}\n")
        for finding in findings:
            fatal += finding.fatal
            mark = "!" if finding.fatal else "-" if finding.costs else " "
            costs = f"; costs {finding.costs}" if finding.costs else ""
            sys.stdout.write(f" {mark} {finding.what:<24} {finding.found}{costs}\n")
    sys.stdout.write("Mend what is marked ! first.\n" if fatal else "A run can begin: cmbml delens experiment=tiny\n")
    return 1 if fatal else 0


def sections(root: Path) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Titles and findings, in the order in which they are printed."""
    yield "Versions", _versions()
    yield "Machine", _machine()
    yield f"Disk, system.root={root}", _disk(root)
    yield "What cmbml brings", _brought()
    yield f"Fetched files, {root / 'Assets'}", _fetched(root / "Assets")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def needed() -> list[str]:
    """Distributions that a run needs, as the installed package says."""
    try:
        requirements = metadata.requires("cmbml") or []
    except metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", text)[0] for text in requirements if "extra ==" not in text]


def _versions() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    own = _version("cmbml")
    yield Finding("cmbml", f"{own or 'not installed, found by the path alone'}, {Path(__file__).parents[1]}")
    for name in needed():
        found = _version(name)
        yield Finding(name, found or "missing", "" if found else "no run (pip install cmbml)", fatal=not found)
    for name, costs in EXTRAS.items():
        found = _version(name)
        yield Finding(name, found or "not installed", "" if found else costs)


def _machine() -> Iterator[Finding]:
    yield Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    threads = os.environ.get("OMP_NUM_THREADS", "not set: a library takes all cores")
    yield Finding("cores", f"{cpu_count()} for this process; OMP_NUM_THREADS {threads}")
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        enough = f"by a rule of thumb enough for nside {_largest_nside(memory)} with run.workers=2"
        yield Finding("memory", f"{log.size(memory)}, {enough}")
    yield from _devices()


def _largest_nside(memory: float, workers: int = 2) -> int:
    """Largest nside of which the items of so many workers fit into a memory (bytes)."""
    nside = 8192
    while nside > 16 and workers * MAPS_AT_ONCE * 4 * 12 * nside**2 > memory:
        nside //= 2
    return nside


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:  # which is among the versions
        return
    for i in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(i)
        yield Finding(f"GPU {i}", f"{held.name}, {log.size(held.total_memory)}, CUDA {torch.version.cuda}")
    if not torch.cuda.device_count():
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch sees none"
        yield Finding("GPU", f"none, {why}", "speed: networks train on the cores")


def _disk(root: Path) -> Iterator[Finding]:
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    usable = place.is_dir() and os.access(place, os.W_OK)
    yield Finding("folder", f"{place} can{'' if usable else 'not'} be written", fatal=not usable)
    free = shutil.disk_usage(place).free
    yield Finding("free", log.size(free), "" if free > ROOM else "more than the smallest runs", fatal=free < ROOM / 20)
    datasets = sorted(folder.parent.name for folder in root.glob("*/Simulations"))
    yield Finding("datasets", ", ".join(datasets) or "none yet")


def _brought() -> Iterator[Finding]:
    for what, folder, pattern in (
        ("settings", CFG, "*.yaml"),
        ("tables and data", ASSETS, "*.*"),
        ("lists of files", GET_DATA, "*.yaml"),
    ):
        count = len(list(folder.rglob(pattern)))
        yield Finding(what, f"{count} files in {folder}", "" if count else "no run", fatal=not count)
    try:
        found = plugins()
    except UserError as error:
        yield Finding("plug-ins", str(error), fatal=True)
        return
    for plugin in found:
        groups = groups_of(("sims", "delens", "clean", "compare"), [plugin.folder])
        options = [f"{g}={o}" for g in groups for o in options_of(g, ("sims", "delens", "clean"), [plugin.folder])]
        yield Finding(f"plug-in {plugin.name}", f"{plugin.version}: {', '.join(options) or 'no options'}")


def _fetched(assets: Path) -> Iterator[Finding]:
    catalogue = script("catalogue")
    fetch = script("fetch")
    manifest = catalogue.read_manifest(fetch.MANIFEST)
    for pattern, costs in FETCHED.items():
        entries = [manifest.assets[name] for name in fnmatch.filter(manifest.assets, pattern)]
        missing = [entry for entry in entries if not _there(entry, assets)]
        yield _files(pattern, len(entries), missing, costs)
    own = os.environ.get("PYSM_LOCAL_DATA")
    folder = Path(own).expanduser() if own else assets / manifest.pysm["to"]
    for preset in fetch.PRESETS.split(","):
        bands = [(ghz, ghz) for ghz in manifest.pysm["freqs_ghz"]]
        entries = catalogue.templates(manifest, [preset], bands=bands)
        missing = [entry for entry in entries if not (folder / entry.name).is_file()]
        yield _files(preset, len(entries), missing, f"{preset} among the presets of foregrounds=pysm")


def _files(name: str, count: int, missing: Sequence[Any], costs: str) -> Finding:
    """What is said of files that are fetched under one name."""
    if not missing:
        return Finding(name, "there")
    size = log.size(sum(entry.size or entry.about or 0 for entry in missing))
    return Finding(name, f"{len(missing)} of {count} missing, about {size} (cmbml fetch assets --only '{name}')", costs)


def _there(entry: Any, assets: Path) -> bool:
    """Whether a file of the manifest is there; its contents are not looked at."""
    return entry.folder(assets).is_dir() if entry.unpack else (assets / entry.to).is_file()
