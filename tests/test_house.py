"""Who may know whom: the rooms of the package import only what the design allows."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cmbml"
# What each room may import of the package beside itself (a room, or one module of it).
MAY_KNOW = {
    "core": set(),
    "config": {"core"},
    "sky": set(),
    "networks": set(),
    "maps": {"core", "sky"},
    "train": {"sky.patches", "sky.rotation", "core", "config.limits", "config.schema"},
    "sims": {"core", "config", "maps", "sky"},
    "analysis": {"core", "config", "maps", "sky", "sims.bands"},
    "methods": {"core", "config", "maps", "sky", "train", "networks", "sims.bands"},
    "commands": {"core", "config", "maps", "sky", "sims", "train", "analysis", "start"},
}
JOBS = {"delensing", "cleaning"}
TRANSFORMS = {"ducc0", "lenspyx"}
READS_TABLES = PACKAGE / "sky" / "tables.py"


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if len(p.relative_to(PACKAGE).parts) > 1)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    room, *rest = path.relative_to(PACKAGE).parts
    names = imports(path)
    known = {name.removeprefix("cmbml.") for name in names if name.startswith("cmbml.")}
    for name in known:
        own_room = name.split(".")[0] == room
        allowed = own_room or any(name == a or name.startswith(f"{a}.") for a in MAY_KNOW[room])
        assert allowed, f"{room} must not know {name}"
        if room == "methods" and own_room and len(rest) > 1:
            other = name.split(".")[1]
            assert other in (rest[0], "shared"), f"method {rest[0]} must not know method {other}"
        if room == "analysis" and own_room and len(rest) == 1:
            assert name.split(".")[1] not in JOBS, f"what both jobs share must not know {name}"
        if room == "analysis" and own_room and len(rest) > 1:
            assert name.split(".")[1] not in JOBS - {rest[0]}, f"{rest[0]} must not know {name}"
    if room == "methods" and rest[0] == "shared":
        assert not any(name.startswith("methods.") and name.split(".")[1] != "shared" for name in known)
    if room != "maps" and path != READS_TABLES:
        assert not any(name.startswith("astropy.io") for name in names), "only maps/ reads and writes FITS"
    libraries = {name.split(".")[0] for name in names}
    if room in ("sky", "sims", "analysis") or (room == "core" and path.name != "launch.py"):
        assert "torch" not in libraries
    if room == "networks":
        assert not libraries & {"numpy", "healpy", "hydra", "omegaconf"}
    if path != PACKAGE / "sky" / "sht.py":
        assert not libraries & TRANSFORMS, "only sky/sht.py calls a spherical-harmonic library"
        used = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
        own = {"map2alm", "alm2map", "anafast", "synfast", "smoothing", "synalm"} & used
        assert not own, f"{own} belong into sky/sht.py"


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent / "tests"], ids=["cmbml", "tests"])
def test_headers_of_a_class_stand_on_a_line_each(folder):
    """So that `grep "outputs = "` finds every stage's."""
    for path in sorted(folder.rglob("*.py")):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        headers = [node for cls in classes for node in cls.body if isinstance(node, ast.Assign)]
        packed = [node.lineno for node in headers if any(isinstance(target, ast.Tuple) for target in node.targets)]
        assert not packed, f"{path}: several headers stand on the lines {packed}"


def test_files_stay_small():
    for path in modules():
        assert path.read_text().count("\n") <= 400, path


def words(path: Path) -> set[str]:
    """Names and texts of a module, in parts; not its docstrings and comments."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
            found.add(node.value)
    return {part for text in found for part in re.split(r"[^A-Za-z0-9]+", text)}


# What only the rooms that do physics may name: keys of the sky, fields, and the methods.
PHYSICS = {
    *("nside", "lmax", "alm", "fwhm", "arcmin", "beam", "noise", "mask", "sky", "cmb", "lensed", "kappa", "phi"),
    *("obs", "band", "instrument", "foregrounds", "delens", "clean", "E", "Q", "U", "TQU", "uK"),
    *(path.stem for path in (PACKAGE.parent / "cfg" / "method").glob("*.yaml") if path.stem != "external"),
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_the_engine_names_no_field_no_method_and_no_physical_key(path):
    assert not words(path) & PHYSICS


def test_mains_are_short():
    for path in PACKAGE.parent.glob("main_*.py"):
        assert path.read_text().count("\n") <= 25
