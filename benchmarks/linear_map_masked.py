"""What the linear MAP loses by harmonic weights where the sky is masked or unevenly seen.

    python benchmarks/linear_map_masked.py [--f-sky 1 .7 .3 .03] [--noise scan] [--level 1] [--ecliptic]
        [--nside 256] [--lmax 640]

One lensed sky, 1 uK arcmin (or ``--level``) and 5 arcmin, in pixels behind a band (f_sky .03: a disc) with a taper of 5
or 1 degree; with ``--ecliptic`` caps around the poles of the ecliptic are left, which a scan sees best. The lensing
template is made with

- ``harmonic``: `cmbml.sky.linear_map.solve` on E and B of the masked maps;
- ``over sigma``: the same of the maps divided by the rms of their noise;
- ``true``: d = Y (E + x + M phi) + n for Q and U in pixels, with the pixels' own noise and no taper. E with its lensed
  spectrum, and x, the B that M does not make (lensing B from beyond lmax and tensors; below l = 200 whatever there is),
  are solved for with phi; M is that of E Wiener-filtered with the same weights.

Written to benchmarks/results/delensing/linear_map_masked.csv: A_res of maps weighted with the square of the wide taper
at l = 20 .. 170 (up to 200 the mask lets B from beyond the cut in, which makes A_res and transfer smaller), the part of
the B of 20 .. 200 that each template leaves there (``transfer``), CPU seconds of all that is done with the maps, and
iterations.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import healpy as hp
import numpy as np

from cmbml.sky import lensing, linear_map, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import Coupling, fiducial
from cmbml.sky.masks import apodise, band_mask
from cmbml.sky.noise import noise_cl, scan_variance, variance_noise
from cmbml.sky.quadratic import FirstOrder
from record import parser, save

FWHM, LMIN_B = 5.0, 200
BAND = (20, 170)
FREE = 1e5  # over the power of B: what is let free below LMIN_B
Alms = list[np.ndarray]


class Sky(NamedTuple):
    """What is seen: Q and U (2, npix), their variances and the mask (npix,), and the lensing B (nalm,)."""

    qu: np.ndarray
    variance: np.ndarray
    good: np.ndarray
    lensing: np.ndarray


def caps(nside: int, f_sky: float) -> np.ndarray:
    """Two caps around the poles of the ecliptic are left, (npix,), Galactic coordinates."""
    pole = np.array(hp.Rotator(coord="EG")(np.array([0.0, 0.0, 1.0])))
    return (np.abs(pole @ np.array(hp.pix2vec(nside, np.arange(12 * nside**2)))) > 1 - f_sky).astype(float)


def mask_of(nside: int, f_sky: float) -> np.ndarray:
    """A band around the equator is hidden, or all but a disc near the pole of the ecliptic."""
    if f_sky > 0.1:
        return band_mask(nside, np.rad2deg(np.arcsin(1 - f_sky))) if f_sky < 1 else np.ones(12 * nside**2)
    cosine = hp.ang2vec(0.0, 60.0, lonlat=True) @ np.array(hp.pix2vec(nside, np.arange(12 * nside**2)))
    return (cosine > 1 - 2 * f_sky).astype(float)


def seen(alms: Sequence[np.ndarray], nside: int) -> np.ndarray:
    """Q and U of E and B behind the beam."""
    beam = gaussian_beam(FWHM, sht.alm_lmax(alms[0]))
    return sht.synthesis(np.stack([sht.almxfl(alm, beam) for alm in alms]), nside, spin=2)


def simulated(nside: int, lmax: int, noise: str, level: float, good: np.ndarray, seed: int) -> Sky:
    """A lensed sky with the noise of a scan, or white; the mean level is in uK arcmin."""
    rngs = {x: np.random.default_rng([seed, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
    alms = lensing.draw_alms(fiducial(), max(2000, lmax + 750), rngs)
    lensed = sht.lens({x: alms[x] for x in "TEB"}, alms["phi"], lmax)
    variance = scan_variance(nside, level)
    if noise == "white":
        variance = np.full_like(variance, noise_cl(level, 0)[0] / hp.nside2pixarea(nside))
    drawn = variance_noise(np.random.default_rng([seed, 9]), np.stack([variance] * 2))
    truth = lensed["B"] - sht.truncate(alms["B"], lmax)
    return Sky((seen([lensed["E"], lensed["B"]], nside) + drawn) * good, variance, good, truth)


def harmonic(sky: Sky, weight: np.ndarray, lmax: int) -> tuple[Callable[[np.ndarray], np.ndarray], list[int]]:
    """The template, an alm with the weight, of maps times it; a function of Q and U, with E that of the sky."""
    beam = gaussian_beam(FWHM, lmax)
    nside = hp.npix2nside(len(weight))
    level = np.average(sky.variance, weights=weight**2) * hp.nside2pixarea(nside)
    noise = level / beam**2
    ee = fiducial()["lensed_ee"][: lmax + 1]
    weights = linear_map.weights(fiducial(), noise, ee / (ee + noise), lmin_b=LMIN_B)

    def analysed(qu: np.ndarray) -> Alms:
        return [sht.almxfl(alm, 1 / beam) for alm in sht.analysis(qu * weight, lmax, spin=2)]

    e = sht.almxfl(analysed(sky.qu)[0], ee / (ee + noise))
    lens = FirstOrder(e).lens
    return lambda qu: lens(linear_map.solve(analysed(qu)[1], e, weights, tolerance=0.003))[1], []


def conjugate_gradients(
    left: Callable[[Alms], Alms], right: Alms, conditioned: Callable[[Alms], Alms], tolerance: float, most: int, n: int
) -> tuple[Alms, int]:
    """Solution and iterations; the first n fields are unknowns, others are carried along."""

    def product(a: Alms, b: Alms) -> float:
        return sum(linear_map.inner(x, y) for x, y in zip(a[:n], b[:n], strict=True))

    x = [0 * alm for alm in right]
    residual = right
    towards = conditioned(residual)
    step = towards
    first = size = product(residual, towards)
    count = 0
    while count < most:
        count += 1
        image = left(step)
        length = size / product(step, image)
        x = [a + length * b for a, b in zip(x, step, strict=True)]
        residual = [a - length * b for a, b in zip(residual, image, strict=True)]
        towards = conditioned(residual)
        before = size
        size = product(residual, towards)
        if size < tolerance**2 * first:
            break
        step = [a + size / before * b for a, b in zip(towards, step, strict=True)]
    return x, count


def true(sky: Sky, lmax: int) -> tuple[Callable[[np.ndarray], np.ndarray], list[int]]:
    """The template, without mask, with the weights of the pixels; a function of Q and U, with E that of the sky."""
    nside = hp.npix2nside(len(sky.good))
    beam = gaussian_beam(FWHM, lmax)
    ell = np.arange(lmax + 1)
    inverse = sky.good / sky.variance
    level = np.median(sky.variance[sky.good > 0]) * hp.nside2pixarea(nside)
    names = ("lensed_ee", "lensed_bb", "bb", "pp")
    ee, bb, tensor, pp = (np.where(ell < 2, 1, fiducial()[name][: lmax + 1]) for name in names)
    noise = level / beam**2
    coupling = Coupling(lmax)
    beyond = np.maximum(bb - tensor - coupling.lensing_bb(ee, pp), 0)
    others = np.where(ell < LMIN_B, FREE * bb, beyond + tensor)

    def per(cl: np.ndarray) -> np.ndarray:
        return np.divide(1, cl, out=np.zeros(lmax + 1), where=(ell >= 2) & (cl > 0))

    def adjoint(qu: np.ndarray) -> Alms:
        alms = sht.analysis(qu * inverse, lmax, spin=2, niter=0) / hp.nside2pixarea(nside)
        return [sht.almxfl(alm, beam * (ell >= 2)) for alm in alms]

    def weighted(e: np.ndarray, b: np.ndarray) -> Alms:
        return adjoint(seen([e, b], nside))

    def left_of_filter(u: Alms) -> Alms:
        image = weighted(*u)
        return [a + sht.almxfl(x, per(cl)) for a, x, cl in zip(image, u, (ee, bb), strict=True)]

    def filtered(r: Alms) -> Alms:
        return [sht.almxfl(x, per(1 / noise + 1 / cl)) for x, cl in zip(r, (ee, bb), strict=True)]

    (e_wiener, _), first = conjugate_gradients(left_of_filter, adjoint(sky.qu), filtered, 1e-3, 500, 2)
    lensed = FirstOrder(e_wiener, grid=int(linear_map.GRID * lmax))
    none = np.zeros_like(e_wiener)
    normal = per(coupling.response_eb(ee**2 / (ee + noise), per(noise + others)) + per(pp))

    def back(b: np.ndarray) -> np.ndarray:
        return lensed.adjoint(none, b)

    def left(u: Alms) -> Alms:
        e, x, phi, of_phi = u
        of_e, of_b = weighted(e, x + of_phi)
        images = of_e + sht.almxfl(e, per(ee)), of_b + sht.almxfl(x, per(others))
        return [*images, back(of_b) + sht.almxfl(phi, per(pp)), none]

    def conditioned(r: Alms) -> Alms:
        """Block by block: E and x as on an even sky, phi by what they leave of it. M phi, made here, goes along."""
        x = sht.almxfl(r[1], per(1 / noise + 1 / others))
        phi = sht.almxfl(r[2] - back(sht.almxfl(x, 1 / noise)), normal)
        of_phi = sht.almxfl(lensed.lens(phi)[1], ell >= 2)
        e = sht.almxfl(r[0], per(1 / noise + 1 / ee))
        return [e, x - sht.almxfl(of_phi, per(1 / noise + 1 / others) / noise), phi, of_phi]

    counts = [first]

    def template(qu: np.ndarray) -> np.ndarray:
        e, b = adjoint(qu)
        found, n = conjugate_gradients(left, [e, b, back(b), none], conditioned, 5e-4, 60, 3)
        counts.append(n)
        return lensed.lens(found[2])[1]

    return template, counts


def rows_of(nside: int, lmax: int, noise: str, level: float, good: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """A row for each kind of weights."""
    f_sky = round(float(good.mean()), 2)
    sky = simulated(nside, lmax, noise, level, good, seed)
    wide = apodise(good, 5.0 if f_sky < 1 else 0.0)
    ell = np.arange(lmax + 1)
    own = sht.almxfl(lensing.unit_alm(np.random.default_rng(seed), lmax), np.sqrt(fiducial()["lensed_bb"][: lmax + 1]))
    own = sht.almxfl(own, (ell >= BAND[0]) * (ell <= LMIN_B))
    even = np.sqrt(sky.variance / sky.variance.mean())
    kinds = [("harmonic", wide), ("over sigma", wide / even)]
    if f_sky < 1:
        kinds.insert(1, ("harmonic, taper 1", apodise(good, 1.0)))
    rows = []
    for kind, weight in [*kinds, ("true", good)]:
        start = time.process_time()
        template, counts = true(sky, lmax) if kind == "true" else harmonic(sky, weight, lmax)
        made = template(sky.qu)
        seconds = time.process_time() - start
        to_wide = np.divide(wide**2, weight, out=np.zeros_like(wide), where=weight > 0)
        response = template(seen([0 * own, own], nside) * good)

        def inside(alm: np.ndarray, w: np.ndarray) -> np.ndarray:
            alm = sht.analysis(sht.synthesis(alm, nside) * w, LMIN_B + 50)
            inside_band = np.arange(LMIN_B + 51)
            return sht.almxfl(alm, (inside_band >= BAND[0]) * (inside_band <= BAND[1]))

        left, whole = inside(sky.lensing, wide**2), inside(sky.lensing, wide**2)
        left = left - inside(made, to_wide)
        kept, given = inside(response, to_wide), inside(own, wide**2)
        rows.append(
            {
                "nside": nside,
                "lmax": lmax,
                "noise": noise,
                "uk_arcmin": level,
                "f_sky": f_sky,
                "weights": kind,
                "A_res": round(linear_map.inner(left, left) / linear_map.inner(whole, whole), 4),
                "transfer": round(1 - linear_map.inner(kept, given) / linear_map.inner(given, given), 4),
                "cpu_s": round(seconds, 1),
                "iterations": " + ".join(map(str, counts[:2])),
            }
        )
        print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--nside", type=int, default=256)
    options.add_argument("--lmax", type=int, default=640)
    options.add_argument("--f-sky", type=float, nargs="+", default=[1.0, 0.7, 0.3, 0.03])
    options.add_argument("--noise", choices=("scan", "white"), default="scan")
    options.add_argument("--level", type=float, default=1.0, help="of the noise, uK arcmin")
    options.add_argument("--ecliptic", action="store_true", help="caps around the poles of the ecliptic")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    rows = []
    for f_sky in given.f_sky:
        good = caps(given.nside, f_sky) if given.ecliptic else mask_of(given.nside, f_sky)
        rows += rows_of(given.nside, given.lmax, given.noise, given.level, good, given.seed)
        save("linear_map_masked", rows, given.out / "delensing")


if __name__ == "__main__":
    main()
