"""The documentation: every key has its entry, commands can be typed, places are there, tables are those of README."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cmbml.config import resolvers as config
from cmbml.config.options import MAINS, check_options
from docs.make import keys, notebooks, settings, site
from tests.conftest import REPO

DOCS = REPO / "docs"
PAGES = {str(path.relative_to(DOCS)): site.with_sections(path.read_text()) for path in sorted(DOCS.rglob("*.md"))}
WRITTEN = {place: text for place, text in PAGES.items() if not place.startswith("adr/")}
COMMAND = re.compile(r"^(?:python (?:main_|get_data/|benchmarks/)|make |torchrun )", re.MULTILINE)
JOBS = [("sims", []), ("delens", []), ("clean", []), ("compare", []), ("compare", ["job=clean"])]
# Tables of paths, on a page of their own; what Hydra has for itself.
ELSEWHERE = ("assets.", "hydra.")


def leaves(cfg: DictConfig, known: set[str], above: str = "") -> set[str]:
    """Dotted names of all that a configuration holds, down to what the reference describes as one key."""
    found = set()
    for name in cfg:
        key = f"{above}{name}"
        node = cfg._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and key not in known and len(node):
            found |= leaves(node, known, f"{key}.")
        elif not (isinstance(node, DictConfig) and key in keys.UNUSED):
            found.add(key)
    return found


@pytest.fixture(scope="module")
def catalogue():
    return keys.catalogue()


@pytest.mark.parametrize(("job", "words"), JOBS)
def test_no_key_of_a_configuration_is_missing(job, words, catalogue):
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        cfg = compose(job, overrides=check_options(REPO / "cfg", job, words))
    found = {key for key in leaves(cfg, set(catalogue)) if not key.startswith(ELSEWHERE)}
    assert len(found) > 50
    assert found - catalogue.keys() == set()


def test_no_key_of_an_option_is_missing(catalogue):
    """Every word before a colon in the files, found without the parser of the catalogue."""
    words = {word for key, entry in catalogue.items() for word in re.findall(r"\w+", f"{key} {entry.default}")}
    for path in (REPO / "cfg").glob("*/*.yaml"):
        if path.parent.name in ("assets", "run"):
            continue
        text = path.read_text().partition("\nassets:\n")[0]
        for word in re.findall(r"^ *(\w+):(?= |$)", text, re.MULTILINE):
            assert word in words | {"defaults", "hydra"}, path


def test_every_key_says_type_default_and_meaning(catalogue):
    assert len(catalogue) > 150
    for key, entry in catalogue.items():
        assert len(entry.meaning) > 3, key
        assert entry.kind not in ("", "any", "null"), key
        assert entry.default != "", key


def test_bounds_and_units_are_those_of_the_schema(catalogue):
    assert catalogue["sky.nside"].bounds == "1 to 8192"
    assert catalogue["network.n_filters"].bounds == "1 to 8192"
    assert catalogue["system.cluster.timeout_s"].bounds == "0.1 to 1e7"
    assert catalogue["instrument.noise_t_uk_arcmin"].unit == "µK arcmin"
    assert catalogue["mask.threshold"].kind == "number or null"
    assert catalogue["analysis.bands"].kind == "list of lists of whole numbers"


def test_the_page_of_keys_has_them_all(catalogue):
    page = settings.keys_page()
    for key in catalogue:
        assert f'<code class="whole">{key}</code>' in page


def commands() -> list[tuple[str, str]]:
    """Commands of the blocks of code and of the tables, with the pages that they stand on."""
    found = []
    for place, broken in WRITTEN.items():
        text = re.sub(r" \\\n +", " ", broken)
        lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        ours = [cell for row in re.findall(r"^\|.*\|$", text, re.MULTILINE) for cell in row.split(" | ")[1:]]
        lines += [line for cell in ours for line in re.findall(r"`([^`]+)`", cell)]
        found += [(place, line) for line in lines if COMMAND.match(line)]
    return found


@pytest.mark.parametrize(("place", "line"), commands())
def test_commands_can_be_typed(place, line, catalogue):
    """Their programs are there, and their words are options or keys of the job."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        made = (REPO / "Makefile").read_text()
        assert all(re.search(rf"^{word}:", made, re.MULTILINE) or "=" in word for word in words[1:])
        return
    script = next(word for word in words if word.endswith(".py"))
    assert (REPO / script).is_file()
    job = next((job for job, main in MAINS.items() if main == script), None)
    overrides = [word for word in words[words.index(script) + 1 :] if "=" in word and not word.startswith("--")]
    if job is None or any("<" in word for word in overrides):
        return
    check_options(REPO / "cfg", job, overrides)
    for key in (word.partition("=")[0] for word in overrides):
        group = (REPO / "cfg" / key).is_dir()
        above = key.rpartition(".")[0]
        known = key in catalogue or (above in catalogue and above.endswith(keys.WHOLE))
        assert group or known or key.startswith(("hydra/", "hydra.", "assets.")), key


@pytest.mark.parametrize("place", WRITTEN)
def test_places_are_there(place):
    text = re.sub(r"```.*?```", "", WRITTEN[place], flags=re.DOTALL)
    for name in re.findall(
        r"`((?:cmbml|tests|benchmarks|docs|assets/instruments)/[\w./]*|[\w-]+\.(?:txt|toml))`", text
    ):
        assert (REPO / name).exists()


def test_links_and_the_navigation_lead_to_pages():
    """What `mkdocs build --strict` says too, where it is installed."""
    config = yaml.safe_load((REPO / "mkdocs.yml").read_text())
    made = dict(site.pages())
    pages = PAGES | made
    places = set(pages) | {place for place, _ in site.pictures()}
    listed = re.findall(r"[\w./-]+\.md", str(site.filled(config["nav"], site.places())))
    assert sorted(listed) == sorted(set(pages))
    for place, text in pages.items():
        for link in re.findall(r"(?:\]\(|src=\")(?!https?:|#|\w+:)([^)\"#\s]+)", text):
            target = Path("/", place).parent.joinpath(link).resolve()
            assert str(target.relative_to("/")) in places, f"{place}: {link}"


def test_readme_begins_with_what_it_is_for_and_leads_to_the_rest():
    text = (REPO / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    screen = text[: text.index("\n## ")]
    assert screen.count("<img ") + screen.count("![") == 1
    assert re.findall(r"^make (\w+)", screen, re.MULTILINE) == ["demo", "test"]
    links = re.findall(r"(?:\]\(|src=\")(?!https?:)([^)\"#\s]+)", text)
    assert all((REPO / link).exists() for link in links)
    there = {link.removeprefix("docs/") for link in links}
    assert there >= {place for place in WRITTEN if place.startswith(("guide/", "howto/", "explanation/"))}


def test_tables_of_results_are_those_of_the_readme():
    def tables(text: str) -> dict[str, str]:
        return {table.splitlines()[0]: table for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)}

    here = tables(PAGES["results.md"])
    there = tables((REPO / "README.md").read_text())
    assert len(here) >= 4
    assert all(here[head] == there[head] for head in here.keys() & there.keys())


def test_pages_fetch_nothing():
    """No picture, script or style from elsewhere, and no theme's option that brings one."""
    config = yaml.safe_load((REPO / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript"} & config.keys()
    assert all("//" not in style for style in config["extra_css"])
    for text in PAGES.values():
        assert not re.search(r"!\[[^]]*\]\(https?:|<(?:script|img|iframe|link)\b|```mermaid", text)


def test_a_notebook_becomes_a_page(tmp_path, monkeypatch):
    cells = [
        {"cell_type": "markdown", "source": ["# A first look\n", "Text."]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [{"text": ["1\n"]}, {"data": {"image/png": "AAAA\n", "text/plain": ["<Figure>"]}}],
        },
    ]
    (tmp_path / "A_look.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert "[A\\_look](A_look.md) | A first look" in notebooks.demonstrations_page()
    page = dict(site.pages())["demonstrations/A_look.md"]
    assert "````python\nprint(1)\n````" in page
    assert "````text\n1\n````" in page
    assert 'src="data:image/png;base64,AAAA"' in page


def test_make_docs_installs_the_extra():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert "mkdocs" in str(project["optional-dependencies"]["docs"])
    assert '-e ".[docs]"' in (REPO / "Makefile").read_text()


def test_the_paper_cites_what_its_bibliography_has():
    text = (REPO / "paper" / "paper.md").read_text()
    entries = re.findall(r"^@\w+\{(\w+),", (REPO / "paper" / "paper.bib").read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(re.findall(r"@(\w+)", text)) == set(entries)
    assert {"Summary", "Statement of need", "State of the field"} <= set(re.findall(r"^# (.*)$", text, re.MULTILINE))


def test_workflows_run_what_make_has():
    """Commands of the workflows are targets, and the versions of Python begin with the oldest that is supported."""
    made = (REPO / "Makefile").read_text()
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    workflows = [yaml.safe_load(path.read_text()) for path in (REPO / ".github" / "workflows").glob("*.yml")]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job["steps"]]
    targets = {match[1] for step in steps if (match := re.match(r"make (\w+)", step.get("run", "")))}
    assert targets == {"lint", "test", "docs"}
    assert all(re.search(rf"^{target}:", made, re.MULTILINE) for target in targets)
    (versions,) = [
        job["strategy"]["matrix"]["python"] for w in workflows for job in w["jobs"].values() if "strategy" in job
    ]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert project["requires-python"] == f">={versions[0]}"
    for path in (REPO / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert path.stem == "config" or {"name", "description", "body"} <= form.keys()
