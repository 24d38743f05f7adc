"""Foregrounds by PySM3's own models: skies of its presets or of templates in memory, seen by a band.

A sky is a ``pysm3.Sky``. Nothing here downloads: PySM3 finds its templates in one folder or not at all.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np

from cmbml.sky import sht
from cmbml.sky.synthetic import AME_WIDTH, FIXED_INDEX, REFERENCE_GHZ, Template
from cmbml.sky.units import conversion

if TYPE_CHECKING:
    import pysm3

_SUFFIXES = (".fits", ".fits.gz", ".txt", ".dat")
# Models of PySM3 that have no place here, and why.
_REFUSED = {
    "DecorrelatedModifiedBlackBody": "draws new numbers for every band",
    "ModifiedBlackBodyRealization": "draws a new sky at every start",
    "PowerLawRealization": "draws a new sky at every start",
    "PointSourceCatalog": "applies a beam of its own",
    "InterpolatingComponent": "applies a beam of its own",
    "CMBLensed": "adds a second CMB",
    "CMBMap": "adds a second CMB",
    "WebSkyCMB": "adds a second CMB",
}


class MissingTemplates(ValueError):
    """Templates of PySM3 are not in their folder."""


@contextmanager
def offline_pysm(folder: str | Path = "") -> Iterator["pysm3"]:
    """Yield PySM3, kept off the network, looking for its files in ``folder``, its kernels as plain NumPy.

    To compile the kernels takes 20 s a process, and on one thread they are no faster for it. Where PySM3 was imported
    before, they stay what they are.

    Raises
    ------
    ValueError
        If PySM3 asks for a file that is not there.
    """
    import numba.typed  # before the switch, which its own code does not bear
    from astropy.utils import data

    variable = os.environ.get("PYSM_LOCAL_DATA")
    settings: Any = numba.config  # its attributes are made at run time
    switch = settings.DISABLE_JIT
    os.environ["PYSM_LOCAL_DATA"] = str(folder)
    settings.DISABLE_JIT = True
    try:
        import pysm3
        from pysm3.models.interpolating import compute_interpolated_emission_numba as kernel

        settings.DISABLE_JIT = not hasattr(kernel, "py_func")
        with data.conf.set_temp("allow_internet", False):
            yield pysm3
    except URLError as error:
        raise ValueError(f"PySM3 looked for a template beyond its folder: {error.reason}") from None
    finally:
        settings.DISABLE_JIT = switch
        del os.environ["PYSM_LOCAL_DATA"]
        if variable is not None:
            os.environ["PYSM_LOCAL_DATA"] = variable


def _models(preset: str) -> list[dict[str, Any]]:
    """Return the settings of a preset's models, as PySM3 ships them; refuse a preset that cannot be used."""
    with offline_pysm():
        from pysm3.sky import PRESET_MODELS
    if preset not in PRESET_MODELS:
        raise ValueError(f"PySM3 has no preset {preset}; it has {', '.join(PRESET_MODELS)}")
    settings = PRESET_MODELS[preset]
    models = [settings] if "class" in settings else list(settings.values())
    for model in models:
        if model["class"] in _REFUSED:
            raise ValueError(f"PySM3's preset {preset} cannot be used, because it {_REFUSED[model['class']]}")
    return models


def template_files(presets: Iterable[str], nside: int, *, bands: Iterable[np.ndarray] | None = None) -> list[str]:
    """Return the files that presets read, relative to the folder of the templates.

    Parameters
    ----------
    presets : iterable of str
        PySM3's names: ``d9``, ``s4``, ...
    nside : int
        Of the sky; some presets have templates of several resolutions.
    bands : iterable of arrays (n,), optional
        Frequencies of each band in GHz, rising. The models that interpolate between maps (``cib1``, ``rg1``) read
        those about the bands; without it, all are named.

    Raises
    ------
    ValueError
        If a preset is unknown, or is refused: it draws random numbers, has a beam, or is a CMB.
    """
    bands = None if bands is None else [np.atleast_1d(band) for band in bands]
    names = []
    for preset in presets:
        for model in _models(preset):
            near = min(model.get("available_nside", [nside]), key=lambda n: abs(n - nside))
            paths = [value for value in model.values() if isinstance(value, str) and value.endswith(_SUFFIXES)]
            for layer in range(1, model.get("num_layers", 1) + 1):
                names += [path.format(nside=near, layer=layer) for path in paths]
            names += _own_files(model, nside, bands)
    return list(dict.fromkeys(names))


def _own_files(model: Mapping[str, Any], nside: int, bands: list[np.ndarray] | None) -> list[str]:
    """Return the files that a model's class names itself."""
    kind = model["class"]
    if kind == "HensleyDraine2017":
        names = [f"pysm_2/{table}.dat" for table in ("sil_fe00_2.0", "sil_fe05_2.0", "car_1.0")]
        return names + ["pysm_2/COM_CompMap_dust-commander_0256_R2.00.fits"] * model["rnd_uval"]
    if kind == "COLines":
        size = 512 if nside <= 512 else 2048
        names = [f"co/HFI_CompMap_CO-Type1_{size}_R2.00_ring.fits"]
        names += [f"co/{part}map_dust90_{size}.fits" for part in ("psi", "g")] * model["has_polarization"]
        return names + [f"co/mcmoleCO_HGL_{size}.fits"] * model.get("include_high_galactic_latitude_clouds", False)
    if not kind.startswith("WebSky"):
        return []
    with offline_pysm() as pysm3:
        maps = getattr(pysm3, kind)(nside, model["websky_version"]).maps
    freqs = sorted(maps)
    used = freqs if bands is None else [freq for band in bands for freq in _about(freqs, band)]
    return [maps[freq] for freq in used]


def _about(freqs: list[float], band: np.ndarray) -> list[float]:
    """Return the frequencies of the maps that PySM3 interpolates between over a band; none beyond their range."""
    exact = [freq for freq in freqs if np.isclose(freq, band[0])]
    if len(band) == 1 and exact:
        return exact
    if band[0] < freqs[0] or band[-1] > freqs[-1]:
        return []
    first = np.searchsorted(freqs, band[0], side="right") - 1
    return freqs[first : np.searchsorted(freqs, band[-1]) + 1]


def missing_templates(
    presets: Iterable[str], nside: int, folder: str | Path, *, bands: Iterable[np.ndarray] | None = None
) -> list[str]:
    """Return those of `template_files` that are not in a folder."""
    return [name for name in template_files(presets, nside, bands=bands) if not (Path(folder) / name).is_file()]


def preset_sky(
    preset: str, nside: int, folder: str | Path, *, bands: Iterable[np.ndarray] | None = None
) -> "pysm3.Sky":
    """Build the sky of one preset from the templates in a folder.

    Raises
    ------
    MissingTemplates
        If the folder lacks some that the bands need.
    ValueError
        As `template_files`.
    """
    missing = missing_templates([preset], nside, folder, bands=bands)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise MissingTemplates(f"{preset}'s templates {', '.join(missing[:3])}{more} are not in {folder}")
    with offline_pysm(folder) as pysm3:
        return pysm3.Sky(nside=nside, preset_strings=[preset])


def synthetic_sky(component: str, maps: Mapping[str, Template]) -> "pysm3.Sky":
    """Build the sky of one component from templates in memory.

    Dust is a modified black body, synchrotron and free-free are power laws, AME is a log-normal in flux density.

    Parameters
    ----------
    component : {"dust", "synchrotron", "freefree", "ame"}
    maps : mapping
        As ``synthetic.templates`` draws them; free-free and AME take an ``index`` of their own where it is given.
    """
    with offline_pysm() as pysm3:
        rj = pysm3.units.uK_RJ
        freq = REFERENCE_GHZ[component] * pysm3.units.GHz
        index = maps.get("index", FIXED_INDEX.get(component))
        keys = {"map_I": maps["I"] << rj, "freq_ref_I": freq, "nside": round(np.sqrt(np.size(maps["I"]) / 12))}
        if "Q" in maps:
            keys |= {"map_Q": maps["Q"] << rj, "map_U": maps["U"] << rj, "freq_ref_P": freq}
        else:
            keys["has_polarization"] = False
        if component == "dust":
            kelvin = maps["temperature"] << pysm3.units.K
            model = pysm3.ModifiedBlackBody(map_mbb_index=index, map_mbb_temperature=kelvin, **keys)
        elif component == "ame":
            curve = {"spectral_curvature": -1 / (2 * AME_WIDTH**2), "freq_curve": freq}
            model = pysm3.CurvedPowerLaw(map_pl_index=index, **curve, **keys)
        else:
            model = pysm3.PowerLaw(map_pl_index=index, **keys)
        return pysm3.Sky(component_objects=[model])


def evaluate(
    skies: Iterable["pysm3.Sky"], freqs_ghz: float | np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return the sum of skies seen by a band, uK_CMB.

    Parameters
    ----------
    skies : iterable of pysm3.Sky
        Of one nside. A generator keeps no more than one of them in memory.
    freqs_ghz : float, or array (n,)
        Rising, if n > 1.
    weights : array (n,), optional
        Response of the band to power, of any normalisation; all 1 if not given.

    Returns
    -------
    float64 array (3, npix)
        I, Q, U, RING; no beam.

    Raises
    ------
    ValueError
        If there are no skies, or a model reads a map as late as here (``cib1``, ``rg1``) that is not in its folder.
    """
    freqs = np.atleast_1d(np.asarray(freqs_ghz, dtype=np.float64))
    total = None
    for sky in skies:
        if total is None:
            total = np.zeros((3, 12 * sky.nside**2))
        for model in sky.components:
            with offline_pysm() as pysm3:
                part = np.atleast_2d(model.get_emission(freqs * pysm3.units.GHz, weights=weights).value)
            total[: len(part)] += part  # some models have no polarisation to give
            getattr(model, "cached_maps", {}).clear()  # of those that interpolate; they would add up over the bands
    if total is None:
        raise ValueError("there are no foregrounds to evaluate")
    total *= conversion("uK_RJ", "uK_CMB", freqs, weights)
    return total


def smoothed(maps: np.ndarray, beam: np.ndarray, *, nside: int, niter: int = 1, nthreads: int = 0) -> np.ndarray:
    """Smooth maps with a beam and bring them to another nside, in harmonic space.

    Parameters
    ----------
    maps : array (1, npix), (2, npix) or (3, npix)
        I, or Q, U, or I, Q, U; RING.
    beam : array (lmax + 1,)
        b_l of T, E and B; it ends at the band limit of the result, which both maps must carry.
    nside : int
        Of the result.
    niter : int, optional
        Iterations of the analysis.
    nthreads : int, optional

    Returns
    -------
    float64 array of the shape of ``maps``, (..., 12 nside^2)

    Raises
    ------
    ValueError
        If the beam ends beyond the pixels of either map.

    Examples
    --------
    What is alike everywhere no beam changes:

    >>> from cmbml.sky.beams import gaussian_beam
    >>> out = smoothed(np.full((1, 768), 3.0), gaussian_beam(600.0, 16), nside=16, niter=3)
    >>> out.shape, np.allclose(out, 3, atol=1e-3)
    ((1, 3072), True)
    """
    lmax = len(beam) - 1
    least = min(nside, round(np.sqrt(maps.shape[-1] / 12)))
    if lmax >= 3 * least:
        raise ValueError(f"a beam that ends at l = {lmax} is too fine for maps of nside {least}")
    out = np.empty((len(maps), 12 * nside**2))
    scalars = len(maps) % 2
    for part, spin in ((slice(0, scalars), 0), (slice(scalars, scalars + 2), 2)):
        if not len(maps[part]):
            continue
        alm = sht.analysis(maps[part], lmax, spin=spin, niter=niter, nthreads=nthreads)
        out[part] = sht.synthesis(sht.almxfl(alm, beam), nside, spin=spin, nthreads=nthreads)
    return out
