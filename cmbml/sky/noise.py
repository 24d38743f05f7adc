"""Instrument noise: white, of given pixel variances, of a scan that sees some of the sky more often, and with 1/f.

A level of w uK arcmin is w uK rms in a pixel of one square arcminute; its spectrum is N_l = (w pi / 10800)^2. Where the
variance sigma^2 differs from pixel to pixel, the mean over many draws of the full-sky spectrum is still flat,
N_l = Omega_pix <sigma^2> with the mean over all pixels (sum_m |Y_lm|^2 does not depend on the direction). That mean is
what *level* means everywhere here. The noise of a draw scatters about it: nothing is coloured to a spectrum afterwards.
"""

import healpy as hp
import numpy as np

from cmbml.sky import sht

_CHUNK = 2**20  # pixels whose directions are computed at once: bounds the memory


def white_noise(rng: np.random.Generator, nside: int, level_uk_arcmin: float, ncomp: int = 1) -> np.ndarray:
    """Draw independent white noise for each pixel of ``ncomp`` HEALPix maps, uK, shape (ncomp, 12 nside^2).

    A level of w uK arcmin is w uK rms in a pixel of one square arcminute, so sigma = w (pi / 10800) / sqrt(Omega_pix).

    Examples
    --------
    >>> noise = white_noise(np.random.default_rng(1), 16, 10.0, ncomp=2)
    >>> np.allclose(white_level(noise**2), 10.0, rtol=0.05)
    True
    """
    npix = 12 * nside**2
    sigma = np.sqrt(noise_cl(level_uk_arcmin, 0)[0] * npix / (4 * np.pi))
    noise = rng.standard_normal((ncomp, npix))
    noise *= sigma
    return noise


def noise_cl(level_uk_arcmin: float, lmax: int, *, l_knee: float = 0.0, alpha: float = 0.0) -> np.ndarray:
    """Return the spectrum N_l = (w pi / 10800)^2 [1 + (l / l_knee)^alpha] of a level of w uK arcmin; uK^2, (lmax + 1,).

    The second term, the correlated noise of ``knee_noise``, is zero at l = 0 and 1, and for l_knee = 0 everywhere. (Of
    surveys that give it a level of its own, N_red (l / l_0)^alpha, the knee is at l_0 (N_white / N_red)^(1 / alpha).)

    Raises
    ------
    ValueError
        If l_knee is negative, or alpha is not although there is a knee.

    Examples
    --------
    At the knee both parts are alike:

    >>> white = noise_cl(10.0, 8)
    >>> (noise_cl(10.0, 8, l_knee=4.0, alpha=-2.0) / white).tolist()[:5]
    [1.0, 1.0, 5.0, 2.7777777777777777, 2.0]
    """
    if l_knee < 0 or (l_knee > 0 and not alpha < 0):
        raise ValueError(f"noise with l_knee = {l_knee:g} and alpha = {alpha:g}: a knee wants l_knee > 0 and alpha < 0")
    shape = np.ones(lmax + 1)
    if l_knee > 0:
        shape[2:] += (np.arange(2, lmax + 1) / l_knee) ** alpha
    cl: np.ndarray = shape * np.deg2rad(level_uk_arcmin / 60) ** 2
    return cl


def white_level(variance: np.ndarray) -> np.ndarray:
    """Return the level sqrt(Omega_pix <sigma^2>) of a variance map (..., npix), uK^2, in uK arcmin, shape (...).

    Examples
    --------
    A pixel of one square arcminute and of 3 uK rms:

    >>> npix = 4 * np.pi / np.deg2rad(1 / 60) ** 2
    >>> float(np.round(white_level(np.full(768, 3.0**2 * 768 / npix)), 12))
    3.0
    """
    variance = np.asarray(variance)
    level: np.ndarray = np.rad2deg(np.sqrt(4 * np.pi / variance.shape[-1] * variance.mean(axis=-1))) * 60
    return level


def variance_noise(rng: np.random.Generator, variance: np.ndarray) -> np.ndarray:
    """Draw noise, independent from pixel to pixel, of given variances.

    Parameters
    ----------
    rng : numpy.random.Generator
    variance : array (npix,) or (ncomp, npix)
        sigma^2 of each pixel, e.g. II, or II, QQ, UU; uK^2. A constant one gives the numbers of ``white_noise``.

    Returns
    -------
    float64 array of the shape of ``variance``, uK

    Raises
    ------
    ValueError
        If a variance is negative or not finite.

    Examples
    --------
    >>> noise = variance_noise(np.random.default_rng(1), np.array([0.0, 1.0, 4.0]))
    >>> np.array_equal(noise, np.random.default_rng(1).standard_normal(3) * [0, 1, 2])
    True
    """
    variance = np.asarray(variance)
    if not (np.isfinite(variance).all() and (variance >= 0).all()):
        raise ValueError("a variance map has pixels that are negative or not finite; noise cannot be drawn from it")
    noise = rng.standard_normal(variance.shape)
    noise *= np.sqrt(variance)
    return noise


def degrade_variance(variance: np.ndarray, nside_out: int, *, nest: bool = False) -> np.ndarray:
    """Return the variance map of the same noise on coarser pixels.

    A coarse pixel is the mean of its n = (nside / nside_out)^2 fine ones, and their noise is independent, so that its
    variance is sum sigma^2 / n^2 = mean(sigma^2) / n: healpy's ``ud_grade`` with ``power=2``, which divides the mean by
    another n. The level ``white_level`` stays the same. Finer pixels obey the inverse rule, each has n times the
    variance of the pixel it lies in: they have the right level, and no structure below the size of the input's pixels.

    Parameters
    ----------
    variance : array (..., npix)
        uK^2.
    nside_out : int
    nest : bool, optional
        Whether the input is in NESTED order.

    Returns
    -------
    float64 array (..., 12 nside_out^2), RING

    Raises
    ------
    ValueError
        If pixels are UNSEEN or not finite: what is unknown has no mean.

    Examples
    --------
    >>> fine = np.linspace(1, 2, 12 * 16**2)
    >>> np.allclose(white_level(degrade_variance(fine, 8)), white_level(fine))
    True
    """
    variance = np.asarray(variance, dtype=np.float64)
    if not np.isfinite(variance).all() or hp.mask_bad(variance).any():
        raise ValueError("a variance map has pixels that are UNSEEN or not finite; fill them before degrading it")
    maps = variance.reshape(-1, variance.shape[-1])
    order = "NEST" if nest else "RING"
    out = [hp.ud_grade(m, nside_out, order_in=order, order_out="RING", power=2, dtype=np.float64) for m in maps]
    return np.reshape(out, (*variance.shape[:-1], 12 * nside_out**2))


def hit_pattern(nside: int, *, spin_deg: float = 85.0, precession_deg: float = 7.5, fov_deg: float = 4.0) -> np.ndarray:
    r"""Return how often a satellite that spins and precesses about the Sun's direction sees each pixel, mean 1.

    The line of sight is ``spin_deg`` (beta) away from the spin axis, the axis ``precession_deg`` (alpha) away from the
    anti-Sun, which circles the ecliptic; all phases are uniform. (Planck: 85 and 7.5; WMAP: 70 and 22.5; LiteBIRD: 50
    and 45.) Seen from the anti-Sun the line of sight is at psi, cos psi = cos alpha cos beta - sin alpha sin beta cos
    phi, and on that circle sin b = sin psi sin gamma, with gamma uniform. So z = sin b has the distribution

        P(< z) = 1/2 + < arcsin(z / sin psi) >_phi / pi

    (the ratio cut at +-1), which for psi = 90 degrees is a density of hits per solid angle of 1 / cos b. The pattern is
    its mean over a band of ecliptic latitudes as wide as the field of view or a pixel, whichever is wider; that rounds
    off the ridges where circles pile up, at the ecliptic poles and around them. It does not depend on the longitude.

    Parameters
    ----------
    nside : int
    spin_deg, precession_deg : float, optional
        Their sum must reach 90, or the caps around the ecliptic poles stay empty.
    fov_deg : float, optional
        Diameter of the field of view.

    Returns
    -------
    float64 array (npix,), RING, Galactic coordinates

    Examples
    --------
    The poles of the ecliptic are seen most, its plane least:

    >>> hits = hit_pattern(16)
    >>> poles, plane = hp.ang2pix(16, [96.38, 0.0], [29.81, 60.19], lonlat=True)
    >>> bool(hits[poles] > 3 > 1 > hits[plane]), round(float(hits.mean()), 12)
    (True, 1.0)
    """
    alpha, beta = np.deg2rad([precession_deg, spin_deg])
    phi = (np.arange(512) + 0.5) * np.pi / 512
    cos_psi = np.cos(alpha) * np.cos(beta) - np.sin(alpha) * np.sin(beta) * np.cos(phi)
    sin_psi = np.maximum(np.sqrt(1 - cos_psi**2), 1e-12)
    colatitude = np.linspace(0, np.pi, 4096)
    half = max(np.deg2rad(fov_deg), hp.nside2resol(nside)) / 2
    top = np.cos(np.maximum(colatitude - half, 0))
    bottom = np.cos(np.minimum(colatitude + half, np.pi))
    below = [np.arcsin(np.clip(z[:, None] / sin_psi, -1, 1)).mean(axis=1) for z in (top, bottom)]
    density = (below[0] - below[1]) / (top - bottom)
    pole = np.array(hp.Rotator(coord="EG")(np.array([0.0, 0.0, 1.0])))
    hits: np.ndarray = np.empty(hp.nside2npix(nside))
    for start in range(0, hits.size, _CHUNK):
        pixels = np.arange(start, min(start + _CHUNK, hits.size))
        z = pole @ np.array(hp.pix2vec(nside, pixels))
        hits[pixels] = np.interp(np.arccos(np.clip(z, -1, 1)), colatitude, density)
    hits /= hits.mean()
    return hits


def scan_variance(nside: int, level_uk_arcmin: float, **scan: float) -> np.ndarray:
    """Return the pixel variances sigma^2 = c / hits of a scan, float64 (npix,), uK^2, RING, Galactic coordinates.

    The constant c makes the level that of ``white_level``: Omega_pix <sigma^2> = (w pi / 10800)^2, the white spectrum
    of the whole sky, in which rarely seen pixels count most. It is no median, and no level of the best seen sky.

    Parameters
    ----------
    nside : int
    level_uk_arcmin : float
        w.
    **scan
        ``spin_deg``, ``precession_deg``, ``fov_deg`` of ``hit_pattern``.

    Raises
    ------
    ValueError
        If the scan never sees some pixels.

    Examples
    --------
    >>> round(float(white_level(scan_variance(16, 10.0))), 9)
    10.0
    """
    hits = hit_pattern(nside, **scan)
    unseen = np.mean(hits <= 0)
    if unseen:
        raise ValueError(f"the scan leaves {100 * unseen:.2g} % of the sky unseen; spin + precession must reach 90 deg")
    depth: np.ndarray = 1 / hits
    depth *= noise_cl(level_uk_arcmin, 0)[0] * len(hits) / (4 * np.pi) / depth.mean()
    return depth


def knee_noise(
    rng: np.random.Generator,
    nside: int,
    level_uk_arcmin: float,
    l_knee: float,
    alpha: float,
    *,
    spin: int = 0,
    of_b: tuple[float, float, float] | None = None,
    shared: tuple[np.random.Generator, float] | None = None,
    variance: np.ndarray | None = None,
    nthreads: int = 0,
) -> np.ndarray:
    """Draw white noise and a Gaussian field of N_l = (w pi / 10800)^2 (l / l_knee)^alpha, l = 2 ... 3 nside - 1.

    For spin 0 one map; for spin 2 [Q, U], of independent E and B with that spectrum each. Monopole and dipole of the
    field are zero. The white part follows the pixel variances if they are given; the field does not: a slow drift is
    laid out over many rings, deep and shallow pixels alike, and so its spectrum is that of ``noise_cl`` whatever the
    scan. The white part is drawn first: it is that of ``white_noise`` or ``variance_noise`` for the same stream.

    White noise of the pixels is alike in E and B. Where B has a level of its own, pixels have the lower of the two, and
    what the other has beyond it is white noise in the field, too.

    Bands that look through the same atmosphere share a part of the field: with rho their correlation, it is

        sqrt(1 - rho) times a field of the band's own + sqrt(rho) times one of the common stream,

    both with the band's spectrum. White noise is of the detectors, and each band's own.

    Parameters
    ----------
    rng : numpy.random.Generator
    nside : int
    level_uk_arcmin : float
        w, of T, or of each of Q and U; of a variance map, ``white_level(variance)`` (of the lower of E and B).
    l_knee, alpha : float
        0 and 0 for white noise alone.
    spin : {0, 2}, optional
    of_b : tuple of float, optional
        Level, l_knee and alpha of B, of which the others then are those of E; alike if not given.
    shared : tuple, optional
        A fresh generator of the common stream, and rho.
    variance : array (npix,) or (1 or 2, npix), optional
        uK^2; else it is uniform.
    nthreads : int, optional

    Returns
    -------
    float64 array, (1, npix) for spin 0, (2, npix) for spin 2, uK, RING

    Examples
    --------
    The white part is that of the same stream without a knee:

    >>> white = white_noise(np.random.default_rng(1), 8, 10.0)
    >>> np.array_equal(knee_noise(np.random.default_rng(1), 8, 10.0, 0.0, 0.0), white)
    True
    >>> drift = knee_noise(np.random.default_rng(1), 8, 10.0, 8.0, -2.0) - white
    >>> bool(abs(drift.mean()) < 1e-2 * drift.std())
    True
    """
    ncomp = 1 if spin == 0 else 2
    lmax = 3 * nside - 1
    laws = [(level_uk_arcmin, l_knee, alpha)] * ncomp
    if of_b is not None:
        laws[-1] = of_b
    white = min(level for level, _, _ in laws)
    if variance is None:
        noise = white_noise(rng, nside, white, ncomp)
    else:
        noise = variance_noise(rng, np.broadcast_to(variance, (ncomp, 12 * nside**2)))
    own = np.array([noise_cl(level, lmax) - noise_cl(white, lmax) for level, _, _ in laws])
    drift = [noise_cl(level, lmax, l_knee=knee, alpha=slope) - noise_cl(level, lmax) for level, knee, slope in laws]
    common, rho = shared or (None, 0.0)
    own += (1 - rho) * np.array(drift)
    for stream, cl in ((rng, own), (common, rho * np.array(drift))):
        if stream is not None and cl.any():
            alm = _unit_alm(stream, ncomp, lmax)
            filtered = np.stack([sht.almxfl(x, np.sqrt(of_x)) for x, of_x in zip(alm, cl, strict=True)])
            noise += sht.synthesis(filtered, nside, spin=spin, nthreads=nthreads)
    return noise


def _unit_alm(rng: np.random.Generator, ncomp: int, lmax: int) -> np.ndarray:
    """Alms (ncomp, nalm) of Gaussian fields with C_l = 1."""
    alm: np.ndarray = rng.standard_normal((ncomp, sht.alm_size(lmax), 2)) @ np.array([1, 1j]) * np.sqrt(0.5)
    alm[:, : lmax + 1] = np.sqrt(2) * alm[:, : lmax + 1].real
    return alm
