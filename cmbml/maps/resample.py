"""Maps of one resolution brought to another, in harmonic space."""

from collections.abc import Sequence

import healpy as hp
import numpy as np

from cmbml.sky import dipole, sht


def filled(m: np.ndarray) -> np.ndarray:
    """Return a map whose pixels without a value (NaN) have the mean of those around them.

    That is the mean of the smallest larger HEALPix pixel that has a value; 0 if there is none anywhere.

    Parameters
    ----------
    m : array (npix,)
        RING.

    Examples
    --------
    >>> m = np.arange(12.0)
    >>> m[[0, 11]] = np.nan
    >>> filled(m)[[0, 1, 11]]
    array([5.5, 1. , 5.5])
    """
    if not np.isnan(m).any():
        return m
    return np.asarray(hp.reorder(_filled(hp.reorder(m, r2n=True)), n2r=True))


def _filled(nest: np.ndarray) -> np.ndarray:
    """Return the same in NESTED order, where the four parts of a larger pixel follow each other."""
    bad = np.isnan(nest)
    if not bad.any():
        return nest
    if len(nest) == 12:
        return np.where(bad, 0.0 if bad.all() else np.nanmean(nest), nest)
    known = (~bad).reshape(-1, 4).sum(axis=1)
    total = np.nansum(nest.reshape(-1, 4), axis=1)
    larger = np.divide(total, known, out=np.full(len(known), np.nan), where=known > 0)
    return np.where(bad, np.repeat(_filled(larger), 4), nest)


def empty(m: np.ndarray, nside: int) -> np.ndarray:
    """Return which pixels of ``nside`` hold no pixel of a map that has a value (is not NaN), bool (npix,), RING.

    Examples
    --------
    >>> m = np.ones(48)
    >>> m[0] = np.nan
    >>> int(empty(m, 1).sum()), int(empty(m, 2).sum()), int(empty(m, 4).sum())
    (0, 1, 4)
    """
    held = np.asarray(hp.ud_grade((~np.isnan(m)).astype(np.float64), nside))
    return np.asarray(held == 0)


def resampled(maps: np.ndarray, fields: Sequence[str], nside: int, transfer: np.ndarray) -> np.ndarray:
    """Return maps of another resolution, through their alms.

    Parameters
    ----------
    maps : array (len(fields), npix)
        RING, of any nside, without NaN. Monopole and dipole are kept, and do not leak.
    fields : sequence of str
        Q and U go together, with spin 2; what else there is is a scalar.
    nside : int
        Of the result.
    transfer : array (lmax + 1,)
        What the alms are multiplied with; they end at its lmax.

    Returns
    -------
    float64 array (len(fields), 12 nside^2)

    Examples
    --------
    >>> alm = np.zeros((1, 45), dtype=complex)
    >>> alm[0, [0, 3, 12]] = 1, 2, 3j
    >>> fine, coarse = sht.synthesis(alm, 16), sht.synthesis(alm, 4)
    >>> np.allclose(resampled(fine, "T", 4, np.ones(9)), coarse, atol=1e-3)
    True
    """
    lmax = len(transfer) - 1
    rows = dict(zip(fields, maps, strict=True))
    out = {}
    for field in (x for x in fields if x not in "QU"):
        alm = dipole.analysis_apart(rows[field], lmax)
        out[field] = sht.synthesis(sht.almxfl(alm, transfer), nside)
    if {"Q", "U"} & set(fields):
        alm = sht.analysis(np.stack([rows["Q"], rows["U"]]), lmax, spin=2)
        out |= zip("QU", sht.synthesis(sht.almxfl(alm, transfer), nside, spin=2), strict=True)
    return np.stack([out[field] for field in fields])
