"""Wigner's functions d^l_mn, the integrals of which are sums over products of Wigner 3j symbols."""

from math import comb

import numpy as np


def wigner_d(m: int, n: int, lmax: int, x: np.ndarray) -> np.ndarray:
    """Return d^l_mn(theta) at x = cos theta for l = 0 .. lmax, float64 (lmax + 1, len(x)).

    By recursion in l, for m >= |n|, from l = m on (Varshalovich, Moskalev & Khersonskii 1988, sections 4.3 and 4.8),

        l sqrt(((l+1)^2 - m^2)((l+1)^2 - n^2)) d^{l+1}
            = (2l+1)(l(l+1) x - mn) d^l - (l+1) sqrt((l^2 - m^2)(l^2 - n^2)) d^{l-1},
        d^m_mn = sqrt((2m)! / (m+n)! (m-n)!) cos^{m+n}(theta/2) (-sin(theta/2))^{m-n};

    other m and n by d_mn = (-1)^{m-n} d_nm = d_{-n,-m}. A product of two 3j symbols of the same multipoles is

        (l1 l2 l3; a b c)(l1 l2 l3; a' b' c') = 1/2 int_{-1}^{1} d^l1_aa' d^l2_bb' d^l3_cc' dx.

    Examples
    --------
    d^l_00 is Legendre's polynomial, d^1_10 = - sin theta / sqrt 2:

    >>> x = np.array([-0.5, 0.0, 0.8])
    >>> np.allclose(wigner_d(0, 0, 2, x)[2], (3 * x**2 - 1) / 2)
    True
    >>> np.allclose(wigner_d(1, 0, 1, x)[1], -np.sqrt((1 - x**2) / 2))
    True
    """
    if m < abs(n):
        if n <= -abs(m):
            return wigner_d(-n, -m, lmax, x)
        turned: np.ndarray = wigner_d(n, m, lmax, x) if n >= abs(m) else wigner_d(-m, -n, lmax, x)
        return -turned if (m - n) % 2 else turned
    d = np.zeros((lmax + 1, len(x)))
    if m > lmax:
        return d
    d[m] = (
        np.sqrt(comb(2 * m, m + n)) * ((1 + x) / 2) ** ((m + n) / 2) * (-1) ** (m - n) * ((1 - x) / 2) ** ((m - n) / 2)
    )
    if m == 0 and lmax > 0:
        d[1] = x
    for k in range(max(m, 1), lmax):
        up = k * np.sqrt(((k + 1.0) ** 2 - m * m) * ((k + 1.0) ** 2 - n * n))
        down = (k + 1) * np.sqrt((k * k - m * m) * (k * k - n * n * 1.0))
        d[k + 1] = ((2 * k + 1) * (k * (k + 1) * x - m * n) * d[k] - down * d[k - 1]) / up
    return d
