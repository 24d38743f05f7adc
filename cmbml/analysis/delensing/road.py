"""The road from bands to r in one picture: bands, what is combined of them, its lensing, delensed B, r."""

from collections.abc import Mapping
from typing import Any

import healpy as hp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from cmbml.analysis.captions import good_pixels
from cmbml.analysis.delensing.lensing import Seen, lensing_of
from cmbml.analysis.delensing.measure import NONE, Delensing
from cmbml.analysis.delensing.r import draw_posteriors
from cmbml.analysis.figures import LOOK, dl_label, draw_line
from cmbml.analysis.measure import MASK
from cmbml.analysis.projections import STYLE, colour_limit, draw_images, gnomonic_pixels, mollweide_pixels, new_figure
from cmbml.analysis.spectra import of_method, scatter
from cmbml.config.truth import cleaned, estimates_kappa, has_foregrounds_left
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import observed
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import f_sky


class Road(Delensing, SimStage):
    """Bands, what was combined of them, the lensing found in it, B before and after, and r: one picture of a dataset.

    Maps are those of the first test sky, grey where it is masked; bandpowers and posteriors are of all judged skies.
    """

    name = "road"
    splits = ("test",)
    inputs = (
        *(Every("band", name="bands"), "combination", "obs", "obs_alm", "prediction", "unlensed_alm", "lensed_alm"),
        *("r_curves", MASK),
        Optional("estimate", when=estimates_kappa),
        Optional("foregrounds_left", when=has_foregrounds_left),
    )
    outputs = ("road_png",)
    uses = (*Delensing.caption_keys, "analysis.zoom", "analysis.r.band")
    reads = ("splits", "mask.kind")
    memory = "1 item + 60 MB"

    def items(self) -> list[Item]:
        """The first test sky, where bands are combined."""
        return list(super().items())[:1] if cleaned(self.cfg) else []

    def run(
        self,
        item: Item,
        *,
        bands: Files,
        combination: dict[str, np.ndarray],
        r_curves: dict[str, np.ndarray],
        mask: SkyMap | None = None,
        **of_sky: Any,
    ) -> Figure:
        """One figure in five steps."""
        name = self.cfg.method.name
        obs = of_sky["obs"]
        truth = {key: of_sky[key] for key in ("unlensed_alm", "lensed_alm")}
        kappa = {name: of_sky["estimate"]} if "estimate" in of_sky else {}
        seen = lensing_of({name: of_sky["prediction"]["B"]}, kappa, field="B", obs=obs, mask=mask, **truth)
        noise = combination["noise_b"]
        names = [str(band) for band in combination["bands"]]
        of_skies = f"of {len(r_curves[f'{name}/own'])} test skies"
        return road_figure(
            self._shown(bands, names),
            self._in_band_of_r(of_sky["obs_alm"], of_sky.get("foregrounds_left"), mask),
            seen[0],
            r_curves,
            noise / gaussian_beam(obs.fwhm_arcmin, len(noise) - 1) ** 2,
            count=len(names),
            mask=good_pixels(mask, 12 * obs.nside**2),
            caption=self.caption() | {"maps": "of the first", "bandpowers and r": of_skies},
            zoom=tuple(self.cfg.analysis.zoom),
        )

    def _shown(self, bands: Files, names: list[str]) -> dict[str, np.ndarray]:
        """Maps of Q of the first, the middle and the last band, by their frequencies."""
        survey = observed(self.cfg.instrument, self.cfg.sky.nside)
        places = {item["band"]: place for place, item in enumerate(bands.items)}
        shown = dict.fromkeys(names[i] for i in (0, len(names) // 2, -1))
        return {f"{survey.band(name).center_ghz:g} GHz": bands[places[name]]["Q"] for name in shown}

    def _in_band_of_r(
        self, whole: Mapping[str, np.ndarray], left: Mapping[str, np.ndarray] | None, mask: SkyMap | None
    ) -> dict[str, np.ndarray]:
        """Map of B of the multipoles of r, by how much of it are foregrounds: rms inside the mask."""
        first, last = self.cfg.analysis.r.band
        ell = np.arange(last + 1)
        part = 4 * np.pi * (1.0 if mask is None else f_sky(mask["mask"]))
        alms = [sht.almxfl(sht.truncate(x["B"].astype(complex), last), ell >= first) for x in (whole, left) if x]
        rms = ", foregrounds ".join(f"{np.sqrt((2 * ell + 1) @ sht.alm2cl(alm) / part):.2g} µK" for alm in alms)
        return {rf"$\ell$ = {first} .. {last}, rms {rms}": sht.synthesis(alms[0], self.cfg.sky.nside)}


def road_figure(
    bands: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    seen: Seen,
    curves: Mapping[str, np.ndarray],
    noise: np.ndarray,
    *,
    count: int,
    mask: np.ndarray,
    caption: Mapping[str, Any],
    zoom: tuple[float, float, float],
) -> Figure:
    """Draw the steps in three rows: bands; B of all of them, and a patch of the lensing; bandpowers, and r.

    Parameters
    ----------
    bands, b : mapping
        Title -> map (npix,), uK_CMB, of bands, and of what was combined of them.
    seen : Seen
        The lensing, and what the method finds of it.
    curves : mapping
        From ``r.curves_of``.
    noise : array (lmax + 1,)
        Spectrum of the noise of what was combined, without the beam, uK^2.
    count : int
        Of how many bands.
    mask : bool array (npix,)
        True where a pixel is good; the others are grey.
    caption : mapping
        See ``captions.describe``.
    zoom : (float, float, float)
        Longitude, latitude and side of the patch in degrees.
    """
    ((method, estimate),) = seen.maps.items()
    found = {name: of_method([curves], name)[0] for name in (NONE, method)}
    patch = gnomonic_pixels(hp.npix2nside(len(mask)), *zoom, 300)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.1, 6.9, {**caption, "patch": "at (l, b) = ({:g}°, {:g}°)".format(*zoom)})
        rows: Any = figure.subfigures(3, 1, height_ratios=(1.55, 2.1, 2.3))
        parts = [rows[0], *(part for row in rows[1:] for part in row.subfigures(1, 2, width_ratios=(1.12, 1)))]
        _skies(_step(parts[0], f"1  observed: Q of {len(bands)} of {count} bands", len(bands)), bands, mask, caption)
        _skies(_step(parts[1], f"2  cleaned: B of {count} bands"), b, mask, caption)
        axes = _step(parts[2], f"3  reconstructed: {seen.name}", 2)
        skies = {"truth": seen.truth, method: estimate}
        scale = max(colour_limit(m[mask]) for m in skies.values())
        draw_images(axes, skies, {}, patch, mask, caption={"unit": seen.unit}, half=zoom[2] / 2, scales=(scale, scale))
        axes[1].set_yticklabels([])
        _powers(_step(parts[3], "4  delensed: bandpowers of B")[0], curves["ell"], found, noise, caption)
        _posteriors(_step(parts[4], f"5  r of {len(found[method]['own'])} skies, {curves['fit']}")[0], found)
        for _ in range(2):
            figure.draw_without_rendering()  # the layout's next pass knows how high maps of this width are
    return figure


def _step(part: SubFigure, title: str, columns: int = 1) -> list[Axes]:
    """Axes of a step, in a row under its title."""
    part.suptitle(title, x=0.01, ha="left", fontsize=9, weight="bold")
    return list(part.subplots(1, columns, squeeze=False)[0])


def _skies(axes: list[Axes], skies: Mapping[str, np.ndarray], mask: np.ndarray, caption: Mapping[str, Any]) -> None:
    """Whole skies, averaged over pixels of a point or two of the picture."""
    nside = min(hp.npix2nside(len(mask)), 64)
    good = hp.ud_grade(mask.astype(float), nside) > 0.5
    averaged = {title: hp.ud_grade(np.where(mask, m, hp.UNSEEN), nside) for title, m in skies.items()}
    draw_images(axes, averaged, {}, mollweide_pixels(nside, 500), good, caption=caption, asinh=True)


def _powers(
    axis: Axes, ell: np.ndarray, found: Mapping[str, Mapping[str, np.ndarray]], noise: np.ndarray, caption: Mapping
) -> None:
    """D_l of B before and after, of what is sought in it, and of what else is in it."""
    before, after = found.values()
    lines = {
        NONE: (before["predicted"], LOOK["observed"]),
        "delensed": (after["predicted"], LOOK["predicted"]),
        "primordial": (after["unlensed"], LOOK["unlensed"] | {"lw": 1.8}),
        "foregrounds left": (after.get("foregrounds"), {"color": "#009E73", "ls": "-", "marker": "^"}),
    }
    for label, (powers, look) in lines.items():
        if powers is not None:
            draw_line(axis, ell, *scatter(ell * (ell + 1) / (2 * np.pi) * powers), label, **look)
    wide = np.arange(int(ell[0]), int(ell[-1]) + 1)
    axis.plot(wide, wide * (wide + 1) / (2 * np.pi) * noise[wide], color="0.5", ls="--", label="noise")
    axis.set(yscale="log", xlabel=r"multipole $\ell$", ylabel=dl_label(caption))
    axis.set_ylim(top=15 * axis.get_ylim()[1])  # for the legend
    axis.legend(ncols=2, loc="upper left")


def _posteriors(axis: Axes, found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Posteriors of r of all skies, before and after, and the r that they have."""
    for (name, of_r), look in zip(found.items(), ("observed", "predicted"), strict=True):
        draw_posteriors(axis, of_r["posterior"], color=LOOK[look]["color"])
        axis.lines[-1].set_label(rf"{name}: $\sigma(r)$ = {of_r['sigma'].mean():.2g}")
    axis.plot(2 * [of_r["own"].mean()], [0, 1.05], color="black", lw=1.8, label="r of the skies")
    axis.set(ylim=(0, 1.55), yticks=[0, 0.5, 1], ylabel="posterior")
    axis.legend(loc="upper left")
