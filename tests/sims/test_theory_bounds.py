"""Cosmologies that CAMB cannot compute are refused in a sentence that names the key, before anything runs."""

import re
import sys
import types

import numpy as np
import pytest

from cmbml.core.errors import UserError
from cmbml.sims.theory import Theory
from cmbml.sky import cosmology
from cmbml.start import build

BASE = {"H0": 67.4, "ombh2": 0.0224, "omch2": 0.12, "tau": 0.054, "ns": 0.965, "As": 2.1e-9}
WRONG = {
    "As": ["cosmology.base.As=-1"],
    "r": ["cosmology.base.r=-0.1"],
    "mnu": ["cosmology.base.mnu=-0.06"],
    "H0": ["cosmology.base.H0=0"],
    "tau": ["cosmology.base.tau=[1]"],
    "ns": ["cosmology.base.ns=text"],
    "omch2": ["cosmology.base.omch2=null"],
    "of a grid": ["+cosmology.grid.nt=[0,-9]", "cosmology.grid.nt=-9"],
    "no grid": ["+cosmology.grid.nt=3", "cosmology.grid.nt=3 must be a list"],
    "empty grid": ["+cosmology.grid.nt=[]", r"cosmology.grid.nt=\[\] must be a list of at least one"],
    "gaussian": ["+cosmology.gaussian.names=[nt]", "cosmology.gaussian has the keys names; it wants"],
    "no chain": ["++cosmology.chain={path: 3, names: {H0: H0}}", "cosmology.chain.path=3 must be a text"],
    "no names": ["++cosmology.chain={path: x, names: 3}", "cosmology.chain.names=3 must be a mapping"],
    "pivot": ["++cosmology.chain={path: x, names: {}, pivot: a}", "cosmology.chain.pivot=a must be a number"],
    "scale": ["++cosmology.chain={path: x, names: {}, scale: {As: a}}", "cosmology.chain.scale.As=a must be a number"],
    "fiducial": ["delens.fiducial.As=-1", "delens.fiducial.As=-1.0 must be a number between 1e-10 and 1e-08"],
    "fiducial tensors": ["delens.fiducial.mnu=-1", "delens.fiducial.mnu=-1.0 must be a number between 0 and 3"],
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_cosmology_is_refused_before_anything_runs(composed, mistake):
    word, *said = WRONG[mistake]
    cfg = composed("experiment=tiny", word)
    with pytest.raises(UserError, match=said[0] if said else f"^{re.escape(word.split('=')[0])}=") as refused:
        build(cfg, [word.lstrip("+").split("=")[0]]).run(dry=True)
    assert str(refused.value).endswith(".")


def test_an_unknown_parameter_of_a_variant_is_refused_before_anything_runs(composed):
    words = "analysis.response=true", "method=quadratic", "sims.variants=[{name: a, cosmology: {foo: 1}}]"
    cfg = composed("experiment=tiny", *words)
    with pytest.raises(UserError, match="^sims.variants.0.cosmology: unknown cosmological parameter foo; known: As,"):
        build(cfg, [word.partition("=")[0] for word in words]).run(dry=True)


def test_what_is_drawn_out_of_range_is_refused():
    gaussian = {"names": ["r"], "mean": [0.01], "sigma": [1e6]}
    with pytest.raises(ValueError, match="^cosmology.gaussian.r=-?[0-9.]+ must be a number between 0 and 3"):
        cosmology.draw_parameters({"base": BASE, "gaussian": gaussian}, np.random.default_rng(0))


def test_nothing_out_of_range_is_given_to_camb(monkeypatch):
    monkeypatch.setitem(sys.modules, "camb", types.SimpleNamespace())  # whose every use is an AttributeError
    for name, (low, high) in cosmology.RANGES.items():
        rest = {
            key: value for key, value in BASE.items() if {key, name} not in ({"As", "ln10As"}, {"H0", "theta_MC_100"})
        }
        for value in (low - 1, high + 1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"^{name}={value} must be a number between"):
                cosmology.spectra({**rest, name: value}, 100)


def test_what_camb_refuses_ends_with_a_sentence(composed, monkeypatch):
    """No H0 has this angle: CAMB says so in an exception of its own."""
    cfg = composed("experiment=tiny", "~cosmology.base.H0", "+cosmology.base.theta_MC_100=2.0")
    said = r"^cosmology: CAMB computes no spectra of .*theta_MC_100=2.* \(No solution for H0 inside of .*\)\.$"
    with pytest.raises(UserError, match=said):
        Theory(cfg).run({"split": "test", "sim": 0})
