"""Bandpowers of B as files that likelihood codes read: the CMBlikes format of CosmoMC and Cobaya, plain text.

It is the form in which BICEP/Keck publish theirs. A set NAME is

    NAME.dataset              what is what; Cobaya: `cmbml_b: {class: CMBlikes, dataset_file: NAME.dataset}`
    NAME_cl_hat.dat           bandpowers, with the noise in them
    NAME_noise.dat            what is added to the bandpowers of a theory
    NAME_fiducial.dat         bandpowers of the model that the covariance is of
    NAME_covariance.dat       of the bandpowers, about that model
    NAME_windows/window_1.dat ...      window functions, from l = 2
    NAME_shapes.dat           bandpowers of what may have a free amplitude; for codes that have such a parameter

Their quantities are D = l (l + 1) / 2 pi C in uK^2: a bandpower C_b of this package is multiplied with the number
l_b (l_b + 1) / 2 pi of its bin, and its window functions accordingly.

A theory's BB is that of tensors *and of all of the lensing*. Of a delensed map a part A_res of the lensing is left, and
the noise file makes up for the difference: it is R + N less the bandpowers of the theory's lensing, possibly negative.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmbml.core.handlers import atomic
from cmbml.sky.likelihood import Likelihood

_MAP = "B"


def cmblikes(
    name: str,
    bandpowers: np.ndarray,
    likelihood: Likelihood,
    windows: np.ndarray,
    *,
    fiducial: np.ndarray,
    lensing: np.ndarray | None = None,
    shapes: Mapping[str, np.ndarray] | None = None,
) -> dict[str, str]:
    """Return the text of every file of a set, by its name.

    Parameters
    ----------
    name : str
        Of the set.
    bandpowers : array (nbin,)
        C_b of one map, uK^2.
    likelihood : Likelihood
        Of one map: its fixed part (R + N), modes and correlation.
    windows : array (nbin, lmax + 1)
        <C_b> = windows @ C_l; from ``pseudo.decoupling``.
    fiducial : array (nbin,)
        C_b of the whole model about which the bandpowers scatter.
    lensing : array (lmax + 1,), optional
        C_l of the lensing BB that the theory will have, undelensed; by default none is taken off.
    shapes : mapping, optional
        Further bandpowers (nbin,), by name: foregrounds, residual lensing.
    """
    lmax = windows.shape[-1] - 1
    ell = np.arange(2, lmax + 1)
    scale = ell * (ell + 1) / (2 * np.pi)
    centre = (windows[:, 2:] @ ell) / windows[:, 2:].sum(axis=1)
    factor = centre * (centre + 1) / (2 * np.pi)
    noise = likelihood.fixed - (0.0 if lensing is None else windows @ lensing[: lmax + 1])
    deviation = np.sqrt(2 / likelihood.modes) * fiducial * factor
    correlation = np.eye(len(factor)) if likelihood.correlation is None else likelihood.correlation
    files = {
        f"{name}_cl_hat.dat": _columns({f"{_MAP}x{_MAP}": factor * bandpowers}),
        f"{name}_noise.dat": _columns({f"{_MAP}x{_MAP}": factor * noise}),
        f"{name}_fiducial.dat": _columns({f"{_MAP}x{_MAP}": factor * fiducial}),
        f"{name}_covariance.dat": _lines(correlation * np.outer(deviation, deviation)),
    }
    if shapes:
        files[f"{name}_shapes.dat"] = _columns({key: factor * value for key, value in shapes.items()})
    for i, window in enumerate(factor[:, None] * windows[:, 2:] / scale, start=1):
        files[f"{name}_windows/window_{i}.dat"] = "".join(f"{x} {y:.10e}\n" for x, y in zip(ell, window, strict=True))
    files[f"{name}.dataset"] = _dataset(name, len(factor), lmax)
    return files


def _dataset(name: str, bins: int, lmax: int) -> str:
    settings = {
        "like_approx": "HL",
        "map_names": _MAP,
        "map_fields": "B",
        "maps_use": _MAP,
        "binned": "T",
        "nbins": bins,
        "use_min": 1,
        "use_max": bins,
        "cl_lmin": 2,
        "cl_lmax": lmax,
        "cl_hat_file": f"{name}_cl_hat.dat",
        "cl_hat_includes_noise": "T",
        "cl_noise_file": f"{name}_noise.dat",
        "cl_fiducial_file": f"{name}_fiducial.dat",
        "cl_fiducial_includes_noise": "T",
        "covmat_fiducial": f"{name}_covariance.dat",
        "covmat_cl": f"{_MAP}x{_MAP}",
        "bin_window_files": f"{name}_windows/window_%u.dat",
        "bin_window_in_order": f"{_MAP}x{_MAP}",
    }
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def _columns(columns: Mapping[str, np.ndarray]) -> str:
    """A table whose first column is the number of the bin, and whose head names the others."""
    rows = _lines(np.transpose(list(columns.values()))).splitlines()
    return "".join([f"# bin {' '.join(columns)}\n", *(f"{i} {row}\n" for i, row in enumerate(rows, start=1))])


def _lines(values: np.ndarray) -> str:
    return "".join(" ".join(f"{value:.10e}" for value in row) + "\n" for row in values)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write a set into a folder."""
    for name, text in files.items():
        with atomic(folder / name) as path:
            path.write_text(text)
