"""Masks beside closed forms, distances of all pairs of pixels, and the spectrum of a masked sky."""

import itertools

import healpy as hp
import numpy as np
import pytest

from cmbml.sky import sht
from cmbml.sky.masks import apodise, band_mask, f_sky, galactic_mask

NSIDE = 32


@pytest.mark.parametrize("b_deg", [10.0, 25.0, 60.0])
def test_band_leaves_one_minus_sine(b_deg):
    """A ring of pixels is 1 / (3 nside) high in z at most."""
    mask = band_mask(128, b_deg)
    assert f_sky(mask) == pytest.approx(1 - np.sin(np.deg2rad(b_deg)), abs=2 / (3 * 128))
    _, latitude = hp.pix2ang(128, np.arange(len(mask)), lonlat=True)
    np.testing.assert_array_equal(mask == 1, np.abs(latitude) > b_deg)


@pytest.mark.parametrize("kind", ["C1", "C2"])
def test_taper_follows_the_distance_to_the_nearest_masked_pixel(kind):
    """Distances by brute force, over all masked pixels and not the border's alone; the formulas term by term."""
    width = np.deg2rad(20.0)
    mask = band_mask(NSIDE, 15.0)
    mask[hp.query_disc(NSIDE, hp.ang2vec(30.0, 60.0, lonlat=True), 0.1)] = 0
    vectors = np.transpose(hp.pix2vec(NSIDE, np.arange(len(mask))))
    cosine = np.clip(vectors @ vectors[mask == 0].T, -1, 1).max(axis=1)
    x = np.minimum(np.sqrt((1 - cosine) / (1 - np.cos(width))), 1)
    formula = {"C1": x - np.sin(2 * np.pi * x) / (2 * np.pi), "C2": 0.5 * (1 - np.cos(np.pi * x))}[kind]
    np.testing.assert_allclose(apodise(mask, 20.0, kind), mask * formula, atol=1e-7)


def test_profile_of_a_band():
    """One half at x = 1/2, the angle whose versed sine is a quarter of the width's; 0 at the border, 1 beyond it."""
    nside, b_deg, width = 128, 20.0, 30.0
    tapered = apodise(band_mask(nside, b_deg), width, "C2")
    _, latitude = hp.pix2ang(nside, np.arange(len(tapered)), lonlat=True)
    half = np.rad2deg(np.arccos(1 - (1 - np.cos(np.deg2rad(width))) / 4))
    ring = np.abs(latitude - (b_deg + half)) < 0.3
    # The slope at one half is pi / (2 width), and the nearest masked pixel is up to half a degree below the border.
    assert tapered[ring].mean() == pytest.approx(0.5, abs=0.03)
    assert tapered[latitude > b_deg + width].min() == 1
    assert tapered[(latitude > b_deg) & (latitude < b_deg + 1)].max() < 0.01


def test_taper_never_exceeds_the_mask():
    rng = np.random.default_rng(1)
    mask = np.where(rng.random(12 * NSIDE**2) < 0.02, 0, rng.random(12 * NSIDE**2))
    narrow, wide = (apodise(mask, width, "C1") for width in (4.0, 8.0))
    assert (narrow <= mask).all()
    assert (wide <= narrow).all()
    assert (narrow[mask == 0] == 0).all()


def test_without_border_or_width_nothing_changes():
    band, whole, none = band_mask(NSIDE, 20.0), np.ones(12 * NSIDE**2), np.zeros(12 * NSIDE**2)
    for mask, width in ((band, 0.0), (whole, 10.0), (none, 10.0)):
        np.testing.assert_array_equal(apodise(mask, width), mask)
    with pytest.raises(ValueError, match="C1, C2, not C3"):
        apodise(band, 10.0, "C3")


def test_spectrum_of_a_masked_sky_over_f_sky():
    """White skies: the pseudo-spectrum of w times a sky has the mean <w^2> C_l; 10 skies x 60 multipoles scatter."""
    mask = apodise(band_mask(NSIDE, 20.0), 10.0)
    modes, total = 2 * np.arange(20, 80) + 1, 0.0
    for seed in range(10):
        sky = np.random.default_rng(seed).standard_normal(12 * NSIDE**2)
        total += modes @ sht.alm2cl(sht.analysis(mask**2 * sky, 79, niter=0))[20:] / modes.sum() / 10
    expected = f_sky(mask, 4) * 4 * np.pi / (12 * NSIDE**2)
    assert total == pytest.approx(expected, rel=4 * np.sqrt(2 / (10 * modes.sum() * f_sky(mask))))


def _cloudy(seed: int = 2) -> np.ndarray:
    """A bright plane times log-normal clouds of ten degrees."""
    noise = np.random.default_rng(seed).standard_normal(12 * NSIDE**2)
    clouds = sht.synthesis(sht.analysis(noise, 18, niter=0), NSIDE)
    z = hp.pix2vec(NSIDE, np.arange(len(noise)))[2]
    return np.exp(clouds / clouds.std()) / np.hypot(z, 0.05)


@pytest.mark.parametrize("fwhm_deg", [0.0, 5.0])
def test_galactic_mask_keeps_the_part_asked_for(fwhm_deg):
    """To the pixel; a smaller part lies within a larger one; the unit does not matter."""
    sky = _cloudy()
    masks = [galactic_mask(sky, part, NSIDE, fwhm_deg=fwhm_deg) for part in (0.123, 0.4, 0.8, 1.0)]
    for mask, part in zip(masks, (0.123, 0.4, 0.8, 1.0), strict=True):
        assert mask.sum() == round(part * len(sky))
        np.testing.assert_array_equal(mask, mask**2)
    assert all((inner <= outer).all() for inner, outer in itertools.pairwise(masks))
    np.testing.assert_array_equal(galactic_mask(4096 * sky, 0.4, NSIDE, fwhm_deg=fwhm_deg), masks[1])


def test_galactic_mask_keeps_what_is_faint():
    """Nothing outside is fainter than what is inside, whatever rising function of the sky is given."""
    sky = _cloudy()
    mask = galactic_mask(sky, 0.6, NSIDE, fwhm_deg=0.0)
    assert sky[mask == 1].max() <= sky[mask == 0].min()
    np.testing.assert_array_equal(galactic_mask(np.log(sky), 0.6, NSIDE, fwhm_deg=0.0), mask)


def test_galactic_mask_turns_with_the_sky():
    """A quarter turn about the pole takes pixels to pixels, and so it takes the mask of a sky to that of the turned."""
    sky = _cloudy()
    theta, phi = hp.pix2ang(NSIDE, np.arange(len(sky)))
    turn = hp.ang2pix(NSIDE, theta, phi + np.pi / 2)
    assert len(np.unique(turn)) == len(sky)
    mask = galactic_mask(sky, 0.6, NSIDE)
    np.testing.assert_array_equal(galactic_mask(sky[turn], 0.6, NSIDE), mask[turn])


@pytest.mark.parametrize("nside", [NSIDE // 2, NSIDE, 2 * NSIDE])
def test_galactic_mask_of_a_plain_disc_is_a_band(nside):
    """At the resolution of the sky or another one: f_sky = 1 - sin b, to one ring on either side."""
    z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))[2]
    mask = galactic_mask(1 / np.hypot(z, 0.2), 0.6, nside)
    band = band_mask(nside, np.rad2deg(np.arcsin(0.4)))
    assert np.mean(mask != band) <= 2 / (3 * min(nside, NSIDE))


def test_galactic_mask_refuses():
    sky = _cloudy()
    for part in (0.0, 1.2, -0.1):
        with pytest.raises(ValueError, match=f"not {part}"):
            galactic_mask(sky, part, NSIDE)
    sky[7] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        galactic_mask(sky, 0.5, NSIDE)
