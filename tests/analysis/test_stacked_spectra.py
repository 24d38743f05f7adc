"""Stacked spectra on hand-made numbers."""

import numpy as np
import pytest

from cmbml.analysis.spectra import ratio, scatter, stack
from cmbml.core.errors import UserError

EDGES = np.array([1, 3, 4])


def test_bins_are_weighted_with_the_number_of_modes():
    out = stack([{"a": np.array([7.0, 1.0, 2.0, 5.0])}, {"a": np.array([7.0, 3.0, 0.0, 1.0])}], EDGES)
    np.testing.assert_allclose(out["ell"], [(3 * 1 + 5 * 2) / 8, 3])
    np.testing.assert_allclose(out["a"], [[(3 * 1 + 5 * 2) / 8, 5], [3 * 3 / 8, 1]])


def test_scatter_has_one_degree_of_freedom_less():
    mean, std = scatter(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(std, [np.sqrt(2), 0])
    assert np.isnan(scatter(np.array([[1.0, 2.0]]))[1]).all()


def test_ratio_is_taken_sky_by_sky_so_that_the_shared_variance_drops_out():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 9, (5, 3))
    truth[:, 2] = 0
    mean, std = scatter(ratio({"unlensed": truth, "predicted": 0.3 * truth}, "predicted"))
    np.testing.assert_allclose(mean, [0.3, 0.3, np.nan])
    np.testing.assert_allclose(std[:2], 0, atol=1e-15)


def test_stacks_of_nothing_or_of_different_things_are_refused():
    with pytest.raises(UserError, match="no sky"):
        stack([], EDGES)
    with pytest.raises(UserError, match="different names"):
        stack([{"a": np.ones(4)}, {"b": np.ones(4)}], EDGES)
