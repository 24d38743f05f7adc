"""The manifest's templates are those that PySM3 itself asks for."""

import inspect
import re
import string
import tomllib
from pathlib import Path

import pytest
from catalogue import frequencies, read_manifest, select, templates
from fetch import MANIFEST, PRESETS
from pysm3 import models, utils

FILE = re.compile(r"[\w.+/{}:-]+/[\w.+{}:-]+\.(?:fits\.gz|fits|txt|dat|h5)")
CONFIG = tomllib.loads((Path(inspect.getfile(models)).parents[1] / "data" / "presets.cfg").read_text())
PLANCK_GHZ = [28.4, 44.1, 70.4, 100.89, 142.876, 221.156, 357.5, 555.2, 866.8]


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(MANIFEST)


class Fields(dict):
    """Leaves unknown replacement fields of a format as they are."""

    def __missing__(self, key):
        return f"{{{key}}}"


def named_in_source(model: type, **values) -> set[str]:
    """Paths written in the code of a model, with attributes replaced by values."""
    found = FILE.findall(re.sub(r'"\s*\+\s*f?"', "", inspect.getsource(model)))
    return {string.Formatter().vformat(name.replace("self.", ""), (), Fields(values)) for name in found}


def wanted(settings: dict, nside: int) -> set[str]:
    """Paths that PySM3 opens for a preset: those of presets.cfg, and those that its classes write themselves."""
    if "class" not in settings:
        return set().union(*(wanted(part, nside) for part in settings.values()))
    model = getattr(models, settings["class"])
    near = min(settings.get("available_nside", [0]), key=lambda n: abs(n - nside))
    layers = range(1, settings.get("num_layers", 1) + 1)
    texts = [value for value in settings.values() if isinstance(value, str) and FILE.fullmatch(value)]
    names = {text.format(nside=near, layer=layer) for text in texts for layer in layers}
    if issubclass(model, models.WebSkyCIB):
        names |= set(model(nside=nside).maps.values())
    elif model is models.InterpolatingComponent:
        given = {key: value for key, value in settings.items() if key != "class"}
        names |= {path.format(nside=near) for path in model(nside=nside, **given).maps.values()}
    elif model is models.COLines:
        names |= named_in_source(model, template_nside=512 if nside <= 512 else 2048)
        leave = [] if settings["has_polarization"] else ["psimap", "gmap"]
        leave += [] if settings.get("include_high_galactic_latitude_clouds") else ["mcmole"]
        names = {name for name in names if not any(word in name for word in leave)}
    elif model is models.HensleyDraine2017:
        names |= named_in_source(model)
    elif model is models.WebSkyCMB:
        kind, near = "lensed" if settings["lensed"] else "unlensed", 512 if nside <= 512 else 4096
        names |= {f"websky/0.4/cmb/map_{p}_{kind}_alm_seed{settings['seed']}_nside{near}.fits" for p in "IQU"}
    return names


@pytest.mark.parametrize("nside", [512, 2048, 8192])
def test_every_preset_has_the_files_that_pysm3_opens(manifest, nside):
    assert set(manifest.presets) == set(CONFIG)
    for name, settings in CONFIG.items():
        entries = templates(manifest, [name], nside=nside)
        assert {entry.name for entry in entries} == wanted(settings, nside), name
        assert all(entry.url == f"{utils.data.DATAURL}{entry.name}" for entry in entries)
        assert all(entry.to == f"PySM/{entry.name}" for entry in entries)


def test_only_the_maps_that_an_interpolation_reads(manifest):
    grid = models.WebSkyCIB(nside=1).websky_freqs_float
    bands = [(ghz, ghz) for ghz in PLANCK_GHZ] + [(100.0, 100.0), (120.0, 160.0), (17.0, 18.0)]
    for low, high in bands:
        assert frequencies(grid, [(low, high)]) == utils.get_relevant_frequencies(grid, low, high)
    chosen = select(manifest, presets=PRESETS.split(","), bands=None)
    read = {f for ghz in PLANCK_GHZ for f in utils.get_relevant_frequencies(grid, ghz, ghz)}
    for family in ("cib", "radio"):
        assert {e.name for e in chosen if f"/{family}/" in e.name} == {
            f"websky/0.4/{family}/{family}_{f:06.1f}.fits" for f in read
        }
    assert len(select(manifest, only=["cib1"], bands=None)) == len(grid)


def test_what_is_extra_is_brought_where_it_is_named(manifest):
    usual = {e.name for e in select(manifest, bands=None)}
    assert {"planck_143", "planck_nilc"} <= usual
    assert not any(name.startswith("pr3_") for name in usual)
    assert len(select(manifest, only=["pr3_hm*"], bands=None)) == 14


def test_templates_are_named_by_preset_by_path_and_by_pattern(manifest):
    path = "websky/0.4/cib/cib_0143.0.fits"
    assert [e.name for e in select(manifest, only=[path, "planck_143", path], bands=None)] == [path, "planck_143"]
    assert len(select(manifest, only=["planck_???"], bands=None)) == 9
    assert len(select(manifest, only=["dust_gnilc/gnilc_dust_template*"], bands=None)) == 3
    one, four = (templates(manifest, ["d9"], nside=n)[0].about for n in (2048, 4096))
    assert four == 4 * one
