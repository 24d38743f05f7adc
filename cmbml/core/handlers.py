"""Reading and writing files: the suffix chooses the format, and every write is atomic.

A package may bring a format of its own with `register`; the networks' ``.pt`` comes from `cmbml.train`.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cmbml.core.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Temporary name in the folder of `path`; renamed to it when the block ends well, removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".tmp{os.getpid()}-{path.name}")
    try:
        yield tmp
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def clear_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose writer was killed."""
    for tmp in path.parent.glob(f".tmp*-{path.name}"):
        try:
            os.kill(int(tmp.name[4:].split("-", 1)[0]), 0)
        except ProcessLookupError:
            tmp.unlink(missing_ok=True)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    def value(text: str) -> Any:
        for kind in (int, float):
            with suppress(ValueError):
                return kind(text)
        return text

    with path.open(newline="") as f:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(f)]


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(k for row in rows for k in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as f:
        return dict(f)


def _write_npz(path: Path, value: dict[str, Any]) -> None:
    with path.open("wb") as f:
        np.savez(f, **value)


def _write_npy(path: Path, value: np.ndarray) -> None:
    with path.open("wb") as f:
        np.save(f, value)


def _write_png(path: Path, figure: Any) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})


def _write_pdf(path: Path, figure: Any) -> None:
    figure.savefig(path, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def _read_text(path: Path) -> str:
    return path.read_text()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


Reader = Callable[[Path], Any]
Writer = Callable[[Path, Any], None]
_HANDLERS: dict[str, tuple[Reader, Writer]] = {
    ".npz": (_read_npz, _write_npz),
    ".npy": (lambda path: np.load(path, mmap_mode="r"), _write_npy),
    ".csv": (_read_csv, _write_csv),
    ".yaml": (
        lambda path: yaml.safe_load(path.read_text()),
        lambda path, value: _write_text(path, yaml.safe_dump(value, sort_keys=False)),
    ),
    ".json": (
        lambda path: json.loads(path.read_bytes()),
        lambda path, value: _write_text(path, json.dumps(value, indent=1)),
    ),
    ".png": (Path.read_bytes, _write_png),
    ".pdf": (Path.read_bytes, _write_pdf),
    ".md": (_read_text, _write_text),
    ".tex": (_read_text, _write_text),
    ".html": (_read_text, _write_text),
}


def register(suffix: str, reader: Reader, writer: Writer) -> None:
    """Add a format: `reader` takes a path, `writer` a path and a value."""
    _HANDLERS[suffix] = (reader, writer)


def _handler(path: Path) -> tuple[Reader, Writer]:
    if path.suffix not in _HANDLERS:
        raise UserError(f"{path}: no handler for the suffix {path.suffix!r}; known are {', '.join(_HANDLERS)}.")
    return _HANDLERS[path.suffix]


def read(path: Path) -> Any:
    """Value of a file. A `UserError` names a file that is missing."""
    try:
        return _handler(path)[0](path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None


def write(path: Path, value: Any) -> None:
    """Write a value atomically: readers see the old file or the whole new one."""
    clear_leftovers(path)
    writer = _handler(path)[1]
    with atomic(path) as tmp:
        writer(tmp, value)
