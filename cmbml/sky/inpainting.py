"""Holes in maps, filled smoothly from their borders."""

import healpy as hp
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import cg

__all__ = ["inpainted"]

_ACCURATE = 1e-8  # of the scatter at the border
_MOST = 20_000  # iterations


def inpainted(m: np.ndarray, hole: np.ndarray) -> np.ndarray:
    r"""Return a map whose pixels in a hole are the mean of their neighbours: what diffusion into the hole comes to.

    .. math::

        x_p = \frac{1}{n_p} \sum_{q \in N(p)} x_q, \qquad p \in \mathrm{hole},

    with the n_p = 8 (or 7) neighbours N(p) of a HEALPix pixel, and the pixels around the hole as they are: the limit of
    taking these means again and again. It is found by conjugate gradients of the linear system, whose matrix is
    symmetric and positive. Like a harmonic function it has no extreme inside of a hole: all its values lie between the
    least and the largest of the border. It is smooth and no more: what fluctuates on scales of the hole is not in it.

    Parameters
    ----------
    m : array (npix,)
        RING, of one field. Q and U, each for itself, are as good as their directions are parallel across the hole.
    hole : bool array (npix,)
        What these pixels hold is not looked at.

    Returns
    -------
    float64 array (npix,)

    Raises
    ------
    ValueError
        When the hole is the whole sky.

    Examples
    --------
    What varies linearly across a small hole, here of .1 rad, is restored but for the curvature of the sphere:

    >>> x, y, z = hp.pix2vec(32, np.arange(12288))
    >>> hole = np.hypot(y - 0.3, z - 0.2) * (x > 0) + 9 * (x <= 0) < 0.1
    >>> found = inpainted(np.where(hole, np.nan, y + 2 * z), hole)
    >>> bool(np.abs(found - y - 2 * z)[hole].max() < 4e-3)
    True
    """
    filled = np.array(m, dtype=np.float64)
    inside = np.flatnonzero(hole)
    if not len(inside):
        return filled
    if len(inside) == len(filled):
        raise ValueError("A hole that is the whole sky has nothing to be filled from")
    matrix, of_border = _equations(inside, hole)
    border = np.unique(of_border.indices)
    mean = filled[border].mean()
    scale = filled[border].std()
    filled[inside] = mean
    if scale > 0:
        known = np.where(hole, 0.0, filled - mean)
        found, left = cg(
            matrix,
            of_border @ known,
            rtol=0.0,
            atol=_ACCURATE * scale,
            maxiter=_MOST,
            M=diags(1 / matrix.diagonal()),
        )
        if left:
            raise ValueError(f"A hole of {len(inside)} pixels is too large to be filled from its border")
        filled[inside] += found
    return filled


def _equations(inside: np.ndarray, hole: np.ndarray) -> tuple[csr_matrix, csr_matrix]:
    """Number of neighbours on the diagonal less the neighbours in the hole; and the neighbours outside of it."""
    nside = hp.npix2nside(len(hole))
    neighbours = hp.get_all_neighbours(nside, inside).T
    row, place = np.nonzero(neighbours >= 0)  # -1 where there is none
    pixel = neighbours[row, place]
    within = hole[pixel]
    n = len(inside)
    number = np.full(len(hole), -1)
    number[inside] = np.arange(n)
    counts = np.bincount(row, minlength=n).astype(np.float64)
    links = coo_matrix((np.ones(within.sum()), (row[within], number[pixel[within]])), shape=(n, n))
    around = coo_matrix((np.ones((~within).sum()), (row[~within], pixel[~within])), shape=(n, len(hole)))
    return csr_matrix(diags(counts) - links), csr_matrix(around)
