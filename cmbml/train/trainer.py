"""Train a network on patches of skies: any network, any field, one process or many.

An epoch is one pass over all patches of all training skies, each sky in an orientation and each patch under a symmetry
that is drawn for the epoch.
The batch is that of all processes together; sums over it are exact sums over the ranks, so that the number of devices
changes the speed and not the result. On CPUs a training that is interrupted and continued is bitwise equal to an
undisturbed one, for the same number of threads.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from cmbml.core import launch
from cmbml.core.errors import UserError
from cmbml.core.seeds import rng_for
from cmbml.train import checkpoint, sync
from cmbml.train.data import Patches, Skies, place_of_maps
from cmbml.train.foreign import check_model
from cmbml.train.images import crop
from cmbml.train.losses import LOSSES
from cmbml.train.network import build, laid_out
from cmbml.train.schedules import learning_rate_factor
from cmbml.train.settings import read_train

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """The training of one network, as one rank sees it; the arguments are those of ``fit.fit``."""

    def __init__(
        self,
        settings: dict[str, Any],
        train_skies: Skies,
        valid_skies: Skies,
        tables: Sequence[np.ndarray] | None,
        scratch: Mapping[str, checkpoint.File],
        device: str = "auto",
        checkpoint_every: int = 1,
        log_dir: str | None = None,
    ) -> None:
        self.settings = settings
        self.scratch = scratch
        self.checkpoint_every = checkpoint_every
        self.log_dir = log_dir
        self.cfg = read_train(settings["train"])
        self.rank, self.size, local_rank = launch.group()
        self.device = torch.device("cpu")
        if device != "cpu" and torch.cuda.is_available():
            self.device = torch.device("cuda", local_rank)
        self._read_skies(train_skies, valid_skies, tables)
        self._make_network()
        self.loss = LOSSES[self.cfg.loss]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **vars(self.cfg.optimizer))
        self.steps = self.cfg.epochs * math.ceil(len(self.train) / self.cfg.batch_size)
        factor = learning_rate_factor(self.cfg.schedule, self.steps)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        scaling = self.cfg.precision == "fp16" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaling)
        self.epoch = 0
        self.step = 0
        self.best = math.inf
        self.lr = 0.0
        self.history: list[dict[str, float]] = []

    def _read_skies(self, train_skies: Skies, valid_skies: Skies, tables: Sequence[np.ndarray] | None) -> None:
        """Put the standardised maps where the patches are gathered, and tell this training from others."""
        place = place_of_maps(self.device, self.settings, train_skies, valid_skies)
        self.train = Patches(train_skies, self.settings, tables=tables, turning=True, device=place)
        self.valid = Patches(valid_skies, self.settings, device=place)
        rms = dict(zip(("input_rms", "target_rms"), self.train.rms(), strict=True))
        self.units = dict(rms)
        if self.cfg.standardise == "none":
            self.units = {key: [1.0] * len(values) for key, values in rms.items()}
        elif self.cfg.standardise == "robust":
            self.units["input_rms"], self.units["input_median"] = self.train.robust()
        for patches in (self.train, self.valid):
            patches.standardise(scale=self.cfg.scale, **self.units)
        skies = {"train": len(train_skies), "valid": len(valid_skies), **rms}
        self.fingerprint = checkpoint.fingerprint(self.settings, skies)

    def _make_network(self) -> None:
        """Make ``model``, which holds the weights, and ``net``, which is the model as it is trained."""
        torch.manual_seed(self.cfg.seed)
        self.model = build(self.settings["network"]).to(self.device)
        if self.cfg.channels_last:
            self.model = laid_out(self.model, torch.channels_last)
        if self.size > 1:
            self.model = sync.synchronise(self.model, self.device)
        self.net = self.model
        if self.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.net = DistributedDataParallel(self.model, device_ids=ids)
        if self.cfg.compile:
            for module in self.model.modules():
                if getattr(module, "not_compiled", False):
                    module.forward = torch.compiler.disable(module.forward)
            self.net = cast(nn.Module, torch.compile(self.net))  # what it makes of a network is one

    def run(self) -> list[dict[str, float]]:
        """Train to the last epoch, from wherever an earlier run was interrupted, and return the history."""
        self.resume()
        writer = summary_writer()(self.log_dir, purge_step=self.epoch) if self.log_dir and self.rank == 0 else None
        hidden = True if self.rank else None  # None: hidden unless the output is a terminal
        with tqdm(total=self.steps, initial=self.step, desc="train", unit="batch", disable=hidden) as bar:
            while self.epoch < self.cfg.epochs:
                start = time.perf_counter()
                train_loss = self.train_epoch(bar)
                speed = len(self.train) / (time.perf_counter() - start)
                self.finish_epoch(train_loss, self.validate(), speed, writer)
        if writer:
            writer.close()
        sync.total(torch.zeros(1, device=self.device))  # all wait until rank 0 has written
        return self.history

    def train_epoch(self, bar: tqdm) -> float:
        """Pass once over the training patches and return the mean loss of a pixel."""
        self.net.train()
        self.train.turn(self.cfg.seed, self.epoch)
        order = rng_for("train/order", self.cfg.seed, self.epoch).permutation(len(self.train))
        total = 0.0
        pixels = 0
        for batch in torch.from_numpy(order).split(self.cfg.batch_size):
            loss, n = self.train_step(batch)
            total = total + loss * n
            pixels += n
            bar.update()
        return total / pixels

    def train_step(self, batch: Tensor) -> tuple[float, int]:
        """Update the network by a batch, as often as ``repeats`` says, at one learning rate.

        Returns the mean loss of a pixel before the first update, over all ranks, and the number of pixels.
        """
        loss, n = self.update(batch)
        for _ in range(self.cfg.repeats - 1):
            self.update(batch)
        self.lr = float(self.scheduler.get_last_lr()[0])
        self.scheduler.step()
        self.step += 1
        return loss, n

    def update(self, batch: Tensor) -> tuple[float, int]:
        """Update the network once; return the mean loss of a pixel, over all ranks, and the number of pixels."""
        self.optimizer.zero_grad(set_to_none=True)
        share, n = self.loss_of_share(self.net, self.train, batch)
        loss = float(sync.total(share.detach())) / n
        if not math.isfinite(loss):
            raise UserError(self.story_of(loss, batch))
        # DDP takes the mean of the ranks' gradients; the gradient of the mean loss of the whole batch is their sum.
        self.scaler.scale(share * (self.size / n)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, n

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss of a pixel of the validation skies."""
        self.net.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        pixels = 0
        for batch in torch.arange(len(self.valid)).split(self.cfg.batch_size):
            share, n = self.loss_of_share(self.model, self.valid, batch)
            total = total + share
            pixels += n
        return float(sync.total(total)) / pixels

    def loss_of_share(self, net: nn.Module, patches: Patches, batch: Tensor) -> tuple[Tensor, int]:
        """Return the summed loss of this rank's share of a batch, and the number of pixels of the whole batch."""
        x, y = (maps.to(self.device) for maps in patches.gather(batch[self.rank :: self.size]))
        if not self.cfg.channels_last:
            x = x.contiguous()
        with torch.autocast(self.device.type, DTYPES[self.cfg.precision], enabled=self.cfg.precision != "fp32"):
            prediction = net(x)
        loss = self.loss(crop(prediction, patches.halo).float() - y).sum(dtype=torch.float64)
        return loss, len(batch) * math.prod(y.shape[1:])

    def story_of(self, loss: float, batch: Tensor) -> str:
        """Say where the loss of a batch ceased to be finite."""
        each = len(self.train) // len(self.train.skies)
        names = ", ".join(f"{number // each}/{number % each}" for number in batch.tolist()[:16])
        return (
            f"The loss became {loss} in epoch {self.epoch + 1}, step {self.step + 1}, on the training patches "
            f"{names} (sky/patch). The network was not updated and the last checkpoint stands; look at these "
            "patches, lower train.optimizer.lr, or set train.precision=fp32."
        )

    def finish_epoch(self, train_loss: float, valid_loss: float, speed: float, writer: Any) -> None:
        """Say, record and save what an epoch brought."""
        if not math.isfinite(valid_loss):
            raise UserError(
                f"The validation loss became {valid_loss} in epoch {self.epoch + 1}; lower train.optimizer.lr."
            )
        self.epoch += 1
        row = {"epoch": self.epoch, "train_loss": train_loss, "valid_loss": valid_loss, "lr": self.lr}
        self.history.append(row)
        better = valid_loss < self.best or self.cfg.keep == "last"
        self.best = valid_loss if better else self.best
        if self.rank:
            return
        logger.info(
            "epoch %d/%d: train loss %.5g, validation loss %.5g, learning rate %.3g, %.1f patches/s",
            *(self.epoch, self.cfg.epochs, train_loss, valid_loss, self.lr, speed),
        )
        for key in ("train_loss", "valid_loss", "lr") if writer else ():
            writer.add_scalar(key, row[key], self.epoch)
        if better:  # before `last`, which says that it is there
            self.scratch["best"].write(self.trained())
        if self.epoch % self.checkpoint_every == 0 or self.epoch == self.cfg.epochs:
            self.scratch["last"].write(self.state())

    def trained(self) -> dict[str, Any]:
        """Return all that a prediction needs."""
        return {
            "settings": self.settings,
            "state_dict": {key: value.cpu() for key, value in self.model.state_dict().items()},
            **self.units,
            "epoch": self.epoch,
            "valid_loss": self.best,
        }

    def state(self) -> dict[str, Any]:
        """Return all that the rest of the training needs."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "best": self.best,
            "fingerprint": self.fingerprint,
            "history": self.history,
        }

    def resume(self) -> None:
        """Take up the state of an interrupted training, if there is one and it is the same training."""
        if not self.scratch["last"].exists():
            return
        state = checkpoint.read(self.scratch["last"], self.state())
        checkpoint.demand_same(state["fingerprint"], self.fingerprint, state["epoch"])
        if not self.scratch["best"].exists():
            raise UserError(f"The best network of the interrupted training is gone; {checkpoint.AFRESH}.")
        best = checkpoint.read_file(self.scratch["best"])
        check_model(best, "The best network of the interrupted training", self.settings["network"]["_target_"])
        try:
            for name in ("model", "optimizer", "scheduler", "scaler"):
                getattr(self, name).load_state_dict(state[name])
            torch.set_rng_state(state["rng"]["cpu"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise checkpoint.damaged(f"{type(error).__name__} of its {name}") from None
        self.epoch = state["epoch"]
        self.step = state["step"]
        self.best = state["best"]
        self.history = state["history"]
        if self.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        if self.rank == 0:
            logger.info("continue after epoch %d of %d", self.epoch, self.cfg.epochs)


def summary_writer() -> type:
    """Return torch's writer of TensorBoard curves.

    Raises
    ------
    UserError
        When TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install tensorboard, or go without its curves.") from None
    return SummaryWriter
