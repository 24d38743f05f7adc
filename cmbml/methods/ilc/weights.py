"""Weights of an internal linear combination: from alms of the bands to weights, and from weights to a map of the CMB.

Everything between the analysis of the bands and the synthesis of the result happens on Gauss-Legendre grids that are
just fine enough, where products of band-limited fields are analysed exactly: neither the covariances nor the result
depend on a quadrature of HEALPix pixels. Weights are band-limited fields themselves, kept as alms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import healpy as hp
import numpy as np

from cmbml.core.errors import UserError
from cmbml.methods.ilc.scales import Scale
from cmbml.sky import sht

_TAIL = 1e-16  # where the Gaussian of the covariances may be cut in harmonic space without making them negative
_FINER = 2  # band limit of the weights over that of the covariances; twice that changes no pixel by .01 uK
_SINGULAR = 1e-12  # least eigenvalue of a correlation matrix that rounding does not make meaningless
_TOLERANCE = 1e-3  # of the response to the CMB, and to what is deprojected


def fit(
    alms: np.ndarray, scales: Sequence[Scale], mixing: np.ndarray, *, prewhiten: bool = True, nthreads: int = 0
) -> dict[str, np.ndarray]:
    """Weights that minimise the variance of the combination and keep the CMB.

    Parameters
    ----------
    alms : array (nband, nalm)
        Of the bands, all with one beam, to at least the end of the windows.
    scales : sequence of Scale
    mixing : array (nband, ncomponent)
        Response of each band to the CMB (first column, ones) and to what is deprojected.
    prewhiten : bool, optional
        Multiply the alms by sqrt(l (l + 1)) before their covariances are taken: the CMB, whose spectrum falls nearly
        like 1 / l (l + 1), then has as many modes that count as there are multipoles, and correlates less by chance
        with the rest. The weights are those of the alms as they are.
    nthreads : int, optional

    Returns
    -------
    dict
        ``windows`` (nscale, lmax + 1); ``limits`` (nscale,), band limit of the weights of each scale; ``alms``
        complex64 (nband, sum of the scales' numbers of alms), the weights as scalar fields, scale after scale, 0 for
        bands that do not serve one; ``mean`` and ``std`` (nscale, nband), theirs over the sky.

    Raises
    ------
    UserError
        If bands cannot be told apart.
    """
    windows = np.stack([scale.window for scale in scales])
    ell = np.arange(windows.shape[1])
    tilt = np.sqrt(ell * (ell + 1)) if prewhiten else np.ones(len(ell))
    everywhere = any(np.isinf(scale.sigma) for scale in scales)
    modes = (2 * ell + 1) * sht.alm2cl(alms[:, None], alms[None])[..., : len(ell)] if everywhere else None
    weights = []
    for scale in scales:
        window = scale.window * tilt
        bands = scale.bands
        if modes is not None and np.isinf(scale.sigma):
            cov = (modes[np.ix_(bands, bands)][..., 1:] @ window[1:] ** 2)[None] / (4 * np.pi)
            grid = 0
        else:
            cov, grid = local_covariance(_filtered(alms[bands], window, scale.lmax), scale.sigma, nthreads=nthreads)
        solved = constrained_weights(cov, mixing[bands], scale.name).T
        out = np.zeros((len(alms), sht.alm_size(grid)), dtype=np.complex64)
        out[bands] = _analysis(solved, grid, nthreads) if grid else np.sqrt(4 * np.pi) * solved
        weights.append(out)
    limits = np.array([sht.alm_lmax(alm) for alm in weights])
    mean = np.array([alm[:, 0].real for alm in weights]) / np.sqrt(4 * np.pi)
    power = [sht.alm2cl(alm)[:, 1:] @ (2 * np.arange(1, n + 1) + 1) for alm, n in zip(weights, limits, strict=True)]
    std = np.sqrt(np.array(power) / (4 * np.pi))
    return {"windows": windows, "limits": limits, "alms": np.concatenate(weights, axis=1), "mean": mean, "std": std}


def apply(weights: Mapping[str, np.ndarray], alms: np.ndarray, *, nthreads: int = 0) -> np.ndarray:
    """Combine alms (nband, nalm) with the weights of `fit`: linear in the alms, which may be any.

    a = sum_j h_j A[ sum_b w_jb S[h_j a_b] ], S and A synthesis and analysis; (nalm,) to the end of the windows.
    """
    lmax = weights["windows"].shape[1] - 1
    start = 0
    total = np.zeros(sht.alm_size(lmax), dtype=np.complex128)
    everywhere = np.zeros((len(alms), lmax + 1))
    for window, limit in zip(weights["windows"], weights["limits"], strict=True):
        weights_of_scale = weights["alms"][:, start : start + sht.alm_size(limit)].astype(np.complex128)
        start += weights_of_scale.shape[1]
        if not limit:
            everywhere += weights_of_scale.real / np.sqrt(4 * np.pi) * window**2
            continue
        end = int(np.flatnonzero(window)[-1])
        bands = np.flatnonzero(weights_of_scale.any(axis=1))
        sky: Any = 0.0
        grid = end + (limit + 1) // 2
        for weight, alm in zip(weights_of_scale[bands], _filtered(alms[bands], window, end), strict=True):
            sky = sky + _synthesis(weight, grid, nthreads) * _synthesis(alm, grid, nthreads)
        combined = sht.analysis_gl(sky, grid, end, spin=0, nthreads=nthreads)[0]
        total[_inside(end, lmax)] += sht.almxfl(combined, window)
    for band in np.flatnonzero(everywhere.any(axis=1)):
        total += _filtered(alms[band], everywhere[band], lmax)
    return total


def harmonic_weights(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weight of each band at each multipole, sum_j h_j(l)^2 w_jb, of weights that are the same over the sky.

    Parameters
    ----------
    weights : mapping
        From `fit`.

    Returns
    -------
    array (nband, lmax + 1)
        What `apply` multiplies the alms of the bands by before it adds them.

    Raises
    ------
    ValueError
        If the weights of a scale vary over the sky.

    Examples
    --------
    Two bands, two bins of one multipole each: 3/4 and 1/4 in the first, 0 and 1 in the second.

    >>> alms = np.sqrt(4 * np.pi) * np.array([[0.75, 0], [0.25, 1]])
    >>> found = harmonic_weights({"windows": np.eye(2), "limits": np.zeros(2, int), "alms": alms})
    >>> found.round(12).tolist()
    [[0.75, 0.0], [0.25, 1.0]]
    """
    if weights["limits"].any():
        raise ValueError("the weights vary over the sky: they have no value at a multipole")
    constant = weights["alms"].real.astype(np.float64) / np.sqrt(4 * np.pi)
    return constant @ weights["windows"] ** 2


def noise_spectrum(weights: Mapping[str, np.ndarray], ratio: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Spectrum of the noise in a combination whose weights are the same over the sky.

    N_l = sum_ab W_a(l) ratio_a(l) N_ab(l) W_b(l) ratio_b(l), W from `harmonic_weights`.

    Parameters
    ----------
    weights : mapping
        From `fit`.
    ratio : array (nband, >= lmax + 1)
        What the alms of each band were multiplied by before `fit` and `apply`: the combination's beam over the band's.
    noise : array (>= lmax + 1, nband, nband)
        N_ab(l) of the bands as they are observed, with no beam divided out.

    Returns
    -------
    array (lmax + 1,)
        In the unit of ``noise``, with the beam of the combination not divided out, to the end of the windows.

    Raises
    ------
    ValueError
        If the weights vary over the sky, or a spectrum ends before they do.

    Examples
    --------
    The mean of two bands of the same noise has half of it.

    >>> half = {"windows": np.ones((1, 3)), "limits": np.zeros(1, int), "alms": np.full((2, 1), np.sqrt(np.pi))}
    >>> noise_spectrum(half, np.ones((2, 3)), np.array([4 * np.eye(2)] * 3)).round(12).tolist()
    [2.0, 2.0, 2.0]
    """
    constant = harmonic_weights(weights)
    nband, n = constant.shape
    for name, shape in (("ratio", ratio.shape), ("noise", noise.shape[::-1][1:])):
        if shape[0] != nband or shape[1] < n:
            raise ValueError(f"{name} is of {shape[0]} bands and {shape[1]} multipoles, and {nband} and {n} are needed")
    whole = constant * ratio[:, :n]
    total: np.ndarray = np.einsum("al,lab,bl->l", whole, noise[:n], whole)
    return total


def local_covariance(alms: np.ndarray, sigma: float, *, nthreads: int = 0) -> tuple[np.ndarray, int]:
    """Covariances of fields about each point of the sky, C_ab = G * (x'_a x'_b) with x' = x - G * x.

    G is a Gaussian, b_L = exp(-L(L+1) sigma^2 / 2). It ends where b_L = 1e-16, so that it is nowhere negative beyond
    rounding, and the products are analysed exactly to that limit with positive weights: the matrices are positive
    definite wherever enough modes lie in G.

    Parameters
    ----------
    alms : array (nband, nalm)
    sigma : float
        Radians.
    nthreads : int, optional

    Returns
    -------
    cov : array (npix, nband, nband)
    grid : int
        Band limit of the Gauss-Legendre grid of the pixels.
    """
    lmax = sht.alm_lmax(alms)
    n = len(alms)
    limit = min(int(np.ceil(np.sqrt(-2 * np.log(_TAIL)) / sigma)), 2 * lmax)
    ell = np.arange(max(limit, lmax) + 1)
    gauss = np.exp(-ell * (ell + 1) * sigma**2 / 2)
    fine = lmax + (limit + 1) // 2
    coarse = _FINER * limit
    fields = [_synthesis(alm, fine, nthreads) for alm in sht.almxfl(alms, 1 - gauss)]
    pairs = [(a, b) for a in range(n) for b in range(a + 1)]
    products = (sht.analysis_gl(fields[a] * fields[b], fine, limit, spin=0, nthreads=nthreads)[0] for a, b in pairs)
    smoothed = sht.almxfl(np.stack(list(products)), gauss)
    sky = np.stack([_synthesis(alm, coarse, nthreads) for alm in smoothed])
    cov = np.empty((sky.shape[1], n, n))
    for (a, b), row in zip(pairs, sky, strict=True):
        cov[:, a, b] = cov[:, b, a] = row
    return cov, coarse


def constrained_weights(cov: np.ndarray, mixing: np.ndarray, where: str) -> np.ndarray:
    """Weights w = C^-1 A (A^T C^-1 A)^-1 e, e = (1, 0, ...): 1 for the first column of A, 0 for the others.

    Each matrix is scaled by its diagonal, so that a band of 10^6 times the power of another one is no matter.

    Parameters
    ----------
    cov : array (npix, nband, nband)
    mixing : array (nband, ncomponent)
    where : str
        For sentences.

    Returns
    -------
    array (npix, nband)

    Raises
    ------
    UserError
        If a covariance is not positive definite to rounding, or the bands cannot tell the components apart.
    """
    rms = np.sqrt(np.maximum(np.einsum("pii->pi", cov), np.finfo(float).tiny))
    correlation = cov / (rms[:, :, None] * rms[:, None, :])
    least = np.linalg.eigvalsh(correlation)[:, 0]
    bad = np.count_nonzero(~(least > _SINGULAR))
    if bad:
        raise UserError(
            f"The covariance of the {len(mixing)} bands of {where} is singular in {bad} of {len(cov)} pixels (least"
            f" eigenvalue {least.min():.1e}): leave out a band that repeats others or has no noise (instrument.bands),"
            " or average over more modes (a smaller method.ILC_bias_tol, a larger method.BinSize)."
        )
    columns = mixing / rms[:, :, None]
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    columns /= lengths
    inverse = np.linalg.solve(correlation, columns)
    target = np.zeros((len(cov), mixing.shape[1], 1))
    target[:, 0] = 1 / lengths[:, :, 0]
    try:
        weights = (inverse @ np.linalg.solve(np.swapaxes(columns, 1, 2) @ inverse, target))[..., 0] / rms
    except np.linalg.LinAlgError:
        weights = np.full_like(rms, np.nan)
    missed = np.abs(weights @ mixing - np.eye(mixing.shape[1])[0])
    allowed = _TOLERANCE * np.abs(weights[:, :, None] * mixing).max(axis=1)
    allowed[:, 0] = _TOLERANCE
    if not (missed <= allowed).all():
        raise UserError(
            f"The {len(mixing)} bands of {where} cannot tell the CMB and method.ILC_deproj_comps apart: the response"
            f" misses 1 or 0 by {missed.max():.1e}; name fewer components, or observe more bands."
        )
    return weights


def _filtered(alms: np.ndarray, window: np.ndarray, lmax: int) -> np.ndarray:
    """Alms times a window, cut at lmax."""
    return sht.almxfl(alms[..., _inside(lmax, sht.alm_lmax(alms))], window)


def _inside(lmax: int, full: int) -> np.ndarray | slice:
    """Where the coefficients with l <= lmax stand in alms that go to ``full``."""
    return slice(None) if lmax == full else hp.Alm.getidx(full, *hp.Alm.getlm(lmax))


def _synthesis(alm: np.ndarray, grid: int, nthreads: int) -> np.ndarray:
    """Scalar field (npix,) of alms (nalm,) on a Gauss-Legendre grid."""
    return sht.synthesis_gl(alm[None], grid, spin=0, nthreads=nthreads)


def _analysis(fields: np.ndarray, grid: int, nthreads: int) -> np.ndarray:
    """Alms (n, nalm) of scalar fields (n, npix), to the grid's own band limit."""
    return np.stack([sht.analysis_gl(field, grid, grid, spin=0, nthreads=nthreads)[0] for field in fields])
