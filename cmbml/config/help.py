"""What a main answers to ``--help``, read from its own yaml files: nothing of it stands twice.

Of a root file are taken the first comments (what the main does, and commands to copy), the group options that it
chooses, and its own keys with the comments beside them.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cmbml.config.options import groups_of, jobs_served, options_of, places_of

WIDTH = 118
HIDDEN = ("assets", "run")  # groups in which there is nothing to choose


def help_text(config_path: Path, job: str, arguments: Sequence[str] = ()) -> str:
    """The whole answer.

    Parameters
    ----------
    config_path : Path
        Folder of the configuration of the main.
    job : str
        One of `cmbml.config.options.MAINS`.
    arguments : sequence of str
        What else stands on the command line: ``job=clean``, ``hydra.searchpath=[...]``.
    """
    jobs = jobs_served(job, arguments)
    chosen: dict[str, str] = {}
    files = [config_path / f"{job}.yaml"]
    if job == "compare":
        chosen["job"] = jobs[1]
        files += [config_path / "job" / f"{jobs[1]}.yaml", config_path / f"{jobs[1]}.yaml"]
    files.append(config_path / "run" / "default.yaml")
    texts = [path.read_text(encoding="utf-8") for path in files]
    for text in texts:
        chosen = dict(re.findall(r"^  - (\w+): (\w+)", text, re.MULTILINE)) | chosen
    places = places_of(config_path, arguments)
    groups = [_group(name, jobs, places, chosen.get(name)) for name in groups_of(jobs, places) if name not in HIDDEN]
    keys = [line for text in texts for line in _keys(text)]
    parts = [
        *_comments(texts[0]),
        "",
        "Groups: group=option chooses; * is chosen already, but for what an experiment or a method chooses.",
        *groups,
        "",
        "Keys: key=value, and group.key=value for those of the groups; --cfg job prints all of them.",
        *keys,
        "",
        "-m key=one,other runs one after another; --hydra-help tells the flags of Hydra.",
    ]
    return "\n".join(parts) + "\n"


def _comments(text: str) -> list[str]:
    """The first comments of a file, without their sign."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def _group(name: str, jobs: Sequence[str], places: Sequence[Path], chosen: str | None) -> str:
    """One line, or more, of a group: its options, a star at the one that is chosen."""
    options = [f"{option}*" if option == chosen else option for option in options_of(name, jobs, places)]
    start = f"  {name:<12} "
    return textwrap.fill(" ".join(options), WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _keys(text: str) -> list[str]:
    """Lines of the keys of a root file that have a comment, with the names of their sections before them."""
    lines = []
    section = ""
    for line in text.splitlines():
        opened = re.fullmatch(r"(\w+):", line)
        if opened:
            section = f"{opened[1]}."
        key = re.fullmatch(r"( *)(\w+): (.*?) +# (.*)", line)
        if not key:
            continue
        name = f"{section if key[1] else ''}{key[2]}"
        if not re.search(r"[${]", key[3]):  # neither made from others nor a mapping
            name = f"{name}={key[3].replace(', ', ',')}"
        start = f"  {name:<28} "
        lines.append(textwrap.fill(key[4], WIDTH, initial_indent=start, subsequent_indent=" " * 31))
    return lines
