"""Patches gathered on the device against patches cut from maps that were rotated one by one."""

import healpy as hp
import numpy as np
import pytest
import torch

from cmbml.core.errors import UserError
from cmbml.sky.patches import mosaic_index, to_patches
from cmbml.sky.rotation import permutation, rotate_maps
from cmbml.train.data import Patches
from cmbml.train.images import HANDS, crop, squares
from tests.train.toy import NSIDE, Skies, settings

PAIRS = [[60, -30], [0, 0], [120, 30]]
CPU = torch.device("cpu")


SQUARE = [  # the symmetries of the square, by numpy, on the last two axes
    lambda m: m,
    lambda m: np.rot90(m, 2, (-2, -1)),
    lambda m: m.swapaxes(-2, -1),
    lambda m: m[..., ::-1, ::-1].swapaxes(-2, -1),
    lambda m: np.rot90(m, 1, (-2, -1)),
    lambda m: np.rot90(m, 3, (-2, -1)),
    lambda m: m[..., ::-1, :],
    lambda m: m[..., ::-1],
]


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


def test_symmetries_of_the_square():
    image = np.arange(25).reshape(5, 5)
    for g, places in enumerate(squares(5).numpy()):
        assert np.array_equal(image.flatten()[places].reshape(5, 5), SQUARE[g](image))
        # The hand of the map: the sense in which it leads from one edge at a corner to the other.
        (x0, y0), (x1, y1), (x2, y2) = (divmod(place, 5) for place in places[[0, 1, 5]])
        assert HANDS[g] == np.sign((x2 - x0) * (y1 - y0) - (x1 - x0) * (y2 - y0))
    found = {tuple(places) for places in squares(5).tolist()}
    assert len(found) == 8
    first = {tuple(places) for places in squares(5)[:4].tolist()}
    for group in (found, first):  # closed, each its own group
        assert {tuple(np.array(a)[list(b)]) for a in group for b in group} == group


def symmetric(n: int, kind: str = "none", **changes) -> Patches:
    """Patches of an even input, an odd input, and an odd target: their product."""
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(n, 2, 12 * NSIDE**2)).astype(np.float32)
    skies = [(x, x[:1] * x[1:]) for x in inputs]
    changes |= {"parity_in": [1, -1], "parity_out": [-1], "rotation__kind": kind, "rotation__pairs": PAIRS}
    job = settings(**{"rotation__symmetries": True} | changes)
    return Patches(skies, job, tables=tables(), turning=True, device=CPU)


def under(g: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches under a symmetry: what is odd changes its sign in a mirror."""
    sign = -1 if g in (2, 3, 6, 7) else 1
    return SQUARE[g](x) * np.reshape([1, sign], (2, 1, 1)), SQUARE[g](y) * sign


@pytest.mark.parametrize("kind", ["none", "permutation"])
def test_patches_are_seen_under_all_symmetries(kind):
    plain, patches = symmetric(1, kind, rotation__symmetries=False), symmetric(1, kind)
    numbers = torch.arange(48)
    seen = np.zeros((8, 48), dtype=int)
    for epoch in range(100):
        plain.turn(5, epoch)
        patches.turn(5, epoch)
        (x0, y0), (x, y) = ((m.numpy() for m in some.gather(numbers)) for some in (plain, patches))
        variants = [under(g, x0, y0) for g in range(8)]
        match = np.array([(u == x).all((1, 2, 3)) & (v == y).all((1, 2, 3)) for u, v in variants])
        assert (match.sum(0) == 1).all()
        assert np.array_equal(crop(torch.tensor(x[:, :1] * x[:, 1:]), 2), y)  # the target is odd, as it should be
        seen += match
    assert (seen > 0).all()
    assert np.abs(seen.sum(1) - 600).max() < 5 * np.sqrt(4800 * 7 / 64)


def test_symmetry_of_a_patch_depends_on_seed_and_epoch_alone():
    patches, again = symmetric(2), symmetric(2)
    patches.turn(1, 0)
    again.turn(1, 7)
    again.turn(1, 0)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    together = patches.gather(order)
    assert together[0].is_contiguous(memory_format=torch.channels_last)
    pieces = [again.gather(part) for part in order.split(7)]
    for whole, parts in zip(together, zip(*pieces, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))
    for seed, epoch in ((1, 1), (2, 0)):
        again.turn(seed, epoch)
        same = (again.gather(order)[0] == together[0]).all((1, 2, 3)).sum()
        assert same < 12 + 5 * np.sqrt(96 * 7 / 64)  # one in eight, by chance


def test_validation_is_seen_as_it_is():
    job = settings(rotation__symmetries=True)
    plain, valid = Patches(Skies(1), settings(), device=CPU), Patches(Skies(1), job, device=CPU)
    valid.turn(0, 3)
    assert torch.equal(valid.gather(torch.arange(48))[0], plain.gather(torch.arange(48))[0])


def test_rms_is_that_of_all_skies():
    patches = Patches(Skies(3), settings(), device=CPU)
    for got, which in zip(patches.rms(), (0, 1), strict=True):
        maps = np.stack([sky[which] for sky in Skies(3)]).astype(float)
        assert got == pytest.approx(np.sqrt((maps**2).mean((0, 2))), rel=1e-6)


def test_robust_numbers_are_the_percentiles_of_the_skies_whatever_a_few_pixels_are():
    skies = list(Skies(3))
    half, median = Patches(skies, settings(), device=CPU).robust()
    cuts = np.mean([np.percentile(x, [16, 50, 84], axis=1) for x, _ in skies], axis=0)
    assert median == pytest.approx(cuts[1], abs=0.003 * cuts[2, 0])  # one of 3072 ranks
    assert half == pytest.approx((cuts[2] - cuts[0]) / 2, rel=0.005)
    for x, _ in skies:
        x[:, :100] = 1e7
    spoilt, _ = Patches(skies, settings(), device=CPU).robust()
    assert spoilt == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("kind", ["none", "harmonic"])
def test_robust_inputs_are_linear_where_it_is_dark_and_logarithmic_where_it_is_bright(kind):
    skies = list(Skies(2))
    for x, _ in skies:
        x[0, :40] = 1e6
    patches = Patches(skies, settings(rotation__kind=kind, rotation__pairs=PAIRS), turning=True, device=CPU)
    half, median = patches.robust()
    patches.standardise(half, [3.0], 2.0, median)
    seen = 0
    for epoch in range(3):
        patches.turn(1, epoch)
        seen += sum(patches.orientation)
        turned = []
        for (x, y), o in zip(skies, patches.orientation, strict=True):
            pair, keys = [(0, 0), PAIRS[0], PAIRS[2]][o], {"lmax": 2 * NSIDE}
            if kind == "harmonic" and o:
                x, y = rotate_maps(x, *pair, spins=[0, 0], **keys), rotate_maps(y, *pair, spins=[0], **keys)
            z = (x - np.array(median)[:, None]) / np.array(half)[:, None]
            turned.append((10 * np.log(z / 10 + np.sqrt(1 + (z / 10) ** 2)), y))  # 10 asinh(z / 10)
        compare(patches, turned, ([1.0, 1.0], [3.0]), 2.0, 2e-3)  # float32, beside outliers of 1e6
    assert (seen > 0) == (kind == "harmonic")
    x = patches.gather(torch.arange(len(patches)))[0]
    assert x.abs().max() < 10 * np.log(2 * 2e6 / half[0])


def test_constant_channel_has_no_percentiles():
    x, y = Skies(1)[0]
    x[1, 100:] = 5.0
    with pytest.raises(UserError, match="Channel 1 of the training skies' input has one value"):
        Patches([(x, y)], settings(), device=CPU).robust()


MOSAIC = {"layout": "mosaic", "patch": NSIDE, "halo": 0}


def test_mosaic_is_one_image_a_sky():
    patches = Patches(Skies(3), settings(patches=MOSAIC), turning=True, device=CPU)
    assert len(patches) == 3
    patches.turn(0, 1)
    x, y = patches.gather(torch.tensor([2, 0]))
    for k, sky in enumerate((2, 0)):
        for got, maps in zip((x[k], y[k]), Skies(3)[sky], strict=True):
            assert np.array_equal(got.numpy(), maps[:, mosaic_index(NSIDE)])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_channel_without_a_scale_is_named(value):
    x, y = Skies(1)[0]
    x[1] = value
    with pytest.raises(UserError, match="Channel 1 of the training skies' input has the mean square"):
        Patches([(x, y)], settings(), device=CPU).rms()


def test_crop():
    assert torch.equal(crop(torch.arange(25).view(5, 5), 1), torch.tensor([[6, 7, 8], [11, 12, 13], [16, 17, 18]]))
    assert crop(torch.zeros(3, 4), 0).shape == (3, 4)
