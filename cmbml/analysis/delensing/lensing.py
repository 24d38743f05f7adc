"""Pictures of the lensing itself: the convergence and the lensing of the field, truth beside what methods say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmbml.analysis.delensing.kappa import kappa_spectra
from cmbml.analysis.projections import STYLE, colour_limit, draw_images, gnomonic_pixels, new_figure
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.fields import field_map
from cmbml.sky.spectra import bin_spectrum

_BINS = 24  # of the response of an estimate


@dataclass(frozen=True)
class Seen:
    """One quantity of a sky, (npix,) each.

    Attributes
    ----------
    name, unit : str
        What it is, for the axis, and its unit.
    truth : array (npix,)
    maps : mapping
        Name of a method -> its map; methods that say nothing of it are left out.
    """

    name: str
    unit: str
    truth: np.ndarray
    maps: Mapping[str, np.ndarray]


def as_measured(kappa: np.ndarray, estimates: Iterable[SkyMap], *, mask: np.ndarray | None = None) -> np.ndarray:
    """Return a true convergence as far as the best of some estimates measures it, complex128 (nalm,).

    The estimates are Wiener-filtered: what they answer on average is kappa_LM W_L, with W_L = C_L[estimate, truth] /
    C_L[truth], measured in bins, inside the mask. Of several the largest W_L is taken. What is missing from an estimate
    beside it is a lack, what is added is noise.

    Parameters
    ----------
    kappa : complex array (nalm,)
        The truth, of the full sky.
    estimates : iterable of SkyMap
        With ``kappa``.
    mask : array (npix,), optional
    """
    lmax = sht.alm_lmax(kappa)
    edges = np.unique(np.geomspace(2, lmax + 1, _BINS + 1).astype(int))
    responses = []
    for estimate in estimates:
        cls = kappa_spectra(estimate, kappa, lmax=lmax, mask=mask)
        power = np.maximum(bin_spectrum(cls["truth"], edges), np.finfo(float).tiny)
        responses.append(np.clip(bin_spectrum(cls["cross"], edges) / power, 0, 1))
    ell = np.arange(lmax + 1.0)
    wiener = np.interp(ell, bin_spectrum(ell, edges), np.max(responses, axis=0))
    return sht.almxfl(kappa.astype(np.complex128), wiener)


def lensing_of(
    predicted: Mapping[str, np.ndarray],
    kappa: Mapping[str, SkyMap],
    *,
    field: str,
    obs: SkyMap,
    unlensed_alm: Mapping[str, np.ndarray],
    lensed_alm: Mapping[str, np.ndarray],
    mask: SkyMap | None = None,
) -> list[Seen]:
    """Return the convergence, where a method estimates it and the truth is known, and the lensing of the field.

    Behind a mask the lensing of the field has it once, as the field has. Estimates of the convergence have it as often
    as they say (`SkyMap.masks`); truth and estimates are given as many factors as the one that has most.

    Parameters
    ----------
    predicted : mapping
        Name of a method -> its delensed field, whose difference from the observed is its template.
    kappa : mapping
        Name of a method -> its estimate, with ``kappa``.
    field : str
    obs : SkyMap
    unlensed_alm, lensed_alm : mapping
        The true sky.
    mask : SkyMap, optional
    """
    weight = None if mask is None else mask["mask"].astype(np.float64)
    seen = 1.0 if weight is None else weight
    unlensed, lensed = (
        field_map(alms, field, nside=obs.nside, fwhm_arcmin=obs.fwhm_arcmin) for alms in (unlensed_alm, lensed_alm)
    )
    templates = {name: obs[field] - m for name, m in predicted.items()}
    quantities = [Seen(f"lensing of {field}", "uK_CMB", (lensed - unlensed) * seen, templates)]
    if kappa and "kappa" in unlensed_alm:
        most = max(m.masks for m in kappa.values())
        truth = sht.synthesis(as_measured(unlensed_alm["kappa"], kappa.values(), mask=weight), obs.nside) * seen**most
        maps = {name: m["kappa"] * seen ** (most - m.masks) for name, m in kappa.items()}
        quantities.insert(0, Seen("κ, Wiener-filtered", "1", truth, maps))
    return quantities


def lensing_figure(
    quantities: list[Seen],
    *,
    caption: Mapping,
    zoom: tuple[float, float, float],
    mask: np.ndarray | None = None,
    width: int = 400,
) -> Figure:
    """Draw one patch: truth, each method and its difference from the truth, each quantity on one colour scale.

    Of one method the difference stands beside it, of several below.

    Parameters
    ----------
    quantities : list of Seen
        The last one is known of every method.
    caption : mapping
        See ``captions.describe``.
    zoom : (float, float, float)
        Longitude, latitude and side of the patch in degrees.
    mask : bool array (npix,), optional
        True where a pixel is good; the others are grey.
    width : int, optional
        Picture points across one panel.
    """
    lon, lat, size = zoom
    names = list(quantities[-1].maps)
    pixels = gnomonic_pixels(round(np.sqrt(len(quantities[-1].truth) / 12)), lon, lat, size, width)
    rows = 1 if len(names) == 1 else 2
    columns = 3 if len(names) == 1 else 1 + len(names)
    with matplotlib.rc_context(STYLE):
        heading = {**caption, "centre": f"(l, b) = ({lon:g}°, {lat:g}°)"}
        figure = new_figure(max(1.75 * columns, 5.2), 0.4 + 2.1 * rows * len(quantities), heading)
        grid = figure.subplots(rows * len(quantities), columns, sharex=True, sharey=True, squeeze=False)
        for i, seen in enumerate(quantities):
            block = grid[rows * i : rows * (i + 1)]
            chosen = [1 + names.index(name) for name in seen.maps]
            differences = [block[1, j] for j in chosen] if rows == 2 else [block[0, 2]]
            axes = [block[0, 0], *(block[0, j] for j in chosen), *differences]
            errors = {f"{name} − truth": np.subtract(m, seen.truth, dtype=np.float64) for name, m in seen.maps.items()}
            skies = (seen.truth, *seen.maps.values())
            scale = max(colour_limit(m if mask is None else m[mask]) for m in skies)
            draw_images(
                axes,
                {"truth": seen.truth, **seen.maps},
                errors,
                pixels,
                mask,
                caption={**caption, "unit": seen.unit},
                half=size / 2,
                scales=(scale, scale),
            )
            axes[0].set_ylabel(f"{seen.name}\noffset [deg]")
            axes[0].xaxis.set_major_locator(MaxNLocator(4, prune="both"))  # of all panels, which share it
            for axis in set(block.flat) - set(axes):
                axis.axis("off")
    return figure
