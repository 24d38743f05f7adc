"""Spectra of what an internal linear combination may be told to leave out, in uK_CMB."""

from collections.abc import Mapping

import numpy as np
from scipy import constants

from cmbml.sky.units import T_CMB, intensity

# Pivots of the moments.
DUST_GHZ = 353.0
SYNCHROTRON_GHZ = 23.0
COMPONENTS = ("tSZ", "dust", "dbeta", "dT", "sync", "dbeta_s")


def response(component: str, freqs_ghz: np.ndarray, weights: np.ndarray, parameters: Mapping[str, float]) -> float:
    """Response of a band to a component, uK_CMB up to a factor that is the same for all bands.

    With I(nu) the component's intensity, I_1(nu) that of one uK_CMB and W the band's response to power,
    int W I dnu / int W I_1 dnu (as `cmbml.sky.units.conversion`):

    - ``tSZ``: thermal Sunyaev-Zeldovich effect, I = f I_1, f = x coth(x / 2) - 4, x = h nu / (k T_CMB);
    - ``dust``: modified black body, I = (nu / 353 GHz)^beta_d B_nu(T_d);
    - ``dbeta``, ``dT``: its derivatives, ln(nu / 353 GHz) I, and y e^y / (e^y - 1) I / T_d with y = h nu / (k T_d):
      the first moments of dust whose index or temperature varies (Chluba et al. 2017, MNRAS 472 1195);
    - ``sync``: power law in uK_RJ, I = (nu / 23 GHz)^(beta_s + 2); ``dbeta_s``: ln(nu / 23 GHz) I.

    Parameters
    ----------
    component : str
        One of `COMPONENTS`.
    freqs_ghz, weights : array (n,)
        The band's frequencies, rising, and W; of a single frequency W drops out.
    parameters : mapping
        ``beta_d``, ``T_d`` (K), ``beta_s``.
    """
    nu = np.asarray(freqs_ghz, dtype=np.float64)
    one = intensity("uK_CMB", freqs_ghz)
    if component == "tSZ":
        x = constants.h * nu * 1e9 / (constants.k * T_CMB)
        emission = (x / np.tanh(x / 2) - 4) * one
    elif component in ("sync", "dbeta_s"):
        emission = (nu / SYNCHROTRON_GHZ) ** (parameters["beta_s"] + 2)
        emission *= np.log(nu / SYNCHROTRON_GHZ) if component == "dbeta_s" else 1
    else:
        y = constants.h * nu * 1e9 / (constants.k * parameters["T_d"])
        emission = (nu / DUST_GHZ) ** (parameters["beta_d"] + 3) / np.expm1(y)
        emission *= {"dust": 1, "dbeta": np.log(nu / DUST_GHZ), "dT": -y / np.expm1(-y) / parameters["T_d"]}[component]
    if len(nu) == 1:
        return float(emission[0] / one[0])
    return float(np.trapezoid(weights * emission, nu) / np.trapezoid(weights * one, nu))
