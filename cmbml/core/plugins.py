"""Packages of others that bring configurations and stages, found by their entry points.

In the ``pyproject.toml`` of such a package::

    [project.entry-points."cmbml.configs"]
    fraction = "cmbml_fraction"

names a package whose folder holds groups: ``cmbml_fraction/method/fraction.yaml``. Its stages are named in the yaml.
"""

import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from cmbml.core.errors import UserError

GROUP = "cmbml.configs"


@dataclass(frozen=True)
class Plugin:
    """A package that an entry point names: distribution and version, name to import, and folder of its groups."""

    name: str
    version: str
    package: str
    folder: Path


def plugins() -> list[Plugin]:
    """Every plug-in that is installed, by name; none of them is imported.

    Raises
    ------
    UserError
        When an entry point names a package that is not there.
    """
    return list(_installed(tuple(sys.path)))


@lru_cache(maxsize=4)
def _installed(places: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Those of the folders of `sys.path`; a search of them takes 10 ms, and each table of an instrument asks for it."""
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    return tuple(_plugin(entry) for entry in entries)


def _plugin(entry: metadata.EntryPoint) -> Plugin:
    name = entry.dist.name if entry.dist else entry.name
    try:
        spec = importlib.util.find_spec(entry.module)
    except Exception:  # whatever a parent package does when it is imported
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise UserError(
            f"The plug-in {name} names the package {entry.module} for its configurations ({GROUP}), which is not there;"
            f" install it again, or remove it with `pip uninstall {name}`."
        )
    return Plugin(name, entry.dist.version if entry.dist else "", entry.module, Path(folders[0]))
