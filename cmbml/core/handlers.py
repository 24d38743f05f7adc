"""Reading and writing files: the suffix chooses the format, and every write is atomic.

A package may bring a format of its own with `register`; the networks' ``.pt`` comes from `cmbml.train`.
"""

import csv
import errno
import glob
import io
import json
import os
import platform
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cmbml.core.errors import UserError

NEARLY_NOTHING = 1_000_000  # bytes; a disk with less is full


HOST = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:40] or "host"


def temporary(path: Path) -> Path:
    """Name of this process for a file that is to become `path`, in its folder."""
    return path.with_name(f".tmp-{HOST}-{os.getpid()}-{path.name}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Temporary name in the folder of `path`; renamed to it when the block ends well, removed when it does not."""
    tmp = temporary(path)
    clear_leftovers(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        os.replace(tmp, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        _discard(tmp)


@contextmanager
def written(values: Iterable[tuple[Path, Any]]) -> Iterator[list[Path]]:
    """Write values under temporary names, which become their paths together when the block ends well.

    Until then readers see the old files. Yields the temporary files.

    Raises
    ------
    UserError
        When a disk is full or a folder cannot be written; nothing is left behind.
    """
    pairs: list[tuple[Path, Path]] = []
    try:
        for path, value in values:
            clear_leftovers(path)
            tmp = temporary(path)
            pairs.append((tmp, path))
            _write(tmp, path, value)
        yield [tmp for tmp, _ in pairs]
        for tmp, path in pairs:
            try:
                os.replace(tmp, path)
            except OSError as error:
                raise _unwritable(path, error) from None
    finally:
        for tmp, _ in pairs:
            _discard(tmp)


def _write(tmp: Path, path: Path, value: Any) -> None:
    """Write a value of the format of `path` under a temporary name."""
    writer = _handler(path)[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(tmp, value)
    except OSError as error:
        raise _unwritable(path, error) from None
    except RuntimeError as error:  # torch's word for a disk that is full
        if not _is_full(path.parent):
            raise
        raise _unwritable(path, error) from None


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < NEARLY_NOTHING


def _unwritable(path: Path, error: Exception) -> UserError:
    """What a user is told of a file that cannot be written."""
    folder = next(folder for folder in path.parents if folder.is_dir())
    full = _is_full(folder) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full:
        free = shutil.disk_usage(folder).free
        return UserError(
            f"{path} cannot be written: the disk or the quota is full ({free / 1e6:.3g} MB are free). Make room and"
            " repeat the command; what is finished is kept."
        )
    why = getattr(error, "strerror", None) or error
    return UserError(f"{path} cannot be written: {why}.")


def _discard(tmp: Path) -> None:
    with suppress(OSError):
        tmp.unlink()


def clear_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose writer, a process of this machine, was killed."""
    prefix = f".tmp-{HOST}-"
    for tmp in path.parent.glob(f"{glob.escape(prefix)}*-{glob.escape(path.name)}"):
        if abandoned(tmp):
            _discard(tmp)


def abandoned(tmp: Path) -> bool:
    """Whether a file has a temporary name and its writer, a process of this machine, does not live any more."""
    prefix = f".tmp-{HOST}-"
    pid = tmp.name.removeprefix(prefix).partition("-")[0]
    return tmp.name.startswith(prefix) and pid.isdigit() and not _lives(int(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _read_csv(path: Path) -> list[dict[str, Any]]:
    def value(text: str) -> Any:
        for kind in (int, float):
            with suppress(ValueError):
                return kind(text)
        return text

    with path.open(newline="", encoding="utf-8") as f:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(f)]


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(k for row in rows for k in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


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
    return path.read_text(encoding="utf-8")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _read_zip(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as f:
        return {name: f.read(name).decode("utf-8") for name in f.namelist()}


def _write_zip(path: Path, texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as f:
        for name, text in texts.items():  # of no date, so that the same texts give the same bytes
            f.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


Reader = Callable[[Path], Any]
Writer = Callable[[Path, Any], None]
_HANDLERS: dict[str, tuple[Reader, Writer]] = {
    ".npz": (_read_npz, _write_npz),
    ".npy": (lambda path: np.load(path, mmap_mode="r"), _write_npy),
    ".csv": (_read_csv, _write_csv),
    ".yaml": (
        lambda path: yaml.safe_load(path.read_text(encoding="utf-8")),
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
    ".log": (_read_text, _write_text),
    ".zip": (_read_zip, _write_zip),
}


def register(suffix: str, reader: Reader, writer: Writer) -> None:
    """Add a format: `reader` takes a path, `writer` a path and a value."""
    _HANDLERS[suffix] = (reader, writer)


def suffixes() -> list[str]:
    """The suffixes of the formats."""
    return list(_HANDLERS)


def known(path: Path) -> bool:
    """Whether a file of this name can be read and written."""
    return path.suffix in _HANDLERS


def _handler(path: Path) -> tuple[Reader, Writer]:
    if not known(path):
        raise UserError(f"{path}: no handler for the suffix {path.suffix!r}; known are {', '.join(_HANDLERS)}.")
    return _HANDLERS[path.suffix]


def read(path: Path) -> Any:
    """Value of a file.

    Raises
    ------
    UserError
        When it is missing; when it cannot be read, with what makes it anew.
    """
    reader = _handler(path)[0]
    try:
        return reader(path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except Exception as error:
        maker = _maker(path)
        anew = f"run.force=[{maker}] makes it anew" if maker else "bring it anew"
        raise UserError(f"{path} cannot be read ({type(error).__name__}), it is damaged; {anew}.") from None


def _maker(path: Path) -> str:
    """Name of the stage that has made a file, as the record beside it tells; empty where none does."""
    for record in path.parent.glob(".*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            held = json.loads(record.read_bytes())
            if path.name in held["outputs"]:
                return str(held["stage"])
    return ""


def write(path: Path, value: Any) -> None:
    """Write a value atomically: readers see the old file or the whole new one."""
    with written([(path, value)]):
        pass
