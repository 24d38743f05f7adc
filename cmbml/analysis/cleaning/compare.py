"""The stages of `main_analysis_compare.py job=clean`: they read the finished results of several methods of cleaning.

A method whose prediction was made with what no observer has (the truth of the test sky, or its parts) is a baseline: it
stands in the tables and among the spectra, and is told from those that see the observations alone.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from cmbml.analysis import compare, compare_figures, comparison, tables
from cmbml.analysis.captions import good_pixels
from cmbml.analysis.cleaning import report as clean_report
from cmbml.analysis.cleaning.figures import cleaned_spectra
from cmbml.analysis.cleaning.forms import FORMS, carried, in_forms, together
from cmbml.analysis.cleaning.measure import Cleaning, Measure
from cmbml.analysis.measure import MASK
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.resolvers import shipped
from cmbml.config.truth import has_truth
from cmbml.core.asset import Every, Files, Item, Record
from cmbml.core.errors import UserError
from cmbml.core.provenance import changes, flatten
from cmbml.maps.skymap import SkyMap
from cmbml.sky.instrument import read_instrument

TRUTH = {"lensed_alm", "unlensed_alm", "cmb_map", "foreground", "noise"}  # what no observer has
STEPS = tuple(Record(asset, optional=True) for asset in ("model", "prediction", "band"))
PICTURES = ("spectra", "boxes")


class Comparing(Cleaning, compare.Comparing):
    """A stage that compares methods of cleaning."""

    main = "main_clean.py"
    measure = Measure
    skies = ("cmb_map", "lensed_alm", "mask")
    uses = (
        *Cleaning.dataset_keys,
        *compare.Comparing.compare_keys,
        "mask.kind",
        *(key for key in Measure.uses if key.startswith("analysis.")),
    )
    # The words of main_clean.py may be repeated here: how a method came to its results changes nothing.
    reads = (
        "method",
        "splits",
        "analysis",
        "cosmology",
        "clean",
        "foregrounds",
        "instrument",
        "mask",
        "network",
        "noise",
        "patches",
        "rotation",
        "sky",
        "train",
    )

    def __init__(self, config: DictConfig):
        """Refuse skies whose truth nobody knows."""
        super().__init__(config)
        if not has_truth(config):
            raise UserError("Methods are compared with the truth of the test skies; name it in sims.external.truth.")

    @property
    def field(self) -> str:
        """What is recovered: one field, or TQU."""
        return self.cfg.clean.field

    @property
    def methods(self) -> list[str]:
        """All of `compare.methods`."""
        return list(self.cfg.compare.methods)

    @property
    def headline(self) -> dict[str, str]:
        """Form and area of the numbers that count."""
        return {"form": "common", "area": "full" if self.cfg.mask.kind == "none" else "mask"}

    def found(self, asset: str) -> Iterable[Item]:
        """Also the observations, which belong to no method, of all bands that the instrument might have."""
        if asset == "band":
            bands = [band.name for band in read_instrument(shipped(self.cfg.instrument.table)).bands]
            sims = range(self.cfg.splits.test)
            return [{"split": "test", "sim": sim, "band": band} for sim in sims for band in bands]
        return super().found(asset)

    def compared(
        self,
        *,
        metrics: Files,
        metrics_record: Files,
        model_record: Files,
        prediction_record: Files,
        band_record: Files,
        mask: SkyMap | None = None,
    ) -> clean_report.Compared:
        """All that the tables hold."""
        results = self.results(metrics, metrics_record)
        models = _of_methods(model_record)
        predictions = _of_methods(prediction_record)
        observations = list(band_record)
        self._same_dataset(observations)
        bands: dict[int, list[str]] = {}
        for record in observations:
            bands.setdefault(record["item"]["sim"], []).append(record["fingerprint"])
        by_method = {name: [record for method, record in predictions if method == name] for name in self.methods}
        comparison.same_observations(by_method, bands, self.again)
        rows = {name: result.rows for name, result in results.items()}
        self._same_area(rows)
        order = {name: i for i, name in enumerate(self.methods)}
        steps = sorted(models + predictions, key=lambda pair: order[pair[0]])
        return clean_report.Compared(
            caption=self.methods_caption(mask),
            metrics=self.metrics,
            reference=self.cfg.compare.reference,
            headline=self.headline,
            beam=f"{self.cfg.analysis.fwhm_arcmin:.4g} arcmin, to l = {self.cfg.analysis.lmax}",
            baselines=[name for name in self.methods if any(map(_sees_truth, by_method[name]))],
            summary=tables.summarise([row for name in self.methods for row in rows[name]], by=self.by),
            paired=self.all_differences(rows),
            costs=comparison.costs(steps),
            origins=[_origin(result, by_method[name]) for name, result in results.items()],
        )

    def _same_area(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Refuse methods without numbers for the area that counts."""
        headline = self.headline.items()
        lacking = [
            name for name, rows_of_method in rows.items() if not any(headline <= row.items() for row in rows_of_method)
        ]
        if lacking:
            raise UserError(
                f"The results of {', '.join(lacking)} are of the full sky, and this command has a mask"
                f" (mask.kind={self.cfg.mask.kind}); repeat {self.again.format(method=lacking[0])}, or say mask=none."
            )

    def _same_dataset(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Refuse a command whose words are not those with which the observations were made."""
        here = flatten(OmegaConf.to_container(self.cfg, resolve=True))
        for record in records:
            there = {key: value for key, value in record["settings"].items() if key in here}
            different = changes(there, {key: here[key] for key in there})
            if different:
                raise UserError(
                    f"The dataset {self.cfg.dataset} was made with other settings than this command has"
                    f" ({', '.join(different)}); give it the words with which the dataset was made."
                )

    def all_differences(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Paired differences from the reference for each field, form and area: the headline's first."""
        fields = dict.fromkeys(row["field"] for row in rows[self.cfg.compare.reference])
        areas = dict.fromkeys((self.headline["area"], "full"))
        notes = dict.fromkeys(rows, "")
        lines: list[dict[str, Any]] = []
        for area, form, field in itertools.product(areas, FORMS, fields):
            where = {"field": field, "form": form, "area": area}
            there = {name: own for name, own in rows.items() if any(where.items() <= row.items() for row in own)}
            if self.cfg.compare.reference not in there:  # a map that carries the mask has no numbers of the full sky
                continue
            pairs = self.differences(there, where, notes)
            lines += [{"method": line["method"], **where, **line} for line in pairs]
        return lines


def _of_methods(files: Files) -> list[tuple[str, Mapping[str, Any]]]:
    """Pairs (name of the method, sidecar)."""
    return [(item["method"], record) for item, record in zip(files.items, files, strict=True)]


def _origin(result: comparison.Result, predictions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where the numbers of a method come from; nobody knows who made a prediction without a sidecar."""
    measured = comparison.origin(result.records[0])
    return {
        "method": result.method,
        "made by commit": comparison.origin(predictions[0])["commit"] if predictions else "unknown",
        "measured by commit": measured["commit"],
        "packages": measured["packages"],
    }


def _sees_truth(record: Mapping[str, Any]) -> bool:
    """Whether what a sidecar is about was made with what no observer has."""
    return bool(TRUTH & {label.partition("[")[0] for label in record["inputs"]})


class Compare(Comparing, compare.Compare):
    """Tables and figures of all methods."""

    inputs = (*compare.MEASURED, Every("spectra", split="test"), *STEPS, MASK)
    outputs = compare.outputs(PICTURES)
    uses = (*Comparing.uses, "analysis.delta_l")

    def figures(
        self, compared: clean_report.Compared, metrics: Files, spectra: Files, **inputs: Any
    ) -> tuple[Figure, Figure]:
        """Spectra, and boxes of the metrics."""
        values = clean_report.boxes(compared, [row for sky in metrics for row in sky])
        caption = {**compared.caption, **compared.entries(**self.headline)}
        boxes = compare_figures.box_figure(values, caption=caption, order=self.methods, metrics=self.metrics)
        return self._spectra(spectra, compared), boxes

    def _spectra(self, cls: Files, compared: clean_report.Compared) -> Figure:
        area = self.headline["area"]
        stacked: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for name in self.methods:
            pairs = zip(cls.files, cls.items, strict=True)
            skies = [file.read() for file, item in pairs if item["method"] == name]
            for field in dict.fromkeys(key.partition("_")[0] for key in skies[0]):
                spectra = stack(of_method(skies, f"{field}_{area}"), self.edges)
                stacked.setdefault(field, {})[name] = spectra
        caption = {
            **compared.caption,
            "spectra": "beam-deconvolved" + (", of the masked maps" if area == "mask" else ""),
        }
        return cleaned_spectra(stacked, caption=caption, baselines=compared.baselines)


class Panels(compare.Panels, Comparing):
    """Maps of the methods for the test sky `compare.sim`, at the common beam: the whole sphere and a zoomed patch."""

    inputs = (Every("prediction"), Record("prediction", optional=True), "cmb_map", "lensed_alm", MASK)
    uses = (*Comparing.uses, "compare.sim", "analysis.zoom")

    def items(self) -> Iterable[Item]:
        """One test sky, and each field of it."""
        return [{"split": "test", "sim": self.cfg.compare.sim, "shown": x} for x in self.field]

    def shown(
        self,
        item: Item,
        *,
        prediction: Files,
        prediction_record: Files,
        cmb_map: SkyMap,
        lensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> compare.Shown:
        """Truth and the maps of the methods, without the baselines if there is more."""
        a = self.cfg.analysis
        shown = item["shown"]
        good = good_pixels(mask, cmb_map.data.shape[-1])
        baselines = {name for name, record in _of_methods(prediction_record) if _sees_truth(record)}
        baselines = baselines if len(baselines) < len(self.methods) else set()
        fields = next(pair for pair in together(self.field) if shown in pair)
        pairs = zip(prediction.items, prediction.files, strict=True)
        predictions = {i["method"]: file.read() for i, file in pairs if i["method"] not in baselines}
        weights = {name: carried(m, mask) for name, m in predictions.items()}
        tapered = next((weight for weight in weights.values() if weight is not None), 1.0)
        maps = {}
        for name, m in predictions.items():
            how = {"fwhm_arcmin": a.fwhm_arcmin, "lmax": a.lmax, "weight": weights[name]}
            truth, error, beam = in_forms(m, cmb_map, lensed_alm, fields, good, **how)["common"]
            if not m.masks:  # beside a method whose maps carry the mask all do
                truth, error = tapered * truth, tapered * error
            maps[name] = (truth + error)[fields.index(shown)]
        caption = {
            **self.of_dataset(),
            **self.seen_part(mask),
            "field": shown,
            "split": "test",
            "sim": item["sim"],
            "fwhm_arcmin": round(beam, 2),
            "lmax": a.lmax,
        }
        return compare.Shown(truth[fields.index(shown)], maps, caption, good)


class Report(Comparing, compare.Report):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    pictures = (*PICTURES, "skies", "zoom")
    inputs = (*compare.MEASURED, *STEPS, *compare.png(pictures), MASK)

    def page(self, compared: clean_report.Compared, pictures: Mapping[str, list[bytes]]) -> str:
        """The page."""
        synthetic = not self.cfg.sims.external and self.cfg.foregrounds.kind == "synthetic"
        fixed = self.cfg.foregrounds.kind != "none" and not any(self.cfg.foregrounds.vary.values())
        return clean_report.report(compared, pictures, synthetic=synthetic, fixed=fixed)
