"""The resolvers of the yaml files, and the checks of a configuration that types cannot express."""

import numbers
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cmbml.core.errors import UserError
from cmbml.core.schema import Config

FIELDS = ("T", "E", "B", "Q", "U")
TARGETS = ("unlensed", "lensing")
ROTATIONS = ("permutation", "harmonic", "none")


def register() -> None:
    """Make the schema and the resolvers known to Hydra; called once by every main."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("floor_times", lambda x, n: int(float(x) * int(n)), replace=True)
    OmegaConf.register_new_resolver("margin", lambda lmax: max(1024, 2000 - int(lmax)), replace=True)
    OmegaConf.register_new_resolver("times", lambda x, y: float(x) * float(y), replace=True)
    OmegaConf.register_new_resolver("count", len, replace=True)
    OmegaConf.register_new_resolver("concat", lambda *lists: [x for one in lists for x in one], replace=True)


def prepare(cfg: DictConfig) -> None:
    """Check the whole configuration and make `system.root` absolute, in place.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    root = Path(cfg.system.root).expanduser().absolute()
    cfg.system.root = str(root)
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except Exception as error:
        raise UserError(f"The configuration does not resolve: {str(error).splitlines()[0]}") from None
    for check in (_check_numbers, _check_sky, _check_delens, _check_rotation, _check_analysis):
        check(cfg)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"system.root={root} cannot be made ({error.strerror}); choose a folder that can be written."
        ) from None
    if not os.access(root, os.W_OK):
        raise UserError(f"system.root={root} cannot be written; choose another folder.")


def _demand(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def _one_of(key: str, value: str, known: Sequence[str]) -> None:
    _demand(value in known, f"{key}={value} is not known; choose one of {', '.join(known)}.")


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def _check_numbers(cfg: DictConfig) -> None:
    positive = (
        "scale",
        "epochs",
        "run.workers",
        "system.checkpoint_every",
        "instrument.fwhm_arcmin",
        "analysis.delta_l",
        "splits.train",
        "splits.valid",
        "splits.test",
    )
    for key in positive:
        value = OmegaConf.select(cfg, key)
        _demand(value > 0, f"{key}={value} must be larger than 0.")
    for key in ("sky.margin", "patches.halo", "instrument.noise_t_uk_arcmin", "instrument.noise_p_uk_arcmin"):
        value = OmegaConf.select(cfg, key)
        _demand(value >= 0, f"{key}={value} must not be negative.")
    devices = cfg.system.devices
    good = devices == "auto" or (isinstance(devices, int) and devices > 0)
    _demand(good, f"system.devices={devices} must be auto or a positive number.")
    _one_of("system.device", cfg.system.device, ("auto", "cpu", "cuda"))


def _check_sky(cfg: DictConfig) -> None:
    nside, patch, halo = cfg.sky.nside, cfg.patches.patch, cfg.patches.halo
    _demand(_power_of_two(nside) and nside <= 8192, f"nside={nside} must be a power of two up to 8192.")
    _demand(
        _power_of_two(patch) and patch <= nside,
        f"patches.patch={patch} must be a power of two that divides nside={nside}.",
    )
    _demand(halo <= nside, f"patches.halo={halo} must not be wider than nside={nside}.")
    _demand(
        2 <= cfg.sky.lmax <= 3 * nside - 1,
        f"sky.lmax={cfg.sky.lmax} must lie between 2 and 3 nside - 1 = {3 * nside - 1}.",
    )
    for name in cfg.sky.fields:
        _one_of("sky.fields", name, FIELDS)


def _check_delens(cfg: DictConfig) -> None:
    _one_of("field", cfg.delens.field, FIELDS)
    _one_of("delens.target", cfg.delens.target, TARGETS)
    _demand(len(cfg.delens.inputs) > 0, "delens.inputs is empty; name at least one field.")
    for name in (*cfg.delens.inputs, cfg.delens.field):
        _demand(name in FIELDS, f"delens.inputs: {name} is not known; choose among {', '.join(FIELDS)}.")
        _demand(
            name in cfg.sky.fields,
            f"The field {name} is not among sky.fields=[{','.join(cfg.sky.fields)}]; add it there.",
        )


def _check_rotation(cfg: DictConfig) -> None:
    _one_of("rotation.kind", cfg.rotation.kind, ROTATIONS)
    for key in ("pairs", "predict"):
        for pair in cfg.rotation[key]:
            good = OmegaConf.is_list(pair) and len(pair) == 2 and all(isinstance(x, numbers.Real) for x in pair)
            _demand(good, f"rotation.{key}: {pair} is not a pair of angles (theta, phi) in degrees.")
    _demand(len(cfg.rotation.predict) > 0, "rotation.predict is empty; [[0,0]] predicts on the sky as it is.")
    known = [[0, 0], *cfg.rotation.pairs]
    for pair in cfg.rotation.predict:
        _demand(pair in known, f"rotation.predict: {pair} is neither [0,0] nor one of rotation.pairs.")
    spin2 = [f for f in (*cfg.delens.inputs, cfg.delens.field) if f in "QU"]
    if cfg.rotation.kind == "none" or not spin2:
        return
    _demand(
        cfg.rotation.kind == "harmonic" and cfg.delens.field not in "QU" and {"Q", "U"} <= set(cfg.delens.inputs),
        f"rotation={cfg.rotation.kind} cannot turn {spin2[0]}: Q and U mix when the sphere is rotated."
        " Use rotation=none, or rotation=harmonic with both Q and U among delens.inputs and a scalar field.",
    )


def _check_analysis(cfg: DictConfig) -> None:
    a = cfg.analysis
    _demand(a.lmax <= cfg.sky.lmax, f"analysis.lmax={a.lmax} is beyond sky.lmax={cfg.sky.lmax}.")
    _demand(
        a.fwhm_arcmin >= cfg.instrument.fwhm_arcmin,
        f"analysis.fwhm_arcmin={a.fwhm_arcmin} is finer than the maps' {cfg.instrument.fwhm_arcmin}; widen it.",
    )
    _demand(
        len(a.band) == 2 and 2 <= a.band[0] < min(a.band[1], a.lmax),
        f"analysis.band={a.band} must be two multipoles, the first from 2 and below analysis.lmax={a.lmax}.",
    )
    _demand(
        len(a.zoom) == 3 and a.zoom[2] > 0, f"analysis.zoom={a.zoom} must be longitude, latitude and side in degrees."
    )
