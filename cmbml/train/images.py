"""The images that a network is shown: how a sky is laid out in them, and the symmetries of the square ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmbml.core.errors import UserError
from cmbml.sky.patches import mosaic_index, patch_index

LAYOUTS = ("squares", "mosaic")
# Determinants of the symmetries of the square, in the order of `squares`.
HANDS = (1, 1, -1, -1, 1, 1, -1, -1)


def image_shape(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the images that a sky is cut into, by their layout.

    Raises
    ------
    UserError
        When there is no such layout, or a mosaic shall have a halo, which it cannot.
    """
    patches = settings["patches"]
    layout = patches["layout"]
    halo = patches["halo"]
    if layout not in LAYOUTS:
        raise UserError(f"patches.layout={layout} must be one of {', '.join(LAYOUTS)}.")
    if layout == "squares":
        return patches["patch"] + 2 * halo, patches["patch"] + 2 * halo
    if halo:
        raise UserError(f"patches.layout=mosaic is the whole sky, nothing is around it: patches.halo={halo} must be 0.")
    return 4 * settings["nside"], 3 * settings["nside"]


def layout_index(settings: Mapping[str, Any]) -> np.ndarray:
    """Return the RING pixels of the images that a sky is cut into, int64 (images, height, width)."""
    image_shape(settings)
    patches = settings["patches"]
    if patches["layout"] == "mosaic":
        return mosaic_index(settings["nside"])[None]
    return patch_index(settings["nside"], patches["patch"], patches["halo"])


def squares(width: int) -> Tensor:
    """Return the eight symmetries of a square of pixels, as places of its pixels: ``image.flatten()[squares[g]]``.

    In order: the identity, the half turn, the reflections in the two diagonals, the two quarter turns, the reflections
    in the two axes. The diagonals of a base face lie along a meridian and across it, so that the symmetries of the
    HEALPix sphere bring its faces into one another by the first four, a group of their own.

    Returns
    -------
    int64 tensor (8, width^2)
    """
    image = torch.arange(width**2).view(width, width)
    half, quarter, back = (image.rot90(turns) for turns in (2, 1, 3))
    return torch.stack([image, half, image.T, half.T, quarter, back, image.flip(0), image.flip(1)]).flatten(1)


def signs(parities: Sequence[int], device: torch.device) -> Tensor:
    """Return the factors (8, channels) of the symmetries: a reflection turns the sign of what has the parity -1."""
    hand = torch.tensor(HANDS)[:, None]
    parity = torch.tensor(parities)
    return torch.where(hand < 0, parity, 1).to(device, torch.float32)


def transformed(pixel: Tensor, places: Tensor) -> Tensor:
    """Return images of pixel numbers (batch, width, width), each under a symmetry of its own, (batch, width^2)."""
    return pixel.flatten(1).gather(1, places).view_as(pixel)


def check_symmetries(settings: dict[str, Any], average: int) -> None:
    """Refuse symmetries that a spin or a mosaic forbids, and a number of them that there is not.

    Raises
    ------
    UserError
        Names the key.
    """
    if isinstance(average, bool) or average not in range(1, 9):
        raise UserError(f"rotation.average={average} must be a whole number from 1 to 8.")
    if not (settings["rotation"]["symmetries"] or average > 1):
        return
    if settings["patches"]["layout"] == "mosaic":
        raise UserError(
            "A mosaic of the sky has none of the symmetries of a square: use rotation.symmetries=false and "
            "rotation.average=1, or patches.layout=squares."
        )
    if any(settings["spins_in"] + settings["spins_out"]):
        raise UserError(
            "Q and U mix when a patch is turned or reflected: use rotation.symmetries=false and rotation.average=1, "
            "or scalar maps only."
        )


def crop(images: Tensor, halo: int) -> Tensor:
    """Return the last two axes without ``halo`` pixels at each border."""
    return images[..., halo : images.shape[-2] - halo, halo : images.shape[-1] - halo]
