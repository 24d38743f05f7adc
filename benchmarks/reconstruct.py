"""One sky from its spectra to its delensing template, and the quadratic estimator beside one made of healpy transforms.

    OMP_NUM_THREADS=1 python benchmarks/reconstruct.py [--nside 512] [--lmax 1500]

Written to benchmarks/results/reconstruct.csv: seconds of each step (draw and lens, observe and analyse, estimate,
template), the peak memory of the process, and for ``estimate`` the seconds of the same estimator made of healpy's
alm2map_spin and map2alm_spin on a HEALPix map of twice the nside, and their ``ratio``. CAMB and the filters, made once
a dataset, are not in it.
"""

import os
import resource
import time

import healpy as hp
import numpy as np

from cmbml.sky import lensing, quadratic, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import fiducial, reconstruction
from cmbml.sky.noise import noise_cl
from cmbml.sky.observe import observe
from record import parser, save

FWHM, NOISE = 5.0, 1.0


def by_healpy(e_inverse: np.ndarray, b_inverse: np.ndarray, e_wiener: np.ndarray, nside: int) -> np.ndarray:
    """Return what ``quadratic.phi_gradient`` returns, by healpy."""
    lmax = sht.alm_lmax(e_wiener)
    ell, zero = np.arange(lmax + 1.0), np.zeros_like(e_wiener)

    def field(gradient: np.ndarray, curl: np.ndarray, spin: int) -> np.ndarray:
        one, two = hp.alm2map_spin([gradient, curl], nside, spin, lmax)
        return one + 1j * two

    first = field(e_inverse, b_inverse, 2)
    spin1 = field(hp.almxfl(e_wiener, np.sqrt(np.maximum((ell + 2) * (ell - 1), 0))), zero, 1)
    spin3 = field(hp.almxfl(e_wiener, np.sqrt(np.maximum((ell - 2) * (ell + 3), 0))), zero, 3)
    product = first * spin1.conj() - first.conj() * spin3
    gradient, _ = hp.map2alm_spin([product.real, product.imag], 1, lmax)
    return hp.almxfl(gradient, np.sqrt(ell * (ell + 1)) / 2)


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--nside", type=int, default=512)
    options.add_argument("--lmax", type=int, default=1500)
    given = options.parse_args()
    lmax, cls = given.lmax, fiducial()
    n_l = noise_cl(NOISE, lmax) / gaussian_beam(FWHM, lmax) ** 2
    f = reconstruction(cls, n_l, lmin_b=min(200, lmax // 3))
    rngs = {x: np.random.default_rng(i) for i, x in enumerate(("T", "E", "B", "phi", "P"))}
    seconds, start = {}, time.perf_counter()

    def lap(step: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[step], start = now - start, now

    sky = lensing.draw_alms(cls, lmax + max(1024, 2000 - lmax), rngs)
    lensed = sht.lens({x: sky[x] for x in "TEB"}, sky["phi"], lmax)
    lap("simulate")
    noise = {"noise_t_uk_arcmin": NOISE, "noise_p_uk_arcmin": NOISE}
    _, seen = observe(lensed, nside=given.nside, lmax=lmax, fwhm_arcmin=FWHM, rngs=rngs, fields=("E", "B"), **noise)
    lap("observe")
    e, b = (sht.almxfl(seen[x], 1 / gaussian_beam(FWHM, lmax)) for x in "EB")
    legs = sht.almxfl(e, f["inverse_e"]), sht.almxfl(b, f["inverse_b"]), sht.almxfl(e, f["wiener_e"])
    g = quadratic.phi_gradient(*legs)
    lap("estimate")
    phi = sht.almxfl(g, np.divide(f["wiener_phi"], f["response"], out=np.zeros(lmax + 1), where=f["response"] > 0))
    quadratic.lensing_template({"E": legs[2]}, phi)
    lap("template")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    other = by_healpy(*legs, 2 * given.nside)
    lap("healpy")
    difference = np.sqrt((sht.alm2cl(g - other)[2:] / sht.alm2cl(g)[2:]).mean())
    ratio, total = seconds["healpy"] / seconds["estimate"], sum(seconds.values()) - seconds["healpy"]
    rounded = {f"{step}_s": round(value, 2) for step, value in seconds.items()}
    row = {"nside": given.nside, "lmax": lmax, "threads": os.environ.get("OMP_NUM_THREADS", "all"), **rounded}
    row |= {"total_s": round(total, 2), "peak_gib": round(peak, 2), "ratio": round(ratio, 2)}
    row |= {"rms_difference": f"{difference:.1e}"}
    print("\n".join(f"{name:16s} {value}" for name, value in row.items()))
    save("reconstruct", [row], given.out)


if __name__ == "__main__":
    main()
