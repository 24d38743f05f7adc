"""The training: true losses, continuation bit for bit, refusals, stops, and what it learns."""

import logging
import math
import pickle
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from cmbml.core.errors import UserError
from cmbml.core.provenance import telling
from cmbml.core.seeds import rng_for
from cmbml.core.stage import ReadFile, Scratch
from cmbml.sky.rotation import permutation
from cmbml.train.fit import fit
from cmbml.train.predict import predict_sky
from cmbml.train.trainer import Trainer
from tests.train.toy import NSIDE, SETTINGS, Skies, scratch, settings, train

PLAIN = {"network__norm": "none", "network__dropout": 0.0}


def train_until(step: int, monkeypatch, *args, **job) -> None:
    """Train, and stop before this step, counted from the beginning, as Ctrl-C would."""
    original = Trainer.train_step

    def train_step(self, batch):
        if self.step == step:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            train(*args, **job)


@pytest.mark.parametrize(
    ("kind", "symmetries", "stops", "every", "kept"),
    [("none", False, (13, 30), 1, [1, 3]), ("permutation", True, (35,), 2, [2])],
)
def test_interrupted_training_goes_on_bit_for_bit(tmp_path, monkeypatch, kind, symmetries, stops, every, kept):
    pairs = [[60, -30], [120, 30]]
    tables = [permutation(NSIDE, *pair)[0] for pair in pairs]
    job = {"rotation__kind": kind, "rotation__pairs": pairs, "rotation__symmetries": symmetries}
    if symmetries:
        job |= {"train__repeats": 2, "train__standardise": "robust", "train__keep": "last"}
        job |= {"train__schedule__name": "exponential", "train__schedule__final": 0.1}
    job |= {"tables": tables, "options": {"checkpoint_every": every}}
    _, history = train(tmp_path / "whole", **job)  # 4 epochs of 10 steps, with dropout
    last = scratch(tmp_path / "pieces")["last"]
    for stop, epoch in zip(stops, kept, strict=True):
        train_until(stop, monkeypatch, tmp_path / "pieces", **job)
        assert (last.read()["epoch"] if last.exists() else 0) == epoch
    torch.rand(3)  # somebody else's use of the generator
    _, pieces = train(tmp_path / "pieces", **job)
    assert pieces == history
    for name in ("best.pt", "last.pt"):
        assert_same(*(torch.load(tmp_path / part / name) for part in ("whole", "pieces")))
    assert (tmp_path / "whole" / "best.pt").read_bytes() == (tmp_path / "pieces" / "best.pt").read_bytes()


def test_no_checkpoint_is_written_of_skies_that_were_exchanged(tmp_path, monkeypatch):
    sky = tmp_path / "sky"
    sky.write_bytes(b"one")
    inputs = (ReadFile(sky, telling(sky), given=True),)
    files = {name: Scratch(file.path, inputs) for name, file in scratch(tmp_path / "pieces").items()}
    assert pickle.loads(pickle.dumps(files)) == files
    original = Trainer.validate

    def validate(self):
        if self.epoch == 2:  # the third
            sky.write_bytes(b"two")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", validate)
        with pytest.raises(UserError, match="sky was exchanged"):
            fit(settings(), Skies(2), Skies(1, seed=99), None, files, device="cpu")
    assert files["last"].read()["epoch"] == 2
    assert files["best"].read()["epoch"] <= 2
    sky.write_bytes(b"one")
    _, history = fit(settings(), Skies(2), Skies(1, seed=99), None, files, device="cpu")
    assert history == train(tmp_path / "whole")[1]


def assert_same(a, b) -> None:
    """Equality, bit for bit, of nested containers of tensors and values."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first = train(tmp_path, train__epochs=2)
    monkeypatch.setattr(Trainer, "train_step", None)
    assert_same(train(tmp_path, train__epochs=2), first)


def test_dropout_and_seed_matter(tmp_path):
    base = {"train__epochs": 1}
    variants = [{}, {"network__dropout": 0.1}, {"train__seed": 4}, {}]
    losses = [train(tmp_path / str(k), **base, **change)[1][0]["train_loss"] for k, change in enumerate(variants)]
    assert losses[3] == losses[0]
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train__loss": "l1"}, "train.loss logcosh -> l1"),
        ({"train__epochs": 9}, "train.epochs 4 -> 9"),
        ({"network__n_filters": 4}, "network.n_filters 3 -> 4"),
        ({"train__schedule__factors": [1.0, 0.5]}, r"train.schedule.factors \[1.0, 0.1\] -> \[1.0, 0.5\]"),
        ({"n_train": 3}, "skies.train 2 -> 3"),
    ],
)
def test_other_settings_refuse_the_checkpoint_by_name(tmp_path, monkeypatch, change, said):
    train_until(25, monkeypatch, tmp_path)
    with pytest.raises(UserError, match=rf"after epoch 2 .*{said}.*run\.force=\[train\]"):
        train(tmp_path, **change)
    _, history = train(tmp_path, rotation__predict=[[60, 30]])  # which is no part of training
    assert len(history) == 4


def test_other_skies_refuse_the_checkpoint(tmp_path):
    train(tmp_path, train__epochs=1)
    with pytest.raises(UserError, match=r"skies\.input_rms"):
        fit(settings(train__epochs=1), Skies(2, seed=5), Skies(1), None, scratch(tmp_path), device="cpu")


@pytest.mark.parametrize("loss", ["logcosh", "l1", "mse"])
def test_losses_are_the_means_over_all_patches(tmp_path, loss):
    # At a vanishing rate the network stays what it was, and the whole-sky predictions tell its loss.
    skies, valid = Skies(2), Skies(1, seed=99)
    formula = {"logcosh": lambda x: np.log(np.cosh(x)), "l1": np.abs, "mse": np.square}[loss]
    rows = []
    for batch_size in (5, 1000):  # 96 patches in all
        job = {"train__loss": loss, "train__optimizer__lr": 1e-30, "train__epochs": 1, "train__batch_size": batch_size}
        model, history = train(tmp_path / str(batch_size), **job, **PLAIN)
        rows.append(history[0])
    for key, part in (("train_loss", skies), ("valid_loss", valid)):
        errors = [predict_sky(model, x, device="cpu").astype(float) - y for x, y in part]
        expected = formula(2.0 * np.array(errors) / model["target_rms"][0]).mean()  # scale 2
        for row in rows:
            assert row[key] == pytest.approx(expected, rel=1e-6)  # float32 convolutions, means in float64


@pytest.mark.parametrize(("standardise", "unit"), [("none", 1.0), ("robust", None)])
def test_loss_is_that_of_the_predictions_however_the_maps_are_standardised(tmp_path, standardise, unit):
    job = {"train__loss": "l1", "train__optimizer__lr": 1e-30, "train__epochs": 1, "train__standardise": standardise}
    model, history = train(tmp_path, **job, **PLAIN)
    x, y = Skies(1, seed=99)[0]
    error = predict_sky(model, x, device="cpu").astype(float) - y
    rms = np.sqrt(np.mean([sky[1].astype(float) ** 2 for sky in Skies(2)]))
    assert history[0]["valid_loss"] == pytest.approx(2.0 * np.abs(error).mean() / (unit or rms), rel=1e-6)  # scale 2
    # The first layers see what is said: the maps as they are, or in units of their percentiles about the median.
    bright = np.where(np.arange(12 * NSIDE**2) % 5 == 0, 1e8, 1.0) * x
    found = predict_sky(model, bright.astype(np.float32), device="cpu")
    assert (np.abs(found).max() < 1e4) == (standardise == "robust")


def test_best_is_the_epoch_of_the_lowest_validation_loss(tmp_path):
    model, history = train(tmp_path, train__schedule__factors=[1, 100])  # the second half spoils it
    losses = [row["valid_loss"] for row in history]
    assert model["epoch"] == 1 + int(np.argmin(losses)) <= 2
    x, y = Skies(1, seed=99)[0]
    error = 2.0 * (predict_sky(model, x, device="cpu").astype(float) - y) / model["target_rms"][0]
    assert np.log(np.cosh(error)).mean() == pytest.approx(min(losses), rel=1e-6)


def test_the_last_network_can_be_kept_instead(tmp_path):
    job = {"train__schedule__factors": [1, 100], "train__epochs": 2}  # the second spoils it
    model, history = train(tmp_path, train__keep="last", **job)
    assert model["epoch"] == 2
    assert model["valid_loss"] == history[1]["valid_loss"] > history[0]["valid_loss"]


def test_repeats_are_updates_by_the_same_batch_at_one_learning_rate(tmp_path):
    job = {"train__schedule__name": "constant", "network__dropout": 0.0}
    skies, batch = (Skies(2), Skies(1, seed=99), None, {}, "cpu"), torch.arange(7)
    thrice, once = (Trainer(settings(train__repeats=n, **job), *skies) for n in (3, 1))
    for trainer in (thrice, once):
        trainer.net.train()
    loss, n = thrice.train_step(batch)
    told = [once.train_step(batch) for _ in range(3)]
    assert (loss, n) == told[0]  # the loss is that before the first update
    assert loss > told[2][0]
    for a, b in zip(thrice.model.parameters(), once.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (thrice.step, once.step) == (thrice.scheduler.last_epoch, once.scheduler.last_epoch) == (1, 3)


def test_it_learns_the_wiener_filter(tmp_path):
    # White target and noise of half its size: the best estimate leaves 0.25 / 1.25 = 0.2 of the power. Below it only
    # chance leads: 5 sigma of 3072 pixels are .025.
    job = {"train__loss": "mse", "train__scale": 3.0, "train__epochs": 8, "train__batch_size": 5}
    model, history = train(tmp_path, n_train=3, **job, network__dropout=0.0)
    assert 0.175 < history[-1]["valid_loss"] / 3.0**2 < 0.24
    x, y = Skies(1, seed=7)[0]
    assert 0.175 < ((predict_sky(model, x, device="cpu") - y) ** 2).mean() / y.var() < 0.24
    assert [row["lr"] for row in history] == pytest.approx([1e-2] * 4 + [1e-3] * 4)


def test_every_patch_is_seen_once_an_epoch_in_an_order_of_its_own(tmp_path, monkeypatch):
    seen, original = [], Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: seen.append(batch) or original(self, batch))
    train(tmp_path, train__epochs=2)
    first, second = torch.cat(seen).view(2, -1)
    everything = torch.arange(2 * 48)
    assert torch.equal(first.sort().values, everything)
    assert torch.equal(second.sort().values, everything)
    assert not torch.equal(first, second)
    assert {len(batch) for batch in seen} == {10, 6}


def test_stops_before_the_update_at_a_loss_that_is_not_finite(tmp_path):
    wild = settings(train__schedule__factors=[1.0, 1e40], train__loss="mse", **PLAIN)  # from epoch 3 on
    trainer = Trainer(wild, Skies(2), Skies(1, seed=99), None, scratch(tmp_path), "cpu")
    with pytest.raises(UserError) as error:
        trainer.run()
    epoch, step = map(int, re.search(r"became (?:inf|nan) in epoch (\d+), step (\d+)", str(error.value)).groups())
    assert epoch == 3
    assert step == trainer.step + 1
    batch = rng_for("train/order", 3, 2).permutation(96)[10 * (step - 21) :][:10]
    assert ", ".join(f"{n // 48}/{n % 48}" for n in batch) in str(error.value)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert scratch(tmp_path)["last"].read()["epoch"] == 2


def test_epoch_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    _, history = train(tmp_path, train__epochs=2)
    lines = [r.getMessage() for r in caplog.records if r.name == "cmbml.train.trainer"]
    pattern = r"epoch 2/2: train loss (\S+), validation loss (\S+), learning rate (\S+), (\S+) patches/s"
    *numbers, speed = map(float, re.fullmatch(pattern, lines[-1]).groups())
    row = history[-1]
    assert numbers == pytest.approx([row["train_loss"], row["valid_loss"], row["lr"]], rel=1e-3)
    assert 1 < speed < 1e5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_nearly_full_precision(tmp_path, precision):
    job = {"train__epochs": 2, "network__dropout": 0.0}
    _, full = train(tmp_path / "fp32", **job)
    _, mixed = train(tmp_path / precision, **job, train__precision=precision)
    for a, b in zip(full, mixed, strict=True):
        assert a != b
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=0.03)  # bf16 has 8 bits: 0.4 % a number


def test_layout_of_memory_changes_nothing(tmp_path):
    job = {"train__epochs": 1, "network__dropout": 0.0}
    losses = [train(tmp_path / str(k), **job, train__channels_last=k)[1][0]["train_loss"] for k in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # other sums of float32


@pytest.mark.slow
def test_compiled_network_trains_alike(tmp_path):
    job = {"train__epochs": 1, "network__dropout": 0.2}
    losses = [train(tmp_path / str(k), **job, train__compile=k)[1][0]["train_loss"] for k in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_tensorboard(tmp_path, monkeypatch):
    written = {}

    class Writer:
        def __init__(self, folder, purge_step):
            assert (folder, purge_step) == ("curves", 0)

        def add_scalar(self, key, value, epoch):
            written[key, epoch] = value

        def close(self):
            written["closed"] = True

    name = "torch.utils.tensorboard"
    module = ModuleType(name)
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, name, module)
    _, history = train(tmp_path, train__epochs=2, options={"log_dir": "curves"})
    curves = {(key, row["epoch"]): row[key] for row in history for key in ("train_loss", "valid_loss", "lr")}
    assert written == {**curves, "closed": True}
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train(tmp_path, train__epochs=2, options={"log_dir": "curves"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train__momentum": 0.9}, "train.momentum is not a known key"),
        ({"train__optimizer__momentum": 0.9}, "train.optimizer.momentum is not a known key"),
        ({"train__schedule": {"name": "cosine"}}, "train.schedule.boundaries is missing"),
        ({"train__schedule__name": "linear"}, "train.schedule.name=linear must be one of piecewise"),
        ({"train__schedule__boundaries": [0.5, 100]}, "train.schedule.boundaries"),
        ({"train__schedule__factors": [1.0]}, "train.schedule.factors"),
        ({"train__schedule__final": 2}, "train.schedule.final=2 must be from 0 to 1"),
        ({"train__loss": "huber"}, "train.loss=huber must be one of logcosh, l1, mse"),
        ({"train__precision": "int8"}, "train.precision=int8"),
        ({"train__batch_size": 2.5}, "train.batch_size=2.5 must be a whole number"),
        ({"train__epochs": 0}, "train.epochs=0"),
        ({"train__seed": -1}, "train.seed=-1"),
        ({"train__scale": "5"}, "train.scale=5 must be a number above 0"),
        ({"train__optimizer__lr": 0}, "train.optimizer.lr=0"),
        ({"train__optimizer__betas": [0.9]}, "train.optimizer.betas"),
        ({"train__optimizer__weight_decay": -1}, "train.optimizer.weight_decay"),
        ({"train__schedule__name": "exponential"}, "train.schedule.final=0.0 must be above 0 for an exponential"),
        (
            {"train__schedule": {**SETTINGS["train"]["schedule"], "name": "exponential", "final": 0.1, "steps": 0}},
            "train.schedule.steps=0 must be a number of at least 1",
        ),
        ({"train__standardise": "minmax"}, "train.standardise=minmax must be one of rms, none, robust"),
        ({"train__repeats": 0}, "train.repeats=0 must be a whole number of at least 1"),
        ({"train__keep": "first"}, "train.keep=first must be one of best, last"),
        ({"patches": {"layout": "mosaic", "patch": 16, "halo": 2}}, "patches.halo=2 must be 0"),
        ({"train__compile": "yes"}, "train.compile=yes must be true or false"),
        ({"rotation__average": 9}, "rotation.average=9 must be a whole number from 1 to 8"),
        ({"rotation__symmetries": True, "spins_in": [2, 2]}, "Q and U mix .* rotation.symmetries=false"),
        ({"network___target_": "cmbml.networks.none.Net"}, "network._target_=.* cannot be imported: .*none"),
        ({"network__filters": 3}, "network: .*filters"),
        ({"network__n_filters": 0}, "network: n_filters must be a whole number of at least 1"),
        ({"network__in_channels": 3}, "cannot take 2 channels of 12x12 pixels"),
        ({"network__out_channels": 2}, r"gives \(2, 12, 12\) .* where the target has \(1, 12, 12\)"),
        (
            {"patches": {"layout": "squares", "patch": 8, "halo": 1}},
            "network_depth=2 needs images that 4 divides, not 10x10",
        ),
    ],
)
def test_wrong_setting_is_named_before_anything_is_trained(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        train(tmp_path, **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said(tmp_path):
    with pytest.raises(UserError, match=r"system\.device=cuda, but torch sees no GPU"):
        fit(settings(), Skies(1), Skies(1), None, scratch(tmp_path), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gpu_trains_like_the_cpu(tmp_path, precision):
    job = {"train__epochs": 2, "network__dropout": 0.0}
    _, cpu = train(tmp_path / "cpu", **job)
    job["train__precision"] = precision
    model, gpu = fit(settings(**job), Skies(2), Skies(1, seed=99), None, scratch(tmp_path / "gpu"), device="cuda")
    for a, b in zip(cpu, gpu, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-3 if precision == "fp32" else 0.03)
    assert math.isfinite(predict_sky(model, Skies(1)[0][0], device="cuda").sum())
