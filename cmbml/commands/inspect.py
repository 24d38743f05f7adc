"""`cmbml inspect FILE...`: what a file is, and what the readers of cmbml would refuse in it.

Nothing that a file could run is run: arrays and models are read without Python objects.
"""

import argparse
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cmbml.config.options import spoken
from cmbml.core import handlers, log
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.core.provenance import Sidecar, damage

Lines = Iterator[str]


def main(argv: Sequence[str]) -> int:
    """Tell of each file; the exit code is 1 when one of them cannot be told."""
    parser = argparse.ArgumentParser(prog="cmbml inspect", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .fits, .npz, .npy or .pt file")
    parser.add_argument("--png", action="store_true", help="also draw it, as NAME.png in this folder")
    options = parser.parse_args(argv)
    untold = 0
    for path in options.files:
        sys.stdout.write(f"{path}\n")
        try:
            for line in told(path):
                sys.stdout.write(f"  {spoken(line)}\n")
            if options.png:
                sys.stdout.write(f"  picture      {_picture(path)}\n")
        except UserError as error:
            untold += 1
            sys.stdout.write(f"  cannot be told: {spoken(str(error))}\n")
    return 1 if untold else 0


def told(path: Path) -> Lines:
    """Lines about a file.

    Raises
    ------
    UserError
        When it is missing, broken, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing or no file.")
    tellers = {".fits": _fits, ".fit": _fits, ".gz": _fits, ".npz": _arrays, ".npy": _arrays, ".pt": _model}
    if path.suffix not in tellers:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'}; {', '.join(tellers)} can be told.")
    yield f"file         {log.size(path.stat().st_size)}"
    yield from _record(path)
    yield from tellers[path.suffix](path)


def _picture(path: Path) -> str:
    from cmbml.commands.pictures import draw

    target = Path(f"{path.stem}.png")
    figure = draw(path)
    if figure is None:
        return "none: there is nothing in it to draw"
    handlers.write(target, figure)
    return str(target)


def _record(path: Path) -> Lines:
    """Which stage has made a file, and whether it is still what was written."""
    for place in sorted(path.parent.glob(".*.json")):
        record = Sidecar.read(place)
        if record is None or path.name not in record.outputs:
            continue
        commit = str(record.git.get("commit") or "no commit")[:10]
        changed = damage([File(path)], record.outputs, thorough=True)
        yield f"made by      stage {record.stage} in {record.seconds:g} s on {record.host}, {commit}"
        yield f"contents     {f'{changed}; run.force=[{record.stage}] makes it anew' if changed else 'as recorded'}"


def _fits(path: Path) -> Lines:
    from cmbml.maps.describe import describe
    from cmbml.sims.external import UNITS

    found = describe(path, UNITS)
    for name, said in found.facts.items():
        if said:
            yield f"{name:<12} {said}"
    for c in found.columns:
        yield (
            f"{c.name:<12} {c.unit}; {c.listed} pixels, {c.bad} without a value; min {c.least:.4g}, mean {c.mean:.4g},"
            f" max {c.most:.4g}, std {c.std:.4g}"
        )
    for reading in found.readings:
        verdict = "refused as" if reading.refused else "taken as"
        yield f"{verdict:<12} {reading.reader}: {reading.refused or reading.how}"


def _arrays(path: Path) -> Lines:
    """Names, kinds and numbers of arrays."""
    try:
        held = handlers.read(path)
    except UserError as error:
        if isinstance(error.__context__, ValueError) and "allow_pickle" in str(error.__context__):
            why = "it holds Python objects, which could run something and are not loaded; save arrays of numbers alone"
            raise UserError(f"{path}: {why}.") from None
        raise
    for name, array in (held if isinstance(held, Mapping) else {path.stem: held}).items():
        yield f"{name:<12} {_kind(array)}, {array.dtype}{_numbers(array)}"
    yield "taken as     values of an asset of a stage"


def _kind(array: np.ndarray) -> str:
    """What an array may be, by its shape."""
    from cmbml.sky.alms import alm_lmax

    if array.dtype.kind == "c":
        with suppress(ValueError):
            return f"alm {array.shape}, lmax {alm_lmax(array)}"
    if array.ndim == 1 and array.dtype.kind == "f":
        return f"spectrum or list, l = 0..{len(array) - 1}"
    return f"array {array.shape}"


def _numbers(array: np.ndarray) -> str:
    """Extremes and scatter of an array of numbers; how many of them are none."""
    if array.dtype.kind not in "fciu" or array.size == 0:
        return ""
    values = np.abs(array) if array.dtype.kind == "c" else array
    good = values[np.isfinite(values)]
    bad = f"; {values.size - good.size} are not finite" if good.size < values.size else ""
    if not good.size:
        return bad
    size = "of |x| " if array.dtype.kind == "c" else ""
    return f"; {size}min {good.min():.4g}, mean {good.mean():.4g}, max {good.max():.4g}, std {good.std():.4g}{bad}"


def _model(path: Path) -> Lines:
    """Network, weights and settings of a trained model, or the state of a training."""
    import cmbml.train  # noqa: F401  teaches the engine the format

    try:
        held = handlers.read(path)
    except UserError as error:
        if isinstance(error.__context__, pickle.UnpicklingError):
            why = "it holds more than tensors and plain values, which could run something and is not loaded"
            raise UserError(f"{path}: {why}; give the model.pt of a training of cmbml.") from None
        raise
    if isinstance(held, Mapping) and "optimizer" in held:
        yield f"kind         checkpoint of an interrupted training, after epoch {held.get('epoch')}"
        yield "refused as   a model: give the model.pt of a finished training; the same command goes on with this one"
        return
    yield from _settings(held)
    refused = _refused(held, path.name)
    how = f"method.trained={path}, with the network, nside and inputs above"
    yield f"{'refused as' if refused else 'taken as':<12} a model: {refused or how}"


def _settings(held: Any) -> Lines:
    settings = held.get("settings") if isinstance(held, Mapping) else None
    if not isinstance(settings, Mapping):
        return
    weights = held.get("state_dict")
    if isinstance(weights, Mapping):
        count = sum(w.numel() for w in weights.values() if hasattr(w, "numel"))
        yield f"kind         model with {count} weights in {len(weights)} tensors, best of epoch {held.get('epoch')}"
    for key in ("nside", "lmax", "delens", "seen", "network", "patches", "rotation", "train"):
        if key in settings:
            yield f"{key:<12} {_plain(settings[key])}"
    for key in ("shown", "found", "fwhm_arcmin"):
        if key in held:
            yield f"{key:<12} {held[key]}"
    yield f"rms          inputs {held.get('input_rms')}, target {held.get('target_rms')}"


def _plain(value: Any) -> str:
    """Nested settings in one line: ``patch=32 halo=8``."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_plain(v) if not isinstance(v, Mapping) else {**v}}" for key, v in value.items())
    return str(value)


def _refused(held: Any, name: str) -> str:
    """The sentence with which a run would refuse a model; its weights are compared without being copied."""
    from cmbml.train.foreign import check_model
    from cmbml.train.network import demand_weights

    try:
        demand_weights(check_model(held, name, network="the one chosen there"))
    except UserError as error:
        return str(error).rstrip(".")
    return ""
