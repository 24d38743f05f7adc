"""A simulated sky beside the same sky made with separate lensing calls.

    python benchmarks/skies.py [--nside 512 1024] [--lmax 1500] [--margin 1024] [--threads 2] [--repeat 2]

Two comparisons, of the same unlensed alms (to lmax + margin), each side in a process of its own:

- ``maps``: unlensed and lensed T, Q, U on HEALPix. Ours: one displacement field for T and P, and plain synthesis of the
  unlensed sky. Separate: four lenspyx calls (T and P, each with the lensing potential and with a zero one) at the same
  interpolation accuracy. The maps of both are compared pixel by pixel.
- ``sky``: lensed and unlensed T, Q, U, E, B behind a beam, noise on the lensed ones. Ours: lensing to alms, observation
  of them, and synthesis of the unlensed sky. Separate: the four lenspyx calls, healpy.smoothing of T, Q, U as scalars,
  noise, and E and B by healpy.map2alm and alm2map, all with healpy's settings. (Scalar smoothing of Q and U is a
  mistake that the replaced system makes; it and what lies beyond lmax make the outputs of this pair differ.)

Prints the ratios of the smallest wall times and of the peak memories, and writes benchmarks/results/skies.csv.
"""

import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import healpy as hp
import lenspyx
import numpy as np

from cmbml.sky import cosmology, lensing, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.noise import white_noise
from cmbml.sky.observe import observe
from record import parser, save

FIDUCIAL = {"H0": 67.36, "ombh2": 0.02237, "omch2": 0.12, "tau": 0.0544, "As": 2.1e-9, "ns": 0.9649, "r": 0.01}
INSTRUMENT = {"fwhm_arcmin": 5.0, "noise_t_uk_arcmin": 0.71, "noise_p_uk_arcmin": 1.0}
TOLERANCE_UK = {"T": 3e-3, "Q": 3e-4, "U": 3e-4}  # of the worst pixel; single precision, interpolation to 1e-5
FIELDS = ("T", "Q", "U", "E", "B")


def maps_ours(alms: dict[str, np.ndarray], nside: int, lmax: int, threads: int) -> np.ndarray:
    """Lensed and unlensed T, Q, U, (2, 3, npix), in one pass."""
    lensed = sht.lens_maps(alms, alms["phi"], nside, nthreads=threads)
    single = {field: alms[field].astype(np.complex64) for field in "TEB"}
    temperature = sht.synthesis(single["T"], nside, nthreads=threads)
    polarization = sht.synthesis(np.stack([single["E"], single["B"]]), nside, spin=2, nthreads=threads)
    return np.stack([lensed, np.concatenate([temperature[None], polarization])])


def maps_separate(alms: dict[str, np.ndarray], nside: int, lmax: int, threads: int) -> np.ndarray:
    """Return the same with four calls of lenspyx."""
    ell = np.arange(sht.alm_lmax(alms["phi"]) + 1)
    gradient = sht.almxfl(alms["phi"], np.sqrt(ell * (ell + 1)))
    keys = {"geometry": ("healpix", {"nside": nside}), "epsilon": 1e-5, "nthreads": threads}
    temperature = alms["T"].astype(np.complex64)[None]
    polarization = np.stack([alms["E"], alms["B"]]).astype(np.complex64)
    skies = []
    for displacement in (gradient, np.zeros_like(gradient)):
        t = lenspyx.alm2lenmap(temperature, displacement, pol=False, **keys)[0]
        q, u = lenspyx.alm2lenmap_spin(polarization, displacement, 2, **keys)
        skies.append([t, q, u])
    return np.array(skies)


def sky_ours(alms: dict[str, np.ndarray], nside: int, lmax: int, threads: int) -> np.ndarray:
    """Observed lensed and beam-smoothed unlensed T, Q, U, E, B, (2, 5, npix)."""
    lensed = sht.lens(alms, alms["phi"], lmax, nthreads=threads)
    rngs = {field: np.random.default_rng(i) for i, field in enumerate("TP")}
    seen, _ = observe(lensed, nside=nside, lmax=lmax, rngs=rngs, fields=FIELDS, nthreads=threads, **INSTRUMENT)
    beam = gaussian_beam(INSTRUMENT["fwhm_arcmin"], lmax)
    t, e, b = (sht.almxfl(sht.truncate(alms[field], lmax), beam) for field in "TEB")
    scalar = sht.synthesis(np.stack([t, e, b]), nside, nthreads=threads)
    stokes = sht.synthesis(np.stack([e, b]), nside, spin=2, nthreads=threads)
    return np.array([[seen[field] for field in FIELDS], [scalar[0], *stokes, *scalar[1:]]])


def sky_separate(alms: dict[str, np.ndarray], nside: int, lmax: int, threads: int) -> np.ndarray:
    """Return the like by four lensing calls, scalar smoothing, noise, and the conversion of the maps to E and B."""
    fwhm = np.deg2rad(INSTRUMENT["fwhm_arcmin"] / 60)
    levels = [INSTRUMENT[f"noise_{x}_uk_arcmin"] for x in "tpp"]
    rng = np.random.default_rng(0)
    skies = []
    for stokes, noise in zip(maps_separate(alms, nside, lmax, threads), (1, 0), strict=True):
        seen = [hp.smoothing(m, fwhm=fwhm, lmax=lmax) for m in stokes.astype(float)]
        if noise:
            seen = [m + white_noise(rng, nside, level)[0] for m, level in zip(seen, levels, strict=True)]
        alm = hp.map2alm(seen, lmax=lmax)
        skies.append([*seen, *(hp.alm2map(x, nside) for x in alm[1:])])
    return np.array(skies)


def measure(name: str, cls: dict, nside: int, lmax: int, margin: int, threads: int, repeat: int, out: str) -> dict:
    """Draw the alms, run one side ``repeat`` times, keep its last output in a file; least seconds and peak memory."""
    rngs = {field: np.random.default_rng([0, i]) for i, field in enumerate(("T", "E", "B", "phi"))}
    alms = lensing.draw_alms(cls, lmax + margin, rngs)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        skies = globals()[name](alms, nside, lmax, threads)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.save(Path(out) / f"{name}.npy", skies.astype(np.float32))
    return {"seconds": min(seconds), "peak_gib": peak}


def compare(nside: int, lmax: int, margin: int, threads: int, repeat: int) -> list[dict]:
    """Return one row for the maps and one for the whole sky."""
    cls = cosmology.spectra(FIDUCIAL, lmax + margin)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what in ("maps", "sky"):
            found = {}
            for side in ("ours", "separate"):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    job = pool.submit(measure, f"{what}_{side}", cls, nside, lmax, margin, threads, repeat, folder)
                    found[side] = job.result()
            row = {"what": what, "nside": nside, "lmax": lmax, "lmax_unlensed": lmax + margin, "threads": threads}
            row |= {f"{key}_{side}": f"{found[side][key]:.2f}" for key in ("seconds", "peak_gib") for side in found}
            for key, ratio in (("seconds", "ratio_of_times"), ("peak_gib", "ratio_of_memory")):
                row[ratio] = f"{found['separate'][key] / found['ours'][key]:.2f}"
            ours, separate = (np.load(Path(folder) / f"{what}_{side}.npy", mmap_mode="r") for side in found)
            worst = {field: float(np.abs(ours[:, i] - separate[:, i]).max()) for i, field in enumerate("TQU")}
            if what == "maps":
                assert all(worst[field] < TOLERANCE_UK[field] for field in "TQU"), f"the maps differ: {worst} uK"
            rows.append(row | {f"largest_difference_{field}_uk": f"{worst[field]:.2g}" for field in "TQU"})
    return rows


def main() -> None:
    """Run the comparisons, print the ratios and write the CSV."""
    arguments = parser(__doc__)
    arguments.add_argument("--nside", type=int, nargs="+", default=[512])
    arguments.add_argument("--lmax", type=int, help="default: 1500 at nside 512, 2000 at 1024, else 2.93 nside")
    arguments.add_argument("--margin", type=int, default=1024, help="of the unlensed alms beyond lmax")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--repeat", type=int, default=2)
    args = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    table = []
    for nside in args.nside:
        lmax = args.lmax or {512: 1500, 1024: 2000}.get(nside, int(2.93 * nside))
        for row in compare(nside, lmax, args.margin, args.threads, args.repeat):
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            table.append(row)
    for row in table:
        print(f"nside {row['nside']}: {row['what']} made {row['ratio_of_times']} times faster")
    save("skies", table, args.out)


if __name__ == "__main__":
    main()
