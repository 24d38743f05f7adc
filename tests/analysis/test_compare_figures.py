"""Figures of several methods hold the numbers they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cmbml.analysis.cleaning.figures import cleaned_spectra
from cmbml.analysis.compare_figures import box_figure, compared_patches, compared_skies
from cmbml.analysis.delensing.figures import compared_spectra, sigma_figure
from cmbml.analysis.delensing.metrics import METRICS
from cmbml.analysis.figures import COLOURS
from cmbml.analysis.projections import gnomonic_pixels, mollweide_pixels
from tests.analysis.test_figures import at_points

CAPTION = {"field": "B", "unit": "uK_CMB", "nside": 16}
NOTES = {"network": "", "filter": "transfer 0.03"}


@pytest.fixture(scope="module")
def skies():
    rng = np.random.default_rng(0)
    truth, lensing = rng.standard_normal((2, 12 * 16**2))
    return truth, truth + lensing, {"network": truth + 0.3 * lensing, "filter": 0.05 * (truth + lensing)}


def draw(kind, skies):
    truth, observed, predictions = skies
    skies = truth, {"observed": observed, **predictions}
    if kind == "patch":
        figure = compared_patches(*skies, caption=CAPTION, zoom=(10, 20, 30), width=40)
        return figure, gnomonic_pixels(16, 10, 20, 30, 40)
    return compared_skies(*skies, caption=CAPTION, width=60), mollweide_pixels(16, 60)


@pytest.mark.parametrize("kind", ["sky", "patch"])
def test_every_map_and_its_error_on_one_scale_for_all_errors(kind, skies):
    figure, pixels = draw(kind, skies)
    truth, observed, predictions = skies
    images = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
    maps = {"truth": truth, "observed": observed, **predictions}
    maps |= {f"{name} − truth": m - truth for name, m in maps.items() if name != "truth"}
    assert images.keys() == maps.keys()
    for name, image in images.items():
        np.testing.assert_allclose(image.get_array(), at_points(maps[name], pixels))
    (scale,) = {image.norm.vmax for name, image in images.items() if "−" in name}
    assert scale == pytest.approx(np.percentile(np.abs(observed - truth), 99.5), rel=0.05)
    # A map twenty times fainter would vanish on the others' scale.
    assert images["filter"].norm.vmax < 0.1 * images["observed"].norm.vmax


def test_spectra_before_and_after():
    ell = np.array([5.0, 20.0, 80.0])
    rng = np.random.default_rng(1)
    shared = {"ell": ell, "unlensed": rng.uniform(1, 2, (4, 3)), "observed": rng.uniform(5, 6, (4, 3))}
    methods = {name: shared | {"predicted": rng.uniform(2, 3, (4, 3))} for name in NOTES}
    top, bottom = compared_spectra(methods, caption=CAPTION, notes=NOTES).axes
    drawn = {c.get_label(): c.lines[0] for c in top.containers}
    after = methods["network"]["predicted"]
    np.testing.assert_allclose(drawn["network"].get_ydata(), ell * (ell + 1) * after.mean(0) / (2 * np.pi))
    np.testing.assert_allclose(drawn["truth (unlensed)"].get_ydata(), ell * (ell + 1) * shared["unlensed"].mean(0)
                               / (2 * np.pi))  # fmt: skip
    left = {c.get_label(): c.lines[0].get_ydata() for c in bottom.containers}
    np.testing.assert_allclose(left["network"], (after / shared["observed"]).mean(0))
    assert [drawn[name].get_linestyle() for name in NOTES] == ["-", ":"]


def test_sigma_of_every_sky_and_its_mean():
    values = {"network": np.array([1e-3, 3e-3]), "filter": np.array([4e-3, 6e-3])}
    axis = sigma_figure(values, caption=CAPTION, notes=NOTES, baseline="filter").axes[0]
    means = {c.get_label(): c.lines[0].get_xydata()[0].tolist() for c in axis.containers}
    assert means == {"network": pytest.approx([20, 0]), "filter": pytest.approx([50, 1])}
    assert any(list(line.get_xdata()) == [50, 50] for line in axis.lines)
    assert [text.get_text() for text in axis.get_yticklabels()] == ["network", "filter"]
    faces = [c.lines[0].get_markerfacecolor() for c in axis.containers]
    assert (faces[0] == "white", faces[1] == "white") == (False, True)


def test_sigma_that_is_not_known_is_said():
    values = {"network": np.full(2, np.nan), "filter": np.full(2, np.nan)}
    axis = sigma_figure(values, caption=CAPTION, notes=NOTES, baseline="filter").axes[0]
    assert "not known" in axis.texts[0].get_text()


def test_boxes_of_every_metric_that_is_known():
    sky = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    nothing = dict.fromkeys(NOTES, np.full(5, np.nan))
    values = {"RMSE": {"network": sky, "filter": 10 * sky}, "sigma_r": nothing, "PSNR": dict.fromkeys(NOTES, sky)}
    axes = box_figure(values, caption=CAPTION, notes=NOTES, order=["other", *NOTES], metrics=METRICS).axes
    assert [axis.get_title() for axis in axes] == ["RMSE [µK_CMB]", "PSNR [dB]"]
    points = [line.get_xdata().tolist() for line in axes[0].lines if line.get_marker() == "."]
    assert points == [sky.tolist(), (10 * sky).tolist()]
    box, hollow = axes[0].patches
    assert box.get_path().get_extents().intervalx.tolist() == [2, 4]  # the quartiles
    assert [tuple(p.get_facecolor())[:3] == (1, 1, 1) for p in (box, hollow)] == [False, True]
    assert to_hex(box.get_edgecolor()) == COLOURS[1].lower()  # the second of all methods


def test_spectra_of_cleaned_maps_against_the_truth():
    ell, rng = np.array([5.0, 20.0, 80.0]), np.random.default_rng(2)
    truth = rng.uniform(1, 2, (4, 3))
    left = np.array([0.1, 0.2, 0.4])
    own = {"ell": ell, "truth": truth, "prediction": 2 * truth, "cross": 1.2 * truth, "residual": left * truth}
    baseline = own | {"residual": 1e-15 * truth, "cross": 40 * truth}
    figure = cleaned_spectra(
        {"T": {"mine": own, "baseline": baseline}, "E": {"mine": own}}, caption=CAPTION, baselines=["baseline"]
    )
    top, other, middle, _, bottom, _ = figure.axes
    assert "TT" in top.get_ylabel()
    assert "EE" in other.get_ylabel()
    lines = {c.get_label(): c.lines[0] for c in top.containers}
    np.testing.assert_allclose(lines["mine"].get_ydata(), ell * (ell + 1) * truth.mean(0) / np.pi)
    assert [lines[name].get_linestyle() for name in ("mine", "baseline")] == ["-", ":"]
    np.testing.assert_allclose(middle.containers[0].lines[0].get_ydata(), 1.2)
    np.testing.assert_allclose(bottom.containers[0].lines[0].get_ydata(), left)
    assert middle.get_ylim() == pytest.approx((1 - 0.24, 1 + 0.24))  # the baseline stretches no axis
    assert bottom.get_ylim()[0] == pytest.approx(0.01)
