"""Losses and schedules against numpy, closed forms and torch's own."""

import math

import numpy as np
import pytest
import torch

from cmbml.train.losses import LOSSES, logcosh
from cmbml.train.schedules import learning_rate_factor
from cmbml.train.settings import Schedule

SCHEDULE = {"name": "piecewise", "boundaries": [1000, 3000], "factors": [1, 0.1, 0.01], "final": 0.0, "steps": None}


def test_logcosh_is_what_its_name_says():
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    assert np.allclose(logcosh(x).numpy(), np.log(np.cosh(x.numpy())), rtol=1e-12, atol=1e-15)  # rounding in float64


def test_logcosh_of_large_errors_is_finite_and_so_is_its_gradient():
    x = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], requires_grad=True)
    loss = logcosh(x)
    assert torch.allclose(loss, x.abs() - math.log(2) * (x != 0), rtol=1e-6)
    loss.sum().backward()
    assert torch.equal(x.grad, torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))


def test_gradients_are_the_derivatives():
    x = torch.linspace(-3, 3, 100, dtype=torch.float64, requires_grad=True)
    for name, derivative in (("logcosh", torch.tanh(x)), ("l1", torch.sign(x)), ("mse", 2 * x)):
        (gradient,) = torch.autograd.grad(LOSSES[name](x).sum(), x)
        assert torch.allclose(gradient, derivative, atol=1e-14), name


def test_piecewise_by_steps_is_the_published_one():
    factor = learning_rate_factor(Schedule(**SCHEDULE), 10**6)
    for step, rate in ((0, 1e-2), (1000, 1e-2), (1001, 1e-3), (3000, 1e-3), (3001, 1e-4), (999_999, 1e-4)):
        assert 1e-2 * factor(step) == pytest.approx(rate, rel=1e-12)


def test_piecewise_by_fractions_is_the_same_scaled():
    by_steps = learning_rate_factor(Schedule(**SCHEDULE), 4000)
    by_fractions = learning_rate_factor(Schedule(**SCHEDULE | {"boundaries": [0.25, 0.75]}), 4000)
    assert [by_steps(s) for s in range(4000)] == [by_fractions(s) for s in range(4000)]


def test_cosine_is_torch_s():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.5 * 0.1)
    factor = learning_rate_factor(Schedule(**SCHEDULE | {"name": "cosine", "final": 0.1}), 50)
    for step in range(51):
        assert 0.5 * factor(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)  # torch's is recursive
        optimizer.step()
        reference.step()


def test_exponential_is_the_published_one():
    # Wang et al. 2022: lr_i = 0.1 (1e-6 / 0.1)^(i / 10000), whatever the length of the training.
    schedule = Schedule(**SCHEDULE | {"name": "exponential", "final": 1e-5, "steps": 10000})
    for total in (50, 10**5):
        factor = learning_rate_factor(schedule, total)
        for step, rate in ((0, 1e-1), (2000, 1e-2), (4000, 1e-3), (5000, 10**-3.5), (10000, 1e-6), (20000, 1e-6)):
            assert 0.1 * factor(step) == pytest.approx(rate, rel=1e-12)


def test_exponential_without_steps_ends_with_the_training():
    factor = learning_rate_factor(Schedule(**SCHEDULE | {"name": "exponential", "final": 0.01}), 40)
    ratios = [factor(step + 1) / factor(step) for step in range(40)]
    assert ratios == pytest.approx([0.01 ** (1 / 40)] * 40, rel=1e-12)
    assert factor(40) == pytest.approx(0.01, rel=1e-12)


def test_constant():
    factor = learning_rate_factor(Schedule(**SCHEDULE | {"name": "constant"}), 10)
    assert {factor(step) for step in range(10)} == {1.0}
