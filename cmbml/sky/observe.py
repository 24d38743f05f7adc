"""From the alms of a sky to the maps of an instrument: beam, pixels, noise, mask, and scalar T, E and B maps."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.noise import knee_noise

_FIELDS = ("T", "Q", "U", "E", "B")


def observe(
    alms: Mapping[str, np.ndarray],
    *,
    nside: int,
    lmax: int,
    fwhm_arcmin: float,
    noise_t_uk_arcmin: float,
    noise_p_uk_arcmin: float,
    rngs: Mapping[str, np.random.Generator],
    knee_t: tuple[float, float] = (0.0, 0.0),
    knee_p: tuple[float, float] = (0.0, 0.0),
    noise_b: tuple[float, float, float] | None = None,
    fields: Sequence[str] = ("T", "E", "B"),
    mask: np.ndarray | None = None,
    niter: int = 1,
    nthreads: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Observe a sky: beam, HEALPix pixels, noise after the beam, analysis to lmax, scalar maps.

    T, E and B maps are scalar (spin-0) maps of what the analysis of the noisy T and (Q, U) finds up to lmax;
    Q and U are the noisy pixels themselves. A mask multiplies the noisy pixels before the analysis; what E then shows
    in B, and beyond the mask's border, is the mask's doing.

    Parameters
    ----------
    alms : mapping
        ``T``, ``E``, ``B`` of the sky, uK, (nalm,).
    nside, lmax : int
        lmax < 3 nside.
    fwhm_arcmin : float
    noise_t_uk_arcmin, noise_p_uk_arcmin : float
        Of T, and of each of Q and U, uK arcmin.
    rngs : mapping
        Generators ``T`` and ``P`` of the noise; a field that is not asked for draws none.
    knee_t, knee_p : tuple of float, optional
        l_knee and alpha of the noise of T, and of E and B (`knee_noise`); white by default.
    noise_b : tuple of float, optional
        Level, l_knee and alpha of B, where they are not those of E.
    fields : sequence of str, optional
        Of T, E, B, Q, U.
    mask : array (npix,), optional
        Weight of each pixel, 0 to 1, RING.
    niter : int, optional
        Iterations of the analysis.
    nthreads : int, optional

    Returns
    -------
    maps : dict of float64 arrays (npix,), uK, RING
    alms : dict of complex128 arrays (nalm,)
        Of the observed T, E and B, with the beam: what the scalar maps are made of.

    Raises
    ------
    ValueError
        If a field is unknown or lmax is beyond the pixels.

    Examples
    --------
    Without beam and noise an instrument finds the sky that there is:

    >>> from cmbml.sky.lensing import unit_alm
    >>> t = unit_alm(np.random.default_rng(1), 8)
    >>> nothing = {"fwhm_arcmin": 0.0, "noise_t_uk_arcmin": 0.0, "noise_p_uk_arcmin": 0.0}
    >>> rngs = {"T": np.random.default_rng(2), "P": np.random.default_rng(3)}
    >>> maps, found = observe({"T": t}, nside=8, lmax=8, rngs=rngs, fields=["T"], niter=3, **nothing)
    >>> np.allclose(found["T"], t, atol=1e-3)
    True
    """
    unknown = [f for f in fields if f not in _FIELDS]
    if unknown or lmax >= 3 * nside:
        raise ValueError(
            f"cannot observe {', '.join(unknown)}" if unknown else f"lmax = {lmax} >= 3 nside = {3 * nside}"
        )
    beam = gaussian_beam(fwhm_arcmin, lmax)
    seen = {f: sht.almxfl(sht.truncate(alm, lmax), beam) for f, alm in alms.items() if f in ("T", "E", "B")}
    weight = 1.0 if mask is None else mask
    pixels: dict[str, np.ndarray] = {}
    if "T" in fields:
        sky = sht.synthesis(seen["T"], nside, nthreads=nthreads)
        sky += knee_noise(rngs["T"], nside, noise_t_uk_arcmin, *knee_t, nthreads=nthreads)[0]
        sky *= weight
        pixels["T"] = sky
    if set(fields) - {"T"}:
        sky = sht.synthesis(np.stack([seen["E"], seen["B"]]), nside, spin=2, nthreads=nthreads)
        sky += knee_noise(rngs["P"], nside, noise_p_uk_arcmin, *knee_p, spin=2, of_b=noise_b, nthreads=nthreads)
        sky *= weight
        pixels |= zip("QU", sky, strict=True)
    return analysed(pixels, fields, lmax, niter=niter, nthreads=nthreads)


def analysed(
    pixels: Mapping[str, np.ndarray], fields: Sequence[str], lmax: int, *, niter: int = 1, nthreads: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Analyse maps of T, Q and U: what `observe` returns of what it has seen.

    Parameters
    ----------
    pixels : mapping
        ``T``, ``Q`` and ``U``, those that the fields need: arrays (npix,), uK, RING.
    fields, lmax, niter, nthreads
        As in `observe`.

    Returns
    -------
    maps : dict of float64 arrays (npix,), uK, RING
        Of the fields: T, E and B are scalar maps of their alms, Q and U the pixels themselves.
    alms : dict of complex128 arrays (nalm,)
        Of T, and of E and B together, where a field needs them.

    Examples
    --------
    An E mode without B, from its Q and U:

    >>> from cmbml.sky.lensing import unit_alm
    >>> e = sht.almxfl(unit_alm(np.random.default_rng(1), 8), np.arange(9) >= 2)
    >>> q, u = sht.synthesis(np.stack([e, 0 * e]), 8, spin=2)
    >>> maps, found = analysed({"Q": q, "U": u}, ["B", "Q"], 8, niter=3)
    >>> bool(np.abs(maps["B"]).max() < 1e-3), maps["Q"] is q, np.allclose(found["E"], e, atol=1e-3)
    (True, True, True)
    """
    maps = {f: m for f, m in pixels.items() if f in "QU"}
    found: dict[str, np.ndarray] = {}
    nside = round(np.sqrt(len(next(iter(pixels.values()))) / 12))
    if "T" in fields:
        found["T"] = sht.analysis(pixels["T"], lmax, niter=niter, nthreads=nthreads)
    if "E" in fields or "B" in fields:
        both = np.stack([pixels["Q"], pixels["U"]])
        found |= zip("EB", sht.analysis(both, lmax, spin=2, niter=niter, nthreads=nthreads), strict=True)
    scalar = [f for f in fields if f in found]
    if scalar:
        alm = np.stack([found[f] for f in scalar])
        maps |= zip(scalar, sht.synthesis(alm, nside, nthreads=nthreads), strict=True)
    return {f: maps[f] for f in fields}, found
