"""The measurement of a cleaned map against closed forms: what is added to a truth with known alms is found again."""

from collections import defaultdict
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from cmbml.analysis.cleaning import measure as cleaning
from cmbml.analysis.cleaning.forms import FORMS, without_dipole
from cmbml.analysis.cleaning.metrics import METRICS, Measured, agreement, biases, residuals
from cmbml.analysis.metrics import values
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap, read_skymap, write_skymap
from cmbml.methods.ilc.scales import bin_windows, make_scales
from cmbml.methods.ilc.weights import apply, fit
from cmbml.sky import sht
from cmbml.sky.masks import apodise, band_mask
from tests.conftest import REPO

NSIDE, TOP, LMAX, COMMON = 32, 90, 80, 240.0
NPIX = 12 * NSIDE**2
ELL = np.arange(TOP + 1)
TEST = {"split": "test", "sim": 0}
LOW_IS_GOOD = ("MAE", "MSE", "RMSE", "NRMSE", "residual_2_30", "residual_30_80")
HIGH_IS_GOOD = ("PSNR", "corr", "rho")
# One iteration of the analysis: right to 1e-3 of a map of l <= 80 at nside 32, to 1e-2 at l = 80 itself.
ANALYSIS = 3e-3


def config(mask: str = "band", field: str = "T", **external) -> DictConfig:
    """The keys that the stages use."""
    given = {
        "nside": NSIDE, "sky": {"nside": NSIDE, "lmax": TOP}, "splits": {"train": 1, "valid": 1, "test": 2},
        "mask": {"kind": mask}, "sims": {"external": external}, "foregrounds": {"kind": "synthetic", "presets": []},
        "clean": {"field": field, "fwhm_arcmin": 1.0}, "method": {"name": "mine", "trained": None},
        "instrument": {"name": "toy"}, "dataset": "standin",
    }  # fmt: skip
    analysis = OmegaConf.load(REPO / "cfg" / "analysis" / "cleaning.yaml")
    return OmegaConf.merge(given, {"analysis": analysis}, {"analysis": {"fwhm_arcmin": COMMON, "lmax": LMAX}})


def beam(fwhm_arcmin: float) -> np.ndarray:
    return hp.gauss_beam(np.radians(fwhm_arcmin / 60), lmax=TOP)


def draw(seed: int, cl: np.ndarray) -> np.ndarray:
    """Alms of a Gaussian sky."""
    rng, (ell, m) = np.random.default_rng(seed), hp.Alm.getlm(TOP)
    pair = rng.standard_normal((2, len(ell)))
    return np.sqrt(cl[ell]) * np.where(m == 0, pair[0], (pair[0] + 1j * pair[1]) / np.sqrt(2))


def maps(alms: dict, fields: str, fwhm_arcmin: float, lmax: int = TOP) -> np.ndarray:
    """Maps of alms with a beam and a band limit."""
    seen = {x: sht.almxfl(alm, beam(fwhm_arcmin) * (lmax >= ELL)) for x, alm in alms.items()}
    scalars = [sht.synthesis(seen[x], NSIDE) for x in fields if x in "TEB"]
    pair = sht.synthesis(np.stack([seen["E"], seen["B"]]), NSIDE, spin=2) if "Q" in fields else []
    return np.stack([*scalars, *pair])


def sky(data: np.ndarray, fields: str, fwhm_arcmin: float, lmax: int = TOP) -> SkyMap:
    """A map as it is read from disk."""
    return SkyMap(np.atleast_2d(data).astype(np.float32), tuple(fields), "uK_CMB", fwhm_arcmin, lmax)


def power(alm: np.ndarray, factor: np.ndarray) -> float:
    """Mean square over the sphere of a map of alms a_lm f_l: sum (2l + 1) C_l f_l^2 / (4 pi)."""
    return float((2 * ELL + 1) @ (hp.alm2cl(alm) * factor**2) / (4 * np.pi))


CL = np.where(ELL >= 2, 1e4 / np.maximum(ELL * (ELL + 1.0), 1), 0)
ALMS = {x: draw(i, CL * a) for i, (x, a) in enumerate({"T": 1.0, "E": 0.01, "B": 0.001}.items())}
NOISE = {x: draw(10 + i, CL * a * 0.02) for i, (x, a) in enumerate({"T": 1.0, "E": 0.01, "B": 0.01}.items())}
CMB = sky(maps(ALMS, "TQU", 0), "TQU", 0.0)
MASK = sky(apodise(band_mask(NSIDE, 20), 10), ["mask"], 0.0)
GOOD = MASK["mask"] > 0.5


def measure(prediction: SkyMap, *, cmb: SkyMap = CMB, alms: dict = ALMS) -> tuple[dict, dict]:
    """Rows by (field, form, area), and spectra."""
    rows, cls = cleaning.Measure(config()).run(TEST, prediction=prediction, cmb_map=cmb, lensed_alm=alms, mask=MASK)
    return {(row["field"], row["form"], row["area"]): row for row in rows}, cls


def noisy(fwhm_arcmin: float, fields: str = "T") -> np.ndarray:
    return maps({x: ALMS[x] + NOISE[x] for x in "TEB"}, fields, fwhm_arcmin)


@pytest.mark.parametrize("fields", ["T", "E", "B", "TQU"])
def test_a_perfect_prediction_has_no_error_whatever_its_beam(fields):
    """But for the rounding of float32, 1e-7; unsmoothed, the error is the beam's: the power of a_lm (1 - b_l)."""
    for fwhm in (0.0, 150.0, COMMON):
        rows, _ = measure(sky(maps(ALMS, fields, fwhm), fields, fwhm))
        assert set(rows) == {(x, form, area) for x in fields for form in FORMS for area in ("full", "mask")}
        for (field, form, area), row in rows.items():
            assert row["transfer"] == pytest.approx(1, abs=1e-6)
            assert row["rho"] == pytest.approx(1, abs=1e-6)
            assert row["residual_2_30"] < 1e-10
            assert row["fwhm_arcmin"] == {"common": COMMON, "unsmoothed": 0.0, "native": fwhm}[form]
            if form != "unsmoothed":
                assert row["NRMSE"] < 1e-6
                assert row["corr"] == pytest.approx(1, abs=1e-10)
            elif (field, area) in (("T", "full"), ("E", "full"), ("B", "full")):
                # T without its dipole, which is the truth's own; pixels err by 1e-3 as a quadrature.
                lost = power(ALMS[field], (1 - beam(fwhm)) * (ELL > 1))
                assert row["MSE"] == pytest.approx(lost, rel=1e-2, abs=1e-9)


def test_more_beam_leaves_the_common_form_and_the_spectra_as_they_are():
    """A noisy prediction, smoothed: to the accuracy of the analysis on the full sky, to 1 % (2 % of squares) on a part.

    Smoothing mixes what is beside the mask's border with zeros, and a narrower beam has more of it to come.
    """
    (sharp, _), (broad, _) = (measure(sky(noisy(fwhm), "T", fwhm)) for fwhm in (60.0, 230.0))
    for area, accuracy in (("full", ANALYSIS), ("mask", 0.01)):
        one, other = (rows["T", "common", area] for rows in (sharp, broad))
        for name in (*LOW_IS_GOOD, *HIGH_IS_GOOD, "transfer", "psnr_joint"):
            twice = 2 if name == "MSE" or name.startswith("residual") else 1
            assert other[name] == pytest.approx(one[name], rel=twice * accuracy), name
        for form in ("native", "unsmoothed"):
            assert broad["T", form, area]["RMSE"] != pytest.approx(sharp["T", form, area]["RMSE"], rel=0.1)
    expected = np.sqrt(power(NOISE["T"], beam(COMMON) * (ELL > 1) * (ELL <= LMAX)))
    assert sharp["T", "common", "full"]["RMSE"] == pytest.approx(expected, rel=ANALYSIS)


def test_noise_beyond_the_band_limit_is_no_error_of_the_common_form():
    """Its closed form is sum (2l + 1) / (4 pi) N_l b_l^2 to lmax, on a part of the sky as on the whole.

    N_l rises as that of a map whose beam is divided out does. The quadrature of maps with l up to 2.8 nside adds 1 %,
    and the pixels that are not believed 1.5 %; a cut at the mask's border mixed 9 % of the rms down.
    """
    steep = draw(30, 1e-3 * np.exp((ELL / 33.0) ** 2) * (ELL > 1))
    rows, _ = measure(sky(maps({"T": ALMS["T"] + steep}, "T", 0), "T", 0.0))
    known = np.sqrt(power(steep, beam(COMMON) * (ELL <= LMAX)))
    assert rows["T", "common", "full"]["RMSE"] == pytest.approx(known, rel=0.02)
    assert rows["T", "common", "mask"]["RMSE"] == pytest.approx(known, rel=0.04)


def test_one_pixel_times_100_improves_no_metric_but_the_joint_psnr():
    clean = noisy(60.0)
    pixel = np.flatnonzero(GOOD)[np.argmax(np.abs(clean[0, GOOD]))]
    spiked = clean.copy()
    spiked[0, pixel] *= 100
    (before, _), (after, _) = (measure(sky(m, "T", 60.0)) for m in (clean, spiked))
    for key, row in after.items():
        for name in LOW_IS_GOOD:
            assert row[name] > before[key][name], (key, name)
        for name in HIGH_IS_GOOD:
            assert row[name] < before[key][name], (key, name)
        assert abs(row["transfer"] - 1) > abs(before[key]["transfer"] - 1)
    key = "T", "native", "full"
    assert after[key]["psnr_joint"] > before[key]["psnr_joint"] + 3
    assert after[key]["PSNR"] < before[key]["PSNR"] - 20


@pytest.mark.parametrize("fields", ["T", "E", "TQU"])
def test_a_scaled_prediction(fields):
    factor = 0.8
    rows, _ = measure(sky(factor * maps(ALMS, fields, 60), fields, 60.0))
    for (_, form, area), row in rows.items():
        # T: the dipole is the truth's own, and scaled with the rest.
        assert row["transfer"] == pytest.approx(factor, rel=1e-5)
        assert row["rho"] == pytest.approx(1, abs=1e-6)
        for name in ("residual_2_30", "residual_30_80"):
            assert row[name] == pytest.approx((1 - factor) ** 2, rel=1e-4)
        if form == "native":
            assert row["NRMSE"] == pytest.approx(1 - factor, rel=1e-5)
        if form == "common":
            assert row["NRMSE"] == pytest.approx(1 - factor, rel=ANALYSIS if area == "full" else 0.03)


def test_monopole_and_dipole_of_t_change_nothing_and_those_of_others_count():
    """30 uK of either on a map of 100 uK: float32 rounds both to 1e-7."""
    shift = 30 * (1 + hp.pix2vec(NSIDE, np.arange(NPIX))[1])
    (plain, cls), (shifted, cls_shifted) = (measure(sky(noisy(60.0) + add, "T", 60.0)) for add in (0, shift))
    for key, row in plain.items():
        for name in (*LOW_IS_GOOD, *HIGH_IS_GOOD, "transfer", "psnr_joint"):
            assert shifted[key][name] == pytest.approx(row[name], rel=1e-4), (key, name)
    for name, cl in cls.items():
        np.testing.assert_allclose(cls_shifted[name], cl, rtol=1e-3, atol=1e-7 * cl.max())
    rows, _ = measure(sky(maps(ALMS, "E", 60) + 5, "E", 60.0))
    assert rows["E", "common", "full"]["RMSE"] == pytest.approx(5, rel=1e-4)


def test_dipole_is_healpys():
    rng = np.random.default_rng(3)
    m = rng.standard_normal(NPIX) + 3 + 2 * hp.pix2vec(NSIDE, np.arange(NPIX))[0]
    theirs = hp.remove_dipole(np.where(GOOD, m, hp.UNSEEN))
    np.testing.assert_allclose(without_dipole(m, GOOD)[GOOD], theirs[GOOD], atol=1e-9)


@pytest.mark.parametrize("fields", ["T", "TQU"])
def test_what_is_masked_does_not_reach_the_good_sky(fields):
    """Neither through the smoothing nor, where the mask is 0, into its spectra; the full sky knows of it."""
    rng = np.random.default_rng(4)
    plain = noisy(60.0, fields)
    plane = np.where(GOOD, 0, 1e5 * rng.standard_normal(NPIX))
    (before, cls), (after, _), (other, _), (deep, cls_deep) = (
        measure(sky(plain + add, fields, 60.0)) for add in (0, plane, -3 * plane, np.where(MASK["mask"] == 0, plane, 0))
    )
    for (field, form, area), row in before.items():
        if area == "mask":
            for name in ("MAE", "RMSE", "NRMSE", "PSNR", "psnr_joint", "corr"):
                own = after[field, form, area][name]
                assert own == other[field, form, area][name], (field, form, name)
                # The common form smooths what is masked, if it is as good as the rest: 1 % of the rms.
                assert own == pytest.approx(row[name], rel=0.02 if form == "common" else 1e-12)
            assert deep[field, form, area] == row or form == "common"
        else:
            assert after[field, form, area]["RMSE"] > 100 * row["RMSE"]
    for name, cl in cls.items():
        assert np.array_equal(cls_deep[name], cl) or "_full" in name


def test_q_and_u_are_smoothed_and_analysed_as_a_pair():
    """An error that is one E mode: its power in the common form, and in the spectra as E alone."""
    ell, alm = 50, np.zeros(sht.alm_size(TOP), dtype=complex)
    alm[hp.Alm.getidx(TOP, ell, 7)] = 1 + 2j
    added = {"T": 0 * alm, "E": alm, "B": 0 * alm}
    rows, cls = measure(sky(maps(ALMS, "TQU", 150) + maps(added, "TQU", 150), "TQU", 150.0))
    mse = sum(rows[x, "common", "full"]["MSE"] for x in "QU")
    assert mse == pytest.approx(power(alm, beam(COMMON)), rel=ANALYSIS)
    assert cls["E_full/residual"][ell] == pytest.approx(hp.alm2cl(alm)[ell], rel=ANALYSIS)
    assert cls["B_full/residual"].max() < 1e-5 * cls["E_full/residual"].max()
    both = cls["E_full/truth"] + cls["B_full/truth"]
    modes = 2 * np.arange(30, LMAX + 1) + 1
    expected = (2 * ell + 1) * hp.alm2cl(alm)[ell] / (modes @ both[30:])
    assert rows["Q", "native", "full"]["residual_30_80"] == pytest.approx(expected, rel=ANALYSIS)


def test_multipoles_that_a_prediction_lacks_are_error_in_the_common_form_alone():
    rows, _ = measure(sky(maps(ALMS, "T", 60, lmax=40), "T", 60.0, lmax=40))
    assert rows["T", "native", "full"]["NRMSE"] < 1e-6
    missing = power(ALMS["T"], beam(COMMON) * ((ELL > 40) & (ELL <= LMAX)))
    assert rows["T", "common", "full"]["MSE"] == pytest.approx(missing, rel=0.01)
    # A mask's pseudo-spectrum would mix multipoles; here the band [30, 80] has lost what lies beyond 40.
    modes, cl = 2 * ELL + 1, hp.alm2cl(ALMS["T"])
    lost = (modes * cl)[41 : LMAX + 1].sum() / (modes * cl)[30 : LMAX + 1].sum()
    assert rows["T", "common", "full"]["residual_30_80"] == pytest.approx(lost, rel=0.01)


def test_masked_spectra_have_the_height_of_the_sky():
    """Noise of a flat spectrum, which a mask mixes with itself: 6000 modes times f_sky scatter by 2 %."""
    flat = {"T": draw(20, np.ones(TOP + 1))}
    _, cls = measure(sky(maps(ALMS, "T", 60) + maps(flat, "T", 60), "T", 60.0))
    modes, part = 2 * np.arange(LMAX + 1) + 1, slice(10, 70)
    mean = modes[part] @ cls["T_mask/residual"][part] / modes[part].sum()
    assert mean == pytest.approx(1, abs=0.08)
    full = modes[part] @ cls["T_full/residual"][part] / (modes[part] @ hp.alm2cl(flat["T"])[part])
    assert full == pytest.approx(1, abs=ANALYSIS)


def test_a_truth_with_a_wider_beam_gives_it_to_every_form():
    """A prediction without any is smoothed to it; beside the border some of it is the truth, twice smoothed."""
    fwhm = 260.0
    blurred = {x: sht.almxfl(alm, beam(fwhm)) for x, alm in ALMS.items()}
    cmb = sky(maps(ALMS, "TQU", fwhm), "TQU", fwhm)
    plane = np.where(GOOD, 0, 1e4)
    rows, _ = measure(sky(maps(ALMS, "T", 0) + plane, "T", 0.0), cmb=cmb, alms=blurred)
    for form in ("common", "native"):
        assert rows["T", form, "mask"]["NRMSE"] < 0.03
    assert rows["T", "native", "mask"]["transfer"] == pytest.approx(1, abs=0.03)
    lost = np.sqrt(power(ALMS["T"], (1 - beam(fwhm)) * (ELL > 1)))
    assert rows["T", "unsmoothed", "mask"]["RMSE"] == pytest.approx(lost, rel=0.1)


def test_mistakes_are_refused():
    with pytest.raises(UserError, match=r"beam of 300 arcmin.*of 240; widen analysis\.fwhm_arcmin"):
        measure(sky(maps(ALMS, "T", 300), "T", 300.0))
    with pytest.raises(UserError, match="The truth has no E, and Q,U cannot be measured"):
        measure(sky(maps(ALMS, "TQU", 60), "TQU", 60.0), alms={"T": ALMS["T"]})
    small = SkyMap(np.zeros((1, 768), dtype=np.float32), ("T",), "uK_CMB", 60.0, 10)
    with pytest.raises(UserError, match="nside 8 where 32 is needed"):
        measure(small)


def test_agreement_of_four_pixels():
    values = agreement(np.array([0.0, 1, 2, 9]), np.array([0.0, 1, 5, -99]), np.array([True, True, True, False]))
    assert values["MAE"] == pytest.approx(1)
    assert values["PSNR"] == pytest.approx(10 * np.log10(4 / 3))
    assert values["psnr_joint"] == pytest.approx(10 * np.log10(25 / 3))
    assert values["corr"] == pytest.approx(5 / np.sqrt(2 * 14))


def test_bands_are_cut_at_the_end_and_left_out_beyond():
    cls = {"truth": np.ones(21), "prediction": np.ones(21), "cross": np.ones(21), "residual": np.arange(21.0)}
    measured = Measured(pixels=defaultdict(float), cls=cls, band=(5, 50), fwhm_arcmin=0.0)
    ratios = values((*METRICS, *residuals([[2, 3], [18, 40], [20, 40]], 20)), measured)
    assert {"residual_2_3", "residual_18_20"} == {name for name in ratios if name.startswith("residual")}
    assert ratios["transfer"] == ratios["rho"] == 1
    assert ratios["residual_2_3"] == pytest.approx((5 * 2 + 7 * 3) / 12)
    assert ratios["residual_18_20"] == pytest.approx((37 * 18 + 39 * 19 + 41 * 20) / 117)


def through_the_mask(alms: dict, field: str, fwhm_arcmin: float) -> np.ndarray:
    """T, E or B of the masked T, or of the masked Q and U: by healpy."""
    t, q, u = MASK["mask"] * maps(alms, "TQU", fwhm_arcmin)
    found = dict(zip("TEB", hp.map2alm([t, q, u], lmax=TOP, iter=1), strict=True))
    return hp.alm2map(found[field], NSIDE)


@pytest.mark.parametrize("field", ["T", "E", "B"])
def test_a_prediction_that_carries_the_mask_has_the_errors_of_one_that_does_not(field):
    """But for what the mask mixes, which is no error; pixels of the taper weigh less. Of the full sky it has none."""
    noise = {x: alm if x == field else 0 * alm for x, alm in NOISE.items()}
    data = through_the_mask(ALMS, field, 60)
    perfect, _ = measure(replace(sky(data, field, 60.0), masks=1))
    assert set(perfect) == {(field, form, "mask") for form in FORMS}
    error = MASK["mask"] * maps(noise, field, 60)[0]
    rows, cls = measure(replace(sky(data + error, field, 60.0), masks=1))
    plain, cls_plain = measure(sky(maps(ALMS, field, 60)[0] + maps(noise, field, 60)[0], field, 60.0))
    # The product of mask and map reaches beyond its band limit, and the error is analysed once more: some 1e-3.
    for form in ("common", "native"):
        one, own, other = (x[field, form, "mask"] for x in (perfect, rows, plain))
        assert one["NRMSE"] < 3e-3
        assert one["residual_2_30"] < 1e-5
        assert own["transfer"] == pytest.approx(other["transfer"], abs=1e-3)
        assert own["residual_2_30"] == pytest.approx(other["residual_2_30"], rel=1e-2)
        assert own["residual_30_80"] == pytest.approx(other["residual_30_80"], rel=1e-2)
        assert 0.9 * other["RMSE"] < own["RMSE"] < other["RMSE"]
    # The pixels that tell monopole and dipole of T weigh alike in one, and as the mask in the other.
    truths = (x[f"{field}_mask/truth"][10:] for x in (cls, cls_plain))
    np.testing.assert_allclose(*truths, rtol=2e-2 if field == "T" else 1e-6)
    mixed = (data - MASK["mask"] * maps(ALMS, field, 60)[0])[GOOD].std() / maps(ALMS, field, 60)[0, GOOD].std()
    assert (mixed > 0.05) == (field != "T")


def test_monopole_and_dipole_of_a_masked_t_are_masked_as_well():
    data = through_the_mask(ALMS, "T", 60) + MASK["mask"] * maps(NOISE, "T", 60)[0]
    shift = MASK["mask"] * 30 * (1 + hp.pix2vec(NSIDE, np.arange(NPIX))[1])
    (plain, cls), (shifted, moved) = (measure(replace(sky(data + x, "T", 60.0), masks=1)) for x in (0, shift))
    assert shifted["T", "native", "mask"]["RMSE"] == pytest.approx(plain["T", "native", "mask"]["RMSE"], rel=1e-3)
    np.testing.assert_allclose(moved["T_mask/prediction"], cls["T_mask/prediction"], rtol=1e-3, atol=1e-2)


def test_a_map_says_that_it_carries_the_mask_and_one_without_a_mask_is_refused(tmp_path):
    carries = replace(sky(through_the_mask(ALMS, "T", 60), "T", 60.0), masks=1)
    for given in (carries, replace(carries, masks=0)):
        write_skymap(tmp_path / "sky.fits", given)
        assert read_skymap(tmp_path / "sky.fits").masks == given.masks
    with pytest.raises(UserError, match="The prediction was multiplied by a mask"):
        cleaning.Measure(config(mask="none")).run(TEST, prediction=carries, cmb_map=CMB, lensed_alm=ALMS)


def test_bias_of_a_combination_is_what_chance_correlations_take():
    """Five bands of white CMB and white noise, weights of one bin: -2 (n - 1) / N on average.

    One sky scatters by 2 sqrt(N_l / (n C_l N)) = .026 beside .068, so that 800 of them tell the mean to 2 %.
    """
    n, lmax, rng = 5, 10, np.random.default_rng(8)
    scales = make_scales(bin_windows(2, lmax, lmax), np.ones((n, lmax + 1)), criterion=0.5)
    (metric,) = biases([(2, lmax)], lmax)

    def white(power):
        return draw(int(rng.integers(2**31)), np.full(TOP + 1, power))

    found = []
    for _ in range(800):
        cmb, *noise = (sht.truncate(white(x), lmax) for x in (1.0, *[0.1] * n))
        alms = cmb + np.stack(noise)
        combined = apply(fit(alms, scales, np.ones((n, 1)), prewhiten=False), alms)
        cls = {"truth": sht.alm2cl(cmb), "cross": sht.alm2cl(combined, cmb)}
        measured = Measured(pixels={}, cls=cls, band=(2, lmax), fwhm_arcmin=0.0, combines=True)
        found.append(metric.of(measured))
        assert np.isnan(metric.of(replace(measured, combines=False)))
    modes = np.sum(2 * np.arange(2, lmax + 1) + 1)
    assert np.mean(found) == pytest.approx(-2 * (n - 1) / modes, rel=0.06)
