"""Templates of Galactic foregrounds drawn from seeds: skies that look like the Galaxy's in their statistics alone.

The intensity of a component is a slab seen from inside, brighter toward the Galactic centre, times a log-normal field:

    I(n) = A exp(k x) / sqrt(sin^2 b + h^2) exp(g - <g^2> / 2),    x = cos l cos b,

with g Gaussian, of a power-law spectrum. exp(g - <g^2>/2) has the mean 1 whatever the band limit of g, so that a map of
a higher nside is the same sky with more detail. The fields g of the components are correlated. Free-free adds clumps:
HII regions along the plane, and nebulae nearby that lie higher. Polarisation is a fraction of the intensity with
Gaussian Stokes parameters, with more E than B, and an E that follows the intensity in part as filaments along the
magnetic field make it; spectral indices and dust temperatures are Gaussian fields.

The numbers were chosen so that at nside 64 and |b| > 20 deg median, scatter, contrast of the plane, spectra and
correlations are near those of the sky (``tests/sky/test_synthetic.py`` holds them). Nothing is where it is on the sky.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import healpy as hp
import numpy as np

from cmbml.sky import sht
from cmbml.sky.lensing import unit_alm

COMPONENTS = ("dust", "synchrotron", "freefree", "ame")
REFERENCE_GHZ = {"dust": 353.0, "synchrotron": 23.0, "freefree": 30.0, "ame": 22.8}
# Spinning dust: flux density ~ exp(-ln^2(nu / peak) / (2 width^2)) (Stevenson 2014, ApJ 781 113), in uK_RJ a power law
# whose index changes with ln nu.
AME_PEAK_GHZ = 28.0
AME_WIDTH = 0.5
# Spectral indices at the reference frequency, in uK_RJ, of the components that have no map of them.
FIXED_INDEX = {
    "freefree": -2.14,
    "ame": float(np.log(AME_PEAK_GHZ / REFERENCE_GHZ["ame"]) / AME_WIDTH**2 - 2),
}
Template = np.ndarray | np.float32 | float  # a map, or one number for the whole sky
# Of the log-normal fields, in the order of COMPONENTS.
CORRELATION = np.array(
    [[1.0, 0.39, 0.35, 0.73], [0.39, 1.0, 0.0, 0.43], [0.35, 0.0, 1.0, 0.25], [0.73, 0.43, 0.25, 1.0]]
)
_LMAX = 8192  # where the spectra are normalised, whatever the band limit of a map


@dataclass(frozen=True)
class Law:
    """Statistics of a Gaussian field: its mean, its standard deviation, and C_l ~ l^-slope for l >= lmin.

    Examples
    --------
    >>> law = Law(mean=0.0, sigma=2.0, slope=4.0)
    >>> modes = 2 * np.arange(65) + 1
    >>> round(float(modes @ law.cls(64)) / (4 * np.pi), 1)
    4.0
    """

    mean: float
    sigma: float
    slope: float
    lmin: int = 3

    def cls(self, lmax: int) -> np.ndarray:
        """Spectrum, (lmax + 1,): sum (2l+1) C_l / 4 pi over all l, of which l <= 8192 are counted, is sigma^2."""
        ell = np.arange(max(lmax, _LMAX) + 1)
        cl = np.zeros(len(ell))
        cl[self.lmin :] = ell[self.lmin :] ** -self.slope
        return cl[: lmax + 1] * self.sigma**2 * 4 * np.pi / np.sum((2 * ell + 1) * cl)


@dataclass(frozen=True)
class Slab:
    """A component's intensity: A in uK_RJ at its reference frequency, h, k, and the Gaussian field g of mean 0."""

    amplitude_uk_rj: float
    height: float
    centre: float
    log: Law


@dataclass(frozen=True)
class Clumps:
    """A population of round Gaussian clouds.

    Latitudes follow exp(-|b| / latitude), longitudes a wrapped Cauchy distribution about the Galactic centre of
    concentration ``centre`` (0: uniform), the logarithm of the sizes (standard deviations) is uniform between its
    limits, and peaks are log-normal: brightness exp(w / 2) sqrt(30 arcmin / size), w a unit Gaussian.
    """

    count: int
    brightness_uk_rj: float
    latitude_deg: float
    centre: float
    size_arcmin: tuple[float, float]


SLABS = {
    "dust": Slab(26.4, 0.004, 0.5, Law(0.0, 0.88, 2.5, 4)),
    "synchrotron": Slab(50.7, 0.085, 0.2, Law(0.0, 0.34, 2.9)),
    "freefree": Slab(5.3, 0.006, 0.5, Law(0.0, 1.0, 2.2)),
    "ame": Slab(22.3, 0.005, 0.5, Law(0.0, 1.0, 2.05, 4)),
}
HII_REGIONS = Clumps(300, 22000.0, 0.8, 1 / 3, (6.0, 36.0))
NEBULAE = Clumps(250, 1600.0, 12.0, 0.0, (18.0, 72.0))
INDEX = {"dust": Law(1.539, 0.033, 2.6), "synchrotron": Law(-3.0, 0.055, 2.6)}
TEMPERATURE_K = Law(21.0, 2.3, 2.6)
FRACTION = {"dust": Law(0.0, 0.079, 2.4), "synchrotron": Law(0.0, 0.182, 2.8)}  # sigma of q and of u
# Power of B over E in the fractions, and correlation of their E with the log of the intensity. The product with the
# intensity mixes E and B: the maps have BB/EE .53 and a T-E correlation of .36 for dust (l 40-120, |b| > 20 deg; Planck
# 2018 XI, arXiv:1801.04945), and .3 and none for synchrotron.
B_OVER_E = {"dust": 0.275, "synchrotron": 0.2}
WITH_INTENSITY = {"dust": 0.45, "synchrotron": 0.0}


def templates(
    nside: int, rngs: Mapping[str, np.random.Generator], components: Iterable[str] = COMPONENTS
) -> dict[str, dict[str, np.ndarray]]:
    """Draw templates of the foregrounds.

    One seed is one sky: a larger nside adds detail, and leaving a component out does not change the others.

    Parameters
    ----------
    nside : int
    rngs : mapping
        A fresh generator for each of `COMPONENTS`, those that are left out included (the fields are correlated).
    components : iterable of str, optional

    Returns
    -------
    dict of dicts of float32 arrays (12 nside^2,), RING
        ``I`` in uK_RJ at `REFERENCE_GHZ`; dust and synchrotron also ``Q``, ``U`` (COSMO sign) and ``index``, that of
        a modified black body (flux) and of a power law (uK_RJ); dust also ``temperature`` in K.

    Raises
    ------
    ValueError
        If a component is unknown.

    Examples
    --------
    A component is the same with the others and without them:

    >>> def rngs():
    ...     return {name: np.random.default_rng(i) for i, name in enumerate(COMPONENTS)}
    >>> sky = templates(8, rngs())
    >>> np.array_equal(sky["synchrotron"]["I"], templates(8, rngs(), ["synchrotron"])["synchrotron"]["I"])
    True
    """
    wanted = list(components)
    unknown = sorted(set(wanted) - set(COMPONENTS))
    if unknown:
        raise ValueError(f"there is no synthetic {', '.join(unknown)}; these are: {', '.join(COMPONENTS)}")
    root = np.linalg.cholesky(CORRELATION)
    unit = []
    made = {}
    for i, name in enumerate(COMPONENTS):
        field, *streams = rngs[name].spawn(4)
        unit.append(unit_alm(field, 2 * nside))
        if name in wanted:
            alm = sum(weight * part for weight, part in zip(root[i], unit, strict=False))
            made[name] = _component(name, alm, nside, streams)
        if len(made) == len(set(wanted)):
            break
    return {name: made[name] for name in wanted}


def varied(
    component: str, maps: Mapping[str, np.ndarray], rng: np.random.Generator, *, amplitude: float, index: float
) -> dict[str, Template]:
    """Return templates of a component that another Galaxy might have.

    I, Q and U are multiplied by exp(``amplitude`` w), and ``index`` v is added to the spectral index, with w and v
    unit Gaussian numbers, the same over the sky.

    Examples
    --------
    >>> maps = {"I": np.ones(768, dtype=np.float32)}
    >>> other = varied("freefree", maps, np.random.default_rng(1), amplitude=0.1, index=0.0)
    >>> round(float(np.log(other["I"]).std()), 6), round(float(other["index"]), 2)
    (0.0, -2.14)
    """
    w, v = rng.standard_normal(2)
    changed: dict[str, Template] = dict(maps)
    for field in ("I", "Q", "U"):
        if field in maps:
            changed[field] = maps[field] * np.float32(np.exp(amplitude * w))
    known = maps["index"] if "index" in maps else FIXED_INDEX[component]
    changed["index"] = known + np.float32(index * v)
    return changed


def _component(name: str, alm: np.ndarray, nside: int, streams: list[np.random.Generator]) -> dict[str, np.ndarray]:
    """Make the maps of one component from the unit alms of its log-normal field."""
    intensity = _slab(SLABS[name], alm, nside)
    if name == "freefree":
        for population, rng in zip((HII_REGIONS, NEBULAE), streams, strict=False):
            _add_clumps(intensity, population, rng)
    maps = {"I": intensity.astype(np.float32)}
    if name in FRACTION:
        qu = _fraction(FRACTION[name], nside, streams[0], alm, B_OVER_E[name], WITH_INTENSITY[name])
        qu *= intensity
        maps |= zip("QU", qu.astype(np.float32), strict=True)
        maps["index"] = _gaussian(INDEX[name], nside, streams[1]).astype(np.float32)
    if name == "dust":
        maps["temperature"] = _gaussian(TEMPERATURE_K, nside, streams[2]).astype(np.float32)
    return maps


def _slab(slab: Slab, alm: np.ndarray, nside: int) -> np.ndarray:
    """Intensity of a slab with a log-normal field of the given unit alms, (npix,).

    The profile 1 / sqrt(z^2 + h^2), z = sin b, is averaged over the rings' distance in z, as h is less than a pixel.
    """
    cl = slab.log.cls(sht.alm_lmax(alm))
    variance = np.sum((2 * np.arange(len(cl)) + 1) * cl) / (4 * np.pi)
    log = sht.synthesis(sht.almxfl(alm, np.sqrt(cl)), nside)
    x, _, z = hp.pix2vec(nside, np.arange(hp.nside2npix(nside)))
    log += slab.centre * x - variance / 2
    np.exp(log, out=log)
    log *= slab.amplitude_uk_rj
    half = 1 / (3 * nside)
    log *= (np.arcsinh((z + half) / slab.height) - np.arcsinh((z - half) / slab.height)) / (2 * half)
    return log


def _gaussian(law: Law, nside: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field with the mean and the spectrum of a law, (npix,)."""
    lmax = 2 * nside
    return law.mean + sht.synthesis(sht.almxfl(unit_alm(rng, lmax), np.sqrt(law.cls(lmax))), nside)


def _fraction(
    law: Law, nside: int, rng: np.random.Generator, log: np.ndarray, b_over_e: float, with_intensity: float
) -> np.ndarray:
    """Draw the fractions Q/I and U/I, (2, npix): Gaussian, and tanh p in place of p.

    B has the power of E times ``b_over_e``, and E the correlation ``with_intensity`` with the unit alms ``log`` of the
    intensity's log-normal field. The polarised fraction is then nearly Rayleigh-distributed and below 1.
    """
    lmax = 2 * nside
    e, b = (unit_alm(stream, lmax) for stream in rng.spawn(2))
    e = with_intensity * log + np.sqrt(1 - with_intensity**2) * e
    cl = 2 / (1 + b_over_e) * law.cls(lmax)
    qu = sht.synthesis(np.stack([sht.almxfl(e, np.sqrt(cl)), sht.almxfl(b, np.sqrt(b_over_e * cl))]), nside, spin=2)
    p = np.maximum(np.hypot(*qu), 1e-12)
    qu *= np.tanh(p) / p
    return qu


def _add_clumps(sky: np.ndarray, clumps: Clumps, rng: np.random.Generator) -> None:
    """Add clouds to a map in place, each smoothed by the pixel (sigma = half its side) at constant flux."""
    nside = hp.npix2nside(len(sky))
    pixel = hp.nside2resol(nside) / 2
    side, longitude, size = rng.random((3, clumps.count))
    peak = clumps.brightness_uk_rj * np.exp(rng.standard_normal(clumps.count) / 2)
    latitude = np.clip(clumps.latitude_deg * np.sign(side - 0.5) * -np.log1p(-np.abs(2 * side - 1)), -90, 90)
    spread = (1 - clumps.centre) / (1 + clumps.centre)
    longitude = np.rad2deg(2 * np.arctan(spread * np.tan(np.pi * (longitude - 0.5))))
    low, high = np.deg2rad(np.array(clumps.size_arcmin) / 60)
    size = low * (high / low) ** size
    peak *= np.sqrt(np.deg2rad(0.5) / size)
    width = np.hypot(size, pixel)
    peak *= (size / width) ** 2
    for centre, height, sigma in zip(hp.ang2vec(longitude, latitude, lonlat=True), peak, width, strict=True):
        near = hp.query_disc(nside, centre, 5 * sigma)
        cosine = centre @ np.array(hp.pix2vec(nside, near))
        sky[near] += height * np.exp((cosine - 1) / sigma**2)
