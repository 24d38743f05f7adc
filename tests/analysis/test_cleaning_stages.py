"""Pictures and tables of a cleaned map hold the numbers that they were given."""

import numpy as np
import pytest

from cmbml.analysis.cleaning import measure as cleaning
from cmbml.analysis.cleaning.forms import without_dipole
from cmbml.analysis.projections import mollweide_pixels
from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from tests.analysis.test_cleaning import ALMS, CMB, GOOD, MASK, NOISE, NSIDE, TEST, config, maps, measure, noisy, sky

NOISE_MAP = maps(NOISE, "T", 60)[0]


def panels(figure) -> list:
    return [axis for axis in figure.axes if axis.images]


def test_pictures_show_truth_prediction_and_difference():
    prediction = sky(noisy(60.0, "TQU"), "TQU", 60.0)
    given = {"prediction": prediction, "cmb_map": CMB, "lensed_alm": ALMS, "mask": MASK}
    skies, zoom, residual = cleaning.Pictures(config(field="TQU")).run(TEST, **given)
    truth = without_dipole(maps(ALMS, "T", 60)[0], GOOD)
    for figure in (skies, zoom):
        shown = [axis.images[0] for axis in panels(figure)]
        assert len(shown) == 9
        assert [image.norm.vmax for image in shown[:3]] == [500, 500, 120]
        assert "SYNTHETIC" in figure.get_suptitle()
    pixels = mollweide_pixels(NSIDE)
    first, second, third = (axis.images[0].get_array() for axis in panels(skies)[:3])
    np.testing.assert_array_equal(first.mask, ~GOOD[pixels])
    np.testing.assert_allclose(first[~first.mask], truth[pixels][~first.mask], atol=1e-4)
    np.testing.assert_allclose(second - first, third, atol=1e-4)
    assert [axis.get_legend_handles_labels()[1][0].partition(":")[0] for axis in residual.axes] == list("TQU")
    for figure in (skies, zoom, residual):
        figure.draw_without_rendering()


def test_without_a_truth_nothing_is_measured_and_the_prediction_is_drawn_alone():
    cfg = config(truth=None)
    assert list(cleaning.Measure(cfg).items()) == list(cleaning.Summary(cfg).items()) == []
    stage = cleaning.Pictures(cfg)
    assert [source.asset for source in stage.sources] == ["prediction", "mask"]
    assert len(list(stage.items())) == 2
    figures = stage.run(TEST, prediction=sky(noisy(60.0) + 1000, "T", 60.0), mask=MASK)
    assert len(figures) == len(stage.outputs) == 2
    (image,) = [axis.images[0] for axis in panels(figures[0])]
    assert abs(image.get_array().mean()) < 10


def test_from_files_to_the_table(tmp_path):
    """Two skies, of which the second has twice the noise: the mean and the scatter of the headline."""
    cfg = config()
    names = {"lensed_alm": "npz", "spectra": "npz", "prediction": "fits", "cmb_map": "fits", "metrics": "csv"}
    files = {name: f"{tmp_path}/{{split}}/{{sim}}/{name}.{kind}" for name, kind in names.items()}
    files |= {f"table_{kind}": f"{tmp_path}/table.{kind}" for kind in ("csv", "md", "tex")}
    assets = Assets({**files, "mask": f"{tmp_path}/mask.fits", "spectra_png": f"{tmp_path}/spectra.png"}, {})
    assets.file("mask", {}).write(MASK)
    for sim in range(2):
        data = maps({"T": ALMS["T"] + (1 + sim) * NOISE["T"]}, "T", 60)
        given = {"lensed_alm": ALMS, "cmb_map": CMB, "prediction": sky(data, "T", 60.0)}
        for name, value in given.items():
            assets.file(name, {"split": "test", "sim": sim}).write(value)
    Pipeline([cleaning.Measure(cfg), cleaning.Summary(cfg)], assets).run()
    first, *_ = assets.file("table_csv", {}).read()
    assert [first[name] for name in cleaning.Cleaning.by] == ["mine", "T", "common", "mask"]
    rms = measure(sky(noisy(60.0), "T", 60.0))[0]["T", "common", "mask"]["RMSE"]
    assert first["RMSE_mean"] == pytest.approx(1.5 * rms, rel=1e-4)
    assert first["RMSE_std"] == pytest.approx(rms / np.sqrt(2), rel=1e-4)
    assert "foregrounds SYNTHETIC templates" in assets.file("table_md", {}).read()
    assert assets.file("spectra_png", {}).read().startswith(b"\x89PNG")


def test_what_is_left_is_drawn_where_it_is_known_and_grey_under_the_mask():
    data = np.stack([NOISE_MAP, 2 * NOISE_MAP])
    left = sky(data, ("T_foregrounds", "T_noise"), 60.0)
    stage = cleaning.ResidualPictures(config())
    assert len(list(stage.items())) == 2
    figure = stage.run(TEST, residuals=left, mask=MASK)
    first, second = (axis.images[0] for axis in panels(figure))
    figure.draw_without_rendering()
    assert first.norm.vmax == second.norm.vmax
    np.testing.assert_array_equal(first.get_array().mask, ~GOOD[mollweide_pixels(NSIDE)])
    np.testing.assert_allclose(second.get_array(), 2 * first.get_array(), rtol=1e-6)
    external = config()
    external.sims.external = {"obs": "x"}
    assert list(cleaning.ResidualPictures(external).items()) == []


def test_curves_of_a_network_mark_its_best_epoch():
    rows = [{"epoch": i, "train_loss": 3.0 - i, "valid_loss": v, "lr": 0.1} for i, v in enumerate((3.0, 1.5, 2.0))]
    figure = cleaning.Curves(config()).run({}, history=rows)
    assert "best: epoch 1, 1.5" in figure.axes[0].get_legend_handles_labels()[1]
    assert "method mine" in figure.get_suptitle()
    figure.draw_without_rendering()
