"""What a packed dataset or model is: archives, a card, and a manifest that knows every byte of them.

The manifest lists each archive and each of its members with size and sha256. Whatever is not in it is not unpacked;
what it says itself is believed only once it is looked at here.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cmbml.core.errors import UserError

FORM = 1  # of the manifests that are written
MANIFEST = "manifest.json"
CARD = "README.md"
KINDS = ("dataset", "model")
AROUND = ("Logs", "Assets", "Packed")  # of a root: no datasets
LARGEST_MANIFEST = 1 << 28  # bytes
LARGEST_SIZE = (1 << 63) - 1  # bytes that a file may have
BLOCK = 1 << 20  # bytes that are in memory at a time


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name below the root, bytes, and hash."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A tar.gz file: its name in the folder, bytes, hash, and its members in their order."""

    name: str
    size: int
    sha256: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Packed:
    """A manifest: of which kind, the name of the dataset, the fingerprint, the archives, and the card beside them."""

    kind: str
    dataset: str
    fingerprint: str
    archives: tuple[Archive, ...]
    form: int = FORM
    card: Member | None = None

    @property
    def size(self) -> int:
        """Bytes of all archives."""
        return sum(archive.size for archive in self.archives)

    def text(self) -> str:
        """Contents of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same(path: Path, known: Member | Archive) -> bool:
    """Whether a file has the contents that a manifest knows."""
    return path.is_file() and path.stat().st_size == known.size and sha256(path) == known.sha256


def read_manifest(folder: Path) -> Packed:
    """What a folder says that it holds.

    Raises
    ------
    UserError
        When there is no manifest, it is broken, or it names files outside of its dataset.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise UserError(f"{path} is larger than {LARGEST_MANIFEST} bytes, and no manifest.")
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {MANIFEST}; give the folder that cmbml pack has made.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON, it is damaged; bring it anew.") from None
    return _checked(held, path)


def _checked(held: Any, path: Path) -> Packed:
    """A manifest whose parts are of their kinds and whose names lead nowhere else."""
    if isinstance(held, Mapping) and isinstance(held.get("form"), int) and FORM < held["form"] <= LARGEST_SIZE:
        raise UserError(f"{path} was written by a newer cmbml (form {held['form']}); update cmbml.")
    try:
        archives = tuple(_archive(archive) for archive in held["archives"])
        card = _member(held["card"]) if held.get("card") else None
        packed = Packed(held["kind"], held["dataset"], held["fingerprint"], archives, held["form"], card)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} lacks a part of a manifest, it is damaged; bring it anew.") from None
    if packed.form != FORM or packed.kind not in KINDS or not _is_hash(packed.fingerprint, 32):
        raise UserError(f"{path} is of no form or kind that there is, or has no fingerprint; bring it anew.")
    if not is_name(packed.dataset) or packed.dataset in AROUND:
        raise UserError(f"{path} calls its dataset {packed.dataset!r}, which is no name of one.")
    _check_names(packed, path)
    return packed


def _check_names(packed: Packed, path: Path) -> None:
    """Refuse names that lead out of the dataset, or that two files have."""
    if packed.card and packed.card.name != CARD:
        raise UserError(f"{path} names a card {packed.card.name!r}, which is not {CARD}.")
    known: list[Archive | Member] = [packed.card] if packed.card else []
    seen: set[str] = set()
    for archive in packed.archives:
        names = [archive.name, *(member.name for member in archive.members)]
        if not is_name(archive.name) or not archive.name.endswith(".tar.gz"):
            raise UserError(f"{path} names {archive.name!r}, which is no archive of its folder.")
        for name in names[1:]:
            if not _is_below(name, packed.dataset):
                raise UserError(f"{path} names {name!r}, which leads out of the dataset {packed.dataset}.")
        if seen & set(names) or len(set(names)) < len(names):
            raise UserError(f"{path} names a file twice; bring it anew.")
        seen |= set(names)
        known += [archive, *archive.members]
    for one in known:
        if type(one.size) is not int or not 0 <= one.size <= LARGEST_SIZE or not _is_hash(one.sha256, 64):
            raise UserError(f"{path} has no size or no sha256 of {one.name!r}; bring it anew.")
    if folder := next(
        (name for name in seen if any(str(above) in seen for above in PurePosixPath(name).parents)), None
    ):
        raise UserError(f"{path} names {folder!r} below what is a file; bring it anew.")


def _archive(held: Mapping[str, Any]) -> Archive:
    members = tuple(_member(member) for member in held["members"])
    return Archive(held["name"], held["size"], held["sha256"], members)


def _member(held: Mapping[str, Any]) -> Member:
    return Member(held["name"], held["size"], held["sha256"])


def is_name(name: object) -> bool:
    """Whether a text is the name of a file or a folder and no path."""
    return isinstance(name, str) and re.fullmatch(r"(?!\.)[\w.=+,@-]+", name) is not None


def _is_hash(text: object, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None


def _is_below(name: object, dataset: str) -> bool:
    """Whether a text is the path of a file in a dataset, written in one way only."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        return False
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and parts[0] == dataset and ".." not in parts and "/".join(parts) == name
