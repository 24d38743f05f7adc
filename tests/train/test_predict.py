"""Whole-sky predictions with networks whose output is known."""

import healpy as hp
import numpy as np
import pytest
import torch
from torch import nn

from cmbml.core.errors import UserError
from cmbml.sky.patches import from_patches, to_patches
from cmbml.sky.rotation import permutation
from cmbml.train.predict import predict_sky
from tests.train.test_data import SQUARE, under
from tests.train.toy import NSIDE, Skies, settings

PAIRS = [[60, -30], [0, 0], [120, 30]]
CHANNELS = {"in_channels": 2, "out_channels": 2}


class Blur(nn.Conv2d):
    """Mean of the 3 x 3 pixels around, the second channel doubled; zero outside of the image."""

    def __init__(self):
        super().__init__(2, 2, 3, padding=1, groups=2, bias=False)
        with torch.no_grad():
            self.weight[0], self.weight[1] = 1 / 9, 2 / 9


class Twisted(nn.Sequential):
    """A network that commutes with no symmetry; both its inputs and its outputs are an even and an odd one."""

    def __init__(self):
        super().__init__(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1))


def model(target: str = "torch.nn.Identity", state: dict | None = None, **changes) -> dict:
    made = settings(network={"_target_": target}, spins_out=[0, 0], parity_out=[1, -1], **changes)
    return {"settings": made, "state_dict": state or {}, "input_rms": [7.0, 0.1], "target_rms": [3.0, 5.0]}


def expected(inputs: np.ndarray) -> np.ndarray:
    """The identity network gives the standardised inputs, in the unit of the target, without the scale of 2."""
    return inputs * np.array([[3.0 / 7.0 / 2], [5.0 / 0.1 / 2]])


@pytest.mark.parametrize("halo", [0, 2])
def test_identity_network_gives_the_inputs_back_in_every_orientation(halo):
    inputs, _ = Skies(1)[0]
    tables = [permutation(NSIDE, *pair)[0] if any(pair) else None for pair in PAIRS]
    made = model(rotation__kind="permutation", patches={"layout": "squares", "patch": 8, "halo": halo})
    for which in ([0], [1], [0, 1, 2]):
        turns = {"pairs": [PAIRS[k] for k in which], "tables": [tables[k] for k in which]}
        out = predict_sky(made, inputs, batch_size=7, **turns)
        assert out.dtype == np.float32
        assert np.allclose(out, expected(inputs), rtol=1e-6, atol=1e-6)  # float32


def test_identity_network_gives_the_inputs_of_a_mosaic_back():
    inputs, _ = Skies(1)[0]
    made = model(patches={"layout": "mosaic", "patch": NSIDE, "halo": 0})
    assert np.allclose(predict_sky(made, inputs), expected(inputs), rtol=1e-6, atol=1e-6)  # float32


def test_harmonic_orientation_is_turned_back():
    lmax = 2 * NSIDE
    alm = hp.synalm(np.ones(lmax + 1), lmax=lmax)
    inputs = np.stack([hp.alm2map(alm, NSIDE)] * 2).astype(np.float32)
    out = predict_sky(model(rotation__kind="harmonic"), inputs, pairs=PAIRS[:1])
    error = out - expected(inputs)
    assert np.abs(error).max() < 2e-3 * np.abs(expected(inputs)).max()  # two analyses of maps


def test_rotation_none_ignores_angles():
    inputs, _ = Skies(1)[0]
    assert np.array_equal(predict_sky(model(), inputs, pairs=PAIRS[:1]), predict_sky(model(), inputs))


def test_halo_makes_the_prediction_independent_of_the_patches(monkeypatch):
    inputs, _ = Skies(1)[0]
    blur = {"target": "tests.train.test_predict.Blur", "state": Blur().state_dict()}
    small, large = (
        predict_sky(model(**blur, patches={"layout": "squares", "patch": p, "halo": 1}), inputs) for p in (4, 16)
    )
    bare = predict_sky(model(**blur, patches={"layout": "squares", "patch": 4, "halo": 0}), inputs)
    # Pixels at the eight corners where three faces meet have no unique neighbours.
    theta, phi = hp.pix2ang(NSIDE, np.arange(12 * NSIDE**2))
    corners = hp.ang2vec(np.arccos([2 / 3] * 4 + [-2 / 3] * 4), np.tile(np.arange(4) * np.pi / 2, 2))
    near = (hp.ang2vec(theta, phi) @ corners.T).max(1) > np.cos(2 * hp.nside2resol(NSIDE))
    assert np.allclose(small[:, ~near], large[:, ~near], rtol=1e-5, atol=1e-5)  # float32
    assert np.abs(small - bare).max() > 0.1
    # and it is the mean over the pixel and its eight neighbours, wherever there are eight
    around = hp.get_all_neighbours(NSIDE, np.flatnonzero(~near))
    m = inputs.astype(float)
    mean = (m[:, ~near] + m[:, around].sum(1)) / 9
    assert np.allclose(small[:, ~near], expected(mean) * [[1], [2]], rtol=1e-4, atol=1e-4)


INVERSE = [0, 1, 2, 3, 5, 4, 6, 7]  # the quarter turns undo each other


def twisted(**changes) -> tuple[dict, Twisted]:
    torch.manual_seed(0)
    net = Twisted()
    return model("tests.train.test_predict.Twisted", net.state_dict(), **changes), net


def odd(g: int) -> np.ndarray:
    """Signs of an even and an odd map under a symmetry."""
    return under(g, np.ones((2, 1, 1)), np.ones((1, 1, 1)))[0]


@pytest.mark.parametrize("average", [1, 2, 5, 8])
def test_average_is_the_mean_of_the_predictions_of_turned_and_mirrored_patches(average):
    inputs, _ = Skies(1)[0]
    made, net = twisted(rotation__kind="permutation")
    table = permutation(NSIDE, *PAIRS[0])[0]
    turned = inputs[:, table] / np.array([[7.0], [0.1]])
    patches = np.moveaxis(to_patches(turned.astype(np.float32), 8, halo=2), 0, 1)
    mean = 0
    for g in range(average):
        seen = np.ascontiguousarray(SQUARE[g](patches) * odd(g), dtype=np.float32)
        out = net(torch.from_numpy(seen)).detach().numpy()
        mean = mean + SQUARE[INVERSE[g]](out) * odd(g) / average
    expected = np.empty_like(inputs)
    expected[:, table] = from_patches(np.moveaxis(mean, 1, 0), halo=2) * np.array([[1.5], [2.5]])
    turns = {"pairs": PAIRS[:1], "tables": [table], "batch_size": 7}
    out = predict_sky(made, inputs, average=average, **turns)
    assert np.allclose(out, expected, rtol=0, atol=1e-5)  # float32
    made["settings"]["rotation"]["average"] = average
    assert np.array_equal(predict_sky(made, inputs, **turns), out)


@pytest.mark.parametrize(("average", "commuting"), [(1, {0}), (2, {0, 1}), (4, {0, 1, 2, 3}), (8, set(range(8)))])
def test_prediction_commutes_with_the_symmetries_of_the_patches(average, commuting):
    made, _ = twisted(patches={"layout": "squares", "patch": 8, "halo": 0})
    inputs, _ = Skies(1)[0]
    out = predict_sky(made, inputs, average=average)

    def moved(maps: np.ndarray, g: int) -> np.ndarray:
        return from_patches(np.moveaxis(SQUARE[g](np.moveaxis(to_patches(maps, 8), 0, 1)) * odd(g), 1, 0))

    found = [np.abs(predict_sky(made, moved(inputs, g), average=average) - moved(out, g)).max() for g in range(8)]
    assert {g for g, error in enumerate(found) if error < 1e-5} == commuting  # float32
    assert min([0.1, *(error for g, error in enumerate(found) if g not in commuting)]) == 0.1


@pytest.mark.parametrize("mirror", [(1, -1, 1), (1, 1, -1), (1, -1, -1), (-1, 1, 1)])
def test_mean_over_four_commutes_with_the_symmetries_of_the_sphere(mirror):
    made, _ = twisted(patches={"layout": "squares", "patch": 8, "halo": 0})
    inputs, _ = Skies(1)[0]
    pixel = hp.vec2pix(NSIDE, *(np.array(hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))) * np.array(mirror)[:, None]))
    sign = np.array([[1], [np.prod(mirror)]])

    def error(average: int) -> float:
        moved = predict_sky(made, inputs[:, pixel] * sign, average=average)
        return np.abs(moved - predict_sky(made, inputs, average=average)[:, pixel] * sign).max()

    assert error(4) < 1e-5  # float32
    assert error(8) < 1e-5
    assert error(1) > 0.1


@pytest.mark.parametrize(
    ("changes", "average", "said"),
    [
        ({"spins_in": [2, 2]}, 2, "Q and U mix"),
        ({"spins_in": [2, 2], "rotation__symmetries": True}, None, r"rotation\.symmetries=false"),
        ({}, 9, r"rotation\.average=9 must be a whole number from 1 to 8"),
        ({"rotation__average": 0}, None, r"rotation\.average=0"),
        ({}, True, r"rotation\.average=True"),
        ({"patches": {"layout": "mosaic", "patch": 16, "halo": 0}}, 2, "A mosaic .* rotation.average=1"),
        ({"patches": {"layout": "mosaic", "patch": 16, "halo": 2}}, 1, r"patches\.halo=2 must be 0"),
        ({"patches": {"layout": "strips", "patch": 16, "halo": 0}}, 1, "patches.layout=strips must be one of squares"),
    ],
)
def test_symmetries_and_layouts_that_there_are_not_are_refused(changes, average, said):
    with pytest.raises(UserError, match=said):
        predict_sky(model(**changes), Skies(1)[0][0], average=average)


def test_other_nside_is_refused():
    with pytest.raises(UserError, match="trained at nside=16"):
        predict_sky(model(), np.zeros((2, 12 * 8**2), dtype=np.float32))
