"""Cosmological parameters, drawn from a description, and the spectra that CAMB computes for them.

The names of the parameters, everywhere: ``H0`` (km/s/Mpc) or ``theta_MC_100`` (100 theta_MC, of which CAMB solves for
H0), ``ombh2``, ``omch2``, ``mnu`` (the sum of the neutrino masses in eV, not a density), ``omk``, ``tau``, ``As`` or
``ln10As`` (ln 10^10 A_s), ``ns``, ``r`` and ``nt`` (by default that of r by the inflationary consistency relation).
Both amplitudes are given at k = 0.05 / Mpc.
"""

import itertools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import camb

_REQUIRED = ("ombh2", "omch2", "tau", "ns")
_EITHER = (("H0", "theta_MC_100"), ("As", "ln10As"))
_DEFAULTS = {"mnu": 0.06, "omk": 0.0, "r": 0.0}
# Beyond these CAMB aborts the process, ignores the value, or has not been tried; they are far beyond what is measured.
RANGES = {
    "H0": (30.0, 150.0),
    "theta_MC_100": (0.5, 2.0),
    "ombh2": (0.005, 0.1),
    "omch2": (0.01, 1.0),
    "mnu": (0.0, 3.0),
    "omk": (-0.3, 0.3),
    "tau": (0.01, 0.5),
    "As": (1e-10, 1e-8),
    "ln10As": (1.0, 5.0),
    "ns": (0.5, 1.5),
    "r": (0.0, 3.0),
    "nt": (-2.0, 2.0),
}
_GAUSSIAN = {"names", "mean", "sigma", "correlation"}

# CAMB runs to one and the same l whatever lmax is asked for (up to 4100), so that lmax changes no bit of a spectrum.
# The tensors end where their B is below 3e-5 of the lensing B.
_LMAX_CAMB = 4300
_MARGIN = 200
_LMAX_TENSOR = 1500
_DIGITS_LENSED = 6


def draw_parameters(spec: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float]:
    """Draw one set of parameters.

    Parameters
    ----------
    spec : mapping
        ``base``: fixed parameters; ``grid``: name -> list of values, of whose product one point is drawn, each as
        likely; ``gaussian``: ``names``, ``mean``, ``sigma`` and ``correlation`` (``{"ombh2 omch2": -0.5, ...}``, zero
        for pairs not named) of a multivariate normal distribution; ``chain``: name -> values (nrow,), of which one row
        is drawn, each as likely. Each may be empty or missing.
    rng : numpy.random.Generator

    Returns
    -------
    dict of float

    Raises
    ------
    ValueError
        If a name is unknown, missing or given twice, the covariance is not positive definite, or the columns of the
        chain differ in length; if a value is no number or beyond ``RANGES``, with its key: ``cosmology.base.As=-1``.

    Examples
    --------
    >>> base = {"H0": 67.4, "ombh2": 0.0224, "omch2": 0.12, "tau": 0.054, "ns": 0.965, "As": 2.1e-9}
    >>> params = draw_parameters({"base": base, "grid": {"r": [0.0, 0.01]}}, np.random.default_rng(1))
    >>> params["H0"], params["r"] in (0.0, 0.01)
    (67.4, True)
    """
    base, grid, gaussian, chain = (
        _mapping(f"cosmology.{key}", spec.get(key)) for key in ("base", "grid", "gaussian", "chain")
    )
    for name, values in grid.items():
        _demand_list(f"cosmology.grid.{name}", values)
        for value in values:
            _demand(f"cosmology.grid.{name}", name, value)
    demand_in_range(base, "cosmology.base")
    if gaussian:
        _check_gaussian(gaussian)
    names = [*base, *grid, *gaussian.get("names", []), *chain]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(
            f"the cosmology gives {', '.join(sorted(repeated))} more than once among base, grid, gaussian and chain"
        )
    params = {name: float(value) for name, value in base.items()}
    if grid:
        points = list(itertools.product(*grid.values()))
        params |= zip(grid, map(float, points[rng.integers(len(points))]), strict=True)
    if gaussian:
        mean = np.asarray(gaussian["mean"], dtype=float)
        root = np.linalg.cholesky(_covariance(gaussian))
        values = mean + root @ rng.standard_normal(len(mean))
        drawn = dict(zip(gaussian["names"], values.tolist(), strict=True))
        demand_in_range(drawn, "cosmology.gaussian")
        params |= drawn
    if chain:
        lengths = {len(column) for column in chain.values()}
        if len(lengths) > 1:
            raise ValueError("the columns of the cosmology's chain differ in length")
        row = rng.integers(lengths.pop())
        drawn = {name: float(column[row]) for name, column in chain.items()}
        demand_in_range(drawn, "cosmology.chain")
        params |= drawn
    _complete(params)
    return params


def demand_known(names: Iterable[str], key: str = "") -> None:
    """Refuse names that are of no parameter, and say below which ``key`` they stand.

    Raises
    ------
    ValueError
        ``unknown cosmological parameter h; known: ...``, after ``key`` if there is one.

    Examples
    --------
    >>> demand_known(["H0", "r"])
    """
    unknown = sorted(set(map(str, names)) - set(RANGES))
    if unknown:
        where = f"{key}: " if key else ""
        raise ValueError(
            f"{where}unknown cosmological parameter {', '.join(unknown)}; known: {', '.join(sorted(RANGES))}"
        )


def demand_in_range(params: Mapping[str, Any], key: str = "") -> None:
    """Refuse parameters that are no numbers or beyond ``RANGES``, and name them below ``key``.

    Raises
    ------
    ValueError
        For the first of them: ``cosmology.base.As=-1 must be a number between 1e-10 and 1e-08``.

    Examples
    --------
    >>> demand_in_range({"r": -0.1}, "cosmology.base")
    Traceback (most recent call last):
    ValueError: cosmology.base.r=-0.1 must be a number between 0 and 3
    """
    for name, value in params.items():
        _demand(f"{key}.{name}".lstrip("."), name, value)


def _demand(key: str, name: str, value: object) -> None:
    low, high = RANGES.get(name, (-math.inf, math.inf))
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{key}={value} must be a number{f' between {low:g} and {high:g}' if name in RANGES else ''}")


def _mapping(key: str, value: object) -> Mapping[str, Any]:
    """Return a part of a description; an empty mapping for none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value} must be a mapping")
    return value


def _demand_list(key: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) == 0:
        raise ValueError(f"{key}={value} must be a list of at least one")


def _check_gaussian(gaussian: Mapping[str, Any]) -> None:
    """Refuse a ``gaussian`` description whose parts are not of their kinds."""
    if not {"names", "mean", "sigma"} <= set(gaussian) <= _GAUSSIAN:
        raise ValueError(
            f"cosmology.gaussian has the keys {', '.join(gaussian)}; it wants names, mean, sigma and correlation"
        )
    for key in ("names", "mean", "sigma"):
        _demand_list(f"cosmology.gaussian.{key}", gaussian[key])
    if not len(gaussian["names"]) == len(gaussian["mean"]) == len(gaussian["sigma"]):
        raise ValueError("a gaussian cosmology wants as many means and sigmas as names")
    for name, mean in zip(gaussian["names"], gaussian["mean"], strict=True):
        _demand("cosmology.gaussian.mean", str(name), mean)
    for sigma in gaussian["sigma"]:
        _demand("cosmology.gaussian.sigma", "", sigma)
    for pair, value in _mapping("cosmology.gaussian.correlation", gaussian.get("correlation")).items():
        _demand(f"cosmology.gaussian.correlation.{pair}", "", value)


def _covariance(gaussian: Mapping[str, Any]) -> np.ndarray:
    """Return the covariance of a ``gaussian`` description, sigma_i sigma_j rho_ij; refuse what is none."""
    names = list(gaussian["names"])
    sigma = np.asarray(gaussian["sigma"], dtype=float)
    rho = np.eye(len(names))
    for pair, value in (gaussian.get("correlation") or {}).items():
        one, _, two = pair.partition(" ")
        if one not in names or two not in names or one == two:
            raise ValueError(f"the correlation '{pair}' does not name two of the drawn parameters {', '.join(names)}")
        i = names.index(one)
        j = names.index(two)
        if rho[i, j] != 0:
            raise ValueError(f"the correlation of {one} and {two} is given twice")
        rho[i, j] = rho[j, i] = float(value)
    if np.linalg.eigvalsh(rho).min() <= 0 or sigma.min() <= 0:
        raise ValueError(f"the covariance of {', '.join(names)} is not positive definite")
    return rho * np.outer(sigma, sigma)


def _complete(params: Mapping[str, float]) -> dict[str, float]:
    """Fill in the defaults; refuse unknown, missing and doubly given parameters."""
    demand_known(params)
    missing = [name for name in _REQUIRED if name not in params]
    if missing:
        raise ValueError(f"the cosmology lacks {', '.join(missing)}")
    for one, two in _EITHER:
        if (one in params) == (two in params):
            raise ValueError(f"the cosmology wants either {one} or {two}")
    return _DEFAULTS | dict(params)


def _camb_parameters(params: Mapping[str, float]) -> "camb.CAMBparams":
    """Translate the parameters for CAMB, solving for H0 if theta_MC is given."""
    import camb  # here, not above: a run that computes no spectra answers sooner

    given = _complete(params)
    pars = camb.CAMBparams()
    scale = {"H0": given["H0"]} if "H0" in given else {"cosmomc_theta": given["theta_MC_100"] / 100}
    pars.set_cosmology(**scale, **{name: given[name] for name in ("ombh2", "omch2", "mnu", "omk", "tau")})
    amplitude = given["As"] if "As" in given else 1e-10 * math.exp(given["ln10As"])
    pars.InitPower.set_params(As=amplitude, ns=given["ns"], r=given["r"], nt=given.get("nt"))
    pars.WantTensors = given["r"] > 0
    return pars


def spectra(params: Mapping[str, float], lmax: int) -> dict[str, np.ndarray]:
    """Compute the CMB spectra of a cosmology with CAMB (Lewis, Challinor & Lasenby 2000, ApJ 538 473).

    ``lens_potential_accuracy=3`` and the non-linear matter power leave the lensed BB right to 0.3 % up to l = 2500.
    The number of threads (OMP_NUM_THREADS) does not change the result: CAMB's sums for the lensed spectra feel it in
    the 15th digit, and are rounded to 6 digits for that reason.

    Parameters
    ----------
    params : mapping
        As ``draw_parameters`` returns them.
    lmax : int

    Returns
    -------
    dict of float64 arrays (lmax + 1,), C_l from l = 0
        ``tt ee bb te``: unlensed, scalar + tensor, uK^2; ``pp``: of the lensing potential phi, dimensionless;
        ``tp ep``: T-phi and E-phi, uK; ``lensed_tt`` ... ``lensed_te``: CAMB's lensed scalars + unlensed tensors, uK^2,
        for comparisons only. Monopole and dipole are zero.

    Raises
    ------
    ValueError
        If a parameter is unknown, missing or beyond ``RANGES``, or CAMB finds no solution.

    Examples
    --------
    >>> spectra({"H0": 67.4, "ombh2": 0.0224, "omch2": 0.12, "tau": 0.054, "ns": 0.965}, 1000)
    Traceback (most recent call last):
    ValueError: the cosmology wants either As or ln10As
    """
    given = _complete(params)
    demand_in_range(given)
    try:
        table = _spectra(tuple(sorted(given.items())), max(_LMAX_CAMB, lmax + _MARGIN))
    except Exception as error:
        values = ", ".join(f"{name}={value:g}" for name, value in given.items())
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"CAMB computes no spectra of {values} ({reason})") from error
    cls = {name: cl[: lmax + 1].copy() for name, cl in table.items()}
    for cl in cls.values():
        cl[:2] = 0
    return cls


@lru_cache(maxsize=32)
def _spectra(params: tuple[tuple[str, float], ...], top: int) -> dict[str, np.ndarray]:
    """Run CAMB; skies of one cosmology share a run."""
    import camb

    pars = _camb_parameters(dict(params))
    pars.set_for_lmax(top, lens_potential_accuracy=3)
    pars.max_l_tensor = _LMAX_TENSOR
    pars.max_eta_k_tensor = 3.0 * _LMAX_TENSOR
    results = camb.get_results(pars)
    unit = {"CMB_unit": "muK", "raw_cl": True}
    columns = {
        ("tt", "ee", "bb", "te"): results.get_unlensed_total_cls(top, **unit),
        ("pp", "tp", "ep"): results.get_lens_potential_cls(top, **unit),
        ("lensed_tt", "lensed_ee", "lensed_bb", "lensed_te"): _rounded(results.get_total_cls(top, **unit)),
    }
    return {name: table[:, i] for names, table in columns.items() for i, name in enumerate(names)}


def _rounded(x: np.ndarray) -> np.ndarray:
    """Round to ``_DIGITS_LENSED`` significant digits."""
    size = np.abs(x)
    power = np.floor(np.log10(np.where(size > 0, size, 1.0)))
    unit = 10.0 ** (power - (_DIGITS_LENSED - 1))
    return np.rint(x / unit) * unit
