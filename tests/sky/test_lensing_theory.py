"""Theory of lensing reconstruction: against 3j symbols one by one, CAMB's lensed BB, and published residuals."""

import re

import numpy as np
import pytest
from camb.mathutils import threej

from cmbml.sky import lensing_theory as theory
from tests.conftest import REPO

# A_res over 20 < l < 200 of the quadratic and the iterative EB estimator:
# (lmax, beam in arcmin, first l of B): {noise in uK arcmin: (quadratic, iterative)}.
TABLE = {
    (500, 5, 200): {0.5: (0.860, 0.842), 1: (0.863, 0.846), 2: (0.873, 0.860)},
    (750, 5, 200): {0.5: (0.688, 0.622), 1: (0.694, 0.634), 2: (0.717, 0.672)},
    (1000, 5, 200): {0.5: (0.559, 0.453), 1: (0.569, 0.473), 2: (0.604, 0.535)},
    (1500, 5, 200): {0.5: (0.383, 0.230), 1: (0.408, 0.277), 2: (0.471, 0.385)},
    (2000, 5, 200): {0.5: (0.291, 0.139), 1: (0.338, 0.211), 2: (0.427, 0.343)},
    (2500, 5, 200): {0.5: (0.260, 0.118), 1: (0.321, 0.199), 2: (0.419, 0.336)},
    (1500, 5, 2): {0.5: (0.379, 0.223), 1: (0.403, 0.269), 2.1: (0.471, 0.386), 5: (0.644, 0.621)},
    (3000, 5, 2): {0.5: (0.252, 0.112), 1: (0.316, 0.193), 2.1: (0.422, 0.340), 5: (0.623, 0.600)},
    (3000, 1, 2): {0.5: (0.196, 0.069), 1: (0.246, 0.134), 2.1: (0.348, 0.268), 5: (0.556, 0.530)},
}


def rows():
    for (lmax, fwhm, lmin_b), levels in TABLE.items():
        for noise, expected in levels.items():
            marks = [] if lmax <= 1000 or (lmax == 1500 and noise == 1) else pytest.mark.slow
            yield pytest.param(lmax, fwhm, lmin_b, noise, expected, marks=marks)


@pytest.mark.parametrize(("lmax", "fwhm", "lmin_b", "noise", "expected"), list(rows()))
def test_residual_fraction_is_the_published_one(lmax, fwhm, lmin_b, noise, expected):
    keys = {"noise_uk_arcmin": noise, "fwhm_arcmin": fwhm, "lmax": lmax, "lmin_b": lmin_b}
    for iterative, value in zip((False, True), expected, strict=True):
        found = theory.residual_fraction(**keys, iterative=iterative)[20:201].mean()
        assert found == pytest.approx(value, rel=0.03)


def brute(lmax: int, weight, out: str, odd: bool) -> np.ndarray:
    """Sum over F^2 one 3j symbol after the other; ``weight(l1, L, l2)`` multiplies each; free multipole ``out``."""
    total = np.zeros(lmax + 1)
    for l1 in range(2, lmax + 1):
        for l2 in range(2, lmax + 1):
            least = max(abs(l1 - l2), 0)
            symbols = threej(l1, l2, 2, -2)  # (L l1 l2; 0 2 -2) for L from |l1 - l2|
            for big in range(max(least, 0), min(l1 + l2, lmax) + 1):
                if (l1 + l2 + big) % 2 != odd:
                    continue
                x1, x2, x = (k * (k + 1) for k in (l1, l2, big))
                three = symbols[big - least] ** 2
                unit = (2 * l1 + 1) * (2 * l2 + 1) * (2 * big + 1) / (4 * np.pi) * three
                free = {"l2": l2, "L": big}[out]
                forth, back = (x1 + x - x2) / 2, (x2 + x - x1) / 2
                total[free] += unit * weight(l1, big, l2, forth, back)
    return total / (2 * np.arange(lmax + 1) + 1)


def test_couplings_are_the_sums_over_3j_symbols():
    lmax, rng = 12, np.random.default_rng(1)
    a, b, c = rng.uniform(0.5, 1.5, (3, lmax + 1)) * (np.arange(lmax + 1) >= 2)
    coupling = theory.Coupling(lmax)
    bb = brute(lmax, lambda l1, big, l2, f, g: f**2 * a[l1] * b[big], "l2", odd=True)
    np.testing.assert_allclose(coupling.lensing_bb(a, b)[2:], bb[2:], rtol=1e-10)
    eb = brute(lmax, lambda l1, big, l2, f, g: f**2 * a[l1] * b[l2], "L", odd=True)
    np.testing.assert_allclose(coupling.response_eb(a, b)[1:], eb[1:], rtol=1e-10)
    ee = brute(lmax, lambda l1, big, l2, f, g: f**2 * a[l1] * b[l2] + f * g * c[l1] * c[l2], "L", odd=False)
    np.testing.assert_allclose(coupling.response_ee(a, b, c)[1:], ee[1:], rtol=1e-10)


def test_first_order_lensing_is_cambs_at_low_l():
    """Higher orders and E beyond l = 2500 add a percent to the BB at l < 200 (CAMB's is to all orders)."""
    cls = theory.fiducial()
    coupling = theory.Coupling(2500)
    first = coupling.lensing_bb(cls["ee"], cls["pp"])[2:201]
    np.testing.assert_allclose(first, (cls["lensed_bb"] - cls["bb"])[2:201], rtol=0.02)


def test_limits():
    """All noise: nothing is removed. More data, a second iteration and EE beside EB never leave more."""
    keys = {"fwhm_arcmin": 5.0, "lmax": 600}
    assert theory.residual_fraction(noise_uk_arcmin=1e4, **keys)[20:201] == pytest.approx(1, abs=1e-6)
    eb, mv, iterated = (
        theory.residual_fraction(noise_uk_arcmin=1.0, **keys, **more)[20:201].mean()
        for more in ({}, {"estimator": "mv"}, {"iterative": True})
    )
    assert iterated < eb
    assert 0.95 * eb < mv < eb


def test_what_is_no_estimator_is_refused():
    with pytest.raises(ValueError, match="mv, eb"):
        theory.residual_fraction(noise_uk_arcmin=1.0, fwhm_arcmin=5.0, lmax=50, estimator="tt")
    with pytest.raises(ValueError, match="lmax = 5000"):
        theory.residual_fraction(noise_uk_arcmin=1.0, fwhm_arcmin=5.0, lmax=5000)


# The spectra of the example are those of this file: CAMB has run.
PAGE = (REPO / "docs" / "explanation" / "linear-map.md").read_text()
EXAMPLE, SAID = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", PAGE, re.DOTALL).groups()


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"\d\.\d+", text)]


def test_the_example_of_the_linear_map_keeps_what_a_posterior_mean_keeps(capsys):
    """A_res is 1 - rho^2 for the right amplitude alone."""
    small = EXAMPLE.replace("= 500, 200, 1500", "= 300, 100, 300")
    assert small != EXAMPLE
    exec(compile(small, "linear-map.md", "exec"), {})
    a_res, rho = numbers(capsys.readouterr().out)
    assert a_res < 0.97
    assert a_res == pytest.approx(1 - rho**2, abs=0.015)  # six seeds have 1.003 to 1.005 as their sum


@pytest.mark.slow
def test_the_example_of_the_linear_map_gives_what_the_page_says(capsys):
    exec(compile(EXAMPLE, "linear-map.md", "exec"), {})
    assert numbers(capsys.readouterr().out) == pytest.approx(numbers(SAID), abs=0.003)
