"""`cmbml pack DATASET|MODEL`: an archive a sky, a manifest with hashes, and a card, for others to unpack and to trust.

A dataset is named as it is under the root, a model by its .pt file there. The same files give the same bytes.
"""

import argparse
import gzip
import os
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from cmbml.commands.cards import card
from cmbml.commands.data import Made, census, outdated
from cmbml.commands.packed import AROUND, BLOCK, CARD, MANIFEST, Archive, Member, Packed, is_name, sha256
from cmbml.core import handlers, log
from cmbml.core.errors import UserError
from cmbml.core.provenance import digest

SKIES = "Simulations"
WORKING = "Simulation_Working"
LEVEL = 1  # of the compression: maps are noise, more of it costs time and saves nothing


@dataclass(frozen=True)
class Choice:
    """What is to be packed: kind, dataset, name of the folder that comes of it, and the items."""

    kind: str
    dataset: str
    name: str
    items: tuple[Made, ...]


def main(argv: Sequence[str]) -> int:
    """Pack what the words name; the exit code."""
    parser = argparse.ArgumentParser(
        prog="cmbml pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = os.environ.get("CMBML_ROOT", "data")
    add = parser.add_argument
    add("what", metavar="DATASET|MODEL", help="a folder under the root, or a model.pt there")
    add("--root", type=Path, default=Path(root), help="system.root (default $CMBML_ROOT, or data)")
    add("--to", type=Path, help="folder to write (default ROOT/Packed/NAME)")
    add("--also", nargs="+", default=[], metavar="FOLDER", help="further folders of the dataset, as those of methods")
    add("--licence", default="unknown", help="as model hubs call it, e.g. cc-by-4.0 (default %(default)s)")
    add("--command", default="", help="the command that has made it, for the card")
    add("--limits", default="", help="what it cannot be used for, for the card")
    add("--dry-run", action="store_true", help="only tell fingerprint, files and bytes")
    options = parser.parse_args(argv)
    base = options.root.expanduser()
    if options.what.endswith(".pt"):
        choice = of_model(base, Path(options.what))
    else:
        choice = of_dataset(base, options.what, options.also)
    size = sum(file.stat().st_size for item in choice.items for file in item.files)
    number = sum(len(item.files) for item in choice.items)
    sys.stdout.write(
        f"{choice.kind} {choice.name}, fingerprint {fingerprint(choice)}: {number} files, {log.size(size)}\n"
    )
    if options.dry_run:
        return 0
    folder = options.to or base / "Packed" / choice.name
    told = {"licence": options.licence, "command": options.command, "limits": options.limits}
    packed = pack(choice, base, folder, told)
    sys.stdout.write(f"{len(packed.archives)} archives, {log.size(packed.size)}, {MANIFEST} and {CARD} in {folder}\n")
    manifest = folder / MANIFEST
    sys.stdout.write(f"{MANIFEST}: sha256 {sha256(manifest)}, size {manifest.stat().st_size}\n")
    return 0


def of_dataset(root: Path, name: str, also: Sequence[str] = ()) -> Choice:
    """All finished items of the skies of a dataset, and of what they were made of.

    Raises
    ------
    UserError
        When there is none, or something of it is stale.
    """
    folder = root / name
    if name in AROUND or not is_name(name) or not folder.is_dir():
        there = sorted(path.name for path in root.glob("*") if path.is_dir() and path.name not in AROUND)
        raise UserError(f"There is no dataset {name} under {root}; there are {', '.join(there) or 'none'}.")
    for other in also:
        if not (folder / other).is_dir():
            raise UserError(f"--also {other} is no folder of {folder}.")
    made = list(census(root, name))
    folders = (SKIES, WORKING, *also)
    items = [item for item in made if any(item.place.is_relative_to(folder / other) for other in folders)]
    return _current(Choice("dataset", name, name, tuple(items)), made, root)


def of_model(root: Path, path: Path) -> Choice:
    """The training that has made a model.

    Raises
    ------
    UserError
        When it does not lie under the root, or no record tells of it.
    """
    found = next((one for one in (path, root / path) if one.is_file()), None)
    if found is None or not found.resolve().is_relative_to(root.resolve()):
        raise UserError(f"There is no model {path} under {root}; give the model.pt of a training there (--root).")
    place = found.resolve().relative_to(root.resolve())
    dataset = place.parts[0]
    made = list(census(root, dataset))
    items = [item for item in made if root / place in item.files]
    name = "_".join(place.with_suffix("").parts[:-1])
    return _current(Choice("model", dataset, name, tuple(items)), made, root)


def _current(choice: Choice, made: Sequence[Made], root: Path) -> Choice:
    """The choice, when there is something in it and nothing of it is stale."""
    if not choice.items:
        raise UserError(f"No record of a stage tells of {choice.name}; only what a run has finished is packed.")
    reasons = outdated(made, {_below(file, root): item for item in made for file in item.files}, root)
    for item in choice.items:
        if item.place in reasons:
            raise UserError(
                f"{_below(item.place, root)} is the record of something stale ({reasons[item.place]}); repeat the run"
                " that makes it, then pack."
            )
    return choice


def fingerprint(choice: Choice) -> str:
    """What tells a version from others: of a dataset, the observations of its test skies.

    So it stays when training skies are added, and when another method asks the same skies for more.
    """
    seen = [item for item in choice.items if item.sky and item.record.item["split"] == "test" and _observed(item)]
    return digest(sorted(item.record.fingerprint for item in seen or choice.items))


def _observed(item: Made) -> bool:
    return any(name.startswith("obs_") and name.endswith(".fits") for name in item.record.outputs)


def pack(choice: Choice, root: Path, folder: Path, told: Mapping[str, str]) -> Packed:
    """Write archives, card and, last of all, the manifest.

    Parameters
    ----------
    choice : Choice
    root, folder : Path
        ``system.root``; where to write.
    told : mapping
        ``licence``, ``command`` and ``limits``, for the card.
    """
    groups: dict[str, list[Made]] = {}
    for item in choice.items:
        groups.setdefault(_archive_name(choice.kind, item), []).append(item)
    (folder / MANIFEST).unlink(missing_ok=True)
    archives = tuple(_archive(folder / name, groups[name], root) for name in sorted(groups))
    packed = Packed(choice.kind, choice.dataset, fingerprint(choice), archives)
    beside = folder / CARD
    handlers.write(beside, card(choice.name, packed, choice.items, told))
    packed = replace(packed, card=Member(CARD, beside.stat().st_size, sha256(beside)))
    with handlers.atomic(folder / MANIFEST) as temporary:
        temporary.write_text(packed.text(), encoding="utf-8")
    return packed


def _archive_name(kind: str, item: Made) -> str:
    if kind == "model":
        return "model.tar.gz"
    return f"{item.sky[1]}_sim{item.sky[2]:04d}.tar.gz" if item.sky else "shared.tar.gz"


def _archive(path: Path, items: Iterable[Made], root: Path) -> Archive:
    """Write an archive: the files of each item, then its record, without times and owners."""
    ordered = sorted(items, key=attrgetter("place"))
    files = list(dict.fromkeys(file for item in ordered for file in (*sorted(item.files), item.place)))
    members = tuple(Member(_below(file, root), file.stat().st_size, sha256(file)) for file in files)
    found = {member.name: member.sha256 for member in members}
    for item in ordered:
        for file in item.files:
            if item.record.outputs[file.name].get("sha256") != found[_below(file, root)]:
                raise UserError(
                    f"{file} has other contents than {item.record.stage} has written; run.force=[{item.record.stage}]"
                    " makes it anew. Nothing is packed of what a run is at work on."
                )
    with (
        handlers.atomic(path) as temporary,
        temporary.open("wb") as opened,
        gzip.GzipFile("", "wb", LEVEL, opened, mtime=0) as packing,
        tarfile.open(fileobj=packing, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as tar,
    ):
        for file, member in zip(files, members, strict=True):
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            with file.open("rb") as source:
                tar.addfile(info, source)
    return Archive(path.name, path.stat().st_size, sha256(path), members)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
