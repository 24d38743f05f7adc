"""`cmbml fetch`: the script `get_data/fetch.py` under another name."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from cmbml.config.places import GET_DATA


def main(argv: Sequence[str]) -> int:
    """What the script does with these words; its exit code."""
    sys.argv[0] = "cmbml fetch"  # what its usage begins with
    return int(script("fetch").main(argv))


def script(name: str) -> Any:
    """A module of `get_data/`, which import each other as scripts do."""
    if str(GET_DATA) not in sys.path:
        sys.path.insert(0, str(GET_DATA))
    return importlib.import_module(name)
