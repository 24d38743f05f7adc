"""What the linear MAP costs, beside its own bare transforms, the quadratic estimator, and a remapping by lenspyx.

    python benchmarks/linear_map.py [--lmax 750 1500] [--threads 1 2] [--repeat 3]

One lensed sky of 1 uK arcmin and 5 arcmin without pixels, each size in processes of its own. Written to
benchmarks/results/linear_map.csv are the least of ``repeat`` times, seconds of the clock (``_s``) and of all cores
(``_cpu_s``), of which the ratios are:

- ``solve``: the solution to a hundredth, once; ``peak_gib`` is the memory of the process then, the program's included;
- ``iteration`` over ``transforms``, four spin transforms of ducc0 on the same grid and nothing else;
- ``solve`` over ``quadratic``, the estimate from EE and EB;
- ``solve`` over ``lenspyx``, one remapping of Q and U to a HEALPix map of that size (nside is the power of two from
  lmax / 3 on), in single precision;
- ``A_res`` of both at l = 20 .. 200, by the lensing template of each.

lmax = 3000 takes six minutes for each number of threads, and 7 GB for its sky.
"""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import ducc0
import lenspyx
import numpy as np

from cmbml.sky import lensing, linear_map, quadratic, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import fiducial, reconstruction
from cmbml.sky.noise import noise_cl
from record import parser, save

FWHM, NOISE, LMIN_B = 5.0, 1.0, 200
BAND = np.arange(20, 201)
STEPS = 5  # of which the time of one is taken


def least(work: Callable[[], Any], repeat: int) -> np.ndarray:
    """Least seconds of so many runs: of the clock, and of all cores together."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.min(seconds, axis=0)


def bare(lmax: int, threads: int) -> Callable[[], None]:
    """The transforms of one iteration: spin 1 to the grid, spin 2 from it and to it, spin 1 from it."""
    rings, weight = sht._gauss_grid(int(np.ceil(linear_map.GRID * lmax)))
    keys = {"lmax": lmax, "nthreads": threads, **rings}
    alm = np.ones((2, sht.alm_size(lmax)), dtype=np.complex64)

    def run() -> None:
        for there, back in ((1, 2), (2, 1)):
            field = ducc0.sht.synthesis(alm=alm, spin=there, **keys)
            ducc0.sht.adjoint_synthesis(map=field, spin=back, ringfactor=weight, **keys)

    return run


def prepared(lmax: int) -> dict[str, Any]:
    """A sky and its filters, made in a process of their own: observed E and B without beam, and the truth."""
    rngs = {x: np.random.default_rng([0, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
    alms = lensing.draw_alms(fiducial(), lmax + max(1000, 2000 - lmax), rngs)
    lensed = sht.lens({x: alms[x] for x in "TEB"}, alms["phi"], lmax)
    kept = {x: sht.truncate(alm, lmax) for x, alm in alms.items()}
    noise = noise_cl(NOISE, lmax) / gaussian_beam(FWHM, lmax) ** 2
    drawn = {x: lensing.unit_alm(np.random.default_rng([1, ord(x)]), lmax) for x in "EB"}
    cls = {name: cl[: lmax + 1] for name, cl in fiducial().items()}
    filters = reconstruction(cls, noise, lmin_b=LMIN_B)
    return {
        "seen": {x: lensed[x] + sht.almxfl(drawn[x], np.sqrt(noise)) for x in "EB"},
        "unlensed": kept,
        "truth": lensed["B"] - kept["B"],
        "filters": filters,
        "weights": linear_map.weights(cls, noise, filters["wiener_e"], lmin_b=LMIN_B),
    }


def left(e_wiener: np.ndarray, phi: np.ndarray, truth: np.ndarray) -> float:
    """A_res of a template."""
    residual = sht.alm2cl(truth - quadratic.lensing_template({"E": e_wiener}, phi)["B"])[BAND]
    return float((2 * BAND + 1) @ residual / ((2 * BAND + 1) @ sht.alm2cl(truth)[BAND]))


def measure(
    lmax: int,
    threads: list[int],
    repeat: int,
    *,
    seen: dict[str, np.ndarray],
    unlensed: dict[str, np.ndarray],
    truth: np.ndarray,
    filters: dict[str, np.ndarray],
    weights: linear_map.Weights,
) -> list[dict[str, Any]]:
    """One row for each number of threads."""
    e_wiener = sht.almxfl(seen["E"], filters["wiener_e"])
    inverse = sht.almxfl(seen["E"], filters["inverse_e"]), sht.almxfl(seen["B"], filters["inverse_b"])
    nside = 2 ** int(np.ceil(np.log2(lmax / 3)))
    ell = np.arange(lmax + 1.0)
    gradient = sht.almxfl(unlensed["phi"], np.sqrt(ell * (ell + 1)))
    pair = np.stack([unlensed["E"], unlensed["B"]]).astype(np.complex64)
    found: dict[str, np.ndarray] = {}
    rows = []
    for n in threads:
        beside = bare(lmax, n)

        def solve(steps: int, tolerance: float, n: int = n) -> np.ndarray:
            keys = {"iterations": steps, "tolerance": tolerance, "nthreads": n}
            return linear_map.solve(seen["B"], e_wiener, weights, **keys)

        def whole(n: int = n) -> None:
            found["map"] = solve(50, 0.01, n)

        def estimate(n: int = n) -> None:
            found["g"] = quadratic.phi_gradient(*inverse, e_wiener, nthreads=n)

        def remapped(n: int = n) -> None:
            geometry = ("healpix", {"nside": nside})
            lenspyx.alm2lenmap_spin(pair, gradient, 2, geometry=geometry, epsilon=1e-5, nthreads=n)

        seconds = {"solve": least(whole, 1)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        many, one, seconds["transforms"] = np.min(
            [  # side by side, so that a busy machine is busy for all
                [least(lambda: solve(1 + STEPS, 1e-9), 1), least(lambda: solve(1, 1e-9), 1), least(beside, 2)]
                for _ in range(repeat)
            ],
            axis=0,
        )
        seconds["iteration"] = (many - one) / STEPS
        seconds["quadratic"] = least(estimate, repeat)
        seconds["lenspyx"] = least(remapped, repeat)
        row: dict[str, Any] = {"lmax": lmax, "threads": n, "peak_gib": peak}
        row |= {f"{what}_s": clock for what, (clock, _) in seconds.items()}
        row |= {f"{what}_cpu_s": cpu for what, (_, cpu) in seconds.items()}
        row["iteration_over_transforms"] = seconds["iteration"][1] / seconds["transforms"][1]
        for what in ("quadratic", "lenspyx"):
            row[f"solve_over_{what}"] = seconds["solve"][1] / seconds[what][1]
        rows.append(row)
    normal = np.divide(filters["wiener_phi"], filters["response"], out=np.zeros(lmax + 1), where=ell >= 2)
    a_res = {
        "A_res": left(e_wiener, found["map"], truth),
        "A_res_quadratic": left(e_wiener, sht.almxfl(found["g"], normal), truth),
    }
    return [{**row, **a_res} for row in rows]


def alone(work: Callable[..., Any], *values: Any, **keys: Any) -> Any:
    """What a function returns in a process of its own, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *values, **keys).result()


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--lmax", type=int, nargs="+", default=[750, 1500])
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--repeat", type=int, default=3)
    given = options.parse_args()
    rows = []
    for lmax in given.lmax:
        made = alone(prepared, lmax)
        rows += alone(measure, lmax, given.threads, given.repeat, **made)
        rows = [{name: round(float(x), 4) if isinstance(x, float) else x for name, x in row.items()} for row in rows]
        save("linear_map", rows, given.out)  # what is there stays, whatever comes
        print("\n".join(f"{name:16s} {[row[name] for row in rows]}" for name in rows[0]), flush=True)


if __name__ == "__main__":
    main()
