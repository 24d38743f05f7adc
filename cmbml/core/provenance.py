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
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cmbml.core.asset import File
from cmbml.core.plugins import plugins

FORM = 2  # of the records that are written
WHOLE = 2**20  # bytes; of a user's file that is larger, parts are looked at, and its time
PARTS = 8
PART = 2**15
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
    were read with the fingerprints that they had, ``outputs`` size and hash of each file that was made. ``form`` is
    that of the record itself: 1 was written by cmbml 0.1.0.
    """

    stage: str
    version: int
    item: dict[str, Any]
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    outputs: dict[str, dict[str, Any]]
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
        """The record, or None when there is none, or none whose parts are of their kinds."""
        try:
            held = json.loads(path.read_bytes())
            record = cls(**(_known(held) if isinstance(held, dict) else held))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return record if record._whole() else None

    def _whole(self) -> bool:
        if isinstance(self.form, bool) or not isinstance(self.form, int) or self.form < 1:
            return False
        if self.form != FORM:  # of another version, which is told in its own sentence
            return True
        kinds = {
            str: (self.stage, self.fingerprint, self.host, *self.seeds) if isinstance(self.seeds, list) else (None,),
            int: (self.version,),
            dict: (self.item, self.settings, self.inputs, self.outputs, self.git, self.packages),
        }
        if not all(isinstance(part, kind) for kind, parts in kinds.items() for part in parts):
            return False
        if isinstance(self.version, bool) or isinstance(self.seconds, bool):
            return False
        if not isinstance(self.seconds, int | float) or not isinstance(self.peak_gb, int | float | None):
            return False
        return all(isinstance(part, dict) for part in (*self.inputs.values(), *self.outputs.values()))

    def text(self) -> str:
        """Contents of the file."""
        return json.dumps(asdict(self), indent=1)


def _known(held: dict[str, Any]) -> dict[str, Any]:
    """A record without what is not known here, if it is of a later version."""
    form = held.get("form")
    if not isinstance(form, int) or form <= FORM:
        return held
    return {key: value for key, value in held.items() if key in Sidecar.__dataclass_fields__}


def contents(path: Path) -> dict[str, Any]:
    """What tells the contents of a file from others: ``size`` in bytes, and ``sha256``."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def telling(path: Path) -> str:
    """What tells the contents of a file that a user gives from others: a hash; empty when there is no such file.

    Up to 1 MiB it is of the contents alone. Of a larger one it is of the size, the time and eight parts of 32 KiB, from
    its beginning to its end: that costs nothing, and tells any two maps from each other, whatever their time says.
    """
    try:
        stat = path.stat()
        return _telling(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) if path.is_file() else ""
    except OSError:
        return ""


@lru_cache(maxsize=65536)
def _telling(path: Path, size: int, changed: int, *identity: int) -> str:
    """Hash of a file of a size and time, read once for as long as it is the same."""
    with path.open("rb") as file:
        if size <= WHOLE:
            return digest(hashlib.sha256(file.read()).hexdigest())
        parts = hashlib.sha256()
        for i in range(PARTS):
            file.seek(i * (size - PART) // (PARTS - 1))
            parts.update(file.read(PART))
    return digest(size, changed, parts.hexdigest())


def damage(outputs: Sequence[File], recorded: Mapping[str, Mapping[str, Any]], *, thorough: bool = False) -> str:
    """What is wrong with the files of a finished item; empty when they are as recorded.

    Sizes are compared, and ``thorough`` reads the files to compare their contents.
    """
    for file in outputs:
        name = file.path.name
        known = recorded.get(name, {})
        if not file.path.is_file():
            return f"{name} is missing"
        size = file.path.stat().st_size
        if size != known.get("size"):
            return f"{name} has {size} bytes instead of {known.get('size')}"
        if thorough and contents(file.path) != known:
            return f"{name} has other contents than were written"
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

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name)  # and not installed below somebody's repository
    commit = git("rev-parse", "HEAD") if tracked else None
    packages = {plugin.name: plugin.version for plugin in plugins()}
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
