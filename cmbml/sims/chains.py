"""Cosmologies from a Markov chain, as LAMBDA publishes those of WMAP."""

import numbers
import tarfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from cmbml.core.errors import UserError, demand_value
from cmbml.core.provenance import telling

_PIVOT = 0.05  # 1/Mpc, of every amplitude in cmbml.sky.cosmology
_KEYS = {"path", "names", "scale", "pivot", "burn_in"}


class MissingChain(UserError):
    """A chain that is not on this disk."""


def with_chain(spec: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the description of a cosmology with the chain that it names in place of its name.

    What comes back goes to ``cmbml.sky.cosmology.draw_parameters``. A chain is read once in a process.

    Parameters
    ----------
    spec : mapping
        ``chain``, when there is one: ``path``, a folder (read from the file of that name and .tar.gz when there is no
        folder) or a tar file, relative to ``root``; ``names``: parameter -> name of its file in there, which holds rows
        of ``index value``; and, if wanted, ``scale``: parameter -> factor; ``pivot``: wave number in 1/Mpc at which the
        chain gives the amplitude, else 0.05; ``burn_in``: number of rows to leave out. Each row counts alike.
    root : Path
        The folder of the data, `system.root`.

    Returns
    -------
    dict
        ``spec``, its ``chain`` a dict of float64 arrays (nrow,), one a parameter. Amplitudes are at 0.05 / Mpc: A_s is
        multiplied by (0.05 / pivot)^(n_s - 1).

    Raises
    ------
    UserError
        When a file is no chain, or the files do not fit together; a MissingChain when there is none.
    """
    chain = {key: value for key, value in (spec.get("chain") or {}).items() if value is not None}
    if not chain:
        return dict(spec)
    if not {"path", "names"} <= set(chain) <= _KEYS:
        raise UserError(
            f"cosmology.chain wants path and names, and knows no other key than {', '.join(sorted(_KEYS))}."
        )
    for key, kind, wish in (("path", str, "a text"), ("names", dict, "a mapping"), ("scale", dict, "a mapping")):
        demand_value(isinstance(chain.get(key, kind()), kind), f"cosmology.chain.{key}", chain.get(key), wish)
    for key, least in (("pivot", 1e-9), ("burn_in", 0), *((f"scale.{name}", 0) for name in chain.get("scale", {}))):
        value = chain["scale"][key[6:]] if key.startswith("scale.") else chain.get(key, 1)
        good = isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value) >= least
        demand_value(good, f"cosmology.chain.{key}", value, f"a number of at least {least:g}")
    path = _path(chain, root)
    names, scale = (tuple(chain.get(key, {}).items()) for key in ("names", "scale"))
    state = tuple(map(telling, files(spec, root)))
    columns = _columns(path, state, names, scale, float(chain.get("pivot", _PIVOT)), int(chain.get("burn_in", 0)))
    return {**spec, "chain": columns}


def files(spec: Mapping[str, Any], root: Path) -> list[Path]:
    """Files of the chain that a description of a cosmology names: those of its parameters, or the packed one."""
    chain = spec.get("chain") or {}
    if not isinstance(chain.get("path"), str) or not isinstance(chain.get("names"), Mapping):
        return []
    path = _path(chain, root)
    return [path / name for name in chain["names"].values()] if path.is_dir() else [_packed(path)]


def _path(chain: Mapping[str, Any], root: Path) -> Path:
    return Path(root) / Path(chain["path"]).expanduser()


def _packed(path: Path) -> Path:
    """The tar file of a chain: the path itself, or its name with .tar.gz."""
    return path if path.suffix in (".gz", ".tar", ".tgz") else path.with_name(f"{path.name}.tar.gz")


@lru_cache(maxsize=4)
def _columns(
    path: Path,
    state: tuple[str, ...],
    names: tuple[tuple[str, str], ...],
    scale: tuple[tuple[str, float], ...],
    pivot: float,
    burn_in: int,
) -> dict[str, np.ndarray]:
    """Read the parameters of a chain whose files are in a state, in the units and at the pivot of this package."""
    table = _read(path, tuple(name for _, name in names))
    factors = dict(scale)
    nrow = len(next(iter(table.values())))
    if not 0 <= burn_in < nrow:
        raise UserError(f"cosmology.chain.burn_in={burn_in} leaves none of the {nrow} rows of {path}; lower it.")
    columns = {parameter: table[name][burn_in:] * float(factors.get(parameter, 1)) for parameter, name in names}
    if pivot != _PIVOT and {"As", "ln10As"} & set(columns):
        if "ns" not in columns:
            raise UserError(
                f"cosmology.chain.pivot={pivot:g} is not {_PIVOT} / Mpc; cosmology.chain.names wants ns, too."
            )
        growth = np.log(_PIVOT / pivot) * (columns["ns"] - 1)
        if "As" in columns:
            columns["As"] *= np.exp(growth)
        if "ln10As" in columns:
            columns["ln10As"] += growth
    return columns


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the named files of a chain: float64 arrays (nrow,)."""
    packed = _packed(path)
    if path.is_dir():
        tables = {name: _table(path / name, path / name) for name in names if (path / name).is_file()}
    elif packed.is_file():
        tables = _unpack(packed, names)
    else:
        raise MissingChain(
            f"The chain cosmology.chain.path={path} is missing;"
            " fetch it with `python get_data/fetch.py assets --only wmap9_chains`."
        )
    lacking = [name for name in names if name not in tables]
    if lacking:
        raise UserError(f"The chain {path} has no file {', '.join(lacking)}, which cosmology.chain.names asks for.")
    first, *others = tables.values()
    if any(len(first) != len(other) or (first[:, 0] != other[:, 0]).any() for other in others):
        raise UserError(f"The files {', '.join(names)} of the chain {path} do not have the same rows; fetch it anew.")
    return {name: table[:, 1].copy() for name, table in tables.items()}


def _unpack(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Tables of the named members of a tar file, wherever they lie in it, in one pass over it."""
    tables = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if name in names and member.isfile() else None
                if file is not None:
                    tables[name] = _table(file, path / name)
                if len(tables) == len(set(names)):
                    break
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"The chain {path} cannot be unpacked ({error}); fetch it anew.") from None
    return tables


def _table(source: Path | IO[bytes], path: Path) -> np.ndarray:
    """Columns ``index value`` of one parameter, float64 (nrow, 2)."""
    try:
        table = np.loadtxt(source, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} is not a table of numbers ({error}); fetch the chain anew.") from None
    if table.shape[1] != 2 or not len(table) or not np.isfinite(table).all():
        raise UserError(f"{path} is not a chain: rows of an index and a finite number are expected.")
    return table
