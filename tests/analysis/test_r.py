"""r of skies whose powers are known: bias, errors, and that no sky's truth helps to estimate its own r."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from cmbml.analysis.delensing.bandpowers import Bandpowers, bins_of, window_of_r
from cmbml.analysis.delensing.measure import NONE
from cmbml.analysis.delensing.r import FREE, IGNORED, MeasureR
from cmbml.analysis.delensing.r_fit import left_of, posteriors, r_of_skies
from cmbml.core import handlers
from cmbml.core.asset import Assets, File, Files
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing import unit_alm
from cmbml.sky.lensing_theory import fiducial
from cmbml.sky.masks import apodise, band_mask, f_sky
from cmbml.start import build
from tests.analysis import standin

T = np.array([4.0, 2.0, 1.0])
LEFT = np.array([0.3, 0.2, 0.2])
NOISE = np.array([0.05, 0.1, 0.02])
F = np.array([0.2, 0.15, 0.3])
MODES = np.array([200.0, 300.0, 400.0])
R = 0.1
OF_R = ("analysis=r", "analysis.r.band=[2,29]", "analysis.r.delta_l=13")


def skies(count, seed, delensed=1.0, foregrounds=0.0, left=LEFT):
    """Bandpowers of independent Gaussian modes: the delensed map, and what is in it, each with each."""
    rng = np.random.default_rng(seed)
    powers = np.empty((6, count, len(T)))
    for b, modes in enumerate(MODES.astype(int)):
        u = np.sqrt(R * T[b]) * rng.standard_normal((count, modes))
        p = delensed * u + np.sqrt(left[b]) * rng.standard_normal((count, modes))
        f = np.sqrt(foregrounds * F[b]) * rng.standard_normal((count, modes)) if foregrounds else np.zeros_like(u)
        p += f
        powers[:, :, b] = np.mean([p * p, p * u, u * u, f * f, p * f, u * f], axis=2)
    names = ("predicted", "predicted_x_unlensed", "unlensed", *OF_FOREGROUNDS)
    return dict(zip(names if foregrounds else names[:3], powers, strict=False))


OF_FOREGROUNDS = ("foregrounds", "predicted_x_foregrounds", "unlensed_x_foregrounds")


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


def test_foregrounds_bias_r_unless_their_amplitude_is_free():
    """Those of the judged skies have half as much power again as those of the known ones, which tell their shape."""
    known, judged = skies(300, 1, foregrounds=1.0), skies(300, 2, foregrounds=1.5)
    np.testing.assert_allclose(left_of(known), LEFT, rtol=5 * np.sqrt(2 / MODES.min() / 300))
    ignored = r_of_skies(known, judged, T, MODES)
    free = r_of_skies(known, judged, T, MODES, free=["A_fg"])
    assert ignored.bias[0] > 20 * ignored.bias[1]
    assert abs(free.bias[0]) < 3 * free.bias[1]
    assert free.bias[1] < 0.05 * ignored.bias[0]
    assert free.fit.best[:, 1].mean() == pytest.approx(1.5, abs=0.1)
    # What A_fg costs, by Fisher's matrix of two amplitudes in three bins.
    slopes = np.stack([T, F]) / (LEFT + F)
    errors = np.sqrt(np.diag(np.linalg.inv(slopes * MODES / 2 @ slopes.T)))
    assert free.sigma_zero == pytest.approx(errors[0], rel=0.03)
    assert ignored.sigma_zero == pytest.approx(1 / np.sqrt(MODES / 2 @ slopes[0] ** 2), rel=0.03)


def test_the_bias_of_faint_foregrounds_is_the_r_that_they_look_like():
    known, judged = skies(300, 1, foregrounds=0.1), skies(300, 2, foregrounds=0.15)
    ignored = r_of_skies(known, judged, T, MODES)
    weights = ignored.likelihoods[0].weights(known["predicted"].mean(axis=0))[0]
    assert ignored.of_foregrounds.mean() == pytest.approx(weights @ (0.15 * F), rel=0.03)
    assert ignored.bias[0] == pytest.approx(ignored.of_foregrounds.mean(), abs=3 * ignored.bias[1])
    assert ignored.bias[0] > 5 * ignored.bias[1]
    free = r_of_skies(known, judged, T, MODES, free=["A_fg"])
    # Of the shape that is fitted nothing is taken for r.
    assert abs(free.of_foregrounds.mean()) < 0.05 * ignored.of_foregrounds.mean()


def test_the_noise_of_a_sky_is_its_own():
    """The known skies have as much noise again as they have lensing, and the judged ones half of that."""
    noise = LEFT.copy()
    known, judged = skies(300, 1, left=LEFT + noise), skies(300, 2, left=LEFT + 0.5 * noise)
    shared = r_of_skies(known, judged, T, MODES)
    assert shared.bias[0] < -20 * shared.bias[1]
    known["noise"], judged["noise"] = np.tile(noise, (300, 1)), np.tile(0.5 * noise, (300, 1))
    own = r_of_skies(known, judged, T, MODES)
    assert abs(own.bias[0]) < 3 * own.bias[1]
    assert own.sigma_zero < 0.85 * shared.sigma_zero


def test_lensing_that_is_left_biases_r_unless_its_amplitude_is_free():
    """The judged skies have a fifth more of it than the known ones; what that costs is told by Fisher's matrix."""
    lensing = LEFT - NOISE
    known, judged = (skies(300, i, left=a * lensing + NOISE) for i, a in ((1, 1.0), (2, 1.2)))
    known["noise"] = judged["noise"] = np.tile(NOISE, (300, 1))
    alone = r_of_skies(known, judged, T, MODES)
    free = r_of_skies(known, judged, T, MODES, free=["A_L"])
    assert alone.bias[0] > 10 * alone.bias[1]
    assert abs(free.bias[0]) < 3 * free.bias[1]
    assert free.fit.best[:, 1].mean() == pytest.approx(1.2, abs=0.03)
    slopes = np.stack([T, lensing]) / LEFT
    assert free.sigma_zero == pytest.approx(np.sqrt(np.linalg.inv(slopes * MODES / 2 @ slopes.T)[0, 0]), rel=0.03)
    np.testing.assert_allclose(free.left, alone.left)


def test_a_signal_that_is_not_kept_is_bias():
    """A map with .7 of the primordial amplitude: r is half of what it was."""
    judged = r_of_skies(skies(200, 1), skies(200, 2, delensed=0.7), T, MODES)
    assert judged.bias[0] == pytest.approx(-0.51 * R, rel=0.1)


@pytest.mark.parametrize("free", [(), ("A_fg",), ("A_L", "A_fg")])
def test_the_truth_of_a_judged_sky_does_not_help(free):
    known = skies(4, 1, foregrounds=1.0) | {"noise": np.tile(NOISE, (4, 1))}
    judged = skies(4, 2, foregrounds=1.0) | {"noise": np.tile(NOISE, (4, 1))}
    without = {name: x if name in ("predicted", "noise") else np.full_like(x, 1e3) for name, x in judged.items()}
    a, b = (r_of_skies(known, x, T, MODES, free=free).fit for x in (judged, without))
    np.testing.assert_array_equal(a.best, b.best)
    np.testing.assert_array_equal(a.high, b.high)


@pytest.mark.parametrize("free", [(), ("A_fg",), ("A_L", "A_fg")])
def test_posteriors_have_their_tops_at_r_hat(free):
    known, judged = (skies(n, n, foregrounds=1.0) | {"noise": np.tile(NOISE, (n, 1))} for n in (4, 2))
    judged = r_of_skies(known, judged, T, MODES, free=free)
    for i, (r, density) in enumerate(posteriors(judged)):
        assert density.max() == pytest.approx(1, abs=1e-3)
        inside = (r > judged.fit.low[i]) & (r < judged.fit.high[i])
        assert density[inside].min() == pytest.approx(np.exp(-0.5), abs=0.03)
        assert density[~inside].max() == pytest.approx(np.exp(-0.5), abs=0.03)


@pytest.fixture
def cfg(composed):
    return composed(*standin.WORDS, "method=quadratic", "method.name=good", *OF_R, "splits.test=4")


def test_the_stage_measures_r_of_half_of_the_skies(cfg, monkeypatch):
    """Flat spectra, r = 1 in units of the tensors that the filters tell: the errors are closed forms."""
    standin.quickly(monkeypatch, pdf=False)
    standin.make(cfg)
    assets = Assets(cfg.assets.files, cfg.assets.constants)
    Pipeline([Bandpowers(cfg), MeasureR(cfg)], assets).run()
    rows = assets.file("r_csv", {}).read()
    assert [(row["method"], row["fit"], int(row["sim"])) for row in rows] == [
        (name, "r alone", sim) for name in ("good", NONE) for sim in (2, 3)
    ]
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
    # The theory of the files has all of the lensing, and of theirs .08 and the noise is left.
    files = assets.file("r_zip", {}).read()
    assert {name for name in files if name.endswith(".dataset")} == {"sim0002.dataset", "sim0003.dataset"}
    noise = np.loadtxt(files["sim0003_noise.dat"].splitlines())[:, 1]
    hat = np.loadtxt(files["sim0003_cl_hat.dat"].splitlines())[:, 1]
    left = standin.CN + 0.08 * standin.CS
    np.testing.assert_allclose(noise / hat, (left - standin.CS) / (standin.CU + left), rtol=0.5)


def write_spectra(folder, splits, *, seed=0):
    """Spectra of `Bandpowers` of full skies, in units of the beam: u 1, what is left .5 and 4, f 30 / l^2."""
    files = []
    items = [{"split": split, "sim": sim} for split, n in splits for sim in range(n)]
    beam = gaussian_beam(standin.FWHM_ARCMIN, 32)
    for i, item in enumerate(items):
        rng = np.random.default_rng([seed if item["split"] == "test" else 99, i])
        spectra = {f"{m}/{name}": np.zeros(33) for m in ("good", NONE) for name in ("predicted", *NAMES)}
        for ell in range(2, 33):
            u, f, rest = np.sqrt([[1], [30 / ell**2], [1]]) * rng.standard_normal((3, 2 * ell + 1))
            for method, left in (("good", 0.5), (NONE, 4.0)):
                p = u + f + np.sqrt(left) * rest
                pairs = zip(("predicted", *NAMES), ((p, p), (p, u), (u, u), (f, f), (p, f), (u, f)), strict=True)
                for name, (a, b) in pairs:
                    spectra[f"{method}/{name}"][ell] = np.mean(a * b) * beam[ell] ** 2
        path = folder / f"{seed}_{item['split']}_{item['sim']}.npz"
        handlers.write(path, spectra)
        files.append(File(path))
    return Files(tuple(files), tuple(items))


NAMES = ("predicted_x_unlensed", "unlensed", *OF_FOREGROUNDS)
FILTERS = {"bb_tensor": np.ones(41), "bb_lensing": np.full(41, 4.0), "noise_b": np.full(41, 0.1)}


def test_skies_of_another_split_tell_what_is_left(cfg, composed, tmp_path, monkeypatch):
    """All test skies are judged, and what is told of them does not change with another test sky."""
    standin.quickly(monkeypatch, pdf=False)
    OmegaConf.update(cfg, "splits.known", "valid")
    stage = MeasureR(cfg)
    splits = (("test", 4), ("valid", 5))
    rows, text, _, files, curves = stage.run({}, r_spectra=write_spectra(tmp_path, splits), filters=FILTERS)
    assert "what is left of 5 validation skies" in text
    assert "good, A_fg free: mean bias" in text
    assert "r of the foregrounds" in text
    assert [(row["fit"], row["sim"]) for row in rows[:8]] == [(way, sim) for way in (IGNORED, FREE) for sim in range(4)]
    assert all(np.isfinite(row["A_fg"]) == (row["fit"] == FREE) for row in rows)
    # What is handed on to be drawn is what the table tells of the last way.
    assert str(curves["fit"]) == FREE
    for method in ("good", NONE):
        of_method = [row for row in rows if (row["method"], row["fit"]) == (method, FREE)]
        assert [row["r_own"] for row in of_method] == list(curves[f"{method}/own"])
        tops = [r[np.argmax(density)] for r, density in curves[f"{method}/posterior"]]
        np.testing.assert_allclose(tops, [row["r_hat"] for row in of_method], atol=0.03 * of_method[0]["r_sigma"])
        assert curves[f"{method}/foregrounds"].shape == (4, len(curves["ell"]))
    assert curves["ell"] == pytest.approx([np.arange(2, 15) @ (2 * np.arange(2, 15) + 1) / (15**2 - 4), 22.7], rel=0.02)
    others = write_spectra(tmp_path, splits, seed=1)
    mixed = Files(
        (*others.files[:2], *write_spectra(tmp_path, splits).files[2:]), others.items
    )  # the first half of the test skies is another one
    again, _, _, other_files, _ = stage.run({}, r_spectra=mixed, filters=FILTERS)
    for before, after in zip(rows, again, strict=True):
        fitted = [(row["r_hat"], row["r_low"], row["r_high"], row.get("A_fg")) for row in (before, after)]
        same = np.array_equal(*np.array(fitted, dtype=float), equal_nan=True)
        assert same == (before["sim"] >= 2)
    assert other_files["sim0003_noise.dat"] == files["sim0003_noise.dat"]
    assert other_files["sim0000_cl_hat.dat"] != files["sim0000_cl_hat.dat"]
    assert files["sim0003_shapes.dat"].startswith("# bin foregrounds\n")


def test_foregrounds_may_be_left_out_of_the_fit(cfg, tmp_path, monkeypatch):
    standin.quickly(monkeypatch, pdf=False)
    OmegaConf.update(cfg, "analysis.r.free", ["r"])
    rows = MeasureR(cfg).run({}, r_spectra=write_spectra(tmp_path, [("test", 4)]), filters=FILTERS)[0]
    assert {row["fit"] for row in rows} == {IGNORED}


def test_the_lensing_that_is_left_may_have_a_free_amplitude(cfg, tmp_path, monkeypatch):
    """Of what is left the noise is that of the filters; what is not is the shape of A_L, the same of all skies."""
    standin.quickly(monkeypatch, pdf=False)
    spectra = write_spectra(tmp_path, [("test", 8)])
    fixed, free = ([], [])
    for found, amplitudes in ((fixed, ["r"]), (free, ["r", "A_L"])):
        OmegaConf.update(cfg, "analysis.r.free", amplitudes)
        found += MeasureR(cfg).run({}, r_spectra=spectra, filters=FILTERS)[0]
    assert {row["fit"] for row in free} == {f"{IGNORED}, A_L free"}
    assert all("A_L" not in row for row in fixed)
    assert all(np.isfinite(row["A_L"]) for row in free)
    assert all(b["r_sigma"] > a["r_sigma"] for a, b in zip(fixed, free, strict=True))


def test_powers_that_have_no_likelihood_are_refused(cfg, tmp_path):
    spectra = write_spectra(tmp_path, [("test", 4)])
    below = {name: -cl if name == "good/predicted" else cl for name, cl in spectra[3].items()}
    handlers.write(spectra.files[3].path, below)
    with pytest.raises(UserError, match=r"A bandpower within analysis.r.band=\[2, 29\] is not above 0"):
        MeasureR(cfg).run({}, r_spectra=spectra, filters=FILTERS)


def test_what_has_no_r_is_refused(cfg):
    for stage, changes, message in (
        (Bandpowers, {"delens.field": "E"}, "r is measured in B"),
        (Bandpowers, {"analysis.r.b": "pure"}, "full sky has no border"),
        (MeasureR, {"splits.test": 1}, "two test skies"),
        (MeasureR, {"splits.known": "valid", "splits.valid": 0}, "analysis.r.known=valid names no skies"),
        (MeasureR, {"analysis.r.band": [2, 30]}, r"ends beyond l = 29, the least of delens.lmin_b - 10"),
        (MeasureR, {"delens.lmin_b": 60, "analysis.r.band": [2, 33]}, r"ends beyond l = 32"),
        (
            MeasureR,
            {"sims.combine": {"BinSize": 9}, "foregrounds.kind": "synthetic", "analysis.r.delta_l": 20},
            "has too few bins of analysis.r.delta_l=20, 1, to tell r and A_fg apart",
        ),
    ):
        other = cfg.copy()
        for key, value in changes.items():
            OmegaConf.update(other, key, value, force_add=True)
        with pytest.raises(UserError, match=message):
            stage(other).check()


def test_settings_that_are_not_known_are_refused(composed):
    words = (*standin.WORDS, *OF_R)
    for given, message in (
        (("analysis.r.known=train",), r"analysis.r.known=train: a network, .* take analysis.r.known=valid"),
        (("analysis.r.known=mine",), "analysis.r.known=mine is not known"),
        (("analysis.r.b=dirty",), "analysis.r.b=dirty is not known"),
        (("analysis.r.free=[A_fg]",), "analysis.r.free=.* is not known"),
        (("splits.known=valid",), "splits.known=valid is not the split that r is measured against, None"),
    ):
        with pytest.raises(UserError, match=message):
            composed(*words, *given)


@pytest.mark.parametrize("method", ["linear_map", "quadratic", "delens_unet"])
def test_known_skies_get_estimates_and_the_test_skies_are_as_they_were(composed, method):
    words = (*standin.WORDS, f"method={method}", "splits.train=3", "splits.valid=2", "splits.test=2", "mask=band")
    plain = build(composed(*words))
    split = "valid" if method == "delens_unet" else "train"
    more = build(composed(*words, *OF_R, f"analysis.r.known={split}"))
    by_name = {stage.name: stage for stage in more.stages}
    (template,) = [stage for stage in plain.stages if stage.name == "lensing_template"]
    for sim in range(2):
        item = {"split": "test", "sim": sim}
        assert plain.fingerprint(template, item) == more.fingerprint(by_name["lensing_template"], item)
    assert {item["split"] for item in template.items()} == {"test"}
    for name in ("lensing_template", "bandpowers"):
        expected = {("test", 0), ("test", 1), *((split, sim) for sim in range(3 if split == "train" else 2))}
        assert {tuple(item.values()) for item in by_name[name].items()} == expected
    assert {item["split"] for item in by_name["measure"].items()} == {"test"}
    more.plan()  # every input of theirs is made by some stage


@pytest.fixture
def part(composed):
    """Settings of a masked sky, and the mask."""
    words = [w for w in standin.WORDS if not w.startswith(("nside", "sky.lmax", "analysis.lmax", "delens.lmin_b"))]
    words += ["nside=32", "sky.lmax=64", "analysis.lmax=64", "delens.lmin_b=60", "method=quadratic", "analysis=r"]
    words += ["analysis.r.band=[16,41]", "analysis.r.delta_l=13", "mask=band", "mask.apodise_deg=25", "mask.b_deg=10"]
    return composed(*words), SkyMap(apodise(band_mask(32, 10.0), 5.0)[None], ("mask",), "1", 0.0, 64)


def b_map(data, lmax=64, fields=("B",)):
    return SkyMap(data, fields, "uK_CMB", standin.FWHM_ARCMIN, lmax)


def test_pure_spectra_know_the_template_and_not_e(part):
    """A template that is the lensing leaves the primordial B, whatever E is."""
    cfg, mask = part
    assert cfg.analysis.r.b == "pure"
    rng = np.random.default_rng(1)
    lmax = 64
    e, u, s = (white_alm(rng, lmax) * amplitude for amplitude in (30.0, 1.0, 2.0))
    beam = gaussian_beam(standin.FWHM_ARCMIN, lmax)
    qu = sht.synthesis(sht.almxfl(np.stack([e, u + s]), beam), 32, spin=2)
    template = sht.synthesis(sht.almxfl(s, beam), 32)
    spectra = Bandpowers(cfg).run(
        {"split": "test", "sim": 0},
        obs=b_map(qu * mask["mask"], fields=("Q", "U")),
        lensing_template=b_map(template[None]),
        unlensed_alm={"B": u},
        mask=mask,
    )
    bins = bins_of(cfg, mask, standin.FWHM_ARCMIN)
    truth = bins.unbiased @ spectra["quadratic/unlensed"]
    np.testing.assert_allclose(bins.unbiased @ spectra["quadratic/predicted"], truth, rtol=0.02)
    np.testing.assert_allclose(bins.unbiased @ spectra["quadratic/predicted_x_unlensed"], truth, rtol=0.02)
    np.testing.assert_allclose(bins.unbiased @ spectra["no delensing/predicted"], 5, rtol=0.35)
    np.testing.assert_allclose(bins.windows.sum(axis=1), 1, rtol=1e-9)
    modes, correlation = bins.modes(spectra["no delensing/predicted"])
    weights = window_of_r(cfg, mask)
    expected = f_sky(weights) ** 2 / f_sky(weights, 4) * np.diff(np.array([16, 29, 42]) ** 2)
    np.testing.assert_allclose(modes, expected, rtol=0.25)
    assert np.abs(correlation[0, 1]) < 0.3


@pytest.mark.parametrize("masked", [True, False])
def test_scalar_spectra_know_the_template_and_the_foregrounds(part, masked):
    """A map of primordial B, of lensing that the template is and of foregrounds that are known leaves nothing else."""
    cfg, mask = part
    cfg.analysis.r.b = "scalar"
    weights = mask["mask"] if masked else 1.0
    rng = np.random.default_rng(2)
    beam = gaussian_beam(standin.FWHM_ARCMIN, 64)
    alms = [white_alm(rng, 64) * amplitude for amplitude in (1.0, 2.0, 1.5)]
    u, s, f = (sht.synthesis(sht.almxfl(alm, beam), 32) * weights for alm in alms)
    given = {"mask": mask} if masked else {}
    spectra = Bandpowers(cfg).run(
        {"split": "test", "sim": 0},
        obs=b_map((u + s + f)[None]),
        lensing_template=b_map(s[None]),
        unlensed_alm={"B": alms[0]},
        foregrounds_left={"B": sht.analysis(f, 64, niter=3).astype(np.complex64)},
        **given,
    )
    bins = bins_of(cfg, mask if masked else None, standin.FWHM_ARCMIN)
    powers = {name.split("/")[1]: (bins.unbiased @ cl)[None] for name, cl in spectra.items() if "quadratic" in name}
    scatter = np.sqrt(2 / bins.modes(spectra["quadratic/unlensed"])[0])
    np.testing.assert_allclose(powers["unlensed"][0], 1, atol=4 * scatter.max())
    np.testing.assert_allclose(powers["foregrounds"][0], 2.25, atol=4 * 2.25 * scatter.max())
    np.testing.assert_allclose(left_of(powers) / powers["predicted"][0], 0, atol=1e-3)
    np.testing.assert_allclose(bins.windows[:, 2:].sum(axis=1), 1, rtol=1e-9)


def white_alm(rng, lmax):
    """Alms (nalm,) of C_l = 1 from l = 2."""
    alm = (rng.standard_normal(sht.alm_size(lmax)) + 1j * rng.standard_normal(sht.alm_size(lmax))) / np.sqrt(2)
    alm[: lmax + 1] = alm[: lmax + 1].real * np.sqrt(2)
    return sht.almxfl(alm, (np.arange(lmax + 1) >= 2).astype(float))


def test_pure_b_wants_q_u_and_a_taper(composed):
    cfg = composed(*standin.WORDS, "method=quadratic", *OF_R, "mask=band")
    for key, value, message in (
        ("sky.fields", ["B"], "made of Q and U"),
        ("mask.apodise_deg", 0.0, "an edge"),
    ):
        other = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        OmegaConf.update(other, key, value)
        with pytest.raises(UserError, match=message):
            Bandpowers(other).check()
    Bandpowers(cfg).check()


@pytest.mark.slow
@pytest.mark.parametrize(("b", "own_taper"), [("scalar", 0.0), ("pure", 8.0)])
def test_r_of_masked_skies_is_not_biased(composed, b, own_taper):
    """Skies of all E and .3 of the lensing whose Q and U are masked: E leaks into scalar B, and not into pure B."""
    nside, lmax, fwhm_arcmin, r, n = 64, 160, 30.0, 0.01, 160
    words = ["nside=64", "sky.lmax=160", "analysis.lmax=128", "delens.lmin_b=125", "instrument.fwhm_arcmin=30"]
    words += ["mask=band", f"mask.apodise_deg={own_taper}", "analysis=r", f"analysis.r.b={b}", "analysis.r.delta_l=15"]
    cfg = composed(*words, "analysis.r.band=[20,110]", "analysis.band=[20,110]", "patches.patch=32", "patches.halo=8")
    weights = apodise(band_mask(nside, 15.0), 8.0)
    mask = SkyMap(weights[None], ("mask",), "1", 0.0, lmax)
    bins = bins_of(cfg, mask, fwhm_arcmin)
    cls = fiducial()
    beam = gaussian_beam(fwhm_arcmin, lmax)
    tensor = cls["bb"] / 0.01
    left = 0.3 * (cls["lensed_bb"] - cls["bb"])
    nothing = SkyMap(np.zeros((1, 12 * nside**2)), ("B",), "uK_CMB", fwhm_arcmin, lmax)
    spectra = []
    for sim in range(n):
        rng = np.random.default_rng(sim)
        powers = (cls["lensed_ee"], r * tensor, left)
        e, u, rest = (sht.almxfl(unit_alm(rng, lmax), np.sqrt(cl[: lmax + 1])) for cl in powers)
        qu = sht.synthesis(sht.almxfl(np.stack([e, u + rest]), beam), nside, spin=2) * weights
        b_alm = sht.analysis(qu, lmax, spin=2, niter=3)[1]
        obs = SkyMap(np.stack([sht.synthesis(b_alm, nside), *qu]), ("B", "Q", "U"), "uK_CMB", fwhm_arcmin, lmax)
        found = Bandpowers(cfg).run({}, obs=obs, lensing_template=nothing, unlensed_alm={"B": u}, mask=mask)
        spectra.append({name.split("/")[1]: cl for name, cl in found.items() if name.startswith(NONE)})
    powers = {name: np.array([cls[name] for cls in spectra]) @ bins.unbiased.T for name in spectra[0]}
    modes = bins.modes(np.mean([cls["predicted"] for cls in spectra], axis=0))
    known, judged = ({name: x[part] for name, x in powers.items()} for part in (slice(n // 2), slice(n // 2, None)))
    result = r_of_skies(known, judged, bins.of_theory(tensor), *modes)
    excess = left_of(powers) / bins.of_theory(left)
    print(f"{b}: R / true {np.round(excess, 3)}, bias {result.bias}, sigma(r = 0) {result.sigma_zero:.2g}")
    scatter = np.sqrt(2 / modes[0] / n)
    np.testing.assert_allclose(powers["unlensed"].mean(axis=0) / bins.of_theory(r * tensor), 1, atol=4 * scatter.max())
    assert abs(result.bias[0]) < 3 * result.bias[1]
    if b == "pure":
        np.testing.assert_allclose(excess, 1, atol=4 * scatter.max())
