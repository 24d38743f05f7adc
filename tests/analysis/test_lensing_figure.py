"""Pictures of the lensing hold what they were given, and the truth is filtered as an estimate is."""

import healpy as hp
import numpy as np
import pytest

from cmbml.analysis.delensing.compare import Panels
from cmbml.analysis.delensing.lensing import Seen, as_measured, lensing_figure, lensing_of
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from tests.analysis.standin import WORDS

NSIDE = 16
ZOOM = (10.0, 20.0, 30.0)
CAPTION = {"field": "B", "unit": "uK_CMB", "nside": NSIDE}


@pytest.fixture(scope="module")
def quantities():
    rng = np.random.default_rng(0)
    kappa, lensing = rng.standard_normal((2, 12 * NSIDE**2))
    found = {"filter": 3 * lensing, "quadratic": 0.9 * lensing}
    return [Seen("κ", "1", 0.01 * kappa, {"quadratic": 0.008 * kappa}), Seen("lensing of B", "uK_CMB", lensing, found)]


def images(figure):
    """Titles and images in the order of the rows and columns."""
    return [(axis.get_title(), axis.images[0]) for axis in figure.axes if axis.images]


def test_truth_methods_and_differences_share_one_scale(quantities):
    figure = lensing_figure(quantities, caption=CAPTION, zoom=ZOOM, width=40)
    drawn = images(figure)
    assert [title for title, _ in drawn] == [
        "truth", "quadratic", "quadratic − truth",
        "truth", "filter", "quadratic", "filter − truth", "quadratic − truth",
    ]  # fmt: skip
    kappa, lensing = quantities
    for seen, group in ((kappa, drawn[:3]), (lensing, drawn[3:])):
        (scale,) = {image.norm.vmax for _, image in group}
        assert scale == pytest.approx(
            max(np.percentile(np.abs(m), 99.5) for m in (seen.truth, *seen.maps.values())), rel=0.05
        )
    np.testing.assert_allclose(drawn[4][1].get_array(), 3 * drawn[3][1].get_array())
    # An estimate stands above its own template.
    places = {(title, i < 3): image.axes.get_subplotspec().colspan.start for i, (title, image) in enumerate(drawn)}
    assert places["quadratic", True] == places["quadratic", False] == 2


def test_of_one_method_the_difference_stands_beside_it(quantities):
    kappa, lensing = quantities
    alone = [kappa, Seen(lensing.name, lensing.unit, lensing.truth, {"quadratic": lensing.maps["quadratic"]})]
    drawn = images(lensing_figure(alone, caption=CAPTION, zoom=ZOOM, width=40))
    assert [title for title, _ in drawn] == 2 * ["truth", "quadratic", "quadratic − truth"]
    assert [image.axes.get_subplotspec().rowspan.start for _, image in drawn] == [0, 0, 0, 1, 1, 1]


ELL = hp.Alm.getlm(8)[0]
MASK = np.linspace(0, 1, 12 * NSIDE**2)


def of_kappa(alm: np.ndarray, masks: int) -> SkyMap:
    """An estimate of the convergence that has the mask so many times."""
    data = sht.synthesis(alm, NSIDE) * MASK**masks
    return SkyMap(data[None], ("kappa",), "1", 0.0, 8, masks=masks)


@pytest.mark.parametrize("forms", [{"itself": 0}, {"twice": 2}, {"itself": 0, "twice": 2}])
def test_truth_and_estimates_are_of_the_same_sky_and_mask(forms):
    alm = np.where(ELL == 8, 1.0 + 0j, 0)
    mask = SkyMap(MASK[None], ("mask",), "1", 0.0, 2)
    lensing = sht.synthesis(2 * alm, NSIDE)
    obs = SkyMap((lensing * mask["mask"])[None], ("B",), "uK_CMB", 0.0, 2)
    kappa, seen = lensing_of(
        dict.fromkeys(forms, np.zeros(12 * NSIDE**2)),
        {name: of_kappa(0.5 * alm, masks) for name, masks in forms.items()},
        field="B",
        obs=obs,
        unlensed_alm={"B": alm, "kappa": alm},
        lensed_alm={"B": 3 * alm},
        mask=mask,
    )
    truth = 0.5 * sht.synthesis(alm, NSIDE) * MASK ** max(forms.values())
    np.testing.assert_allclose(kappa.truth, truth, atol=0.01 * np.abs(truth).max())
    for name in forms:
        np.testing.assert_allclose(seen.truth, seen.maps[name], atol=1e-6)
        np.testing.assert_allclose(kappa.truth, kappa.maps[name], atol=0.01 * np.abs(truth).max())


class Given(list):
    """Values that were read, and of which methods they are."""

    items = ({"method": "quadratic", "split": "test", "sim": 0},)


def test_a_comparison_shows_the_truth_behind_the_mask_of_the_others(composed):
    stage = Panels(composed(*WORDS, "analysis.zoom=[90,0,60]", "mask=band", name="compare"))
    alm = np.where(ELL == 8, 1.0 + 0j, 0)
    observed = 1.5 * sht.synthesis(alm, NSIDE) * MASK
    obs = SkyMap(observed[None], ("B",), "uK_CMB", 0.0, 8)
    mask = SkyMap(MASK[None], ("mask",), "1", 0.0, 2)
    sky = {"obs": obs, "unlensed_alm": {"B": alm, "kappa": alm}, "lensed_alm": {"B": 1.5 * alm}, "mask": mask}
    item = {"split": "test", "sim": 0}
    perfect = SkyMap(observed[None] / 1.5, ("B",), "uK_CMB", 0.0, 8)
    shown = stage.shown(item, prediction=Given([perfect]), **sky)
    np.testing.assert_allclose(shown.truth, shown.maps["quadratic"], atol=1e-6)
    np.testing.assert_array_equal(shown.mask, MASK > 0.5)
    found = Given([of_kappa(alm, 2)])
    for figure in stage.lensing_of_methods(item, prediction=Given([perfect]), estimate=found, **sky):
        truth, estimate = (image.get_array() for title, image in images(figure)[:2])
        np.testing.assert_allclose(truth, estimate, atol=0.01 * np.abs(estimate).max())
        assert 0 < truth.mask.mean() < 1  # what is masked is grey


def test_the_true_convergence_is_filtered_as_the_best_of_the_estimates():
    rng = np.random.default_rng(3)
    noise, drawn = rng.standard_normal((2, 12 * NSIDE**2))
    truth = hp.alm2map(hp.map2alm(drawn, lmax=47), NSIDE)
    alm = hp.map2alm(truth, lmax=47)
    ell = hp.Alm.getlm(47)[0]
    good, poor = np.where(ell < 24, 0.8, 0.1), np.where(ell < 24, 0.3, 0.2)
    estimates = [hp.alm2map(response * alm, NSIDE) for response in (good, poor)]
    estimates[1] += 0.1 * noise  # which has nothing to do with the truth
    seen = as_measured(alm, [SkyMap(m[None], ("kappa",), "1", 0.0, 47) for m in estimates])
    found = hp.alm2cl(seen, alm) / hp.alm2cl(alm)
    np.testing.assert_allclose(found[4:20], 0.8, atol=0.03)
    np.testing.assert_allclose(found[28:40], 0.2, atol=0.06)
