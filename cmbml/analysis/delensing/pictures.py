"""The stage that draws the maps of one method."""

import numpy as np
from matplotlib.figure import Figure

from cmbml.analysis import measure, projections
from cmbml.analysis.captions import inside
from cmbml.analysis.delensing.lensing import lensing_figure, lensing_of
from cmbml.analysis.delensing.measure import Delensing
from cmbml.analysis.figures import residual_histogram
from cmbml.config.truth import estimates_kappa
from cmbml.core.asset import Item, Optional
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap


class Pictures(Delensing, SimStage):
    """Truth, observed, predicted, difference: the whole sky and a zoomed patch; its lensing; the residual's histogram.

    What is masked is grey; the truth has the same taper as the others, that of the convergence as its estimate has it.
    """

    name = "pictures"
    version = 4
    splits = ("test",)
    inputs = (
        "prediction",
        Optional("estimate", when=estimates_kappa),
        "obs",
        "unlensed_alm",
        "lensed_alm",
        measure.MASK,
    )
    outputs = ("skies_png", "zoom_png", "lensing_png", "residual_png")
    uses = (*Delensing.caption_keys, "analysis.zoom")
    reads = ("splits", "analysis.pictures", "mask.kind")
    memory = "1 item + 40 MB"

    def items(self) -> list[Item]:
        """The first test skies."""
        return list(super().items())[: self.cfg.analysis.pictures]

    def run(
        self,
        item: Item,
        *,
        prediction: SkyMap,
        obs: SkyMap,
        unlensed_alm: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        estimate: SkyMap | None = None,
        mask: SkyMap | None = None,
    ) -> tuple[Figure, ...]:
        """Four figures."""
        caption = self.caption(**item, mask=mask)
        good = inside(mask)
        truth = self.true_map(unlensed_alm, obs)
        truth = truth if mask is None else truth * mask["mask"]
        observed = obs[self.cfg.delens.field]
        predicted = prediction[self.cfg.delens.field]
        lon, lat, size = self.cfg.analysis.zoom
        name = self.cfg.method.name
        kappa = {} if estimate is None else {name: estimate}
        lensing = lensing_of(
            {name: predicted},
            kappa,
            field=self.cfg.delens.field,
            obs=obs,
            unlensed_alm=unlensed_alm,
            lensed_alm=lensed_alm,
            mask=mask,
        )
        residuals = {"observed": observed - truth, "predicted": predicted - truth}
        return (
            projections.sky_panels(truth, observed, predicted, caption=caption, mask=good),
            projections.zoom_panels(
                truth, observed, predicted, caption=caption, lon_deg=lon, lat_deg=lat, size_deg=size, mask=good
            ),
            lensing_figure(lensing, caption=caption, zoom=(lon, lat, size), mask=good),
            residual_histogram(residuals, caption=caption, mask=good),
        )
