"""Patches of skies, gathered on the device on which the network runs.

The maps lie there as they are; rotations, patches and their symmetries are index gathers, so nothing is stored twice
and no loader runs.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmbml.core.errors import UserError
from cmbml.core.seeds import rng_for
from cmbml.sky.rotation import rotate_maps
from cmbml.train.images import crop, layout_index, signs, squares, transformed

Pair = Sequence[float]
Skies = Sequence[tuple[np.ndarray, np.ndarray]]
SPINS = ("spins_in", "spins_out")
KNEE = 10.0  # of the robust inputs: linear well below it, logarithmic above


def orientations(rotation: dict[str, Any]) -> list[Pair]:
    """Return the orientations of training: the sky as it is, then the other pairs (theta, phi), in degrees."""
    pairs = [] if rotation["kind"] == "none" else rotation["pairs"]
    return [(0, 0), *(pair for pair in pairs if any(pair))]


def seen(maps: Any, unit: Any, median: Any = None) -> Any:
    r"""Return maps as a network sees them: x / unit, or with a median m softly limited.

    :math:`k \operatorname{asinh}((x - m) / (k\, unit))` with k = 10 is (x - m) / unit for all but the brightest pixels,
    where it grows like a logarithm.
    """
    if median is None:
        return maps / unit
    asinh = torch.asinh if isinstance(maps, Tensor) else np.arcsinh
    return KNEE * asinh((maps - median) / (KNEE * unit))


class Patches:
    """The patches of some skies, numbered ``sky * patches a sky + patch``.

    Memory: 4 bytes a pixel, channel and sky, and 4 bytes a pixel and rotation table (nside 2048: 0.2 GB each).

    Parameters
    ----------
    skies
        ``skies[i]`` gives inputs (cin, npix) and target (cout, npix), RING; read once, and again at each harmonic turn.
    settings
        ``nside``, ``lmax``, ``spins_in``, ``spins_out``, ``parity_in``, ``parity_out``, ``patches`` and ``rotation`` of
        the training.
    tables
        Of a rotation by permutation: one array of pixel numbers (npix,) for each of ``rotation.pairs``.
    turning
        Whether the skies are turned, and their patches seen under the symmetries of the square; those of validation
        are not.
    device
        Where maps and tables lie: the GPU when they fit, else the memory of the machine.
    """

    def __init__(
        self,
        skies: Skies,
        settings: dict[str, Any],
        *,
        tables: Sequence[np.ndarray] | None = None,
        turning: bool = False,
        device: torch.device,
    ) -> None:
        self.skies = skies
        self.settings = settings
        self.halo = settings["patches"]["halo"]
        index = layout_index(settings)
        self.index = torch.as_tensor(index.astype(np.int32), device=device)
        self.pairs = orientations(settings["rotation"]) if turning else [(0, 0)]
        self.orientation = [0] * len(skies)
        self.kind = settings["rotation"]["kind"]
        self.tables = self._read_tables(tables, device) if self.kind == "permutation" and turning else None
        self.symmetry = torch.zeros(len(skies) * len(index), dtype=torch.int64, device=device)
        self.squares: Tensor | None = None
        if turning and settings["rotation"]["symmetries"]:
            self.squares = squares(index.shape[-1]).to(device)
        self.signs = [signs(settings[key], device) for key in ("parity_in", "parity_out")]
        first = skies[0]
        self.x, self.y = (torch.empty((len(skies), m.shape[-1], len(m)), device=device) for m in first)
        self.units: tuple[tuple[Tensor, ...], ...] = ((torch.ones(len(first[0])),), (torch.ones(len(first[1])),))
        for sky in range(len(skies)):
            self._load(sky)

    def __len__(self) -> int:
        return len(self.skies) * len(self.index)

    def rms(self) -> tuple[list[float], list[float]]:
        """Return the root mean square of every channel, of inputs and target, over all skies and pixels.

        Raises
        ------
        UserError
            When a channel is zero everywhere, or not finite somewhere.
        """
        found = []
        for name, maps in (("input", self.x), ("target", self.y)):
            power = torch.stack([sky.double().square().mean(0) for sky in maps]).mean(0)
            for channel, value in enumerate(power.tolist()):
                if not 0 < value < math.inf:
                    raise UserError(f"Channel {channel} of the training skies' {name} has the mean square {value}.")
            found.append(power.sqrt().tolist())
        return found[0], found[1]

    def robust(self) -> tuple[list[float], list[float]]:
        """Return of every input channel half the distance of its 16th and 84th percentiles, and its median.

        Means over the skies of what each sky has; a few bright pixels do not change them.

        Raises
        ------
        UserError
            When a channel has one value in most pixels.
        """
        ranks = [max(1, round(part * self.x.shape[1])) for part in (0.16, 0.5, 0.84)]
        found = [torch.stack([sky.kthvalue(rank, dim=0).values for rank in ranks]).double() for sky in self.x]
        low, median, high = torch.stack(found).mean(0)
        for channel, width in enumerate((high - low).tolist()):
            if not 0 < width < math.inf:
                raise UserError(
                    f"Channel {channel} of the training skies' input has one value in most pixels; use "
                    "train.standardise=rms, or leave it out."
                )
        return ((high - low) / 2).tolist(), median.tolist()

    def standardise(
        self,
        input_rms: Sequence[float],
        target_rms: Sequence[float],
        scale: float,
        input_median: Sequence[float] | None = None,
    ) -> None:
        """Divide every channel by its unit, with a median softly (see ``seen``); multiply the target by ``scale``."""
        inputs = (torch.tensor(input_rms), *([] if input_median is None else [torch.tensor(input_median)]))
        self.units = inputs, (torch.tensor(target_rms) / scale,)
        for store, units in zip((self.x, self.y), self.units, strict=True):
            for sky in store:
                sky.copy_(seen(sky, *(unit.to(sky) for unit in units)))

    def turn(self, seed: int, epoch: int) -> None:
        """Choose the orientation of every sky, and the symmetry of every patch, for this epoch.

        In as many epochs as there are orientations a sky is seen in each of them once, in an order of its own. The
        symmetries are drawn anew each time.
        """
        if self.squares is not None:
            drawn = rng_for("train/symmetry", seed, epoch).integers(8, size=len(self))
            self.symmetry = torch.from_numpy(drawn).to(self.symmetry.device)
        cycle, place = divmod(epoch, len(self.pairs))
        for sky, before in enumerate(self.orientation):
            order = rng_for("train/orientation", seed, cycle, sky).permutation(len(self.pairs))
            now = int(order[place])
            self.orientation[sky] = now
            if self.kind == "harmonic" and now != before:
                self._load(sky)

    def gather(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patches of these numbers.

        Parameters
        ----------
        numbers : int64 tensor (batch,)

        Returns
        -------
        x : (batch, cin, patch + 2 halo, patch + 2 halo)
            Standardised inputs, in channels-last order.
        y : (batch, cout, patch, patch)
            Standardised targets times ``scale``, without the halo.
        """
        numbers = numbers.to(self.x.device)
        sky = (numbers // len(self.index))[:, None, None]
        pixel = self.index[numbers % len(self.index)].long()
        if self.squares is not None:
            pixel = transformed(pixel, self.squares[self.symmetry[numbers]])
        if self.tables is not None:
            pixel = self.tables[torch.tensor(self.orientation, device=sky.device)[sky], pixel].long()
        x = self.x[sky, pixel]
        y = self.y[sky, crop(pixel, self.halo)]
        if self.squares is not None:
            x, y = (m * sign[self.symmetry[numbers], None, None] for m, sign in zip((x, y), self.signs, strict=True))
        return x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)

    def _load(self, sky: int) -> None:
        """Put the standardised maps of one sky in place, turned when the rotation is harmonic."""
        maps: Sequence[np.ndarray] = self.skies[sky]
        pair = self.pairs[self.orientation[sky]]
        if self.kind == "harmonic" and any(pair):
            maps = [turn_maps(m, pair, self.settings, key) for m, key in zip(maps, SPINS, strict=True)]
        for store, values, units in zip((self.x, self.y), maps, self.units, strict=True):
            store[sky] = seen(torch.as_tensor(np.ascontiguousarray(values.T, dtype=np.float32)), *units)

    def _read_tables(self, tables: Sequence[np.ndarray] | None, device: torch.device) -> Tensor:
        """Stack the identity and the tables of the pairs that turn: (orientations, npix), int32."""
        npix = 12 * self.settings["nside"] ** 2
        turning = [k for k, pair in enumerate(self.settings["rotation"]["pairs"]) if any(pair)]
        stack = torch.empty((len(self.pairs), npix), dtype=torch.int32, device=device)
        stack[0] = torch.arange(npix)
        for row, k in enumerate(turning, start=1):
            stack[row] = torch.as_tensor(np.array(table_of(tables, k), dtype=np.int32))
        return stack


def table_of(tables: Sequence[np.ndarray] | None, k: int) -> np.ndarray:
    """Return the pixel numbers (npix,) of an orientation; a rotation by permutation has them."""
    if tables is None:
        raise ValueError("A rotation by permutation needs its tables.")
    return tables[k]


def turn_maps(
    maps: np.ndarray, pair: Pair, settings: dict[str, Any], spins: str, *, inverse: bool = False
) -> np.ndarray:
    """Rotate the maps (n, npix) through their alms; ``spins`` says which key holds their spins."""
    spin = settings[spins]
    lmax = settings["lmax"]
    threads = torch.get_num_threads()
    return rotate_maps(maps, *pair, spins=spin, lmax=lmax, inverse=inverse, nthreads=threads)


def place_of_maps(device: torch.device, settings: dict[str, Any], *skies: Skies) -> torch.device:
    """Return where the maps lie: on the GPU when they take less than half of what is free there, else on the host."""
    if device.type == "cpu":
        return device
    npix = 12 * settings["nside"] ** 2
    maps = sum(len(m) for m in skies[0][0]) * sum(map(len, skies))
    tables = len(orientations(settings["rotation"])) if settings["rotation"]["kind"] == "permutation" else 0
    fits = 4 * npix * (maps + tables) < torch.cuda.mem_get_info(device)[0] / 2
    return device if fits else torch.device("cpu")
