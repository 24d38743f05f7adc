"""The linear maximum a posteriori (MAP) estimate of the lensing potential, from B alone, given E.

To first order B = M phi + n, where M lenses the observed, Wiener-filtered E (`cmbml.sky.quadratic.FirstOrder`) and n is
all of B that M does not make: noise, tensors, and the lensing B of E and phi beyond the band limit. For Gaussian phi
and n the mean, and the maximum, of the posterior of phi is the solution of

    (M^T N^-1 M + 1 / C^phiphi) phi = M^T N^-1 d_B

(a ridge regression; Hirata & Seljak 2003, PRD 68 083002, have the full likelihood). It is found by conjugate gradients,
of which one iteration is M and M^T, four spin transforms. The quadratic estimator is its first step: the right-hand
side, over its mean response. There is no deflection, no mean field, and nothing is drawn or trained.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cmbml.sky import sht
from cmbml.sky.lensing import unit_alm
from cmbml.sky.lensing_theory import Coupling
from cmbml.sky.quadratic import FirstOrder

GRID = 1.25  # band limit of the grid over lmax; 1.5 would be exact and gains 9e-4 of A_res


class Weights(NamedTuple):
    """What the solution needs beside the data: float64 arrays (lmax + 1,).

    Attributes
    ----------
    inverse_b : array
        1 / N_l of B, 1/uK^2; 0 below the first multipole that may enter.
    inverse_pp : array
        1 / C_L of the potential; 0 below L = 2.
    preconditioner : array
        About the inverse of the left-hand side: 1 / (R_L + 1 / C_L), with R the response of the EB estimator.

    Examples
    --------
    >>> Weights(np.ones(3), np.array([0, 0, 4.0]), np.array([0, 0, 0.2])).inverse_pp[2]
    np.float64(4.0)
    """

    inverse_b: np.ndarray
    inverse_pp: np.ndarray
    preconditioner: np.ndarray


def weights(cls: Mapping[str, np.ndarray], noise: np.ndarray, wiener_e: np.ndarray, *, lmin_b: int) -> Weights:
    """Return the weights of ``solve`` for spectra and noise that depend on l alone.

    N_l of B is the noise, the tensors, and the part of the lensing B that E and phi up to lmax do not make to first
    order, ``lensed_bb - bb - Coupling.lensing_bb(lensed_ee, pp)``: without it the amplitude is too high near lmax.

    Parameters
    ----------
    cls : mapping of arrays (>= lmax + 1,)
        ``lensed_ee lensed_bb bb pp`` as ``cosmology.spectra`` returns them.
    noise : array (lmax + 1,)
        Of B over the squared beam, uK^2.
    wiener_e : array (lmax + 1,)
        Filter of the observed E, C / (C + N).
    lmin_b : int
        First multipole of the B that enters: below, what is delensed would enter its own estimate.

    Examples
    --------
    >>> flat = np.ones(17)
    >>> cls = {"lensed_ee": flat, "lensed_bb": 0 * flat, "bb": 0 * flat, "pp": flat}
    >>> made = weights(cls, 4 * flat, flat, lmin_b=5)
    >>> float(made.inverse_b[4]), float(made.inverse_b[5]), float(made.inverse_pp[2])
    (0.0, 0.25, 1.0)
    """
    lmax = len(noise) - 1
    ell = np.arange(lmax + 1)
    ee, bb, tensor, pp = (cls[name][: lmax + 1] for name in ("lensed_ee", "lensed_bb", "bb", "pp"))
    coupling = Coupling(lmax)
    beyond = np.maximum(bb - tensor - coupling.lensing_bb(ee, pp), 0)
    inverse_b = np.where(ell >= max(lmin_b, 2), 1 / (noise + beyond + tensor), 0)
    good = (ell >= 2) & (pp > 0)
    inverse_pp = np.divide(1, pp, out=np.zeros(lmax + 1), where=good)
    response = coupling.response_eb(wiener_e * ee, inverse_b)
    preconditioner = np.divide(1, response + inverse_pp, out=np.zeros(lmax + 1), where=good)
    return Weights(inverse_b, inverse_pp, preconditioner)


def solve(
    b: np.ndarray,
    e_wiener: np.ndarray,
    with_weights: Weights,
    *,
    tolerance: float = 0.01,
    iterations: int = 50,
    grid: float = GRID,
    start: np.ndarray | None = None,
    push: np.ndarray | None = None,
    nthreads: int = 0,
) -> np.ndarray:
    """Return the linear MAP of the lensing potential; it is Wiener-filtered as it comes.

    Parameters
    ----------
    b : complex array (nalm,)
        Observed B, beam-deconvolved, uK.
    e_wiener : complex array (nalm,)
        Observed E, beam-deconvolved, Wiener-filtered, uK.
    with_weights : Weights
    tolerance : float, optional
        Ends when the norm of the residual, with the preconditioner as metric, is below this part of that of the
        right-hand side.
    iterations : int, optional
        The most that are done.
    grid : float, optional
        Band limit of the grid over lmax.
    start : complex array (nalm,), optional
        A first phi, else 0; what comes out does not depend on it.
    push : complex array (nalm,), optional
        Added to the right-hand side, as ``sample`` does.
    nthreads : int, optional

    Returns
    -------
    complex128 array (nalm,)
        phi_LM, 0 below L = 2.

    Raises
    ------
    ValueError
        If the alms differ in length.

    Examples
    --------
    The B that a potential has made of E is enough to find the potential:

    >>> from cmbml.sky.lensing import unit_alm
    >>> from cmbml.sky.quadratic import lensing_template
    >>> ell = np.arange(25.0)
    >>> e, phi = (sht.almxfl(unit_alm(np.random.default_rng(i), 24), (ell >= 2) / (ell + 1) ** i) for i in range(2))
    >>> b = lensing_template({"E": e}, phi)["B"]
    >>> flat = np.ones(25)
    >>> cls = {"lensed_ee": flat, "lensed_bb": 0 * flat, "bb": 0 * flat, "pp": (ell + 1) ** -2}
    >>> found = solve(b, e, weights(cls, 1e-3 * flat, flat, lmin_b=2), tolerance=1e-5, grid=1.6)
    >>> bool(inner(found, phi) > 0.9 * np.sqrt(inner(found, found) * inner(phi, phi)))
    True
    """
    if b.shape != e_wiener.shape:
        raise ValueError(f"E and B have the shapes {e_wiener.shape} and {b.shape}: bring them to one lmax")
    lmax = sht.alm_lmax(b)
    lensing = FirstOrder(e_wiener, grid=int(np.ceil(grid * lmax)), nthreads=nthreads)

    def left(phi: np.ndarray) -> np.ndarray:
        image = lensing.curvature(phi, with_weights.inverse_b)
        image += sht.almxfl(phi, with_weights.inverse_pp)
        return image

    def conditioned(residual: np.ndarray) -> np.ndarray:
        return sht.almxfl(residual, with_weights.preconditioner)

    residual = lensing.adjoint(np.zeros_like(b), sht.almxfl(b, with_weights.inverse_b))
    if push is not None:
        residual += push
    enough = tolerance**2 * inner(residual, conditioned(residual))
    phi = np.zeros(len(b), dtype=np.complex128)
    if start is not None:
        sht.almxfl(start, with_weights.preconditioner > 0, out=phi)
        residual -= left(phi)
    step = conditioned(residual)
    size = inner(residual, step)
    for _ in range(iterations):
        if size <= enough:
            break
        image = left(step)
        length = size / inner(step, image)
        image *= length
        residual -= image
        phi += np.multiply(step, length, out=image)
        before = size
        sht.almxfl(residual, with_weights.preconditioner, out=image)
        size = inner(residual, image)
        step *= size / before
        step += image
    return phi


def sample(
    b: np.ndarray, e_wiener: np.ndarray, with_weights: Weights, rng: np.random.Generator, **keys: Any
) -> np.ndarray:
    """Draw a potential from the posterior of which ``solve`` finds the mean.

    The solution for data and prior that are perturbed by draws n' of the noise and w of a unit field,

        (M^T N^-1 M + 1/C) phi' = M^T N^-1 (d_B + n') + C^-1/2 w,

    has the mean of the posterior and its covariance, (M^T N^-1 M + 1/C)^-1 (Hoffman & Ribak 1991, ApJ 380 L5). It costs
    what a solution costs.

    Parameters
    ----------
    b, e_wiener, with_weights
        As in ``solve``.
    rng : numpy Generator
    **keys
        ``tolerance``, ``iterations``, ``grid``, ``start``, ``nthreads`` of ``solve``.

    Returns
    -------
    complex128 array (nalm,)

    Examples
    --------
    Without any data it is a draw from the prior:

    >>> from cmbml.sky.lensing import unit_alm
    >>> e = unit_alm(np.random.default_rng(0), 24)
    >>> flat = np.ones(25)
    >>> cls = {"lensed_ee": flat, "lensed_bb": 0 * flat, "bb": 0 * flat, "pp": 4 * flat}
    >>> blind = weights(cls, 1e12 * flat, flat, lmin_b=2)
    >>> cl = sht.alm2cl(sample(0 * e, e, blind, np.random.default_rng(1)))[2:]
    >>> bool(abs(np.average(cl, weights=2 * np.arange(2, 25) + 1) / 4 - 1) < 0.2)
    True
    """
    lmax = sht.alm_lmax(b)
    noise = np.sqrt(with_weights.inverse_b)
    of_noise = np.divide(1, noise, out=np.zeros(lmax + 1), where=noise > 0)
    perturbed = b + sht.almxfl(unit_alm(rng, lmax), of_noise)
    push = sht.almxfl(unit_alm(rng, lmax), np.sqrt(with_weights.inverse_pp))
    return solve(perturbed, e_wiener, with_weights, push=push, **keys)


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """Inner product of the alms of two real fields, sum over all m: 2 Re sum_m>=0 a* b less the m = 0 once.

    Examples
    --------
    >>> a = np.array([0, 1, 1j])  # a_00, a_10, a_11, which counts for a_1-1, too
    >>> inner(a, a)
    3.0
    """
    zero = 2 * (sht.alm_lmax(a) + 1)
    x, y = (np.ascontiguousarray(alm, dtype=np.complex128).view(np.float64) for alm in (a, b))
    # einsum, not BLAS: that would start threads of its own, whose number the last bits depend on.
    return float(2 * np.einsum("i,i->", x, y) - np.einsum("i,i->", x[:zero], y[:zero]))
