"""Arrays of spherical-harmonic coefficients: sizes, filters, spectra. Their order is healpy's (see ``sht``)."""

import numpy as np


def alm_size(lmax: int) -> int:
    """Return the number of coefficients with 0 <= m <= l <= lmax.

    Examples
    --------
    >>> alm_size(2)
    6
    """
    return (lmax + 1) * (lmax + 2) // 2


def alm_lmax(alm: np.ndarray) -> int:
    """Return the band limit of an alm array of shape (..., nalm).

    Raises
    ------
    ValueError
        If the last axis is no (lmax + 1)(lmax + 2) / 2.

    Examples
    --------
    >>> alm_lmax(np.zeros((3, 6)))
    2
    """
    nalm = alm.shape[-1]
    lmax = round(float((np.sqrt(8 * nalm + 1) - 3) / 2))
    if alm_size(lmax) != nalm:
        raise ValueError(f"an alm array of {nalm} coefficients has no lmax (mmax = lmax is assumed)")
    return lmax


def _start(lmax: int, m: int) -> int:
    """Return the index of a_{l=m, m} in an array of band limit lmax."""
    return m * (2 * lmax + 1 - m) // 2 + m


def truncate(alm: np.ndarray, lmax: int) -> np.ndarray:
    """Keep the coefficients with l <= lmax of an alm array (..., nalm).

    Raises
    ------
    ValueError
        If the array ends below lmax.

    Examples
    --------
    The order is a_00 a_10 a_20 a_11 a_21 a_22:

    >>> truncate(np.arange(6), 1).tolist()
    [0, 1, 3]
    """
    full = alm_lmax(alm)
    if lmax > full:
        raise ValueError(f"alms that end at l = {full} cannot be cut at lmax = {lmax}")
    out = np.empty((*alm.shape[:-1], alm_size(lmax)), dtype=alm.dtype)
    for m in range(lmax + 1):
        a = _start(full, m)
        b = _start(lmax, m)
        n = lmax + 1 - m
        out[..., b : b + n] = alm[..., a : a + n]
    return out


def almxfl(alm: np.ndarray, fl: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return a_lm f_l for alms of shape (..., nalm) and real f_l of shape (>= lmax + 1,), in ``out`` if it is given.

    Examples
    --------
    >>> almxfl(np.ones(6), [1, 10, 100]).tolist()
    [1.0, 10.0, 100.0, 10.0, 100.0, 100.0]
    """
    lmax = alm_lmax(alm)
    fl = np.asarray(fl, dtype=np.float64)
    if fl.shape[-1] <= lmax:
        raise ValueError(f"f_l ends at l = {fl.shape[-1] - 1}, below the alms' lmax = {lmax}")
    out = np.empty_like(alm) if out is None else out
    for m in range(lmax + 1):
        a = _start(lmax, m)
        n = lmax + 1 - m
        np.multiply(alm[..., a : a + n], fl[m : lmax + 1], out=out[..., a : a + n], casting="same_kind")
    return out


def alm2cl(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Return the auto or cross spectrum of alms of shape (..., nalm).

    C_l = 1/(2l+1) [ a_l0 b_l0 + 2 sum_{m>0} Re(a_lm b*_lm) ], shape (..., lmax + 1), from l = 0.

    Examples
    --------
    >>> alm2cl(np.ones(6)).tolist()
    [1.0, 1.0, 1.0]
    """
    b = a if b is None else b
    lmax = alm_lmax(a)
    if alm_lmax(b) != lmax:
        raise ValueError(f"a cross spectrum of alms with lmax {lmax} and {alm_lmax(b)}: truncate one of them first")
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    cl = np.zeros((*shape, lmax + 1))
    for m in range(lmax + 1):
        part = slice(_start(lmax, m), _start(lmax, m) + lmax + 1 - m)
        am = a[..., part]
        bm = b[..., part]
        cl[..., m:] += (1 if m == 0 else 2) * (am.real * bm.real + am.imag * bm.imag)
    return cl / (2 * np.arange(lmax + 1) + 1)
