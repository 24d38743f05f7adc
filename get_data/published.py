"""Packed datasets and models: what the catalogue lists is brought, compared with its manifest, and unpacked."""

import argparse
import dataclasses
import fnmatch
import logging
from pathlib import Path
from typing import Any

import yaml
from catalogue import Entry
from download import bring, place_of

from cmbml.commands.packed import MANIFEST, Packed, is_name, read_manifest
from cmbml.commands.unpack import is_unpacked, unpack
from cmbml.core import log as words
from cmbml.core.errors import UserError

log = logging.getLogger("get_data")

CATALOGUE = Path(__file__).with_name("published.yaml")
KINDS = {"dataset": "packed datasets", "models": "trained models"}
FIELDS = {"url", "sha256", "size", "about"}


def read_catalogue(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Entries of a kind, by their names.

    Raises
    ------
    UserError
        If the file cannot be read, or an entry is not as the head of `published.yaml` describes it.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))[kind]
        entries = dict(listed)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} must be yaml with the keys {', '.join(KINDS)}: {error!r}") from error
    for name, fields in entries.items():
        if not is_name(name) or not isinstance(fields, dict) or fields.keys() != FIELDS or not all(fields.values()):
            raise UserError(f"{path}: the entry '{name}' needs {', '.join(sorted(FIELDS))}, and nothing else.")
    return entries


def run(options: argparse.Namespace) -> int:
    """List what there is, or bring and unpack what is named; the exit code."""
    entries = read_catalogue(options.catalogue, options.kind)
    for name in options.names:
        if name not in entries:
            known = ", ".join(entries) or "none yet; --catalogue reads another list"
            raise UserError(f"No {options.kind} is named '{name}'; there are {known}.")
    if not options.names:
        for name, fields in entries.items():
            log.info("%-24s %s", name, fields["about"])
        log.info("%d in %s", len(entries), options.catalogue)
        return 0
    return max(_bring(name, entries[name], options) for name in options.names)


def _bring(name: str, fields: dict[str, Any], options: argparse.Namespace) -> int:
    """Bring one of them: its manifest, then what the manifest lists and is not there."""
    root = Path(options.root).expanduser()
    place = root / "Packed"
    base = fields["url"].rstrip("/")
    how = {"mirror": place_of(options.mirror), "tries": options.tries, "backoff_s": options.backoff}
    first = Entry(name, f"{base}/{MANIFEST}", f"{name}/{MANIFEST}", fields["sha256"], fields["size"])
    if options.dry_run and not first.present(place):
        log.info("%s: %s; its manifest is to be brought from %s", name, fields["about"], first.source(how["mirror"]))
        return 0
    if _failed([first], place, how):
        return 1
    packed = _chosen(read_manifest(place / name), options.only)
    missing = [archive for archive in packed.archives if not is_unpacked(archive, root)]
    files = [*([packed.card] if packed.card else []), *missing]
    log.info("%s: %d of %d archives to bring, %s", name, len(missing), len(packed.archives), _size(missing))
    if options.dry_run:
        return 0
    wanted = [Entry(f.name, f"{base}/{f.name}", f"{name}/{f.name}", f.sha256, f.size) for f in files]
    failed = _failed(wanted, place, how)
    came = [archive for archive in packed.archives if archive.name not in failed]
    refused = unpack(place / name, dataclasses.replace(packed, archives=tuple(came)), root)
    for archive, why in refused.items():
        log.error("  refused: %s %s", archive, why)
    return 1 if failed or refused else 0


def _size(archives: list[Any]) -> str:
    return words.size(sum(archive.size for archive in archives))


def _chosen(packed: Packed, patterns: list[str]) -> Packed:
    """The manifest with the archives alone whose names match."""
    names = [archive.name for archive in packed.archives]
    wanted = [f"{pattern.removesuffix('.tar.gz')}.tar.gz" for pattern in patterns]
    chosen = {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in wanted)}
    if not chosen:
        raise UserError(f"--only {' '.join(patterns)} is none of the archives {', '.join(names)}.")
    return dataclasses.replace(packed, archives=tuple(one for one in packed.archives if one.name in chosen))


def _failed(entries: list[Entry], place: Path, how: dict[str, Any]) -> dict[str, str]:
    """Bring files; why which of them did not come."""
    failed = bring(entries, place, **how)[1]
    if failed:
        log.error("The same command goes on with %s.", ", ".join(failed))
    return failed
