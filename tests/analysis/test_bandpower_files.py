"""Files of bandpowers, read back as CosmoMC and Cobaya read them: the likelihood is this package's own."""

import numpy as np
import pytest

from cmbml.analysis.delensing.bandpower_files import cmblikes, write
from cmbml.sky.likelihood import Likelihood
from cmbml.sky.pseudo import decoupling, pure_coupling
from cmbml.sky.spectra import bin_edges

LMAX = 60
ELL = np.arange(LMAX + 1)


@pytest.fixture
def made():
    """Bandpowers of a toy, their likelihood, window functions, and the theory's tensors and lensing."""
    rng = np.random.default_rng(1)
    edges = bin_edges(2, LMAX + 1, 12)
    _, windows = decoupling(pure_coupling(4 * np.pi * 0.4 ** np.arange(8), LMAX), edges)
    tensor = np.where(ELL >= 2, 1 / (1.0 + ELL) ** 2, 0)
    lensing = np.where(ELL >= 2, 0.001 + 1e-6 * ELL, 0)
    fixed = 0.3 * windows @ lensing + 2e-4
    nbin = len(edges) - 1
    correlation = np.eye(nbin) + 0.1 * (np.abs(np.subtract.outer(range(nbin), range(nbin))) == 1)
    likelihood = Likelihood((windows @ tensor)[None], fixed, np.linspace(80, 300, nbin), correlation)
    bandpowers = likelihood.power(np.array([0.05])) * rng.uniform(0.9, 1.1, nbin)
    fiducial = likelihood.power(np.array([0.02]))
    files = cmblikes("toy", bandpowers, likelihood, windows, fiducial=fiducial, lensing=lensing, shapes={"F": fixed})
    return files, bandpowers, likelihood, tensor, lensing


def hamimeche_lewis(folder, dls):
    """- 2 ln L of a theory's D_l, by the rules of the format: nothing of this package is used."""
    settings = dict(line.split(" = ") for line in (folder / "toy.dataset").read_text().splitlines())
    hat, noise, fiducial = (
        np.loadtxt(folder / settings[f"{name}_file"])[:, 1] for name in ("cl_hat", "cl_noise", "cl_fiducial")
    )
    covariance = np.loadtxt(folder / settings["covmat_fiducial"])
    theory = []
    for number in range(1, int(settings["nbins"]) + 1):
        ell, window = np.loadtxt(folder / (settings["bin_window_files"] % number)).T
        theory.append(window @ dls[ell.astype(int)])
    ratio = hat / (np.array(theory) + noise)
    x = np.sign(ratio - 1) * np.sqrt(2 * (ratio - np.log(ratio) - 1)) * fiducial
    return x @ np.linalg.solve(covariance, x)


@pytest.mark.parametrize("r", [0.0, 0.04, 0.1])
def test_the_files_hold_the_likelihood(made, tmp_path, r):
    """The theory has all of the lensing; the files know how much of it is left."""
    files, bandpowers, likelihood, tensor, lensing = made
    write(tmp_path, files)
    dls = ELL * (ELL + 1) / (2 * np.pi) * (r * tensor + lensing)
    ours = likelihood.deviance(bandpowers, likelihood.power(np.array([r])))
    assert hamimeche_lewis(tmp_path, dls) == pytest.approx(ours, rel=1e-6)


def test_columns_are_named(made):
    files = made[0]
    assert files["toy_cl_hat.dat"].startswith("# bin BxB\n1 ")
    assert files["toy_shapes.dat"].startswith("# bin F\n1 ")
    assert len([name for name in files if "windows/" in name]) == len(made[1])
