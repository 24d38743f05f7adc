"""The one call that trains a network.

The settings are plain values, and all that decides the result: ``train``, ``network``, ``patches``, ``rotation``,
``nside``, ``lmax``, and for every channel its spin, 0 or 2 (``spins_in``, ``spins_out``), and its sign in a mirror, +1
(T, E, kappa) or -1 (B) (``parity_in``, ``parity_out``). Any other key is only compared when a training goes on; a hash
of the data set is a good one.

``patches`` has ``layout``, ``patch`` and ``halo``: squares of the base faces with true neighbours around them, or the
whole sky as one mosaic.

``rotation`` has ``kind`` and ``pairs``, the orientations of the sphere; ``symmetries``, whether each patch is seen each
epoch under one of the eight symmetries of the square, drawn at random, with the signs of its channels; and ``average``,
how many of the eight a prediction averages (``predict.predict_sky``).

Skies and tables are lazy and picklable: ``skies[i]`` gives inputs (cin, npix) and target (cout, npix), float32, RING;
``tables[k]``, for a rotation by permutation, the pixel numbers (npix,) of ``rotation.pairs[k]``, with
``rotated = m[..., tables[k]]``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmbml.core import launch
from cmbml.train.checkpoint import File
from cmbml.train.data import Skies
from cmbml.train.images import check_symmetries
from cmbml.train.network import probe
from cmbml.train.settings import read_train
from cmbml.train.trainer import Trainer, summary_writer


def fit(
    settings: dict[str, Any],
    train_skies: Skies,
    valid_skies: Skies,
    tables: Sequence[np.ndarray] | None,
    scratch: Mapping[str, File],
    *,
    devices: int | str = 1,
    device: str = "auto",
    checkpoint_every: int = 1,
    log_dir: str | None = None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train, or continue a training that was interrupted.

    Parameters
    ----------
    settings, train_skies, valid_skies, tables
        As above.
    scratch
        The files ``last`` and ``best``, kept until the caller removes them.
    devices
        Number of processes, or ``auto`` for one on each GPU.
    device
        ``cpu``, ``cuda``, or ``auto`` for GPUs when there are any.
    checkpoint_every
        Epochs between two writings of ``last``.
    log_dir
        Folder of TensorBoard curves, if they are wanted.

    Returns
    -------
    model
        The network that was best on the validation skies, or that of the last epoch (``train.keep``), for
        ``predict.predict_sky``: ``settings``, ``state_dict``, ``epoch``, ``valid_loss``, and what its channels are
        divided by, ``input_rms``, ``target_rms``: by ``train.standardise`` the rms of the training skies, or 1
        (``none``), or for the inputs half of their 16-84 percentile range (``robust``), beside their ``input_median``.
    history
        One row an epoch: ``epoch``, ``train_loss``, ``valid_loss``, ``lr`` (of its last step).

    Raises
    ------
    UserError
        When a setting is wrong, differs from that of the training to be continued, or the loss is not finite.
    """
    read_train(settings["train"])
    check_symmetries(settings, settings["rotation"]["average"])
    inputs, target = valid_skies[0]
    probe(settings, (len(inputs), len(target)))
    if log_dir is not None:
        summary_writer()
    count = launch.count_devices(devices, device)
    args = (settings, train_skies, valid_skies, tables, scratch, device, checkpoint_every, log_dir)
    history = launch.launch(_train, args, devices=count, run_id="cmbml-train")
    return scratch["best"].read(), history


def _train(*args: Any) -> list[dict[str, float]]:
    """Train as one rank and return the history."""
    return Trainer(*args).run()
