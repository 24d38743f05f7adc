"""Internal linear combinations: against a dense evaluation pixel by pixel, closed forms, and what they must keep."""

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from scipy import constants

from cmbml.config import resolvers as config
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.methods.ilc import scales as layout
from cmbml.methods.ilc.seds import COMPONENTS, response
from cmbml.methods.ilc.stages import HarmonicClean, NeedletClean, Residuals, beam_ratio, rebeamed
from cmbml.methods.ilc.weights import (
    apply,
    constrained_weights,
    fit,
    harmonic_weights,
    local_covariance,
    noise_spectrum,
)
from cmbml.methods.shared.needlet_peaks import peaks_by_rule
from cmbml.sky import dipole, sht, synthetic
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.foregrounds import smoothed
from cmbml.sky.instrument import read_instrument
from cmbml.sky.lensing import unit_alm
from cmbml.sky.masks import apodise
from cmbml.sky.noise import white_noise
from cmbml.sky.units import conversion
from tests.conftest import REPO

PLANCK = read_instrument(REPO / "assets" / "instruments" / "planck.ecsv")
SEDS = {"beta_d": 1.54, "T_d": 21.0, "beta_s": -3.0}
ONE = np.ones(1)


def cmb_alm(lmax: int, seed: int = 0) -> np.ndarray:
    """T of a CMB with l (l + 1) C_l = 6000 uK^2."""
    ell = np.arange(lmax + 1)
    cl = np.divide(6000, ell * (ell + 1.0), out=np.zeros(lmax + 1), where=ell > 1)
    return sht.almxfl(unit_alm(np.random.default_rng(seed), lmax), np.sqrt(cl))


def foregrounds(nside: int, lmax: int, fwhm_arcmin: float) -> np.ndarray:
    """T of dust, synchrotron, free-free and AME in Planck's nine bands, (9, npix), with one beam."""
    rngs = {name: np.random.default_rng([7, i]) for i, name in enumerate(synthetic.COMPONENTS)}
    templates = synthetic.templates(nside, rngs)
    maps = []
    for band in PLANCK.bands:
        nu, total = band.center_ghz, 0
        for name, sky in templates.items():
            ratio, index = nu / synthetic.REFERENCE_GHZ[name], sky.get("index", synthetic.FIXED_INDEX.get(name))
            if name == "dust":
                x = constants.h * 1e9 / (constants.k * sky["temperature"].astype(float))
                total = total + sky["I"] * ratio ** (index + 1) * np.expm1(353 * x) / np.expm1(nu * x)
            else:
                total = total + sky["I"] * ratio**index
        seen = smoothed(np.asarray(total, float)[None], gaussian_beam(fwhm_arcmin, lmax), nside=nside)
        maps.append(seen[0] * conversion("uK_RJ", "uK_CMB", nu))
    return np.stack(maps)


class Sky:
    """A synthetic sky of nine bands with a beam of two pixels, and what it is made of."""

    def __init__(self, nside: int, noise: float = 1.0):
        self.nside, self.lmax = nside, int(2.5 * nside)
        self.fwhm_arcmin = 2 * hp.nside2resol(nside, arcmin=True)
        self.beams = np.stack([gaussian_beam(self.fwhm_arcmin, self.lmax)] * len(PLANCK.bands))
        self.cmb = sht.almxfl(cmb_alm(self.lmax), self.beams[0])
        self.foregrounds = foregrounds(nside, self.lmax, self.fwhm_arcmin)
        levels = [noise * band.noise_t_uk_arcmin for band in PLANCK.bands]
        self.noise = np.stack([white_noise(np.random.default_rng([1, i]), nside, w)[0] for i, w in enumerate(levels)])
        self.maps = sht.synthesis(self.cmb, nside) + self.foregrounds + self.noise
        self.alms = sht.analysis(self.maps, self.lmax)

    def scales(self, *peaks: int, tol: float = 0.01, constraints: int = 1) -> list[layout.Scale]:
        windows = layout.cosine_windows(0, [*peaks, self.lmax + 1])
        return layout.make_scales(windows, self.beams, criterion=1e-3, constraints=constraints, bias_tol=tol)


@pytest.fixture(scope="module")
def sky():
    return Sky(32)


def test_squares_of_the_windows_sum_to_one():
    needlets = layout.cosine_windows(3, [10, 40, 65])
    assert needlets.shape == (4, 65)
    np.testing.assert_allclose((needlets**2).sum(axis=0), np.arange(65) >= 3, atol=1e-15)
    # h_1 at l = 25 is halfway from its peak at 10 to the next one at 40, and 1 at the peak
    np.testing.assert_allclose(needlets[1, [10, 25, 40]], [1, np.sqrt(0.5), 0], atol=1e-15)
    bins = layout.bin_windows(2, 30, 10)
    assert [list(np.flatnonzero(b)[[0, -1]]) for b in bins] == [[2, 11], [12, 21], [22, 30]]
    assert [int(b.sum()) for b in layout.bin_windows(0, 23, 10)] == [10, 14]
    assert [int(b.sum()) for b in layout.bin_windows(0, 5, 10)] == [6]
    assert peaks_by_rule(0, 1023) == [128, 256, 512, 1024]
    assert peaks_by_rule(0, 160) == [80, 161]
    assert peaks_by_rule(0, 158) == [159]
    assert peaks_by_rule(0, 160, n_scales=4) == [40, 80, 161]


def test_bands_serve_as_far_as_their_beams_and_covariances_are_averaged_as_wide_as_the_bias_allows(caplog):
    """A Gaussian b_l is 1e-3 where l (l + 1) sigma^2 = 2 ln 1000."""
    fwhm = np.array([600.0, 200.0, 60.0])
    beams = np.stack([gaussian_beam(f, 160) for f in fwhm])
    windows = layout.cosine_windows(0, [20, 80, 161])
    found = layout.make_scales(windows, beams, criterion=1e-3, bias_tol=0.05)
    ends = np.sqrt(2 * np.log(1000)) / np.deg2rad(fwhm / 60 / np.sqrt(8 * np.log(2)))
    for scale, end in zip(found, (20, 80, 161, 161), strict=True):
        assert list(scale.bands) == [i for i in range(3) if ends[i] > end - 1]
    modes = (2 * np.arange(161) + 1) @ windows[1] ** 2
    assert [len(scale.bands) for scale in found] == [3, 2, 1, 1]
    assert found[1].sigma == pytest.approx(np.sqrt(2 * 1 / (modes * 0.05)))
    assert np.isinf(found[2].sigma)  # one band has the weight 1
    layout.make_scales(windows, beams, criterion=1e-3, bias_tol=1e-4)
    assert "are too few for 3 bands" in caplog.text
    with pytest.raises(UserError, match="Only 1 of 3 bands .* scale 2 .* where 2 are needed"):
        layout.make_scales(windows, beams, criterion=1e-3, bias_tol=0.05, constraints=2)


def dense(maps_alm: np.ndarray, scales: list[layout.Scale], mixing: np.ndarray, nside: int, tilt: np.ndarray):
    """The needlet ILC pixel by pixel on HEALPix, smoothing by healpy, one inverse a pixel."""
    lmax, total, good = hp.Alm.getlmax(maps_alm.shape[1]), 0, 3 * nside - 1
    for scale in scales:
        ell = np.arange(good + 1)
        gauss = np.exp(-ell * (ell + 1) * scale.sigma**2 / 2)

        def smooth(m, gauss=gauss):
            return hp.alm2map(hp.almxfl(hp.map2alm(m, lmax=good, iter=8), gauss), nside)

        fields = [hp.alm2map(hp.almxfl(alm, scale.window), nside) for alm in maps_alm]
        tilted = [hp.alm2map(hp.almxfl(alm, scale.window * tilt), nside) for alm in maps_alm]
        tilted = [m - smooth(m) for m in tilted]
        cov = np.array([[smooth(a * b) for a in tilted] for b in tilted])
        out = np.zeros(12 * nside**2)
        for pixel in range(out.size):
            inverse = np.linalg.inv(cov[:, :, pixel])
            weights = np.linalg.solve(mixing.T @ inverse @ mixing, mixing.T @ inverse)[0]
            out[pixel] = sum(w * m[pixel] for w, m in zip(weights, fields, strict=True))
        total = total + hp.almxfl(hp.map2alm(out, lmax=lmax, iter=8), scale.window)
    return total


@pytest.mark.parametrize(("prewhiten", "constraints"), [(True, 1), (False, 2)])
def test_agrees_with_a_dense_evaluation(prewhiten, constraints):
    """Four bands at nside 16: the two differ by the quadrature of HEALPix alone."""
    lmax, n = 20, 4
    rng, noise = np.random.default_rng(5), 8.0
    cmb, dust = cmb_alm(lmax), cmb_alm(lmax, 9)
    uneven = sht.analysis(sht.synthesis(dust, 64) * np.exp(2 * hp.pix2vec(64, np.arange(12 * 64**2))[2]), lmax)
    sed = np.array([0.3, 1.0, 3.0, 9.0])
    alms = np.stack([cmb + s * uneven + noise * unit_alm(rng, lmax) / np.sqrt(1 + s) for s in sed])
    mixing = np.stack([np.ones(n), sed / 10], axis=1)[:, :constraints]
    windows = layout.cosine_windows(0, [10, lmax + 1])
    scales = layout.make_scales(windows, np.ones((n, lmax + 1)), criterion=0.5, constraints=constraints, bias_tol=0.2)
    assert max(scale.sigma for scale in scales) < 1
    ell = np.arange(lmax + 1)
    tilt = np.sqrt(ell * (ell + 1.0)) if prewhiten else np.ones(lmax + 1)
    ours = apply(fit(alms, scales, mixing, prewhiten=prewhiten), alms)
    theirs = dense(alms, scales, mixing, 16, tilt)
    error, left = hp.alm2map(ours - theirs, 16), hp.alm2map(ours - cmb, 16)
    assert error.std() < 1e-3 * left.std()


def test_without_foregrounds_and_chance_correlations_the_cmb_is_recovered(sky):
    """The CMB has even m, noise of .01 uK a pixel odd m alone, so that no combination can trade one for the other."""
    _, m = hp.Alm.getlm(sky.lmax)
    cmb, noise = np.where(m % 2, 0, sky.cmb), sht.analysis(sky.noise, sky.lmax) * (m % 2)
    noise *= 0.01 / np.std(sht.synthesis(noise, sky.nside), axis=1, keepdims=True)
    windows = layout.bin_windows(0, sky.lmax, 30)
    bins = layout.make_scales(windows, sky.beams, criterion=1e-3)
    error = sht.synthesis(apply(fit(cmb + noise, bins, np.ones((9, 1))), cmb + noise) - cmb, sky.nside)
    assert sht.synthesis(cmb, sky.nside).std() > 20
    assert error.std() == pytest.approx(0.01 / 3, rel=0.1)  # of the mean of nine


def test_as_many_components_as_bands_are_told_apart_exactly(sky):
    """CMB, dust and synchrotron of fixed spectra in three bands without noise."""
    bands = [PLANCK.band(name).center_ghz for name in ("30", "143", "353")]
    mixing = np.array([[1, *(response(name, [nu], ONE, SEDS) for name in ("dust", "sync"))] for nu in bands])
    mixing[:, 1:] *= 100 / np.linalg.norm(mixing[:, 1:], axis=0)
    parts = np.stack([sky.cmb, cmb_alm(sky.lmax, 1), cmb_alm(sky.lmax, 2)])
    scales = layout.make_scales(layout.cosine_windows(0, [30, 81]), sky.beams[:3], criterion=1e-3, constraints=3)
    found = apply(fit(mixing @ parts, scales, mixing), mixing @ parts)
    assert np.std(sht.synthesis(found - sky.cmb, sky.nside)) < 1e-3


def test_bands_that_are_alike_are_refused(sky):
    """No noise, or one band twice: weights that nothing decides."""
    said = (
        r"The covariance of the {} bands of scale 0 \(l 0 to \d+\) is singular in \d+ of \d+ pixels .*instrument.bands"
    )
    with pytest.raises(UserError, match=said.format(9)):
        fit(np.stack([sky.cmb] * 9), sky.scales(), np.ones((9, 1)))
    windows = layout.cosine_windows(0, [40, 81])
    twice = layout.make_scales(windows, sky.beams[[0, 3, 4, 4]], criterion=1e-3, bias_tol=0.01)
    with pytest.raises(UserError, match=said.format(4)):
        fit(sky.alms[[0, 3, 4, 4]], twice, np.ones((4, 1)))


@pytest.mark.parametrize("local", [True, False])
def test_the_response_to_the_cmb_is_one(sky, local):
    """Weights of the whole sky, foregrounds of 1e6 uK at 857 GHz and all, on the CMB alone; linear in the rest."""
    bins = layout.make_scales(layout.bin_windows(0, sky.lmax, 40), sky.beams, criterion=1e-3)
    weights = fit(sky.alms, sky.scales(40) if local else bins, np.ones((9, 1)))
    other = cmb_alm(sky.lmax, 3)
    found = apply(weights, np.stack([other] * 9))
    np.testing.assert_allclose(found, other, atol=1e-6 * np.abs(other).max())
    np.testing.assert_allclose(weights["mean"].sum(axis=1), 1, atol=1e-6)
    twice = apply(weights, 2 * sky.alms + other) - 2 * apply(weights, sky.alms)
    np.testing.assert_allclose(twice, other, atol=1e-4 * np.abs(other).max())
    left = sht.synthesis(apply(weights, sky.alms) - sky.cmb, sky.nside)
    assert np.median(np.abs(left)) < 5  # where the best band alone is off by 20 and more
    alone = np.median(np.abs(sky.maps - sht.synthesis(sky.cmb, sky.nside)), axis=1)
    assert alone.min() > 15


def test_noise_of_a_harmonic_combination_is_that_of_many_draws(sky):
    """Nine bands of other beams and noise each, through the weights of a sky with foregrounds: 2 % in bins of l."""
    ell = np.arange(sky.lmax + 1)
    beams = np.stack([gaussian_beam(f, sky.lmax) for f in np.linspace(1.5, 1, 9) * sky.fwhm_arcmin])
    ratio = beam_ratio(beams, sky.fwhm_arcmin)
    noise = np.linspace(1, 3, 9)[:, None] ** 2 * (1 + (20 / (ell + 1.0)) ** np.linspace(0, 2, 9)[:, None])
    bins = layout.make_scales(layout.bin_windows(0, sky.lmax, 25), beams, criterion=1e-3)
    weights = fit(sky.alms, bins, np.ones((9, 1)))
    rng, n = np.random.default_rng(11), 250
    found = np.zeros(sky.lmax + 1)
    for _ in range(n):
        drawn = np.stack([sht.almxfl(unit_alm(rng, sky.lmax), np.sqrt(nl)) for nl in noise])
        found += sht.alm2cl(apply(weights, rebeamed(drawn, ratio))) / n
    covariance = noise.T[:, :, None] * np.eye(9)
    expected = noise_spectrum(weights, ratio, covariance)
    for low in range(8, 80, 12):
        part = slice(low, low + 12)
        assert (2 * ell + 1)[part] @ (found / expected)[part] == pytest.approx((2 * ell + 1)[part].sum(), rel=0.02)
    assert expected.max() > 3 * expected.min()
    np.testing.assert_allclose(harmonic_weights(weights).sum(axis=0), 1, atol=1e-6)
    with pytest.raises(ValueError, match="vary over the sky"):
        noise_spectrum(fit(sky.alms, sky.scales(40), np.ones((9, 1))), ratio, covariance)
    with pytest.raises(ValueError, match="noise is of 9 bands and 40 multipoles"):
        noise_spectrum(weights, ratio, covariance[:40])


def test_threads_do_not_change_a_bit(sky):
    one, two = (fit(sky.alms, sky.scales(40), np.ones((9, 1)), nthreads=n) for n in (1, 2))
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key])
    np.testing.assert_array_equal(apply(one, sky.alms, nthreads=1), apply(two, sky.alms, nthreads=2))


def least_eigenvalues(sky: Sky, scales: list[layout.Scale]) -> list[float]:
    """Least eigenvalue of the correlation matrices of each scale, without prewhitening and with it."""
    found, ell = [], np.arange(sky.lmax + 1.0)
    for scale in scales:
        for tilt in (np.ones(sky.lmax + 1), np.sqrt(ell * (ell + 1))):
            cov, _ = local_covariance(sht.almxfl(sky.alms, scale.window * tilt), scale.sigma)
            rms = np.sqrt(np.einsum("pii->pi", cov))
            found.append(np.linalg.eigvalsh(cov / rms[:, :, None] / rms[:, None])[:, 0].min())
    return found


def test_covariances_are_positive_definite(sky):
    """Nine bands, 857 GHz among them; the average is a positive one, so that none is negative by rounding even."""
    assert min(least_eigenvalues(sky, sky.scales(20, 40))) > 1e-9


@pytest.mark.slow
def test_covariances_are_positive_definite_at_nside_128():
    sky = Sky(128)
    assert min(least_eigenvalues(sky, sky.scales(40, 80, 160))) > 1e-10


def test_what_is_deprojected_leaves_no_trace(sky):
    """Dust and synchrotron of any amplitude but fixed spectra, weights of the whole sky: nothing comes through."""
    names = ["dust", "sync", "tSZ"]
    seds = np.array([[response(name, [band.center_ghz], ONE, SEDS) for name in names] for band in PLANCK.bands])
    mixing = np.column_stack([np.ones(9), seds / np.linalg.norm(seds, axis=0)])
    weights = fit(sky.alms, sky.scales(40, constraints=4), mixing)
    field = cmb_alm(sky.lmax, 8)
    kept = sht.synthesis(apply(weights, np.stack([field] * 9)), sky.nside)
    for column in mixing.T[1:]:
        through = sht.synthesis(apply(weights, column[:, None] * field / np.abs(column).min()), sky.nside)
        assert through.std() < 1e-4 * kept.std() * np.abs(column).max() / np.abs(column).min()
    np.testing.assert_allclose(kept, sht.synthesis(field, sky.nside), atol=1e-4 * kept.std())
    cov, _ = local_covariance(sky.alms[:, : sht.alm_size(sky.lmax)], 1.0)
    solved = constrained_weights(cov, mixing, "here")
    np.testing.assert_allclose(solved @ mixing, np.tile([1, 0, 0, 0], (len(cov), 1)), atol=1e-6)
    with pytest.raises(UserError, match="cannot tell the CMB and method.ILC_deproj_comps apart"):
        constrained_weights(cov, mixing[:, [0, 1, 1]], "here")


def test_spectra_of_components():
    """Against limits, zeros, a ratio of units, and differences in place of derivatives."""
    nu = np.array([30.0, 100.0, 217.5, 353.0, 857.0])

    def at(name, **changes):
        return np.array([response(name, [f], ONE, SEDS | changes) for f in nu])

    assert response("tSZ", [1.0], ONE, SEDS) == pytest.approx(-2, abs=1e-3)
    assert response("tSZ", [217.5], ONE, SEDS) == pytest.approx(0, abs=5e-3)
    in_rj = at("sync") * [conversion("uK_CMB", "uK_RJ", f) for f in nu]
    np.testing.assert_allclose(in_rj / in_rj[0], (nu / 30) ** -3.0, rtol=1e-12)
    step = 1e-4
    for name, of, key in (("dbeta", "dust", "beta_d"), ("dT", "dust", "T_d"), ("dbeta_s", "sync", "beta_s")):
        up, down = (at(of, **{key: SEDS[key] + sign * step}) for sign in (1, -1))
        np.testing.assert_allclose(at(name), (up - down) / (2 * step), rtol=1e-6, atol=1e-9 * np.abs(at(name)).max())
    ratio = at("dust")[4] / at("dust")[3] * conversion("uK_CMB", "MJy/sr", 857) / conversion("uK_CMB", "MJy/sr", 353)
    x = constants.h * 1e9 / (constants.k * 21)
    assert ratio == pytest.approx((857 / 353) ** (3 + 1.54) * np.expm1(353 * x) / np.expm1(857 * x), rel=1e-12)
    wide = np.linspace(300, 400, 11)  # a band of constant response: the mean over it, in units of its CMB
    fine = np.linspace(300, 400, 2001)
    found = [response("dust", f, np.ones(len(f)), SEDS) for f in (wide, fine)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert set(COMPONENTS) == {"tSZ", "dust", "dbeta", "dT", "sync", "dbeta_s"}


class Bands:
    """Maps of some bands in memory, in place of files."""

    def __init__(self, maps: dict[str, SkyMap]):
        self.items, self.maps = [{"band": name} for name in maps], list(maps.values())

    def __getitem__(self, i: int) -> SkyMap:
        return self.maps[i]


TEST = {"split": "test", "sim": 0}
STAGES = {"cnilc": NeedletClean, "hilc": HarmonicClean}


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """Function from a method and settings to a configuration; composed once."""
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        root = f"system.root={tmp_path_factory.mktemp('ilc')}"
        cnilc = compose("clean", ["method=cnilc", "nside=32", root])
    config.prepare(cnilc)
    hilc = cnilc.copy()
    hilc.method = OmegaConf.load(REPO / "cfg" / "method" / "hilc.yaml")
    made = {"cnilc": cnilc, "hilc": hilc}

    def change(method: str, *words: str):
        cfg = made[method].copy()
        cfg.merge_with_dotlist(["sky.lmax=80", *words])
        return cfg

    return change


def as_maps(sky: Sky, data: np.ndarray) -> Bands:
    names = [band.name for band in PLANCK.bands]
    maps = (SkyMap(row[None].astype(np.float32), ("T",), "uK_CMB", sky.fwhm_arcmin, sky.lmax) for row in data)
    return Bands(dict(zip(names, maps, strict=True)))


@pytest.mark.parametrize("words", [("cnilc", "method.ellpeaks=[40,81]"), ("hilc", "method.BinSize=30")])
def test_cmb_foregrounds_and_noise_are_the_prediction(configured, sky, words):
    """And each of them is what the weights make of it alone."""
    cfg = configured(*words)
    stage = STAGES[words[0]](cfg)
    prediction, weights = stage.run(TEST, bands=as_maps(sky, sky.maps))
    assert (prediction.fields, prediction.lmax, prediction.nside) == (("T",), 80, 32)
    assert prediction.fwhm_arcmin == sky.fwhm_arcmin
    assert list(weights["bands"]) == [band.name for band in PLANCK.bands]
    truth = {"T": sht.almxfl(sky.cmb, 1 / sky.beams[0])}
    given = {"prediction": prediction, "ilc_weights": weights, "lensed_alm": truth}
    left = Residuals(cfg).run(TEST, **given, foreground=as_maps(sky, sky.foregrounds))
    assert left.fields == ("T_foregrounds", "T_noise")
    cmb = sht.synthesis(sky.cmb, sky.nside)
    np.testing.assert_allclose(cmb + left.data.sum(axis=0), prediction["T"], atol=1e-4)
    noise = sht.synthesis(apply(weights, sht.analysis(sky.noise, sky.lmax)), sky.nside)
    erring = sht.synthesis(sht.analysis(cmb, sky.lmax) - sky.cmb, sky.nside)  # the analysis of the CMB
    assert erring.std() < 1e-3 * cmb.std()
    np.testing.assert_allclose(left["T_noise"], noise + erring, atol=1e-2)  # maps are float32
    assert 0.5 < noise.std() < left["T_foregrounds"].std()


@pytest.mark.parametrize("words", [("cnilc", "method.ellpeaks=[40,81]"), ("hilc", "method.BinSize=30")])
def test_monopole_and_dipole_of_maps_of_others_do_not_leak(configured, sky, words):
    """With them, and an own monopole of each band, the same is found at l >= 2, with holes where the sky is not seen.

    To the rounding of float32 maps of 2.7 K, .1 uK in a pixel of a band, with weights that are larger than 1; and what
    all bands share comes back whole.
    """
    cfg = configured(*words)
    cfg.sims.external = {"obs": "{band}.fits"}
    shared = 2.7255e6 + 3362 * np.array(hp.pix2vec(32, np.arange(12 * 32**2))).T @ [0.3, -0.4, np.sqrt(0.75)]
    own = np.arange(9.0)[:, None] * 1e3
    seen = np.abs(hp.pix2ang(32, np.arange(12 * 32**2))[0] - np.pi / 2) > 0.1
    plain, low = (
        STAGES[words[0]](cfg).run(TEST, bands=as_maps(sky, seen * (sky.maps + more)))[0]["T"]
        for more in (0, shared + own)
    )
    alms = dipole.analysis_apart(np.stack([plain, low]).astype(np.float64), 80, niter=3)
    ell = np.concatenate([np.arange(m, 81) for m in range(81)])
    left = sht.synthesis(np.where(ell > 1, alms[1] - alms[0], 0), 32)
    assert left[seen].std() < 0.5
    assert sht.almxfl(alms[1], np.arange(81) < 2)[[1, 81]] == pytest.approx(
        dipole.analysis_apart(shared, 80)[[1, 81]] + alms[0][[1, 81]], abs=0.03 * 3362
    )


@pytest.mark.parametrize("words", [("cnilc", "method.ellpeaks=[40,81]"), ("hilc", "method.BinSize=30")])
@pytest.mark.parametrize("field", ["T", "B"])
def test_what_the_mask_hides_reaches_neither_weights_nor_map(configured, sky, words, field):
    """Pixels behind the mask times 100 change no bit; the noise that is left is what the weights make of it alone."""
    z = hp.pix2vec(32, np.arange(12 * 32**2))[2]
    mask = SkyMap(apodise(np.abs(z) > 0.3, 15)[None], ("mask",), "1", 0.0, 80)
    cfg = configured(*words, f"field={field}", f"method.masked={'true' if field == 'T' else 'null'}")
    rng = np.random.default_rng(6)
    if field == "T":
        foreground, noise, alms = sky.foregrounds[:, None], sky.noise[:, None], {"T": sky.cmb}
        cmb = sht.synthesis(sky.cmb, 32)[None]
    else:
        alms = {"E": cmb_alm(80, 5), "B": 0.1 * cmb_alm(80, 6)}
        alms = {x: sht.almxfl(alm, sky.beams[0]) for x, alm in alms.items()}
        cmb = sht.synthesis(np.stack([alms["E"], alms["B"]]), 32, spin=2)
        shape = sht.synthesis(np.stack([cmb_alm(80, 7), cmb_alm(80, 8)]), 32, spin=2)
        foreground = np.linspace(0.1, 2, 9)[:, None, None] ** 2 * shape * (1 + 5 * np.exp(-((z / 0.3) ** 2)))
        noise = rng.standard_normal((9, 2, 12 * 32**2)) * np.linspace(0.2, 1, 9)[:, None, None]
    fields = ("T",) if field == "T" else ("Q", "U")
    names = [band.name for band in PLANCK.bands]

    def files(data):
        rows = zip(names[: 9 if field == "T" else 7], data, strict=False)
        return Bands({name: SkyMap(row, fields, "uK_CMB", sky.fwhm_arcmin, 80) for name, row in rows})

    observed = cmb + foreground + noise
    stage = STAGES[words[0]](cfg)
    assert [source.asset for source in stage.sources] == ["band", "mask"]
    prediction, weights = stage.run(TEST, bands=files(observed), mask=mask)
    hidden = np.where(mask["mask"] == 0, 100, 1)
    again, same = stage.run(TEST, bands=files(observed * hidden), mask=mask)
    np.testing.assert_array_equal(prediction.data, again.data)
    np.testing.assert_array_equal(weights["alms"], same["alms"])
    assert prediction.masks
    if field == "T":  # of B the E that the mask mixes into it is spread beyond
        assert np.abs(prediction["T"][mask["mask"] == 0]).mean() < 0.1 * prediction["T"].std()
    truth = {x: sht.almxfl(alm, 1 / sky.beams[0]) for x, alm in alms.items()}
    given = {"prediction": prediction, "ilc_weights": weights, "lensed_alm": truth, "mask": mask}
    left = Residuals(cfg).run(TEST, **given, foreground=files(foreground))
    assert left.masks
    alone = sht.analysis(mask["mask"] * noise[: len(weights["bands"])], 80, spin=0 if field == "T" else 2)
    seen = apply(weights, rebeamed(alone[:, int(field == "B")], weights["beams"]))
    expected = sht.synthesis(seen, 32)
    assert np.std(left[f"{field}_noise"] - expected) < 0.05 * expected.std()


def test_e_and_b_are_masked_first_and_t_is_not_unless_it_is_said(configured):
    for field, said, expected in (
        ("T", "null", False), ("E", "null", True), ("B", "null", True), ("T", "true", True), ("B", "false", False),
    ):  # fmt: skip
        cfg = configured("hilc", f"field={field}", f"method.masked={said}")
        for stage in (HarmonicClean(cfg), Residuals(cfg)):
            assert ("mask" in [source.asset for source in stage.sources]) is expected
        cfg.mask.kind = "none"
        assert "mask" not in [source.asset for source in HarmonicClean(cfg).sources]


def test_e_and_b_come_from_the_polarised_bands_each_with_its_beam(configured):
    """Three bands of different beams, and one that knows T alone: E and B at the finest beam, as they are."""
    lmax, rng, fwhm = 80, np.random.default_rng(4), {"100": 400.0, "143": 300.0, "217": 220.0}
    e, b = cmb_alm(lmax), 0.1 * cmb_alm(lmax, 1)
    known = ("instrument.bands=[100, 143, 217, 857]", f"instrument.fwhm_arcmin={fwhm | {'857': 200.0}}")
    maps = {}
    for name, width in fwhm.items():
        beam = gaussian_beam(width, lmax)
        qu = sht.synthesis(np.stack([sht.almxfl(e, beam), sht.almxfl(b, beam)]), 32, spin=2)
        qu += 1e-3 * rng.standard_normal(qu.shape)
        maps[name] = SkyMap(np.concatenate([0 * qu[:1], qu]), ("T", "Q", "U"), "uK_CMB", width, lmax)
    maps["857"] = SkyMap(1e6 * rng.standard_normal((1, 12 * 32**2)), ("T",), "uK_CMB", 200.0, lmax)
    for field, truth in (("E", e), ("B", b)):
        for at in (None, 250.0):
            asked = f"method.perform_ILC_at_beam={at or 'null'}"
            cfg = configured("cnilc", f"field={field}", asked, *known)
            prediction, weights = NeedletClean(cfg).run(TEST, bands=Bands(maps))
            assert (prediction.fields, prediction.fwhm_arcmin) == ((field,), at or 220.0)
            assert list(weights["bands"]) == list(fwhm)
            seen = sht.almxfl(
                sht.truncate(truth, prediction.lmax), gaussian_beam(prediction.fwhm_arcmin, prediction.lmax)
            )
            expected = sht.synthesis(seen, 32)
            assert np.std(prediction[field] - expected) < 5e-3 * expected.std()  # of B: what leaks from E
    with pytest.raises(UserError, match="field=B needs bands with Q and U"):
        NeedletClean(cfg).run(TEST, bands=Bands({"857": maps["857"]}))


def test_the_last_multipole_follows_pixels_peaks_and_beams(configured, sky):
    maps = as_maps(sky, sky.maps)
    assert NeedletClean(configured("cnilc", "sky.lmax=93")).run(TEST, bands=maps)[0].lmax == 80  # of sky.lmax = 93
    stage = NeedletClean(configured("cnilc", "method.ellpeaks=[30,61]"))
    assert stage.run(TEST, bands=maps)[0].lmax == 60
    beams = ", ".join(f"{item['band']}: 600.0" for item in maps.items)
    stage = NeedletClean(configured("cnilc", f"instrument.fwhm_arcmin={{{beams}}}"))
    end = stage.run(TEST, bands=maps)[0].lmax
    assert gaussian_beam(600.0, 80)[end] > 1e-3 > gaussian_beam(600.0, 80)[end + 1]


MISTAKES = {
    "method.ELLMAX=81": r"method.ELLMAX=81 must be null or a whole number from 2 to sky.lmax=80",
    "method.ellmin=-1": r"method.ellmin=-1 must be a whole number from 0",
    "method.ellpeaks=[40,30]": r"method.ellpeaks=\[40, 30\] must be rising, from above method.ellmin=0",
    "method.ellpeaks=[40,82]": r"must be such that the last is at most sky.lmax \+ 1 = 81",
    "method.ellpeaks=[40,60] method.ELLMAX=60": r"such that the last is method.ELLMAX \+ 1 = 61",
    "method.ellpeaks=[40,81] method.N_scales=2": r"method.N_scales=2 must be null or 3: method.ellmin=0 is the first",
    "method.ellpeaks=all": r"method.ellpeaks=all must be null or a list of whole numbers",
    "method.N_scales=1": r"method.N_scales=1 must be null or a whole number from 2",
    "method.ILC_bias_tol=0": r"method.ILC_bias_tol=0 must be a number between 0 and 1",
    "method.wavelet_beam_criterion=2": r"method.wavelet_beam_criterion=2 must be a number between 0 and 1",
    "method.perform_ILC_at_beam=0": r"method.perform_ILC_at_beam=0 must be null or a beam in arcmin above 0",
    "method.ILC_deproj_comps=[CIB]": r"made of tSZ, dust, dbeta, dT, sync, dbeta_s, not CIB",
    "method.ILC_deproj_comps=[tSZ,tSZ]": r"method.ILC_deproj_comps=\['tSZ', 'tSZ'\] must be without repetitions",
    "method.ILC_deproj_comps=[tSZ] method.N_deproj=2": r"method.N_deproj=2 must be null or 1, the number of",
    "method.seds.T_d=0": r"method.seds=.* must be numbers, T_d above 0",
    "method.BinSize=0": r"method.BinSize=0 must be null or a whole number of multipoles above 0",
    "field=TQU": r"field=TQU: internal linear combinations clean one scalar field",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_refused(configured, words):
    method = "hilc" if "BinSize" in words else "cnilc"
    cfg = configured(method, *words.split())
    with pytest.raises(UserError, match=MISTAKES[words]):
        STAGES[method](cfg)
