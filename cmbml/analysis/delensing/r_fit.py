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
    foregrounds : array (nsky, nbin)
        Shape of the foregrounds in each sky: 0 where there are none.
    known : int
        Of how many skies these and R are means.
    """

    bandpowers: np.ndarray
    likelihoods: Sequence[Likelihood]
    fit: Fit
    own: np.ndarray
    of_foregrounds: np.ndarray
    total: np.ndarray
    foregrounds: np.ndarray
    known: int

    @property
    def sigma_zero(self) -> float:
        """sigma(r = 0), the mean of the skies."""
        return float(
            np.mean([one.sigma_r(one.fixed + f) for one, f in zip(self.likelihoods, self.foregrounds, strict=True)])
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
    with_foregrounds: bool = False,
) -> Judged:
    """Return r of the skies ``judged``, from what ``known`` ones, of which the truth is used, have left.

    With p the delensed map, u the primordial one and f the foregrounds that are left, the mean of C[p - u - f] over the
    known skies is R + N: lensing and noise that are left, without the sample variance of their u and f. F, the mean of
    their C[f], is the shape of the foregrounds where their amplitude is fitted, too. Of the judged skies C[p] is used,
    and their u and f for what r-hat is compared with. Where each sky's own ``noise`` is known, as that of weights is,
    N of the known skies is replaced by that of the judged one: weights follow the foregrounds, and noise the weights.
    So does F by ``shape``, what a sky's weights leave of other foregrounds.

    Parameters
    ----------
    known, judged : mapping
        Bandpowers (nsky, nbin) ``predicted``, ``predicted_x_unlensed``, ``unlensed``, and where foregrounds are known
        ``foregrounds``, ``predicted_x_foregrounds``, ``unlensed_x_foregrounds``; where they are known,
        ``noise``, and of the judged ones ``shape``.
    tensor : array (nbin,)
        Bandpowers at r = 1.
    modes : array (nbin,)
    correlation : array (nbin, nbin), optional
    with_foregrounds : bool, optional
        Whether their amplitude is free beside r.
    """
    left = left_of(known)
    skies = len(known["predicted"])
    total = known["predicted"].mean(axis=0)
    n = len(judged["predicted"])
    mean = known["foregrounds"].mean(axis=0) if "foregrounds" in known else np.zeros_like(left)
    foregrounds = judged.get("shape", np.tile(mean, (n, 1)))
    counted = modes_left(modes, total, left, skies)
    fixed = np.tile(left, (n, 1))
    if "noise" in known:
        fixed += judged["noise"] - known["noise"].mean(axis=0)
    likelihoods = [
        Likelihood(np.stack([tensor, shape] if with_foregrounds else [tensor]), of_sky, counted, correlation)
        for of_sky, shape in zip(fixed, foregrounds, strict=True)
    ]
    weights = np.array([one.weights(total)[0] for one in likelihoods])
    own = (judged["unlensed"] * weights).sum(axis=1)
    nothing = np.full_like(judged["unlensed"], np.nan)
    of_foregrounds = (judged.get("foregrounds", nothing) * weights).sum(axis=1)
    fits = [one.fit(power[None]) for one, power in zip(likelihoods, judged["predicted"], strict=True)]
    fit = Fit(**{x.name: np.concatenate([getattr(one, x.name) for one in fits]) for x in fields(Fit)})
    return Judged(judged["predicted"], likelihoods, fit, own, of_foregrounds, total, foregrounds, skies)


def posteriors(judged: Judged) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Values of r and exp(- profile / 2), 1 at its top, of each sky."""
    curves = []
    fit = judged.fit
    for i, (power, likelihood) in enumerate(zip(judged.bandpowers, judged.likelihoods, strict=True)):
        r = fit.best[i, 0] + fit.sigma[i] * np.linspace(-4, 4, _POINTS)
        profile = likelihood.profile(np.tile(power, (_POINTS, 1)), r)
        curves.append((r, np.exp(-(profile - fit.deviance[i]) / 2)))
    return curves
