"""Where a file comes from: fingerprints, sidecars, and why something is stale.

A fingerprint is a hash of all that decides a result: the stage and its version, the settings it uses, the item, and
the fingerprints of what it reads. It needs no file, so that a dry run knows what is stale before any is opened.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cmbml.core.asset import File

FORM = 2  # of the records that are written
PACKAGES = ("cmbml", "numpy", "scipy", "healpy", "ducc0", "camb", "astropy", "torch", "hydra-core")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under their dotted names; lists and empty mappings are leaves."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{key}" if prefix else key).items()}


def digest(*parts: Any) -> str:
    """Hash of JSON-able values, 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Sidecar:
    """Record of one finished item of one stage; written last, next to its first output.

    ``peak_gb`` is the most memory that the process held while it worked on the item, in 10^9 bytes, and None where the
    system does not tell; what its child processes held is not in it. ``inputs`` has, for each input, the files that
    were read with the fingerprints that they had. ``form`` is that of the record itself: 1 was written by cmbml 0.1.0.
    """

    stage: str
    version: int
    item: dict[str, Any]
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    outputs: dict[str, int]
    seeds: list[str]
    seconds: float
    host: str
    git: dict[str, Any]
    packages: dict[str, str]
    peak_gb: float | None = None
    form: int = 1

    @staticmethod
    def path(outputs: Sequence[File]) -> Path:
        """Hidden file beside the first output."""
        return outputs[0].record().path

    @classmethod
    def read(cls, path: Path) -> "Sidecar | None":
        """The record, or None when there is none that can be read."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def text(self) -> str:
        """Contents of the file."""
        return json.dumps(asdict(self), indent=1)


def damage(outputs: Sequence[File], sizes: Mapping[str, int]) -> str:
    """What is wrong with the files of a finished item; empty when they are as recorded."""
    for file in outputs:
        name = file.path.name
        try:
            size = file.path.stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != sizes.get(name):
            return f"{name} has {size} bytes instead of {sizes.get(name)}"
    return ""


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that differ, as ``noise.level 1.0 -> 2.0``."""
    missing = "(none)"
    names = sorted(set(old) | set(new))
    return [
        f"{name} {old.get(name, missing)} -> {new.get(name, missing)}"
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    ]


@cache
def environment() -> dict[str, Any]:
    """Host, git commit and package versions of this process."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "host": platform.node(),
        "git": {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno")) if commit else None},
        "packages": packages,
    }
