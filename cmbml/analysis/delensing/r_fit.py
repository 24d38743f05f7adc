"""r of some skies from what others, of which the truth is used, have left: arrays in, arrays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from cmbml.sky.likelihood import Fit, Likelihood, modes_left

_POINTS = 200

Powers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """r of some skies.

    Attributes
    ----------
    bandpowers : array (nsky, nbin)
        Of the delensed maps, uK^2.
    likelihoods : sequence of Likelihood
        One a sky: they differ in the noise.
    fit : Fit
    own : array (nsky,)
        The r that each sky happened to have.
    of_foregrounds : array (nsky,)
        The r that the foregrounds left in each sky look like; nan where they are not known.
    total : array (nbin,)
        Mean bandpowers of the maps of the known skies.
    left : array (nsky, nbin)
        R + N of each sky.
    foregrounds : array (nsky, nbin)
        Shape of the foregrounds in each sky: 0 where there are none.
    known : int
        Of how many skies these and R are means.
    free : tuple of str
        Amplitudes that are fitted beside r, in their order.
    """

    bandpowers: np.ndarray
    likelihoods: Sequence[Likelihood]
    fit: Fit
    own: np.ndarray
    of_foregrounds: np.ndarray
    total: np.ndarray
    left: np.ndarray
    foregrounds: np.ndarray
    known: int
    free: tuple[str, ...]

    @property
    def sigma_zero(self) -> float:
        """sigma(r = 0), the mean of the skies."""
        return float(
            np.mean(
                [one.sigma_r(zero) for one, zero in zip(self.likelihoods, self.left + self.foregrounds, strict=True)]
            )
        )

    @property
    def bias(self) -> tuple[float, float]:
        """Mean of r-hat less the sky's own r, and its error.

        The scatter of the differences over sqrt(n); and once more for the skies of which R is the mean, whose
        scatter is the same and whose error all of these share.
        """
        difference = self.fit.best[:, 0] - self.own
        scatter = difference.std(ddof=1) if len(difference) > 1 else np.nan
        return float(difference.mean()), float(scatter * np.sqrt(1 / len(difference) + 1 / self.known))


def left_of(known: Powers) -> np.ndarray:
    """R + N (nbin,), the mean of C[p - u - f], of skies of which the truth is used."""
    left: np.ndarray = known["predicted"] - 2 * known["predicted_x_unlensed"] + known["unlensed"]
    if "foregrounds" in known:
        cross = known["unlensed_x_foregrounds"] - known["predicted_x_foregrounds"]
        left = left + known["foregrounds"] + 2 * cross
    return np.asarray(left.mean(axis=0))


def r_of_skies(
    known: Powers,
    judged: Powers,
    tensor: np.ndarray,
    modes: np.ndarray,
    correlation: np.ndarray | None = None,
    *,
    free: Sequence[str] = (),
) -> Judged:
    """Return r of the skies ``judged``, from what ``known`` ones, of which the truth is used, have left.

    With p the delensed map, u the primordial one and f the foregrounds that are left, the mean of C[p - u - f] over the
    known skies is R + N: lensing and noise that are left, without the sample variance of their u and f. F, the mean of
    their C[f], is the shape of the foregrounds where their amplitude is fitted, too. Of the judged skies C[p] is used,
    and their u and f for what r-hat is compared with. Where each sky's own ``noise`` is known, as that of weights is,
    N of the known skies is replaced by that of the judged one: weights follow the foregrounds, and noise the weights.
    So does F by ``shape``, what a sky's weights leave of other foregrounds. With N known there is R alone, R + N less
    the mean N of the known skies, of which the amplitude A_L may be fitted.

    Parameters
    ----------
    known, judged : mapping
        Bandpowers (nsky, nbin) ``predicted``, ``predicted_x_unlensed``, ``unlensed``, and where foregrounds are known
        ``foregrounds``, ``predicted_x_foregrounds``, ``unlensed_x_foregrounds``; where they are known,
        ``noise``, without which A_L cannot be free, and of the judged ones ``shape``.
    tensor : array (nbin,)
        Bandpowers at r = 1.
    modes : array (nbin,)
    correlation : array (nbin, nbin), optional
    free : sequence of str, optional
        Amplitudes that are free beside r: A_L of the lensing that is left, A_fg of the foregrounds.
    """
    left = left_of(known)
    skies = len(known["predicted"])
    total = known["predicted"].mean(axis=0)
    n = len(judged["predicted"])
    mean = known["foregrounds"].mean(axis=0) if "foregrounds" in known else np.zeros_like(left)
    foregrounds = judged.get("shape", np.tile(mean, (n, 1)))
    counted = modes_left(modes, total, left, skies)
    rest = np.tile(left, (n, 1))
    shapes = {"A_fg": foregrounds}
    if "noise" in known:
        noise = known["noise"].mean(axis=0)
        rest += judged["noise"] - noise
        shapes["A_L"] = np.tile(left - noise, (n, 1))
    fixed = rest - shapes["A_L"] if "A_L" in free else rest
    likelihoods = [
        Likelihood(np.stack([tensor, *(shapes[name][i] for name in free)]), fixed[i], counted, correlation)
        for i in range(n)
    ]
    weights = np.array([one.weights(total)[0] for one in likelihoods])
    own = (judged["unlensed"] * weights).sum(axis=1)
    nothing = np.full_like(judged["unlensed"], np.nan)
    of_foregrounds = (judged.get("foregrounds", nothing) * weights).sum(axis=1)
    fits = [one.fit(power[None]) for one, power in zip(likelihoods, judged["predicted"], strict=True)]
    fit = Fit(**{x.name: np.concatenate([getattr(one, x.name) for one in fits]) for x in fields(Fit)})
    return Judged(
        judged["predicted"], likelihoods, fit, own, of_foregrounds, total, rest, foregrounds, skies, tuple(free)
    )


def posteriors(judged: Judged) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Values of r and exp(- profile / 2), 1 at its top, of each sky."""
    curves = []
    fit = judged.fit
    for i, (power, likelihood) in enumerate(zip(judged.bandpowers, judged.likelihoods, strict=True)):
        r = fit.best[i, 0] + fit.sigma[i] * np.linspace(-4, 4, _POINTS)
        profile = likelihood.profile(np.tile(power, (_POINTS, 1)), r)
        curves.append((r, np.exp(-(profile - fit.deviance[i]) / 2)))
    return curves
