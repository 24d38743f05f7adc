"""The pages of configuration keys and of experiments."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from cmbml.config.options import MAINS, name_of
from docs.make import keys
from docs.make.keys import CFG
from docs.make.markdown import code, in_short, plain, prose, table, wide

ROOTS = ("sims", "delens", "clean", "compare")
OWN_KEYS = ("analysis", "method", "network", "sims")  # groups of which each option has keys of its own
COMMON = ("method.name", "method.target", "method.stages")  # that every method has


def keys_page() -> str:
    """Every key, group by group."""
    parts = [
        "# Configuration keys",
        "Every key is a word on the command line: `key=value`, and `group.key=value` for the keys of a group. This "
        "page is made from the comments in `cfg/` and from the schema in `cmbml/config/schema.py` when the site is "
        "built. Bounds hold for every number in a list or mapping, too. A default like <code>${nside}</code> "
        "follows other keys; `--cfg job --resolve` prints what becomes of it. A wrong key, type or value ends with one "
        "sentence.",
        "## The root",
        "Keys that stand in no group, and the groups `delens`, `quadratic`, `clean` and `compare`, which have no "
        "options.",
    ]
    for job in ROOTS[:3]:
        parts += [f"### {MAINS[job]}", entry_table(keys.root_entries(job))]
    parts.append(f"### {MAINS['compare']}")
    parts.append(
        "The keys of the compared job, chosen by `job=delens` or `job=clean`, and these; the defaults are those "
        "of `job=delens`."
    )
    parts.append(entry_table(keys.entries("job", CFG / "job" / "delens.yaml")))
    for group in keys.groups():
        if group not in ("assets", "experiment", "job"):
            parts += [f"## {group}", *group_parts(group)]
    return "\n\n".join(parts) + "\n"


def group_parts(group: str) -> Iterator[str]:
    """A group: its options, then its keys."""
    files = keys.options(group)
    if len(files) > 1:
        yield option_table(group, files)
    if group not in OWN_KEYS:
        yield entry_table(merged(group))
        return
    if group == "method":
        yield "Every method has these keys, and those of its own below."
        yield entry_table(keys.entries(group, CFG / "method" / "wiener.yaml"))
    for path in files:
        found = [entry for entry in keys.entries(group, path) if entry.name not in COMMON]
        if found:
            yield f"### {group}={name_of(path)}"
            yield prose(keys.comments_of(path))
            yield entry_table(found)


def merged(group: str) -> list[keys.Entry]:
    """Keys of a group whose options have the same ones: defaults are those of the option that a main chooses."""
    chosen = [re.search(rf"^  - {group}: (\w+)", (CFG / f"{job}.yaml").read_text(), re.MULTILINE) for job in ROOTS]
    first = [match[1] for match in chosen if match]
    files = sorted(keys.options(group), key=lambda path: first.index(path.stem) if path.stem in first else len(first))
    found: dict[str, keys.Entry] = {}
    for entry in (entry for path in files for entry in keys.entries(group, path)):
        found.setdefault(entry.name, entry)
    return list(found.values())


def entry_table(entries: Iterable[keys.Entry]) -> str:
    """A table of keys."""
    known = keys.catalogue()
    rows = []
    for entry in entries:
        kind = ", ".join(filter(None, [entry.kind, entry.bounds, entry.unit]))
        meaning = entry.meaning or known[entry.name].meaning
        cells = [code(entry.name, whole=True), wide(code(entry.default), 8), plain(kind), wide(plain(meaning), 12)]
        rows.append(cells)
    return table(["key", "default", "type, bounds, unit", "meaning"], rows)


def option_table(group: str, files: Sequence[Path]) -> str:
    """A table of the options of a group and of what each sets beside what it inherits."""
    rows = []
    for path in files:
        sets = "" if group in OWN_KEYS else "<br>".join(map(code, settings(group, path)))
        what = wide(in_short(keys.comments_of(path)), 12)
        rows.append([code(f"{group}={name_of(path)}", whole=True), keys.belongs_to(path), what, wide(sets, 9)])
    head = ["option", "of the jobs", "what it is", "sets"]
    if group in OWN_KEYS:
        return table(head[:3], [row[:3] for row in rows])
    return table(head, rows)


def settings(group: str, path: Path) -> list[str]:
    """What an option sets, as words of the command line; nothing where it describes the group's keys."""
    found = keys.keys_of(path, group)
    if sum(bool(key.comment) for key in found) > 2:
        return []
    words = [f"{key.name.removeprefix(f'{group}.')}={key.value}" for key in found]
    return [word if len(word) < 60 else f"{word[:56]} ..." for word in words]


def experiments_page() -> str:
    """Whole settings, with what each sets."""
    parts = [
        "# Experiments",
        "`experiment=<name>` is a whole setting: options of groups and values of keys, of which the command line still "
        "overrides every one. In brackets stand the jobs that have it.",
    ]
    for path in keys.options("experiment"):
        if path.stem == "none":
            continue
        chosen = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
        words = [
            f"{name.removeprefix('override /')}={option}"
            for entry in chosen
            if isinstance(entry, dict)
            for name, option in entry.items()
        ]
        words += [f"experiment={entry}" for entry in chosen if isinstance(entry, str) and entry != "_self_"]
        words += [f"{key.name}={key.value}" for key in flat(path)]
        parts += [f"## {name_of(path)} ({keys.belongs_to(path)})", prose(keys.comments_of(path))]
        parts.append("\n".join(["```text", *words, "```"]))
    return "\n\n".join(parts) + "\n"


def flat(path: Path) -> Iterator[keys.Key]:
    """Settings of an experiment, those in braces one by one."""
    for key in keys.keys_of(path, "experiment"):
        value = yaml.safe_load(key.value) if key.value.startswith("{") else None
        if not isinstance(value, dict):
            yield key
        for name, one in (value or {}).items():
            yield keys.Key(f"{key.name}.{name}", one if isinstance(one, str) else json.dumps(one), "", path)
