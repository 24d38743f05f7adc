"""Maps in files, ours and everyone's; importing it teaches the engine the format ``.fits``."""

from pathlib import Path
from typing import Any

from cmbml.core import handlers


def _read(path: Path) -> Any:
    from cmbml.maps.skymap import read_skymap  # healpy takes a second to import, and a dry run reads no map

    return read_skymap(path)


def _write(path: Path, value: Any) -> None:
    from cmbml.maps.skymap import write_skymap

    write_skymap(path, value)


handlers.register(".fits", _read, _write)
