"""Binning and units of power spectra. C_l throughout, from l = 0; D_l only for figures and tables."""

import numpy as np


def bin_edges(start: int, stop: int, width: int) -> np.ndarray:
    """Return the edges of bins of ``width`` in l over start <= l < stop; bin i holds edges[i] <= l < edges[i + 1].

    What does not fill a bin at the end joins the last one.

    Examples
    --------
    >>> bin_edges(2, 12, 4).tolist()
    [2, 6, 12]
    """
    if not 0 <= start < stop or width < 1:
        raise ValueError(f"there are no bins of width {width} over {start} <= l < {stop}")
    count = max(1, (stop - start) // width)
    return np.append(start + width * np.arange(count), stop)


def bin_spectrum(cl: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Average C_l (..., lmax + 1) in bins, each l weighted by its number of modes 2l + 1; shape (..., nbin).

    Examples
    --------
    One mode at l = 0 and three at l = 1:

    >>> bin_spectrum([0.0, 4.0], np.array([0, 2])).tolist()
    [3.0]
    """
    cl = np.asarray(cl)
    if edges[-1] > cl.shape[-1]:
        raise ValueError(f"the bins end at l = {edges[-1] - 1} and the spectrum at l = {cl.shape[-1] - 1}")
    modes = 2 * np.arange(edges[-1]) + 1
    total = np.add.reduceat((cl[..., : edges[-1]] * modes), edges[:-1], axis=-1)
    return total / np.add.reduceat(modes, edges[:-1])


def cl_to_dl(cl: np.ndarray) -> np.ndarray:
    """Return D_l = l(l+1)/(2 pi) C_l of a spectrum (..., lmax + 1) that starts at l = 0.

    Examples
    --------
    >>> cl_to_dl(2 * np.pi * np.ones(4)).tolist()
    [0.0, 2.0, 6.0, 12.0]
    """
    ell = np.arange(np.shape(cl)[-1])
    return cl * (ell * (ell + 1) / (2 * np.pi))
