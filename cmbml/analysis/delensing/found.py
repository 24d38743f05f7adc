"""What a delensing has found in a sky of which nobody knows the truth."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis.captions import inside
from cmbml.analysis.common import demand_usable
from cmbml.analysis.delensing.forms import Forms
from cmbml.analysis.delensing.measure import Delensing
from cmbml.analysis.measure import MASK
from cmbml.analysis.projections import STYLE, draw_images, gnomonic_pixels, new_figure
from cmbml.config.truth import estimates_kappa
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.masks import f_sky
from cmbml.sky.spectra import bin_spectrum


class Found(Delensing, SimStage):
    """Spectra of the observed field, of its lensing as estimated and of what is left, and one patch of each.

    Spectra are beam-deconvolved and hold the noise; where the template is right, observed x template is the template's
    own power. On a masked sky all maps carry the mask twice, and spectra are over the mean of its 4th power.
    """

    name = "found"
    splits = ("test",)
    inputs = (
        "obs",
        "prediction",
        "lensing_template",
        Optional("estimate", when=estimates_kappa),
        MASK,
    )
    outputs = ("found_csv", "found_png")
    uses = (*Delensing.caption_keys, "analysis.delta_l", "analysis.lmax", "analysis.zoom")
    reads = ("splits", "mask.kind")

    def check(self) -> None:
        """Refuse multipoles of which the beam leaves nothing."""
        if self.cfg.delens.field not in "QU":
            fwhm_arcmin = self.cfg.delens.fwhm_arcmin
            demand_usable(f"delens.fwhm_arcmin={fwhm_arcmin:g}", fwhm_arcmin, self.cfg.analysis.lmax)

    def run(
        self,
        item: Item,
        *,
        obs: SkyMap,
        prediction: SkyMap,
        lensing_template: SkyMap,
        estimate: SkyMap | None = None,
        mask: SkyMap | None = None,
    ) -> tuple[list[dict[str, Any]], Figure]:
        """One row a bin, and one figure."""
        field = self.cfg.delens.field
        maps = {"observed": obs[field], "template": lensing_template[field], "delensed": prediction[field]}
        forms = Forms(self.cfg, obs, mask)
        alms = {name: forms.alm(m, times=1) for name, m in maps.items()}
        part = 1.0 if mask is None else f_sky(mask["mask"], 4)
        cls = {name: sht.alm2cl(alm) / part for name, alm in alms.items()}
        cls["observed_x_template"] = sht.alm2cl(alms["observed"], alms["template"]) / part
        binned = {name: bin_spectrum(cl, self.edges) for name, cl in cls.items()}
        firsts = self.edges[:-1]
        lasts = self.edges[1:] - 1
        rows = [
            {"first": int(first), "last": int(last), **{name: float(cl[i]) for name, cl in binned.items()}}
            for i, (first, last) in enumerate(zip(firsts, lasts, strict=True))
        ]
        caption = self.caption(**item, mask=mask)
        return rows, self.figure(maps, estimate, caption, inside(mask))

    def figure(
        self,
        maps: Mapping[str, np.ndarray],
        estimate: SkyMap | None,
        caption: Mapping[str, Any],
        good: np.ndarray | None,
    ) -> Figure:
        """The patch `analysis.zoom` of the maps on one scale, and of the convergence beside them."""
        lon, lat, size = self.cfg.analysis.zoom
        nside = round(np.sqrt(len(maps["observed"]) / 12))
        pixels = gnomonic_pixels(nside, lon, lat, size)
        columns = len(maps) + (estimate is not None)
        with matplotlib.rc_context(STYLE):
            heading = {**caption, "centre": f"(l, b) = ({lon:g}°, {lat:g}°)"}
            figure = new_figure(1.8 * columns, 2.75, heading)
            axes = figure.subplots(1, columns, sharex=True, sharey=True)
            draw_images(axes[: len(maps)], maps, {}, pixels, good, caption=caption, half=size / 2)
            if estimate is not None:
                one = {"κ, Wiener-filtered": estimate["kappa"]}
                draw_images(axes[-1:], one, {}, pixels, good, caption={**caption, "unit": "1"}, half=size / 2)
            axes[0].set_ylabel("offset [deg]")
        return figure
