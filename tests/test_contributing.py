"""CONTRIBUTING.md names files that are there, commands that can be typed, and examples that keep the contract."""

import ast
import re
import shlex

import pytest
import yaml

from tests.conftest import REPO

TEXT = (REPO / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
PLACES = sorted(
    set(re.findall(r"`((?:cmbml|cfg|tests|docs|assets|benchmarks)/[\w./]*|[\w.-]+\.(?:md|txt|yaml))`", PROSE))
)
TYPED = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
COMMANDS = [shlex.split(line, comments=True) for line in TYPED + re.findall(r"`((?:python|make) [^`]*)`", PROSE)]
# What a reader adds as he reads.
ADDED = ("linear", "fraction", "band_mean")


def made(target: str) -> bool:
    return re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE) is not None


def test_it_is_read():
    assert len(PLACES) > 20
    assert len(COMMANDS) > 10
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "yaml"}


@pytest.mark.parametrize("place", PLACES)
def test_places_are_there(place):
    assert (REPO / place).exists()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_can_be_typed(words):
    if words[0] == "make":
        assert all(made(target) for target in words[1:])
    elif words[:3] == ["python", "-m", "pytest"]:
        places = [REPO / word for word in words[3:] if "/" in word]
        assert places
        assert all(place.exists() for place in places)
        if "-k" in words:
            assert f"def test_the_{words[words.index('-k') + 1]}" in places[0].read_text()
    elif words[0] == "python":
        assert (REPO / words[1]).is_file()
        for group, option in (word.split("=", 1) for word in words[2:]):
            if (REPO / "cfg" / group).is_dir() and option not in ADDED:
                assert (REPO / "cfg" / group / f"{option}.yaml").is_file()
    else:
        assert words[0] == "source"


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_stages_keep_the_contract(text):
    """Each has its headers a line each, and a run whose keywords are the names of its inputs."""
    stages = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert stages
    for stage in stages:
        headers = {node.targets[0].id: node.value for node in stage.body if isinstance(node, ast.Assign)}
        run = next(node for node in stage.body if isinstance(node, ast.FunctionDef) and node.name == "run")
        keywords = {argument.arg for argument in run.args.kwonlyargs}
        assert {"name", "inputs", "outputs"} <= headers.keys()
        assert keywords == {_keyword(given) for given in headers["inputs"].elts}
        assert [argument.arg for argument in run.args.args] == ["self", "item"]


def _keyword(given: ast.expr) -> str:
    """The name under which an input arrives."""
    if isinstance(given, ast.Constant):
        return given.value
    named = {keyword.arg: keyword.value for keyword in given.keywords}
    return (named.get("name") or given.args[0]).value


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_options_are_yaml(text):
    option = yaml.safe_load(text)
    assert "_target_" in option or {"name", "target", "stages"} <= option.keys()
    for stage in option.get("stages", []):
        module, name = stage.rsplit(".", 1)
        if not any(added in module for added in ADDED):
            assert f"class {name}(" in (REPO / f"{module.replace('.', '/')}.py").read_text()
        else:
            assert f"class {name}(" in TEXT


@pytest.mark.parametrize("path", sorted((REPO / "docs" / "adr").glob("*.md")), ids=lambda path: path.stem)
def test_decisions_say_when_and_instead_of_what(path):
    text = path.read_text()
    date = "YYYY-MM-DD" if path.stem == "template" else r"20\d\d-\d\d-\d\d"
    assert re.match(rf"# [^\n]+\n\nStatus: (proposed|accepted|superseded)\b[^\n]*\. Date: {date}\.\n\n", text)
    parts = [text.find(f"\n{part}") for part in ("Decided:\n\n- ", "What follows: ", "Alternatives: ")]
    assert 0 < parts[0] < parts[1] < parts[2]


def test_changelog_is_dated():
    text = (REPO / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - 20\d\d-\d\d-\d\d", version) for version in versions[1:])
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_hooks_are_tools_of_the_environment():
    """No hook is fetched from anywhere, and each begins with a tool that the dev extra installs."""
    for repo in yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repo["repo"] == "local"
        for hook in repo["hooks"]:
            assert hook["language"] == "system"
            tool = shlex.split(hook["entry"])[0]
            assert tool == "python" or re.search(
                rf'^dev = .*"{tool}"', (REPO / "pyproject.toml").read_text(), re.MULTILINE
            )
