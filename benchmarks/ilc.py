"""The needlet ILC of nine Planck bands on a synthetic sky, beside healpy's map analysis and beside BROOM's NILC.

    python benchmarks/ilc.py [--nside 64 128 256 512] [--threads 1 2] [--repeat 3] [--no-broom]

T alone, beams of two pixels, lmax 2.5 nside, the default scales. What is timed is a sky: analysis of the bands, scales,
covariances, weights, the combination and its synthesis; not the reading of files. Every side runs in a process of its
own and tells the least CPU and wall seconds of ``repeat`` runs and the peak memory of the process, maps included.

- ``ours``; ``ratio_to_t`` is its wall time over t, that of ``healpy.map2alm`` at nside 256, lmax 512 and 3 iterations,
  on as many threads in the same process;
- ``broom``: `cmbroom <https://github.com/alecarones/broom>`_ (``pip install cmbroom``; left out with a sentence if it
  is not there) with the same maps, needlets and bias, and needlet maps no finer than they need to be.

``rms_uk`` and ``rms_deep_uk`` are the errors of each on the full sky and on the half of it where 857 GHz is faintest.

Written to benchmarks/results/ilc.csv. Judge by CPU seconds on one thread where others use the cores.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import healpy as hp
import numpy as np

from cmbml.methods.ilc.scales import cosine_windows, make_scales
from cmbml.methods.ilc.weights import apply, fit
from cmbml.methods.shared.needlet_peaks import peaks_by_rule
from cmbml.sky import foregrounds, sht, synthetic
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.instrument import read_instrument
from cmbml.sky.lensing import unit_alm
from cmbml.sky.noise import white_noise
from record import parser, save

PLANCK = read_instrument(Path(__file__).parents[1] / "assets" / "instruments" / "planck.ecsv")
BIAS, DEEP = 0.003, 0.5  # ILC_bias_tol; part of the sky in which errors are compared


def make_sky(nside: int, path: Path) -> None:
    """Write the maps of the bands (9, npix), and the CMB in them, uK_CMB, with the beam."""
    lmax = int(2.5 * nside)
    beam, ell = gaussian_beam(2 * hp.nside2resol(nside, arcmin=True), lmax), np.arange(lmax + 1)
    cl = np.divide(6000, ell * (ell + 1.0), out=np.zeros(lmax + 1), where=ell > 1)
    cmb = sht.synthesis(sht.almxfl(unit_alm(np.random.default_rng(0), lmax), np.sqrt(cl) * beam), nside)
    rngs = {name: np.random.default_rng([7, i]) for i, name in enumerate(synthetic.COMPONENTS)}
    parts = synthetic.templates(nside, rngs)
    maps = np.empty((len(PLANCK.bands), 12 * nside**2))
    for i, band in enumerate(PLANCK.bands):
        skies = (foregrounds.synthetic_sky(name, sky) for name, sky in parts.items())
        maps[i] = foregrounds.smoothed(foregrounds.evaluate(skies, band.center_ghz)[:1], beam, nside=nside)[0]
        maps[i] += cmb + white_noise(np.random.default_rng([1, i]), nside, band.noise_t_uk_arcmin)[0]
    np.savez(path, maps=maps, cmb=cmb)


def ours(maps: np.ndarray, nside: int, threads: int) -> np.ndarray:
    """Clean a sky; a map."""
    lmax = int(2.5 * nside)
    beams = np.stack([gaussian_beam(2 * hp.nside2resol(nside, arcmin=True), lmax)] * len(maps))
    scales = make_scales(cosine_windows(0, peaks_by_rule(0, lmax)), beams, criterion=1e-3, bias_tol=BIAS)
    alms = sht.analysis(maps, lmax, nthreads=threads)
    weights = fit(alms, scales, np.ones((len(maps), 1)), nthreads=threads)
    return sht.synthesis(apply(weights, alms, nthreads=threads), nside, nthreads=threads)


def broom(maps: np.ndarray, nside: int, threads: int) -> np.ndarray:
    """Do the same with BROOM; its threads are those of the process."""
    from broom import Configs, component_separation

    lmax, fwhm = int(2.5 * nside), 2 * hp.nside2resol(nside, arcmin=True)
    peaks = [0, *peaks_by_rule(0, lmax)[:-1], lmax]
    run = {"method": "ilc", "domain": "needlet", "ilc_bias": BIAS, "adapt_nside": True,
           "needlet_config": {"needlet_windows": "cosine", "ell_peaks": peaks}}  # fmt: skip
    instrument = {"frequency": [b.center_ghz for b in PLANCK.bands], "fwhm": [fwhm] * len(maps)}
    config = {
        "nside": nside, "lmin": 0, "lmax": lmax, "data_type": "maps", "field_in": "T", "field_out": "T",
        "fwhm_out": fwhm, "units": "uK_CMB", "bring_to_common_resolution": True, "instrument": instrument,
        "save_compsep_products": False, "return_compsep_products": True, "compsep": [run], "verbose": False,
        **{f"generate_input_{part}": False for part in ("foregrounds", "noise", "cmb", "data")},
    }  # fmt: skip
    return np.squeeze(component_separation(Configs(config=config), SimpleNamespace(total=maps)).total[0])


def least(work: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Least CPU and wall seconds of some runs."""
    cpu, wall = [], []
    for _ in range(repeat):
        start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return min(cpu), min(wall)


def measure(side: str, nside: int, threads: int, repeat: int, path: Path) -> dict:
    """Run one side in this process."""
    given = np.load(path)
    maps, cmb = given["maps"], given["cmb"]
    clean = {"ours": ours, "broom": broom}[side]
    error = clean(maps, nside, threads) - cmb
    cpu, wall = least(lambda: clean(maps, nside, threads), repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    deep = maps[-1] <= np.quantile(maps[-1], DEEP)
    row = {"side": side, "nside": nside, "threads": threads, "cpu_s": round(cpu, 3), "wall_s": round(wall, 3)}
    row |= {"peak_gib": round(peak, 2), "rms_uk": round(error.std(), 3), "rms_deep_uk": round(error[deep].std(), 3)}
    probe = np.random.default_rng(2).standard_normal(12 * 256**2)
    t = least(lambda: hp.map2alm(probe, lmax=512, iter=3), repeat)
    return row | {"t_cpu_s": round(t[0], 3), "t_wall_s": round(t[1], 3), "ratio_to_t": round(wall / t[1], 2)}


def main() -> None:
    """Run, print each row and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--nside", type=int, nargs="+", default=[64, 128, 256, 512])
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--no-broom", action="store_true", help="leave the peer out")
    given = options.parse_args()
    sides = ["ours"] if given.no_broom or find_spec("broom") is None else ["ours", "broom"]
    if len(sides) == 1 and not given.no_broom:
        print("BROOM is left out: the package cmbroom is not installed (pip install cmbroom).")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for nside in given.nside:
            path = Path(folder) / f"{nside}.npz"
            make_sky(nside, path)
            for threads in given.threads:
                os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
                found = {}
                for side in sides:
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                        found[side] = pool.submit(measure, side, nside, threads, given.repeat, path).result()
                    found[side]["broom_over_ours"] = ""
                    print(", ".join(f"{key} {value}" for key, value in found[side].items() if value != ""), flush=True)
                if len(found) == 2:
                    found["ours"]["broom_over_ours"] = round(found["broom"]["cpu_s"] / found["ours"]["cpu_s"], 1)
                    print(
                        f"nside {nside}, {threads} threads: BROOM's NILC takes {found['ours']['broom_over_ours']} times"
                    )
                rows += found.values()
            path.unlink()
    save("ilc", rows, given.out)


if __name__ == "__main__":
    main()
