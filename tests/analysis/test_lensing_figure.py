"""Pictures of the lensing hold what they were given, and the truth is filtered as an estimate is."""

import healpy as hp
import numpy as np
import pytest

from cmbml.analysis.delensing.lensing import Seen, as_measured, lensing_figure, lensing_of
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht

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


def test_truth_and_templates_are_of_the_same_sky_and_mask():
    ell = hp.Alm.getlm(2)[0]
    alm = np.where(ell == 2, 1.0 + 0j, 0)
    mask = SkyMap(np.linspace(0, 1, 12 * NSIDE**2)[None], ("mask",), "1", 0.0, 2)
    lensing = sht.synthesis(2 * alm, NSIDE)
    obs = SkyMap((lensing * mask["mask"])[None], ("B",), "uK_CMB", 0.0, 2)
    kappa, seen = lensing_of(
        {"perfect": np.zeros(12 * NSIDE**2)},
        {"perfect": sht.synthesis(alm, NSIDE) * mask["mask"] ** 2},
        field="B",
        obs=obs,
        unlensed_alm={"B": alm, "kappa": 2 * alm},
        lensed_alm={"B": 3 * alm},
        mask=mask,
    )
    np.testing.assert_allclose(seen.truth, seen.maps["perfect"], atol=1e-6)
    np.testing.assert_allclose(kappa.truth, kappa.maps["perfect"], atol=0.03)  # of .7: the mask has steps


def test_the_true_convergence_is_filtered_as_the_best_of_the_estimates():
    rng = np.random.default_rng(3)
    noise, drawn = rng.standard_normal((2, 12 * NSIDE**2))
    truth = hp.alm2map(hp.map2alm(drawn, lmax=47), NSIDE)
    alm = hp.map2alm(truth, lmax=47)
    ell = hp.Alm.getlm(47)[0]
    good, poor = np.where(ell < 24, 0.8, 0.1), np.where(ell < 24, 0.3, 0.2)
    estimates = [hp.alm2map(response * alm, NSIDE) for response in (good, poor)]
    estimates[1] += 0.1 * noise  # which has nothing to do with the truth
    seen = as_measured(truth, estimates)
    found = hp.alm2cl(hp.map2alm(seen, lmax=47), alm) / hp.alm2cl(alm)
    np.testing.assert_allclose(found[4:20], 0.8, atol=0.03)
    np.testing.assert_allclose(found[28:40], 0.2, atol=0.06)
