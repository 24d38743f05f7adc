"""The notebooks run, in a reduced form, and what is stored of them is small and tells no machine's secrets.

Three run in kernels of their own, as a reader runs them; all of them in this process with `make test-slow`.
"""

import ast
import json
import logging
import os
import re
import runpy
import sys
from base64 import b64decode

import pytest

from tests.conftest import REPO, run_here

FOLDER = REPO / "demonstrations"
NOTEBOOKS = sorted(FOLDER.glob("[A-Z]_*.ipynb"))
IN_KERNELS = ("A_hydra", "C_system", "E_framework")
# What takes the place of the sizes in the cell that is tagged `parameters`.
REDUCED = {
    "D_first_look": {"NSIDE": 16, "MARGIN": 32},
    "F_pipeline": {"NSIDE": 32},
    "G_stages_and_methods": {"NSIDE": 32, "STEPS": 20, "SKIES": {"train": 1, "valid": 0, "test": 2}},
    "H_instruments_and_masks": {"NSIDE": 32},
    "I_delensing": {
        "NSIDE": 64,
        "MARGIN": 64,
        "LMIN_B": 30,
        "EPOCHS": 1,
        "SIZES": ("splits.train=1", "splits.valid=1", "splits.test=2"),
    },
}
LARGEST = 300_000  # bytes, of a stored notebook
PLACES = re.compile(r"/(tmp|home|work|root|Users|usr|opt|var)/")


def cells(path, kind="code"):
    """Cells of a notebook, those with sizes by smaller ones."""
    sizes = REDUCED.get(path.stem, {})
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != kind:
            continue
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            assert {target.id for node in ast.parse(source).body for target in node.targets} == set(sizes)
            source = "\n".join(f"{name} = {value!r}" for name, value in sizes.items())
        yield cell, source


def shown(source, names):
    """Run a cell; the value of its last line, if that is an expression, as it is shown."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return value._repr_png_() if hasattr(value, "_repr_png_") else value


def test_there_are_nine():
    assert [path.name[0] for path in NOTEBOOKS] == list("ABCDEFGHI")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored(path):
    """Small, run from top to bottom, without an error, and without a path or name of the machine that made it."""
    assert path.stat().st_size <= LARGEST
    counts, pictures = [], 0
    for cell, source in cells(path):
        counts.append(cell["execution_count"])
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data", "execute_result")
            pictures += "image/png" in output.get("data", {})
            told = {key: value for key, value in output.get("data", {}).items() if key != "image/png"}
            words = "".join(output.get("text", [])) + json.dumps(told)
            assert not PLACES.search(words), words
            assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", words), words
            assert "Traceback" not in words
            assert output.get("name") != "stderr", words
        assert not PLACES.search(source)
    assert counts == list(range(1, len(counts) + 1))
    assert pictures >= 1
    first = next(cells(path, "markdown"))[1]
    assert first.startswith(f"# {path.stem[0]}. ")


@pytest.mark.parametrize("name", IN_KERNELS)
def test_notebook_in_a_kernel(name, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    stored = [cell for cell, _ in cells(FOLDER / f"{name}.ipynb")]
    for cell, before in zip((cell for cell in notebook.cells if cell.cell_type == "code"), stored, strict=True):
        kinds = [{*output.get("data", {})} for output in cell.outputs if output.output_type != "stream"]
        assert kinds == [{*o.get("data", {})} for o in before["outputs"] if o["output_type"] != "stream"]
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert all(b64decode(output.data["image/png"]).startswith(b"\x89PNG") for output in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_in_this_process(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMBML_ROOT", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"__name__": "__main__"}
    level = logging.getLogger().level
    pictures = [shown(source, names) for _, source in cells(path)]
    logging.getLogger().setLevel(level)
    assert any(isinstance(picture, bytes) for picture in pictures)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures if isinstance(picture, bytes))


SKIES = (
    "experiment=tiny",
    "cosmology=fiducial",
    "noise=scan",
    "sky.fields=[T]",
    "nside=16",
    "sky.margin=32",
    "splits.train=1",
    "splits.valid=1",
    "splits.test=2",
    "analysis.lmax=40",
    "analysis.delta_l=6",
)
NETWORK = ("method=patch_unet", "epochs=1", "patches.patch=16", "patches.halo=4", "network.n_filters=2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Root of a tiny dataset with two finished methods."""
    root = tmp_path_factory.mktemp("figures")
    made = "synthetic_templates,mask,foregrounds,components,variance,theory,cmb,cmb_map,observe,measure"
    for method, stages in ((("method=hilc",), "clean"), (NETWORK, "target,train,predict")):
        selected = f"run.only=[{made},{stages}]"
        code, error = run_here(*SKIES, *method, selected, "run.workers=1", root=root, config_name="clean")
        assert code == 0, error
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("observations",),
        ("variance",),
        ("beams",),
        ("components",),
        ("cleaned", "--methods", "hilc,patch_unet"),
        ("cleaned", "--methods", "hilc", "--zoom", "0,60,40"),
        ("theory", "--methods", "hilc,patch_unet"),
        ("patches", *NETWORK),
    ],
    ids=" ".join,
)
def test_figures(words, dataset, tmp_path):
    draw = runpy.run_path(str(FOLDER / "figures" / "draw.py"))
    draw["main"]([*words, *SKIES, f"system.root={dataset}", "--out", str(tmp_path)])
    assert (tmp_path / f"{words[0]}.png").stat().st_size > 10_000
    assert (tmp_path / f"{words[0]}.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_of_what_is_not_there_ends_with_a_sentence(tmp_path):
    draw = runpy.run_path(str(FOLDER / "figures" / "draw.py"))
    for words, told in ((("variance",), "is the same in all pixels"), (("observations",), "not made yet")):
        with pytest.raises(SystemExit, match=told):
            draw["main"]([*words, "experiment=tiny", f"system.root={tmp_path}", "--out", str(tmp_path)])
    assert not list(tmp_path.glob("*.p*"))
