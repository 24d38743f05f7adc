"""Bands that are combined to a sky which is delensed: what is hidden, what is kept, its noise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cmbml.analysis.delensing.bandpowers import Bandpowers, ForegroundPowers
from cmbml.analysis.delensing.r import MeasureR
from cmbml.core.errors import UserError
from cmbml.maps.skymap import write_skymap
from cmbml.methods.ilc.combine import Combine, ForegroundsLeft
from cmbml.methods.shared.filters import Filters
from cmbml.methods.shared.observed_noise import ObservedNoise
from cmbml.sims.bandmaps import ObserveBands
from cmbml.sims.external import Observations
from cmbml.sims.foregrounds import Foregrounds, SkyMask, Templates
from cmbml.sims.mask import Mask
from cmbml.sims.noise import Variance
from cmbml.sky import lensing, pseudo, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing import unit_alm
from cmbml.sky.lensing_theory import fiducial
from cmbml.start import build
from tests.conftest import configurations

NSIDE, LMAX = 32, 70
WORDS = ("sims=cleaned", "method=linear_map", f"nside={NSIDE}", f"sky.lmax={LMAX}", "foregrounds.nside_sky=32")
WORDS += ("instrument.bands=[93,145,225,278]", "instrument.min_fwhm_pixels=1.0", "delens.lmin_b=30")
WORDS += ("sims.combine.BinSize={E: 20, B: 15}", "splits={train: 1, valid: 0, test: 1}", "analysis.band=[20,30]")
ITEM = {"split": "test", "sim": 0}


class Held(list):
    """Values that a stage reads one after another, each with its item."""

    def __init__(self, values, items):
        super().__init__(values)
        self.items = items


class Sky:
    """One test sky, its bands and what was combined of them."""

    def __init__(self, cfg):
        lmax = cfg.sky.lmax
        self.cfg = cfg
        self.observe, self.combine = ObserveBands(cfg), Combine(cfg)
        templates = [item for item in Templates(cfg).items() if item.get("split", "test") == "test"]
        emission = Held([Templates(cfg).run(item) for item in templates], templates)
        dust = [t for t, item in zip(emission, templates, strict=True) if item["component"] == "dust"]
        self.mask = SkyMask(cfg).run({}, dust=dust)
        self.items = self.observe.bands()
        of_split = [{**item, "split": "test"} for item in self.items]
        self.foreground = Held([Foregrounds(cfg).run(item, templates=emission) for item in of_split], of_split)
        rngs = {x: np.random.default_rng(i) for i, x in enumerate(("T", "E", "B", "phi"))}
        drawn = lensing.draw_alms(fiducial(), 2 * lmax, rngs)
        self.cmb = {x: sht.truncate(drawn[x], lmax) for x in "TEB"}
        self.bands = self.seen(foregrounds=True)
        self.obs, self.obs_alm, self.made = self.combined(self.bands)

    def seen(self, *, foregrounds: bool, cmb: float = 1.0, sim: int = 0):
        alms = {x: cmb * alm for x, alm in self.cmb.items()}
        maps = [
            self.observe.run({**ITEM, "sim": sim, **item}, lensed_alm=alms, foreground=f if foregrounds else None)
            for item, f in zip(self.items, self.foreground, strict=True)
        ]
        return Held(maps, self.items)

    def combined(self, bands):
        return self.combine.run(ITEM, bands=bands, mask=self.mask)

    def with_these_weights(self, bands):
        """E and B of other maps of the bands."""
        alms = self.combine.analysed(bands, [item["band"] for item in self.items], self.mask, LMAX)
        return {
            x: sum(sht.almxfl(a, w) for a, w in zip(alms[:, i], self.made[f"weights_{x.lower()}"], strict=True))
            for i, x in enumerate("EB")
        }


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    return configurations(tmp_path_factory.mktemp("combined"))


@pytest.fixture(scope="module")
def sky(make):
    return Sky(make(*WORDS))


def test_weights_keep_the_cmb(sky):
    """All together they are the beam of what is handed on over that of each band: of CMB alone nothing is lost."""
    beams = sky.combine.beams([item["band"] for item in sky.items])
    for x in "eb":
        kept = (sky.made[f"weights_{x}"] * beams).sum(axis=0)
        np.testing.assert_allclose(kept, gaussian_beam(sky.cfg.delens.fwhm_arcmin, LMAX), rtol=1e-6)


def test_what_the_mask_hides_changes_nothing(sky):
    hidden = sky.mask["mask"] == 0
    assert hidden.mean() > 0.2
    loud = Held([replace(m, data=np.where(hidden, 1e3 * m.data + 7, m.data)) for m in sky.bands], sky.items)
    _, alms, made = sky.combined(loud)
    for x in "EB":
        np.testing.assert_array_equal(alms[x], sky.obs_alm[x])
    np.testing.assert_array_equal(made["weights_b"], sky.made["weights_b"])


def test_parts_are_the_whole(sky):
    """Foregrounds that are left, and CMB and noise through the same weights, are what was combined.

    But for what the analysis of pixels errs, whose iteration knows of multipoles beyond those of the one, or does not.
    """
    left = ForegroundsLeft(sky.cfg).run(ITEM, combination=sky.made, foreground=sky.foreground, mask=sky.mask)
    rest = sky.with_these_weights(sky.seen(foregrounds=False))
    total = sky.with_these_weights(sky.bands)
    lmax = sht.alm_lmax(left["B"])
    for x in "EB":
        whole = sht.truncate(total[x], lmax)
        missing = whole - sht.truncate(rest[x], lmax)
        assert np.linalg.norm(left[x] - missing) < 0.01 * np.linalg.norm(missing)


def test_pure_b_of_the_bands_is_that_of_the_sky_and_of_its_foregrounds(make, sky):
    """Bands without noise are the CMB: its E is not in their pure B; foregrounds add to it linearly."""
    cfg = make(*WORDS, "analysis=r", "noise=none", "analysis.r={band: [10, 20], delta_l: 5}")
    clean = Sky.__new__(Sky)
    clean.__dict__.update(sky.__dict__, observe=ObserveBands(cfg))
    nothing = replace(sky.obs, data=np.zeros_like(sky.obs.data))
    given = {"obs": sky.obs, "lensing_template": nothing, "unlensed_alm": sky.cmb, "mask": sky.mask}
    given |= {"combination": sky.made, "foreground": sky.foreground}
    plain, whole = (
        Bandpowers(cfg).run(ITEM, bands=clean.seen(foregrounds=with_them), **given) for with_them in (False, True)
    )
    b = {x.removeprefix("linear_map/"): cl[8:22] for x, cl in whole.items() if x.startswith("linear_map")}
    expected = b["unlensed"]
    np.testing.assert_allclose(plain["linear_map/predicted"][8:22], expected, rtol=0.05)
    total = expected + 2 * b["unlensed_x_foregrounds"] + b["foregrounds"]
    np.testing.assert_allclose(b["predicted"], total, rtol=0.05)
    assert b["foregrounds"].mean() > 0


def test_maps_are_those_of_the_alms(sky):
    assert sky.obs.fields == ("E", "B")
    assert sky.obs.fwhm_arcmin == sky.cfg.delens.fwhm_arcmin
    for x, alm in sky.with_these_weights(sky.bands).items():
        expected = sht.synthesis(alm, NSIDE)
        np.testing.assert_allclose(sky.obs[x], expected, atol=1e-4 * expected.std())
    np.testing.assert_allclose(sky.obs_alm["E"], sky.with_these_weights(sky.bands)["E"], atol=1e-5)


def test_b_that_is_handed_on_is_pure(make, sky):
    """Of a sky of E alone: what the border makes of it is in the map of B, and hardly in the alms."""
    cfg = make(*WORDS, "mask.apodise_deg=20", "noise=none")
    e = ObserveBands(cfg)
    alms = {"T": sky.cmb["T"], "E": sky.cmb["E"], "B": 0 * sky.cmb["B"]}
    mask = SkyMask(cfg).tapered((sky.mask["mask"] > 0).astype(float), "")
    bands = Held([e.run({**ITEM, **item}, lensed_alm=alms) for item in sky.items], sky.items)
    found = Combine(cfg).analysed(bands, ["145", "225"], mask, LMAX)
    high = slice(30, 65)
    plain, pure = (sht.alm2cl(found[0, i])[high].mean() for i in (1, 2))
    assert pure < 0.02 * plain


@pytest.mark.parametrize("words", [(), ("noise=scan",)])
def test_noise_of_the_weights_is_that_of_many_draws(make, words):
    """2 % in bins of l: bands of one tube share their drifts, and pixels may have their own variances."""
    cfg = make(*WORDS, "mask=none", "sky.lmax=64", *words)
    combine, observe, n = Combine(cfg), ObserveBands(cfg), 60
    names = [item["band"] for item in observe.bands()]
    variance = None
    if words:
        variance = Held([Variance(cfg).run(item) for item in observe.bands()], observe.bands())

    def draw(sim):
        of_band = zip(observe.bands(), variance or [None] * len(names), strict=True)
        maps = [observe.noise({**ITEM, "sim": sim, **item}, v) for item, v in of_band]
        return [observe.skymap(item, data, "") for item, data in zip(observe.bands(), maps, strict=True)]

    first = Held(draw(0), observe.bands())
    _, _, made = combine.run(ITEM, bands=first, variance=variance)
    found = {x: np.zeros(65) for x in "EB"}
    for sim in range(1, n + 1):
        alms = combine.analysed(Held(draw(sim), observe.bands()), names, None, 64)
        for i, x in enumerate("EB"):
            weights = made[f"weights_{x.lower()}"]
            found[x] += sht.alm2cl(sum(sht.almxfl(a, w) for a, w in zip(alms[:, i], weights, strict=True))) / n
    modes = 2 * np.arange(65) + 1
    for x in "EB":
        ratio = found[x][2:] / made[f"noise_{x.lower()}"][2:]
        for low in range(8, 56, 16):
            part = slice(low - 2, low + 14)
            assert np.average(ratio[part], weights=modes[2:][part]) == pytest.approx(1, abs=0.02)


def test_of_one_band_it_is_that_band(make):
    """Its E and B come through as they are, and the noise is the mean of what its pixels have, uneven or not."""
    words = (f"nside={NSIDE}", f"sky.lmax={LMAX}", "delens.lmin_b=30", "splits.train=0", "analysis.band=[20,30]")
    words += ("sims.combine.BinSize={E: 20, B: 15}", "noise=scan", "noise.factor=5", "foregrounds=none", "mask=none")
    cfg = make("sims=cleaned", "instrument=deep", "method=linear_map", *words)
    observe = ObserveBands(cfg)
    bands = observe.bands()
    variance = Held([Variance(cfg).run(item) for item in bands], bands)
    rng = np.random.default_rng(1)
    alms = {x: lensing.unit_alm(rng, LMAX) for x in "TEB"}
    seen = Held([observe.run({**ITEM, **bands[0]}, lensed_alm=alms, variance=variance[0])], bands)
    _, combined, made = Combine(cfg).run(ITEM, bands=seen, variance=variance)
    for x, alm in zip("EB", sht.analysis(seen[0].select("QU").astype(float), LMAX, spin=2), strict=True):
        np.testing.assert_allclose(combined[x], alm, atol=1e-5 * np.abs(alm).max())
    of_pixels = 25 * variance[0].select("QU").astype(float).mean() * 4 * np.pi / (12 * NSIDE**2)
    np.testing.assert_allclose(made["noise_b"], of_pixels, rtol=1e-5)


def test_filters_without_training_skies_know_the_noise_of_the_weights(make, sky):
    cfg = make(*WORDS, "splits.train=0")
    filters = Filters(cfg).run({}, combinations=Held([sky.made, sky.made], [ITEM, ITEM]))
    beam = gaussian_beam(cfg.delens.fwhm_arcmin, LMAX)
    np.testing.assert_allclose(filters["noise_b"], sky.made["noise_b"] / beam**2)
    assert filters["skies"] == 0
    assert not filters["wiener_t"].any()


def test_splits_have_foregrounds_of_their_own(make):
    cfg = make(*WORDS)
    items = Templates(cfg).items()
    dust = {item["split"]: Templates(cfg).run(item)["I"] for item in items if item["component"] == "dust"}
    assert set(dust) == {"train", "test"}
    assert np.corrcoef(dust["train"], dust["test"])[0, 1] < 0.9
    pipeline = build(cfg)
    paths = {
        str(pipeline.assets.file("foreground", {**item, "band": "93"}).path) for item in ({"split": "train"}, ITEM)
    }
    assert len(paths) == 2
    one = make(*WORDS, "foregrounds.seed={train: 3, valid: 3, test: 3}")
    assert "split" not in next(iter(Templates(one).items()))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("foregrounds.seed=0",), "gives training and test skies the same foregrounds"),
        (("+foregrounds.seed.others=1",), "give one to each of train, valid, test"),
        (("foregrounds.seed={train: 1, valid: 1, test: -1}",), "foregrounds.seed.test=-1"),
        (("foregrounds=pysm",), "are one sky"),
        (("field=T", "sky.fields=[T,E,B,Q,U]"), "what is combined of several bands is E and B"),
        (("+sims.combine.BinSize.T=20",), "must give a number of multipoles to E and to B"),
        (("sims.combine.BinSize={E: 20, B: 0}",), r"sims.combine.BinSize.B=0"),
        (("sims.combine.reference=[145]",), r"sims.combine.reference=\[145\] must be null or the name of a band"),
    ],
)
def test_refusals(make, words, sentence):
    with pytest.raises(UserError, match=sentence):
        make(*WORDS, *words)


@pytest.mark.parametrize("option", ["noise=scan", "foregrounds=synthetic"])
def test_groups_of_bands_are_refused_for_one_band(make, option):
    with pytest.raises(UserError, match="add sims=cleaned"):
        make("method=linear_map", option)


def test_gains_are_fitted_before_the_weights(make):
    """Two percent between the bands: least variance cancels a part of E, and keeps it where the gains are fitted."""
    size = ("nside=128", "foregrounds.nside_sky=128", "sky.lmax=250", "sims.combine.BinSize={E: 50, B: 50}")
    wrong = np.array([1.02, 1.0, 0.98, 1.01])
    kept = {}
    for reference in (None, 145):
        sky = Sky(make(*WORDS, *size, f"sims.combine.reference={reference or 'null'}"))
        bands = Held([replace(m, data=g * m.data) for m, g in zip(sky.bands, wrong, strict=True)], sky.items)
        sky.made = sky.combined(bands)[2]
        beams = sky.combine.beams([item["band"] for item in sky.items])
        of_cmb = np.einsum("al,al,a->l", sky.made["weights_e"], beams, wrong)
        kept[reference] = (of_cmb / gaussian_beam(sky.cfg.delens.fwhm_arcmin, 250))[2:]
    assert sky.made["gains"][:2] == pytest.approx(wrong[:2], abs=3e-3)  # the others see ten times more of the dust
    assert kept[None].min() < 0.8
    assert np.abs(kept[145] - 1).max() < 0.01


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sims.combine.reference=150",), "none of the bands that are combined: 93, 145, 225, 278"),
        (("sims.combine.reference=145",), "these end at l = 64"),
    ],
)
def test_what_cannot_be_calibrated(make, words, sentence):
    with pytest.raises(UserError, match=sentence):
        Combine(make(*WORDS, *words)).check()


def test_beams_that_end_early_are_told(make):
    cfg = make(
        *WORDS,
        "nside=64",
        "foregrounds.nside_sky=64",
        "sky.lmax=190",
        "instrument.bands=[20]",
        "instrument.fwhm_arcmin=240",
    )
    with pytest.raises(UserError, match="set sky.lmax="):
        Combine(cfg).check()


def test_noise_of_pure_b_is_measured_against_the_truth_behind_the_same_mask(make):
    """A tenth of the B is noise, and E is 25 times as strong: skies tell that noise, and a transfer of 1."""
    cfg = make(*WORDS, "nside=64", "foregrounds.nside_sky=64", "sky.lmax=128", "foregrounds=none", "mask=band")
    mask = Mask(cfg).run({})
    window = pseudo.window_of(mask["mask"].astype(float), 160)
    rng = np.random.default_rng(3)
    beam = gaussian_beam(cfg.delens.fwhm_arcmin, 128)
    seen, lensed = [], []
    for _ in range(4):
        e, b, n = (unit_alm(rng, 128) for _ in range(3))
        e, b = 5 * e, sht.almxfl(b, np.arange(129) > 1)
        qu = sht.synthesis(np.stack([sht.almxfl(e, beam), sht.almxfl(b, beam) + np.sqrt(0.1) * n]), 64, spin=2)
        plain, pure = pseudo.masked_alms(qu * (mask["mask"] > 0), window, 128)
        seen.append({"E": plain[0], "B": pure})
        lensed.append({"T": 0 * e, "E": e, "B": b})
    found = ObservedNoise(cfg).run({}, obs_alm=seen, lensed_alm=lensed, mask=mask)
    assert np.mean(found["noise_b"][40:110]) == pytest.approx(0.1, rel=0.05)
    assert np.mean(found["transfer_b"][40:110]) == pytest.approx(1, abs=0.01)


def test_weights_leave_of_foregrounds_what_their_spectra_say(make, sky):
    """The pure B of the foregrounds that the sky's weights leave, of its own maps and of the bands' cross spectra.

    The same where the gains of the sky's bands are others: those of known foregrounds are right.
    """
    cfg = make(*WORDS, "analysis=r", "analysis.r={band: [10, 20], delta_l: 5, known: train}")
    crosses = ForegroundPowers(cfg).run({}, foreground=sky.foreground, mask=sky.mask)
    nothing = replace(sky.obs, data=np.zeros_like(sky.obs.data))
    given = {"obs": sky.obs, "lensing_template": nothing, "unlensed_alm": sky.cmb, "mask": sky.mask}
    given |= {"combination": sky.made, "foreground": sky.foreground}
    direct = Bandpowers(cfg).run(ITEM, bands=sky.bands, **given)["linear_map/foregrounds"]
    bins = SimpleNamespace(unbiased=np.eye(len(direct)), of_theory=lambda cl: cl)
    for gains in (np.ones(4), np.array([1.02, 1.0, 0.98, 1.01])):
        made = sky.made | {"gains": gains, "weights_b": sky.made["weights_b"] / gains[:, None]}
        found = MeasureR(cfg)._of_weights([ITEM], Held([made], [ITEM]), Held([crosses], [{}]), bins)
        np.testing.assert_allclose(found["shape"][0], direct, rtol=1e-6)


def test_bands_of_ones_own_go_the_same_way(make, sky, tmp_path):
    """Files of the same bands: the pipeline stands before anything runs, and the alms are the same."""
    for item, band in zip(sky.items, sky.bands, strict=True):
        write_skymap(tmp_path / f"obs_{item['band']}_map.fits", band)
    write_skymap(tmp_path / "mask.fits", sky.mask)
    words = [word for word in WORDS if not word.startswith(("sims=", "splits=", "foregrounds."))] + ["splits.test=1"]
    words += [
        "sims=external_bands",
        "instrument=cmbs4_pole_lat",
        f"sims.external.obs={tmp_path}/obs_{{band}}_map.fits",
        "mask.apodise_deg=5",
    ]
    cfg = make(*words, "mask=file", f"mask.file={tmp_path}/mask.fits")
    assert [stage.name for stage in build(cfg).stages][:4] == ["mask", "observe", "combine", "filters"]
    brought = Held([Observations(cfg).run({**ITEM, **item}, mask=sky.mask) for item in sky.items], sky.items)
    _, alms, made = Combine(cfg).run(ITEM, bands=brought, mask=sky.mask)
    for x in "EB":
        np.testing.assert_allclose(alms[x], sky.obs_alm[x], atol=1e-5 * np.abs(sky.obs_alm[x]).max())
    np.testing.assert_allclose(made["noise_b"], sky.made["noise_b"], rtol=1e-5)


def test_training_skies_tell_what_is_left_of_bands_and_a_comparison_asks_no_network(make):
    """Test skies share their foregrounds: by default those of the training skies are the shape of what is left."""
    assert make(*WORDS, "analysis=r", "analysis.r.band=[10,19]").analysis.r.known == "train"
    assert make("method=linear_map", "analysis=r").analysis.r.known == "test"
    words = [word for word in WORDS if not word.startswith("method=")]
    assert make(*words, "analysis=r", "analysis.r.band=[10,19]", name="compare").method.name == "delens_unet"
    network = (*words, "method=delens_unet", "patches.patch=32", "analysis=r", "analysis.r.band=[10,19]")
    assert make(*network, "splits.valid=1").analysis.r.known == "valid"
    assert make(*network).analysis.r.known == "test"
    with pytest.raises(UserError, match="known=valid"):
        make(*network, "analysis.r.known=train")
