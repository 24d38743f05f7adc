"""The pages of commands, files, stages, and of the API."""

import importlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from cmbml.config.help import help_text
from cmbml.config.options import MAINS, jobs_of
from cmbml.core.asset import Optional
from cmbml.core.stage import Stage
from docs.make import keys
from docs.make.keys import CFG
from docs.make.markdown import code, doc, in_short, plain, table, wide

REPO = Path(__file__).parents[2]


def commands_page() -> str:
    """What each main answers to --help."""
    parts = [
        "---\nhide: [toc]\n---",
        "# Commands",
        "Each main answers to `--help`; this is what it says. `get_data/fetch.py assets` brings what has to be "
        "downloaded, and nothing else downloads anything ([Data](../install.md#data)).",
    ]
    for job, main in MAINS.items():
        parts += [f"## {main}", f"```text\n{help_text(CFG, job)}```"]
    parts += ["## main_analysis_compare.py job=clean", f"```text\n{help_text(CFG, 'compare', ['job=clean'])}```"]
    return "\n\n".join(parts) + "\n"


def files_page() -> str:
    """The tables of paths, with the stages that make the files."""
    parts = [
        "# Files",
        "All paths stand in `cfg/assets/`. `{root}` is `system.root`, `{dataset}`, `{method}` and `{field}` are keys, "
        "and the rest comes from the item: `{split}` is Train, Valid or Test, `{sim}` sim0000 and so on. Each can be "
        "overridden: `assets.files.report=...`. What a finished item was made from stands in a hidden file beside its "
        "first output.",
        "Maps are float32, RING, µK_CMB, HEALPix FITS with unit, ordering, coordinates, beam and band limit in the "
        "header; E and B are scalar maps, U has the COSMO sign. C_l are in µK² from l = 0.",
    ]
    for path in keys.options("assets"):
        makers: dict[str, list[str]] = {}
        for stage in stages(jobs_of(path)):
            for asset in (*stage.outputs, *stage.scratch):
                makers.setdefault(asset, []).append(stage.name)
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = [
            [code(name, whole=True), "<br>".join(map(code, dict.fromkeys(makers.get(name, [])))), wide(code(place), 20)]
            for name, place in text["files"].items()
        ]
        parts += [f"## assets={path.stem}", plain(in_short(keys.comments_of(path)))]
        parts.append(table(["asset", "made by the stage", "path"], rows))
    return "\n\n".join(parts) + "\n"


def stages(jobs: Collection[str] = tuple(MAINS)) -> list[type[Stage]]:
    """Every stage that a yaml file of these jobs names, in the order of the groups."""
    found = {}
    for path in (path for group in ("sims", "method", "analysis", "job") for path in keys.options(group)):
        if not jobs_of(path) & set(jobs):
            continue
        for name in re.findall(r"- (cmbml\.[\w.]+)", path.read_text(encoding="utf-8")):
            module, _, stage = name.rpartition(".")
            found[name] = getattr(importlib.import_module(module), stage)
    return list(found.values())


def stages_page() -> str:
    """The stages with what they read, make and use."""
    parts = [
        "# Stages",
        "A stage is one step: it reads assets, makes assets, and uses settings. `run.only`, `run.start` and "
        "`run.force` take the names. *Uses* are the settings that enter the fingerprint: a change of one "
        "of them makes the stage's files stale, and those of the stages after it.",
    ]
    rooms = {"cmbml.sims": "Datasets", "cmbml.methods": "Methods", "cmbml.analysis": "Measurement and comparison"}
    for room, title in rooms.items():
        parts.append(f"## {title}")
        for stage in (stage for stage in stages() if stage.__module__.startswith(room)):
            summary = " ".join((stage.__doc__ or "").strip().partition("\n\n")[0].split())
            parts += [f"### {plain(stage.name)}", doc(summary), code(f"{stage.__module__}.{stage.__name__}")]
            reads = [_asset(given) for given in stage.inputs]
            rows = [("reads", reads), ("makes", stage.outputs), ("uses", stage.uses)]
            parts.append("\n".join(f"- {word}: {', '.join(map(code, names)) or 'nothing'}" for word, names in rows))
    return "\n\n".join(parts) + "\n"


def _asset(given: Any) -> str:
    """An input in words."""
    if isinstance(given, str):
        return given
    if isinstance(given, Optional):
        return f"{', '.join(map(_asset, given.sources))} (under some settings)"
    return given.label


def modules() -> list[str]:
    """Modules of the package."""
    found = []
    for path in sorted((REPO / "cmbml").rglob("*.py")):
        name = path.relative_to(REPO).with_suffix("").parts
        if name[-1] != "__init__":
            found.append(".".join(name))
    return found


def modules_by_room() -> list[dict[str, Any]]:
    """Pages of the modules, in a folder for each room of the package."""
    rooms: dict[str, list[Any]] = {}
    for name in modules():
        parts = name.split(".")
        room = parts[1] if len(parts) > 2 else "start"
        rooms.setdefault(room, []).append({".".join(parts[2:]) or name: f"reference/api/{name}.md"})
    return [{f"cmbml.{room}": below} for room, below in rooms.items()]


def api_pages() -> Iterator[tuple[str, str]]:
    """A page for each module, whose docstrings mkdocstrings fills in, and one that lists them."""
    rows = []
    for name in modules():
        yield f"reference/api/{name}.md", f"# {name.replace('_', chr(92) + '_')}\n\n::: {name}\n"
        text = (REPO / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        summary = re.match(r'"""(.*?)(?:"""|\n\n)', text, re.DOTALL)
        rows.append([f"[{code(name, whole=True)}]({name}.md)", doc(" ".join(summary[1].split()) if summary else "")])
    head = (
        "# API\n\nMade from the docstrings. `cmbml.sky` is physics as pure functions of arrays and can be used alone; "
        "who may know whom stands in [Contributing](../../contributing.md).\n\n"
    )
    yield "reference/api/index.md", head + table(["module", "what it holds"], rows)
