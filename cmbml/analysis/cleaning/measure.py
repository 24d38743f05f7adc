"""The stages that measure one method of cleaning; they read predictions and truth as assets and know no method."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from cmbml.analysis import measure
from cmbml.analysis.captions import foregrounds_text, good_pixels
from cmbml.analysis.cleaning import figures as cleaning_figures
from cmbml.analysis.cleaning import metrics
from cmbml.analysis.cleaning.forms import FORMS, at_own_beam, carried, in_forms, together, without_dipole
from cmbml.analysis.cleaning.metrics import agreement, error_spectra
from cmbml.analysis.common import demand_usable
from cmbml.analysis.measure import Judged
from cmbml.analysis.metrics import Metric
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.truth import beams_measured, combines_bands, has_parts, has_truth
from cmbml.core.asset import Item, Optional
from cmbml.core.errors import UserError, demand
from cmbml.core.stage import SimStage, Stage
from cmbml.maps.skymap import SkyMap


class Cleaning(Judged):
    """A stage of the job cleaning."""

    dataset_keys = (
        "dataset",
        "clean.field",
        "instrument.name",
        "foregrounds.kind",
        "foregrounds.presets",
        "sims.external",
        "sky.nside",
    )
    caption_keys = (*dataset_keys, "method.name")
    by = ("method", "field", "form", "area")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `cmbml.analysis.cleaning.metrics.METRICS`, and residuals and biases in `analysis.bands`."""
        a = self.cfg.analysis
        return (*metrics.METRICS, *metrics.residuals(a.bands, a.lmax), *metrics.biases(a.bands, a.lmax))

    def of_dataset(self) -> dict[str, Any]:
        """Entries of `cmbml.analysis.captions.describe` that all methods share."""
        cfg = self.cfg
        return {
            "field": cfg.clean.field,
            "unit": "uK_CMB",
            "dataset": cfg.dataset,
            "nside": cfg.sky.nside,
            "instrument": cfg.instrument.name,
            "foregrounds": foregrounds_text(cfg),
        }

    def seen_part(self, mask: SkyMap | None) -> dict[str, str]:
        """How much of the sky counts; nothing for the full sky."""
        if mask is None:
            return {}
        return {"mask": f"leaves {good_pixels(mask, len(mask['mask'])).mean():.0%} of the sky"}


class OfTruth(Stage):
    """A stage that has nothing to do where no truth is known."""

    def items(self) -> Iterable[Item]:
        """All, or none."""
        return super().items() if has_truth(self.cfg) else []


class Measure(Cleaning, OfTruth, measure.Measure):
    """Pixel metrics in each form of `cleaning.forms.in_forms`, and beam-deconvolved spectra with what they tell.

    Pixels of the area ``mask`` are those where the mask exceeds one half; its spectra are of maps times the mask.
    Transfer, rho and the residual's power over the CMB's are those of the spectra and the same for all forms; of Q and
    U those of E and B together, the power of the polarisation.

    A prediction that carries the mask is compared with the truth times the mask, and has no numbers of the full sky.
    What the mask mixes of E into such a B is no error of the cleaning and taken out of it; the map has it.
    """

    version = 5
    inputs = ("prediction", "cmb_map", "lensed_alm", measure.MASK)
    uses = ("method.name", "analysis.fwhm_arcmin", "analysis.lmax", "analysis.band", "analysis.bands")
    reads = ("splits", "sky.nside", "mask.kind", "sims.external")
    memory = "72 map"

    def __init__(self, config: DictConfig):
        """Remember which beams are to be expected, and whether the method is a combination of bands."""
        super().__init__(config)
        self.beams = beams_measured(config)
        self.combines = combines_bands(config)

    def check(self) -> None:
        """Refuse beams that the common form and its multipoles have no room for."""
        a = self.cfg.analysis
        for key, fwhm_arcmin in self.beams.items():
            demand_usable(f"{key}={fwhm_arcmin:g}", fwhm_arcmin, a.lmax)
            demand(
                fwhm_arcmin <= a.fwhm_arcmin or key.startswith("sims."),  # a wider truth makes the common form wider
                f"{key}={fwhm_arcmin:g} is wider than the common beam analysis.fwhm_arcmin={a.fwhm_arcmin:g}; widen"
                " that for all methods.",
            )

    def measured(
        self,
        spectra: dict[str, np.ndarray],
        *,
        prediction: SkyMap,
        cmb_map: SkyMap,
        lensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> Iterator[tuple[dict[str, str], metrics.Measured]]:
        """One row a field, area and form.

        The spectra of `cleaning.metrics.error_spectra` are named ``{field}_{area}/{name}``, of the fields T, E and B.
        """
        if prediction.nside != self.cfg.sky.nside:
            raise UserError(f"The prediction has nside {prediction.nside} where {self.cfg.sky.nside} is needed.")
        a = self.cfg.analysis
        weight_of_prediction = carried(prediction, mask)
        areas = ({} if mask is None else {"mask": mask["mask"]}) | ({} if prediction.masks else {"full": None})
        npix = prediction.data.shape[-1]
        for fields in together(prediction.fields):
            for area, weight in areas.items():
                good = good_pixels(None if weight is None else mask, npix)
                forms = in_forms(
                    prediction,
                    cmb_map,
                    lensed_alm,
                    fields,
                    good,
                    fwhm_arcmin=a.fwhm_arcmin,
                    lmax=a.lmax,
                    weight=weight_of_prediction,
                )
                truth, error, fwhm_arcmin = forms["spectra"]
                how = {"fwhm_arcmin": fwhm_arcmin, "lmax": a.lmax, "mask": weight, "masked": prediction.masks > 0}
                cls = error_spectra(truth, error, fields, **how)
                spectra |= {f"{x}_{area}/{name}": cl for x, by_name in cls.items() for name, cl in by_name.items()}
                names = next(iter(cls.values()))
                total = {name: np.sum([by_name[name] for by_name in cls.values()], axis=0) for name in names}
                for i, field in enumerate(fields):
                    for form in FORMS:
                        t, e, beam = forms[form]
                        labels = {"method": self.cfg.method.name, "field": field, "form": form, "area": area}
                        yield (
                            labels,
                            metrics.Measured(
                                pixels=agreement(t[i], t[i] + e[i], good),
                                cls=total,
                                band=tuple(a.band),
                                fwhm_arcmin=beam,
                                combines=self.combines,
                            ),
                        )


class Pictures(Cleaning, SimStage):
    """Truth, prediction and difference: the whole sky, one zoomed patch, and the histogram of the difference.

    The truth has the beam and band limit of the prediction, T no monopole and dipole; what is masked is grey. Where no
    truth is known the prediction is drawn alone, and no histogram.
    """

    name = "pictures"
    version = 2
    splits = ("test",)
    inputs = (
        "prediction",
        Optional("cmb_map", "lensed_alm", when=has_truth),
        measure.MASK,
    )
    outputs: ClassVar[tuple[str, ...]] = ("skies_png", "zoom_png", "residual_png")
    uses = (*Cleaning.caption_keys, "analysis.zoom")
    reads = ("splits", "analysis.pictures", "mask.kind")
    memory = "1 item + 40 MB"

    def items(self) -> list[Item]:
        """The first test skies."""
        return list(super().items())[: self.cfg.analysis.pictures]

    def __init__(self, config: DictConfig):
        """Make no histogram where there is no truth."""
        super().__init__(config)
        if not has_truth(self.cfg):
            self.outputs = self.outputs[:2]  # type: ignore[misc]  # of this stage alone settings say what it makes

    def run(
        self,
        item: Item,
        *,
        prediction: SkyMap,
        cmb_map: SkyMap | None = None,
        lensed_alm: dict[str, np.ndarray] | None = None,
        mask: SkyMap | None = None,
    ) -> tuple[Figure, ...]:
        """Three figures, or two."""
        good = good_pixels(mask, prediction.data.shape[-1])
        skies: dict[str, tuple[np.ndarray, ...]] = {}
        errors: dict[str, np.ndarray] = {}
        for fields in together(prediction.fields):
            if cmb_map is not None and lensed_alm is not None:
                truth, error, _ = at_own_beam(
                    prediction,
                    cmb_map,
                    lensed_alm,
                    fields,
                    good,
                    lmax=prediction.lmax,
                    weight=carried(prediction, mask),
                )
                skies |= {x: (truth[i], truth[i] + error[i]) for i, x in enumerate(fields)}
                errors |= dict(zip(fields, error, strict=True))
            else:
                skies |= {x: (prediction[x].astype(np.float64),) for x in fields}
        if cmb_map is None and "T" in skies:
            skies["T"] = (without_dipole(skies["T"][0], good, carried(prediction, mask)),)
        fwhm_arcmin = round(prediction.fwhm_arcmin, 2)
        caption = self.caption(**item, fwhm_arcmin=fwhm_arcmin, lmax=prediction.lmax, mask=mask)
        lon, lat, size = self.cfg.analysis.zoom
        whole = cleaning_figures.sky_figure(skies, caption=caption, mask=good)
        patch = cleaning_figures.sky_figure(skies, caption=caption, mask=good, zoom=(lon, lat, size))
        if cmb_map is None:
            return whole, patch
        return whole, patch, cleaning_figures.residual_figure(errors, caption=caption, mask=good)


class ResidualPictures(Cleaning, SimStage):
    """What a linear method leaves of the foregrounds and of the noise, on the whole sky; what is masked is grey.

    Of T without the monopole and dipole of what is not masked, as everywhere.
    """

    name = "residual_pictures"
    splits = ("test",)
    inputs = ("residuals", measure.MASK)
    outputs = ("residuals_png",)
    uses = Cleaning.caption_keys
    reads = ("splits", "analysis.pictures", "mask.kind")
    memory = "1 item + 40 MB"

    def items(self) -> list[Item]:
        """The first test skies, if foregrounds and noise are known apart."""
        return list(super().items())[: self.cfg.analysis.pictures] if has_parts(self.cfg) else []

    def run(self, item: Item, *, residuals: SkyMap, mask: SkyMap | None = None) -> Figure:
        """One figure."""
        good = good_pixels(mask, residuals.data.shape[-1])
        caption = self.caption(**item, fwhm_arcmin=round(residuals.fwhm_arcmin, 2), mask=mask)
        maps = {x: residuals[x].astype(np.float64) for x in residuals.fields}
        weight = carried(residuals, mask)
        maps = {x: without_dipole(m, good, weight) if x[0] == "T" else m for x, m in maps.items()}
        left = {f"{x.partition('_')[2]} left in {x[0]}": m for x, m in maps.items()}
        return cleaning_figures.left_figure(left, caption=caption, mask=good)


class Curves(Cleaning, measure.Curves):
    """Loss and learning rate of the network against the epoch; none where the network is given."""

    uses = Cleaning.caption_keys


class Summary(Cleaning, OfTruth, measure.Summary):
    """The table over all test skies, and the figure of spectra: of the mask's area, of the full sky without a mask."""

    inputs = (*measure.SUMMARISED, measure.MASK)
    outputs = (*measure.TABLES, "spectra_png")
    uses = (
        *Cleaning.caption_keys,
        "analysis.fwhm_arcmin",
        "analysis.lmax",
        "analysis.delta_l",
        "analysis.band",
        "analysis.bands",
    )
    reads = ("mask.kind",)

    def more(self, mask: SkyMap | None, **inputs: Any) -> dict[str, str]:
        """The common beam, the band of transfer and rho, and what the spectra are of."""
        a = self.cfg.analysis
        return {
            "common beam": f"{a.fwhm_arcmin:.4g} arcmin to lmax {a.lmax}",
            "transfer and rho": f"of l = {a.band[0]} .. {min(a.band[1], a.lmax)}",
            **spectra_text(mask),
        }

    def figures(
        self,
        summary: list[dict[str, Any]],
        skies: list[dict[str, np.ndarray]],
        caption: dict[str, Any],
        mask: SkyMap | None,
    ) -> tuple[Figure]:
        """Spectra of every field."""
        a = self.cfg.analysis
        area = "full" if mask is None else "mask"
        fields = dict.fromkeys(key.partition("_")[0] for key in skies[0])
        stacked = {x: stack(of_method(skies, f"{x}_{area}"), self.edges) for x in fields}
        caption = {**caption, "lmax": a.lmax, **spectra_text(mask)}
        return (cleaning_figures.spectra_figure(stacked, caption=caption),)


def spectra_text(mask: SkyMap | None) -> dict[str, str]:
    """Entry of a caption: what the spectra are of."""
    of_mask = "" if mask is None else ", of the masked maps over the mean squared mask (multipoles mixed)"
    return {"spectra": f"beam-deconvolved{of_mask}"}
