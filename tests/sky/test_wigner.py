"""Wigner functions: orthogonality, their symmetries under the parity, and sums over 3j symbols of another library."""

import numpy as np
import pytest
from camb.mathutils import threej

from cmbml.sky import sht
from cmbml.sky.wigner import wigner_d

SIGNS = [(m, n) for m in range(-3, 4) for n in range(-3, 4)]


@pytest.mark.parametrize(("m", "n"), SIGNS)
def test_wigner_functions_are_orthogonal_and_turn_with_the_parity(m, n):
    """int d^l d^l' = 2 / (2l + 1) for l = l'; d^l_mn(pi - theta) = (-1)^{l+m} d^l_{m,-n}(theta)."""
    lmax = 9
    x, weight = sht.gauss_legendre(lmax + 1)
    d = wigner_d(m, n, lmax, x)
    ell = np.arange(lmax + 1)
    norm = 2 / (2 * ell + 1) * (ell >= max(abs(m), abs(n)))
    np.testing.assert_allclose((d * weight) @ d.T, np.diag(norm), atol=1e-14)
    np.testing.assert_allclose(
        wigner_d(m, n, lmax, -x), (-1.0) ** (ell + m)[:, None] * wigner_d(m, -n, lmax, x), atol=1e-13
    )


def test_products_of_symbols_are_integrals():
    """Symbols of CAMB: (l3 l1 l2; - (m1 + m2) m1 m2) for all l3; signs of m1 and m2 of all kinds."""
    lmax = 8
    x, weight = sht.gauss_legendre(3 * lmax // 2 + 1)
    for (a, b), (c, d) in [((2, -2), (2, -2)), ((1, -2), (2, -2)), ((0, -2), (-2, 2)), ((1, 1), (-1, 3))]:
        first = wigner_d(a, c, lmax, x)
        second = wigner_d(b, d, lmax, x)
        third = wigner_d(-a - b, -c - d, 2 * lmax, x)
        for l1 in range(3, lmax + 1):
            for l2 in range(3, lmax + 1):
                least = max(abs(l1 - l2), abs(a + b))
                product = threej(l1, l2, a, b)[: lmax + 1 - least]
                other = threej(l1, l2, c, d)
                shift = max(abs(l1 - l2), abs(c + d)) - least
                expected = np.zeros(lmax + 1)
                for k, value in enumerate(product):
                    if 0 <= k - shift < len(other):
                        expected[least + k] = value * other[k - shift]
                found = third[: lmax + 1] @ (weight * first[l1] * second[l2]) / 2
                np.testing.assert_allclose(found, expected, atol=1e-13)
