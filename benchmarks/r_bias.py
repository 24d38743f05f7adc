"""r of bandpowers that are drawn, thousands of times: bias against the r that each sky happened to have, and coverage.

    python benchmarks/r_bias.py [--draws 4000] [--training 6]

Every draw is a sky and its training skies: modes of tensors, of the lensing that is left, of noise and of foregrounds,
all Gaussian; R is the mean of ``training`` other draws, F of foregrounds of as many other seeds, N is known. The powers
are those of seven bands of `cmbs4_pole_lat` cleaned with masked harmonic ILC (synthetic foregrounds, f_sky .465,
30 <= l < 190 in bins of 20), as parts of the lensing's: what three estimates of the lensing leave of it, noise and
foregrounds. No map is made; that each bin's modes are independent is assumed. Of true skies the foregrounds are
one, and those of the training skies come from a model: what that costs is not in this table.

Written to benchmarks/results/r_bias.csv, a row for each r, each estimate, and foregrounds absent, ignored, or with
their amplitude free: mean of r-hat less the r of the sky, its error, both in units of sigma, the mean error that a fit
tells, the scatter of r-hat, sigma(r = 0), and how often the interval holds the r that was put in.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cmbml.sky.lensing_theory import fiducial
from cmbml.sky.likelihood import Likelihood, edges_of_band, modes_left
from cmbml.sky.spectra import bin_spectrum
from record import parser, save

BAND = (30, 190)
DELTA_L = 20
F_SKY = 0.465
LMIN_B = 200
# Per bin, in units of the lensing's power.
LEFT = {
    "none": np.ones(8),
    "quadratic": np.full(8, 0.417),
    "linear_map": np.array([0.27, 0.26, 0.25, 0.24, 0.22, 0.22, 0.21, 0.21]),
}
NOISE = np.array([0.13, 0.14, 0.076, 0.023, 0.022, 0.022, 0.018, 0.016])
NOISE_ALONE = np.full(8, 0.0075)  # of the combination of all bands where there is nothing to be removed
FOREGROUNDS = np.array([0.29, 0.074, 0.052, 0.040, 0.026, 0.016, 0.015, 0.012])
TREATED = ("absent", "ignored", "free")


def bands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bandpowers of tensors at r = 1 and of the lensing, uK^2, and the numbers of modes, (8,) each."""
    edges, used = edges_of_band(BAND, DELTA_L, BAND[1] - 1, lmin_b=LMIN_B)
    cls = fiducial()
    tensor = bin_spectrum(cls["bb"], edges)[used] / 0.01  # the fiducial cosmology has r = 0.01
    lensing = bin_spectrum(cls["lensed_bb"] - cls["bb"], edges)[used]
    return tensor, lensing, F_SKY * np.diff(edges**2)[used]


def draw(
    rng: np.random.Generator, powers: Sequence[np.ndarray], modes: np.ndarray, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squares (draws, nbin) of the sum of independent modes of these powers, and of the first of them alone."""
    total = np.empty((draws, len(modes)))
    first = np.empty((draws, len(modes)))
    for b, count in enumerate(modes):
        field = np.sqrt(powers[0][b]) * rng.standard_normal((draws, count))
        first[:, b] = np.mean(field**2, axis=1)
        field += np.sqrt(sum(power[b] for power in powers[1:])) * rng.standard_normal((draws, count))
        total[:, b] = np.mean(field**2, axis=1)
    return total, first


def measured(rng: np.random.Generator, power: np.ndarray, modes: np.ndarray, draws: int, skies: int) -> np.ndarray:
    """Means (draws, nbin) of a power over so many skies."""
    return power * rng.chisquare(modes * skies, (draws, len(modes))) / (modes * skies)


def experiment(
    rng: np.random.Generator,
    parts: Mapping[str, np.ndarray],
    modes: np.ndarray,
    *,
    r: float,
    draws: int,
    training: int,
    treated: str,
) -> dict[str, float]:
    """Columns of the table for one setting; ``parts`` are T, R, N and F, (nbin,) each."""
    modes = np.round(modes).astype(int)
    t, left, noise, foregrounds = (parts[name] for name in "TRNF")
    present = 0 * foregrounds if treated == "absent" else foregrounds
    free = treated == "free"
    bandpowers, primordial = draw(rng, [r * t, left, noise, present], modes, draws)
    truth = r * t + left + noise + present
    seen = measured(rng, left, modes, draws, training)
    nu = modes_left(modes, truth, left, training)
    shapes = np.broadcast_to(t, (draws, 1, len(t)))
    ideal = t[None]
    if free:
        seen_foregrounds = measured(rng, foregrounds, modes, draws, training)
        shapes = np.stack([np.broadcast_to(t, (draws, len(t))), seen_foregrounds], axis=1)
        ideal = np.stack([t, foregrounds])
        nu = modes_left(nu, truth, foregrounds, training)
    fit = Likelihood(shapes, seen + noise, nu).fit(bandpowers)
    own = primordial @ Likelihood(ideal, left + noise, nu).weights(truth)[0]
    found = fit.best[:, 0]
    scatter = found.std(ddof=1)
    bias = np.mean(found - own)
    error = np.std(found - own, ddof=1) / np.sqrt(draws)
    return {
        "r_of_the_sky": own.mean(),
        "r_hat": found.mean(),
        "bias": bias,
        "bias_error": error,
        "bias_over_sigma": bias / scatter,
        "bias_error_over_sigma": error / scatter,
        "sigma_told": fit.sigma.mean(),
        "sigma_seen": scatter,
        "sigma_at_0": Likelihood(ideal, left + noise, nu).sigma_r(truth - r * t),
        "coverage": np.mean((fit.low < r) & (r < fit.high)),
    }


def main() -> None:
    """Run all settings, print them and write the CSV."""
    arguments = parser(__doc__)
    arguments.add_argument("--draws", type=int, default=4000)
    arguments.add_argument("--training", type=int, default=6, help="skies that R, and seeds that F, is the mean of")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    tensor, lensing, modes = bands()
    table = []
    sigma = {}
    for r in (0.0, 0.01):
        for estimate, left in LEFT.items():
            for treated in TREATED:
                noise = NOISE_ALONE if treated == "absent" else NOISE
                parts = {"T": tensor, "R": left * lensing, "N": noise * lensing, "F": FOREGROUNDS * lensing}
                rng = np.random.default_rng([args.seed, len(table)])
                row = experiment(rng, parts, modes, r=r, draws=args.draws, training=args.training, treated=treated)
                print(
                    f"r {r} {estimate:10s} foregrounds {treated:8s}" + "".join(f"  {k} {v:.3g}" for k, v in row.items())
                )
                setting = {"r": r, "estimate": estimate, "foregrounds": treated, "draws": args.draws}
                table.append(setting | {name: f"{value:.6g}" for name, value in row.items()})
                sigma[estimate, treated] = row["sigma_at_0"]
    for treated in TREATED:
        ratio = sigma["none", treated] / sigma["linear_map", treated]
        print(f"foregrounds {treated}: ratio of sigma(r = 0), no delensing to linear MAP: {ratio:.2f}")
    save("r_bias", table, args.out)


if __name__ == "__main__":
    main()
