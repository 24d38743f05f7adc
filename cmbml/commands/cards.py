"""Cards: what a packed dataset or model is, in Markdown under a YAML head as model hubs read it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cmbml.commands.data import Made
from cmbml.commands.inspect import told as inspected
from cmbml.commands.packed import MANIFEST, Packed, sha256
from cmbml.core import log
from cmbml.core.errors import UserError

HUBS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # size_categories, by number of skies
TAGS = ["cosmology", "cosmic-microwave-background", "healpix", "cmbml"]
OF_THIS_MACHINE = ("made by", "contents", "taken as", "refused as", "file ")
TOLD = (".fits", ".npz", ".npy", ".pt")
NO_LICENCE = "none was given: ask its makers before you use or pass on any of it."
SIMULATED = (
    "It is simulated. What was learnt or measured on it holds for skies of the settings below, and for others as far as"
    " you have tested."
)


def card(name: str, packed: Packed, items: Sequence[Made], told: Mapping[str, str]) -> str:
    """Text of the card.

    Parameters
    ----------
    name : str
        What it is called.
    packed : Packed
        Its manifest.
    items : sequence of Made
        What is in it, by the records.
    told : mapping
        ``licence``, ``command`` and ``limits`` in the words of the packer; each may be empty.
    """
    parts = [
        *_top(name, _head(name, packed, items, told["licence"])),
        f"{len(packed.archives)} archives, {log.size(packed.size)}, made with cmbml. `cmbml unpack` of this folder puts"
        f" the files below a root, each compared with its sha256 in `{MANIFEST}`; runs know them as finished then.\n",
        f"- fingerprint: `{packed.fingerprint}`",
        f"- licence: {NO_LICENCE if told['licence'] == 'unknown' else told['licence']}",
        *(f"- {line}" for line in _contents(packed, items)),
        *_origin(items, told),
        "The records name the computer that has made a file. Files that no record names were left out.\n",
        "## Statistics\n",
        *_statistics(items),
    ]
    return "\n".join(parts)


def card_of_network(name: str, files: Sequence[Path], items: Sequence[Made], told: Mapping[str, str]) -> str:
    """Text of the card of a trained network that is stored as it is, without an archive.

    Parameters
    ----------
    name : str
        What it is called: `method.trained` takes it under this name.
    files : sequence of Path
        What is stored, the model first.
    items : sequence of Made
        What has made these files, by the records.
    told : mapping
        ``licence``, ``command`` and ``limits`` as for `card`, and ``result``: the table of what was measured, in
        Markdown.
    """
    known = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    head = _head_of_model(items[0].dataset, told["licence"]) | {"files": known}
    shown = ", ".join(f"`{path.name}` ({log.size(path.stat().st_size)})" for path in files)
    parts = [
        *_top(name, head),
        f"A network trained with cmbml: {shown}. Size and sha256 of each stand in the head of this card."
        f" `method.trained={name}` predicts with it and trains nothing.\n",
        f"- licence: {NO_LICENCE if told['licence'] == 'unknown' else told['licence']}",
        f"- trained on the dataset {items[0].dataset}",
        *_origin(items, told),
        "## What was measured\n",
        f"{told['result']}\n",
        "## The model\n",
        f"```text\n{chr(10).join(_numbers(files[0]))}\n```\n",
    ]
    return "\n".join(parts)


def _top(name: str, head: Mapping[str, Any]) -> tuple[str, str]:
    """The yaml head and the heading."""
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n", f"# {name}\n"


def _origin(items: Sequence[Made], told: Mapping[str, str]) -> Iterator[str]:
    """Command, limits, stages, versions and settings."""
    command = f"```bash\n{told['command']}\n```\n" if told["command"] else "Not given; the settings below decide it.\n"
    yield f"\n## Command\n\n{command}"
    yield "## Limits\n"
    yield f"{told['limits'] or SIMULATED}\n"
    yield "## Stages and versions\n"
    yield from _stages(items)
    yield ""
    yield from _versions(items)
    yield "\n## Settings\n"
    yield f"```yaml\n{yaml.safe_dump(_settings(items), allow_unicode=True)}```\n"


def _head(name: str, packed: Packed, items: Sequence[Made], licence: str) -> dict[str, Any]:
    if packed.kind == "model":
        return _head_of_model(packed.dataset, licence)
    skies = len({item.sky for item in items if item.sky})
    size = next((word for most, word in HUBS if skies < most), "n>100K")
    return {"license": licence, "pretty_name": name, "tags": TAGS, "size_categories": [size]}


def _head_of_model(dataset: str, licence: str) -> dict[str, Any]:
    return {"license": licence, "library_name": "pytorch", "tags": TAGS, "datasets": [dataset]}


def _contents(packed: Packed, items: Sequence[Made]) -> Iterator[str]:
    """Number of skies of each split, or the dataset that a model has learnt from."""
    if packed.kind == "model":
        yield f"trained on the dataset {packed.dataset}"
        yield f"for `method.trained=<root>/{next(file for item in items for file in _models(item, packed.dataset))}`"
        return
    for split, number in Counter(sky[1] for sky in {item.sky for item in items} if sky).items():
        yield f"{split}: {number} skies"


def _models(item: Made, dataset: str) -> Iterator[str]:
    for file in item.files:
        if file.suffix == ".pt":
            yield "/".join(file.parts[len(file.parts) - 1 - file.parts[::-1].index(dataset) :])


def _by_stage(items: Sequence[Made]) -> dict[str, list[Made]]:
    stages = defaultdict(list)
    for item in items:
        stages[item.record.stage].append(item)
    return dict(stages)


def _stages(items: Sequence[Made]) -> Iterator[str]:
    yield "| stage | version | items | files | bytes | time |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for stage, made in _by_stage(items).items():
        files = [file for item in made for file in item.files]
        version = ", ".join(sorted({str(item.record.version) for item in made}))
        size = log.size(sum(file.stat().st_size for file in files))
        time = log.duration(sum(item.record.seconds for item in made))
        yield f"| {stage} | {version} | {len(made)} | {len(files)} | {size} | {time} |"


def _versions(items: Sequence[Made]) -> Iterator[str]:
    commits = Counter(str(item.record.git.get("commit") or "an installed package") for item in items)
    dirty = sum(bool(item.record.git.get("dirty")) for item in items)
    yield f"- commits: {', '.join(commits)}{f' ({dirty} items with changes that no commit has)' if dirty else ''}"
    versions = defaultdict(set)
    for item in items:
        for package, version in item.record.packages.items():
            versions[package].add(version)
    named = [f"{package} {' or '.join(sorted(found))}" for package, found in versions.items()]
    yield f"- packages: {', '.join(named)}"


def _settings(items: Sequence[Made]) -> dict[str, Any]:
    """All settings that the stages used; of one that has several values, each of them."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for item in items:
        for key, value in item.record.settings.items():
            found[key][json.dumps(value)] = value
    return {
        key: {"several": list(values.values())} if len(values) > 1 else next(iter(values.values()))
        for key, values in found.items()
    }


def _statistics(items: Sequence[Made]) -> Iterator[str]:
    """What `cmbml inspect` says of the files of the first test sky, or else the first sky, or what belongs to none."""
    skies = sorted((item.sky for item in items if item.sky), key=lambda sky: (sky[1] != "test", sky))
    shown = [item for item in items if item.sky == skies[0]] if skies else items
    for item in shown:
        for file in item.files:
            if file.suffix in TOLD:
                yield f"{_title(item, file)}\n\n```text\n{chr(10).join(_numbers(file))}\n```\n"


def _title(item: Made, file: Path) -> str:
    return f"`{file.name}`" + (f" of {item.sky[1]} sky {item.sky[2]}" if item.sky else "")


def _numbers(file: Path) -> Iterator[str]:
    try:
        yield from (line for line in inspected(file) if not line.startswith(OF_THIS_MACHINE))
    except UserError as error:
        yield str(error)
