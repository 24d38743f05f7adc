"""Bring the public maps, chains and PySM3 templates that simulations can use: `python get_data/fetch.py assets`.

`manifest.yaml` beside this file says what there is, where it is and where it goes; `published.yaml` the same of
datasets and models, which `fetch.py dataset NAME` and `fetch.py models NAME` bring. What is there already is left
alone, what was interrupted goes on where it stopped, and the exit code is 1 when something is still missing in the end.
"""

import argparse
import logging
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pooch
import published
from catalogue import Entry, read_manifest, select
from download import bring, place_of

from cmbml.core.errors import UserError

log = logging.getLogger("get_data")

MANIFEST = Path(__file__).with_name("manifest.yaml")
PRESETS = "d9,s4,f1,a1,cib1,ksz1,tsz1,rg1"


def readable(n_bytes: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} B"


def outlook(entries: Sequence[Entry], assets: Path) -> str:
    """How many files and bytes are missing, and how much room there is."""
    missing = [entry for entry in entries if not entry.present(assets)]
    total = readable(sum(entry.size or entry.about or 0 for entry in missing))
    unknown = sum(not (entry.size or entry.about) for entry in missing)
    also = f" and {unknown} of unknown size" if unknown else ""
    disk = next(folder for folder in (assets.absolute(), *assets.absolute().parents) if folder.is_dir())
    free = readable(shutil.disk_usage(disk).free)
    return f"{len(missing)} of {len(entries)} files to bring, about {total}{also}; {free} are free under {disk}"


def table(entries: Sequence[Entry], assets: Path) -> str:
    """Names, sizes (~ approximate), what is there, and destinations."""
    lines = [f"{'name':14}{'size':>10}  {'there':7}{'checksum':10}destination under {assets}"]
    for entry in entries:
        size = readable(entry.size) if entry.size else f"~{readable(entry.about)}" if entry.about else "?"
        there, checksum = ("yes" if entry.present(assets) else "no"), ("sha256" if entry.sha256 else "none")
        name = ",".join(entry.presets) or entry.name
        lines.append(f"{name:14.14}{size:>10}  {there:7}{checksum:10}{entry.to}")
    return "\n".join(lines)


def band(text: str) -> tuple[float, float]:
    """Lowest and highest frequency of `143`, `120-160` or `all`."""
    if text == "all":
        return 0.0, math.inf
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True, metavar="{assets,dataset,models}")
    assets = kinds.add_parser("assets", help="maps, chains, band tables, templates")
    add = assets.add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help="assets, presets, paths of templates, patterns of them")
    add("--presets", default=PRESETS, help="PySM3 presets whose templates to bring, or none (default %(default)s)")
    add("--nside", type=int, default=2048, help="nside at which the sky will be computed (default %(default)s)")
    bands = "bands (143, 120-160 or all) that cib1, rg1, rg3 bring maps for (default Planck's centres; all with --only)"
    add("--freqs-ghz", nargs="+", type=band, metavar="GHZ", help=bands)
    add("--manifest", type=Path, default=MANIFEST, help="another list of files")
    assets.set_defaults(run=run)
    for kind, about in published.KINDS.items():
        packed = kinds.add_parser(kind, help=about)
        add = packed.add_argument
        add("names", nargs="*", metavar="NAME", help="which; none lists them")
        add("--only", nargs="+", default=["*"], metavar="PATTERN", help="archives to bring, as test_* (default all)")
        add("--catalogue", type=Path, default=published.CATALOGUE, help="another list of what there is")
        packed.set_defaults(run=published.run, kind=kind)
    for command in kinds.choices.values():
        common(command)
    return parser.parse_args(argv)


def common(command: argparse.ArgumentParser) -> None:
    """Options of all kinds."""
    add = command.add_argument
    add("--dry-run", action="store_true", help="only print what there is, with sizes and destinations")
    add("--mirror", help="base address, or folder, laid out like the destinations, to read from instead")
    add("--root", default=os.environ.get("CMBML_ROOT", "data"), help="default $CMBML_ROOT, or data")
    add("--tries", type=int, default=5, help="how often to ask for a file (default %(default)s)")
    wait = "seconds before the second try, doubled for each further one (default %(default)s)"
    add("--backoff", type=float, default=2.0, metavar="SECONDS", help=wait)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask; the exit code."""
    presets = [] if options.presets in ("", "none") else [name.strip() for name in options.presets.split(",")]
    manifest = read_manifest(options.manifest)
    entries = select(manifest, only=options.only, presets=presets, nside=options.nside, bands=options.freqs_ghz)
    mirror = place_of(options.mirror)
    assets = Path(options.root).expanduser() / "Assets"
    if options.dry_run:
        log.info("%s", table(entries, assets))
    log.info("%s", outlook(entries, assets))
    if options.dry_run:
        return 0
    fetched, failed = bring(entries, assets, mirror=mirror, tries=options.tries, backoff_s=options.backoff)
    there = len(entries) - len(fetched) - len(failed)
    log.info("%d fetched, %d there already, %d failed; all under %s", len(fetched), there, len(failed), assets)
    for name, why in failed.items():
        log.error("  %s: %s", name, why)
    if failed:
        log.error("The same command goes on with these. --mirror reads from another place; a file that you put where")
        log.error("--dry-run says is taken as it is.")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 0, 1 when something failed, 130 when interrupted."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        options = parse(argv)
        return int(options.run(options))
    except UserError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("Interrupted; the same command goes on where this one stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
