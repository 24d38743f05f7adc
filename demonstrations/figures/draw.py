"""Figures for papers, of a finished dataset: give the words with which it was made.

python demonstrations/figures/draw.py observations experiment=tiny
python demonstrations/figures/draw.py variance experiment=tiny noise=scan dataset=scanned
python demonstrations/figures/draw.py beams instrument=litebird
python demonstrations/figures/draw.py components experiment=tiny
python demonstrations/figures/draw.py cleaned experiment=cleaning_demo --methods hilc,cnilc
python demonstrations/figures/draw.py theory experiment=cleaning_demo --methods hilc --draws 50 --cosmology planck2018
python demonstrations/figures/draw.py patches experiment=cleaning_demo method=patch_unet
python demonstrations/figures/draw.py patches --job delens experiment=tiny

Each writes <figure>.png and <figure>.pdf into --out, by default `figures` where you are.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from hydra.errors import HydraException
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import eval_legendre

from cmbml.analysis.captions import INSIDE, foregrounds_text
from cmbml.analysis.cleaning.forms import at_own_beam, carried
from cmbml.analysis.figures import COLOURS, MARKERS, dl_label, draw_line, multipole_axis
from cmbml.analysis.projections import STYLE, draw_images, gnomonic_pixels, mollweide_pixels, new_figure
from cmbml.analysis.spectra import scatter, stack
from cmbml.core import handlers
from cmbml.core.asset import File, Files
from cmbml.core.errors import UserError
from cmbml.script import configure, pipeline
from cmbml.sky import cosmology
from cmbml.sky.fields import field_map
from cmbml.sky.spectra import bin_edges, bin_spectrum, cl_to_dl
from cmbml.train.data import seen
from cmbml.train.images import layout_index

SIGMAS = {1: (15.87, 84.13), 2: (2.28, 97.72)}  # percentiles of 1 and 2 sigma of a Gaussian


class Finished:
    """A finished dataset: its configuration, its files, and what stands over its figures."""

    def __init__(self, job: str, words: Sequence[str], sim: int) -> None:
        self.cfg = configure(job, *words)
        self.pipeline = pipeline(job, *words)
        self.plan = self.pipeline.plan()
        self.sky = {"split": "test", "sim": sim}

    def file(self, asset: str, item: Mapping[str, Any]) -> File:
        """File of an asset of an item; refused when it is not what the words would make."""
        file = self.pipeline.assets.file(asset, item)
        maker = self.pipeline.producer.get(asset)
        for work in self.plan[maker.name] if maker else ():
            if dict(work.item) == dict(item) and work.why:
                raise UserError(
                    f"{file.path} is not what these words make ({work.why}); give those of the command that has made"
                    " the dataset, or run that command."
                )
        return file

    def read(self, asset: str, **item: Any) -> Any:
        """Value of an asset of an item."""
        return self.file(asset, item).read()

    def files(self, asset: str, items: Sequence[Mapping[str, Any]]) -> Files:
        """Values of an asset of several items, read one after another."""
        return Files(tuple(self.file(asset, item) for item in items), tuple(items))

    @property
    def bands(self) -> list[str]:
        """Names of the bands."""
        return [band["band"] for band in self.pipeline.producer["band"].bands()]

    @property
    def good(self) -> np.ndarray:
        """Pixels that the mask leaves, bool (npix,)."""
        if self.cfg.mask.kind == "none":
            return np.ones(12 * self.cfg.sky.nside**2, dtype=bool)
        return self.read("mask")["mask"] > INSIDE

    def caption(self, **more: Any) -> dict[str, Any]:
        """Entries of `captions.describe`."""
        cfg = self.cfg
        known = {"dataset": cfg.dataset, "nside": cfg.sky.nside, "instrument": cfg.instrument.name}
        return {"field": "T", "unit": "uK_CMB", **known, "foregrounds": foregrounds_text(cfg), **more}


def grid(rows: int, columns: int, caption: Mapping[str, Any]) -> tuple[Figure, np.ndarray]:
    """Return a figure of so many pictures of the sphere, and its axes."""
    figure = new_figure(max(2.4 * columns, 4.2), 0.3 + 1.75 * rows, caption)
    return figure, figure.subplots(rows, columns, squeeze=False)


def observations(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw what each band sees, the CMB with its beam, and what lies between: foregrounds and noise."""
    caption = data.caption(**data.sky)
    pixels = mollweide_pixels(data.cfg.sky.nside)
    alms = data.read("lensed_alm", **data.sky)
    figure, axes = grid(len(data.bands), 3, caption)
    for row, band in zip(axes, data.bands, strict=True):
        observed = data.read("band", **data.sky, band=band)
        target = field_map(alms, "T", nside=data.cfg.sky.nside, fwhm_arcmin=observed.fwhm_arcmin)
        draw_images(row[:1], {f"{band} GHz, observed": observed["T"]}, {}, pixels, caption=caption, asinh=True)
        draw_images(row[1:2], {f"CMB at {observed.fwhm_arcmin:.3g} arcmin": target}, {}, pixels, caption=caption)
        draw_images(row[2:], {}, {"observed − CMB": observed["T"] - target}, pixels, caption=caption, asinh=True)
    return figure


def variance(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw the standard deviation of the noise of each band over its mean."""
    if data.cfg.noise.kind not in ("scan", "variance_map"):
        raise UserError(
            f"noise={data.cfg.noise.kind} is the same in all pixels; draw it for noise=scan or variance_map."
        )
    caption = data.caption(unit="1", noise=data.cfg.noise.kind)
    pixels = mollweide_pixels(data.cfg.sky.nside)
    figure, axes = grid(-(-len(data.bands) // 3), 3, caption)
    for axis in axes.flat[len(data.bands) :]:
        axis.remove()
    for axis, band in zip(axes.flat, data.bands, strict=False):
        sigma = np.sqrt(data.read("variance", band=band)["T"].astype(float))
        title = f"{band} GHz, mean {sigma.mean():.3g} µK a pixel"
        draw_images([axis], {}, {title: sigma / sigma.mean() - 1}, pixels, caption=caption)
    return figure


def beams(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw b_l of each band, and its profile B(theta) = sum (2l + 1) / 4 pi b_l P_l(cos theta) over that at 0."""
    stage = data.pipeline.producer["band"]
    ell = np.arange(data.cfg.sky.lmax + 1)
    widest = max(stage.instrument.band(band).fwhm_arcmin for band in data.bands)
    arcmin = np.linspace(0, 1.5 * widest, 200)
    figure = new_figure(7.1, 3.0, data.caption(field=None, foregrounds=None))
    left, right = figure.subplots(1, 2)
    for i, band in enumerate(data.bands):
        b_l = stage.beam({"band": band})
        x = np.cos(np.radians(arcmin / 60))
        profile = sum((2 * n + 1) * b_l[n] * eval_legendre(n, x) for n in ell)
        look = {"color": COLOURS[i % len(COLOURS)], "ls": ("-", "--", ":")[i // len(COLOURS) % 3]}
        left.plot(ell, b_l, **look)
        fwhm_arcmin = stage.instrument.band(band).fwhm_arcmin
        right.plot(arcmin, profile / profile[0], label=f"{band} GHz: {fwhm_arcmin:.3g} arcmin", **look)
    right.axhline(0.5, color="0.7", lw=0.7, zorder=0)
    left.set(xlabel=r"multipole $\ell$", ylabel=r"$b_\ell$")
    right.set(xlabel="angle [arcmin]", ylabel=r"$B(\theta) / B(0)$")
    right.legend()
    return figure


def components(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw each foreground alone in each band."""
    if not data.cfg.foregrounds.components or data.cfg.foregrounds.kind == "none":
        raise UserError("There are no single components; make the dataset with foregrounds.components=true.")
    stage = data.pipeline.producer["component"]
    names = stage.components({})
    of_sky = data.sky if any(data.cfg.foregrounds.vary.values()) else {}
    caption = data.caption()
    pixels = mollweide_pixels(data.cfg.sky.nside)
    figure, axes = grid(len(data.bands), len(names), caption)
    for row, band in zip(axes, data.bands, strict=True):
        for axis, name in zip(row, names, strict=True):
            sky = data.read("component", **of_sky, band=band, component=name)["T"]
            draw_images([axis], {f"{name}, {band} GHz": sky}, {}, pixels, caption=caption, asinh=True)
    return figure


def cleaned(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw the truth, the map of each method and its error at its own beam; the sphere, or with --zoom a patch."""
    nside = data.cfg.sky.nside
    zoom = args.zoom and [float(x) for x in args.zoom.split(",")]
    pixels = gnomonic_pixels(nside, *zoom) if zoom else mollweide_pixels(nside)
    half = zoom[2] / 2 if zoom else None
    cmb = data.read("cmb_map", **data.sky)
    alms = data.read("lensed_alm", **data.sky)
    good = data.good
    caption = data.caption(**data.sky)
    figure = new_figure(7.1, 0.3 + (2.75 if zoom else 1.75) * len(args.methods), caption)
    axes = figure.subplots(len(args.methods), 3, squeeze=False)
    for row, name in zip(axes, args.methods, strict=True):
        found = data.read("prediction", **data.sky, method=name)
        weight = carried(found, data.read("mask") if found.masked else None)
        lmax = data.cfg.analysis.lmax
        truth, error, fwhm_arcmin = at_own_beam(found, cmb, alms, ("T",), good, lmax=lmax, weight=weight)
        skies = {f"truth at {fwhm_arcmin:.3g} arcmin": truth[0], name: truth[0] + error[0]}
        draw_images(row, skies, {f"{name} − truth": error[0]}, pixels, good, caption=caption, half=half)
    return figure


def theory(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw D_l of the truth and of each method over the 1 and 2 sigma band of theory over the cosmologies."""
    lmax = data.cfg.analysis.lmax
    drawn = [{"split": split, "sim": sim} for split, n in data.cfg.splits.items() for sim in range(n)]
    curves = [cls["lensed_tt"][: lmax + 1] for cls in data.files("cls", drawn)]
    drawn_from = (f"cosmology={args.cosmology}",) if args.cosmology else ()
    stage = pipeline(args.job, *args.words, *drawn_from).producer["cls"]
    for sim in range(args.draws):
        parameters = stage.parameters({"split": "drawn", "sim": sim})
        curves.append(cosmology.spectra(parameters, lmax)["lensed_tt"])
    ell = np.arange(2, lmax + 1)
    dl = np.array([cl_to_dl(cl)[2:] for cl in curves])
    middle = np.median(curves, axis=0)
    edges = bin_edges(2, lmax + 1, data.cfg.analysis.delta_l)
    area = "all of it" if data.cfg.mask.kind == "none" else "what the mask leaves"
    caption = data.caption(split="test", area=area, cosmologies=len({cl.tobytes() for cl in curves}))
    figure = new_figure(5.2, 4.6, caption)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for sigma, percentiles in reversed(SIGMAS.items()):
        low, high = np.percentile(dl, percentiles, axis=0)
        look = {"color": {1: "0.55", 2: "0.8"}[sigma], "lw": 0, "label": rf"theory, {sigma} $\sigma$"}
        top.fill_between(ell, low, high, **look)
        bottom.fill_between(ell, low / cl_to_dl(middle)[2:], high / cl_to_dl(middle)[2:], **look)
    top.plot(ell, cl_to_dl(middle)[2:], color="0.3", lw=0.8, label="theory, median")
    bottom.axhline(1, color="0.3", lw=0.8)
    for i, name in enumerate(args.methods):
        of_method = [{**item, "method": name} for item in drawn if item["split"] == "test"]
        spectra = stack([_one_field(of_sky) for of_sky in data.files("spectra", of_method)], edges)
        _over_theory(top, bottom, spectra, middle, edges, name, i)
    top.set(yscale="log", ylabel=dl_label(caption))
    top.legend(ncols=2)
    bottom.set(ylabel="over the median")
    multipole_axis(bottom)
    return figure


def _one_field(spectra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Spectra D_l of T of a file: where the mask leaves the sky, or of all of it."""
    area = "T_mask" if any(key.startswith("T_mask/") for key in spectra) else "T_full"
    return {key.partition("/")[2]: cl_to_dl(cl) for key, cl in spectra.items() if key.startswith(f"{area}/")}


def _over_theory(
    top: Axes, bottom: Axes, spectra: Mapping[str, np.ndarray], middle: np.ndarray, edges: np.ndarray, name: str, i: int
) -> None:
    """Draw a method, and with the first the truth; below over the median theory in the same bins."""
    expected = bin_spectrum(cl_to_dl(middle), edges)
    shown = {"truth": {"color": "black", "marker": "_", "ls": ""}} if i == 0 else {}
    shown |= {"prediction": {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "ls": ""}}
    for kind, look in shown.items():
        label = "truth" if kind == "truth" else name
        draw_line(top, spectra["ell"], *scatter(spectra[kind]), label, **look)
        draw_line(bottom, spectra["ell"], *scatter(spectra[kind] / expected), label, **look)


def patches(data: Finished, args: argparse.Namespace) -> Figure:
    """Draw a patch: the maps as they are, as the network sees them, and what it is asked for."""
    stage = next(stage for stage in data.pipeline.stages if stage.name == "train")
    names, inputs, target = _of_delensing(data, stage) if args.job == "delens" else _of_cleaning(data, stage)
    index = layout_index(stage.trainer_settings())
    pixels = index[args.patch % len(index)]
    model = data.read("model")
    units = [np.asarray(model[key])[:, None] for key in ("input_rms", "input_median") if key in model]
    rows = {"as it is": inputs, "as the network sees it": seen(inputs, *units)}
    width = len(names) + 1
    caption = {"dataset": data.cfg.dataset, "method": data.cfg.method.name, "patch": args.patch % len(index)}
    figure = new_figure(max(1.35 * width, 4.2), 3.6, caption | {"pixels a side": pixels.shape[-1]})
    axes = figure.subplots(2, width, squeeze=False)
    for row, (what, maps) in zip(axes, rows.items(), strict=True):
        for axis, name, m in zip(row, names, maps, strict=False):
            _show(axis, m[pixels], name)
        row[0].set_ylabel(what)
    halo = stage.cfg.patches.halo
    _show(axes[0, -1], target[0][pixels[halo : len(pixels) - halo, halo : pixels.shape[-1] - halo]], "target")
    axes[1, -1].remove()
    return figure


def _of_cleaning(data: Finished, stage: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the maps that a network sees, these maps of a training sky, and its target."""
    sky = {"split": "train", "sim": 0}
    bands = data.files("band", [{**sky, "band": band} for band in data.bands])
    return (
        [name.partition(" of ")[2] + " GHz" for name in stage.named()],
        stage.sky(bands, 0),
        data.read("target", **sky).data,
    )


def _of_delensing(data: Finished, stage: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    sky = {"split": "train", "sim": 0}
    files = {f"train_{asset}": data.files(asset, [sky]) for asset in ("obs", "features", "label")}
    return [*data.cfg.delens.inputs], *stage.pairs("train", files)[0]


def _show(axis: Axes, image: np.ndarray, title: str) -> None:
    """Draw one channel of a patch on a scale of its own."""
    limit = float(np.percentile(np.abs(image - np.median(image)), 99.5)) or 1.0
    middle = float(np.median(image))
    axis.imshow(image, origin="lower", cmap="RdBu_r", vmin=middle - limit, vmax=middle + limit)
    axis.set(xticks=[], yticks=[], title=title)
    axis.set_xlabel(f"{middle:.2g} ± {limit:.2g}", fontsize=7)


FIGURES: dict[str, Callable[[Finished, argparse.Namespace], Figure]] = {
    f.__name__: f for f in (observations, variance, beams, components, cleaned, theory, patches)
}


def main(arguments: Sequence[str]) -> None:
    """Draw one figure, and write it as PNG and PDF."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("words", nargs="*", help="of the command that has made the dataset")
    parser.add_argument("--job", choices=("clean", "delens"), default="clean")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["cnilc"], help="finished methods")
    parser.add_argument("--sim", type=int, default=0, help="the test sky that is drawn")
    parser.add_argument("--zoom", help="longitude,latitude,side of a patch, degrees")
    parser.add_argument("--draws", type=int, default=0, help="cosmologies beside those of the dataset's own skies")
    parser.add_argument("--cosmology", help="option that those are drawn from; by default that of the dataset")
    parser.add_argument("--patch", type=int, default=0, help="number of the patch")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    args = parser.parse_intermixed_args(arguments)
    try:
        with matplotlib.rc_context(STYLE):
            figure = FIGURES[args.figure](Finished(args.job, args.words, args.sim), args)
        for suffix in (".png", ".pdf"):
            handlers.write(args.out / f"{args.figure}{suffix}", figure)
    except (UserError, HydraException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
