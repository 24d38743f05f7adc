"""A band of the sky is masked: what the stages see, what the mask makes of the estimate, and what is measured.

Hardly any noise, so that estimates up to l = 300 say something.
"""

import csv

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cmbml.analysis.delensing.measure import NONE, Baseline, Measure
from cmbml.config import resolvers as config
from cmbml.core.errors import UserError
from cmbml.maps.mask import read_mask
from cmbml.maps.skymap import SkyMap
from cmbml.methods.quadratic.stages import Estimate, Kappa, MeanField, Weights
from cmbml.methods.shared.filtered_sky import without_mean_field
from cmbml.methods.shared.filters import Filters
from cmbml.sims.mask import Mask
from cmbml.sims.observe import Observe
from cmbml.sky import lensing, sht
from cmbml.sky.lensing_theory import fiducial
from cmbml.sky.masks import f_sky
from cmbml.start import build
from tests.conftest import REPO

NSIDE, LMAX, N = 128, 300, 10
WORDS = (
    "method=quadratic", f"nside={NSIDE}", f"sky.lmax={LMAX}", "sky.fields=[E,B,Q,U]", "patches.patch=32",
    "instrument.fwhm_arcmin=5", "instrument.noise_p_uk_arcmin=0.1", "delens.lmin_b=20",
)  # fmt: skip
BAND = ("mask=band", "mask.b_deg=20", "mask.apodise_deg=10")


class Skies:
    """Skies of the fiducial cosmology, their estimates with and without the mask, and the mean field of N of them."""

    def __init__(self, make):
        self.full, self.masked = make(*WORDS), make(*WORDS, *BAND)
        self.mask = Mask(self.masked).run({})
        self.filters = Filters(self.full).run({})
        self.estimates = [self.estimate(self.sky(i, lensed=False)[0], i) for i in range(N)]
        self.mean_field = MeanField(self.masked).run({}, kappa_qe=self.estimates)

    def sky(self, seed: int, *, lensed: bool = True) -> tuple[dict, dict]:
        """Alms of a sky with or without its lensing, and the truth."""
        rngs = {x: np.random.default_rng([seed, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
        alms = lensing.draw_alms(fiducial(), 2 * LMAX, rngs)
        seen = sht.lens({x: alms[x] for x in "TEB"}, alms["phi"] * lensed, LMAX)
        return seen, {"kappa": lensing.kappa_from_phi(sht.truncate(alms["phi"], LMAX))}

    def estimate(self, alms: dict, seed: int, *, masked: bool = True) -> dict:
        """The estimate of the convergence in an observation of a sky."""
        item = {"split": "test", "sim": seed}
        cfg, extra = (self.masked, {"mask": self.mask}) if masked else (self.full, {})
        _, obs_alm = Observe(cfg).run(item, lensed_alm=alms, **extra)
        return Estimate(cfg).run(item, obs_alm=obs_alm, filters=self.filters)

    def seen(self, truth: dict) -> np.ndarray:
        """The true convergence times mask^2."""
        return sht.analysis(sht.synthesis(truth["kappa"], NSIDE) * self.mask["mask"].astype(float) ** 2, LMAX)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Function from overrides to a prepared configuration."""

    def compose_and_prepare(*words):
        config.register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
            cfg = compose("delens", overrides=[f"system.root={tmp_path_factory.getbasetemp()}/data", *words])
        config.prepare(cfg)
        return cfg

    return compose_and_prepare


@pytest.fixture(scope="module")
def skies(make):
    return Skies(make)


def power(a: np.ndarray, first: int, last: int, b: np.ndarray | None = None) -> float:
    """Power, or common power, of alms over the band first <= L <= last."""
    return np.arange(2 * first + 1, 2 * last + 2, 2) @ sht.alm2cl(a, b)[first : last + 1]


def correlation(a: np.ndarray, b: np.ndarray, first: int, last: int) -> float:
    return power(a, first, last, b) / np.sqrt(power(a, first, last) * power(b, first, last))


def test_mean_field_is_what_the_mask_makes_of_any_sky(skies):
    """At low L a sky without lensing that is not among the N shows it and nothing else; beyond, 1/N of scatter stays.

    The ratio 1 + 1/N over 100 < L < 250 scatters by 2 sqrt(1/N) over the root of 30 000 modes.
    """
    other = skies.estimate(skies.sky(50, lensed=False)[0], 50)["kappa"]
    assert correlation(other, skies.mean_field["kappa"], 2, 10) > 0.97
    left = without_mean_field({"kappa": other}, skies.mean_field, averaged=False)
    assert power(left, 2, 6) < 0.05 * power(other, 2, 6)
    assert power(left, 100, 250) / power(other, 100, 250) == pytest.approx(1 + 1 / N, abs=0.02)


def test_without_the_mean_field_a_lensed_sky_is_closer_to_the_truth(skies):
    alms, truth = skies.sky(60)
    estimate, seen = skies.estimate(alms, 60), skies.seen(truth)
    left = without_mean_field(estimate, skies.mean_field, averaged=False)
    for first, last, part in ((2, 6, 0.1), (7, 20, 0.95)):
        assert power(left - seen, first, last) < part * power(estimate["kappa"] - seen, first, last)


def test_inside_the_mask_the_estimate_follows_the_convergence_as_on_the_full_sky(skies):
    """Wiener-filtered over 30 < L < 250, as `Kappa` writes it; the amplitude is the truth's times mask^2."""
    weights = {"wiener": skies.filters["wiener_phi"]}
    follows = {}
    for masked in (False, True):
        alms, truth = skies.sky(61)
        found = skies.estimate(alms, 61, masked=masked)
        reference = skies.seen(truth) if masked else truth["kappa"]
        cfg, extra = (skies.masked, {"mean_field": skies.mean_field}) if masked else (skies.full, {})
        given = {"kappa_qe": found, "weights": weights, "filters": skies.filters, **extra}
        estimate = Kappa(cfg).run({"split": "test", "sim": 61}, **given)
        assert estimate.masks == (2 if masked else 0)
        kappa = estimate["kappa"]
        follows[masked] = correlation(sht.analysis(kappa, LMAX), reference, 30, 250)
        if masked:
            outside = skies.mask["mask"] == 0
            assert np.std(kappa[outside]) < 0.5 * np.std(kappa[skies.mask["mask"] == 1])
    assert follows[True] == pytest.approx(follows[False], rel=0.1)


def test_weights_need_no_f_sky(skies):
    """Measured inside the mask they are those of the full sky, less the 1/n that the mean field's scatter takes."""
    n, below = 4, slice(30, 250)
    drawn = [skies.sky(70 + i) for i in range(n)]
    truths = [truth for _, truth in drawn]
    full, masked = (
        [skies.estimate(alms, 70 + i, masked=m) for i, (alms, _) in enumerate(drawn)] for m in (False, True)
    )
    mean_field = MeanField(skies.masked).run({}, kappa_qe=masked)
    whole = Weights(skies.full).run({}, kappa_qe=full, unlensed_alm=truths, filters=skies.filters)["wiener"]
    given = {"unlensed_alm": truths, "filters": skies.filters, "mean_field": mean_field, "mask": skies.mask}
    part = Weights(skies.masked).run({}, kappa_qe=masked, **given)["wiener"]
    assert part[below].sum() / whole[below].sum() == pytest.approx(1 - 1 / n, rel=0.1)


def test_mean_field_of_the_other_skies():
    rng = np.random.default_rng(1)
    skies = [{"kappa": rng.standard_normal(6) + 1j * rng.standard_normal(6)} for _ in range(4)]
    mean = {"kappa": sum(sky["kappa"] for sky in skies) / 4, "n": np.array(4)}
    others = sum(sky["kappa"] for sky in skies[1:]) / 3
    np.testing.assert_allclose(without_mean_field(skies[0], mean, averaged=True), skies[0]["kappa"] - others)
    np.testing.assert_allclose(
        without_mean_field(skies[0], mean, averaged=False), skies[0]["kappa"] - others * 3 / 4 - skies[0]["kappa"] / 4
    )


def test_observed_pixels_are_masked_and_a_mask_of_ones_is_none(skies):
    alms, item = skies.sky(80)[0], {"split": "test", "sim": 80}
    full, alone = Observe(skies.full).run(item, lensed_alm=alms)
    masked, _ = Observe(skies.masked).run(item, lensed_alm=alms, mask=skies.mask)
    for field in "QU":
        np.testing.assert_allclose(masked[field], full[field] * skies.mask["mask"], atol=1e-12)
    ones = SkyMap(np.ones_like(skies.mask.data), ("mask",), "1", 0.0, LMAX)
    for x, alm in Observe(skies.masked).run(item, lensed_alm=alms, mask=ones)[1].items():
        np.testing.assert_array_equal(alm, alone[x])


def test_measured_inside_the_mask(make):
    """Flat spectra, and a method that removes half of the lensing: A_res = 1/4 and an rms of half the lensing's."""
    nside, lmax = 32, 60
    cfg = make(
        *BAND, "method=quadratic", f"nside={nside}", f"sky.lmax={lmax}", "patches.patch=16", "patches.halo=4",
        "instrument.fwhm_arcmin=60", "delens.lmin_b=5", "analysis.band=[2,50]", "analysis.delta_l=10",
    )  # fmt: skip
    mask = Mask(cfg).run({})
    unit = {x: np.ones(lmax + 1) * (x in ("tt", "ee", "bb", "pp")) for x in ("tt", "ee", "bb", "te", "pp", "tp", "ep")}
    drawn = lensing.draw_alms(unit, lmax, {x: np.random.default_rng([3, ord(x[0])]) for x in ("T", "E", "B", "phi")})
    u, s = {"B": drawn["B"]}, drawn["E"]
    beam = hp.gauss_beam(np.deg2rad(1.0), lmax=lmax)
    maps = [sht.synthesis(sht.almxfl(alm, beam), nside) for alm in (u["B"], s)]

    def shown(m: np.ndarray) -> SkyMap:
        return SkyMap((m * mask["mask"])[None], ("B",), "uK_CMB", 60.0, lmax)

    item = {"split": "test", "sim": 0}
    alms, baseline = Baseline(cfg).run(
        item, obs=shown(maps[0] + maps[1]), unlensed_alm=u, lensed_alm={"B": u["B"] + s}, mask=mask
    )
    rows, cls = Measure(cfg).run(
        item,
        prediction=shown(maps[0] + maps[1] / 2),
        unlensed_alm=u,
        measured_alm=alms,
        baseline=baseline,
        filters={"bb_tensor": np.ones(lmax + 1)},
        mask=mask,
    )
    measured = {(row["method"], row["form"]): row for row in rows}
    assert measured["quadratic", "native"]["A_res"] == pytest.approx(0.25, rel=1e-6)
    assert measured[NONE, "native"]["A_res"] == pytest.approx(1)
    inside = mask["mask"] > 0.5
    rms = np.sqrt(np.mean((maps[1] * mask["mask"])[inside] ** 2))
    assert measured[NONE, "native"]["RMSE"] == pytest.approx(rms, rel=1e-6)
    assert measured["quadratic", "native"]["RMSE"] == pytest.approx(rms / 2, rel=1e-6)
    # The power is that of the sky, whatever the mask: 2600 modes times f_sky scatter by 4 %.
    for name in ("lensing", "unlensed"):
        mean = np.arange(5, 102, 2) @ cls[f"quadratic/{name}"][2:51] / np.arange(5, 102, 2).sum()
        assert mean == pytest.approx(1, abs=4 * np.sqrt(2 / (2600 * f_sky(mask["mask"])))), name


def test_the_full_sky_knows_of_no_mask(make):
    """No stage reads more than without any masks: finished skies keep their fingerprints."""
    new = {"mask", "mean_field"}
    for method in ("quadratic", "delens_unet"):
        for stage in build(make(f"method={method}")).stages:
            assert not new & {source.asset for source in stage.sources}, stage.name
            assert not any(key.startswith("mask") for key in stage.settings) or stage.name == "mask"
        readers = {
            s.name for s in build(make(f"method={method}", "mask=band")).stages if new & {x.asset for x in s.sources}
        }
        assert readers >= {"observe", "measure", "pictures", "summary"}


def test_mask_file(tmp_path, make):
    """A HEALPix file as healpy writes it; what is no mask is refused with the key's name."""
    rng = np.random.default_rng(2)
    good = np.where(rng.random(12 * 16**2) < 0.1, 0, 1).astype(np.float32)
    path = tmp_path / "mask.fits"
    hp.write_map(path, good)
    np.testing.assert_array_equal(read_mask(path, 16), good)
    words = ("nside=64", "delens.lmin_b=30", "patches.patch=32", "mask=file", f"mask.file={path}")
    with pytest.raises(UserError, match=r"has nside 16 where 64 is needed"):
        Mask(make(*words)).run({})
    coarse = good.reshape(-1)[hp.nest2ring(16, np.arange(good.size))].reshape(-1, 4).mean(axis=1) > 0.8
    np.testing.assert_array_equal(read_mask(path, 8, threshold=0.8)[hp.nest2ring(8, np.arange(768))], coarse)
    hp.write_map(path, [good, 1 - good], nest=True, column_names=["A", "B"], overwrite=True)
    expected = 1 - hp.reorder(good, n2r=True)
    np.testing.assert_array_equal(read_mask(path, 16, column="B"), expected)
    with pytest.raises(UserError, match=r"has no column mask.column=C; it has A, B"):
        read_mask(path, 16, column="C")
    for wrong in (2.0, np.nan, hp.UNSEEN):
        hp.write_map(path, np.where(good == 0, wrong, good), overwrite=True)
        with pytest.raises(UserError, match="do not lie between 0 and 1"):
            read_mask(path, 16)
    path.write_text("no map")
    with pytest.raises(UserError, match="cannot be read as a FITS file"):
        read_mask(path, 16)


MISTAKES = {
    "mask.kind=ball": "mask.kind=ball is not known; choose one of none, band, file",
    "mask.b_deg=90": "mask.b_deg=90.0 must lie between 0 and 90",
    "mask.apodise_deg=-1": "mask.apodise_deg=-1.0 must be a number between 0 and 90",
    "mask.apodise_kind=C3": "mask.apodise_kind=C3 is not known",
    "mask=file": "mask=file needs a file",
    "mask.file=/nowhere/mask.fits": "mask.file=/nowhere/mask.fits is missing",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_mistakes_are_refused(make, word):
    with pytest.raises(UserError, match=MISTAKES[word]):
        make("mask=file" if "/" in word else "mask=band", word)


def test_one_training_sky_has_no_mean_field(make):
    with pytest.raises(UserError, match=r"at least two training skies; raise splits\.train"):
        build(make("mask=band", "splits.train=1"))


def test_masked_run_from_the_command_to_the_table(command, tmp_path, sketches):
    code, error = command("experiment=tiny", "method=quadratic", *BAND, "splits.train=2", "run.workers=1")
    assert code == 0, error
    folder = tmp_path / "data" / "delens_tiny"
    mask = hp.read_map(folder / "Simulation_Working" / "Simulation_Mask" / "mask_map.fits", dtype=float)
    with (folder / "quadratic" / "B" / "analysis" / "table.csv").open() as f:
        rows = {(row["method"], row["form"]): row for row in csv.DictReader(f)}
    assert float(rows[NONE, "native"]["A_res_mean"]) == 1
    text = (folder / "quadratic" / "B" / "analysis" / "table.md").read_text()
    assert f"f_sky {f_sky(mask):.3g}, the mean of the squared mask" in text
    q = hp.read_map(folder / "Simulations" / "Test" / "sim0000" / "obs_map.fits", field=3, dtype=float)
    assert (q[mask == 0] == 0).all()
