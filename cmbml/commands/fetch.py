"""`cmbml fetch`: the script `get_data/fetch.py` under another name."""

import importlib
import sys
from collections.abc import Sequence

from cmbml.config.places import GET_DATA


def main(argv: Sequence[str]) -> int:
    """What the script does with these words; its exit code."""
    if str(GET_DATA) not in sys.path:
        sys.path.insert(0, str(GET_DATA))  # its modules import each other as scripts do
    sys.argv[0] = "cmbml fetch"  # what its usage begins with
    return int(importlib.import_module("fetch").main(argv))
