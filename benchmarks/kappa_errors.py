"""Whether the errors of kappa are true that methods tell: by samples of the linear MAP, and by an ensemble of networks.

    python benchmarks/kappa_errors.py [--scenario white] [--samples 4] [--members 5] [overrides]

On the skies of ``benchmarks/networks.py``, with its settings. Told is sigma_L of the modes of kappa,

- ``linear_map``: from the mean power of a sample of the posterior less the linear MAP (``linear_map.samples``);
- ``ensemble``: networks that differ in ``train.seed`` alone. The estimate is their mean; sigma_L^2 is 1 + 1/members
  times their variance about it, as if the truth were one of them;
- ``ensemble_scaled``: the same sigma_L, times one number in each bin, such that it is right on two skies more;
- ``error_of_others``: the error of the mean on these two, for which no ensemble is needed.

Written to benchmarks/results/delensing/kappa_errors.csv, a row for each of these and bin of L: the part of the modes of
all test skies whose truth lies within sigma_L of the estimate, .683 if the errors are Gaussian and true, and the rms of
error over sigma_L, then 1. ``sky_sd`` is the standard deviation of the first over the skies.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from networks import CHOSEN, SCENARIOS, files, run, skies, words_of
from omegaconf import DictConfig

from cmbml.sky import sht
from cmbml.sky.lensing import kappa_from_phi
from record import composed, parser, save

JUDGED, OTHERS = 8, 2  # test skies, of which the last only tell how large the errors are
ALL = f"splits.test={JUDGED + OTHERS}"
EDGES = (20, 100, 200, 400, 600, 751)


def values(alm: np.ndarray, low: int, high: int) -> np.ndarray:
    """Independent real numbers of the modes low <= L < high of alms (nalm,), each of the variance C_L."""
    lmax = sht.alm_lmax(alm)
    ell = sht.almxfl(np.ones_like(alm), np.arange(lmax + 1.0)).real
    chosen = (ell >= low) & (ell < high)
    zero = np.arange(len(alm)) <= lmax
    rest = np.sqrt(2) * alm[chosen & ~zero]
    return np.concatenate([alm[chosen & zero].real, rest.real, rest.imag])


def in_sigmas(error: np.ndarray, variance: np.ndarray, edges: Sequence[int] = EDGES) -> list[np.ndarray]:
    """Errors (nalm,) over sigma_L of the variance (lmax + 1,): the values of the modes of each bin of L."""
    over = np.divide(1, np.sqrt(variance), out=np.zeros(len(variance)), where=variance > 0)
    scaled = sht.almxfl(error, over)
    return [values(scaled, low, high) for low, high in pairwise(edges)]


def within(of_bins: Sequence[np.ndarray]) -> list[float]:
    """Part of the modes of each bin whose truth lies within one sigma."""
    return [float(np.mean(np.abs(one) < 1)) for one in of_bins]


def truth(cfg: DictConfig, item: dict[str, Any]) -> np.ndarray:
    """Alms of the convergence of a sky, (nalm,)."""
    phi = files(cfg).file("unlensed_alm", item).read()["phi"].astype(complex)
    return kappa_from_phi(sht.truncate(phi, cfg.sky.lmax))


def of_samples(words: Sequence[str], samples: int) -> list[list[np.ndarray]]:
    """Errors of the linear MAP in sigmas, of each judged sky in each bin."""
    words = [*words, f"linear_map.samples={samples}", "method.name=errors_map"]
    run(words)
    cfg = composed("delens", words)
    found = []
    for sim in range(JUDGED):
        item = {"split": "test", "sim": sim}
        error = files(cfg).file("kappa_linear", item).read()["kappa"].astype(complex) - truth(cfg, item)
        found.append(in_sigmas(error, files(cfg).file("posterior", item).read()["kappa"].mean(axis=0)))
    return found


def of_ensemble(words: Sequence[str], members: int) -> dict[str, list[list[np.ndarray]]]:
    """Errors of the mean of the networks in sigmas, of each judged sky in each bin, for each way to tell sigma."""
    cfgs = []
    for seed in range(members):
        member = [*words, *CHOSEN, f"train.seed={seed}", f"method.name=errors_{seed}"]
        run([*member, "run.only=[train,network_estimate]"])
        cfgs.append(composed("delens", member))
    lmax = cfgs[0].sky.lmax
    errors, variances = [], []
    for sim in range(JUDGED + OTHERS):
        item = {"split": "test", "sim": sim}
        maps = [files(cfg).file("estimate", item).read()["kappa"].astype(float) for cfg in cfgs]
        found = [sht.analysis(one, lmax) for one in maps]
        mean = np.mean(found, axis=0)
        errors.append(mean - truth(cfgs[0], item))
        spread = np.sum([sht.alm2cl(alm - mean) for alm in found], axis=0) / (members - 1)
        variances.append((1 + 1 / members) * spread)
    judged = list(zip(errors, variances, strict=True))[:JUDGED]
    of_others = np.mean([sht.alm2cl(error) for error in errors[JUDGED:]], axis=0)
    scale = np.ones(lmax + 1)
    for low, high in pairwise(EDGES):
        ell = np.arange(low, min(high, lmax + 1))
        scale[ell] = (2 * ell + 1) @ of_others[ell] / ((2 * ell + 1) @ np.mean(variances[JUDGED:], axis=0)[ell])
    return {
        "ensemble": [in_sigmas(error, variance) for error, variance in judged],
        "ensemble_scaled": [in_sigmas(error, scale * variance) for error, variance in judged],
        "error_of_others": [in_sigmas(error, of_others) for error, _ in judged],
    }


def rows_of(told: str, found: Sequence[Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """A row for each bin of L."""
    rows = []
    of_skies = np.array([within(sky) for sky in found])
    for i, (low, high) in enumerate(pairwise(EDGES)):
        together = np.concatenate([sky[i] for sky in found])
        row = {"told_by": told, "skies": len(found), "L_min": low, "L_max": high - 1}
        row |= {"coverage": f"{within([together])[0]:.4f}", "sky_sd": f"{of_skies[:, i].std(ddof=1):.4f}"}
        rows.append(row | {"error_over_sigma": f"{np.sqrt(np.mean(together**2)):.3f}"})
        print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    """Run, print a table and write the CSV."""
    options = parser(__doc__)
    options.add_argument("--scenario", default="white", choices=SCENARIOS)
    options.add_argument("--samples", type=int, default=4, help="of the posterior of the linear MAP")
    options.add_argument("--members", type=int, default=5, help="networks of the ensemble")
    given, common = options.parse_known_args()
    common = [ALL, *common]
    skies(given.scenario, common)
    found = {"linear_map": of_samples(words_of(given.scenario, "linear_map", common), given.samples)}
    found |= of_ensemble(words_of(given.scenario, "delens_unet", common), given.members)
    rows = [{"scenario": given.scenario, **row} for told, values in found.items() for row in rows_of(told, values)]
    save("kappa_errors", rows, given.out / "delensing")


if __name__ == "__main__":
    main()
