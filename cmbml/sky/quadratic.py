"""Lensing reconstruction and delensing on the full sky, by products of spin fields on a Gauss-Legendre grid.

With P = Q + iU = - sum (E + iB) 2Y (HEALPix sign) and the gradient V = d_theta phi + i / sin theta d_phi phi, the
first-order effect of the deflection on polarisation is

    dP = grad phi . grad P = (V P1 - V* P3) / 2,

where P3 and P1 are the spin-3 and spin-1 fields of E, B times sqrt((l - 2)(l + 3)) and sqrt((l + 2)(l - 1)). The
quadratic estimator is its adjoint (Okamoto & Hu 2003, PRD 67 083002; Maniyar et al. 2021, arXiv:2101.12193).
"""

from collections.abc import Mapping

import numpy as np

from cmbml.sky import sht

_SINGLE = np.complex64  # ducc0's single-precision transforms err by 1e-6


def _gradient(alm: np.ndarray, fl: np.ndarray) -> np.ndarray:
    """Alms times f_l as the gradient of a spin field without curl, (2, nalm)."""
    pair = np.zeros((2, len(alm)), dtype=_SINGLE)
    sht.almxfl(alm, fl, out=pair[0])
    return pair


def _raise(lmax: int, spin: int) -> np.ndarray:
    """sqrt((l - 2)(l + 3)) for spin 3, sqrt((l + 2)(l - 1)) for spin 1: the derivatives of a spin-2 field."""
    ell = np.arange(lmax + 1.0)
    square = (ell - 2) * (ell + 3) if spin == 3 else (ell + 2) * (ell - 1)
    factor: np.ndarray = np.sqrt(np.maximum(square, 0) * (ell >= 2))
    return factor


def _slope(lmax: int) -> np.ndarray:
    """sqrt(l(l+1)): the gradient of a scalar field."""
    ell = np.arange(lmax + 1.0)
    return np.sqrt(ell * (ell + 1))


class FirstOrder:
    """The first-order lensing of a fixed E, dP[phi] = (V P1 - V* P3) / 2, as a linear operator on phi, and its adjoint.

    Its two fields P1 and P3 are made once and kept (complex64, 16 bytes a point of the grid): a product with phi is one
    transform to the grid and one back. What is between them is done where the field is, so that it costs little beside
    them.

    Parameters
    ----------
    e : complex array (nalm,)
        The E that is lensed, uK.
    grid : int, optional
        Band limit of the grid; from 3/2 lmax on products are exact, which is the default.
    nthreads : int, optional

    Examples
    --------
    The operator and its adjoint, with the inner product of real fields:

    >>> from cmbml.sky.lensing import unit_alm
    >>> b, e, phi = (sht.almxfl(unit_alm(np.random.default_rng(i), 16), np.arange(17) >= 2) for i in range(3))
    >>> lensing = FirstOrder(e)
    >>> modes = 2 * np.arange(17) + 1
    >>> one = modes @ sht.alm2cl(lensing.adjoint(0 * b, b), phi)
    >>> np.isclose(one, modes @ sht.alm2cl(b, lensing.lens(phi)[1]), rtol=1e-4)
    np.True_
    """

    def __init__(self, e: np.ndarray, *, grid: int | None = None, nthreads: int = 0) -> None:
        self.lmax = sht.alm_lmax(e)
        self.keys = {"grid": 3 * self.lmax // 2 + 1 if grid is None else grid, "nthreads": nthreads}
        self.p1 = sht.synthesis_gl(_gradient(e, _raise(self.lmax, 1)), spin=1, **self.keys)
        self.p3 = sht.synthesis_gl(_gradient(e, _raise(self.lmax, 3)), spin=3, **self.keys)

    def lens(self, phi: np.ndarray) -> np.ndarray:
        """Return the E and B that phi makes of it, complex128 (2, nalm), uK."""
        return self._lens(phi).astype(np.complex128)

    def adjoint(self, e: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the gradient with respect to phi of the inner product of e, b with ``lens(phi)``, complex128."""
        return self._adjoint(np.stack([e, b]).astype(_SINGLE))

    def curvature(self, phi: np.ndarray, fl: np.ndarray) -> np.ndarray:
        """Return ``adjoint(0, f_l B)`` of the B of ``lens(phi)``, complex128, without copies between the two."""
        pair = self._lens(phi)
        pair[0] = 0
        sht.almxfl(pair[1], fl, out=pair[1])
        return self._adjoint(pair)

    def _lens(self, phi: np.ndarray) -> np.ndarray:
        field = sht.synthesis_gl(_gradient(phi, _slope(self.lmax) / 2), spin=1, **self.keys)

        def multiply(chunk: slice) -> None:
            v = field[chunk]
            other = v.conj()
            other *= self.p3[chunk]
            v *= self.p1[chunk]
            v -= other

        sht.in_chunks(multiply, len(field), nthreads=self.keys["nthreads"])
        return sht.analysis_gl(field, lmax=self.lmax, spin=2, **self.keys)

    def _adjoint(self, pair: np.ndarray) -> np.ndarray:
        field = sht.synthesis_gl(pair, spin=2, **self.keys)

        def multiply(chunk: slice) -> None:
            f = field[chunk]
            other = f.conj()
            other *= self.p3[chunk]
            f *= self.p1[chunk].conj()
            f -= other

        sht.in_chunks(multiply, len(field), nthreads=self.keys["nthreads"])
        gradient = sht.analysis_gl(field, lmax=self.lmax, spin=1, **self.keys)[0]
        return sht.almxfl(gradient, _slope(self.lmax) / 2, out=np.empty(len(gradient), dtype=np.complex128))


def phi_gradient(
    e_inverse: np.ndarray | None, b_inverse: np.ndarray, e_wiener: np.ndarray, *, nthreads: int = 0
) -> np.ndarray:
    """Return the unnormalised quadratic estimate of the lensing potential, g_LM; phi = g / response.

    g is the gradient with respect to phi of the inner product of the inverse-variance filtered polarisation with
    dP[phi, E_wiener]: with B alone in the first leg the EB estimator; with E and B the minimum-variance combination of
    EE and EB, whose noise is uncorrelated by parity, so that their responses add up.

    Parameters
    ----------
    e_inverse, b_inverse : complex array (nalm,)
        E and B divided by their total power, beam-deconvolved, 1/uK; no E for the EB estimator.
    e_wiener : complex array (nalm,)
        Wiener-filtered E, uK.
    nthreads : int, optional

    Returns
    -------
    complex128 array (nalm,)

    Examples
    --------
    The estimate's product with any phi is that of B_inverse with the B that phi makes of E_wiener:

    >>> from cmbml.sky.lensing import unit_alm
    >>> b, e, phi = (sht.almxfl(unit_alm(np.random.default_rng(i), 16), np.arange(17) >= 2) for i in range(3))
    >>> modes = 2 * np.arange(17) + 1
    >>> one = modes @ sht.alm2cl(phi_gradient(None, b, e), phi)
    >>> other = modes @ sht.alm2cl(b, lensing_template({"E": e}, phi)["B"])
    >>> np.isclose(one, other, rtol=1e-4)
    np.True_
    """
    e = np.zeros_like(b_inverse) if e_inverse is None else e_inverse
    return FirstOrder(e_wiener, nthreads=nthreads).adjoint(e, b_inverse)


def lensing_template(
    alms: Mapping[str, np.ndarray], phi: np.ndarray, *, order: str = "gradient", nthreads: int = 0
) -> dict[str, np.ndarray]:
    """Return what the potential phi does to a sky: the estimate of lensed minus unlensed T, E, B.

    Parameters
    ----------
    alms : mapping
        ``E``, or ``T``, or both, uK: (Wiener-filtered) fields that are lensed. Given E, the result has E and B.
    phi : complex array (nalm,)
        The potential, of the same lmax.
    order : {"gradient", "remap"}, optional
        First order in the gradient, grad phi . grad X, right for the *lensed* X; or the full remapping of X by phi.
    nthreads : int, optional

    Returns
    -------
    dict of complex128 arrays (nalm,)

    Raises
    ------
    ValueError
        If the order is unknown.

    Examples
    --------
    Of phi = a z and T = z, z = cos theta, grad phi . grad T = a sin^2 theta, whose mean is 2 a / 3:

    >>> z = np.array([0, np.sqrt(4 * np.pi / 3), 0, 0, 0, 0], dtype=complex)
    >>> t = lensing_template({"T": z}, 0.01 * z)["T"]
    >>> round(float(t[0].real / np.sqrt(4 * np.pi)), 6)
    0.006667
    """
    if order not in ("gradient", "remap"):
        raise ValueError(f"the order of a lensing template is gradient or remap, not {order}")
    lmax = sht.alm_lmax(phi)
    if order == "remap":
        zero = np.zeros_like(phi)
        given = {x: np.asarray(alms.get(x, zero), dtype=complex) for x in "TEB"}
        moved = sht.lens(given, phi, lmax, nthreads=nthreads)
        return {x: moved[x] - given[x] for x in "TEB" if x in alms or (x == "B" and "E" in alms)}
    out = {}
    if "T" in alms:
        keys = {"grid": 3 * lmax // 2 + 1, "nthreads": nthreads}
        v, slope = (sht.synthesis_gl(_gradient(alm, _slope(lmax)), spin=1, **keys) for alm in (phi, alms["T"]))
        product = (v * slope.conj()).real
        out["T"] = sht.analysis_gl(product, lmax=lmax, spin=0, **keys)[0].astype(np.complex128)
    if "E" in alms:
        out |= zip("EB", FirstOrder(alms["E"], nthreads=nthreads).lens(phi), strict=True)
    return out
