"""`cmbml unpack FOLDER`: put what `cmbml pack` has packed under a root, each byte looked at; repeat it to go on.

What is there already with the right contents is left alone. A damaged archive is refused, the others are unpacked. The
records of the stages come along, so that runs know the files as finished.
"""

import argparse
import gzip
import hashlib
import os
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from cmbml.commands.packed import BLOCK, Archive, Member, Packed, read_manifest, same
from cmbml.core import handlers, log

HEADERS = 8192  # bytes of a tar file that a member may take beside its contents
BROKEN = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError)


class Refused(Exception):
    """Why an archive is not unpacked, in words that follow its name."""


class Bounded(gzip.GzipFile):
    """A compressed file that is not read beyond a number of bytes of its contents, however far they go on.

    Parameters
    ----------
    path : Path
    most : int
        Bytes that may be read.
    """

    def __init__(self, path: Path, most: int):
        super().__init__(path, "rb")
        self.left = most

    def read(self, size: int | None = -1) -> bytes:
        """Read on, or raise `Refused`."""
        data = super().read(min(size, BLOCK) if size is not None and size >= 0 else BLOCK)
        self.left -= len(data)
        if self.left < 0:
            raise Refused("holds more than the manifest says")
        return data


def main(argv: Sequence[str]) -> int:
    """Unpack a folder; the exit code is 1 when an archive was refused."""
    parser = argparse.ArgumentParser(
        prog="cmbml unpack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = os.environ.get("CMBML_ROOT", "data")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with manifest.json and archives")
    parser.add_argument("--root", type=Path, default=Path(root), help="system.root (default $CMBML_ROOT, or data)")
    parser.add_argument("--replace", action="store_true", help="replace files that are there with other contents")
    parser.add_argument("--dry-run", action="store_true", help="only tell what is in it")
    options = parser.parse_args(argv)
    packed = read_manifest(options.folder)
    members = sum(len(archive.members) for archive in packed.archives)
    sys.stdout.write(
        f"{packed.kind} {packed.dataset}, fingerprint {packed.fingerprint}: {members} files in {len(packed.archives)}"
        f" archives, {log.size(packed.size)}\n"
    )
    if options.dry_run:
        return 0
    refused = unpack(options.folder, packed, options.root.expanduser(), replace=options.replace)
    for name, why in refused.items():
        sys.stderr.write(f"Refused: {name} {why}.\n")
    if refused:
        sys.stderr.write("Bring these anew and repeat the command; what is unpacked is kept.\n")
    return 1 if refused else 0


def unpack(folder: Path, packed: Packed, root: Path, *, replace: bool = False) -> dict[str, str]:
    """Unpack all archives, whatever is wrong with some of them.

    Parameters
    ----------
    folder : Path
        Where the archives lie.
    packed : Packed
        What its manifest says.
    root : Path
        ``system.root``.
    replace : bool
        Whether files with other contents are replaced, and not refused.

    Returns
    -------
    dict
        Why an archive was refused, by its name.

    Raises
    ------
    OSError
        When the disk is full or the root cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    refused = {}
    written = 0
    for archive in packed.archives:
        try:
            written += _unpack_one(folder / archive.name, archive, root, replace=replace)
        except Refused as error:
            refused[archive.name] = str(error)
    there = sum(len(archive.members) for archive in packed.archives if archive.name not in refused) - written
    sys.stdout.write(f"{written} files unpacked, {max(there, 0)} there already, under {root}\n")
    return refused


def is_unpacked(archive: Archive, root: Path) -> bool:
    """Whether all that is in an archive is there already."""
    return all(same(root / member.name, member) for member in archive.members)


def _unpack_one(path: Path, archive: Archive, root: Path, *, replace: bool) -> int:
    """Write the members that are not there; how many."""
    wanted = {}
    for member in archive.members:
        target = _place(root, member)
        if same(target, member):
            continue
        if os.path.lexists(target) and not replace:
            raise Refused(f"would replace {target}, which has other contents; --replace does")
        wanted[member.name] = target
    if not wanted:
        return 0
    if not path.is_file():
        raise Refused("is missing")
    if not same(path, archive):
        raise Refused("is damaged: it has other contents than the manifest says")
    for target in wanted.values():
        if target.suffix == ".json" and target.name.startswith(
            "."
        ):  # until its files are new, no record speaks of them
            target.unlink(missing_ok=True)
    try:
        _extract(path, archive, wanted)
    except BROKEN as error:
        raise Refused(f"is no whole archive ({str(error) or type(error).__name__})") from error
    return len(wanted)


def _place(root: Path, member: Member) -> Path:
    """Where a member belongs; no link on the way may lead out of the root."""
    target = root / member.name
    if not target.parent.resolve().is_relative_to(root.resolve()) or target.is_symlink():
        raise Refused(f"would write {target} through a link")
    if target.is_dir() or any(parent.is_file() for parent in target.parents if parent.is_relative_to(root)):
        raise Refused(f"would write {target}, where a folder is a file or a file a folder")
    return target


def _extract(path: Path, archive: Archive, wanted: dict[str, Path]) -> None:
    """Write what is wanted, in the order of the archive, in which a record comes after its files."""
    expected = iter(archive.members)
    most = sum(member.size + HEADERS for member in archive.members) + tarfile.RECORDSIZE
    with Bounded(path, most) as whole, tarfile.open(fileobj=whole, mode="r|") as tar:
        for info in tar:
            member = next(expected, None)
            if member is None or info.name != member.name or not info.isreg() or info.size != member.size:
                raise Refused(f"holds {info.name}, which the manifest does not know so")
            if member.name in wanted:
                _write(tar, info, member, wanted[member.name])
    if next(expected, None) is not None:
        raise Refused("holds less than the manifest says")


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, member: Member, target: Path) -> None:
    """Write one file atomically, once its contents are those of the manifest."""
    source = tar.extractfile(info)
    if source is None:
        raise Refused(f"holds {info.name}, which is no file")
    found = hashlib.sha256()
    with handlers.atomic(target) as temporary:
        with temporary.open("wb") as file:
            while block := source.read(BLOCK):
                found.update(block)
                file.write(block)
        if found.hexdigest() != member.sha256:
            raise Refused(f"holds another {member.name} than the manifest says")
