r"""Power spectra on a part of the sky: mode coupling, pure B, bandpowers. Usable alone, on arrays of any origin.

A map times a window w has pseudo-alms that mix multipoles, and for polarisation E and B. The mean of their spectra is

    <C~_l1> = sum_l2 M_l1l2 C_l2,

with W_l = sum_m |w_lm|^2 / (2l + 1) the spectrum of the window (Hivon et al. 2002, ApJ 567 2; Kogut et al. 2003,
ApJS 148 161 for polarisation):

    scalar   M    = (2 l2 + 1)/4pi sum_l3 (2 l3 + 1) W_l3 (l1 l2 l3; 0 0 0)^2
    spin 2   M^+- = (2 l2 + 1)/4pi sum_l3 (2 l3 + 1) W_l3 (l1 l2 l3; 2 -2 0)^2 (1 +- (-1)^{l1+l2+l3})/2

M^+ takes E into E and B into B, M^- the one into the other: E that is a thousand times B leaks into it.

Pure B (Smith 2006, PRD 74 083002; Smith & Zaldarriaga 2007, PRD 76 043001; Grain, Tristram & Stompor 2009, PRD 79
123515) takes the derivatives of the window into the harmonics. With P = Q + iU, eth the spin-raising derivative and
N_l = sqrt((l-2)! / (l+2)!),

    E~ + i B~ = - N_l int P conj(eth^2 (w Y_lm))
              = - int P conj(w 2Y_lm + 2/sqrt((l-1)(l+2)) (eth w) 1Y_lm + N_l (eth^2 w) Y_lm)

in which E does not enter B~ at all, if w and its slope vanish at the border of what is known. Integrated by parts this
is w times the scalar field (eth-bar)^2 P, whose B part has the alms B_lm / N_l; so B~ has the coupling of a scalar

    pure     M    = N_l1^2 M_scalar / N_l2^2.

The road from Q and U to bandpowers::

    window = window_of(apodise(mask, 10.0), lmax)            # C2: value and slope vanish; see cmbml.sky.masks
    pseudo_cl = alm2cl(pure_b_alm(qu, window, lmax))
    edges = bin_edges(2, lmax + 1, 20)                       # all multipoles from 2, or the first bin is biased
    unbiased, windows = decoupling(pure_coupling(window.cl, lmax), edges)
    bandpowers = unbiased @ pseudo_cl                        # <bandpowers> = windows @ C_l
    scatter = unbiased @ covariance(...) @ unbiased.T

The last bins miss what leaks in from beyond lmax: leave them out. Beam and pixel window are those of the caller.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cmbml.sky import sht
from cmbml.sky.spectra import bin_spectrum
from cmbml.sky.wigner import wigner_d

_ITERATIONS = 3  # of an analysis: E that a quadrature leaves in B is small against E and not against B


@dataclass(frozen=True)
class Window:
    """A window and its derivatives.

    Attributes
    ----------
    fields : complex array (3, npix)
        w, - eth w, - eth^2 w: fields of spin 0, 1 and 2.
    cl : array (lmax + 1,)
        W_l.

    Examples
    --------
    The full sky, which has no derivatives:

    >>> everywhere = Window(np.array([[1], [0], [0]], dtype=complex), np.array([4 * np.pi, 0, 0]))
    >>> everywhere.fields[0]
    array([1.+0.j])
    """

    fields: np.ndarray
    cl: np.ndarray


def window_of(mask: np.ndarray, lmax: int, *, nthreads: int = 0) -> Window:
    """Return the window that a mask is up to lmax, with its derivatives computed in harmonic space.

    w_lm sqrt(l(l+1)) and w_lm sqrt((l+2)! / (l-2)!) are the alms of the fields of spin 1 and 2.

    Parameters
    ----------
    mask : array (npix,)
        0 to 1, RING, apodised with C2 (``masks.apodise``): of a mask with an edge the second derivative is noise.
    lmax : int
        At most 2.5 nside; what the mask has beyond is left out of all three alike.
    nthreads : int, optional

    Examples
    --------
    w = cos^2 theta has the slope - sin 2 theta along theta, at 45 degrees -1:

    >>> import healpy as hp
    >>> z = hp.pix2vec(16, np.arange(3072))[2]
    >>> window = window_of(z**2, 8)
    >>> np.allclose(window.fields[1], -2 * z * np.sqrt(1 - z**2), atol=1e-5)
    True
    """
    alm = sht.analysis(mask, lmax, niter=_ITERATIONS, nthreads=nthreads)
    nside = round(np.sqrt(np.shape(mask)[-1] / 12))
    fields = _derivatives(alm, lambda a, spin: sht.synthesis(a, nside, spin=spin, nthreads=nthreads))
    return Window(fields, sht.alm2cl(alm))


def _derivatives(alm: np.ndarray, synthesis: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """w and its first and second derivative as complex fields (3, npix)."""
    ell = np.arange(sht.alm_lmax(alm) + 1.0)
    fields = [synthesis(alm, 0).astype(complex)]
    for spin, factor in ((1, ell * (ell + 1)), (2, _growth(ell))):
        gradient = sht.almxfl(alm, np.sqrt(factor))
        real, imaginary = synthesis(np.stack([gradient, np.zeros_like(gradient)]), spin)
        fields.append(real + 1j * imaginary)
    return np.stack(fields)


def _growth(ell: np.ndarray) -> np.ndarray:
    """(l+2)! / (l-2)! = (l+2)(l+1) l (l-1), 0 below l = 2."""
    growth: np.ndarray = np.maximum((ell + 2) * (ell + 1) * ell * (ell - 1), 0)
    return growth


def _inverse(x: np.ndarray) -> np.ndarray:
    """1 / x, and 0 where x is 0."""
    inverse: np.ndarray = np.divide(1, x, out=np.zeros_like(x), where=x > 0)
    return inverse


def pure_b_alm(qu: np.ndarray, window: Window, lmax: int, *, niter: int = _ITERATIONS, nthreads: int = 0) -> np.ndarray:
    """Return the pure-B pseudo-alms of a map of Q and U.

    Parameters
    ----------
    qu : array (2, npix)
        RING, with HEALPix's sign of U; need not be known where the window is 0.
    window : Window
        Of the same pixels.
    lmax : int
    niter : int, optional
        Iterations of the analyses (``sht.analysis``).
    nthreads : int, optional

    Returns
    -------
    complex128 array (nalm,)
        In the unit of the map; 0 below l = 2.

    Examples
    --------
    Without a mask they are the alms of B, whatever E is:

    >>> eb = np.array([[0, 0, 1, 0, 2j, 3], [0, 0, 4, 0, 5, 6j]])
    >>> full = window_of(np.ones(768), 4)
    >>> np.allclose(pure_b_alm(sht.synthesis(eb, 8, spin=2), full, 2), eb[1], atol=1e-5)
    True
    """

    def analysis(field: np.ndarray, spin: int) -> np.ndarray:
        return sht.analysis(np.stack([field.real, field.imag]), lmax, spin=spin, niter=niter, nthreads=nthreads)

    return _pure_b(qu[0] + 1j * qu[1], window.fields, lmax, analysis)


def masked_alms(
    qu: np.ndarray, window: Window, lmax: int, *, niter: int = 1, nthreads: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the alms of E and B of a map of Q and U times a window, (2, nalm), and its pure B, (nalm,).

    Pure B costs two transforms more: the terms of the window's derivatives are small where an analysis errs, and go
    without iterations. From l of a few hundred on it is B times the window, as E is E times the window.

    Parameters
    ----------
    qu, window, lmax, niter, nthreads
        As in ``pure_b_alm``.

    Examples
    --------
    >>> eb = np.array([[0, 0, 1, 0, 2j, 3], [0, 0, 4, 0, 5, 6j]])
    >>> full = window_of(np.ones(768), 4)
    >>> found, pure = masked_alms(sht.synthesis(eb, 8, spin=2), full, 2, niter=3)
    >>> np.allclose(found, eb, atol=1e-4), np.allclose(pure, eb[1], atol=1e-4)
    (True, True)
    """
    plain = sht.analysis(np.asarray(qu) * window.fields[0].real, lmax, spin=2, niter=niter, nthreads=nthreads)

    def analysis(field: np.ndarray, spin: int) -> np.ndarray:
        if spin == 2:
            return plain
        return sht.analysis(np.stack([field.real, field.imag]), lmax, spin=spin, niter=0, nthreads=nthreads)

    return plain, _pure_b(qu[0] + 1j * qu[1], window.fields, lmax, analysis)


def pure_through(alm: np.ndarray, times_window: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the pure B of a sky of these alms of B, (nalm,), without pixels.

    It is N_l times the alms of the window times the map of B_lm / N_l, N_l = sqrt((l-2)! / (l+2)!).

    Parameters
    ----------
    alm : array (nalm,)
    times_window : callable
        From the alms of a scalar map to those of the map times the window.

    Examples
    --------
    >>> alm = np.array([0, 0, 4, 0, 5, 6j])
    >>> np.allclose(pure_through(alm, lambda a: a), alm)
    True
    """
    growth = np.sqrt(_growth(np.arange(sht.alm_lmax(alm) + 1.0)))
    return sht.almxfl(times_window(sht.almxfl(alm, growth)), _inverse(growth))


def _pure_b(
    polarisation: np.ndarray, fields: np.ndarray, lmax: int, analysis: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """B_2 - 2/sqrt((l-1)(l+2)) B_1 + N_l B_0 of P times the conjugate fields, of which B_s is the curl of spin s."""
    ell = np.arange(lmax + 1.0)
    curls = [analysis(field.conj() * polarisation, spin)[1] for field, spin in zip(fields, (2, 1, 0), strict=True)]
    factors = (
        (ell >= 2).astype(float),
        -2 * _inverse(np.sqrt(np.maximum((ell - 1) * (ell + 2), 0))),
        np.sqrt(_inverse(_growth(ell))),
    )
    return sum(
        (sht.almxfl(curl, factor) for curl, factor in zip(curls, factors, strict=True)), start=np.zeros_like(curls[0])
    )


def scalar_coupling(window_cl: np.ndarray, lmax: int) -> np.ndarray:
    """Return M of scalar maps times a window, float64 (lmax + 1, lmax + 1): rows of the pseudo-spectrum, columns of C.

    All sums are integrals of Wigner functions, exact on Gauss-Legendre nodes; .1 s for lmax = 500.

    Parameters
    ----------
    window_cl : array
        W_l from l = 0; reaching 2 lmax it holds all that couples two multipoles up to lmax.
    lmax : int

    Examples
    --------
    The full sky couples nothing:

    >>> np.allclose(scalar_coupling([4 * np.pi, 0, 0], 3), np.eye(4))
    True
    """
    window_cl = np.asarray(window_cl, dtype=np.float64)
    return 2 * _integral(window_cl, lmax, 0, 0)


def spin2_coupling(window_cl: np.ndarray, lmax: int) -> np.ndarray:
    """Return M^+ and M^- of Q and U times a window, float64 (2, lmax + 1, lmax + 1); see ``scalar_coupling``.

    Examples
    --------
    The full sky takes E into E, B into B, and has neither below l = 2:

    >>> same, other = spin2_coupling([4 * np.pi, 0, 0], 3)
    >>> np.allclose(same, np.diag([0, 0, 1, 1])), np.allclose(other, 0)
    (True, True)
    """
    window_cl = np.asarray(window_cl, dtype=np.float64)
    even, odd = (_integral(window_cl, lmax, 2, n) for n in (2, -2))
    return np.stack([even + odd, even - odd])


def pure_coupling(window_cl: np.ndarray, lmax: int) -> np.ndarray:
    """Return M of B into pure B, float64 (lmax + 1, lmax + 1); see ``scalar_coupling``. E does not enter.

    Examples
    --------
    >>> np.allclose(pure_coupling([4 * np.pi, 0, 0], 3), np.diag([0, 0, 1, 1]))
    True
    """
    growth = _growth(np.arange(lmax + 1.0))
    coupling: np.ndarray = _inverse(growth)[:, None] * scalar_coupling(window_cl, lmax) * growth
    return coupling


def _integral(window_cl: np.ndarray, lmax: int, m: int, n: int) -> np.ndarray:
    """(2 l2 + 1)/16 pi int d^l1_mn d^l2_mn xi, xi = sum_l3 (2 l3 + 1) W_l3 d^l3_00."""
    last = len(window_cl) - 1
    x, weight = sht.gauss_legendre((2 * lmax + last) // 2 + 1)
    correlation = ((2 * np.arange(last + 1) + 1) * window_cl) @ wigner_d(0, 0, last, x)
    d = wigner_d(m, n, lmax, x)
    integral: np.ndarray = (d * (weight * correlation)) @ d.T * (2 * np.arange(lmax + 1) + 1) / (16 * np.pi)
    return integral


def decoupling(coupling: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what makes bandpowers of a pseudo-spectrum, and their window functions.

    With P the mean over a bin, each l weighted by 2l + 1, and U the spectrum that is constant in each bin (Hivon et al.
    2002, section 3; C_l and not D_l: lensing's BB is nearly white),

        bandpowers = (P M U)^-1 P C~,    <bandpowers> = (P M U)^-1 P M C.

    Parameters
    ----------
    coupling : array (lmax + 1, lmax + 1)
    edges : int array (nbin + 1,)
        Bin i holds edges[i] <= l < edges[i + 1]; from 2, or less, to lmax + 1. What is in no bin leaks into the others.

    Returns
    -------
    unbiased, windows : float64 arrays (nbin, lmax + 1)
        ``bandpowers = unbiased @ pseudo_cl``; a model's are ``windows @ cl``.

    Raises
    ------
    ValueError
        If the bins leave out multipoles.

    Examples
    --------
    A spectrum that is constant in each bin comes back:

    >>> matrix = pure_coupling(0.5 ** np.arange(9), 8)
    >>> edges = np.array([2, 5, 9])
    >>> unbiased, windows = decoupling(matrix, edges)
    >>> cl = np.array([0, 0, 3, 3, 3, 7, 7, 7, 7])
    >>> np.allclose(unbiased @ matrix @ cl, [3, 7]), np.allclose(windows @ cl, [3, 7])
    (True, True)
    """
    last = len(coupling) - 1
    if edges[0] > 2 or edges[-1] != last + 1:
        raise ValueError(
            f"bins of a coupled spectrum reach from l = 2 to {last}, and not {edges[0]} to {edges[-1] - 1}"
        )
    ell = np.arange(last + 1)
    constant = ((ell[:, None] >= edges[:-1]) & (ell[:, None] < edges[1:])).astype(float)
    mean = bin_spectrum(np.eye(last + 1), edges).T
    unbiased = np.linalg.solve(mean @ coupling @ constant, mean)
    return unbiased, unbiased @ coupling


def covariance(pseudo_cl: np.ndarray, square_cl: np.ndarray, f_sky: float) -> np.ndarray:
    """Return the covariance of a pseudo-spectrum of a Gaussian field, float64 (lmax + 1, lmax + 1).

        Cov_l1l2 = 2 C~_l1 C~_l2 / <w^2>^2 M[w^2]_l1l2 / (2 l2 + 1),

    with M[w^2] the scalar coupling of the square of the window: the narrow-kernel approximation with the coupled
    spectrum in the place of C_l (Efstathiou 2004, MNRAS 349 603; Nicola et al. 2021, JCAP 03 067). For B of scalar maps
    and for pure B, of which E is no part.

    Parameters
    ----------
    pseudo_cl : array (lmax + 1,)
        Mean pseudo-spectrum of all that is in the map: the coupling times signal and noise.
    square_cl : array
        W_l of the squared window.
    f_sky : float
        <w^2>, the mean square of the window.

    Examples
    --------
    On the full sky it is Knox's (1995, PRD 52 4307) 2 C_l^2 / (2l + 1):

    >>> np.allclose(covariance(np.full(4, 3.0), [4 * np.pi], 1.0), np.diag(18 / (2 * np.arange(4) + 1)))
    True
    """
    lmax = len(pseudo_cl) - 1
    shape = scalar_coupling(square_cl, lmax) / (2 * np.arange(lmax + 1) + 1)
    out: np.ndarray = 2 / f_sky**2 * np.outer(pseudo_cl, pseudo_cl) * shape
    return out
