"""Synthetic foregrounds beside the statistics of the sky, and what a seed, a resolution and a component decide."""

from functools import cache

import healpy as hp
import numpy as np
import pytest

from cmbml.sky import sht
from cmbml.sky.foregrounds import evaluate, synthetic_sky
from cmbml.sky.masks import apodise, band_mask
from cmbml.sky.synthetic import B_OVER_E, COMPONENTS, FIXED_INDEX, Law, templates, varied

NSIDE = 64
# Of the sky at nside 64, |b| > 20 deg, uK_CMB, dust at 357.5 GHz and the rest at 28.4: median, standard deviation,
# mean(|b| < 2 deg) / median, slope of C_l over l 20-100, D_80 in uK^2.
SKY = {
    "dust": (426, 753, 83, -2.3, 6.6e4),
    "synchrotron": (39.4, 23.4, 9.4, -3.2, 16),
    "freefree": (7.3, 102, 648, -1.85, 3050),
    "ame": (20.7, 33.8, 64, -1.8, 199),
}
RMS = {28.4: 132, 44.1: 50.5, 70.4: 21.8, 100.89: 20.1, 142.876: 32.4, 221.156: 100, 357.5: 756, 555.2: 1.51e4}
HIGH = band_mask(NSIDE, 20.0) == 1
PLANE = band_mask(NSIDE, 2.0) == 0


def rngs(seed: int) -> dict[str, np.random.Generator]:
    return {name: np.random.default_rng([seed, i]) for i, name in enumerate(COMPONENTS)}


@cache
def drawn(seed: int, nside: int = NSIDE) -> dict[str, dict[str, np.ndarray]]:
    return templates(nside, rngs(seed))


def at(seed: int, component: str, freq: float) -> np.ndarray:
    return evaluate([synthetic_sky(component, drawn(seed)[component])], freq)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_statistics_are_those_of_the_sky(component, seed):
    """Within a factor of 2, and 0.5 in slope, for a draw; the spectrum is that of an apodised sky over f_sky."""
    median, scatter, plane, slope, d80 = SKY[component]
    intensity = at(seed, component, 357.5 if component == "dust" else 28.4)[0]
    mask = apodise(HIGH.astype(float), 5.0)
    masked = mask * (intensity - np.average(intensity, weights=mask))
    cl = sht.alm2cl(sht.analysis(masked, 2 * NSIDE)) / np.mean(mask**2)
    ell = np.arange(len(cl))
    fitted = np.polyfit(np.log(ell[20:101]), np.log(cl[20:101]), 1, w=np.sqrt(2 * ell[20:101] + 1))[0]
    found = {
        "median": (np.median(intensity[HIGH]), median),
        "scatter": (intensity[HIGH].std(), scatter),
        "plane": (intensity[PLANE].mean() / np.median(intensity[HIGH]), plane),
        "D_80": (np.mean((ell * (ell + 1) * cl)[70:91]) / (2 * np.pi), d80),
    }
    for name, (value, wanted) in found.items():
        assert 0.5 < value / wanted < 2, (name, value, wanted)
    assert abs(fitted - slope) < 0.5


def test_sum_over_frequency():
    """The spectrum of the whole, 28 to 555 GHz, within a factor of 2 in scatter at |b| > 20 deg."""
    skies = [synthetic_sky(name, maps) for name, maps in drawn(1).items()]
    for freq, wanted in RMS.items():
        assert 0.5 < evaluate(skies, freq)[0][HIGH].std() / wanted < 2, freq


def test_indices_temperatures_and_polarised_fractions():
    """16, 50 and 84 % points at |b| > 20 deg. One sky has few large-scale modes: 1 sigma moves by 30 % at most."""
    maps = drawn(1)
    known = {
        ("dust", "index"): (1.505, 1.539, 1.570),
        ("dust", "temperature"): (18.7, 21.0, 23.2),
        ("synchrotron", "index"): (-3.06, -3.00, -2.95),
    }
    for (name, field), points in known.items():
        low, middle, high = np.percentile(maps[name][field][HIGH], [16, 50, 84])
        assert abs(middle - points[1]) < 0.3 * (points[2] - points[0]) / 2
        assert (high - low) / (points[2] - points[0]) == pytest.approx(1, abs=0.3)
    for name, points in {"dust": (0.038, 0.085, 0.162), "synchrotron": (0.098, 0.203, 0.313)}.items():
        fraction = np.hypot(maps[name]["Q"], maps[name]["U"]) / maps[name]["I"]
        np.testing.assert_allclose(np.percentile(fraction[HIGH], [16, 50, 84]), points, rtol=0.3)
        assert fraction.max() < 1


def test_logs_are_correlated():
    """As on the sky, to 0.2: one draw scatters by 0.1."""
    logs = np.log([drawn(1)[name]["I"][HIGH] for name in COMPONENTS])
    known = [[1, 0.51, 0.42, 0.77], [0.51, 1, 0.22, 0.54], [0.42, 0.22, 1, 0.34], [0.77, 0.54, 0.34, 1]]
    np.testing.assert_allclose(np.corrcoef(logs), known, atol=0.2)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_higher_resolution_is_the_same_sky(component):
    """Gaussian fields keep their alms. Exponentials and clumps keep what the coarse pixels resolve, and their flux."""
    coarse, fine = drawn(1, 16)[component], drawn(1)[component]
    for field in coarse:
        a, b = (sht.analysis(np.float64(maps[field]), 12) for maps in (coarse, fine))
        auto_a, auto_b, cross = (sht.alm2cl(*pair) @ (2 * np.arange(13) + 1) for pair in ((a, a), (b, b), (a, b)))
        exact = field in ("index", "temperature")
        assert cross / np.sqrt(auto_a * auto_b) > (0.99999 if exact else 0.98), field
        assert cross / auto_a == pytest.approx(1, abs=1e-4 if exact else 0.1), field
    assert coarse["I"].mean(dtype=float) == pytest.approx(fine["I"].mean(dtype=float), rel=0.05)


def test_a_component_alone_is_that_of_the_whole():
    alone = templates(16, rngs(3), ["ame", "synchrotron"])
    assert list(alone) == ["ame", "synchrotron"]
    for name, maps in alone.items():
        for field, values in maps.items():
            np.testing.assert_array_equal(values, drawn(3, 16)[name][field])
    assert not np.array_equal(drawn(4, 16)["ame"]["I"], alone["ame"]["I"])
    with pytest.raises(ValueError, match="no synthetic co; these are: dust"):
        templates(16, rngs(3), ["dust", "co"])


def test_spectrum_of_a_law():
    """sum (2l+1) C_l / 4 pi = sigma^2, a power law, and the same numbers at any band limit."""
    law = Law(5.0, 0.3, 2.5, 4)
    cl = law.cls(8192)
    assert (2 * np.arange(8193) + 1) @ cl / (4 * np.pi) == pytest.approx(0.09)
    assert cl[40] / cl[10] == pytest.approx(4**-2.5)
    assert not cl[:4].any()
    np.testing.assert_array_equal(law.cls(50), cl[:51])


@pytest.mark.parametrize(("component", "bb_ee", "te"), [("dust", 0.53, 0.36), ("synchrotron", 0.3, 0.0)])
def test_e_b_and_their_correlation_with_t_are_those_of_the_sky(component, bb_ee, te):
    """Power in l 40-120 at |b| > 20 deg, mean of ten draws: BB/EE within .03 and the T-E correlation within .05.

    One draw scatters by .035 and .04; the mask's border makes 2 % of the power of E look like B.
    """
    mask = apodise(HIGH.astype(float), 5.0)
    modes = 2 * np.arange(121) + 1
    found = []
    for seed in range(10):
        maps = templates(NSIDE, rngs(seed), [component])[component]
        t, *qu = (np.float64(maps[x]) for x in "IQU")
        t = sht.analysis(mask * (t - np.average(t, weights=mask)), 120)
        e, b = sht.analysis(mask * np.stack(qu), 120, spin=2, niter=3)
        tt, ee, bb, cross = ((modes * sht.alm2cl(x, y))[40:].sum() for x, y in ((t, t), (e, e), (b, b), (t, e)))
        found.append((bb / ee, cross / np.sqrt(tt * ee)))
    mean = np.mean(found, axis=0)
    assert mean[0] == pytest.approx(bb_ee, abs=0.03)
    assert mean[1] == pytest.approx(te, abs=0.05)


def test_more_e_than_b_in_the_fractions():
    """Five times the power, as `B_OVER_E` says; the product with the intensity mixes the two."""
    maps = drawn(1)["synchrotron"]
    fraction = np.float64([maps["Q"], maps["U"]]) / maps["I"]
    amplitude = np.hypot(*fraction)
    e, b = sht.analysis(fraction * np.arctanh(amplitude) / amplitude, 100, spin=2)
    modes = (2 * np.arange(101) + 1)[20:]
    ratio = np.sum(modes * sht.alm2cl(e)[20:]) / np.sum(modes * sht.alm2cl(b)[20:])
    assert ratio == pytest.approx(1 / B_OVER_E["synchrotron"], rel=0.1)


def test_variation_scatters_as_asked():
    """500 Galaxies: ln amplitude and index shift are Gaussian; variances are right to 4 sigma of chi^2."""
    maps = {"I": np.float32([2.0, 3.0])}
    rng = np.random.default_rng(5)
    shifts = []
    for _ in range(500):
        other = varied("freefree", maps, rng, amplitude=0.1, index=0.02)
        np.testing.assert_allclose(other["I"] / maps["I"], other["I"][0] / 2, rtol=1e-6)
        shifts.append((np.log(other["I"][0] / 2), other["index"] - FIXED_INDEX["freefree"]))
    np.testing.assert_allclose(np.var(shifts, axis=0), [0.01, 0.0004], rtol=4 * np.sqrt(2 / 500))
    assert abs(np.corrcoef(np.transpose(shifts))[0, 1]) < 4 / np.sqrt(500)
    dust = drawn(3, 16)["dust"]
    still = varied("dust", dust, rng, amplitude=0.0, index=0.0)
    assert all(np.array_equal(still[field], dust[field]) for field in dust)
    assert hp.get_nside(still["I"]) == 16
