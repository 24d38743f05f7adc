"""Units of microwave maps: thermodynamic and Rayleigh-Jeans temperature, and intensity."""

import numpy as np
from scipy import constants

T_CMB = 2.7255  # K, Fixsen 2009, ApJ 707 916
KINDS = {"K_CMB": "CMB", "K_RJ": "RJ", "Jy/sr": "intensity"}
PREFIXES = {"": 1.0, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6}


def conversion(source: str, target: str, freqs_ghz: float | np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the number of ``target`` units that one ``source`` unit is, seen by a band.

    With I_u(nu) the intensity of one unit u and W the response to power,

        factor = int W I_source dnu / int W I_target dnu

    by the trapezoidal rule; at a single frequency W drops out. A map in Jy/sr stands for an intensity that is the same
    at all frequencies of the band (PySM3's convention; for published maps see ``mjy_sr_per_k_cmb``). The factors of a
    band chain: a to b times b to c is a to c.

    Parameters
    ----------
    source, target : str
        ``K_CMB``, ``K_RJ`` or ``Jy/sr``, with a prefix u, m, k or M or none: ``uK_CMB``, ``MJy/sr``.
    freqs_ghz : float, or array (n,)
        Rising, if n > 1.
    weights : array (n,), optional
        W, of any normalisation; all 1 if not given.

    Raises
    ------
    ValueError
        If a unit is unknown.

    Examples
    --------
    >>> round(conversion("K_RJ", "K_CMB", 143.0), 3)
    1.654
    >>> round(conversion("MJy/sr", "uK_CMB", 143.0) * conversion("uK_CMB", "MJy/sr", 143.0), 12)
    1.0
    """
    freqs = np.atleast_1d(np.asarray(freqs_ghz, dtype=np.float64))
    above = intensity(source, freqs)
    below = intensity(target, freqs)
    if len(freqs) == 1:
        return float(above[0] / below[0])
    response = np.ones_like(freqs) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.trapezoid(response * above, freqs) / np.trapezoid(response * below, freqs))


def mjy_sr_per_k_cmb(center_ghz: float, freqs_ghz: np.ndarray, weights: np.ndarray) -> float:
    """Return the MJy/sr of a published map that 1 K_CMB is, in a band with a bandpass.

    Such maps (IRAS, Planck) give the intensity at the centre of one that falls as 1 / nu; with W the response to power

        factor = int W I_K_CMB dnu / int W (center / nu) dnu

    (Planck 2013 results IX, arXiv:1303.5070, eq. 32). ``conversion`` has the intensity the same at all frequencies.

    Parameters
    ----------
    center_ghz : float
    freqs_ghz, weights : array (n,)
        Rising; W, of any normalisation.

    Examples
    --------
    A narrow band is a single frequency:

    >>> narrow = mjy_sr_per_k_cmb(143.0, np.array([142.9, 143.1]), np.ones(2))
    >>> round(narrow * conversion("MJy/sr", "K_CMB", 143.0), 5)
    1.0
    """
    freqs = np.atleast_1d(np.asarray(freqs_ghz, dtype=np.float64))
    above = intensity("K_CMB", freqs) / 1e6
    below = center_ghz / freqs
    if len(freqs) == 1:
        return float(above[0] / below[0])
    return float(np.trapezoid(weights * above, freqs) / np.trapezoid(weights * below, freqs))


def intensity(unit: str, freqs_ghz: float | np.ndarray) -> np.ndarray:
    """Return the intensity of one unit at each frequency, Jy/sr, in the shape of the frequencies.

    K_RJ: 2 k nu^2 / c^2. K_CMB: dB_nu/dT at T_CMB = 2 k nu^2 / c^2 x^2 e^x / (e^x - 1)^2, x = h nu / (k T_CMB).

    Examples
    --------
    At low frequencies the two temperatures are one:

    >>> round(float(intensity("K_CMB", 1.0) / intensity("K_RJ", 1.0)), 4)
    1.0
    """
    prefix = next((p for p in PREFIXES if unit.startswith(p) and unit[len(p) :] in KINDS), None)
    if prefix is None:
        raise ValueError(f"{unit} is no unit of a map; it is {', '.join(KINDS)}, with u, m, k or M before it or not")
    nu = np.asarray(freqs_ghz, dtype=np.float64) * 1e9
    if np.any(nu <= 0):
        raise ValueError("a frequency of a band is not positive")
    kind = KINDS[unit[len(prefix) :]]
    one = np.full_like(nu, PREFIXES[prefix])
    if kind == "intensity":
        return one
    one *= 1e26 * 2 * constants.k * nu**2 / constants.c**2
    if kind == "CMB":
        half = constants.h * nu / (constants.k * T_CMB) / 2
        one *= (half / np.sinh(half)) ** 2
    return one
