"""Spherical-harmonic transforms: the only module of the package that calls a transform library.

Conventions, everywhere in the package:

- alms are complex, in healpy's order (m-major: all l of m = 0, then all l of m = 1, ...), with mmax = lmax;
  a stack of them has shape (..., nalm), nalm = (lmax + 1)(lmax + 2) / 2;
- maps are HEALPix RING, shape (..., npix), npix = 12 nside^2;
- spin-2 pairs are [E, B] in harmonic space and [Q, U] on the sky, with HEALPix's (COSMO) sign of U;
- ``nthreads=0`` takes the threads the process was given (DUCC0_NUM_THREADS or OMP_NUM_THREADS, else all cores).

No result depends on the number of threads, bit for bit.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import ducc0
import numpy as np

from cmbml.sky.alms import alm2cl, alm_lmax, alm_size, almxfl, truncate

__all__ = [
    "accurate_lmax",
    "alm2cl",
    "alm_lmax",
    "alm_size",
    "almxfl",
    "analysis",
    "analysis_gl",
    "gauss_legendre",
    "in_chunks",
    "lens",
    "lens_maps",
    "rotate_alm",
    "synthesis",
    "synthesis_gl",
    "truncate",
]

# Interpolation at deflected positions, in single precision: an error of 3e-5 uK in T and 2e-6 uK in Q and U. Left
# free, ducc0 chooses the oversampling, and with it the kernel, from a cost model that knows the number of threads; this
# narrow range leaves one choice. (In double precision the last bits depend on the number of threads all the same.)
_INTERPOLATION = {"epsilon": 1e-5, "sigma_min": 1.5, "sigma_max": 1.6}
_ACCURATE = 2.5  # multipoles in units of nside
_CHUNK = 2**15  # points
_SPIN_GRID = 3  # the highest spin of a field on a Gauss-Legendre grid


@lru_cache(maxsize=8)
def _healpix(nside: int) -> dict[str, np.ndarray]:
    """Return the rings of a HEALPix map as ducc0 wants them: theta, phi0, nphi, ringstart."""
    if nside < 1 or nside & (nside - 1):
        raise ValueError(f"nside = {nside} is no power of two")
    rings: dict[str, np.ndarray] = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    return rings


def _grouped(x: np.ndarray, spin: int) -> np.ndarray:
    """View (..., [2,] n) as (ntrans, ncomp, n); refuse a spin field that is no pair."""
    ncomp = 1 if spin == 0 else 2
    if ncomp == 2 and (x.ndim < 2 or x.shape[-2] != 2):
        raise ValueError(f"a spin-{spin} transform wants pairs, shape (..., 2, n), and got {x.shape}")
    return x.reshape(-1, ncomp, x.shape[-1])


def synthesis(alm: np.ndarray, nside: int, *, spin: int = 0, nthreads: int = 0) -> np.ndarray:
    """Evaluate alms on a HEALPix map: f(n) = sum_lm a_lm sY_lm(n).

    Parameters
    ----------
    alm : array (..., nalm) for spin 0, (..., 2, nalm) = [E, B] for spin 2
    nside : int
    spin : int, optional
    nthreads : int, optional

    Returns
    -------
    array (..., npix) for spin 0, (..., 2, npix) = [Q, U] for spin 2
        RING, float64 (float32 for complex64 alms).

    Examples
    --------
    >>> one = np.array([np.sqrt(4 * np.pi), 0, 0], dtype=complex)
    >>> np.allclose(synthesis(one, 8), 1)
    True
    """
    alm = np.ascontiguousarray(alm)
    out: np.ndarray = ducc0.sht.synthesis(
        alm=_grouped(alm, spin), spin=spin, lmax=alm_lmax(alm), nthreads=nthreads, **_healpix(nside)
    )
    return out.reshape(*alm.shape[:-1], out.shape[-1])


def analysis(m: np.ndarray, lmax: int, *, spin: int = 0, niter: int = 1, nthreads: int = 0) -> np.ndarray:
    """Return the alms of a HEALPix map, by the plain quadrature and ``niter`` Jacobi iterations.

    a <- a + A (m - S a), where S is the synthesis and A = 4 pi / npix S^T; the iteration of healpy's ``iter``
    (Gorski et al. 2005, ApJ 622 759). Up to l of about 2.5 nside one iteration errs by less than 1 %
    in amplitude, at 2.9 nside by 15 to 25 %; more iterations do not help there.

    Parameters
    ----------
    m : array (..., npix) for spin 0, (..., 2, npix) = [Q, U] for spin 2
        RING.
    lmax : int
    spin : int, optional
    niter : int, optional
    nthreads : int, optional

    Returns
    -------
    complex128 array (..., nalm) for spin 0, (..., 2, nalm) = [E, B] for spin 2

    Examples
    --------
    >>> eb = np.array([[0, 0, 1, 0, 2j, 3], [0, 0, 4, 0, 5, 6j]])
    >>> np.allclose(analysis(synthesis(eb, 8, spin=2), 2, spin=2, niter=3), eb, atol=1e-5)
    True
    """
    m = np.ascontiguousarray(m, dtype=np.float64)
    nside = round(np.sqrt(m.shape[-1] / 12))
    if 12 * nside**2 != m.shape[-1]:
        raise ValueError(f"{m.shape[-1]} pixels are no HEALPix map")
    sky = _grouped(m, spin)
    rings = _healpix(nside)
    keys = {"spin": spin, "lmax": lmax, "nthreads": nthreads, **rings}
    weight = np.full(len(rings["theta"]), 4 * np.pi / m.shape[-1])
    alm: np.ndarray = ducc0.sht.adjoint_synthesis(map=sky, ringfactor=weight, **keys)
    for _ in range(niter):
        residual = ducc0.sht.synthesis(alm=alm, **keys)
        np.subtract(sky, residual, out=residual)
        alm += ducc0.sht.adjoint_synthesis(map=residual, ringfactor=weight, **keys)
    return alm.reshape(*m.shape[:-1], alm.shape[-1])


def accurate_lmax(nside: int) -> int:
    """Return the multipole, 2.5 nside, up to which ``analysis`` of a HEALPix map errs by less than a percent.

    Examples
    --------
    A field of white spectrum, analysed up to there, keeps its amplitudes:

    >>> lmax = accurate_lmax(16)
    >>> alm = np.exp(1j * np.arange(alm_size(lmax)))
    >>> alm[: lmax + 1] = 1
    >>> ratio = np.sqrt(alm2cl(analysis(synthesis(alm, 16), lmax)) / alm2cl(alm))
    >>> lmax, bool(np.abs(ratio - 1).max() < 0.01)
    (40, True)
    """
    return int(_ACCURATE * nside)


def rotate_alm(alm: np.ndarray, psi: float, theta: float, phi: float, *, nthreads: int = 0) -> np.ndarray:
    """Rotate alms (..., nalm) actively by psi about z, then theta about the fixed y, then phi about the fixed z.

    Radians. The same rotation serves T, E, B and phi: it mixes the m of one l, and knows no spin.

    Examples
    --------
    z turned by 90 degrees about y is x, and a_11 of x is -1 / sqrt 2 of a_10 of z:

    >>> z = np.array([0, 1, 0], dtype=complex)
    >>> np.allclose(rotate_alm(z, 0.0, np.pi / 2, 0.0), [0, 0, -np.sqrt(0.5)])
    True
    """
    alm = np.ascontiguousarray(alm, dtype=np.complex128)
    stack = alm.reshape(-1, alm.shape[-1])
    out: np.ndarray = ducc0.sht.rotate_alm(stack, alm_lmax(alm), psi, theta, phi, nthreads)
    return out.reshape(alm.shape)


def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes x = cos theta of n-point Gauss-Legendre quadrature and its weights, which sum to 2.

    Right to 1e-15 for any n; the general libraries lose five digits in the weights of thousands of nodes.

    Examples
    --------
    Three nodes integrate polynomials of degree five: the integral of x^4 from -1 to 1 is 2 / 5.

    >>> x, weight = gauss_legendre(3)
    >>> round(float(weight @ x**4), 12)
    0.4
    """
    return np.cos(ducc0.misc.GL_thetas(n)), ducc0.misc.GL_weights(n, 1) / (2 * np.pi)


@lru_cache(maxsize=4)
def _gauss_grid(lmax: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rings and weights of a Gauss-Legendre grid that integrates products of band limits up to 2 lmax exactly.

    lmax + 1 rings on the nodes in cos theta. A ring needs 2 m + 1 points for the m that do not vanish on it: with the
    bound of Reinecke & Seljebotn (2013, A&A 554 A112, section 3.3) on a sY_lm, which is negligible where
    sqrt(m^2 - 2 m s cos theta + s^2) > T + lmax sin theta, T = max(100, lmax / 100), these end for both signs of s at

        m = |s cos theta| + sqrt((T + lmax sin theta)^2 - s^2 sin^2 theta),

    or at lmax. So rings are short near the poles; a number of points is raised to the next that FFTs like. The weight
    of a point is its ring's, shared evenly. Serves fields of spin 0 to 3.
    """
    theta = ducc0.misc.GL_thetas(lmax + 1)
    sine = np.sin(theta)
    reach = max(100, 0.01 * lmax) + lmax * sine
    m = np.abs(_SPIN_GRID * np.cos(theta)) + np.sqrt(reach**2 - (_SPIN_GRID * sine) ** 2)
    needed = np.ceil(2 * np.minimum(m, lmax) + 1).astype(int)
    nphi = np.array([ducc0.fft.good_size(int(n), True) for n in needed], dtype=np.uint64)
    rings = {"theta": theta, "phi0": np.zeros(lmax + 1), "nphi": nphi, "ringstart": np.cumsum(nphi) - nphi}
    return rings, ducc0.misc.GL_weights(lmax + 1, 1) / nphi


def synthesis_gl(alm: np.ndarray, grid: int, *, spin: int, nthreads: int = 0) -> np.ndarray:
    """Evaluate alms (2, nalm) = [gradient, curl] of a spin field on the Gauss-Legendre grid of band limit ``grid``.

    Returns the complex field S1 + i S2 = - sum_lm (g_lm + i c_lm) sY_lm, in the precision of the alms, and for spin 1
    and g = sqrt(l(l+1)) phi the gradient d_theta phi + i / sin theta d_phi phi. Spin 0: (1, nalm), a real field.

    Examples
    --------
    The gradient of phi = cos theta is - sin theta along theta, on the equator -1:

    >>> slope = np.sqrt(2) * np.array([[0, np.sqrt(4 * np.pi / 3), 0], [0, 0, 0]], dtype=complex)
    >>> field = synthesis_gl(slope, 16, spin=1)
    >>> round(float(field.real.min()), 12), bool(np.abs(field.imag).max() < 1e-12)
    (-1.0, True)
    """
    rings, _ = _gauss_grid(grid)
    keys = {"alm": alm, "spin": spin, "lmax": alm_lmax(alm), "nthreads": nthreads, **rings}
    if spin == 0:
        scalar: np.ndarray = ducc0.sht.synthesis(**keys)[0]
        return scalar
    field = np.empty(rings["nphi"].sum(), dtype=alm.dtype)
    ducc0.sht.synthesis(map=_parts(field), **keys)
    return field


def analysis_gl(field: np.ndarray, grid: int, lmax: int, *, spin: int, nthreads: int = 0) -> np.ndarray:
    """Return the alms of a field of ``synthesis_gl``, exactly: (2, nalm), for spin 0 (1, nalm).

    Examples
    --------
    >>> eb = np.array([[0, 0, 1, 0, 2j, 3], [0, 0, 4, 0, 5, 6j]])
    >>> np.allclose(analysis_gl(synthesis_gl(eb, 4, spin=2), 4, 2, spin=2), eb)
    True
    """
    rings, weight = _gauss_grid(grid)
    parts = _parts(np.ascontiguousarray(field)) if spin else field[None]
    alm: np.ndarray = ducc0.sht.adjoint_synthesis(
        map=parts, ringfactor=weight, spin=spin, lmax=lmax, nthreads=nthreads, **rings
    )
    return alm


def in_chunks(work: Callable[[slice], None], n: int, *, nthreads: int = 0) -> None:
    """Let ``work`` go over n points chunk by chunk, as slices that stay in a core's cache; threads share the chunks.

    The chunks are the same for any number of threads.

    Examples
    --------
    >>> field = np.ones(100_000)
    >>> def double(chunk):
    ...     field[chunk] *= 2
    >>> in_chunks(double, len(field))
    >>> bool((field == 2).all())
    True
    """
    chunks = [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
    threads = min(nthreads or ducc0.misc.thread_pool_size(), len(chunks))

    def share(k: int) -> None:
        for chunk in chunks[k::threads]:
            work(chunk)

    if threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def _parts(field: np.ndarray) -> np.ndarray:
    """Real and imaginary part of a complex field (n,) as its view (2, n)."""
    return field.view(field.real.dtype).reshape(-1, 2).T


def _deflected(phi: np.ndarray, rings: Mapping[str, np.ndarray], nthreads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the light of each pixel comes from, (npix, 2) theta and phi, and the turn of its axes, (npix,).

    The displacement is grad phi along a great circle; the turn is gamma of Challinor & Chon (2002, PRD 66 127301).
    """
    ell = np.arange(alm_lmax(phi) + 1)
    gradient = almxfl(phi, np.sqrt(ell * (ell + 1)))
    alm = np.stack([gradient, np.zeros_like(gradient)])  # with a curl of zeros ducc0 is faster than without any
    field = ducc0.sht.synthesis(alm=alm, spin=1, lmax=ell[-1], nthreads=nthreads, **rings)
    angles = ducc0.misc.get_deflected_angles(deflect=field.T, calc_rotation=True, nthreads=nthreads, **rings)
    return angles[:, :2], angles[:, 2].astype(np.float32)


def _remap(alm: np.ndarray, deflected: tuple[np.ndarray, np.ndarray], spin: int, nthreads: int) -> np.ndarray:
    """Evaluate alms (1, nalm), or (2, nalm) of spin 2, at the deflected positions: float32 map (1 or 2, npix)."""
    where, turn = deflected
    keys = {"lmax": alm_lmax(alm), "loc": where, "spin": spin, "nthreads": nthreads, **_INTERPOLATION}
    alm = alm.astype(np.complex64)
    if spin == 0:
        scalar: np.ndarray = ducc0.sht.synthesis_general(alm=alm, **keys)
        return scalar
    pairs = np.empty(len(where), dtype=np.complex64)
    sky = pairs.view(np.float32).reshape(-1, 2).T
    ducc0.sht.synthesis_general(alm=alm, map=sky, **keys)
    ducc0.misc.lensing_rotate(pairs, turn, spin, 1)  # one thread: its last bits depend on their number
    return sky


def lens_maps(alms: Mapping[str, np.ndarray], phi: np.ndarray, nside: int, *, nthreads: int = 0) -> np.ndarray:
    """Return the lensed T, Q, U, float32 (3, npix), on a HEALPix map: T(n + grad phi), and alike for Q and U.

    Not band-limited. ``alms`` holds T, E and B, ``phi`` the lensing potential.

    Examples
    --------
    Nothing is lensed where there is no potential:

    >>> alms = {"T": np.arange(6.0), "E": np.array([0, 0, 1.0, 0, 2, 3]), "B": np.zeros(6)}
    >>> t, q, u = lens_maps(alms, np.zeros(6, dtype=complex), 8)
    >>> np.allclose(t, synthesis(alms["T"].astype(complex), 8), atol=1e-3)
    True
    """
    deflected = _deflected(phi, _healpix(nside), nthreads)
    temperature = _remap(alms["T"][None], deflected, 0, nthreads)
    polarization = _remap(np.stack([alms["E"], alms["B"]]), deflected, 2, nthreads)
    return np.concatenate([temperature, polarization])


def lens(alms: Mapping[str, np.ndarray], phi: np.ndarray, lmax_out: int, *, nthreads: int = 0) -> dict[str, np.ndarray]:
    """Lens T, E, B by the potential phi: remap onto a Gauss-Legendre grid, and analyse there.

    One displacement field serves one remapping of T and one of (Q, U). Lensing smears the band limit l_u of the
    unlensed sky; a grid that reaches l_u / 5 beyond it leaves the amplitude of B right to 0.4 % below l = 1000 and 2 %
    at lmax_out = 1500 (T and E: 0.03 % and 0.2 %), measured for l_u = 2500.

    What the unlensed sky lacks above l_u, the lensed B lacks too. Its power at l = 100, 500, 1000 and 1500 falls short
    by 2, 4, 17 and 100 % for l_u = 1500; by 0.4, 0.9, 3.4 and 12 % for 2000; by 0.07, 0.16, 0.7 and 3 % for 2524; by
    0.01, 0.03, 0.15 and 0.8 % for 3000.

    Parameters
    ----------
    alms : mapping
        ``T``, ``E``, ``B``, uK, complex (nalm,), to l_u.
    phi : complex array (nalm,)
        Lensing potential; the lensed sky is T(n + grad phi).
    lmax_out : int
    nthreads : int, optional

    Returns
    -------
    dict of complex128 arrays (nalm of lmax_out,)
        Lensed ``T``, ``E``, ``B``, uK.

    Examples
    --------
    The dipole of phi = a z moves T = z by a sin^2 theta, whose mean is 2 a / 3:

    >>> z = np.array([0, np.sqrt(4 * np.pi / 3), 0, 0, 0, 0], dtype=complex)
    >>> lensed = lens({"T": z, "E": 0 * z, "B": 0 * z}, 0.01 * z, 2)
    >>> round(float(lensed["T"][0].real / np.sqrt(4 * np.pi)), 4)
    0.0067
    """
    lmax = max(alm_lmax(alms["T"]), alm_lmax(phi))
    rings, weight = _gauss_grid(min(lmax + lmax // 5, lmax + lmax_out // 2) + 1)
    deflected = _deflected(phi, rings, nthreads)
    lensed = []
    for spin, fields in ((0, "T"), (2, "EB")):
        sky = _remap(np.stack([alms[field] for field in fields]), deflected, spin, nthreads)
        lensed += list(
            ducc0.sht.adjoint_synthesis(
                map=sky, ringfactor=weight, spin=spin, lmax=lmax_out, nthreads=nthreads, **rings
            )
        )
        del sky  # before the next takes its place
    return {field: alm.astype(np.complex128) for field, alm in zip("TEB", lensed, strict=True)}
