"""What there is to bring: the manifest, its entries, and which of them a choice of presets needs."""

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pooch
import yaml

from cmbml.core.errors import UserError

RULES = {  # what the fields of an entry must look like, and how to say it
    "url": (r"https?://\S+", "an address that starts with http:// or https://"),
    "to": (r"(?!/)(?!.*\.\.)\S+", "a path relative to the folder Assets"),
    "sha256": (r"None|[0-9a-f]{64}", "null or 64 hexadecimal digits"),
    "size": (r"None|[1-9]\d{0,17}", "null or a number of bytes"),
    "about": (r"None|[1-9]\d{0,17}", "null or a number of bytes"),
    "unpack": (r"True|False", "true or false"),
    "extra": (r"True|False", "true or false"),
}
OPTIONAL_OF_ROW = "about, nside, ghz, layer"
ROW = {"path", "presets", *OPTIONAL_OF_ROW.split(", ")}
Bands = Sequence[tuple[float, float]]  # lowest and highest frequency, GHz


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file to bring, with the fields of the manifest: `to` is relative to the folder Assets, sizes are in bytes."""

    name: str
    url: str
    to: str
    sha256: str | None = None
    size: int | None = None
    about: int | None = None
    unpack: bool = False
    extra: bool = False
    presets: tuple[str, ...] = ()

    def __post_init__(self):
        for key, (pattern, rule) in RULES.items():
            value = getattr(self, key)
            if not re.fullmatch(pattern, str(value)):
                raise UserError(f"The manifest's entry '{self.name}' has {key}: {value}; it must be {rule}.")

    def folder(self, assets: Path) -> Path:
        """Where a tar file is unpacked: beside it, under its name."""
        return assets / re.sub(r"\.tar(\.\w+)?$", "", self.to)

    def present(self, assets: Path) -> bool:
        """Whether nothing is left to do; a known length and a known checksum are looked at."""
        file = assets / self.to
        if self.unpack:
            return self.folder(assets).is_dir()
        if not file.is_file() or self.size not in (None, file.stat().st_size):
            return False
        return self.sha256 in (None, pooch.file_hash(str(file)) if self.sha256 else None)

    def source(self, mirror: str | None) -> str:
        """The address or the path to read: the entry's own, or its place in a mirror laid out like Assets."""
        return f"{mirror.rstrip('/')}/{self.to}" if mirror else self.url


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.yaml` says: `assets` by name, `pysm` as written there, and the names of all `presets`."""

    assets: dict[str, Entry]
    pysm: dict
    presets: tuple[str, ...]


def read_manifest(path: Path) -> Manifest:
    """Assets and PySM3 templates of a manifest.

    Raises
    ------
    UserError
        If the file cannot be read or an entry is not as the head of `manifest.yaml` describes it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assets, pysm = content["assets"], content["pysm"]
        rows, _ = pysm["files"], (pysm["url"], pysm["to"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} must be yaml with the keys assets and pysm (url, to, files): {error!r}") from error
    optional = ", ".join(list(RULES)[2:])
    for name, fields in assets.items():
        if not isinstance(fields, dict) or not {"url", "to"} <= fields.keys() <= RULES.keys():
            raise UserError(f"The manifest's entry '{name}' needs url and to, may have {optional}, and nothing else.")
    for row in rows:
        if not isinstance(row, dict) or not {"path", "presets"} <= row.keys() <= ROW:
            raise UserError(f"The manifest's template {row} needs path and presets, and may have {OPTIONAL_OF_ROW}.")
    presets = set(pysm.get("without_files", ())).union(*(row["presets"] for row in rows))
    entries = {name: Entry(name, **fields) for name, fields in assets.items()}
    return Manifest(entries, pysm, tuple(sorted(presets)))


def frequencies(grid: Sequence[float], bands: Bands | None) -> list[float]:
    """Frequencies (GHz) of a grid of maps that a linear interpolation over bands reads; None: all."""
    if bands is None:
        return list(grid)
    keep = set()
    for low, high in bands:
        first = max((f for f in grid if f <= low), default=grid[0])
        last = min((f for f in grid if f >= high), default=grid[-1])
        keep |= {f for f in grid if first <= f <= last}
    return sorted(keep)


def templates(
    manifest: Manifest, presets: Sequence[str], *, nside: int | None = 2048, bands: Bands | None = None
) -> list[Entry]:
    """PySM3 templates that presets need.

    Parameters
    ----------
    manifest : Manifest
        As `read_manifest` gives it.
    presets : sequence of str
        Names of PySM3's presets.
    nside : int or None
        The smallest templates that are not below it, as PySM3 chooses; None: those of every nside.
    bands : sequence of (float, float), optional
        Lowest and highest frequency (GHz) of the bands that will be simulated; by default whole series are needed.

    Raises
    ------
    UserError
        If a preset is unknown.
    """
    pysm = manifest.pysm
    if wrong := [preset for preset in presets if preset not in manifest.presets]:
        raise UserError(f"PySM3 has no preset {', '.join(wrong)}; choose from {', '.join(manifest.presets)}.")
    entries = []
    for row in pysm["files"]:
        if not set(presets) & set(row["presets"]):
            continue
        sizes = row.get("nside", [1])
        chosen = sizes if nside is None else [next((n for n in sizes if n >= nside), sizes[-1])]
        series = frequencies(row.get("ghz", [0.0]), bands)
        for n, ghz, layer in itertools.product(chosen, series, row.get("layer", [0])):
            path = row["path"].format(nside=n, ghz=ghz, layer=layer)
            about = row.get("about") and row["about"] * n**2 // sizes[0] ** 2
            url, to = f"{pysm['url'].rstrip('/')}/{path}", f"{pysm['to']}/{path}"
            checksum = pysm.get("checksums", {}).get(path)
            entries.append(Entry(path, url, to, checksum, about=about, presets=tuple(row["presets"])))
    return entries


def select(
    manifest: Manifest, *, only: Sequence[str] = (), presets: Sequence[str] = (), nside: int = 2048, bands: Bands | None
) -> list[Entry]:
    """Entries to bring.

    Parameters
    ----------
    manifest : Manifest
        As `read_manifest` gives it.
    only : sequence of str
        Names of assets or presets, paths of templates, or patterns of names and paths; empty: all assets but
        extra ones, and the templates of `presets`.
    presets, nside, bands
        See `templates`. Without bands, `only` brings whole series, and else the manifest's `freqs_ghz` are the bands.

    Raises
    ------
    UserError
        If a name is unknown.
    """
    if not only:
        bands = bands or [(f, f) for f in manifest.pysm["freqs_ghz"]]
        usual = [entry for entry in manifest.assets.values() if not entry.extra]
        return [*usual, *templates(manifest, presets, nside=nside, bands=bands)]
    named = manifest.assets | {entry.name: entry for entry in templates(manifest, manifest.presets, nside=None)}
    chosen = []
    for word in only:
        if word in manifest.presets:
            chosen += templates(manifest, [word], nside=nside, bands=bands)
        elif found := fnmatch.filter(named, word):
            chosen += [named[name] for name in found]
        else:
            names, known = ", ".join(manifest.assets), ", ".join(manifest.presets)
            raise UserError(
                f"Nothing is named '{word}'; --only takes {names}, a preset ({known}), or a template's path."
            )
    return list({entry.to: entry for entry in chosen}.values())
