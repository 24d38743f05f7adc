"""What an installation brings along: the extras stay apart, and every version stands in constraints.txt."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
PINNED = {line.split("==")[0] for line in (REPO / "constraints.txt").read_text().split()}


def plain(name: str) -> str:
    """The name of a distribution as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """All distributions that these requirements bring along, by the metadata of what is installed here."""
    found = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        name = plain(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name == "cmbml":
            waiting += [(more, "") for one in requirement.extras for more in PROJECT["optional-dependencies"][one]]
            continue
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [(need, one) for need in needs for one in ("", *requirement.extras)]
    return found


def test_a_run_needs_no_tool_of_the_tests():
    needed = closure(PROJECT["dependencies"])
    assert {"numpy", "ducc0", "torch"} <= needed
    assert not needed & {"lenspyx", "cmbroom", "pytest", "ruff"}


def test_conda_installs_what_a_run_needs_and_no_more():
    pip = yaml.safe_load((REPO / "env.yaml").read_text())["dependencies"][-1]["pip"]
    assert pip == ["-c constraints.txt", "-e ."]  # -r would install the whole list


@pytest.mark.parametrize("extra", ["", "dev", "foreign"])
def test_every_version_is_pinned(extra):
    requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    installers = {"pip", "setuptools", "wheel"}
    # torch's CUDA libraries are pinned by torch itself, each to one version.
    needed = {name for name in closure(requirements) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert needed - installers <= {plain(name) for name in PINNED}
