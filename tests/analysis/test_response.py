"""Variants of a test sky: what differs in them, what does not, and what is told of a method's answers to them."""

import csv
import json
import re

import numpy as np
import pytest

from cmbml.analysis.delensing.kappa import KappaSpectra, kappa_spectra
from cmbml.analysis.delensing.response import Response
from cmbml.config.checks import REFERENCE, check
from cmbml.core.asset import Assets
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.provenance import changes
from cmbml.maps.skymap import SkyMap
from cmbml.sims.cmb import Cmb
from cmbml.sims.observe import Observe
from cmbml.sims.theory import Theory
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from tests.analysis.standin import CS, CU, FWHM_ARCMIN, LMAX, NSIDE, WORDS, draw
from tests.conftest import run_here
from tests.core import toy

VARIANTS = (
    "sims.variants=[{name: unlensed, lensing: 0},{name: half, lensing: 0.5},{name: noisy, noise: 3},"
    "{name: hot, cosmology: {As: 2.5e-9}}]"
)
ASKED = ("analysis.response=true", "method=linear_map", VARIANTS)
TEST = {"split": "test", "sim": 0}


def variant(k: int) -> dict:
    return {"split": "variants", "sim": k}


class Varied(toy.Noise):
    """A stage whose variants have levels of their own."""

    reads = (*toy.Noise.reads, "levels")

    def settings_of(self, item):
        if item["split"] != "variants":
            return self.settings
        return {**self.settings, "variant.level": self.cfg.levels[item["sim"]]}


def test_variants_are_made_beside_what_is_there_and_leave_it_as_it_is(tmp_path):
    def pipeline(**changes):
        cfg = toy.toy_config(**changes)
        return Pipeline([Varied(cfg), toy.Twice(cfg)], Assets(toy.FILES, {"root": str(tmp_path)}))

    def stale(**changes):
        return [(w.item["split"], w.item["sim"], w.why) for w in pipeline(**changes).plan()["twice"] if w.why]

    toy.toy(tmp_path).run()
    asked = {"splits": {"variants": 2}, "levels": [1, 2]}
    assert stale(levels=[]) == []
    assert [x[:2] for x in stale(**asked)] == [("variants", 0), ("variants", 1)]
    pipeline(**asked).run()
    assert stale(**asked) == stale(levels=[]) == []
    assert stale(**{**asked, "levels": [1, 5]}) == [("variants", 1, "variant.level 2 -> 5")]


def test_one_thing_is_different(composed):
    cfg = composed(*WORDS, *ASKED, "sky.margin=8")
    ell = np.arange(LMAX + cfg.sky.margin + 1.0)
    cl = 1 / (ell + 10) ** 2
    cls = (
        dict.fromkeys(("tt", "ee"), cl)
        | {"bb": 1e-3 * cl, "pp": 1e-3 * cl**2}
        | dict.fromkeys(("te", "tp", "ep"), 0 * cl)
    )
    unlensed, lensed = Cmb(cfg).run(TEST, cls=cls)
    for k, amplitude in enumerate((0, 0.5, 1, 1)):
        drawn, found = Cmb(cfg).run(variant(k), cls=cls)
        for x in "TEB":
            np.testing.assert_array_equal(drawn[x], unlensed[x])
        np.testing.assert_allclose(drawn["kappa"], amplitude**0.5 * unlensed["kappa"], rtol=1e-6)
        assert np.array_equal(found["E"], lensed["E"]) == (amplitude == 1)
    nothing = Cmb(cfg).run(variant(0), cls=cls)[1]
    np.testing.assert_allclose(nothing["B"], unlensed["B"], atol=1e-6)

    blank = {x: 0 * alm for x, alm in lensed.items()}
    noise, louder = (Observe(cfg).run(item, lensed_alm=blank)[1] for item in (TEST, variant(2)))
    for x in "TEB":
        np.testing.assert_allclose(louder[x], 3 * noise[x], rtol=1e-4, atol=1e-6)
    theory = Theory(cfg)
    assert theory.parameters(variant(3)) == theory.parameters(TEST) | {"As": 2.5e-9}
    assert theory.parameters(variant(2)) == theory.parameters(TEST)


def test_names_of_variants_are_those_of_the_table_and_of_no_sky(composed):
    """Another name, or another order of two, makes the table anew; the skies know of none."""
    cfg = composed(*WORDS, *ASKED)
    renamed = composed(*WORDS, *ASKED[:2], VARIANTS.replace("hot", "bright"))
    before, after = (Response(x).settings_of({}) for x in (cfg, renamed))
    assert changes(before, before) == []
    assert changes(before, after) == [
        "sims.variants.name ['unlensed', 'half', 'noisy', 'hot'] -> ['unlensed', 'half', 'noisy', 'bright']"
    ]
    for stage in (Theory, Cmb, Observe):
        for k in range(4):
            assert stage(cfg).settings_of(variant(k)) == stage(renamed).settings_of(variant(k))


def test_variants_that_are_none(composed):
    cfg = composed(*WORDS, *ASKED)
    for variants, told in (
        (
            [{"name": "a"}],
            "sims.variants.0={'name': 'a'} must have a name and one or more of lensing, noise, cosmology.",
        ),
        ([{"name": "a", "noise": -1}], "sims.variants.0.noise=-1 must be a number between 0 and 100"),
        ([{"name": REFERENCE, "noise": 1}], "sims.variants.0.name=the sky itself is what the table calls the sky that"),
        ([{"name": "a", "noise": 1}, {"name": "a", "noise": 2}], "names something twice"),
    ):
        cfg.sims.variants = variants
        with pytest.raises(UserError, match=re.escape(told)):
            check(cfg)
    cfg.splits.variants = 3
    with pytest.raises(UserError, match="splits.variants=3 is not the number of those that are asked for, 2"):
        check(cfg)


def sky(alm: np.ndarray, field: str) -> SkyMap:
    fwhm_arcmin = 0.0 if field == "kappa" else FWHM_ARCMIN
    data = sht.synthesis(sht.almxfl(alm, gaussian_beam(fwhm_arcmin, LMAX)), NSIDE)
    return SkyMap(data[None], (field,), "uK_CMB", fwhm_arcmin, LMAX)


def test_answers_of_a_method_whose_answers_are_known(composed):
    """An answer of f kappa and a template f s + m: response f, power f^2 + M / CS, A_res (1 - f)^2 + M / CS."""
    cfg = composed(*WORDS, *ASKED[:2], "sims.variants=[{name: unlensed, lensing: 0},{name: half, lensing: 0.5}]")
    rng = np.random.default_rng(0)
    u, s, m, kappa = (draw(rng, cl) for cl in (CU, CS, 0.1 * CS, 1e-4))
    power = {name: np.sum((2 * np.arange(2, 41) + 1) * sht.alm2cl(alm)[2:41]) for name, alm in (("s", s), ("m", m))}
    noise = power["m"] / power["s"]
    skies: dict[str, list] = {}
    for split, lensing, f in (("test", 1, 0.8), ("variants", 0, 0.8), ("variants", 0.5, 0.9)):
        root = lensing**0.5
        zero = dict.fromkeys("TE", 0 * u)
        values = {
            "estimate": sky(f * root * kappa, "kappa"),
            "lensing_template": sky(f * root * s + m, "B"),
            "unlensed_alm": zero | {"B": u, "kappa": root * kappa},
            "lensed_alm": zero | {"B": u + root * s},
        }
        for name, value in values.items():
            skies.setdefault(f"{split}_{name}", []).append(value)
    rows, text, _ = Response(cfg).run({}, **skies)
    answers = {row["variant"]: row for row in rows}
    assert list(answers) == [REFERENCE, "unlensed", "half"]
    assert answers[REFERENCE]["response"] == pytest.approx(0.8, rel=2e-3)  # analysis of pixels at 2.5 nside
    assert answers["half"]["response"] == pytest.approx(0.9, rel=2e-3)
    assert answers["unlensed"]["template"] == pytest.approx(
        noise, rel=2e-2
    )  # the map analysis at 2.5 nside errs by 1 %
    assert np.isnan([answers["unlensed"][x] for x in ("response", "A_res")]).all()
    # s and m have a chance correlation of a few percent: 1677 modes.
    assert answers["half"]["A_res"] == pytest.approx(0.1**2 + 2 * noise, abs=0.02)
    assert "| linear_map | unlensed | - |" in text


def test_spectra_of_kappa(composed):
    """Of an estimate f kappa + noise, full sky and masked: f^2 C + N, f C and C."""
    cfg = composed(*WORDS, "method=linear_map")
    rng = np.random.default_rng(1)
    kappa, noise = draw(rng, 4e-4), draw(rng, 1e-4)
    found = sky(0.5 * kappa + noise, "kappa")
    ell = np.arange(LMAX + 1.0)
    filters = {"pp": 4e-4 / np.maximum(ell * (ell + 1) / 2, 1) ** 2, "n0": np.where(ell > 30, np.inf, 1.0)}
    rows, _ = KappaSpectra(cfg).run({}, estimate=[found], unlensed_alm=[{"kappa": kappa}], filters=filters)
    cross = sht.alm2cl(kappa, noise)
    expected = {"truth": sht.alm2cl(kappa), "cross": 0.5 * sht.alm2cl(kappa) + cross}
    expected["estimate"] = sht.alm2cl(0.5 * kappa + noise)
    for row in rows:
        band = slice(row["first"], row["last"] + 1)
        modes = 2 * ell[band] + 1
        for name, cl in expected.items():
            assert row[f"{name}_mean"] == pytest.approx(np.average(cl[band], weights=modes), rel=5e-3)
        assert row["fiducial"] == pytest.approx(4e-4)
        known = (ell[band] * (ell[band] + 1) / 2) ** 2 * (ell[band] <= 30)
        assert row["n0"] == pytest.approx(np.average(known, weights=modes))
    # A mask that is 1 everywhere changes nothing; one of half the sky leaves powers as they are, within their scatter.
    z = np.abs(np.linspace(1, -1, 12 * NSIDE**2))
    full = kappa_spectra(found, kappa, lmax=LMAX)
    ones = kappa_spectra(found, kappa, lmax=LMAX, mask=np.ones_like(z))
    np.testing.assert_allclose(ones["cross"], full["cross"], rtol=5e-3, atol=1e-8)
    half = kappa_spectra(found, kappa, lmax=LMAX, mask=(z > 0.5).astype(float))
    ratio = np.average(half["cross"][5:], weights=2 * ell[5:] + 1) / np.average(
        half["truth"][5:], weights=2 * ell[5:] + 1
    )
    assert ratio == pytest.approx(0.5, abs=0.05)
    assert np.average(half["truth"][5:], weights=2 * ell[5:] + 1) == pytest.approx(4e-4, rel=0.15)
    # An estimate that has the mask already counts as one that has not.
    twice = SkyMap(found.data * z**2, ("kappa",), "1", 0.0, LMAX, masks=2)
    one, other = (kappa_spectra(m, kappa, lmax=LMAX, mask=z) for m in (found, twice))
    np.testing.assert_allclose(one["estimate"], other["estimate"], rtol=1e-4)


@pytest.mark.usefixtures("sketches")
def test_from_the_command_to_the_table(tmp_path):
    """A linear estimator answers alike, however strong the lensing is; nothing that was made before is made again."""
    words = (
        "experiment=tiny", "nside=32", "analysis.pictures=0", "splits.train=0", "splits.valid=0", "splits.test=1",
        "run.workers=1", "sims.variants=[{name: unlensed, lensing: 0},{name: half, lensing: 0.5}]",
    )  # fmt: skip

    def run(*more):
        code, error = run_here(*words, *more, root=tmp_path)
        assert code == 0, error

    run("method=linear_map")
    folder = tmp_path / "delens_tiny"
    first = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    run("method=linear_map", "analysis.response=true")
    assert {p: p.stat().st_mtime_ns for p in first} == first
    with (folder / "linear_map/B/analysis/response.csv").open() as f:
        answers = {row["variant"]: row for row in csv.DictReader(f)}
    itself, unlensed, half = (answers[name] for name in (REFERENCE, "unlensed", "half"))
    assert float(half["response"]) == pytest.approx(float(itself["response"]), rel=0.02)
    assert float(unlensed["template"]) < float(half["template"]) < float(itself["template"])
    seeds = [
        json.loads((folder / f"Simulations/{sky}/.obs_map.fits.json").read_text())["seeds"]
        for sky in ("Test/sim0000", "Variants/sim0001")
    ]
    assert seeds[0] == seeds[1]
