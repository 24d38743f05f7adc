"""The checks of a configuration that types cannot express."""

import numbers
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from cmbml.config.combined import check_combined, check_seeds
from cmbml.config.limits import Limits
from cmbml.config.truth import known, variants
from cmbml.core.errors import demand, demand_value

FIELDS = ("T", "E", "B", "Q", "U")
FEATURES = ("E_wf", "B_hp", "kappa_qe")
LINEAR = "kappa_linear"  # another that a network may be shown
TARGETS = ("kappa", "lensing", "unlensed")
OF_KAPPA = ("kappa", "correction")  # targets of a network that have no field
CLEANED = ("T", "E", "B", "TQU")
ROTATIONS = ("permutation", "harmonic", "none")
MASKS = ("none", "band", "file")
FOREGROUNDS = ("none", "synthetic", "pysm", "residual")
DIFFERENCES = ("lensing", "noise", "cosmology")  # of a variant
REFERENCE = "the sky itself"  # what the table of the variants calls the sky that they differ from
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _+.,=@()\[\]-]*[A-Za-z0-9_+=@()\[\]-])?")
RESERVED = ("logs", "rotations", "assets", "simulations", "simulation_working", "comparison")
NOISES = ("none", "white", "scan", "variance_map")


def check(cfg: DictConfig) -> None:
    """Check the groups that a configuration has, as far as no file has to be opened.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    for group, checked in _CHECKS:
        if group in cfg:
            checked(cfg)


def label(target: str, field: str) -> str:
    """Name of the map that a network is asked for."""
    return target if target in OF_KAPPA else f"{target}_{field}"


def _one_of(key: str, value: object, options: Sequence[str]) -> None:
    demand(value in options, f"{key}={value} is not known; choose one of {', '.join(options)}.")


def _no_repeats(key: str, names: Sequence[str]) -> None:
    demand(len(set(names)) == len(names), f"{key}=[{','.join(names)}] names something twice; once is enough.")


def _check_classes(key: str, value: object) -> None:
    good = isinstance(value, list | ListConfig) and all(isinstance(path, str) and "." in path for path in value)
    demand(good, f"{key}={value} must be a list of classes of stages, like [cmbml.sims.cmb.Cmb].")


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def check_coordinates(key: str, given: object) -> None:
    """Refuse coordinates that files without a word for them, or with one that is not known, cannot be said to have.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    said = f"{key}={given} must be null or G; rotate the maps to Galactic coordinates if they are in others."
    demand(given in (None, "G"), said)


def check_name(key: str, name: object) -> None:
    """Refuse what cannot be the name of a folder of its own, in a figure, in a table and in the header of a file.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    shown = f"{key}={name!a}" if isinstance(name, str) and not name.isprintable() else f"{key}={name}"
    demand(name is not None and name != "", f"{key} is empty; give it a name.")
    demand(
        isinstance(name, str) and len(name) <= 100 and NAME.fullmatch(name) is not None,
        f"{shown} must be a name: up to 100 letters a to z, digits, spaces and any of _-+.,=@()[], of which the"
        " first is a letter or digit and the last no point, comma or space.",
    )
    demand(str(name).lower() not in RESERVED, f"{shown} is the name of a folder of cmbml's own; choose another.")


def check_patches(nside: int, patch: int, halo: int) -> None:
    """Refuse patches that do not fit the base faces of the map; for the methods that cut some.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    fits = _power_of_two(patch) and patch <= nside
    demand(fits, f"patches.patch={patch} must be a power of two that divides nside={nside}.")
    demand(halo <= nside, f"patches.halo={halo} must not be wider than nside={nside}.")


def _check_stages(cfg: DictConfig) -> None:
    for key in ("sims.stages", "method.stages", "analysis.stages", "compare.stages", "pipeline"):
        value = OmegaConf.select(cfg, key)
        if value is not None:
            _check_classes(key, value)


def _check_system(cfg: DictConfig) -> None:
    check_name("dataset", cfg.dataset)
    check_name("instrument.name", cfg.instrument.name)
    cluster = cfg.system.cluster
    _one_of("system.cluster.kind", cluster.kind, ("none", "dask", "slurm"))
    address = cluster.address
    demand(address is None or isinstance(address, str), f"system.cluster.address={address} must be null or a text.")
    demand(OmegaConf.is_dict(cluster.job), f"system.cluster.job={cluster.job} must be a mapping.")
    devices = cfg.system.devices
    good = devices == "auto" or (isinstance(devices, int) and 0 < devices <= 1024)
    demand(good, f"system.devices={devices} must be auto or a positive number.")
    _one_of("system.device", cfg.system.device, ("auto", "cpu", "cuda"))


def _check_sky(cfg: DictConfig) -> None:
    nside = cfg.sky.nside
    demand(_power_of_two(nside), f"nside={nside} must be a power of two up to 8192.")
    demand(
        2 <= cfg.sky.lmax <= 3 * nside - 1,
        f"sky.lmax={cfg.sky.lmax} must lie between 2 and 3 nside - 1 = {3 * nside - 1}.",
    )
    for name in cfg.sky.fields:
        _one_of("sky.fields", name, FIELDS)
    _no_repeats("sky.fields", cfg.sky.fields)


def _check_mask(cfg: DictConfig) -> None:
    mask = cfg.mask
    _one_of("mask.kind", mask.kind, (*MASKS, "galactic") if "foregrounds" in cfg else MASKS)
    demand(0 < mask.f_sky < 1, f"mask.f_sky={mask.f_sky} must lie between 0 and 1.")
    check_coordinates("mask.coordinates", mask.coordinates)
    _one_of("mask.apodise_kind", mask.apodise_kind, ("C1", "C2"))
    demand(0 < mask.b_deg < 90, f"mask.b_deg={mask.b_deg} must lie between 0 and 90 degrees.")
    demand(mask.apodise_deg < 90, f"mask.apodise_deg={mask.apodise_deg} must lie below 90 degrees.")
    if mask.kind == "file":
        demand(mask.file is not None, "mask=file needs a file; give mask.file=/path/to/mask.fits.")
        demand(
            Path(mask.file).expanduser().is_file(),
            f"mask.file={mask.file} is missing; give a HEALPix FITS file (mask=planck wants what"
            " `python get_data/fetch.py assets --only planck_nilc` brings).",
        )


def _check_method(cfg: DictConfig) -> None:
    method = cfg.method
    for key in ("name", "target", "stages"):
        demand(key in method, f"method.{key} is missing; the yaml file of a method gives its name, target and stages.")
    check_name("method.name", method.name)
    demand(str(method.name).lower() != "none", "method.name=none is what a comparison calls no method; choose another.")
    demand(isinstance(method.target, str), f"method.target={method.target} must be a text.")


def _check_delens(cfg: DictConfig) -> None:
    d = cfg.delens
    _one_of("field", d.field, FIELDS)
    _one_of("delens.target", d.target, (*OF_KAPPA, *TARGETS[1:]))
    demand(cfg.method.target != "cmb", f"method={cfg.method.name} estimates the CMB; it belongs to main_clean.py.")
    _one_of("method.target", cfg.method.target, TARGETS)
    _one_of("quadratic.estimator", cfg.quadratic.estimator, ("mv", "eb"))
    _one_of("quadratic.template", cfg.quadratic.template, ("gradient", "remap"))
    _one_of("quadratic.wiener", cfg.quadratic.wiener, ("measured", "theory"))
    asked = label(d.target, d.field)
    demand(
        d.label == asked,
        f"delens.label={d.label} is not what the network is asked for, {asked}; leave it out: it follows from"
        " delens.target and field.",
    )
    demand(len(d.inputs) > 0, "delens.inputs is empty; name at least one field.")
    for name in d.inputs:
        options = (*FIELDS, *FEATURES, LINEAR)
        demand(name in options, f"delens.inputs: {name} is not known; choose among {', '.join(options)}.")
    _no_repeats("delens.inputs", d.inputs)
    for name in (*(x for x in d.inputs if x in FIELDS), d.field, *"EB"):
        demand(
            name in cfg.sky.fields,
            f"The field {name} is not among sky.fields=[{','.join(cfg.sky.fields)}]; add it there.",
        )
    demand(0 <= d.lmin_b < cfg.sky.lmax, f"delens.lmin_b={d.lmin_b} must lie between 0 and sky.lmax={cfg.sky.lmax}.")
    demand(d.fiducial.get("r", 0) > 0, "delens.fiducial.r must be larger than 0: sigma(r) takes its tensors from it.")


def _check_rotation(cfg: DictConfig) -> None:
    _one_of("rotation.kind", cfg.rotation.kind, ROTATIONS)
    for key in ("pairs", "predict"):
        for pair in cfg.rotation[key]:
            good = OmegaConf.is_list(pair) and len(pair) == 2 and all(isinstance(x, numbers.Real) for x in pair)
            demand(good, f"rotation.{key}: {pair} is not a pair of angles (theta, phi) in degrees.")
    demand(len(cfg.rotation.predict) > 0, "rotation.predict is empty; [[0,0]] predicts on the sky as it is.")
    trained = [[0, 0], *cfg.rotation.pairs]
    for pair in cfg.rotation.predict:
        demand(pair in trained, f"rotation.predict: {pair} is neither [0,0] nor one of rotation.pairs.")
    average = cfg.rotation.average
    if "delens" not in cfg:
        return
    target = [] if cfg.delens.target in OF_KAPPA else [cfg.delens.field]
    spin2 = [f for f in (*cfg.delens.inputs, *target) if f in ("Q", "U")]
    if not spin2:
        return
    demand(
        not cfg.rotation.symmetries and average == 1,
        f"rotation={cfg.rotation.kind} with symmetries turns patches, which is not right for {spin2[0]}: set"
        " rotation.symmetries=false and rotation.average=1.",
    )
    if cfg.rotation.kind == "none":
        return
    demand(
        cfg.rotation.kind == "harmonic" and not set("QU") & set(target) and {"Q", "U"} <= set(cfg.delens.inputs),
        f"rotation={cfg.rotation.kind} cannot turn {spin2[0]}: Q and U mix when the sphere is rotated."
        " Use rotation=none, or rotation=harmonic with both Q and U among delens.inputs and a scalar field.",
    )


def _check_variants(cfg: DictConfig) -> None:
    listed: Any = OmegaConf.to_container(cfg.sims.variants)
    n = cfg.splits.variants
    wanted = variants(cfg.analysis.response, cfg.method, listed)
    demand(
        n == wanted,
        f"splits.variants={n} is not the number of those that are asked for, {wanted}; leave it out: it follows from"
        " analysis.response and sims.variants.",
    )
    for k, variant in enumerate(listed):
        key = f"sims.variants.{k}"
        good = isinstance(variant, dict) and "name" in variant and {"name"} < set(variant) <= {"name", *DIFFERENCES}
        demand(good, f"{key}={variant} must have a name and one or more of {', '.join(DIFFERENCES)}.")
        check_name(f"{key}.name", variant["name"])
        demand(
            variant["name"] != REFERENCE,
            f"{key}.name={REFERENCE} is what the table calls the sky that variants differ from; choose another.",
        )
        for name in {"lensing", "noise"} & set(variant):
            limits = Limits(0, 100)
            demand_value(limits.hold(variant[name]), f"{key}.{name}", variant[name], str(limits))
        different = variant.get("cosmology", {})
        demand(isinstance(different, dict), f"{key}.cosmology={different} must be a mapping of parameters to numbers.")
    _no_repeats("sims.variants", [variant["name"] for variant in listed])


def _check_analysis(cfg: DictConfig) -> None:
    a = cfg.analysis
    demand(a.lmax <= cfg.sky.lmax, f"analysis.lmax={a.lmax} is beyond sky.lmax={cfg.sky.lmax}.")
    finest = cfg.clean.fwhm_arcmin if "clean" in cfg else cfg.delens.fwhm_arcmin
    demand(a.fwhm_arcmin >= finest, f"analysis.fwhm_arcmin={a.fwhm_arcmin} is finer than the maps' {finest}; widen it.")
    demand(
        len(a.band) == 2 and 2 <= a.band[0] < min(a.band[1], a.lmax),
        f"analysis.band={a.band} must be two multipoles, the first from 2 and below analysis.lmax={a.lmax}.",
    )
    demand(
        len(a.zoom) == 3 and a.zoom[2] > 0, f"analysis.zoom={a.zoom} must be longitude, latitude and side in degrees."
    )
    if "clean" in cfg:
        for band in a.bands:
            good = len(band) == 2 and 2 <= band[0] < band[1]
            demand(good, f"analysis.bands: {band} must be two multipoles, the first from 2 and below the second.")
        return
    _check_r(a.r, a.lmax)
    demand(0 < a.f_sky <= 1, f"analysis.f_sky={a.f_sky} must lie between 0 and 1.")


def _check_r(r: DictConfig, lmax: int) -> None:
    _one_of("analysis.r.b", r.b, ("scalar", "pure"))
    _one_of("analysis.r.known", r.known, ("train", "valid", "test"))
    demand(
        len(r.band) == 2 and 2 <= r.band[0] < min(r.band[1], lmax),
        f"analysis.r.band={r.band} must be two multipoles, the first from 2 and below analysis.lmax={lmax}.",
    )
    demand(
        sorted(r.free) == sorted({"r", *r.free} & {"r", "A_L", "A_fg"}),
        f"analysis.r.free={r.free} is not known; choose [r], and beside it A_fg, the amplitude of the foregrounds, and"
        " A_L, that of the lensing that is left.",
    )


def _check_known(cfg: DictConfig) -> None:
    told = cfg.analysis.r.known
    wanted = known(told, cfg.analysis.stages)
    demand(
        cfg.splits.known == wanted,
        f"splits.known={cfg.splits.known} is not the split that r is measured against, {wanted}; leave it out: it"
        " follows from analysis.r.known.",
    )
    demand(
        wanted != "train" or "trained" not in cfg.method or "compare" in cfg,  # whose methods are others
        f"analysis.r.known=train: a network, as that of method={cfg.method.name}, has learned from the training skies"
        " and leaves less of their lensing than of others'; take analysis.r.known=valid.",
    )


def _check_clean(cfg: DictConfig) -> None:
    c = cfg.clean
    _one_of("field", c.field, CLEANED)
    target = cfg.method.target
    _one_of("method.target", target, ("cmb", *TARGETS))
    demand(target == "cmb", f"method={cfg.method.name} estimates {target}; it belongs to main_delens.py.")
    needed = "QU" if c.field in ("E", "B") else c.field
    for name in needed:
        demand(
            name in cfg.sky.fields,
            f"field={c.field} needs {name}, which is not among sky.fields=[{','.join(cfg.sky.fields)}]; add it there.",
        )


def _check_foregrounds(cfg: DictConfig) -> None:
    f = cfg.foregrounds
    _one_of("foregrounds.kind", f.kind, FOREGROUNDS)
    _one_of("noise.kind", cfg.noise.kind, NOISES)
    demand(
        _power_of_two(f.nside_sky) and f.nside_sky >= cfg.sky.nside,
        f"foregrounds.nside_sky={f.nside_sky} must be a power of two that is not below nside={cfg.sky.nside}.",
    )
    demand(
        cfg.mask.kind != "galactic" or f.kind != "none",
        "mask=galactic takes the shape of the dust, and foregrounds=none has none; choose another mask.",
    )
    demand(
        f.kind != "residual" or len(f.residual) > 0, "Say foregrounds=residual instead of foregrounds.kind=residual."
    )
    demand(
        cfg.mask.kind != "galactic" or f.kind != "residual",
        "mask=galactic takes the shape of the dust, which a residual does not show apart; choose another mask, as"
        " mask=planck.",
    )
    demand(
        f.kind not in ("pysm", "residual") or not any(f.vary.values()),
        "foregrounds.vary gives the synthetic templates a scatter; PySM3's own, and those of observations, are one sky."
        " Set both scatters to 0.",
    )
    check_seeds(cfg)
    if "delens" in cfg:
        check_combined(cfg)
        return
    message = f"sky.fields={list(cfg.sky.fields)}: bands are observed in T, Q and U; choose [T], [Q,U] or [T,Q,U]."
    demand(list(cfg.sky.fields) in (["T"], ["Q", "U"], ["T", "Q", "U"]), message)


def _check_assets(cfg: DictConfig) -> None:
    for key, value in cfg.assets.constants.items():
        if key == "root":
            demand(str(value) == cfg.system.root, f"assets.constants.root={value} is not system.root; set that one.")
            continue
        demand(not OmegaConf.is_config(value), f"assets.constants.{key}={value} must be a text or a number.")
        if isinstance(value, str):
            check_name(f"assets.constants.{key}", value)


def _check_compare(cfg: DictConfig) -> None:
    c = cfg.compare
    methods = [name for name in c.methods if name != "none"]
    demand(len(methods) > 0, "compare.methods names no method; name folders of results, e.g. [none,wiener,quadratic].")
    _no_repeats("compare.methods", c.methods)
    for name in methods:
        check_name("compare.methods", name)
    demand(
        c.reference in methods,
        f"compare.reference={c.reference} is not among the methods of compare.methods={c.methods}; choose one of them.",
    )
    demand(0 <= c.sim < cfg.splits.test, f"compare.sim={c.sim} is not one of the {cfg.splits.test} test skies.")


# The group of a configuration that a check is about: a job without them does not need it.
_CHECKS = (
    ("system", _check_system),
    ("sky", _check_sky),
    ("mask", _check_mask),
    ("method", _check_method),
    ("pipeline", _check_stages),
    ("delens", _check_delens),
    ("clean", _check_clean),
    ("rotation", _check_rotation),
    ("delens", _check_variants),
    ("analysis", _check_analysis),
    ("delens", _check_known),
    ("compare", _check_compare),
    ("foregrounds", _check_foregrounds),
    ("assets", _check_assets),
)
