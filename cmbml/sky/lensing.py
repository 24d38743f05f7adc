"""Gaussian draws of the unlensed sky and its lensing potential.

The lensed sky is T(n + grad phi), with kappa = -1/2 laplace phi; the remapping itself is ``sht.lens``.
"""

from collections.abc import Mapping

import numpy as np

from cmbml.sky import sht


def draw_alms(
    cls: Mapping[str, np.ndarray], lmax: int, rngs: Mapping[str, np.random.Generator]
) -> dict[str, np.ndarray]:
    """Draw T, E, B and phi with their full covariance.

    Per l, (phi, T, E) = L (w_phi, w_T, w_E) with L L^T = [[pp, tp, ep], [tp, tt, te], [ep, te, ee]] (Cholesky) and
    independent unit alms w; B = sqrt(bb) w_B is independent by parity. The unit alms are drawn in the order of l
    (a_l0, Re a_l1, Im a_l1, ..., Im a_ll), so that a larger lmax only appends: one seed is one sky, whatever lmax.

    Parameters
    ----------
    cls : mapping of arrays (>= lmax + 1,)
        ``tt ee bb te pp tp ep`` as ``cosmology.spectra`` returns them (unlensed; uK^2, uK, 1).
    lmax : int
    rngs : mapping
        A generator each for ``T``, ``E``, ``B``, ``phi``; phi's alone decides phi.

    Returns
    -------
    dict of complex128 arrays (nalm,)
        ``T E B`` in uK and ``phi``; monopole and dipole are zero.

    Raises
    ------
    ValueError
        If the spectra end below lmax or are no covariance.

    Examples
    --------
    >>> flat = np.ones(17)
    >>> cls = {"tt": flat, "ee": flat, "bb": 0 * flat, "te": 0.5 * flat, "pp": flat, "tp": 0 * flat, "ep": 0 * flat}
    >>> alms = draw_alms(cls, 16, {field: np.random.default_rng(i) for i, field in enumerate(["T", "E", "B", "phi"])})
    >>> sorted(alms), bool(np.any(alms["B"])), alms["T"].shape
    (['B', 'E', 'T', 'phi'], False, (153,))
    """
    short = [name for name, cl in cls.items() if len(cl) <= lmax]
    if short:
        raise ValueError(f"the spectra {', '.join(short)} end below lmax = {lmax}")
    names = (("pp", "tp", "ep"), ("tp", "tt", "te"), ("ep", "te", "ee"))
    covariance = np.array([[cls[name][2 : lmax + 1] for name in row] for row in names])
    root = np.zeros((3, 3, lmax + 1))
    try:
        root[..., 2:] = np.moveaxis(np.linalg.cholesky(np.moveaxis(covariance, -1, 0)), 0, -1)
    except np.linalg.LinAlgError:
        raise ValueError("the spectra of phi, T and E are not positive definite together") from None
    unit = [unit_alm(rngs[field], lmax) for field in ("phi", "T", "E")]
    alms = {}
    for i, field in reversed(list(enumerate(("phi", "T", "E")))):
        alms[field] = sht.almxfl(unit[0], root[i, 0])
        for j in range(1, i + 1):
            alms[field] += sht.almxfl(unit[j], root[i, j])
        del unit[i]
    bb = np.concatenate([np.zeros(2), cls["bb"][2 : lmax + 1]])
    alms["B"] = sht.almxfl(unit_alm(rngs["B"], lmax), np.sqrt(bb))
    return alms


def unit_alm(rng: np.random.Generator, lmax: int) -> np.ndarray:
    """Draw alms of C_l = 1: 2l + 1 normal deviates for each l, l after l.

    Examples
    --------
    A larger band limit only appends:

    >>> small, large = (unit_alm(np.random.default_rng(1), lmax) for lmax in (8, 16))
    >>> np.array_equal(sht.truncate(large, 8), small)
    True
    """
    white = rng.standard_normal((lmax + 1) ** 2)
    alm = np.empty(sht.alm_size(lmax), dtype=np.complex128)
    ell = np.arange(lmax + 1)
    alm[: lmax + 1] = white[ell**2]
    white *= np.sqrt(0.5)
    start = lmax + 1
    for m in range(1, lmax + 1):
        first = ell[m:] ** 2 + 2 * m - 1
        part = alm[start : start + lmax + 1 - m]
        part.real = white[first]
        part.imag = white[first + 1]
        start += lmax + 1 - m
    return alm


def kappa_from_phi(phi: np.ndarray) -> np.ndarray:
    """Return the alms of the convergence, kappa_lm = l(l+1)/2 phi_lm.

    Examples
    --------
    >>> kappa_from_phi(np.ones(6)).tolist()
    [0.0, 1.0, 3.0, 1.0, 3.0, 3.0]
    """
    ell = np.arange(sht.alm_lmax(phi) + 1)
    return sht.almxfl(phi, ell * (ell + 1) / 2)


def phi_from_kappa(kappa: np.ndarray) -> np.ndarray:
    """Return the alms of the lensing potential, phi_lm = 2/(l(l+1)) kappa_lm; phi_00 = 0.

    Examples
    --------
    >>> kappa = np.array([0.0, 2, 3, 5, 7, 11])
    >>> np.allclose(kappa_from_phi(phi_from_kappa(kappa)), kappa)
    True
    """
    ell = np.arange(1, sht.alm_lmax(kappa) + 1)
    return sht.almxfl(kappa, np.concatenate([[0.0], 2 / (ell * (ell + 1))]))
