"""The resolvers of the yaml files, and what is done to a configuration before it is used."""

import hashlib
import os
import pkgutil
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from cmbml.config import checks
from cmbml.config.jobs import CleanConfig, CompareCleanConfig, CompareConfig, Config, SimsConfig
from cmbml.config.limits import check_numbers
from cmbml.config.places import ASSETS
from cmbml.config.truth import several_seeds
from cmbml.core.errors import UserError
from cmbml.core.plugins import plugins

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


class PluginsSearchPath(SearchPathPlugin):
    """Hydra's search path goes on in the folders of plug-ins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them; what the tree has goes before."""
        for plugin in plugins():
            search_path.append(plugin.name, f"file://{plugin.folder}")


def register() -> None:
    """Make the schema and the resolvers known to Hydra; called once by every main."""
    schemas = {"": Config, "_sims": SimsConfig, "_clean": CleanConfig}
    schemas |= {"_compare": CompareConfig, "_compare_clean": CompareCleanConfig}
    for name, node in schemas.items():
        ConfigStore.instance().store(name=f"schema{name}", node=node)
    Plugins.instance().register(PluginsSearchPath)
    OmegaConf.register_new_resolver("floor_times", lambda x, n: int(float(x) * int(n)), replace=True)
    OmegaConf.register_new_resolver("finer", lambda nside: max(nside, min(2 * nside, 2048)), replace=True)
    OmegaConf.register_new_resolver("margin", lambda lmax: max(1024, 2000 - int(lmax)), replace=True)
    OmegaConf.register_new_resolver("times", lambda x, y: float(x) * float(y), replace=True)
    OmegaConf.register_new_resolver("label", checks.label, replace=True)
    OmegaConf.register_new_resolver("lesser", min, replace=True)
    OmegaConf.register_new_resolver("home", home, replace=True)
    OmegaConf.register_new_resolver("count", len, replace=True)
    OmegaConf.register_new_resolver("call", call, replace=True)
    OmegaConf.register_new_resolver("contents", contents, replace=True)
    OmegaConf.register_new_resolver("shipped", lambda path: str(ASSETS / path), replace=True)
    OmegaConf.register_new_resolver("folder_of_templates", _folder_of_templates, replace=True)
    OmegaConf.register_new_resolver("folder_of_foregrounds", _folder_of_foregrounds, replace=True)
    OmegaConf.register_new_resolver("bands_fields", lambda fields: len(set("TQU") & set(fields)), replace=True)
    OmegaConf.register_new_resolver("concat", lambda *lists: [x for one in lists for x in one], replace=True)


def call(path: str, *args: Any) -> Any:
    """What a function of cmbml, or of a plug-in, makes of its arguments.

    A configuration may come from somebody else: it names nothing that was not written for it.

    Raises
    ------
    UserError
        When it names another function, or none.
    """
    rooms = ("cmbml", *(plugin.package for plugin in plugins()))
    refusal = UserError(f"${{call:{path!a},...}} names no function of cmbml or of a plug-in; nothing else is called.")
    if not DOTTED.fullmatch(path) or not _below(path, rooms):
        raise refusal
    try:
        found = pkgutil.resolve_name(path)
    except Exception:
        raise refusal from None
    if isinstance(found, type) or not callable(found) or not _below(getattr(found, "__module__", None), rooms):
        raise refusal
    return found(*args)


def _below(name: object, rooms: Sequence[str]) -> bool:
    """Whether a dotted name is that of one of the packages, or of something in it."""
    return isinstance(name, str) and any(name == room or name.startswith(f"{room}.") for room in rooms)


def shipped(path: str) -> Path:
    """Path of a table: as it is given, or else below `assets/`, or else below the folder of a plug-in.

    Raises
    ------
    UserError
        When it is at neither place.
    """
    for place in (Path(path).expanduser(), ASSETS / path, *(plugin.folder / path for plugin in plugins())):
        if place.is_file():
            return place.absolute()
    raise UserError(f"The table {path} is neither there nor in {ASSETS}; give the path of an existing one.")


def of_model(key: str, name: str, file: str, words: Sequence[str] = ()) -> Path:
    """Path of what a setting names: a file, or by the name of a trained network that comes along the one it has.

    Parameters
    ----------
    key, name : str
        The setting and its value: a path that ends as ``file`` does, or the name of a folder below `assets/models/` or
        below the folder `models/` of a plug-in.
    file : str
        What that folder is to hold.
    words : sequence of str
        What else the value might have been, for the sentence.

    Raises
    ------
    UserError
        When it is neither.
    """
    path = Path(name)
    if path.suffix == Path(file).suffix:
        return path.expanduser()
    places = (*(plugin.folder for plugin in plugins()), ASSETS)
    known = {found.parent.name: found for place in places for found in sorted(place.glob(f"models/*/{file}"))}
    if name not in known:
        raise UserError(
            f"{key}={name} is neither the path of a file like {file} nor one of"
            f" {', '.join([*words, *known]) or 'the networks that come along, of which there are none'}."
        )
    return known[name]


def home(root: str) -> str:
    """Path of `system.root` with the ~ of a home folder filled in.

    Raises
    ------
    UserError
        When it is nobody's home.
    """
    try:
        return str(Path(root).expanduser())
    except RuntimeError:
        raise UserError(f"system.root={root} is in the home of nobody here; write the whole path.") from None


def contents(table: str) -> str:
    """Hash of a table.

    It stands in the configuration, so that a change of the table is a change of a setting, wherever it lies.
    """
    path = shipped(table)
    return hashlib.sha256(path.name.encode() + path.read_bytes()).hexdigest()[:12]


def prepare(cfg: DictConfig) -> None:
    """Check the whole configuration and make `system.root` absolute, in place.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    check_numbers(cfg)  # before anything is made of them
    try:
        root = Path(home(cfg.system.root)).absolute()
        cfg.system.root = str(root)
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except Exception as error:
        mistake = _mistake(error)
        if mistake is not None:
            raise mistake from None
        key = getattr(error, "full_key", None)
        what = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{key or 'The configuration'} does not resolve: {what}.") from None
    checks.check(cfg)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"system.root={root} cannot be made ({error.strerror}); choose a folder that can be written."
        ) from None
    if not os.access(root, os.W_OK):
        raise UserError(f"system.root={root} cannot be written; choose another folder.")


def _mistake(error: BaseException | None) -> UserError | None:
    """The user's mistake that a resolver has found, among the errors that OmegaConf makes of it."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _folder_of_templates(seed: Any) -> str:
    """Folder of what differs from split to split when there are several seeds; else none."""
    return "{split}/" if several_seeds(seed) else ""


def _folder_of_foregrounds(seed: Any, vary: DictConfig) -> str:
    """The same; of a sky, when any of the scatters does not vanish."""
    return "{split}/{sim}/" if any(vary.values()) else _folder_of_templates(seed)
