"""Training and prediction of networks on patches of skies; importing it teaches the engine the format ``.pt``."""

from pathlib import Path
from typing import Any

import torch

from cmbml.core import handlers


def _read(path: Path) -> Any:
    """Plain values and tensors, on the CPU; nothing that a file could run is loaded."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _write(path: Path, value: Any) -> None:
    with path.open("wb") as file:  # given a path, torch would write its name into the file
        torch.save(value, file)


handlers.register(".pt", _read, _write)
