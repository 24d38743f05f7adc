"""The examples of docstrings run and are right, each from nothing but its module; every function of sky has one.

``pytest --doctest-modules cmbml/sky cmbml/networks`` runs them, too, in the root of the clone.
"""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import REPO

ROOMS = ("sky", "maps", "networks")
MODULES = sorted(f"cmbml.{room}.{path.stem}" for room in ROOMS for path in (REPO / "cmbml" / room).glob("[!_]*.py"))
# They take seconds (CAMB to l = 4000), or PySM3 and its templates.
WITHOUT = {
    "lensing_theory": {"fiducial"},
    "foregrounds": {
        "MissingTemplates", "offline_pysm", "template_files", "missing_templates", "preset_sky", "synthetic_sky",
        "evaluate",
    },
    "synthetic": {"Slab", "Clumps"},
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch):
    monkeypatch.chdir(REPO)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("path", sorted((REPO / "cmbml" / "sky").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_function_of_sky_has_an_example(path: Path):
    public = {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    without = {name for name, text in public.items() if "Examples\n--------\n" not in text or ">>> " not in text}
    assert without <= WITHOUT.get(path.stem, set())
