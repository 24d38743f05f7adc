"""What breaks r: a chain that is tuned on its own training skies, judged on skies in which one thing is wrong.

    python main_delens.py experiment=bands_to_r
    python benchmarks/what_breaks_r.py [--skies 4] [--changes gain knee ...] [--workers 2] [overrides]

Reads the finished run that the overrides name (of ``experiment=bands_to_r`` unless another is among them), and writes
nothing there. The bands of its first test skies are made anew, with the same CMB and the same draw of noise, and one
thing that the analysis is not told of (``CHANGES``). They are combined, with weights fitted to what is seen and
the beams of the table, and calibrated before where the row says so; delensed, and measured with the filters, the mean
field and the known bandpowers (R + N, F) of the run. The first sky, made anew as it is, must give the run's own r. What
lies in ``--folder`` is not made again.

Written to benchmarks/results/what_breaks_r.csv, a row for each change, method, treatment of foregrounds and sky: A_res
and transfer of `Measure` (l of `analysis.band`, in the mask); ``kept``, the part of the primordial B that is in the
delensed map (cross over auto spectrum, l of `analysis.r.band`); r-hat, the r of the sky, their difference, r-hat less
that of the same sky as it is, sigma(r), A_fg, and the r that the foregrounds look like. Means are printed:
``bias`` with the error that the run's own table has, ``change`` with the error of the mean of the paired differences.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from cmbml.analysis.delensing.r import FREE, IGNORED, MeasureR
from cmbml.analysis.spectra import of_method
from cmbml.core.asset import Assets, Every, File, Files, Item, Source
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bandmaps import ObserveBands
from cmbml.sims.bands import observed
from cmbml.sims.foregrounds import Foregrounds, Templates
from cmbml.start import build
from record import composed, parser, save

EXPERIMENT = "experiment=bands_to_r"
AS_IT_IS = "as it is"
WIDER = 1.02
GAIN = 0.01
GAIN_SEED = 17
CALIBRATED = "sims.combine.reference=145"
SEED = 2  # of the foregrounds; the run has 0 and 1
VARY = "foregrounds.vary={amplitude: 0.2, index: 0.03}"
NUMBERS = ("A_res", "transfer", "kept", "r_bias", "r_change", "r_sigma")
LAST = ("r_spectra", "metrics", "combination")  # what is wanted of a sky


@dataclass(frozen=True)
class Change:
    """What is wrong with the bands: other settings, of foregrounds too, a wider beam of every n-th band, or gains.

    ``told`` are settings of the analysis.
    """

    label: str
    words: tuple[str, ...] = ()
    foregrounds: bool = False
    wider: int = 0
    gain: float = 0.0
    told: tuple[str, ...] = ()


CHANGES = {
    "none": Change(AS_IT_IS),
    "seed": Change(
        "foregrounds of another seed", (f"foregrounds.seed={{train: 1, valid: 1, test: {SEED}}}",), foregrounds=True
    ),
    "vary": Change("amplitudes and indices of foregrounds varied", (VARY,), foregrounds=True),
    "beam": Change("beam 2 % wider", foregrounds=True, wider=1),
    "beams": Change("beam 2 % wider in every other band", foregrounds=True, wider=2),
    "gain": Change("gain of each band wrong by 1 %", gain=GAIN),
    "gains": Change("gain of each band wrong by 0.1 %", gain=GAIN / 10),
    "gain_fitted": Change("gain of each band wrong by 1 %, and calibrated", gain=GAIN, told=(CALIBRATED,)),
    "fitted": Change("nothing, and calibrated", told=(CALIBRATED,)),
    "noise": Change("noise x 1.5", ("noise.factor=1.5",)),
    "knee": Change("noise with the knee", ("noise.knee=true",)),
}


class Found(NamedTuple):
    """What one sky has become: spectra of `Bandpowers`, rows of `Measure`, weights and the noise that they make."""

    spectra: dict[str, np.ndarray]
    metrics: list[dict[str, Any]]
    combination: dict[str, np.ndarray]


class Held(list):
    """Values that a stage reads one after another, each with its item."""

    def __init__(self, values: Sequence[Any], items: Sequence[Item]):
        super().__init__(values)
        self.items = items


class Place:
    """Assets of a run, in front of which lie those that were made anew, in folders of their own."""

    def __init__(self, cfg: DictConfig, *folders: Path):
        self.pipeline = build(cfg)
        roots = (*folders, cfg.system.root)
        self.layers = [Assets(cfg.assets.files, {**cfg.assets.constants, "root": str(root)}) for root in roots]

    def items(self, asset: str, item: Item) -> list[Item]:
        """Those of an asset that an item shares its fields with."""
        return [known for known in self.pipeline.producer[asset].items() if fits(known, item)]

    def file(self, asset: str, item: Item) -> File:
        """The first that there is, in the order of the folders."""
        files = [layer.file(asset, self.items(asset, item)[0]) for layer in self.layers]
        return next((file for file in files if file.exists()), files[-1])

    def value(self, source: Source, item: Item) -> Any:
        """What a stage reads."""
        if not isinstance(source, Every):
            return self.file(source.asset, item).read()
        items = self.items(source.asset, {**item, **source.where})
        return Files(tuple(self.file(source.asset, i) for i in items), tuple(items))

    def make(self, stage: Stage, item: Item) -> None:
        """Run one item, and keep what it makes before what the run has: of a sky, or once for all skies."""
        files = [self.anew(name, item) for name in stage.outputs]
        if "sim" not in item and all(file.exists() for file in files):
            return
        made = stage.run(item, **{source.name: self.value(source, item) for source in stage.sources})
        for file, value in zip(files, made if isinstance(made, tuple) else (made,), strict=True):
            file.write(value)

    def anew(self, asset: str, item: Item) -> File:
        """Where an asset lies that is made anew: in the first folder what is of one sky, in the second the others'."""
        return self.layers[0 if "sim" in item else 1].file(asset, self.items(asset, item)[0])

    def chain(self, item: Item, wanted: Sequence[str]) -> list[Stage]:
        """The stages that lead from the bands of a sky to what is wanted of it."""
        needed = set(wanted)
        stages = []
        for stage in reversed(self.pipeline.stages):
            if stage.name == ObserveBands.name:
                break
            if needed & set(stage.outputs) and item in stage.items():
                stages.append(stage)
                needed |= {source.asset for source in stage.sources}
        return stages[::-1]


def fits(item: Item, other: Item) -> bool:
    """Whether two items agree in the fields that both have."""
    return all(other.get(key, value) == value for key, value in item.items())


def settings(cfg: DictConfig, change: Change) -> list[str]:
    """Words of what is wrong."""
    if not change.wider:
        return list(change.words)
    bands = observed(cfg.instrument, cfg.sky.nside).bands[:: change.wider]
    return [f"instrument.fwhm_arcmin={{{', '.join(f'{b.name}: {WIDER * b.fwhm_arcmin:.6g}' for b in bands)}}}"]


def gains(names: Sequence[str], change: Change) -> dict[str, float]:
    """What the maps of the bands are multiplied by: drawn once, for all skies."""
    drawn = np.random.default_rng(GAIN_SEED).standard_normal(len(names))
    return {name: 1 + change.gain * float(z) for name, z in zip(names, drawn, strict=True)}


def foregrounds_anew(place: Place, other: DictConfig, sky: Item) -> None:
    """Foregrounds of other settings: of this sky, or once for all skies that share them."""
    templates = Templates(other)
    of_run = place.pipeline.producer["foreground_template"]
    for item in templates.items():
        if item.get("split") == "test" and templates.settings_of(item) != of_run.settings_of(item):
            place.make(templates, item)
    for item in Foregrounds(other).items():
        if fits(item, sky):
            place.make(Foregrounds(other), item)


def made_anew(words: Sequence[str], folder: Path, sim: int, name: str) -> Found:
    """One test sky with a change, from its CMB to the spectra of r; what a folder has already is not made again."""
    start = time.process_time()
    change = CHANGES[name]
    cfg = composed("delens", [*words, *change.told])
    sky = {"split": "test", "sim": sim}
    own, shared = folder / name / f"sky{sim}", folder / name / "skies"
    place = Place(cfg, own, shared)
    results = {asset: place.layers[1].file(asset, sky) for asset in LAST}
    missing = [asset for asset, file in results.items() if not file.exists()]
    if not missing:
        return Found(*(file.read() for file in results.values()))
    other = composed("delens", [*words, *settings(cfg, change)])
    if change.foregrounds:
        foregrounds_anew(place, other, sky)
    observe = ObserveBands(other)
    bands = [item["band"] for item in observe.bands()]
    for band in bands:
        place.make(observe, {**sky, "band": band})
    for band, gain in gains(bands, change).items() if change.gain else ():
        of_band = {**sky, "band": band}
        for asset in ("band", "foreground"):
            seen: SkyMap = place.file(asset, of_band).read()
            place.anew(asset, of_band).write(replace(seen, data=gain * seen.data))
    for stage in place.chain(sky, missing):
        place.make(stage, sky)
    for asset in missing:
        results[asset].write(place.anew(asset, sky).read())
    shutil.rmtree(own)
    print(f"{change.label}, sky {sim}: {time.process_time() - start:.0f} CPU seconds", flush=True)
    return Found(*(file.read() for file in results.values()))


def as_it_is(cfg: DictConfig, sim: int) -> Found:
    """A sky of the run itself."""
    place = Place(cfg)
    return Found(*(place.file(asset, {"split": "test", "sim": sim}).read() for asset in LAST))


def kept(cls: Mapping[str, np.ndarray], band: Sequence[int]) -> float:
    """Part of the primordial B that is in the delensed map, chance correlations included; nan where there is none."""
    inside = np.arange(band[0], band[1] + 1)
    cross, power = ((2 * inside + 1) @ cls[name][inside] for name in ("predicted_x_unlensed", "unlensed"))
    return float(cross / power) if power > 0 else np.nan


def rows_of(cfg: DictConfig, change: Change, found: Sequence[Found]) -> list[dict[str, Any]]:
    """A row for each method, treatment of foregrounds and sky, with r as the run itself measures it."""
    place = Place(cfg)
    stage = MeasureR(cfg)
    skies = [{"split": "test", "sim": sim} for sim in range(len(found))]
    given = {}
    for source in stage.sources:
        if source.asset in LAST:
            known = place.value(source, {"split": cfg.splits.known})
            anew = [sky[LAST.index(source.asset)] for sky in found]
            given[source.name] = Held([*known, *anew], [*known.items, *skies])
        else:
            given[source.name] = place.value(source, {})
    measured = stage.run({}, **given)[0]
    rows = []
    for row in measured:
        sky = found[row["sim"]]
        of_sky = next(m for m in sky.metrics if m["method"] == row["method"] and m["form"] == "native")
        (cls,) = of_method([sky.spectra], row["method"])
        rows.append(
            {
                "change": change.label,
                "method": row["method"],
                "fit": row["fit"],
                "sim": row["sim"],
                "A_res": float(of_sky["A_res"]),
                "transfer": float(of_sky["transfer"]),
                "kept": kept(cls, cfg.analysis.r.band),
                **{name: row[name] for name in ("r_hat", "r_own", "r_bias")},
                "r_change": np.nan,
                **{name: row[name] for name in ("r_sigma", "A_fg", "r_fg") if name in row},
            }
        )
    return rows


def demand_the_run(cfg: DictConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    """End where the skies as they are do not give the r that the run has."""
    run = {(row["method"], row["fit"], row["sim"]): row for row in Place(cfg).file("r_csv", {}).read()}
    for row in rows:
        its = run[row["method"], row["fit"], row["sim"]]
        for name in ("r_hat", "r_own", "r_sigma"):
            if not np.isclose(row[name], its[name], rtol=1e-9, atol=0):
                raise SystemExit(f"{name} of sky {row['sim']} is {row[name]} here and {its[name]} in the run's r.csv.")


def beside(rows: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with r-hat less that of the same sky as it is."""
    keys = ("method", "fit", "sim")
    as_it_is = {tuple(row[key] for key in keys): row["r_hat"] for row in first}
    return [{**row, "r_change": row["r_hat"] - as_it_is[tuple(row[key] for key in keys)]} for row in rows]


def with_error(values: np.ndarray, skies: float, unit: float = 1e-3) -> str:
    """Mean and its error, for a scatter that is that of so many skies; one sky has none."""
    mean = f"{np.mean(values) / unit:.2f}"
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(skies) / unit:.2f}" if len(values) > 1 else mean


def table(rows: Sequence[Mapping[str, Any]], known: int) -> str:
    """Means of every change, a line each for the method and for no delensing; r in units of .001."""
    columns = ["A_res", "transfer", "kept"]
    columns += [f"{name}, {way}" for way in (IGNORED, FREE) for name in ("bias", "change", "sigma(r)")]
    lines = [f"| | | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for label in dict.fromkeys(row["change"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = []
            for way in (IGNORED, FREE):
                chosen = [row for row in rows if (row["change"], row["method"], row["fit"]) == (label, method, way)]
                of = {name: np.array([float(row[name]) for row in chosen]) for name in chosen[0] if name in NUMBERS}
                n = len(chosen)
                if not cells:
                    cells = [f"{of[name].mean():.3f}" for name in ("A_res", "transfer", "kept")]
                shared = 1 / (1 / n + 1 / known)
                cells += [with_error(of["r_bias"], shared), with_error(of["r_change"], n)]
                cells += [f"{of['r_sigma'].mean() / 1e-3:.2f}"]
            lines.append(f"| {label} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the skies anew, one after another, print the table and write the CSV."""
    arguments = parser(__doc__)
    arguments.add_argument("--skies", type=int, default=4, help="test skies, from the first on")
    arguments.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES), help="rows beside the first")
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--folder", type=Path, help="where what is made anew is kept, and is not made again")
    arguments.add_argument("overrides", nargs="*")
    args, more = arguments.parse_known_args()
    words = [*args.overrides, *more]
    if not any(word.startswith("experiment=") for word in words):
        words.insert(0, EXPERIMENT)
    cfg = composed("delens", words)
    if not cfg.splits.known or not Place(cfg).file("r_csv", {}).exists():
        raise SystemExit(f"There is no finished run with analysis.r.known; python main_delens.py {' '.join(words)}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    names = list(dict.fromkeys(["none", *args.changes]))
    for band, gain in gains([item["band"] for item in ObserveBands(cfg).bands()], CHANGES["gain"]).items():
        print(f"gain of {band}: {gain:.4f}")
    found: dict[str, list[Found]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        for sim in range(args.skies):
            anew = names[1 if sim else 0 :]
            with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
                made = dict(zip(anew, pool.map(partial(made_anew, words, folder, sim), anew), strict=True))
            for name in names:
                found[name].append(made[name] if name in made else as_it_is(cfg, sim))
            rows = [row for name in names for row in rows_of(cfg, CHANGES[name], found[name])]
            as_they_are = [row for row in rows if row["change"] == AS_IT_IS]
            demand_the_run(cfg, as_they_are)
            rows = beside(rows, as_they_are)
            print(f"{sim + 1} skies, r in units of .001\n{table(rows, cfg.splits[cfg.splits.known])}", flush=True)
            save("what_breaks_r", rows, args.out)


if __name__ == "__main__":
    main()
