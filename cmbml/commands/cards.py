"""Cards: what a packed dataset or model is, in Markdown under a YAML head as model hubs read it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cmbml.commands.data import Made
from cmbml.commands.inspect import told as inspected
from cmbml.commands.packed import MANIFEST, Packed
from cmbml.core import log
from cmbml.core.errors import UserError

HUBS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # size_categories, by number of skies
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
    head = yaml.safe_dump(_head(name, packed, items, told["licence"]), sort_keys=False, allow_unicode=True)
    command = f"```bash\n{told['command']}\n```\n" if told["command"] else "Not given; the settings below decide it.\n"
    parts = [
        f"---\n{head}---\n",
        f"# {name}\n",
        f"{len(packed.archives)} archives, {log.size(packed.size)}, made with cmbml. `cmbml unpack` of this folder puts"
        f" the files below a root, each compared with its sha256 in `{MANIFEST}`; runs know them as finished then.\n",
        f"- fingerprint: `{packed.fingerprint}`",
        f"- licence: {NO_LICENCE if told['licence'] == 'unknown' else told['licence']}",
        *(f"- {line}" for line in _contents(packed, items)),
        f"\n## Command\n\n{command}",
        "## Limits\n",
        f"{told['limits'] or SIMULATED}\n",
        "The records name the computer that has made a file. Files that no record names were left out.\n",
        "## Stages and versions\n",
        *_stages(items),
        "",
        *_versions(items),
        "\n## Settings\n",
        f"```yaml\n{yaml.safe_dump(_settings(items), allow_unicode=True)}```\n",
        "## Statistics\n",
        *_statistics(items),
    ]
    return "\n".join(parts)


def _head(name: str, packed: Packed, items: Sequence[Made], licence: str) -> dict[str, Any]:
    tags = ["cosmology", "cosmic-microwave-background", "healpix", "cmbml"]
    if packed.kind == "model":
        return {"license": licence, "library_name": "pytorch", "tags": tags, "datasets": [packed.dataset]}
    skies = len({item.sky for item in items if item.sky})
    size = next((word for most, word in HUBS if skies < most), "n>100K")
    return {"license": licence, "pretty_name": name, "tags": tags, "size_categories": [size]}


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
