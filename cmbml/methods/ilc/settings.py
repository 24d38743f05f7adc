"""The settings of the internal linear combinations, checked before anything runs."""

import numbers
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cmbml.config.truth import masked
from cmbml.core.errors import UserError, demand_value
from cmbml.methods.ilc.seds import COMPONENTS
from cmbml.methods.shared.needlet_peaks import peaks_by_rule


def mask_first(cfg: DictConfig) -> bool:
    """Whether the bands are multiplied by the mask before anything else: `method.masked`, null for E and B alone."""
    wanted = cfg.method.masked
    return masked(cfg) and (cfg.clean.field in ("E", "B") if wanted is None else bool(wanted))


def check(cfg: DictConfig) -> None:
    """Refuse what is wrong whatever the bands are.

    Parameters
    ----------
    cfg : DictConfig
        With ``method``, ``sky.lmax`` and ``clean.field``.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    m = cfg.method
    lmax = cfg.sky.lmax
    field = cfg.clean.field
    if field not in ("T", "E", "B"):
        raise UserError(f"field={field}: internal linear combinations clean one scalar field; choose field=T, E or B.")
    demand_value(
        m.ELLMAX is None or _whole(m.ELLMAX, 2, lmax),
        "method.ELLMAX",
        m.ELLMAX,
        f"null or a whole number from 2 to sky.lmax={lmax}",
    )
    demand_value(_whole(m.ellmin, 0, lmax), "method.ellmin", m.ellmin, "a whole number from 0 to below method.ELLMAX")
    beam = m.perform_ILC_at_beam
    demand_value(
        beam is None or (_real(beam) and beam > 0),
        "method.perform_ILC_at_beam",
        beam,
        "null or a beam in arcmin above 0",
    )
    for key in ("wavelet_beam_criterion", "ILC_bias_tol"):
        if key in m:
            demand_value(_real(m[key]) and 0 < m[key] < 1, f"method.{key}", m[key], "a number between 0 and 1")
    if "BinSize" in m:
        good = m.BinSize is None or _whole(m.BinSize, 1, None)
        demand_value(good, "method.BinSize", m.BinSize, "null or a whole number of multipoles above 0")
    _check_components(m)
    if "ellpeaks" in m:
        _check_peaks(m, lmax)


def needlet_peaks(method: DictConfig, ellmax: int) -> list[int]:
    """`ellpeaks`, or those that follow from `N_scales` or from ELLMAX alone."""
    if method.ellpeaks is not None:
        return list(method.ellpeaks)
    peaks = peaks_by_rule(method.ellmin, ellmax, method.N_scales)
    demand_value(
        peaks[0] > method.ellmin, "method.N_scales", method.N_scales, f"smaller: there is no room up to ELLMAX={ellmax}"
    )
    return peaks


def _check_components(m: DictConfig) -> None:
    names = m.ILC_deproj_comps
    demand_value(OmegaConf.is_list(names), "method.ILC_deproj_comps", names, "a list, e.g. [tSZ,dust]")
    for name in names:
        demand_value(
            name in COMPONENTS, "method.ILC_deproj_comps", list(names), f"made of {', '.join(COMPONENTS)}, not {name}"
        )
    demand_value(len(set(names)) == len(names), "method.ILC_deproj_comps", list(names), "without repetitions")
    demand_value(
        m.N_deproj is None or m.N_deproj == len(names),
        "method.N_deproj",
        m.N_deproj,
        f"null or {len(names)}, the number of method.ILC_deproj_comps={list(names)}",
    )
    seds = m.seds
    demand_value(
        all(_real(seds[x]) for x in ("beta_d", "T_d", "beta_s")) and seds.T_d > 0,
        "method.seds",
        OmegaConf.to_container(seds),
        "numbers, T_d above 0",
    )


def _check_peaks(m: DictConfig, lmax: int) -> None:
    n = m.N_scales
    peaks = m.ellpeaks
    demand_value(n is None or _whole(n, 2, None), "method.N_scales", n, "null or a whole number from 2")
    if peaks is None:
        return
    demand_value(
        OmegaConf.is_list(peaks) and len(peaks) > 0 and all(_whole(p, 1, None) for p in peaks),
        "method.ellpeaks",
        peaks,
        "null or a list of whole numbers, e.g. [100,200,383]",
    )
    given = [m.ellmin, *peaks]
    demand_value(
        sorted(set(given)) == given, "method.ellpeaks", list(peaks), f"rising, from above method.ellmin={m.ellmin}"
    )
    last = lmax + 1 if m.ELLMAX is None else m.ELLMAX + 1
    good = peaks[-1] <= last if m.ELLMAX is None else peaks[-1] == last
    expected = f"at most sky.lmax + 1 = {last}" if m.ELLMAX is None else f"method.ELLMAX + 1 = {last}"
    demand_value(good, "method.ellpeaks", list(peaks), f"such that the last is {expected}")
    expected = f"null or {len(given)}: method.ellmin={m.ellmin} is the first peak, and {len(peaks)} are in ellpeaks"
    demand_value(n is None or n == len(given), "method.N_scales", n, expected)


def _real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(value: Any, low: int, high: int | None) -> bool:
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return good and value >= low and (high is None or value <= high)
