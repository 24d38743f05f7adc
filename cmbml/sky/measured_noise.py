"""What an observation makes of a sky, measured where the sky is known: its transfer, and the power of all the rest."""

import numpy as np

from cmbml.sky import sht
from cmbml.sky.spectra import bin_spectrum

WIDTH = 15  # bins in l, chosen on training skies of nside 512: those left out are told best by 10 (E) to 40 (B)
PRIOR = 0.1  # by which a transfer may differ from 1 before anything is measured
_LEAST = 0.01


def transfer_and_noise(
    seen: np.ndarray, cross: np.ndarray, true: np.ndarray, *, skies: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the transfer and the noise of an observation, smooth in l, by regression on the true sky.

    Of the observed d = t X + n, with an n that has nothing in common with X,

        t_l = <d X> / <X X>,        N_l = <d d> - 2 t_l <d X> + t_l^2 <X X>,

    in bins of at most ``WIDTH`` multipoles and linear between their middles. N holds whatever is not the sky's own X:
    noise of any spectrum, aliased power, foregrounds that were left. The total power is t^2 C + N, in which the sample
    variance of these skies' X is not. What the skies cannot tell of the transfer is 1: its distance from 1 is shrunk by
    1 / (1 + (error / ``PRIOR``)^2), error^2 = N / (<X X> modes).

    Parameters
    ----------
    seen, cross, true : array (lmax + 1,)
        <d d>, <d X> and <X X>, means over the skies; X has the beam of d.
    skies : float, optional
        How many skies, times the part of the sky that is seen: it says how many modes there are.

    Returns
    -------
    transfer, noise : float64 arrays (lmax + 1,)
        Noise in the units of ``seen``, with the beam.

    Examples
    --------
    Nine tenths of a sky, and white noise:

    >>> true = np.linspace(9.0, 1.0, 101)
    >>> transfer, noise = transfer_and_noise(0.81 * true + 0.5, 0.9 * true, true, skies=1e6)
    >>> np.allclose(transfer, 0.9), np.allclose(noise, 0.5)
    (True, True)
    """
    lmax = len(true) - 1
    edges = _edges(lmax)
    sky = np.maximum(bin_spectrum(true, edges), np.finfo(float).tiny / PRIOR**2)
    found = bin_spectrum(cross, edges) / sky
    left = np.maximum(bin_spectrum(seen, edges) - found**2 * sky, 0)
    modes = skies * (edges[1:] ** 2 - edges[:-1] ** 2)
    signal = sky * modes * PRIOR**2
    known = signal / (signal + left)
    transfer = np.maximum(_between(1 + known * (found - 1), edges), _LEAST)
    noise = bin_spectrum(seen - 2 * transfer * cross + transfer**2 * true, edges)
    return transfer, np.maximum(_between(noise, edges), 0)


def _edges(lmax: int) -> np.ndarray:
    """Bins from l = 2 on, a quarter of l wide and at most ``WIDTH``; the last takes what fills no half of another."""
    edges = [2]
    width = 2
    while edges[-1] + 1.5 * width <= lmax + 1:
        edges.append(edges[-1] + width)
        width = min(max(edges[-1] // 4, 2), WIDTH)
    return np.array([*edges, lmax + 1])


def _between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Values at l = 0 .. lmax on straight lines between the middles of the bins, the last one to the end."""
    ell = np.arange(edges[-1] + 0.0)
    middles = bin_spectrum(ell, edges)
    smooth: np.ndarray = np.interp(ell, middles, values)
    if len(values) > 1:
        slope = (values[-1] - values[-2]) / (middles[-1] - middles[-2])
        smooth += slope * np.maximum(ell - middles[-1], 0)
    return smooth


def seen_through(alms: np.ndarray, weights: np.ndarray, *, spin: int, nthreads: int = 0) -> np.ndarray:
    """Return the alms of a sky times a mask, without any pixels: exact for a mask without power beyond lmax.

    Parameters
    ----------
    alms : complex array (2, nalm)
        E and B for spin 2; (1, nalm) for spin 0.
    weights : complex array (nalm,)
        Alms of the mask, of the same lmax.
    spin : int
    nthreads : int, optional

    Returns
    -------
    complex128 array of the shape of ``alms``

    Examples
    --------
    A mask of one half:

    >>> alms = np.array([[0, 0, 1, 0, 2j, 3], [0, 0, 4, 0, 5, 6j]])
    >>> half = np.array([np.sqrt(np.pi), 0, 0, 0, 0, 0], dtype=complex)
    >>> np.allclose(seen_through(alms, half, spin=2), alms / 2)
    True
    """
    lmax = sht.alm_lmax(weights)
    grid = 3 * lmax // 2 + 1
    mask = sht.synthesis_gl(weights[None], grid, spin=0, nthreads=nthreads)
    field = sht.synthesis_gl(alms, grid, spin=spin, nthreads=nthreads)
    return sht.analysis_gl(field * mask, grid, lmax, spin=spin, nthreads=nthreads)
