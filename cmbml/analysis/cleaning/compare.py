"""The stages of `main_analysis_compare.py job=clean`: they read the finished results of several methods of cleaning.

A method whose prediction was made with what no observer has (the truth of the test sky, or its parts) is a baseline: it
stands in the tables and among the spectra, and is told from those that see the observations alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from cmbml.analysis import compare_figures, comparison, tables
from cmbml.analysis.captions import inside
from cmbml.analysis.cleaning import report as clean_report
from cmbml.analysis.cleaning.figures import cleaned_spectra
from cmbml.analysis.cleaning.measure import BY, Captioned, Measure, seen_part
from cmbml.analysis.cleaning.metrics import FORMS, in_forms, together
from cmbml.analysis.comparison import Comparing
from cmbml.analysis.spectra import of_method, stack
from cmbml.config.resolvers import shipped
from cmbml.config.truth import has_truth, masked
from cmbml.core.asset import Every, Files, Item, Optional, Record
from cmbml.core.errors import UserError
from cmbml.core.provenance import changes, flatten
from cmbml.maps.skymap import SkyMap
from cmbml.sky.instrument import read_instrument
from cmbml.sky.spectra import bin_edges

PIXELS = ("RMSE", "MAE", "NRMSE", "PSNR", "corr")
PAIRED = (*PIXELS, "transfer", "rho")
TRUTH = {"lensed_alm", "unlensed_alm", "cmb_map", "foreground", "noise"}  # what no observer has


class Cleaning(Comparing, Captioned):
    """A stage that compares methods of cleaning."""

    main = "main_clean.py"
    measure = Measure
    skies = ("cmb_map", "lensed_alm", "mask")
    uses = (
        *(key for key in Captioned.caption_keys if key != "method.name"), *Comparing.compared, "mask.kind",
        *(key for key in Measure.uses if key.startswith("analysis.")),
    )  # fmt: skip
    # The words of main_clean.py may be repeated here: how a method came to its results changes nothing.
    reads = (
        "method.name", "splits", "analysis", "cosmology", "clean", "foregrounds", "instrument", "mask", "network",
        "noise", "patches", "rotation", "sky", "train",
    )  # fmt: skip
    steps = tuple(Record(asset, optional=True) for asset in ("model", "prediction", "obs"))
    mask = Optional("mask", when=masked)

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

    def of_dataset(self, mask: SkyMap | None) -> dict[str, Any]:
        """Entries of `cmbml.analysis.captions.describe` that all methods share."""
        return {name: value for name, value in self.caption(**seen_part(mask)).items() if name != "method"}

    def found(self, asset: str) -> Iterable[Item]:
        """Also the observations, which belong to no method, of all bands that the instrument might have."""
        if asset == "obs":
            bands = [band.name for band in read_instrument(shipped(self.cfg.instrument.table)).bands]
            sims = range(self.cfg.splits.test)
            return [{"split": "test", "sim": sim, "band": band} for sim in sims for band in bands]
        return super().found(asset)

    def compared(
        self,
        metrics: Files,
        metrics_record: Files,
        model_record: Files,
        prediction_record: Files,
        obs_record: Files,
        mask: SkyMap | None,
    ) -> clean_report.Compared:
        """All that the tables hold.

        Raises
        ------
        UserError
            When the results are not those of the same skies and observations, and of the same settings.
        """
        results, reference = self.results(metrics, metrics_record), self.cfg.compare.reference
        models, predictions, obs = map(_of_methods, (model_record, prediction_record, obs_record))
        self._same_dataset([record for _, record in obs])
        bands: dict[int, list[str]] = {}
        for _, record in obs:
            bands.setdefault(record["item"]["sim"], []).append(record["fingerprint"])
        own = {name: [record for method, record in predictions if method == name] for name in self.methods}
        comparison.same_observations(own, bands, self.again)
        rows = {name: result.rows for name, result in results.items()}
        self._same_area(rows)
        order = {name: i for i, name in enumerate(self.methods)}
        steps = sorted(models + predictions, key=lambda pair: order[pair[0]])
        made = {
            name: comparison.origin(records[0])["commit"] if records else "unknown" for name, records in own.items()
        }
        measured = {name: comparison.origin(result.records[0]) for name, result in results.items()}
        return clean_report.Compared(
            caption={**self.of_dataset(mask), "split": "test", "sims": self.cfg.splits.test},
            reference=reference,
            headline=self.headline,
            beam=f"{self.cfg.analysis.fwhm_arcmin:.4g} arcmin, to l = {self.cfg.analysis.lmax}",
            baselines=[name for name in self.methods if any(map(_sees_truth, own[name]))],
            summary=tables.summarise([row for name in self.methods for row in rows[name]], by=BY),
            paired=self._differences(rows, reference),
            costs=comparison.costs(steps),
            origins=[
                {"method": name, "made by commit": made[name], "measured by commit": known["commit"],
                 "packages": known["packages"]}
                for name, known in measured.items()
            ],
        )  # fmt: skip

    def _same_area(self, rows: Mapping[str, list]) -> None:
        """Refuse methods without numbers for the area that counts."""
        lacking = [name for name, own in rows.items() if not any(self.headline.items() <= row.items() for row in own)]
        if lacking:
            raise UserError(
                f"The results of {', '.join(lacking)} are of the full sky, and this command has a mask"
                f" (mask.kind={self.cfg.mask.kind}); repeat {self.again.format(method=lacking[0])}, or say mask=none."
            )

    def _same_dataset(self, obs: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a command whose words are not those with which the observations were made."""
        mine = flatten(OmegaConf.to_container(self.cfg, resolve=True))
        for record in obs:
            theirs = {key: value for key, value in record["settings"].items() if key in mine}
            different = changes(theirs, {key: mine[key] for key in theirs})
            if different:
                raise UserError(
                    f"The dataset {self.cfg.dataset} was made with other settings than this command has"
                    f" ({', '.join(different)}); give it the words with which the dataset was made."
                )

    def _differences(self, rows: Mapping[str, list], reference: str) -> list[dict]:
        """Paired differences to the reference for each field, form and area: the headline's first."""
        fields = list(dict.fromkeys(row["field"] for row in rows[reference]))
        areas = list(dict.fromkeys((self.headline["area"], "full")))
        notes, lines = dict.fromkeys(rows, ""), []
        for area, form, field in ((area, form, field) for area in areas for form in FORMS for field in fields):
            where = {"field": field, "form": form, "area": area}
            metrics = PAIRED if form == "common" else PIXELS
            rng = self.rng("compare", self.cfg.dataset, *where.values())
            keys = {"metrics": metrics, "where": where, "rng": rng, "notes": notes}
            lines += [
                {"method": line["method"], **where, **line} for line in comparison.paired(rows, reference, **keys)
            ]
        return lines


def _of_methods(files: Files) -> list[tuple[str, dict]]:
    """Pairs (name of the method, sidecar); a file of the dataset belongs to none."""
    return [(item.get("method", ""), record) for item, record in zip(files.items, files, strict=True)]


def _sees_truth(record: Mapping[str, Any]) -> bool:
    """Whether what a sidecar is about was made with what no observer has."""
    return bool(TRUTH & {label.partition("[")[0] for label in record["inputs"]})


class Compare(Cleaning):
    """Tables and figures of all methods."""

    name = "compare"
    inputs = (
        Every("metrics", split="test"),
        Record("metrics", split="test"),
        Every("spectra", split="test"),
        *Cleaning.steps,
        Cleaning.mask,
    )
    outputs = (
        "compare_csv", "compare_json", "compare_md", "compare_tex", "paired_csv",
        *(f"compare_{name}_{kind}" for name in ("spectra", "boxes") for kind in ("png", "pdf")),
    )  # fmt: skip
    uses = (*Cleaning.uses, "analysis.delta_l")

    def run(
        self, item: Item, *, metrics: Files, spectra: Files, mask: SkyMap | None = None, **records: Files
    ) -> tuple[Any, ...]:
        """CSV rows, JSON, Markdown, LaTeX, CSV rows of the paired differences; two figures, each as PNG and PDF."""
        compared = self.compared(metrics, mask=mask, **records)
        caption, form = compared.caption, compared.words(*self.headline.values())
        pairs = comparison.paired_rows(compared.paired, compared.reference)
        data = comparison.as_json(caption, compared.marked, pairs, compared.costs, compared.origins)
        written = [
            "\n".join(write(lines, caption={**caption, **said}) for said, lines in compared.blocks())
            for write in (tables.to_markdown, tables.to_latex)
        ]
        drawn = self._spectra(spectra, compared)
        values = clean_report.boxes(compared, [row for sky in metrics for row in sky])
        boxes = compare_figures.box_figure(values, caption={**caption, **form}, order=self.methods)
        return tables.to_rows(compared.marked), data, *written, pairs, drawn, drawn, boxes, boxes

    def _spectra(self, cls: Files, compared: clean_report.Compared) -> Figure:
        a, area = self.cfg.analysis, self.headline["area"]
        edges, stacked = bin_edges(2, a.lmax + 1, a.delta_l), {}
        for name in self.methods:
            skies = [file.read() for file, i in zip(cls.files, cls.items, strict=True) if i["method"] == name]
            for field in dict.fromkeys(key.partition("_")[0] for key in skies[0]):
                own = stack(of_method(skies, f"{field}_{area}"), edges)
                stacked.setdefault(field, {})[name] = own
        caption = {
            **compared.caption,
            "spectra": "beam-deconvolved" + (", of the masked maps" if area == "mask" else ""),
        }
        return cleaned_spectra(stacked, caption=caption, baselines=compared.baselines)


class Panels(Cleaning):
    """Maps of the methods for the test sky `compare.sim`, at the common beam: the whole sphere and a zoomed patch."""

    name = "panels"
    inputs = (Every("prediction"), Record("prediction", optional=True), "cmb_map", "lensed_alm", Cleaning.mask)
    outputs = ("compare_skies_png", "compare_skies_pdf", "compare_zoom_png", "compare_zoom_pdf")
    uses = (*Cleaning.uses, "compare.sim", "analysis.zoom")

    def items(self) -> Iterable[Item]:
        """One test sky, and each field of it."""
        return [{"split": "test", "sim": self.cfg.compare.sim, "shown": x} for x in self.field]

    def found(self, asset: str) -> Iterable[Item]:
        """Results of every method for that sky."""
        return [{"method": name, "split": "test", "sim": self.cfg.compare.sim} for name in self.methods]

    def run(
        self,
        item: Item,
        *,
        prediction: Files,
        prediction_record: Files,
        cmb_map: SkyMap,
        lensed_alm: dict[str, np.ndarray],
        mask: SkyMap | None = None,
    ) -> tuple[Figure, Figure, Figure, Figure]:
        """Two figures, each as PNG and PDF."""
        a, shown = self.cfg.analysis, item["shown"]
        good = np.ones(cmb_map.data.shape[-1], dtype=bool) if mask is None else inside(mask)
        baselines = {
            i["method"]
            for i, record in zip(prediction_record.items, prediction_record, strict=True)
            if _sees_truth(record)
        }
        baselines = baselines if len(baselines) < len(self.methods) else set()
        fields = next(pair for pair in together(self.field) if shown in pair)
        maps = {}
        for i, file in zip(prediction.items, prediction.files, strict=True):
            if i["method"] not in baselines:
                keys = {"fwhm_arcmin": a.fwhm_arcmin, "lmax": a.lmax}
                truth, error, beam = in_forms(file.read(), cmb_map, lensed_alm, fields, good, **keys)["common"]
                maps[i["method"]] = (truth + error)[fields.index(shown)]
        caption = {**self.of_dataset(mask), "field": shown, "split": "test", "sim": item["sim"],
                   "fwhm_arcmin": round(beam, 2), "lmax": a.lmax}  # fmt: skip
        keys = {"caption": caption, "mask": good}
        skies = compare_figures.compared_skies(truth[fields.index(shown)], maps, **keys)
        patches = compare_figures.compared_patches(truth[fields.index(shown)], maps, zoom=tuple(a.zoom), **keys)
        return skies, skies, patches, patches


class Report(Cleaning):
    """One HTML page with the tables, the figures, and what they do and do not say."""

    name = "report"
    outputs = ("report",)
    pictures = tuple(f"compare_{name}_png" for name in ("spectra", "boxes", "skies", "zoom"))
    inputs = (
        Every("metrics", split="test"),
        Record("metrics", split="test"),
        *Cleaning.steps,
        *map(Every, pictures),
        Cleaning.mask,
    )

    def run(self, item: Item, *, metrics: Files, mask: SkyMap | None = None, **more: Files) -> str:
        """The page."""
        pictures = {name.split("_")[1]: list(more.pop(name)) for name in self.pictures}
        compared = self.compared(metrics, mask=mask, **more)
        synthetic = not self.cfg.sims.external and self.cfg.foregrounds.kind == "synthetic"
        fixed = self.cfg.foregrounds.kind != "none" and not any(self.cfg.foregrounds.vary.values())
        return clean_report.report(compared, pictures, synthetic=synthetic, fixed=fixed)
