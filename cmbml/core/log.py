"""What users read: tables in the log."""

import logging
from collections.abc import Sequence

log = logging.getLogger("cmbml")
logging.getLogger("healpy").setLevel(logging.WARNING)  # it tells the header of every file that it reads


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Log a table with aligned columns; the last column is free text."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    log.info("%s\n%s", title, "\n".join("  " + line for line in lines))


def size(n: float) -> str:
    """A number of bytes for reading: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def duration(seconds: float) -> str:
    """A time for reading: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, length, most in (("s", 1.0, 99.5), ("min", 60.0, 99.5), ("h", 3600.0, 48.0)):
        number = seconds / length
        if number < most:
            return f"{number:.1f} {unit}" if number < 9.95 and unit != "s" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def shown(path: object, root: object) -> str:
    """A path relative to the root where it lies under it."""
    return str(path).removeprefix(f"{root}/")
