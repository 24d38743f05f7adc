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


def shown(path: object, root: object) -> str:
    """A path relative to the root where it lies under it."""
    return str(path).removeprefix(f"{root}/")
