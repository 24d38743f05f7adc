"""Quadratic estimator and lensing template: remapping at first order, adjointness, Gaussian variance, unit response."""

import numpy as np
import pytest

from cmbml.sky import lensing, quadratic, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.lensing_theory import fiducial, reconstruction
from cmbml.sky.noise import noise_cl

LMAX = 500
MODES = 2 * np.arange(LMAX + 1) + 1


@pytest.fixture(scope="module")
def cls():
    return fiducial()


def draw(cls, seed: int, lmax: int = LMAX) -> dict[str, np.ndarray]:
    rngs = {x: np.random.default_rng([seed, i]) for i, x in enumerate(("T", "E", "B", "phi"))}
    return lensing.draw_alms(cls, lmax, rngs)


def white(seed: int) -> np.ndarray:
    alm = draw(
        {x: np.ones(LMAX + 1) * (x in ("tt", "ee", "bb", "pp")) for x in ("tt", "ee", "bb", "te", "pp", "tp", "ep")},
        seed,
    )
    return alm["T"]


def test_template_is_the_remapping_at_first_order(cls):
    """A deflection a thousand times too weak has no second order; B at l near lmax lacks what is cut off above."""
    sky, weak = draw(cls, 1), 1e-3
    sky["B"] *= 0
    lensed = sht.lens({x: sky[x] for x in "TEB"}, weak * sky["phi"], LMAX)
    template = quadratic.lensing_template({x: sky[x] for x in "TE"}, weak * sky["phi"])
    for field in "TEB":
        truth = sht.truncate(lensed[field] - sky[field], 300)
        error = sht.truncate(template[field], 300) - truth
        ratio = sht.alm2cl(error)[2:] / sht.alm2cl(truth)[2:]
        assert ratio.mean() < 1e-3, field


def test_full_order_is_the_remapping(cls):
    sky = draw(cls, 2)
    lensed = sht.lens({"T": 0 * sky["T"], "E": sky["E"], "B": 0 * sky["B"]}, sky["phi"], LMAX)
    template = quadratic.lensing_template({"E": sky["E"]}, sky["phi"], order="remap")
    np.testing.assert_allclose(template["B"], lensed["B"])
    np.testing.assert_allclose(template["E"], lensed["E"] - sky["E"])
    with pytest.raises(ValueError, match="gradient or remap"):
        quadratic.lensing_template({"E": sky["E"]}, sky["phi"], order="second")


def test_estimator_is_the_adjoint_of_the_template(cls):
    """<g, phi> = <E_inverse, dE> + <B_inverse, dB> for any fields, to the rounding of single precision."""
    sky, e, b = draw(cls, 3), white(4), white(5)
    template = quadratic.lensing_template({"E": sky["E"]}, sky["phi"])
    for first in (e, None):
        g = quadratic.phi_gradient(first, b, sky["E"])
        left = MODES @ sht.alm2cl(g, sky["phi"])
        right = MODES @ sht.alm2cl(b, template["B"])
        right += MODES @ sht.alm2cl(e, template["E"]) if first is not None else 0
        assert left == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("estimator", ["eb", "mv"])
def test_noise_on_gaussian_skies_is_n0_and_response_is_one(cls, estimator):
    """On unlensed skies with lensed spectra the estimate's power is N0; on lensed ones it follows phi.

    Three skies: the mean over 30 < L < 400 scatters by less than a percent; the response deviates at second order and
    feels the missing l > LMAX of the unlensed sky.
    """
    noise = noise_cl(1.0, LMAX) / gaussian_beam(5.0, LMAX) ** 2
    f = reconstruction(cls, noise, lmin_b=50, estimator=estimator)
    n0 = np.where(np.isfinite(f["n0"]), f["n0"], 0)

    def estimate(e: np.ndarray, b: np.ndarray) -> np.ndarray:
        first = sht.almxfl(e, f["inverse_e"]) if estimator == "mv" else None
        g = quadratic.phi_gradient(first, sht.almxfl(b, f["inverse_b"]), sht.almxfl(e, f["wiener_e"]))
        return sht.almxfl(g, n0)

    def divide(fl: np.ndarray) -> np.ndarray:
        return np.sqrt(np.divide(1, fl, out=np.zeros_like(fl), where=fl > 0))

    part, noise, cross, power = slice(30, 400), 0.0, 0.0, 0.0
    for seed in range(3):
        phi = estimate(
            sht.almxfl(white(seed + 10), divide(f["inverse_e"])), sht.almxfl(white(seed + 20), divide(f["inverse_b"]))
        )
        noise += (MODES * sht.alm2cl(phi) / np.maximum(n0, 1e-60))[part].sum() / MODES[part].sum() / 3
        sky = draw(cls, seed + 30, 1000)
        lensed = sht.lens({x: sky[x] for x in "TEB"}, sky["phi"], LMAX)
        instrument = {x: sht.almxfl(white(seed + k), np.full(LMAX + 1, 1e-4)) for k, x in ((40, "E"), (50, "B"))}
        phi = estimate(*(lensed[x] + instrument[x] for x in "EB"))
        truth = sht.truncate(sky["phi"], LMAX)
        weight = (MODES * f["wiener_phi"] / cls["pp"][: LMAX + 1].clip(1e-60))[part]
        cross += weight @ sht.alm2cl(phi, truth)[part]
        power += weight @ sht.alm2cl(truth)[part]
    assert noise == pytest.approx(1, abs=0.02)
    assert cross / power == pytest.approx(1, abs=0.06)
