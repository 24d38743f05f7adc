"""Spectra of many skies as figures and tables want them: binned, stacked, with their scatter.

C_l everywhere; D_l = l(l+1) C_l / (2 pi) is made by the figures alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cmbml.core.errors import UserError
from cmbml.sky.spectra import bin_spectrum


def stack(skies: Sequence[Mapping[str, np.ndarray]], edges: np.ndarray) -> dict[str, np.ndarray]:
    """Bin the spectra of several skies and stack them.

    Parameters
    ----------
    skies : sequence of mappings
        One a sky: name -> C_l of shape (lmax + 1,), the same names in each (``delensing.metrics.delensing_spectra``).
    edges : int array (nbin + 1,)
        Bin i holds edges[i] <= l < edges[i + 1]; averages are weighted with 2l + 1.

    Returns
    -------
    dict
        ``ell``: (nbin,), the weighted mean multipole of each bin; each name: (nsky, nbin) binned C_l.

    Raises
    ------
    UserError
        If there is no sky, or skies differ in their names.
    """
    if not skies:
        raise UserError("there are no spectra to stack: the split holds no sky")
    names = list(skies[0])
    if any(set(sky) != set(names) for sky in skies):
        raise UserError("the skies' spectra have different names: they were made by different analyses")
    binned = {name: np.stack([bin_spectrum(sky[name], edges) for sky in skies]) for name in names}
    return {"ell": bin_spectrum(np.arange(edges[-1], dtype=np.float64), edges)} | binned


def scatter(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (ddof 1; nan for a single sky) over the first axis."""
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(axis=0)
    return mean, values.std(axis=0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)


def of_method(skies: Iterable[Mapping[str, np.ndarray]], method: str) -> list[dict[str, np.ndarray]]:
    """Return the spectra of one method from files that hold ``{method}/{name}`` of several."""
    return [{k.split("/")[1]: cl for k, cl in sky.items() if k.startswith(f"{method}/")} for sky in skies]


def ratio(stacked: Mapping[str, np.ndarray], name: str, *, truth: str = "unlensed") -> np.ndarray:
    """Return C_b[name] / C_b[truth] sky by sky, (nsky, nbin), so that the sample variance they share drops out.

    nan where the truth has no power.
    """
    below = stacked[truth]
    return np.divide(stacked[name], below, out=np.full_like(below, np.nan), where=below > 0)
