"""The linear MAP against dense algebra, and against what must not change it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cmbml.core.stage import THREAD_VARIABLES
from cmbml.sky import sht
from cmbml.sky.lensing import draw_alms, unit_alm
from cmbml.sky.lensing_theory import fiducial
from cmbml.sky.linear_map import inner, sample, solve, weights
from cmbml.sky.quadratic import FirstOrder, lensing_template
from tests.conftest import REPO

LMAX = 24
ELL = np.arange(LMAX + 1.0)
PP = (ELL + 1) ** -3.0
FLAT = np.ones(LMAX + 1)
CLS = {"lensed_ee": FLAT, "lensed_bb": 0 * FLAT, "bb": 0 * FLAT, "pp": PP}
NOISE = np.linspace(0.5, 2, LMAX + 1)


def drawn(seed: int, cl: np.ndarray = FLAT, lmax: int = LMAX) -> np.ndarray:
    """Alms (nalm,) from l = 2."""
    return sht.almxfl(unit_alm(np.random.default_rng(seed), lmax), np.sqrt(cl) * (np.arange(lmax + 1) >= 2))


def as_vector(alm: np.ndarray) -> np.ndarray:
    """Real coefficients whose Euclidean product is that of the fields, (lmax + 1)^2."""
    zero = slice(0, LMAX + 1)
    return np.concatenate([alm[zero].real, np.sqrt(2) * alm[LMAX + 1 :].real, np.sqrt(2) * alm[LMAX + 1 :].imag])


def as_alm(vector: np.ndarray) -> np.ndarray:
    """The alms of such coefficients."""
    rest = (len(vector) - LMAX - 1) // 2
    complex_part = (vector[LMAX + 1 : LMAX + 1 + rest] + 1j * vector[LMAX + 1 + rest :]) / np.sqrt(2)
    return np.concatenate([vector[: LMAX + 1].astype(complex), complex_part])


def test_the_adjoint_is_the_adjoint():
    lmax = 96
    e, b, phi = (drawn(seed, np.ones(lmax + 1), lmax) for seed in range(3))
    for grid in (None, 120):
        lensing = FirstOrder(e, grid=grid)
        one = inner(lensing.adjoint(0 * b, b), phi)
        assert one == pytest.approx(inner(b, lensing.lens(phi)[1]), abs=1e-6 * np.sqrt(inner(one * b, one * b)))
        fl = np.arange(lmax + 1.0)
        both = lensing.adjoint(0 * b, sht.almxfl(lensing.lens(phi)[1], fl))
        np.testing.assert_allclose(lensing.curvature(phi, fl), both, rtol=1e-6)


def test_the_solution_is_that_of_dense_algebra():
    e = drawn(0)
    b = lensing_template({"E": e}, drawn(1, PP))["B"] + drawn(2, NOISE)
    w = weights(CLS, NOISE, FLAT, lmin_b=6)
    lensing = FirstOrder(e, grid=40)
    unit = np.eye((LMAX + 1) ** 2)
    matrix = np.stack([as_vector(lensing.lens(as_alm(row))[1]) for row in unit], axis=1)
    ell = as_vector(sht.almxfl(np.ones_like(b) * (1 + 1j), ELL)) / as_vector(np.ones_like(b) * (1 + 1j))
    inverse_n = w.inverse_b[np.rint(ell).astype(int)]
    good = ell >= 1.5
    left = matrix.T @ (inverse_n[:, None] * matrix) + np.diag(w.inverse_pp[np.rint(ell).astype(int)])
    right = matrix.T @ (inverse_n * as_vector(b))
    dense = np.zeros(len(ell))
    dense[good] = np.linalg.solve(left[np.ix_(good, good)], right[good])
    keys = {"tolerance": 1e-6, "grid": 40 / LMAX}
    solution = solve(b, e, w, iterations=400, **keys)
    found = as_vector(solution)
    np.testing.assert_array_equal(
        solve(b, e, w, iterations=150, **keys), solution
    )  # steps that are not conjugate take 225
    assert np.linalg.norm(found - dense) < 1e-4 * np.linalg.norm(dense)
    # and it is an estimate: closer to the truth than nothing
    truth = as_vector(drawn(1, PP))
    assert np.linalg.norm(found - truth) < np.linalg.norm(truth)


def test_the_noise_of_b_is_what_the_operator_does_not_make():
    """Of a lensed sky: the B that is not lensing of the E and the potential up to lmax, at lmax = 300 most of it."""
    lmax = 300
    rngs = {x: np.random.default_rng([5, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
    alms = draw_alms(fiducial(), lmax + 1500, rngs)
    lensed = sht.lens({x: alms[x] for x in "TEB"}, alms["phi"], lmax)
    made = lensing_template({"E": lensed["E"]}, sht.truncate(alms["phi"], lmax))["B"]
    left = sht.alm2cl(lensed["B"] - sht.truncate(alms["B"], lmax) - made)
    nothing = np.full(lmax + 1, 1e-12)
    told = 1 / weights(fiducial(), nothing, np.ones(lmax + 1), lmin_b=20).inverse_b[20:] - nothing[20:]
    told -= fiducial()["bb"][20 : lmax + 1]
    for low, high in ((60, 120), (120, 200), (200, 300)):
        ell = np.arange(low, high)
        assert (2 * ell + 1) @ left[ell] == pytest.approx((2 * ell + 1) @ told[ell - 20], rel=0.04)


def test_the_start_and_the_threads_do_not_matter():
    e = drawn(0)
    b = lensing_template({"E": e}, drawn(1, PP))["B"] + drawn(2, NOISE)
    w = weights(CLS, NOISE, FLAT, lmin_b=2)
    one = solve(b, e, w, tolerance=1e-5, iterations=400, nthreads=1)
    other = solve(b, e, w, tolerance=1e-5, iterations=400, start=drawn(5, PP))
    assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(one)
    np.testing.assert_array_equal(one, solve(b, e, w, tolerance=1e-5, iterations=400, nthreads=2))
    assert not one[[0, 1, LMAX + 1]].any()


SOLVED = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.sky.test_linear_map import drawn, np, solve, weights
lmax = 200  # the products are of several chunks, and a library of linear algebra would share an inner product
flat = np.ones(lmax + 1)
cls = {"lensed_ee": flat, "lensed_bb": 0 * flat, "bb": 0 * flat, "pp": (np.arange(lmax + 1) + 1.0) ** -3}
found = solve(drawn(2, flat, lmax), drawn(0, flat, lmax), weights(cls, flat, flat, lmin_b=6), iterations=4, tolerance=0)
print(hashlib.sha256(found.tobytes()).hexdigest())
"""


def test_the_threads_of_the_process_do_not_matter():
    """Bit for bit; those of a process are known when it starts."""
    command = [sys.executable, "-c", SOLVED, str(REPO)]
    environments = [os.environ | dict.fromkeys(THREAD_VARIABLES, n) for n in "12"]
    one, two = (subprocess.run(command, env=env, capture_output=True, text=True) for env in environments)
    assert len(one.stdout) == 65, one.stderr
    assert one.stdout == two.stdout


def test_b_below_lmin_b_does_not_enter():
    e = drawn(0)
    w = weights(CLS, NOISE, FLAT, lmin_b=10)
    b = drawn(2, NOISE)
    other = b + sht.almxfl(drawn(3), 100.0 * (ELL < 10))
    np.testing.assert_array_equal(solve(b, e, w), solve(other, e, w))
    with pytest.raises(ValueError, match="bring them to one lmax"):
        solve(b, e[:10], w)


def test_samples_scatter_as_the_error_of_the_mean():
    """Truth less mean, over the scatter of the samples: 68 % lie within one, for data from the model itself."""
    inside = []
    for seed in range(6):
        e = drawn(10 * seed)
        truth = drawn(10 * seed + 1, PP)
        b = lensing_template({"E": e}, truth)["B"] + drawn(10 * seed + 2, NOISE)
        w = weights(CLS, NOISE, FLAT, lmin_b=2)
        keys = {"tolerance": 1e-3, "iterations": 200, "grid": 1.6}
        mean = solve(b, e, w, **keys)
        draws = [sample(b, e, w, np.random.default_rng([seed, k]), start=mean, **keys) for k in range(20)]
        sigma = np.sqrt(np.mean([as_vector(draw - mean) ** 2 for draw in draws], axis=0))
        good = sigma > 0
        inside.append(np.abs(as_vector(truth - mean))[good] < sigma[good])
    assert np.mean(np.concatenate(inside)) == pytest.approx(0.675, abs=0.025)  # .683, less .01 for a sigma of 20 draws
