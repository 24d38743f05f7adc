"""Where the files lie that are no code: beside the package in a checkout, inside it where it was installed."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def folder(name: str, package: Path = PACKAGE) -> Path:
    """Folder ``cfg``, ``assets`` or ``get_data``: what a wheel brought, or else that of the tree around the package."""
    carried = package / "_data" / name
    return carried if carried.is_dir() else package.parent / name


CFG = folder("cfg")
ASSETS = folder("assets")
GET_DATA = folder("get_data")
