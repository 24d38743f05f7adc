"""One lock for each item in the making, so that two runs share the work; a process that dies gives its locks back."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cmbml.core.handlers import HOST

logger = logging.getLogger(__name__)

_SILENT_S = 5.0  # of waiting, before a word


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a file within the block; wait for the process that holds it.

    It is the system's own lock of a hidden file beside it, which ends with the process that holds it, on a shared file
    system too; the file itself is removed.
    """
    place = path.with_name(f"{path.name}.lock")
    new = [folder for folder in place.parents if not folder.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place)
    _acquire(lock, place, what)
    try:
        with suppress(OSError):
            place.write_text(f"process {os.getpid()} on {HOST}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            place.unlink()
        lock.release()
        for folder in new:
            with suppress(OSError):  # something was made in it
                folder.rmdir()


def _acquire(lock: FileLock, place: Path, what: str) -> None:
    start = time.monotonic()
    told = False
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            if not told and time.monotonic() - start > _SILENT_S:
                holder = ""
                with suppress(OSError):
                    holder = place.read_text(encoding="utf-8")
                logger.warning("waiting for another run, which is making %s (%s)", what, holder or place)
                told = True
