"""A network is added by one class and one yaml file; nothing else of the tree changes."""

import torch
from torch import nn

from tests.conftest import REPO

SEARCH = f"hydra.searchpath=[file://{REPO}/tests/networks/cfg]"


class OneFilter(nn.Module):
    """A linear filter of all inputs."""

    def __init__(self, in_channels: int, out_channels: int, width: int):
        super().__init__()
        self.filter = nn.Conv2d(in_channels, out_channels, width, padding=width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.filter(x)


def test_added_network_is_trained(command, tmp_path):
    words = ("experiment=tiny", "splits.train=1", "splits.valid=1", "splits.test=1", "run.workers=1", "epochs=1")
    trained = "run.only=[theory,cmb,observe,label,observed_noise,filters,quadratic_estimate,features,train]"
    code, error = command(SEARCH, "network=one_filter", "network.width=3", *words, trained)
    assert code == 0, error
    model = torch.load(tmp_path / "data" / "delens_tiny" / "delens_unet" / "kappa" / "model.pt", weights_only=True)
    assert model["state_dict"]["filter.weight"].shape == (1, 3, 3, 3)


def test_network_that_does_not_fit_is_refused_before_anything_runs(command, tmp_path):
    code, error = command(SEARCH, "network=one_filter", "network.width=4", "experiment=tiny")
    assert code == 1
    assert error.startswith("Error: The network gives (1, 49, 49) (channels, pixels, pixels) where the target has")
    assert not list(tmp_path.rglob("*.npz"))
    code, error = command(SEARCH, "network=one_filter", "network.depth=4", "experiment=tiny")
    assert code == 1
    assert "depth" in error
