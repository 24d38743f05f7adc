"""Draws beside the published distributions; spectra beside other routes to the same numbers."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import camb
import numpy as np
import pytest
import yaml
from camb import correlations
from scipy.stats import chi2

from cmbml.sky import cosmology
from cmbml.sky.spectra import cl_to_dl

CFG = Path(__file__).parents[2] / "cfg" / "cosmology"
NAMES = ("grid_as_r", "fiducial", "planck2018", "wmap9")


def described(name: str) -> dict:
    return yaml.safe_load((CFG / f"{name}.yaml").read_text())


def draws(name: str, n: int, seed: int = 0) -> list[dict[str, float]]:
    rng, spec = np.random.default_rng(seed), described(name)
    return [cosmology.draw_parameters(spec, rng) for _ in range(n)]


@pytest.fixture(scope="module")
def fiducial() -> dict[str, np.ndarray]:
    return cosmology.spectra(draws("fiducial", 1)[0], 2200)


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_four_keys(name):
    assert set(described(name)) == {"base", "grid", "gaussian", "chain"}
    params = draws(name, 1)[0]
    assert params["mnu"] == 0.06  # eV; as a density it would be 5.6 eV
    assert params["r"] > 0


def test_grid_gives_each_of_the_thirty_alike():
    found = [(p["As"], p["r"]) for p in draws("grid_as_r", 3000)]
    points, counts = np.unique(found, axis=0, return_counts=True)
    np.testing.assert_allclose(np.unique(points[:, 0]), [2.0e-9, 2.1e-9, 2.2e-9])
    np.testing.assert_allclose(np.unique(points[:, 1]), np.arange(1, 11) / 1000)
    assert len(points) == 30
    assert chi2.sf(np.sum((counts - 100) ** 2 / 100), 29) > 1e-3


@pytest.mark.parametrize(("name", "h0", "sigma"), [("planck2018", 67.36, 0.54), ("wmap9", 70.0, 2.2)])
def test_theta_gives_the_published_hubble_constant(name, h0, sigma):
    """H0 is not drawn: its mean and scatter follow from theta_MC, the densities and all their correlations."""
    n = 150
    found = np.array([cosmology._camb_parameters(p).H0 for p in draws(name, n)])
    assert abs(found.mean() - h0) < 4 * sigma / np.sqrt(n)
    assert abs(found.std() / sigma - 1) < 4 / np.sqrt(2 * n)


@pytest.mark.parametrize("name", ["planck2018", "wmap9"])
def test_amplitude_is_drawn_with_the_rest(name):
    n = 4000
    found = draws(name, n)
    gaussian = described(name)["gaussian"]
    table = np.array([[p[x] for x in gaussian["names"]] for p in found])
    np.testing.assert_allclose((table.mean(0) - gaussian["mean"]) / gaussian["sigma"], 0, atol=4 / np.sqrt(n))
    np.testing.assert_allclose(table.std(0) / gaussian["sigma"], 1, atol=4 / np.sqrt(2 * n))
    rho = np.corrcoef(table.T)
    for pair, value in gaussian["correlation"].items():
        i, j = (gaussian["names"].index(x) for x in pair.split())
        assert abs(rho[i, j] - value) < 4 * (1 - value**2) / np.sqrt(n), pair
    assert len(gaussian["correlation"]) == 15


TWO = {"names": ["r", "mnu"], "mean": [0, 0], "sigma": [1, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": {"H0": 67, "h": 0.7}}, "unknown cosmological parameter h;"),
        ({"base": {"H0": 67, "theta_MC_100": 1.04}}, "either H0 or theta_MC_100"),
        ({"base": {"tau": 0.06}}, "either H0 or theta_MC_100"),
        ({"grid": {"As": [2e-9], "tau": [0.05]}}, "tau more than once"),
        ({"grid": {}}, "either As or ln10As"),
        ({"gaussian": TWO | {"correlation": {"r mnu": 1.1}}}, "not positive definite"),
        ({"gaussian": TWO | {"correlation": {"r x": 0.1}}}, "'r x'"),
        ({"gaussian": TWO | {"correlation": {"r mnu": 0.1, "mnu r": 0.1}}}, "given twice"),
        ({"gaussian": TWO | {"sigma": [1]}}, "as many means"),
    ],
)
def test_mistakes_are_refused(change, message):
    spec = {"base": {"H0": 67, "ombh2": 0.022, "omch2": 0.12, "tau": 0.05, "ns": 0.96}, "grid": {"As": [2e-9, 3e-9]}}
    if "tau" in change.get("base", {}):
        del spec["base"]["H0"]
    elif "base" in change:
        change = {"base": {**spec["base"], **change["base"]}}
    else:
        cosmology.draw_parameters(spec, np.random.default_rng(0))  # nothing else is wrong with it
    spec |= {k: spec[k] | v if k == "base" else v for k, v in change.items()}
    with pytest.raises(ValueError, match=message):
        cosmology.draw_parameters(spec, np.random.default_rng(0))


# --- spectra --------------------------------------------------------------------------------------------------------


def test_units_and_size(fiducial):
    """Numbers that a Planck-like cosmology is known for."""
    dl = cl_to_dl(fiducial["tt"])
    assert abs(dl.argmax() - 220) < 4
    assert abs(dl.max() / 5730 - 1) < 0.02  # uK^2, the first peak
    ell = np.arange(len(dl))
    deflection = np.sqrt(np.sum((2 * ell + 1) * ell * (ell + 1) * fiducial["pp"]) / (4 * np.pi))
    assert 2.3 < np.rad2deg(deflection) * 60 < 2.6  # arcmin rms
    lensing_b = np.sqrt((fiducial["lensed_bb"] - fiducial["bb"])[10])
    assert np.rad2deg(lensing_b) * 60 == pytest.approx(5, rel=0.1)  # uK arcmin
    assert cl_to_dl(fiducial["bb"])[80] == pytest.approx(6.7e-4, rel=0.1)  # uK^2, r = 0.01
    assert np.all(fiducial["tp"][2:40] > 0)  # late potentials decay: overdense lines of sight are hot
    for cl in fiducial.values():
        np.testing.assert_array_equal(cl[:2], 0)


def test_lensed_spectra_follow_from_the_unlensed_ones(fiducial):
    """Lensing tt, ee, bb, te by pp with another routine of CAMB, which wants other normalisations."""
    ell = np.arange(2201)
    unlensed = np.stack([cl_to_dl(fiducial[x]) for x in ("tt", "ee", "bb", "te")], axis=1)
    theirs = correlations.lensed_cls(unlensed, fiducial["pp"] * (ell * (ell + 1.0)) ** 2 / (2 * np.pi))
    ours = np.stack([cl_to_dl(fiducial[f"lensed_{x}"]) for x in ("tt", "ee", "bb")], axis=1)
    np.testing.assert_allclose(ours[2:1000, :2], theirs[2:1000, :2], rtol=1e-3)
    np.testing.assert_allclose(ours[2:500, 2], theirs[2:500, 2], rtol=1e-2)  # E and phi end at l = 2200: .5 % less B


def test_correlations_with_the_potential_by_another_route(fiducial):
    """CAMB's table of all source spectra, at its lower accuracy, to L = 300: phi-phi, T-phi and E-phi."""
    params = draws("fiducial", 1)[0]
    pars = camb.set_params(H0=params["H0"], ombh2=params["ombh2"], omch2=params["omch2"], tau=params["tau"])
    pars.InitPower.set_params(As=params["As"], ns=params["ns"])
    pars.set_for_lmax(400, lens_potential_accuracy=1)
    table = camb.get_results(pars).get_cmb_unlensed_scalar_array_dict(pars, lmax=300)
    ell = np.arange(301)
    deflection = np.sqrt(ell * (ell + 1.0))  # "P" is the deflection
    temperature = 2.7255e6  # dimensionless to uK
    for name, tag, power, unit in (("pp", "PxP", 2, 1), ("tp", "TxP", 1, temperature), ("ep", "ExP", 1, temperature)):
        theirs = table[tag][2:] * unit / (cl_to_dl(np.ones(301)) * deflection**power)[2:]
        ours = fiducial[name][2:301]
        scale = np.sqrt(ours**2 + (ours.std() / 100) ** 2) if name == "pp" else np.abs(ours).max() / 10 + np.abs(ours)
        assert np.abs((ours - theirs) / scale).max() < 0.02, name


def test_without_r_no_primordial_b_and_amplitude_scales(fiducial):
    params = draws("fiducial", 1)[0]
    none = cosmology.spectra(params | {"r": 0.0, "As": 1.1 * params["As"]}, 1000)
    np.testing.assert_array_equal(none["bb"], 0)
    # No tensors are left there; CAMB samples its sources a little differently without them.
    np.testing.assert_allclose(none["tt"][600:], 1.1 * fiducial["tt"][600:1001], rtol=5e-4)
    tensors = fiducial["tt"][2:30] - none["tt"][2:30] / 1.1
    assert np.all(tensors > 0)
    assert 0.002 < np.mean(tensors / fiducial["tt"][2:30]) < 0.02


def test_neither_lmax_nor_threads_change_a_bit(fiducial):
    """The same cosmology in a process with three threads, to another lmax."""
    code = (
        "import pickle, sys; from cmbml.sky import cosmology;"
        "sys.stdout.buffer.write(pickle.dumps(cosmology.spectra(pickle.loads(sys.stdin.buffer.read()), 300)))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    sent = pickle.dumps(draws("fiducial", 1)[0])
    done = subprocess.run([sys.executable, "-c", code], input=sent, env=environment, capture_output=True, check=True)
    for name, cl in pickle.loads(done.stdout).items():
        np.testing.assert_array_equal(cl, fiducial[name][:301], err_msg=name)


@pytest.mark.slow
def test_accuracy_against_a_much_finer_run(fiducial):
    params = draws("fiducial", 1)[0]
    pars = camb.set_params(H0=params["H0"], ombh2=params["ombh2"], omch2=params["omch2"], tau=params["tau"], omk=0)
    pars.InitPower.set_params(As=params["As"], ns=params["ns"], r=params["r"])
    pars.WantTensors = True
    pars.set_for_lmax(6000, lens_potential_accuracy=8)
    pars.set_accuracy(AccuracyBoost=1.5)
    pars.max_l_tensor, pars.max_eta_k_tensor = 2000, 6000
    results = camb.get_results(pars)
    unlensed = results.get_unlensed_total_cls(2200, CMB_unit="muK", raw_cl=True)
    lensed = results.get_total_cls(2200, CMB_unit="muK", raw_cl=True)
    potential = results.get_lens_potential_cls(2200, CMB_unit="muK", raw_cl=True)[:, 0]
    for name, theirs, tolerance in (
        ("tt", unlensed[:, 0], 1e-3),
        ("ee", unlensed[:, 1], 2e-3),
        ("lensed_tt", lensed[:, 0], 1e-3),
        ("lensed_ee", lensed[:, 1], 2e-3),
        ("lensed_bb", lensed[:, 2], 3.5e-3),
        ("pp", potential, 6e-3),
    ):
        np.testing.assert_allclose(fiducial[name][2:], theirs[2:], rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(fiducial["bb"][2:400], unlensed[2:400, 2], rtol=1e-2)
