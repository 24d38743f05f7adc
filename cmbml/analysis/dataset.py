"""Pictures of a many-band dataset: every band and the CMB of one sky, and the spectra of what each band sees."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from cmbml.analysis.captions import foregrounds_text
from cmbml.analysis.figures import COLOURS, dl_label, limit_floor, multipole_axis
from cmbml.analysis.projections import STYLE, draw_images, mollweide_pixels, new_figure
from cmbml.config.truth import has_foregrounds, has_truth, masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_spectrum, cl_to_dl

_COLUMNS = 3


def shows_components(cfg: DictConfig) -> bool:
    """Whether each foreground is there alone."""
    return has_foregrounds(cfg) and cfg.foregrounds.components


def shows_noise(cfg: DictConfig) -> bool:
    """Whether the noise is there alone."""
    return cfg.noise.kind != "none" and cfg.foregrounds.components


class BandPictures(Stage):
    """The bands of the first test sky, and the spectra of the CMB, the foregrounds and the noise in each of them.

    Of T; of polarisation alone (`sky.fields` without T) the maps are Q, and the spectra those of E.
    On a masked sky spectra are those of the maps times the mask over <mask^2>: mixed by it, of the right height.
    """

    name = "band_pictures"
    inputs = (
        Every("band", name="bands"),
        Optional("cmb_map", when=has_truth),
        Optional(Every("foreground"), when=has_foregrounds),
        Optional(Every("component"), when=shows_components),
        Optional(Every("noise"), when=shows_noise),
        Optional("mask", when=masked),
    )
    outputs = ("bands_png", "components_png")
    uses = (
        "sky.nside",
        "sky.lmax",
        "sky.fields",
        "dataset",
        "instrument.name",
        "foregrounds.kind",
        "foregrounds.presets",
        "sims.external",
    )
    reads = ("splits", "foregrounds.components", "noise.kind", "mask.kind")
    memory = "1 item + 40 MB"

    def items(self) -> Iterable[Item]:
        """The first test sky."""
        return [{"split": "test", "sim": 0}]

    def run(
        self,
        item: Item,
        *,
        bands: Files,
        cmb_map: SkyMap | None = None,
        mask: SkyMap | None = None,
        **parts: Files,
    ) -> tuple[Figure, Figure]:
        """Two figures; ``parts`` are those of foreground, component and noise that are there."""
        fields = self.shown()
        cmb = None if cmb_map is None else replace(cmb_map, data=cmb_map.select(fields), fields=fields)
        weights = np.ones(12 * self.cfg.sky.nside**2) if mask is None else mask["mask"].astype(np.float64)
        caption = self.caption(item)
        return sky_figure(cmb, bands, caption), spectra_figure(cmb, bands, parts, weights, caption)

    def shown(self) -> tuple[str, ...]:
        """T, or Q and U where there is no T."""
        return ("T",) if "T" in self.cfg.sky.fields else ("Q", "U")

    def caption(self, item: Item) -> dict[str, Any]:
        """What stands above the figures."""
        cfg = self.cfg
        return {
            "field": self.shown()[0],
            "unit": "uK_CMB",
            "dataset": cfg.dataset,
            **item,
            "nside": cfg.sky.nside,
            "lmax": cfg.sky.lmax,
            "instrument": cfg.instrument.name,
            "foregrounds": foregrounds_text(cfg),
        }


def sky_figure(cmb: SkyMap | None, bands: Files, caption: Mapping) -> Figure:
    """Draw T, or Q, of every band and of the CMB, each on its own colour scale, which grows like asinh.

    Parameters
    ----------
    cmb : SkyMap or None
        None where it is not known.
    bands : Files
        Observed maps, one a band, of which one after another is read.
    caption : mapping
        See ``captions.describe``.
    """
    titles = [f"{item['band']} GHz" for item in bands.items] + ([] if cmb is None else ["CMB"])
    rows = -(-len(titles) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.3 + 1.85 * rows, caption)
        axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
        for axis in axes[len(titles) :]:
            axis.remove()
        pixels = mollweide_pixels(caption["nside"], 600)
        for axis, title, sky in zip(axes, titles, chain(bands, [cmb]), strict=False):
            draw_images([axis], {title: sky[caption["field"]]}, {}, pixels, caption=caption, asinh=True)
    return figure


def spectra_figure(
    cmb: SkyMap | None, bands: Files, parts: Mapping[str, Files], mask: np.ndarray, caption: Mapping
) -> Figure:
    """Draw D_l of the observed T, CMB, foregrounds and noise of every band, and of each foreground where it is there.

    Where the caption's field is Q, of E instead of T.

    Parameters
    ----------
    cmb, bands, caption
        As in ``sky_figure``.
    parts : mapping
        Those that are there of ``foreground`` and ``noise``: Files of one map a band; ``component``: Files of one map a
        band and component.
    mask : array (npix,)
        Weight of each pixel.
    """
    rows = -(-len(bands) // _COLUMNS)
    lmax = caption["lmax"]
    fields = ("T",) if caption["field"] == "T" else ("Q", "U")
    caption = {**caption, "field": "T" if fields == ("T",) else "E"}
    spin = 2 * (len(fields) - 1)
    alm = None if cmb is None else sht.analysis(cmb.select(fields).astype(np.float64), lmax, spin=spin)
    colours: dict[str, str] = {}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 0.5 + 2.0 * rows, {**caption, "f_sky": f"{f_sky(mask):.2f}"})
        axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
        for axis in axes[len(bands) :]:
            axis.remove()
        for i, (axis, item, observed) in enumerate(zip(axes, bands.items, bands, strict=False)):
            for part, sky in _each_part(item["band"], observed, cmb, alm, parts, fields):
                ell, dl = _binned(sky * mask, min(lmax, sht.accurate_lmax(observed.nside)), f_sky(mask))
                black: dict[str, dict[str, Any]] = {
                    "observed": {"color": "0.75", "lw": 3.0},
                    "CMB": {"color": "black"},
                }
                look = black.get(part) or {"color": colours.setdefault(part, COLOURS[len(colours) % len(COLOURS)])}
                axis.plot(ell, dl, label=part, **look)
            multipole_axis(axis, subs=(1,))  # the panels are small
            axis.set(yscale="log", title=f"{item['band']} GHz", ylabel="" if i % _COLUMNS else dl_label(caption))
            if i + _COLUMNS < len(bands):
                axis.set_xlabel("")
            limit_floor(axis)
        lines = {line.get_label(): line for axis in axes[: len(bands)] for line in axis.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 8))
    return figure


def _each_part(
    band: str,
    observed: SkyMap,
    cmb: SkyMap | None,
    alm: np.ndarray | None,
    parts: Mapping[str, Files],
    fields: tuple[str, ...],
) -> Iterator[tuple[str, np.ndarray]]:
    """T, or Q and U, of what a band sees, and of each part of it after its name, one after another."""
    yield "observed", observed.select(fields).astype(np.float64)
    if cmb is not None and alm is not None:
        fwhm_arcmin = max(observed.fwhm_arcmin**2 - cmb.fwhm_arcmin**2, 0.0) ** 0.5  # beside the beam that it has
        seen = sht.almxfl(alm, gaussian_beam(fwhm_arcmin, sht.alm_lmax(alm)))
        yield "CMB", sht.synthesis(seen, observed.nside, spin=2 * (len(fields) - 1))
    for key, label in (("foreground", "foregrounds"), ("noise", "noise"), ("component", "")):
        for i, item in enumerate(parts[key].items if key in parts else ()):
            if item["band"] == band:  # of the others no file is read
                yield label or item["component"], parts[key][i].select(fields).astype(np.float64)


def _binned(sky: np.ndarray, lmax: int, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Multipoles and D_l of T, (1, npix), or of E of Q and U, (2, npix), in logarithmic bins from l = 2."""
    edges = np.unique(np.geomspace(2, lmax + 1, 25).astype(int))
    dl = cl_to_dl(sht.alm2cl(sht.analysis(sky, lmax, spin=2 * (len(sky) - 1))[0])) / part
    return bin_spectrum(np.arange(lmax + 1.0), edges), bin_spectrum(dl, edges)
