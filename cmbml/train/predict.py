"""Predict a whole sky with a trained network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cmbml.core.errors import UserError
from cmbml.train import network
from cmbml.train.data import Pair, seen, table_of, turn_maps
from cmbml.train.images import check_symmetries, crop, layout_index, signs, squares, transformed


@torch.inference_mode()
def predict_sky(
    model: Mapping[str, Any],
    inputs: np.ndarray,
    *,
    pairs: Sequence[Pair] = ((0, 0),),
    tables: Sequence[np.ndarray] | None = None,
    average: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
) -> np.ndarray:
    """Return the prediction of a sky, averaged over orientations, in the orientation and the unit of the target.

    Parameters
    ----------
    model
        What ``trainer.fit`` returned.
    inputs : (cin, npix)
        RING, as in training.
    pairs
        Orientations (theta, phi) in degrees; the sky is turned, predicted and turned back for each. The seams between
        patches lie elsewhere in each, so that they fade in the mean. (0, 0) is the sky as it is.
    tables
        Of a rotation by permutation: ``tables[k]`` (npix,) of ``pairs[k]``; not read where the pair is (0, 0).
    average
        How many of the eight symmetries of the square, in the order of ``images.squares``, are averaged in each
        orientation, at the cost of as many passes; ``rotation.average`` of the model's settings if not given. 1 is the
        patch as it is; with 4 the prediction commutes with the symmetries of the HEALPix sphere (but for the halos of
        the eight corners of three faces), with 8 with all symmetries of the patches.
    batch_size
        Patches that the network sees at once.
    device
        ``cpu``, ``cuda``, or ``auto`` for a GPU when there is one.

    Returns
    -------
    (cout, npix) float32, RING

    Raises
    ------
    UserError
        When the sky does not have the nside of the training, or Q or U shall be reflected.
    """
    settings = model["settings"]
    average = settings["rotation"]["average"] if average is None else average
    check_symmetries(settings, average)
    if inputs.shape[-1] != 12 * settings["nside"] ** 2:
        raise UserError(f"The network was trained at nside={settings['nside']}, not on {inputs.shape[-1]} pixels.")
    network.probe(settings, (len(inputs), len(settings["spins_out"])))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda" if on_gpu else "cpu")
    net = network.load(model, place)
    kind = settings["rotation"]["kind"]
    unit = np.array(model["target_rms"], dtype=np.float32) / settings["train"]["scale"]
    units = [np.array(model[key])[:, None] for key in ("input_rms", "input_median") if key in model]
    mean = np.zeros((len(unit), inputs.shape[-1]))
    for k, pair in enumerate(pairs):
        turned = any(pair) and kind != "none"
        table = table_of(tables, k) if turned and kind == "permutation" else slice(None)
        maps = inputs[:, table]
        if turned and kind == "harmonic":
            maps = turn_maps(maps, pair, settings, "spins_in")
        found = _predict(net, seen(maps, *units), settings, average=average, batch_size=batch_size, place=place)
        if turned and kind == "harmonic":
            found = turn_maps(found, pair, settings, "spins_out", inverse=True)
        mean[:, table] += found / len(pairs)
    return (mean * unit[:, None]).astype(np.float32)


def _predict(
    net: nn.Module,
    maps: np.ndarray,
    settings: Mapping[str, Any],
    *,
    average: int,
    batch_size: int,
    place: torch.device,
) -> np.ndarray:
    """Return the network's output (cout, npix) for standardised maps (cin, npix), patch by patch."""
    halo = settings["patches"]["halo"]
    index = torch.as_tensor(layout_index(settings))
    variants = squares(index.shape[-1])[:average] if average > 1 else torch.arange(index[0].numel())[None]
    x = torch.as_tensor(np.ascontiguousarray(maps.T, dtype=np.float32))
    y = torch.zeros((len(x), len(settings["parity_out"])))
    factors = [signs(settings[key], place) for key in ("parity_in", "parity_out")]
    for places, sign_in, sign_out in zip(variants, *factors, strict=False):
        for pixel in index.split(batch_size):
            moved = transformed(pixel, places.expand(len(pixel), -1))
            given = x[moved].permute(0, 3, 1, 2).to(place) * sign_in[:, None, None]
            out = crop(net(given), halo).float() * sign_out[:, None, None]
            y[crop(moved, halo)] += out.cpu().permute(0, 2, 3, 1) / average  # every pixel lies in one patch
    return y.T.numpy()
