"""Patches gathered on the device against patches cut from maps that were rotated one by one."""

import healpy as hp
import numpy as np
import pytest
import torch

from cmbml.core.errors import UserError
from cmbml.sky.patches import to_patches
from cmbml.sky.rotation import permutation, rotate_maps
from cmbml.train.data import Patches, crop
from tests.train.toy import NSIDE, Skies, settings

PAIRS = [[60, -30], [0, 0], [120, 30]]
CPU = torch.device("cpu")


def tables():
    return [permutation(NSIDE, *pair)[0] if any(pair) else None for pair in PAIRS]


def compare(patches: Patches, turned: list, rms: tuple, scale: float, atol: float) -> None:
    """The patches, gathered in a random order, against ``turned`` maps (inputs, target), one pair a sky."""
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(1))
    for got, which, halo, factor in zip(patches.gather(order), (0, 1), (2, 0), (1, scale), strict=True):
        unit = np.array(rms[which])[:, None] / factor
        cut = np.stack([to_patches(maps[which] / unit, 8, halo=halo) for maps in turned])  # sky, channel, patch, ...
        expected = np.moveaxis(cut, 1, 2).reshape(len(patches), *got.shape[1:])[order]
        assert np.abs(got.numpy() - expected).max() < atol


def test_gather_is_cutting_the_rotated_map():
    changes = {"rotation__kind": "permutation", "rotation__pairs": PAIRS}
    skies = Skies(4)
    patches = Patches(skies, settings(**changes), tables=tables(), turning=True, device=CPU)
    rms = patches.rms()
    patches.standardise(*rms, 3.0)
    seen = set()
    for epoch in range(6):
        patches.turn(0, epoch)
        seen |= set(patches.orientation)
        places = [slice(None), *(permutation(NSIDE, *PAIRS[k])[0] for k in (0, 2))]
        turned = [tuple(m[:, places[o]] for m in sky) for sky, o in zip(skies, patches.orientation, strict=True)]
        compare(patches, turned, rms, 3.0, 2e-6)  # float32
    assert seen == {0, 1, 2}


def test_harmonic_turns_start_from_the_sky_as_it_is():
    lmax = 2 * NSIDE
    rng = np.random.default_rng(0)

    def smooth(spin: int) -> np.ndarray:
        alm = rng.normal(size=(3, hp.Alm.getsize(lmax), 2)) @ (1, 1j)
        alm[:, : lmax + 1] = alm[:, : lmax + 1].real
        alm[:, hp.Alm.getlm(lmax)[0] < 2] = 0
        return hp.alm2map(alm, NSIDE, pol=True)[1:] if spin else hp.alm2map(alm[0], NSIDE)[None]

    skies = [(np.concatenate((smooth(0), smooth(2))), smooth(0)) for _ in range(2)]
    changes = {"spins_in": [0, 2, 2], "rotation__kind": "harmonic", "rotation__pairs": PAIRS}
    patches = Patches(skies, settings(**changes), turning=True, device=CPU)
    rms = patches.rms()
    patches.standardise(*rms, 2.0)
    seen = set()
    for epoch in range(6):
        patches.turn(4, epoch)
        seen |= set(patches.orientation)
        turned = []
        for (x, y), o in zip(skies, patches.orientation, strict=True):
            pair = [(0, 0), PAIRS[0], PAIRS[2]][o]
            turned.append(
                (rotate_maps(x, *pair, spins=[0, 2, 2], lmax=lmax), rotate_maps(y, *pair, spins=[0], lmax=lmax))
            )
        compare(patches, turned, rms, 2.0, 1e-3)  # the analysis of a map errs by 1e-4 at this lmax
    assert seen == {0, 1, 2}


def test_every_sky_is_seen_in_every_orientation_in_an_order_of_its_own():
    changes = {"rotation__kind": "permutation", "rotation__pairs": PAIRS}
    few, many = (
        Patches(Skies(n, nside=8), settings(nside=8, **changes), tables=[range(768)] * 3, turning=True, device=CPU)
        for n in (2, 3)
    )
    draws = {}
    for seed, patches in ((7, few), (7, many), (8, few)):
        rows = []
        for epoch in range(600):
            patches.turn(seed, epoch)
            rows.append(tuple(patches.orientation))
        draws[seed, len(patches.skies)] = np.array(rows)
    assert np.array_equal(draws[7, 2], draws[7, 3][:, :2])
    for rows in draws.values():  # every orientation once in three epochs
        assert (np.sort(rows.reshape(200, 3, -1), axis=1) == np.arange(3)[:, None]).all()
    independent = np.concatenate((draws[7, 3], draws[8, 2]), axis=1)
    assert np.abs(np.corrcoef(independent.T) - np.eye(5)).max() < 5 / np.sqrt(600)


def test_no_rotation_ignores_pairs():
    patches = Patches(Skies(2), settings(rotation__pairs=PAIRS), turning=True, device=CPU)
    patches.turn(0, 5)
    assert patches.orientation == [0, 0]


def test_rms_is_that_of_all_skies():
    patches = Patches(Skies(3), settings(), device=CPU)
    for got, which in zip(patches.rms(), (0, 1), strict=True):
        maps = np.stack([sky[which] for sky in Skies(3)]).astype(float)
        assert got == pytest.approx(np.sqrt((maps**2).mean((0, 2))), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_channel_without_a_scale_is_named(value):
    x, y = Skies(1)[0]
    x[1] = value
    with pytest.raises(UserError, match="Channel 1 of the training skies' input has the mean square"):
        Patches([(x, y)], settings(), device=CPU).rms()


def test_crop():
    assert torch.equal(crop(torch.arange(25).view(5, 5), 1), torch.tensor([[6, 7, 8], [11, 12, 13], [16, 17, 18]]))
    assert crop(torch.zeros(3, 4), 0).shape == (3, 4)
