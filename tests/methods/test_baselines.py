"""The baselines of a comparison, beside the closed forms of what they leave."""

import dataclasses

import healpy as hp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cmbml.config import resolvers as config
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.methods.baselines.stages import NoiseWiener, PerfectIlc
from cmbml.sims.bandmaps import ObserveBands
from cmbml.sims.noise import Variance
from cmbml.sky import sht
from tests.conftest import REPO

NSIDE, LMAX = 32, 80
WORDS = (
    "instrument=toy", f"nside={NSIDE}", f"sky.lmax={LMAX}", "analysis.lmax=70", "mask=none", "method=perfect_ilc",
    "noise.factor=10",
)  # fmt: skip
ITEM = {"split": "test", "sim": 0}
ELL = np.arange(LMAX + 1)
CL = np.where(ELL > 1, 300 / (ELL + 10.0) ** 2, 0.0)  # uK^2: noise and beams take over within the band


class Held(list):
    """Maps in memory in place of files, with their items."""

    def __init__(self, maps, items):
        super().__init__(maps)
        self.items = items


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Function from settings to a configuration, which was composed once and in which nothing is resolved."""
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPO / "cfg"), version_base="1.3"):
        cfg = compose("clean", overrides=[f"system.root={tmp_path_factory.getbasetemp()}/data", *WORDS])

    def make(**settings):
        new = OmegaConf.create(OmegaConf.to_container(cfg))
        for key, value in settings.items():
            OmegaConf.update(new, key.replace("__", "."), value, merge=False)
        return new

    return make


@pytest.fixture(scope="module")
def lensed():
    """Alms of T, E and B, each of the spectrum CL."""
    white = np.random.default_rng(1).normal(scale=0.5**0.5, size=(3, sht.alm_size(LMAX), 2)) @ [1, 1j]
    white[:, : LMAX + 1] = white[:, : LMAX + 1].real * 2**0.5
    return {x: sht.almxfl(alm, CL**0.5).astype(np.complex64) for x, alm in zip("TEB", white, strict=True)}


def predicted(cfg, lensed, foreground: float, te=0.0) -> SkyMap:
    """What the Wiener filter makes of skies that the simulator observed, with foregrounds of this height.

    T and E have the correlation ``te``.
    """
    observe, stage = ObserveBands(cfg), NoiseWiener(cfg)
    bands, rng = observe.bands(), np.random.default_rng(2)
    maps = {"foreground": [], "variance": []}
    for band in bands:
        data = foreground * rng.normal(size=(len(observe.fields(band)), 12 * NSIDE**2))
        maps["foreground"].append(observe.skymap(band, data, ""))
        if cfg.noise.kind == "scan":
            maps["variance"].append(Variance(cfg).run(band))
    maps = {name: own for name, own in maps.items() if own}
    read = [{name: own[i] for name, own in maps.items()} for i in range(len(bands))]
    items = [{**ITEM, **band} for band in bands]
    seen = [observe.run(item, lensed_alm=lensed, **parts) for item, parts in zip(items, read, strict=True)]
    cls = {f"lensed_{x}{x}": CL for x in "teb"} | {"lensed_te": te * CL}
    parts = {name: Held(own, bands) for name, own in maps.items()}
    return stage.run(ITEM, cls=cls, lensed_alm=lensed, bands=Held(seen, items), **parts)


@pytest.mark.parametrize(("field", "noise"), [("T", "white"), ("E", "scan"), ("B", "white"), ("TQU", "white")])
def test_wiener_filter_leaves_what_noise_and_signal_say(changed, lensed, field, noise):
    """sum (2l + 1) / (4 pi) C N / (C + N), N the noise of all bands together, which scatters by its number of modes."""
    cfg = changed(noise__kind=noise, field=field)
    found = predicted(cfg, lensed, 1e3)
    assert (found.fields, found.fwhm_arcmin, found.lmax) == (tuple(field), 0.0, LMAX)
    inverse = 0
    for band in NoiseWiener(cfg).instrument.bands:
        level = 10 * (band.noise_t_uk_arcmin if field == "T" else band.noise_p_uk_arcmin)
        inverse = inverse + (hp.gauss_beam(np.radians(band.fwhm_arcmin / 60), LMAX) / np.radians(level / 60)) ** 2
    x = "E" if field == "TQU" else field  # of which nothing has come from T or B
    of_map = {"niter": 3, "spin": 2} if field == "TQU" else {"niter": 3}
    alm = sht.analysis(found.select("QU" if field == "TQU" else field), LMAX, **of_map)[0]
    left, known, modes = sht.alm2cl(alm - lensed[x]), CL / (1 + CL * inverse), 2 * ELL + 1
    scatter = np.sqrt(np.sum(2 * modes * known**2))
    assert abs(np.sum(modes * (left - known))) < 4 * scatter
    assert scatter < 0.05 * np.sum(modes * known)
    assert 0.2 < np.sum(modes * known) / np.sum(modes * CL) < 0.8, "neither noise nor signal alone"


def test_bands_that_share_their_noise_are_weighted_together(changed):
    """N^-1 b of two bands of a tube and one without, in closed form at each l; white noise counts each for itself."""
    cfg = changed(
        instrument__table="instruments/so_sat.ecsv", instrument__bands=["93", "145", "225"], instrument__contents="",
        noise__kind="white",
    )  # fmt: skip
    stage = NoiseWiener(cfg)
    one, two, alone = stage.instrument.bands
    found = stage.band_weights(stage.bands(), "B", None)
    b = {band.name: hp.gauss_beam(np.radians(band.fwhm_arcmin / 60), LMAX)[2:] for band in (one, two, alone)}
    white = {band.name: np.radians(10 * band.noise_p_uk_arcmin / 60) ** 2 for band in (one, two, alone)}
    red = {band.name: white[band.name] * (ELL[2:] / band.l_knee_p) ** band.alpha_p for band in (one, two, alone)}
    n1, n2, n3 = (white[x] + red[x] for x in ("93", "145", "225"))
    shared = 0.9 * np.sqrt(red["93"] * red["145"])
    determinant = n1 * n2 - shared**2
    known = {
        "93": (n2 * b["93"] - shared * b["145"]) / determinant,
        "145": (n1 * b["145"] - shared * b["93"]) / determinant,
        "225": b["225"] / n3,
    }
    for name, weight in known.items():
        np.testing.assert_allclose(found[name][2:], weight, rtol=1e-9)
    cfg.noise.tube_correlation = 0.0
    found = NoiseWiener(cfg).band_weights(stage.bands(), "B", None)
    np.testing.assert_allclose(found["93"][2:], b["93"] / n1, rtol=1e-9)


@pytest.mark.parametrize("field", ["E", "TQU"])
def test_e_is_filtered_with_t(changed, lensed, field):
    """The error of E is that of a sky C_E - C_TE^2 / (C_T + N_T) seen alone, to 4 sigma of its modes; less than of C_E.

    What T says of E is E's mean; what it leaves open has this variance, and is all that the noise of E hides.
    """
    correlation = 0.9
    own = np.sqrt(1 - correlation**2) * lensed["E"]
    lensed = lensed | {"E": (correlation * lensed["T"] + own).astype(np.complex64)}
    cfg = changed(field=field)
    found = predicted(cfg, lensed, 1e3, te=correlation)
    noise = {}
    for x, column in (("T", "noise_t_uk_arcmin"), ("E", "noise_p_uk_arcmin")):
        inverse = 0
        for band in NoiseWiener(cfg).instrument.bands:
            beam = hp.gauss_beam(np.radians(band.fwhm_arcmin / 60), LMAX)
            inverse = inverse + (beam / np.radians(10 * getattr(band, column) / 60)) ** 2
        noise[x] = 1 / inverse
    of_map = {"niter": 3, "spin": 2} if field == "TQU" else {"niter": 3}
    alm = sht.analysis(found.select("QU" if field == "TQU" else "E"), LMAX, **of_map)[0]
    left, modes = sht.alm2cl(alm - lensed["E"]), (2 * ELL + 1) * (ELL < 50)  # where T is seen
    open_ = CL - (correlation * CL) ** 2 / (CL + noise["T"])
    known, alone = (c * noise["E"] / (c + noise["E"]) for c in (open_, CL))
    scatter = np.sqrt(np.sum(2 * modes * known**2))
    assert abs(np.sum(modes * (left - known))) < 4 * scatter
    assert np.sum(modes * (alone - known)) > 6 * scatter, "T says much of E here"


def test_foregrounds_are_not_in_the_floor(changed, lensed):
    small, large = (predicted(changed(), lensed, height).data for height in (1.0, 1e4))
    assert np.abs(large - small).max() < 1e-3 * small.std()  # single precision


def test_perfect_ilc_is_the_truth_at_a_beam(changed, lensed):
    cmb = SkyMap(np.zeros((3, 12 * NSIDE**2)), ("T", "Q", "U"), "uK_CMB", 0.0, LMAX)

    def found(own=0.0, **settings):
        return PerfectIlc(changed(**settings)).run(
            ITEM, lensed_alm=lensed, cmb_map=dataclasses.replace(cmb, fwhm_arcmin=own)
        )

    for asked, own, beam in (
        (None, 0.0, 300.0),  # the finest of the instrument
        (400, 0.0, 400.0),
        (400, 240.0, 400.0),
        (400, 500.0, 500.0),  # the truth's own is wider
    ):
        sky = found(own, method__perform_ILC_at_beam=asked)
        assert (sky.fields, sky.fwhm_arcmin) == (("T",), beam)
        missing = np.radians(np.sqrt(beam**2 - own**2) / 60)
        known = hp.alm2map(hp.almxfl(lensed["T"].astype(complex), hp.gauss_beam(missing, LMAX)), NSIDE)
        np.testing.assert_allclose(sky["T"], known, atol=1e-5 * known.std())
    known = hp.alm2map([lensed[x].astype(complex) for x in "TEB"], NSIDE)
    np.testing.assert_allclose(found(method__perform_ILC_at_beam=0, field="TQU").data, known, atol=1e-5 * known.std())


def test_floors_refuse_what_they_cannot_know(changed):
    def refused(message, stage, **settings):
        with pytest.raises(UserError, match=message) as caught:
            stage(changed(**settings))
        assert ". " not in str(caught.value), "more than one sentence"

    external = {"sims.external": {"obs": "/maps/*_{band}.fits", "truth": None}}
    refused("foregrounds away, which are not known of sims=external", NoiseWiener, **external)
    refused("choose another noise than none", NoiseWiener, noise__kind="none")
    refused("give sims.external.truth", PerfectIlc, **external)
    refused("perform_ILC_at_beam=-1 must be", PerfectIlc, method__perform_ILC_at_beam=-1)
    refused("perform_ILC_at_beam=finest must be", PerfectIlc, method__perform_ILC_at_beam="finest")
