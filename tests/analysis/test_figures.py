"""Figures hold the numbers they were given: line data, images, labels, captions."""

import io

import healpy as hp
import matplotlib
import numpy as np
import pytest

from cmbml.analysis import figures
from cmbml.analysis.delensing.figures import delensing_figure
from cmbml.analysis.projections import Patch, gnomonic_pixels, mollweide_pixels, sky_panels, zoom_panels

NSIDE = 16
CAPTION = {"field": "B", "unit": "uK_CMB", "nside": NSIDE, "lmax": 40, "fwhm_arcmin": 5.0, "noise_uk_arcmin": 1.0}
WORDS = ("field B", "µK_CMB", "nside 16", "lmax 40", "beam 5 arcmin", "noise 1 µK arcmin")


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(hp.nside2npix(NSIDE))
    return truth, 1.5 * truth + 0.1, 0.8 * truth


@pytest.fixture(scope="module")
def stacked():
    rng = np.random.default_rng(1)
    ell = np.array([5.0, 20.0, 80.0, 300.0])
    names = ("unlensed", "observed", "predicted", "residual", "lensing", "estimate", "reference")
    cls = {name: rng.uniform(1, 2, (3, 4)) for name in (*names, "estimate_x_reference", "delensed_x_unlensed")}
    return {"ell": ell, **cls}


def png(figure):
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def lines(axis):
    """Return label -> y data of the error-bar lines of an axis."""
    return {c.get_label(): c.lines[0].get_ydata() for c in axis.containers}


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def at_points(sky, pixels):
    """Values of a sky, or of several, in a picture."""
    if isinstance(pixels, Patch):
        return (sky[..., pixels.pixels] * pixels.weights).sum(axis=-3)
    return sky[..., pixels]


def test_mollweide_grid_agrees_with_healpys_projector():
    width = 100
    x = (np.arange(width) + 0.5) * 4 / width - 2
    y = (np.arange(width // 2) + 0.5) * 4 / width - 1
    xx, yy = np.meshgrid(x, y)
    inside = xx**2 / 4 + yy**2 < 0.999
    vec = hp.projector.MollweideProj().xy2vec(xx[inside], yy[inside])
    np.testing.assert_array_equal(mollweide_pixels(64, width)[inside], hp.vec2pix(64, *vec))


def test_gnomonic_grid_agrees_with_healpys_projector():
    width, size = 60, 12.0
    half = np.tan(np.radians(size) / 2)
    x = ((np.arange(width) + 0.5) * 2 / width - 1) * half
    lines = np.stack(hp.projector.GnomonicProj(rot=[120, 40]).xy2vec(*np.meshgrid(x, x)))
    shown = at_points(np.stack(hp.pix2vec(64, np.arange(hp.nside2npix(64)))), gnomonic_pixels(64, 120, 40, size, width))
    # Between pixels 0.9 deg apart x, y and z are linear but for the sphere's curvature, 0.9 deg^2 / 8.
    np.testing.assert_allclose(shown, lines, atol=2e-4)


def test_zooms_have_no_borders_of_pixels():
    """A gradient, drawn larger than its pixels, grows from every point to the next; pixel by pixel it stands still."""
    patch = gnomonic_pixels(NSIDE, 0, 0, 20, 100)
    z = hp.pix2vec(NSIDE, np.arange(hp.nside2npix(NSIDE)))[2]
    image = panels(zoom_panels(z, z, z, caption=CAPTION, size_deg=20, width=100))[0].images[0].get_array()
    np.testing.assert_allclose(image, at_points(z, patch))
    assert (np.diff(image, axis=0) > 0).all()
    nearest = z[np.take_along_axis(patch.pixels, patch.weights.argmax(axis=0)[None], axis=0)[0]]
    assert (np.diff(nearest, axis=0) > 0).mean() < 0.5


def test_points_that_a_masked_pixel_has_a_share_in_are_blank():
    patch = gnomonic_pixels(NSIDE, 0, 0, 40, 80)
    good = np.ones(hp.nside2npix(NSIDE), dtype=bool)
    good[hp.query_disc(NSIDE, (1, 0, 0), np.radians(8))] = False
    sky = np.where(good, 1.0, np.nan)
    image = panels(zoom_panels(sky, sky, sky, caption=CAPTION, size_deg=40, mask=good, width=80))[0].images[0]
    shown = image.get_array()
    assert np.pi * 8**2 / 40**2 < shown.mask.mean() < np.pi * (8 + 3.7) ** 2 / 40**2  # up to a pixel more
    np.testing.assert_allclose(shown.compressed(), 1)
    assert shown.mask[40, 40]
    assert patch.weights.sum(axis=0) == pytest.approx(1)


@pytest.mark.parametrize("draw", [sky_panels, zoom_panels])
def test_sky_panels_show_the_maps_and_their_difference(draw, maps):
    truth, observed, predicted = maps
    axes = panels(draw(*maps, caption=CAPTION, width=80))
    pixels = mollweide_pixels(NSIDE, 80) if draw is sky_panels else gnomonic_pixels(NSIDE, 0, 0, 10, 80)
    assert [axis.get_title() for axis in axes] == ["truth", "observed", "predicted", "predicted − truth"]
    for axis, sky in zip(axes, (truth, observed, predicted, predicted - truth), strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), at_points(sky, pixels))
        assert axis.images[0].origin == "lower"


def test_skies_of_like_amplitude_share_a_scale_and_the_difference_has_its_own(maps):
    limits = [axis.images[0].norm.vmax for axis in panels(sky_panels(*maps, caption=CAPTION, width=80))]
    assert limits[0] == limits[1] == limits[2] == pytest.approx(np.percentile(np.abs(maps[1]), 99.5), rel=0.05)
    assert limits[3] == pytest.approx(0.2 * np.percentile(np.abs(maps[0]), 99.5), rel=0.05)


def test_a_sky_that_would_vanish_on_the_shared_scale_gets_its_own(maps):
    truth, observed, predicted = maps
    figure = sky_panels(0.01 * truth, observed, predicted, caption=CAPTION, width=80)
    limits = [axis.images[0].norm.vmax for axis in panels(figure)]
    assert limits[1] == limits[2] > 50 * limits[0]


def test_masked_pixels_are_blank_and_do_not_set_the_scale(maps):
    truth, observed, predicted = (sky.copy() for sky in maps)
    mask = np.abs(hp.pix2ang(NSIDE, np.arange(len(truth)), lonlat=True)[1]) > 20
    reference = sky_panels(truth, observed, predicted, caption=CAPTION, mask=mask, width=80)
    truth[~mask] = 1e9
    image = panels(sky_panels(truth, observed, predicted, caption=CAPTION, mask=mask, width=80))[0].images[0]
    np.testing.assert_array_equal(image.get_array().mask, ~mask[mollweide_pixels(NSIDE, 80)])
    assert image.norm.vmax == panels(reference)[0].images[0].norm.vmax


def test_colour_bars_carry_their_limits_and_the_unit(maps):
    figure = zoom_panels(*maps, caption=CAPTION, width=40)
    image = panels(figure)[3].images[0]
    ticks = [label.get_text() for label in image.colorbar.ax.get_xticklabels()]
    assert ticks == [f"−{image.norm.vmax:g}", r"$\mu\mathrm{K}_{\mathrm{CMB}}$", f"{image.norm.vmax:g}"]


def test_spectra_are_d_l_means_and_ratios_sky_by_sky(stacked):
    ell = stacked["ell"]
    top, bottom = figures.spectra_figure(stacked, caption=CAPTION).axes
    drawn = lines(top)
    assert list(drawn) == ["truth", "observed", "predicted", "residual"]
    for label, name in zip(drawn, ("unlensed", "observed", "predicted", "residual"), strict=True):
        np.testing.assert_allclose(drawn[label], ell * (ell + 1) * stacked[name].mean(0) / (2 * np.pi))
    ratios = lines(bottom)
    assert list(ratios) == ["observed", "predicted"]
    np.testing.assert_allclose(ratios["predicted"], (stacked["predicted"] / stacked["unlensed"]).mean(0))
    assert top.get_ylabel() == r"$D_\ell^{BB}$ [$\mu\mathrm{K}_{\mathrm{CMB}}^{2}$]"
    assert bottom.get_xlabel() == r"multipole $\ell$"
    assert {f"{x:g}" for x in (10, 20, 50, 100)} <= {label.get_text() for label in bottom.get_xticklabels()}


def test_error_bars_are_the_scatter_of_the_skies(stacked):
    ell = stacked["ell"]
    top, _ = figures.spectra_figure(stacked, caption=CAPTION).axes
    bars = top.containers[1].lines[2][0].get_segments()
    half = np.array([(b[1, 1] - b[0, 1]) / 2 for b in bars])
    np.testing.assert_allclose(half, ell * (ell + 1) * stacked["observed"].std(0, ddof=1) / (2 * np.pi))


def test_a_truth_that_is_only_rounding_does_not_stretch_the_axis(stacked):
    tiny = {**stacked, "unlensed": 1e-30 * stacked["unlensed"]}
    top, bottom = figures.spectra_figure(tiny, caption=CAPTION).axes
    low, high = top.get_ylim()
    assert high / low < 1e9
    assert bottom.get_yscale() == "log"


def test_a_res_is_never_drawn_without_the_transfer(stacked):
    notes = {"filter": "transfer 0.03 lies outside 0.9 .. 1.1", "template": ""}
    methods = {"template": stacked, "filter": stacked}
    figure = delensing_figure(methods, caption=CAPTION, notes=notes)
    by_label = {axis.get_ylabel(): axis for axis in figure.axes}
    assert list(by_label) == [r"$A_\mathrm{res}$", "transfer", r"$\rho$"]
    c = stacked
    expected = {
        r"$A_\mathrm{res}$": c["residual"] / c["lensing"],
        "transfer": c["delensed_x_unlensed"] / c["unlensed"],
        r"$\rho$": c["estimate_x_reference"] / np.sqrt(c["estimate"] * c["reference"]),
    }
    for label, values in expected.items():
        np.testing.assert_allclose(lines(by_label[label])["template"], values.mean(0))
    solid, struck = (container.lines[0] for container in by_label[r"$A_\mathrm{res}$"].containers)
    assert (solid.get_linestyle(), struck.get_linestyle()) == ("-", ":")
    assert struck.get_markerfacecolor() == "white"
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts()).replace("\n", " ")
    assert "filter, struck out: transfer 0.03" in legend
    assert "template, struck" not in legend


def test_theory_is_drawn_over_its_multipoles_beside_a_res_alone(stacked):
    curve = np.linspace(0.2, 0.9, 1001)
    figure = delensing_figure({"template": stacked}, caption=CAPTION, theory={"iterative, theory (diagonal)": curve})
    a_res, *others = figure.axes
    drawn = next(line for line in a_res.lines if line.get_label() == "iterative, theory (diagonal)")
    ell = np.arange(2, 301)
    np.testing.assert_array_equal(drawn.get_xydata(), np.stack([ell, curve[ell]], axis=1))
    assert all(line.get_label() != "iterative, theory (diagonal)" for axis in others for line in axis.lines)
    assert "iterative, theory (diagonal)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_loss_curves_mark_the_best_epoch():
    rows = [(1, 3.0, 2.5, 1e-2), (2, 2.0, 1.5, 1e-2), (3, 1.0, 1.75, 1e-3)]
    history = [dict(zip(("epoch", "train_loss", "valid_loss", "lr"), row, strict=True)) for row in rows]
    top, bottom = figures.loss_curves(history, caption=CAPTION).axes
    train, valid, best = top.lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(valid.get_ydata(), [2.5, 1.5, 1.75])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 1.5]])
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), [1e-2, 1e-2, 1e-3])


def test_histogram_of_a_gaussian_lies_on_its_gaussian():
    rng = np.random.default_rng(2)
    residual = rng.normal(0, 3, 400_000)
    residual[:1000] = 1e6
    mask = np.arange(residual.size) >= 1000
    axis = figures.residual_histogram({"network": residual}, caption=CAPTION, mask=mask).axes[0]
    density, edges, _ = axis.patches[0].get_data()
    gauss = axis.lines[0].get_ydata()
    x = (edges[1:] + edges[:-1]) / 2
    # The rms is known to 1/sqrt(2N) = .0011.
    np.testing.assert_allclose(gauss, np.exp(-(x**2) / 18) / (3 * np.sqrt(2 * np.pi)), rtol=0.15)
    counts, expected = density * mask.sum() * np.diff(edges), gauss * mask.sum() * np.diff(edges)
    many = expected > 50
    chi2 = np.sum((counts - expected)[many] ** 2 / expected[many])
    # The bins' finite width changes the density by at most 1 % where it is well measured; 5 sigma of chi^2 otherwise.
    assert chi2 < many.sum() + 5 * np.sqrt(2 * many.sum())
    assert axis.get_xlabel() == r"residual: predicted − truth [$\mu\mathrm{K}_{\mathrm{CMB}}$]"
    assert "rms 3" in axis.get_legend().get_texts()[0].get_text()


@pytest.fixture
def all_figures(maps, stacked):
    history = [{"epoch": 1, "train_loss": 1.0, "valid_loss": 1.0, "lr": 0.1}]
    return {
        "sky": lambda: sky_panels(*maps, caption=CAPTION, width=80),
        "zoom": lambda: zoom_panels(*maps, caption=CAPTION, width=40),
        "spectra": lambda: figures.spectra_figure(stacked, caption=CAPTION),
        "delensing": lambda: delensing_figure({"network": stacked}, caption=CAPTION),
        "loss": lambda: figures.loss_curves(history, caption=CAPTION),
        "histogram": lambda: figures.residual_histogram({"network": maps[0]}, caption=CAPTION),
    }


@pytest.mark.parametrize("name", ["sky", "zoom", "spectra", "delensing", "loss", "histogram"])
def test_every_figure_says_what_it_shows_and_repeats_byte_for_byte(name, all_figures):
    figure = all_figures[name]()
    caption = figure.get_suptitle().replace("\n", " ")
    assert all(word in caption for word in WORDS), caption
    first = png(figure)
    with matplotlib.rc_context({"font.size": 20, "figure.dpi": 33, "mathtext.fontset": "cm", "axes.grid": True}):
        assert png(all_figures[name]()) == first
    assert b"Software" not in first
    assert b"Creation" not in first


def test_a_single_sky_is_drawn_without_bars(stacked):
    one = {name: value if name == "ell" else value[:1] for name, value in stacked.items()}
    top, _ = figures.spectra_figure(one, caption=CAPTION).axes
    assert all(not container.has_yerr for container in top.containers)
    assert np.isfinite(lines(top)["observed"]).all()


def test_kappa_has_no_unit(maps, stacked):
    caption = {"field": "kappa", "unit": "1", "nside": NSIDE}
    top, _ = figures.spectra_figure(stacked, caption=caption).axes
    assert top.get_ylabel() == r"$D_\ell^{\kappa\kappa}$"
    image = panels(sky_panels(*maps, caption=caption, width=40))[0].images[0]
    assert image.colorbar.ax.get_xticklabels()[1].get_text() == "0"
