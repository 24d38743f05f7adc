"""Rotation of a map as a permutation of its pixels, beside a dictionary of lists and beside interpolation.

    python benchmarks/rotation.py [--nside 256 512] [--theta 120 --phi 30]

Four ways to rotate the same band-limited sky, each compared with its exact rotation:

- ``table``: cmbml.sky.rotation.permutation;
- ``dictionary``: the pixels that fall together are collected in lists, the surplus goes to whatever place is free;
- ``interpolation``: healpy.Rotator.rotate_map_pixel;
- ``harmonic``: cmbml.sky.rotation.rotate_maps.

Written to benchmarks/results/rotation.csv: seconds to build (once a pair of angles) and to apply (once a map), the
displacement in pixels, C_l after / C_l before around l = nside and l = 1.75 nside, and the rms error in units of the
sky's own rms.
"""

import time
from collections.abc import Callable

import healpy as hp
import numpy as np

from cmbml.sky import sht
from cmbml.sky.rotation import permutation, rotate_alm_deg, rotate_maps
from record import parser, save

COLUMNS = ("build_s", "apply_s", "displacement_mean", "displacement_p99", "displacement_worst")
COLUMNS += ("cl_ratio_at_nside", "cl_ratio_at_1.75_nside", "rms_error")


def dictionary(nside: int, theta_deg: float, phi_deg: float) -> np.ndarray:
    """Return a forward table made in plain Python; only the rotation of the pixel centres is left to numpy."""
    npix = hp.nside2npix(nside)
    moved = hp.Rotator(rot=[phi_deg, theta_deg])(np.array(hp.pix2vec(nside, np.arange(npix))))
    places: dict[int, list[int]] = {}
    for source, target in enumerate(hp.vec2pix(nside, *moved).tolist()):
        places.setdefault(target, []).append(source)
    surplus = [source for sources in places.values() for source in sources[1:]]
    forward = np.empty(npix, dtype=np.int64)
    for target in range(npix):
        forward[target] = places[target][0] if target in places else surplus.pop()
    return forward


def timed(call: Callable, repeat: int = 1) -> tuple[float, object]:
    """Return the smallest of ``repeat`` wall times in seconds, and what the call returned."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        out = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), out


def displacement(forward: np.ndarray, theta_deg: float, phi_deg: float) -> tuple[float, float, float]:
    """Return mean, 99th percentile and largest angle between rotated source and target, in sqrt(4 pi / npix)."""
    nside = hp.npix2nside(forward.size)
    moved = hp.Rotator(rot=[phi_deg, theta_deg])(np.array(hp.pix2vec(nside, forward)))
    chord = np.linalg.norm(moved - np.array(hp.pix2vec(nside, np.arange(forward.size))), axis=0)
    angle = 2 * np.arcsin(chord / 2) / hp.nside2resol(nside)
    return angle.mean(), np.percentile(angle, 99), angle.max()


def sky(nside: int, lmax: int) -> np.ndarray:
    """Return alms of a sky with l(l+1) C_l constant but for a damping like the CMB's, from l = 2."""
    ell = np.arange(2, lmax + 1)
    cl = np.concatenate([[0, 0], np.exp(-((ell / nside) ** 2)) / (ell * (ell + 1))])
    rng = np.random.default_rng(0)
    white = (rng.standard_normal(sht.alm_size(lmax)) + 1j * rng.standard_normal(sht.alm_size(lmax))) / np.sqrt(2)
    white[: lmax + 1] = white[: lmax + 1].real * np.sqrt(2)
    return sht.almxfl(white, np.sqrt(cl))


def compare(nside: int, theta_deg: float, phi_deg: float) -> dict[str, dict[str, float]]:
    """Return the columns of every method."""
    lmax = 2 * nside
    alm = sky(nside, lmax)
    m, exact = sht.synthesis(alm, nside), sht.synthesis(rotate_alm_deg(alm, theta_deg, phi_deg), nside)
    rows = {}

    def measure(name: str, apply: Callable, build_s: float = 0.0, moved: tuple = (np.nan,) * 3) -> None:
        seconds, rotated = timed(apply, repeat=3)
        ratio = sht.alm2cl(sht.analysis(rotated, lmax)) / np.maximum(sht.alm2cl(alm), 1e-300)
        bands = [ratio[int(0.95 * x * nside) : int(1.05 * x * nside)].mean() for x in (1, 1.75)]
        error = np.std(rotated - exact) / np.std(exact)
        rows[name] = dict(zip(COLUMNS, (build_s, seconds, *moved, *bands, error), strict=True))

    build_s, (forward, _) = timed(lambda: permutation(nside, theta_deg, phi_deg))
    measure("table", lambda: m[forward], build_s, displacement(forward, theta_deg, phi_deg))
    build_s, lists = timed(lambda: dictionary(nside, theta_deg, phi_deg))
    measure("dictionary", lambda: m[lists], build_s, displacement(lists, theta_deg, phi_deg))
    rotator = hp.Rotator(rot=[phi_deg, theta_deg])
    measure("interpolation", lambda: rotator.rotate_map_pixel(m))
    measure("harmonic", lambda: rotate_maps(m[None], theta_deg, phi_deg, spins=[0], lmax=lmax)[0])
    return rows


def main() -> None:
    """Run the comparison, print it and write the CSV."""
    arguments = parser(__doc__)
    arguments.add_argument("--nside", type=int, nargs="+", default=[256])
    arguments.add_argument("--theta", type=float, default=120.0, help="degrees")
    arguments.add_argument("--phi", type=float, default=30.0, help="degrees")
    args = arguments.parse_args()
    table = []
    for nside in args.nside:
        rows = compare(nside, args.theta, args.phi)
        for name, row in rows.items():
            print(f"nside {nside} {name:14s}" + "".join(f"  {key} {value:.3g}" for key, value in row.items()))
            values = {key: f"{value:.6g}" for key, value in row.items()}
            table.append({"nside": nside, "theta_deg": args.theta, "phi_deg": args.phi, "method": name, **values})
        ours, lists, interpolated = rows["table"], rows["dictionary"], rows["interpolation"]
        for what, key, other in (
            ("times to build, dictionary to table", "build_s", lists),
            ("rms errors, dictionary to table", "rms_error", lists),
            ("times to apply, interpolation to table", "apply_s", interpolated),
        ):
            print(f"nside {nside}: ratio of {what}: {other[key] / ours[key]:.1f}")
    save("rotation", table, args.out)


if __name__ == "__main__":
    main()
