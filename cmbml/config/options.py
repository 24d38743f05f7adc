"""Which option of a group belongs to which job.

It stands at the head of the option's yaml file, among its first comments, as ``# jobs: delens, clean``. An option
without such a line belongs to every job, as those of other packages may.
"""

import argparse
import contextlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from cmbml.core.errors import UserError
from cmbml.core.plugins import plugins

MAINS = {
    "sims": "main_sims.py",
    "delens": "main_delens.py",
    "clean": "main_clean.py",
    "compare": "main_analysis_compare.py",
}
_CHOICE = re.compile(r"\+*(?P<group>[\w/]+)(@[\w.]*)?=(?P<options>[^(){}$'\"]*)")  # no sweep, no quotes


def spoken(text: str) -> str:
    """A text for users of the installed package: ``cmbml delens`` for ``python main_delens.py``.

    Examples
    --------
    >>> spoken("`python get_data/fetch.py assets`, then main_clean.py")
    '`cmbml fetch assets`, then cmbml clean'
    """
    for job, main in MAINS.items():
        text = re.sub(rf"(python )?\b{re.escape(main)}", f"cmbml {job}", text)
    return text.replace("python get_data/fetch.py", "cmbml fetch")


def jobs_of(path: Path) -> set[str]:
    """Jobs that an option belongs to, told by the first comments of its file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# jobs:"):
            return set(re.findall(r"\w+", line.removeprefix("# jobs:")))
    return set(MAINS)


def name_of(path: Path) -> str:
    """Name by which users know an option: what ``# name:`` says among its first comments, or that of its file.

    So one name can mean a setting of each job: ``experiment=tiny``.
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# name:"):
            return line.removeprefix("# name:").strip()
    return path.stem


def options_of(group: str, jobs: Iterable[str], places: Sequence[Path]) -> list[str]:
    """Names of the options of a group that belong to one of these jobs; what begins with _ is shared by options."""
    files = [path for place in places for path in (place / group).glob("[!_]*.yaml")]
    return sorted({name_of(path) for path in files if jobs_of(path) & set(jobs)})


def groups_of(jobs: Iterable[str], places: Sequence[Path]) -> list[str]:
    """Names of the groups that have an option for one of these jobs."""
    names = {path.name for place in places for path in place.iterdir() if path.is_dir()}
    return sorted(name for name in names if options_of(name, jobs, places))


def jobs_served(job: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The job itself; with the comparison, the job of the methods that are compared: ``job=clean``."""
    if job != "compare":
        return (job,)
    compared = [argument.removeprefix("job=") for argument in arguments if argument.startswith("job=")]
    return "compare", *(compared[-1].split(",") if compared else ["delens"])


def places_of(config_path: Path, arguments: Sequence[str]) -> list[Path]:
    """Folders that hold groups, in Hydra's order.

    The one of the main, those of ``--config-dir`` and ``hydra.searchpath``, and those of plug-ins.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--config-dir", "-cd")
    flagged, _ = flags.parse_known_args(arguments)
    places = [config_path]
    if flagged.config_dir:
        places.append(Path(flagged.config_dir))
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "hydra.searchpath":
            places.extend(_folder(entry.strip("'\" ")) for entry in value.strip("[]").split(","))
    places.extend(plugin.folder for plugin in plugins())
    return [place for place in places if place.is_dir()]


def _folder(entry: str) -> Path:
    """Folder of an entry of Hydra's search path: ``file:///folder`` or ``pkg://package.folder``."""
    scheme, _, name = entry.rpartition("://")
    if scheme != "pkg":
        return Path(name)
    package, _, rest = name.partition(".")
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    return Path(roots[0], *rest.split(".")) if roots else Path(name)


def check_options(config_path: Path, job: str, arguments: Sequence[str]) -> list[str]:
    """Refuse an option that a user has chosen and that does not belong to the job.

    Parameters
    ----------
    config_path : Path
        Folder of the configuration of the main.
    job : str
        One of `MAINS`.
    arguments : sequence of str
        What stands on the command line, e.g. ``network=unet5`` or ``experiment=tiny,none``.

    Returns
    -------
    list of str
        The same arguments, with the options by the names of their files, and in the grammar of Hydra (`in_grammar`).

    Raises
    ------
    UserError
        One sentence that lists the options of this job.
    """
    places = places_of(config_path, arguments)
    jobs = jobs_served(job, arguments)
    result = []
    for argument in arguments:
        choice = _CHOICE.fullmatch(argument)
        if choice is None or not any((place / choice["group"]).is_dir() for place in places):
            result.append(in_grammar(argument))
            continue
        options = choice["options"]
        chosen = [options] if options.startswith("[") else options.split(",")
        files = [_file_of(choice["group"], option, jobs, places) for option in chosen]
        result.append(argument.partition("=")[0] + "=" + ",".join(files))
    return result


def in_grammar(argument: str) -> str:
    """Put a value into quotes that is text as it stands, like a path with =, ~ or brackets, and that Hydra cannot read.

    Lists, mappings and what has quotes of its own stay as they are, mistakes included.

    Examples
    --------
    >>> in_grammar("system.root=~/run=1"), in_grammar("nside=64"), in_grammar("run.only=[a")
    ('system.root="~/run=1"', 'nside=64', 'run.only=[a')
    """
    key, _, value = argument.partition("=")
    if key.startswith("-") or not value or value[0] in "[{('\"":
        return argument
    parser = OverridesParser.create()
    try:
        parser.parse_override(argument)
    except HydraException:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        with contextlib.suppress(HydraException):
            parser.parse_override(f'{key}="{escaped}"')
            return f'{key}="{escaped}"'
    return argument


def _file_of(group: str, option: str, jobs: Sequence[str], places: Sequence[Path]) -> str:
    """Name of the file of an option, which belongs to one of the jobs."""
    paths = [place / group / f"{option}.yaml" for place in places]
    found = list(dict.fromkeys(path.resolve() for path in paths if path.is_file() and not option.startswith("_")))
    if len(found) > 1:
        raise UserError(f"{group}={option} is both {found[0]} and {found[1]}; give one of them another name.")
    path = found[0] if found else None
    if path is not None and jobs_of(path) & set(jobs):
        return option
    for named in (path for place in places for path in (place / group).glob("*.yaml")):
        if name_of(named) == option and jobs_of(named) & set(jobs):
            return named.stem
    program = " ".join([MAINS[jobs[0]], *(f"job={job}" for job in jobs[1:] if group != "job")])
    belongs = "is not known"
    if path is not None:
        belongs = f"belongs to {' and '.join(main for job, main in MAINS.items() if job in jobs_of(path))}"
    options = options_of(group, jobs, places)
    if options:
        raise UserError(f"{group}={option} {belongs}; for {program} the options are {', '.join(options)}.")
    groups = ", ".join(groups_of(jobs, places))
    raise UserError(f"{group}={option} {belongs}; {program} has no such group, its groups are {groups}.")
