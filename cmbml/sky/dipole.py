"""Monopole and dipole of maps of others, which must not leak into other multipoles."""

import numpy as np

from cmbml.sky.sht import analysis, synthesis


def without_dipole(m: np.ndarray, *, nthreads: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Take monopole and dipole out of scalar maps: the alms of l < 2 that fit their pixels best, by least squares.

    A pixel of exactly 0 is one without a value (a hole in a map of others): it does not enter the fit, and stays 0.

    Parameters
    ----------
    m : array (..., npix)
        RING.
    nthreads : int, optional

    Returns
    -------
    rest : float64 array (..., npix)
    low : complex128 array (..., 3)
        Alms of what was taken out, lmax = 1.

    Examples
    --------
    >>> rest, low = without_dipole(np.full(768, 3.0))
    >>> np.allclose(rest, 0), np.allclose(low, [3 * np.sqrt(4 * np.pi), 0, 0])
    (True, True)
    """
    basis = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1j]])  # a_00, a_10, and the parts of a_11
    shapes = synthesis(basis, round(np.sqrt(m.shape[-1] / 12)), nthreads=nthreads)
    rest = np.array(m, dtype=np.float64, order="C")
    rows = rest.reshape(-1, m.shape[-1])
    found = np.empty((len(rows), 4))
    for row, fit in zip(rows, found, strict=True):
        seen = row != 0
        inside = shapes[:, seen]
        fit[:] = np.linalg.pinv(inside @ inside.T, hermitian=True) @ (inside @ row[seen])
        row[seen] -= fit @ inside
    return rest, (found @ basis).reshape(*m.shape[:-1], 3)


def seen_through(m: np.ndarray, weights: np.ndarray, *, nthreads: int = 0) -> np.ndarray:
    """Return scalar maps times a mask, less the monopole and dipole of what it leaves.

    They are taken out before the taper of the mask multiplies them: behind it they are a step, in all multipoles.

    Parameters
    ----------
    m : array (..., npix)
        RING.
    weights : array (npix,)
        The mask, 0 to 1.
    nthreads : int, optional

    Returns
    -------
    float64 array (..., npix)

    Examples
    --------
    >>> weights = np.linspace(0, 1, 768)
    >>> bool(np.abs(seen_through(np.full(768, 2.7255e6), weights)).max() < 1e-6)
    True
    """
    rest: np.ndarray = without_dipole(m * (weights > 0), nthreads=nthreads)[0] * weights
    return rest


def analysis_apart(m: np.ndarray, lmax: int, *, niter: int = 1, nthreads: int = 0) -> np.ndarray:
    """Return the alms of a scalar map whose monopole and dipole do not leak into l >= 2.

    They are taken out of it (`without_dipole`) before the ``analysis`` and given back to what it finds. The
    ``analysis`` alone leaves 1e-3 of them in other multipoles, and at a hole much more.

    Parameters
    ----------
    m : array (..., npix)
        RING.
    lmax : int
        At least 1.
    niter, nthreads : int, optional
        As in ``analysis``.

    Returns
    -------
    complex128 array (..., nalm)

    Examples
    --------
    >>> t = np.full(768, 2.7255e6)
    >>> t[:200] = 0
    >>> bool(np.abs(analysis_apart(t, 16)[2:17]).max() < 1e-6), bool(np.abs(analysis(t, 16)[2:17]).max() > 1e4)
    (True, True)
    """
    rest, low = without_dipole(m, nthreads=nthreads)
    alm = analysis(rest, lmax, niter=niter, nthreads=nthreads)
    alm[..., [0, 1, lmax + 1]] += low
    return alm
