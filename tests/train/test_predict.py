"""Whole-sky predictions with networks whose output is known."""

import healpy as hp
import numpy as np
import pytest
import torch
from torch import nn

from cmbml.core.errors import UserError
from cmbml.sky.rotation import permutation
from cmbml.train.predict import predict_sky
from tests.train.toy import NSIDE, Skies, settings

PAIRS = [[60, -30], [0, 0], [120, 30]]
CHANNELS = {"in_channels": 2, "out_channels": 2}


class Blur(nn.Conv2d):
    """Mean of the 3 x 3 pixels around, the second channel doubled; zero outside of the image."""

    def __init__(self):
        super().__init__(2, 2, 3, padding=1, groups=2, bias=False)
        with torch.no_grad():
            self.weight[0], self.weight[1] = 1 / 9, 2 / 9


def model(target: str = "torch.nn.Identity", state: dict | None = None, **changes) -> dict:
    made = settings(network={"_target_": target}, spins_out=[0, 0], **changes)
    return {"settings": made, "state_dict": state or {}, "input_rms": [7.0, 0.1], "target_rms": [3.0, 5.0]}


def expected(inputs: np.ndarray) -> np.ndarray:
    """The identity network gives the standardised inputs, in the unit of the target, without the scale of 2."""
    return inputs * np.array([[3.0 / 7.0 / 2], [5.0 / 0.1 / 2]])


@pytest.mark.parametrize("halo", [0, 2])
def test_identity_network_gives_the_inputs_back_in_every_orientation(halo):
    inputs, _ = Skies(1)[0]
    tables = [permutation(NSIDE, *pair)[0] if any(pair) else None for pair in PAIRS]
    made = model(rotation__kind="permutation", patches={"patch": 8, "halo": halo})
    for which in ([0], [1], [0, 1, 2]):
        turns = {"pairs": [PAIRS[k] for k in which], "tables": [tables[k] for k in which]}
        out = predict_sky(made, inputs, batch_size=7, **turns)
        assert out.dtype == np.float32
        assert np.allclose(out, expected(inputs), rtol=1e-6, atol=1e-6)  # float32


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
    small, large = (predict_sky(model(**blur, patches={"patch": p, "halo": 1}), inputs) for p in (4, 16))
    bare = predict_sky(model(**blur, patches={"patch": 4, "halo": 0}), inputs)
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


def test_other_nside_is_refused():
    with pytest.raises(UserError, match="trained at nside=16"):
        predict_sky(model(), np.zeros((2, 12 * 8**2), dtype=np.float32))
