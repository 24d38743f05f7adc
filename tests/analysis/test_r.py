"""r of skies whose powers are known: bias, errors, and that no sky's truth helps to estimate its own r."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from cmbml.analysis.delensing.measure import Baseline, Measure
from cmbml.analysis.delensing.pure_b import PureSpectra, pure_bins, window_within
from cmbml.analysis.delensing.r import MeasureR, posteriors, r_of_skies
from cmbml.core.asset import Assets
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import apodise, band_mask, f_sky
from tests.analysis import standin

T = np.array([4.0, 2.0, 1.0])
LEFT = np.array([0.3, 0.2, 0.2])
MODES = np.array([200.0, 300.0, 400.0])
R = 0.1


def skies(count, seed, delensed=1.0):
    """Bandpowers of independent Gaussian modes: delensed map, primordial map, and their product."""
    rng = np.random.default_rng(seed)
    powers = np.empty((3, count, len(T)))
    for b, modes in enumerate(MODES.astype(int)):
        u = np.sqrt(R * T[b]) * rng.standard_normal((count, modes))
        p = delensed * u + np.sqrt(LEFT[b]) * rng.standard_normal((count, modes))
        powers[:, :, b] = np.mean([p * p, p * u, u * u], axis=2)
    return dict(zip(("predicted", "predicted_x_unlensed", "unlensed"), powers, strict=True))


def test_r_is_not_biased():
    """The error of the mean counts the skies of which the rest is known; 100 times known and judged ones."""
    pulls = []
    for seed in range(100):
        judged = r_of_skies(skies(6, 2 * seed), skies(6, 2 * seed + 1), T, MODES)
        pulls.append(judged.bias[0] / judged.bias[1])
        assert np.all(judged.fit.low < judged.fit.best[:, 0])
    # Student's t of 5 degrees has a standard deviation of 1.29.
    assert abs(np.mean(pulls)) < 2.5 * 1.29 / 10
    assert 0.9 < np.std(pulls) < 1.7


def test_a_signal_that_is_not_kept_is_bias():
    """A map with .7 of the primordial amplitude: r is half of what it was."""
    judged = r_of_skies(skies(200, 1), skies(200, 2, delensed=0.7), T, MODES)
    assert judged.bias[0] == pytest.approx(-0.51 * R, rel=0.1)


def test_the_truth_of_a_judged_sky_does_not_help():
    known, judged = skies(4, 1), skies(4, 2)
    without = judged | {name: np.full_like(judged[name], 1e3) for name in ("predicted_x_unlensed", "unlensed")}
    a = r_of_skies(known, judged, T, MODES).fit
    b = r_of_skies(known, without, T, MODES).fit
    np.testing.assert_array_equal(a.best, b.best)
    np.testing.assert_array_equal(a.high, b.high)


def test_posteriors_have_their_tops_at_r_hat():
    judged = r_of_skies(skies(4, 1), skies(2, 2), T, MODES)
    for i, (r, density) in enumerate(posteriors(judged)):
        assert density.max() == pytest.approx(1, abs=1e-3)
        inside = (r > judged.fit.low[i]) & (r < judged.fit.high[i])
        assert density[inside].min() == pytest.approx(np.exp(-0.5), abs=0.03)
        assert density[~inside].max() == pytest.approx(np.exp(-0.5), abs=0.03)


@pytest.fixture
def cfg(composed):
    return composed(*standin.WORDS, "method=quadratic", "method.name=good", "analysis=r", "splits.test=4")


def test_the_stage_measures_r_of_half_of_the_skies(cfg, monkeypatch):
    """Flat spectra, r = 1 in units of the tensors that the filters tell: the errors are closed forms."""
    standin.quickly(monkeypatch, pdf=False)
    standin.make(cfg)
    assets = Assets(cfg.assets.files, cfg.assets.constants)
    Pipeline([Baseline(cfg), Measure(cfg), MeasureR(cfg)], assets).run()
    rows = assets.file("r_csv", {}).read()
    assert [(row["method"], int(row["sim"])) for row in rows] == [
        ("good", 2), ("good", 3), ("no delensing", 2), ("no delensing", 3),
    ]  # fmt: skip
    modes = 30**2 - 2**2  # l = 2 .. 29
    for row in rows:
        left = standin.CN + standin.CS * (standin.A_RES["good"] if row["method"] == "good" else 1)
        # Of the other two skies come R + N, which costs modes and scatters by itself.
        sigma = np.sqrt(2 / modes * ((standin.CU + left) ** 2 + left**2 / 2)) / standin.CU
        assert float(row["r_sigma"]) == pytest.approx(sigma, rel=0.35)
        assert abs(float(row["r_bias"])) < 4 * sigma
        assert float(row["r_low"]) < float(row["r_hat"]) < float(row["r_high"])
        assert float(row["r_own"]) == pytest.approx(1, abs=4 * np.sqrt(2 / modes))
    text = assets.file("r_md", {}).path.read_text()
    assert "what is left of 2 other test skies" in text
    assert "good: mean bias" in text
    assert assets.file("r_png", {}).path.stat().st_size > 1000


def test_what_has_no_r_is_refused(cfg):
    for key, value, message in (
        ("delens.field", "E", "r is measured in B"),
        ("splits.test", 1, "two test skies"),
        ("delens.lmin_b", 12, r"has no multipoles below delens.lmin_b - 10 = 2"),
    ):
        other = cfg.copy()
        OmegaConf.update(other, key, value)
        with pytest.raises(UserError, match=message):
            MeasureR(other).check()


def test_pure_spectra_know_the_template_and_not_e(composed):
    """A template that is the lensing leaves the primordial B, whatever E is."""
    words = [w for w in standin.WORDS if not w.startswith(("nside", "sky.lmax", "analysis.lmax", "delens.lmin_b"))]
    words += ["nside=32", "sky.lmax=64", "analysis.lmax=64", "delens.lmin_b=60", "method=quadratic", "analysis=r"]
    cfg = composed(*words, "mask=band", "mask.apodise_deg=25", "mask.b_deg=10")
    rng = np.random.default_rng(1)
    lmax = 64
    e, u, s = (white_alm(rng, lmax) * amplitude for amplitude in (30.0, 1.0, 2.0))
    beam = gaussian_beam(standin.FWHM_ARCMIN, lmax)
    qu = sht.synthesis(sht.almxfl(np.stack([e, u + s]), beam), 32, spin=2)
    template = sht.synthesis(sht.almxfl(s, beam), 32)
    mask = SkyMap(apodise(band_mask(32, 10.0), 5.0)[None], ("mask",), "1", 0.0, lmax)
    obs = SkyMap(qu * mask["mask"], ("Q", "U"), "uK_CMB", standin.FWHM_ARCMIN, lmax)
    spectra = PureSpectra(cfg).run(
        {"split": "test", "sim": 0},
        obs=obs,
        lensing_template=SkyMap(template[None], ("B",), "uK_CMB", standin.FWHM_ARCMIN, lmax),
        unlensed_alm={"B": u},
        mask=mask,
    )
    bins = pure_bins(cfg, mask, (16, 41), standin.FWHM_ARCMIN)
    truth = bins.unbiased @ spectra["quadratic/unlensed"]
    np.testing.assert_allclose(bins.unbiased @ spectra["quadratic/predicted"], truth, rtol=0.02)
    np.testing.assert_allclose(bins.unbiased @ spectra["quadratic/predicted_x_unlensed"], truth, rtol=0.02)
    np.testing.assert_allclose(bins.unbiased @ spectra["no delensing/predicted"], 5, rtol=0.35)
    np.testing.assert_allclose(bins.windows.sum(axis=1), 1, rtol=1e-9)
    modes, correlation = bins.modes(spectra["no delensing/predicted"])
    weights = window_within(cfg, mask)
    expected = f_sky(weights) ** 2 / f_sky(weights, 4) * np.diff(np.array([16, 29, 42]) ** 2)
    np.testing.assert_allclose(modes, expected, rtol=0.25)
    assert np.abs(correlation[0, 1]) < 0.3


def white_alm(rng, lmax):
    """Alms (nalm,) of C_l = 1 from l = 2."""
    alm = (rng.standard_normal(sht.alm_size(lmax)) + 1j * rng.standard_normal(sht.alm_size(lmax))) / np.sqrt(2)
    alm[: lmax + 1] = alm[: lmax + 1].real * np.sqrt(2)
    return sht.almxfl(alm, (np.arange(lmax + 1) >= 2).astype(float))


def test_pure_b_wants_q_u_and_a_taper(composed):
    words = (*standin.WORDS, "method=quadratic", "analysis=r", "mask=band")
    cfg = composed(*words)
    for key, value, message in (("sky.fields", ["B"], "made of Q and U"), ("mask.apodise_deg", 0.0, "an edge")):
        other = cfg.copy()
        OmegaConf.update(other, key, value)
        with pytest.raises(UserError, match=message):
            PureSpectra(other).check()
    assert len(PureSpectra(cfg).items()) == cfg.splits.test
    assert not PureSpectra(composed(*words[:-1])).items()
