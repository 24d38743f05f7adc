"""The picture of the road from bands to r: every step is in it, and holds what it was given."""

import numpy as np
import pytest
from matplotlib.image import AxesImage

from cmbml.analysis.delensing.lensing import Seen
from cmbml.analysis.delensing.measure import NONE
from cmbml.analysis.delensing.r import FREE
from cmbml.analysis.delensing.road import Road, road_figure
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht

NSIDE = 16
ELL = np.array([30.0, 50.0, 70.0])
SKIES = 2
STEPS = [
    "1  observed: Q of 2 of 7 bands",
    "2  cleaned: B of 7 bands",
    "3  reconstructed: κ",
    "4  delensed: bandpowers of B",
]
STEPS += [f"5  r of 2 skies, {FREE}"]
CAPTION = {"field": "B", "unit": "uK_CMB", "dataset": "of a name", "foregrounds": "of a kind", "said": "more " * 30}
POWERS = {"predicted": 1e-4, "unlensed": 1e-6, "foregrounds": 1e-7}


def curves(*names):
    """As `r.curves_of` has them: powers that differ by name and method, and posteriors that are narrower for `good`."""
    made = {"ell": ELL, "fit": np.array(FREE)}
    r = np.linspace(-4, 4, 50)
    for width, method in ((3e-3, NONE), (1e-3, "good")):
        made |= {f"{method}/{name}": np.full((SKIES, 3), width * POWERS[name]) for name in names}
        posterior = np.stack([0.01 + width * r, np.exp(-(r**2) / 2)])
        of_r = {"own": np.full(SKIES, 0.01), "sigma": np.full(SKIES, width), "posterior": np.stack(SKIES * [posterior])}
        made |= {f"{method}/{name}": values for name, values in of_r.items()}
    return made


@pytest.fixture(scope="module")
def sky():
    """A map of the sky, without a mask on one half."""
    rng = np.random.default_rng(0)
    half = np.arange(12 * NSIDE**2) < 6 * NSIDE**2
    return rng.standard_normal(12 * NSIDE**2), half


def drawn(sky, *names):
    m, half = sky
    seen = Seen("κ", "1", m, {"good": 0.5 * m})
    bands = {"93 GHz": m, "145 GHz": 2 * m}
    look = {"count": 7, "mask": half, "caption": CAPTION, "zoom": (0.0, 60.0, 20.0)}
    return road_figure(bands, {"all": 3 * m}, seen, curves(*names), np.full(80, 1e-8), **look)


@pytest.fixture(scope="module")
def figure(sky):
    return drawn(sky, *POWERS)


def parts_of(figure):
    """Parts of the figure that are a step, by their titles."""
    found = {}
    for part in figure.subfigs:
        if part.get_suptitle():
            found[part.get_suptitle()] = part
        found |= parts_of(part)
    return found


def test_every_step_is_there(figure):
    parts = parts_of(figure)
    assert list(parts) == STEPS
    titles = [[axis.get_title() for axis in part.axes if axis.images] for part in parts.values()]
    assert titles == [["93 GHz", "145 GHz"], ["all"], ["truth", "good"], [], []]
    for part in list(parts.values())[3:]:
        (axis,) = part.axes
        assert axis.get_xlabel()
        assert axis.get_ylabel()


def test_maps_are_those_that_were_given_and_grey_where_they_are_masked(sky, figure):
    m, half = sky
    images = [
        artist for artist in figure.findobj(AxesImage) if artist.get_array().ndim == 2 and artist.axes.get_title()
    ]
    of = {image.axes.get_title(): image.get_array() for image in images}
    np.testing.assert_allclose(of["145 GHz"], 2 * of["93 GHz"])
    np.testing.assert_allclose(of["all"], 3 * of["93 GHz"])
    np.testing.assert_allclose(of["good"], 0.5 * of["truth"])
    assert set(np.unique(of["93 GHz"].compressed())) <= set(m[half])
    assert 0.4 < np.ma.getmaskarray(of["93 GHz"]).mean() < 0.6
    truth, good = (next(i for i in images if i.axes.get_title() == title) for title in ("truth", "good"))
    assert truth.norm.vmax == good.norm.vmax  # of one colour scale


def test_powers_and_posteriors_are_those_that_were_given(figure):
    *_, powers, posteriors = parts_of(figure).values()
    axis = powers.axes[0]
    to_dl = ELL * (ELL + 1) / (2 * np.pi)
    lines = {c.get_label(): c.lines[0].get_ydata() for c in axis.containers}
    expected = {NONE: 3e-7, "delensed": 1e-7, "primordial": 1e-9, "foregrounds left": 1e-10}
    assert lines.keys() == expected.keys()
    for name, cl in expected.items():
        np.testing.assert_allclose(lines[name], cl * to_dl)
    (noise,) = [line for line in axis.lines if line.get_label() == "noise"]
    np.testing.assert_allclose(noise.get_ydata()[[0, -1]], 1e-8 * to_dl[[0, -1]])
    axis = posteriors.axes[0]
    assert len(axis.lines) == 2 * SKIES + 1
    assert list(axis.lines[-1].get_xdata()) == [0.01, 0.01]
    labels = axis.get_legend_handles_labels()[1]
    assert labels == [rf"{NONE}: $\sigma(r)$ = 0.003", r"good: $\sigma(r)$ = 0.001", "r of the skies"]


def test_titles_are_all_as_far_above_their_maps(figure):
    """The layout has settled before the picture is saved; else they lie on each other."""
    figure.draw_without_rendering()
    gaps = []
    for part in list(parts_of(figure).values())[:3]:
        below = max(axis.title.get_window_extent().y1 for axis in part.axes if axis.get_title())
        gaps.append(part._suptitle.get_window_extent().y0 - below)
    assert gaps[0] > 5
    assert gaps == pytest.approx(gaps[:1] * 3, abs=1)


def test_foregrounds_are_left_out_where_nobody_knows_them(sky):
    axis = list(parts_of(drawn(sky, "predicted", "unlensed")).values())[3].axes[0]
    assert [c.get_label() for c in axis.containers] == [NONE, "delensed", "primordial"]


def test_cleaned_b_is_of_the_multipoles_of_r_and_tells_its_foregrounds(composed):
    """A spectrum of 1 behind a mask of one half: the rms is of modes 20 .. 49, over the part that is seen."""
    cfg = composed("sims=cleaned", "analysis=r", "nside=32", "delens.lmin_b=60", "analysis.r.band=[20,49]")
    alm = np.ones(sht.alm_size(80))
    mask = SkyMap(np.full((1, 12), np.sqrt(0.5)), ("mask",), "1", 0.0, 0)
    road = Road(cfg)
    ((title, b),) = road._in_band_of_r({"B": alm}, {"B": 0.1 * sht.truncate(alm, 70)}, mask).items()
    rms = np.sqrt((50**2 - 20**2) / (4 * np.pi) / 0.5)
    assert title == rf"$\ell$ = 20 .. 49, rms {rms:.2g} µK, foregrounds {0.1 * rms:.2g} µK"
    np.testing.assert_allclose(np.mean(b**2), (50**2 - 20**2) / (4 * np.pi), rtol=0.01)
    assert list(road.items()) == [{"split": "test", "sim": 0}]
    assert list(Road(composed("analysis=r")).items()) == []
    assert ", foregrounds" not in next(iter(road._in_band_of_r({"B": alm}, None, mask)))
