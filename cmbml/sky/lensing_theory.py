"""Theory of lensing reconstruction and delensing: noise of the quadratic estimator, residual lensing spectra.

All sums over products of Wigner 3j symbols are done as integrals of Wigner d functions over cos theta, exactly, on
Gauss-Legendre nodes (Smith et al. 2012, JCAP 06 014, arXiv:1010.0048): seconds, and no Monte Carlo. Notation:
x_l = l(l+1); a lensed multipole l2 gets from the unlensed l1 and the potential L

    F_{l1 L l2} = (x_{l1} + x_L - x_{l2}) / 2 sqrt((2 l1 + 1)(2 L + 1)(2 l2 + 1) / 4 pi) (l1 L l2; 2 0 -2)

into the same parity where l1 + L + l2 is even, and into the other one (E into B) where it is odd.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from cmbml.sky import cosmology, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.noise import noise_cl
from cmbml.sky.wigner import wigner_d

FIDUCIAL = {
    "H0": 67.36,
    "ombh2": 0.02237,
    "omch2": 0.1200,
    "mnu": 0.06,
    "omk": 0.0,
    "tau": 0.0544,
    "As": 2.1e-9,
    "ns": 0.9649,
    "r": 0.01,
}
ESTIMATORS = ("mv", "eb")
_CONVERGED = 1e-4  # change of A_res at which the iteration stops
_MOST = 50  # steps that it takes at the longest
_LMAX_FIDUCIAL = 4000


def residual_fraction(
    *,
    noise_uk_arcmin: float,
    fwhm_arcmin: float,
    lmax: int,
    lmin_b: int = 200,
    iterative: bool = False,
    estimator: str = "eb",
    cls: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Return A_res(l) = C_l^BB[residual] / C_l^BB[lensing] that a lensing reconstruction leaves.

    Parameters
    ----------
    noise_uk_arcmin : float
        White noise of Q and U.
    fwhm_arcmin : float
        Beam.
    lmax : int
        Band limit of E, B and phi.
    lmin_b : int, optional
        First multipole of the B that enters the estimator.
    iterative : bool, optional
        Repeat with the B that is left until nothing changes (Smith et al. 2012): self-consistent, but with diagonal
        approximations, one mean response a multipole. No bound: `cmbml.sky.linear_map` leaves less.
    estimator : {"eb", "mv"}, optional
        EB alone or the minimum-variance combination of EE and EB.
    cls : mapping, optional
        Spectra of ``cosmology.spectra``, at least to lmax; by default those of the fiducial cosmology.

    Returns
    -------
    float64 array (lmax + 1,)
        1 below l = 2.

    Examples
    --------
    A noisy instrument sees no lensing, and leaves all of it; spectra made up:

    >>> ell = np.arange(65.0)
    >>> cls = {"lensed_ee": np.ones(65), "lensed_bb": np.full(65, 0.1), "bb": np.zeros(65), "pp": (ell + 1) ** -4}
    >>> good, bad = (
    ...     residual_fraction(noise_uk_arcmin=noise, fwhm_arcmin=30.0, lmax=64, lmin_b=2, cls=cls)[2:]
    ...     for noise in (1.0, 1e6)
    ... )
    >>> bool(np.all(good < bad)), np.allclose(bad, 1)
    (True, True)
    """
    return reconstruction(
        fiducial() if cls is None else cls,
        noise_cl(noise_uk_arcmin, lmax) / gaussian_beam(fwhm_arcmin, lmax) ** 2,
        lmin_b=lmin_b,
        estimator=estimator,
        iterative=iterative,
    )["residual"]


@lru_cache(maxsize=1)
def fiducial() -> dict[str, np.ndarray]:
    """Spectra of the fiducial cosmology to l = 4000."""
    return cosmology.spectra(FIDUCIAL, _LMAX_FIDUCIAL)


def reconstruction(
    cls: Mapping[str, np.ndarray],
    noise: np.ndarray,
    *,
    lmin_b: int,
    noise_b: np.ndarray | None = None,
    estimator: str = "mv",
    iterative: bool = False,
) -> dict[str, np.ndarray]:
    r"""Return the filters of the quadratic estimator, its normalisation and noise, and what its delensing leaves.

    With C the lensed spectra and N the noise: E_wiener = C^EE / (C^EE + N), E_inverse = 1 / (C^EE + N),
    B_inverse = 1 / (C^BB + N) from lmin_b on; R_L the response, N0 = 1 / R, phi_wiener = C^pp / (C^pp + N0). They are
    for E and B without beam and transfer; the noise may be that of an instrument or a measured one, of any spectrum;

        A_res = 1 - C_l^BB[E_wiener C^EE, phi_wiener C^pp] / C_l^BB[lensing],

    the first-order sum of ``Coupling.lensing_bb`` over CAMB's lensed BB (without tensors). The lensed rather than the
    unlensed E takes most of the second order into account (Lewis, Challinor & Hanson 2011, JCAP 03 018).

    Parameters
    ----------
    cls : mapping
        Spectra of ``cosmology.spectra``, at least to lmax.
    noise : array (lmax + 1,)
        N_l of E over the squared beam, uK^2; it sets the band limit of E, B and phi.
    noise_b : array (lmax + 1,), optional
        N_l of B; by default that of E.
    lmin_b, estimator, iterative
        As in ``residual_fraction``.

    Returns
    -------
    dict of float64 arrays (lmax + 1,)
        ``wiener_e inverse_e inverse_b response n0 wiener_phi residual``; N0 is infinite below L = 2.

    Raises
    ------
    ValueError
        If the estimator is unknown or the spectra end below lmax.

    Examples
    --------
    >>> ell = np.arange(65.0)
    >>> cls = {"lensed_ee": np.ones(65), "lensed_bb": np.full(65, 0.1), "bb": np.zeros(65), "pp": (ell + 1) ** -4}
    >>> theory = reconstruction(cls, np.full(65, 0.01), lmin_b=2)
    >>> np.allclose(theory["n0"][2:] * theory["response"][2:], 1)
    True
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"a lensing reconstruction is one of {', '.join(ESTIMATORS)}, not {estimator}")
    lmax = len(noise) - 1
    if len(cls["pp"]) <= lmax:
        raise ValueError(f"the spectra end below lmax = {lmax}")
    coupling = Coupling(lmax)
    ell = np.arange(lmax + 1)
    ee, pp, tensor = (cls[name][: lmax + 1] for name in ("lensed_ee", "pp", "bb"))
    lensing = cls["lensed_bb"][: lmax + 1] - tensor
    noise_b = noise if noise_b is None else noise_b
    good = ell >= 2
    wiener_e = np.where(good, ee / (ee + noise), 0)
    inverse_e = np.where(good, 1 / (ee + noise), 0)
    with_ee = coupling.response_ee(wiener_e * ee, inverse_e, wiener_e) if estimator == "mv" else 0.0
    residual = np.ones(lmax + 1)
    for _ in range(_MOST if iterative else 1):
        inverse_b = np.where(ell >= max(lmin_b, 2), 1 / (lensing * residual + tensor + noise_b), 0)
        response = np.where(good, coupling.response_eb(wiener_e * ee, inverse_b) + with_ee, 0)
        n0 = np.divide(1, response, out=np.full(lmax + 1, np.inf), where=response > 0)
        wiener_phi = np.where(good, pp / (pp + n0), 0)
        removed = coupling.lensing_bb(wiener_e * ee, wiener_phi * pp)
        before = residual
        residual = 1 - np.divide(removed, lensing, out=np.zeros(lmax + 1), where=good)
        if np.abs(residual - before).max() < _CONVERGED:
            break
    names = ("wiener_e", "inverse_e", "inverse_b", "response", "n0", "wiener_phi", "residual")
    return dict(zip(names, (wiener_e, inverse_e, inverse_b, response, n0, wiener_phi, residual), strict=True))


class Coupling:
    """The sums over 3j symbols of three multipoles up to lmax; spectra are arrays (lmax + 1,).

    F is the sum of two terms, one for each derivative of a spin-2 field (Okamoto & Hu 2003),

        (x_{l1} + x_L - x_{l2}) (l1 L l2; 2 0 -2) = - sqrt(x_L) [ a_{l1} (l1 L l2; 3 -1 -2) + b_{l1} (l1 L l2; 1 1 -2) ]

    with a_l^2 = (l - 2)(l + 3) and b_l^2 = (l + 2)(l - 1): unlike the left side, it loses no digits at low L. A product
    of two symbols is half the integral of three Wigner functions, (m n k)(m' n' k') -> d_{mm'} d_{nn'} d_{kk'}, and a
    symbol with all signs turned is (-1)^{l1 + L + l2} times itself.

    Examples
    --------
    No potential, no lensing; and to first order, twice the potential's power is twice that of B:

    >>> ee, pp = np.ones(17), np.arange(1.0, 18) ** -4
    >>> coupling = Coupling(16)
    >>> bool(np.any(coupling.lensing_bb(ee, 0 * pp)))
    False
    >>> np.allclose(coupling.lensing_bb(ee, 2 * pp), 2 * coupling.lensing_bb(ee, pp))
    True
    """

    def __init__(self, lmax: int) -> None:
        self.lmax = lmax
        self.x, self.weight = sht.gauss_legendre(3 * lmax // 2 + 1)
        ell = np.arange(lmax + 1.0)
        self.modes = 2 * ell + 1
        self.xl = ell * (ell + 1)
        self.a, self.b = (
            np.sqrt(np.maximum(y, 0) * (ell >= 2)) for y in ((ell - 2) * (ell + 3), (ell + 2) * (ell - 1))
        )
        self._tables: dict[tuple[int, int], np.ndarray] = {}

    def _d(self, m: int, n: int) -> np.ndarray:
        """d^l_mn(theta), (lmax + 1, nodes), m >= |n|; kept."""
        if (m, n) not in self._tables:
            self._tables[m, n] = wigner_d(m, n, self.lmax, self.x)
        return self._tables[m, n]

    def _sum(self, m: int, n: int, cl: np.ndarray) -> np.ndarray:
        """Sum_l (2l+1) C_l d^l_mn(x), (nodes,)."""
        summed: np.ndarray = (self.modes * cl[: self.lmax + 1]) @ self._d(m, n)
        return summed

    def _integral(self, m: int, n: int, values: np.ndarray) -> np.ndarray:
        """Integral of d^l_mn(x) times the values at the nodes, (lmax + 1,)."""
        integral: np.ndarray = self._d(m, n) @ (self.weight * values)
        return integral

    def _derivatives(self, cl: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the multipole that is derived: the terms aa + bb, and ab."""
        aa = self._sum(3, 3 * sign, self.a**2 * cl)
        bb = self._sum(1, sign, self.b**2 * cl)
        return aa + bb, self._sum(3, sign, self.a * self.b * cl)

    def lensing_bb(self, ee: np.ndarray, pp: np.ndarray) -> np.ndarray:
        """B power that E of the spectrum ``ee`` and potential of the spectrum ``pp`` make, to first order.

        C_l2 = 1/(2 l2 + 1) sum_{l1 L} |F_{l1 L l2}|^2 C^ee_l1 C^pp_L over odd l1 + L + l2 (Hu 2000, PRD 62 043007).
        """
        ee = ee[: self.lmax + 1]
        slope = {s: self._sum(1, s, self.xl * pp[: self.lmax + 1]) for s in (1, -1)}
        total = np.zeros(self.lmax + 1)
        for sign in (1, -1):
            same, mixed = self._derivatives(ee, sign)
            total = total + sign * self._integral(2, 2 * sign, same * slope[sign] + 2 * mixed * slope[-sign])
        return total / (64 * np.pi)

    def response_eb(self, e: np.ndarray, b: np.ndarray) -> np.ndarray:
        """1/(2L + 1) sum_{l1 l2} |F_{l1 L l2}|^2 e_l1 b_l2 over odd l1 + L + l2, (lmax + 1,)."""
        return self._squared(e, b, -1)

    def response_ee(self, gradient: np.ndarray, inverse: np.ndarray, cross: np.ndarray) -> np.ndarray:
        """1/(2L + 1) sum_{l1 l2} [|F_{l1 L l2}|^2 g_l1 i_l2 + F_{l1 L l2} F_{l2 L l1} c_l1 c_l2], even l1 + L + l2."""
        total = np.zeros(self.lmax + 1)
        for sign in (1, -1):
            a = self._sum(3, 2 * sign, self.a * cross)
            b = self._sum(2, sign, self.b * cross)
            total = total + sign * self._integral(1, -sign, a * a + b * b) - 2 * self._integral(1, sign, a * b)
        return self._squared(gradient, inverse, 1) + self.xl * total / (64 * np.pi)

    def _squared(self, e: np.ndarray, b: np.ndarray, parity: int) -> np.ndarray:
        """1/(2L + 1) sum_{l1 l2} |F_{l1 L l2}|^2 e_l1 b_l2 over l1 + L + l2 of one parity."""
        total = np.zeros(self.lmax + 1)
        for sign in (1, -1):
            same, mixed = self._derivatives(e, sign)
            other = self._sum(2, 2 * sign, b) * (1 if sign == 1 else parity)
            total = total + self._integral(1, sign, same * other) + 2 * self._integral(1, -sign, mixed * other)
        return self.xl * total / (64 * np.pi)
