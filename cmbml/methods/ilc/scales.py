"""Into which ranges of multipoles an internal linear combination cuts the sky, and which bands serve each of them.

Scales overlap (cosine needlets) or do not (bins); the squares of their windows sum to 1. Names are those of pyilc
(McCarthy & Hill 2024, PRD 109 023528, arXiv:2307.01043).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from cmbml.core.errors import UserError
from cmbml.core.log import log

_EDGE = 1e-3  # of a window: where it ends as far as beams are concerned


@dataclass(frozen=True)
class Scale:
    """A range of multipoles whose bands have weights of their own.

    Attributes
    ----------
    name : str
        For sentences: ``scale 1 (l 80 to 160)``.
    window : array (lmax + 1,)
        h(l).
    bands : array of int
        Positions of the bands that serve it.
    sigma : float
        Standard deviation in radians of the Gaussian that averages covariances over the sky; inf: over all of it.
    """

    name: str
    window: np.ndarray
    bands: np.ndarray
    sigma: float

    @property
    def lmax(self) -> int:
        """The last multipole where the window is not 0."""
        return int(np.flatnonzero(self.window)[-1])


def cosine_windows(ellmin: int, ellpeaks: Sequence[int]) -> np.ndarray:
    """Cosine needlets, (len(ellpeaks) + 1, ellpeaks[-1]), one row a scale (Planck 2015 IX, arXiv:1502.05956, app. B).

    With peaks p_0 = ellmin, p_1 ... = ellpeaks:
    h_j(l) = cos(pi/2 (p_j - l) / (p_j - p_{j-1})) from p_{j-1} to p_j and cos(pi/2 (l - p_j) / (p_{j+1} - p_j)) from
    there to p_{j+1}. Below ellmin all are 0; from there to ellpeaks[-1] - 1 the sum of h_j^2 is 1.
    """
    peaks = np.array([ellmin, *ellpeaks])
    ell = np.arange(peaks[-1])
    windows = np.zeros((len(peaks), len(ell)))
    for j, (low, high) in enumerate(pairwise(peaks)):
        part = slice(low, high)
        angle = np.pi / 2 * (ell[part] - low) / (high - low)
        windows[j, part] = np.cos(angle)
        windows[j + 1, part] = np.sin(angle)
    return windows


def bin_windows(ellmin: int, ellmax: int, width: int) -> np.ndarray:
    """Bins of ``width`` multipoles from ellmin to ellmax, (number of bins, ellmax + 1), of ones and zeros.

    What remains at the end is a bin of its own if it is half as wide or more, and else part of the last one.

    Examples
    --------
    >>> [bin_windows(2, ellmax, 4).sum(axis=1).tolist() for ellmax in (9, 10, 11)]
    [[4.0, 4.0], [4.0, 5.0], [4.0, 4.0, 2.0]]
    """
    edges = [*(range(ellmin, ellmax + 2 - (width + 1) // 2, width) or [ellmin]), ellmax + 1]
    ell = np.arange(ellmax + 1)
    return np.array([(low <= ell) & (ell < high) for low, high in pairwise(edges)], dtype=float)


def last_multipole(beams: np.ndarray, *, criterion: float, needed: int) -> int:
    """The last l up to which ``needed`` of the beams (nband, lmax + 1) are above the criterion."""
    return int(np.flatnonzero((beams > criterion).sum(axis=0) >= needed)[-1])


def make_scales(
    windows: np.ndarray, beams: np.ndarray, *, criterion: float, constraints: int = 1, bias_tol: float | None = None
) -> list[Scale]:
    """Which bands serve each window, and how wide the average of their covariances is.

    A band serves a scale if its beam is above ``criterion`` where the window ends (h = 1e-3 on its falling side). The
    average is a Gaussian of sigma^2 = 2 |constraints - N_bands| / (N_modes bias_tol), N_modes = sum (2l + 1) h^2, at
    most pi: about (N_bands - constraints) / bias_tol modes lie in it, and the fraction bias_tol of the CMB's power is
    lost to chance correlations.

    Parameters
    ----------
    windows : array (nscale, lmax + 1)
    beams : array (nband, >= lmax + 1)
    criterion : float
    constraints : int, optional
        Components that the weights are bound to: the CMB and those that are deprojected.
    bias_tol : float, optional
        Without it covariances are averaged over the whole sky.

    Raises
    ------
    UserError
        If a scale is served by fewer bands than there are constraints.
    """
    scales = []
    ell = np.arange(windows.shape[1])
    for j, window in enumerate(windows):
        inside = np.flatnonzero(window > _EDGE)
        name = f"scale {j} (l {inside[0]} to {inside[-1]})"
        bands = np.flatnonzero(beams[:, inside[-1]] > criterion)
        if len(bands) < constraints:
            raise UserError(
                f"Only {len(bands)} of {len(beams)} bands have a beam above method.wavelet_beam_criterion={criterion:g}"
                f" up to the end of {name}, where {constraints} are needed; lower that, method.ELLMAX or"
                " method.N_deproj."
            )
        modes = np.sum((2 * ell + 1) * window**2)
        sigma = np.inf
        if bias_tol is not None and len(bands) > constraints:
            sigma = np.sqrt(2 * (len(bands) - constraints) / (modes * bias_tol))
            if sigma > np.pi:
                _too_few(modes, name, len(bands), bias_tol)
                sigma = np.pi
        scales.append(Scale(name, window, bands, float(sigma)))
    return scales


@cache
def _too_few(modes: float, name: str, bands: int, bias_tol: float) -> None:
    """Warn, once a process and not for every sky."""
    text = "The %.0f modes of %s are too few for %d bands to keep the bias below method.ILC_bias_tol=%g."
    log.warning(text, modes, name, bands, bias_tol)
