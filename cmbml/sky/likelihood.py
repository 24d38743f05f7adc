r"""The tensor-to-scalar ratio r of B bandpowers: likelihood, best fit, interval, and the r that a sky happened to have.

The mean of the bandpowers P_b of one map of B (delensed or not, its noise in it) is linear in a few amplitudes,

    C_b = r T_b + A_L R_b + A_fg F_b + N_b :

T of the tensors at r = 1, R of the lensing that is left, F of the foregrounds that are left, N of the noise. What is
to be fitted is given as ``shapes``, r's first; the sum of the rest is ``fixed``. R and F are means of measured
bandpowers of other skies.

The likelihood is that of Hamimeche & Lewis (2008, PRD 77 103013) for one map,

    - 2 ln L = sum_bb' h_b (rho^-1)_bb' h_b',    h_b = sqrt(nu_b / 2) g(P_b / C_b),
    g(x) = sign(x - 1) sqrt(2 (x - ln x - 1)),

with nu_b the number of modes, so that P_b scatters by sqrt(2 / nu_b) C_b, and rho the correlation of the bins. For
uncorrelated bins it is exact where P_b is the mean of nu_b squared Gaussian numbers: a chi^2 distribution.
r may be negative, as long as all C_b are above 0.
"""

from dataclasses import dataclass

import numpy as np

from cmbml.sky.spectra import bin_edges

_BELOW_LMIN_B = 10  # multipoles; nearer to lmin_b a mask mixes in those that the reconstruction has used
_NARROW = 0.25  # of the width: a rest below the band that is narrower joins the bin beside it
_STEPS = 100
_HALVINGS = 30
_CONVERGED = 1e-5  # in units of the errors
_NEAR_ONE = 1e-4


def edges_of_band(band: tuple[int, int], width: int, lmax: int, *, lmin_b: int) -> tuple[np.ndarray, slice]:
    """Return edges of bins from l = 2 to lmax, of which those of the band have its bounds, and which these are.

    The band must end 10 below lmin_b. From there on the reconstruction has used the observed B, and the template takes
    parts of that very B away: in a bin that reaches there 22 % of the power is missing.

    Parameters
    ----------
    band : (int, int)
        band[0] <= l < band[1].
    width : int
        What does not fill a bin at the end of the band joins the last one.
    lmax : int
    lmin_b : int
        First multipole of the B that the reconstruction is made of.

    Raises
    ------
    ValueError
        If the band reaches lmin_b - 10 or does not lie within 2 .. lmax.

    Examples
    --------
    >>> edges, used = edges_of_band((30, 190), 40, 300, lmin_b=200)
    >>> edges.tolist(), edges[:-1][used].tolist()
    ([2, 30, 70, 110, 150, 190, 230, 301], [30, 70, 110, 150])
    """
    start, stop = band
    if not 2 <= start < stop <= lmax + 1:
        raise ValueError(f"the band {start} <= l < {stop} of r does not lie within 2 .. {lmax}")
    if stop > lmin_b - _BELOW_LMIN_B:
        raise ValueError(
            f"the band of r ends at l = {stop}, and must end at {lmin_b - _BELOW_LMIN_B}, {_BELOW_LMIN_B} below lmin_b:"
            " above, the estimate of the lensing holds the B that it is subtracted from"
        )
    below = np.arange(start, 2 + _NARROW * width, -width)[::-1] if start > 2 else np.empty(0, dtype=int)
    inside = bin_edges(start, stop, width)
    above = bin_edges(stop, lmax + 1, width)[1:] if stop <= lmax else np.empty(0, dtype=int)
    edges = np.unique(np.concatenate([[2], below, inside, above])).astype(int)
    first = int(np.searchsorted(edges, start))
    return edges, slice(first, first + len(inside) - 1)


@dataclass(frozen=True)
class Likelihood:
    """What the bandpowers of a map are compared with.

    Attributes
    ----------
    shapes : array (..., k, nbin)
        T, and of R and F what is fitted.
    fixed : array (..., nbin)
        All that is not. With further axes: of every map its own.
    modes : array (nbin,)
        nu.
    correlation : array (nbin, nbin), or None
        Of the bins; None for none.

    Examples
    --------
    Bandpowers that are a model's own are fitted by its r:

    >>> tensor, lensing = np.array([3.0, 1.0, 0.2]), np.array([1.0, 1.0, 0.9])
    >>> likelihood = Likelihood(tensor[None], lensing, np.array([50.0, 80.0, 120.0]))
    >>> fit = likelihood.fit(-0.1 * tensor + lensing)
    >>> round(float(fit.best[0]), 6), bool(fit.low < -0.1 < fit.high)
    (-0.1, True)
    """

    shapes: np.ndarray
    fixed: np.ndarray
    modes: np.ndarray
    correlation: np.ndarray | None = None

    def power(self, amplitudes: np.ndarray) -> np.ndarray:
        """C_b (..., nbin) of amplitudes (..., k)."""
        power: np.ndarray = self.fixed + np.einsum("...k,...kb->...b", amplitudes, self.shapes)
        return power

    def _white(self, h: np.ndarray) -> np.ndarray:
        """Quantities (..., nbin) of the bins as those of uncorrelated ones: h rho^-1 h is the sum of their squares."""
        if self.correlation is None:
            return h
        white: np.ndarray = h @ np.linalg.inv(np.linalg.cholesky(self.correlation)).T
        return white

    def deviance(self, bandpowers: np.ndarray, power: np.ndarray) -> np.ndarray:
        """- 2 ln L (...) of bandpowers and models (..., nbin); infinite where a model has power below 0.

        Raises
        ------
        ValueError
            If a bandpower is not above 0: it must have the noise in it.
        """
        bandpowers = np.asarray(bandpowers, dtype=np.float64)
        if not np.all(bandpowers > 0):
            raise ValueError("bandpowers of a map are above 0, with the noise in them")
        good = np.all(power > 0, axis=-1)
        h = np.sqrt(self.modes / 2) * _g(bandpowers / np.where(good[..., None], power, 1.0))[0]
        return np.where(good, np.sum(self._white(h) ** 2, axis=-1), np.inf)

    def information(self, power: np.ndarray) -> np.ndarray:
        """Fisher's matrix (..., k, k) of the amplitudes about models (..., nbin): the errors are sqrt(diag(F^-1))."""
        slopes = self._white(self._slopes(power))
        information: np.ndarray = slopes @ np.swapaxes(slopes, -1, -2)
        return information

    def _slopes(self, power: np.ndarray) -> np.ndarray:
        """- dh_b / d amplitude at P = C, (..., k, nbin)."""
        slopes: np.ndarray = np.sqrt(self.modes / 2) * self.shapes / power[..., None, :]
        return slopes

    def sigma_r(self, power: np.ndarray) -> float:
        """Error of r that the bandpowers of a model allow, the other amplitudes free."""
        return float(np.sqrt(np.linalg.inv(self.information(power))[0, 0]))

    def weights(self, power: np.ndarray) -> np.ndarray:
        """Weights (k, nbin) of bandpowers in the amplitudes, about a model: W (P - C) is how far the fit moves.

        Those of r take the primordial bandpowers of a sky to the r that it happened to have: W T = 1, and 0 of the
        shapes that are free beside it.
        """
        unit = np.sqrt(self.modes / 2) / power
        response = self._white(self._slopes(power)) @ self._white(np.diag(unit)).T
        weights: np.ndarray = np.linalg.solve(self.information(power), response)
        return weights

    def fit(self, bandpowers: np.ndarray) -> "Fit":
        """Return the amplitudes at the maximum of the likelihood, and r's interval.

        The interval is where the profile of - 2 ln L lies less than 1 above its minimum: 68 % for a Gaussian.

        Parameters
        ----------
        bandpowers : array (..., nbin)
            Of any number of maps; each is fitted for itself.

        Raises
        ------
        ValueError
            If a bandpower, or the model of r = 0 with all other amplitudes 1, is not above 0.
        """
        bandpowers = np.asarray(bandpowers, dtype=np.float64)
        k = self.shapes.shape[-2]
        start = np.broadcast_to([0.0] + [1.0] * (k - 1), (*bandpowers.shape[:-1], k))
        if not np.all(self.power(start) > 0):
            raise ValueError("the model of r = 0 must be above 0 in all bins: what is left of lensing and noise")
        best, lowest = self._minimise(bandpowers, start)
        sigma = np.sqrt(np.linalg.inv(self.information(self.power(best)))[..., 0, 0])
        bounds = [self._bound(bandpowers, best, lowest, side * sigma) for side in (-1, 1)]
        return Fit(best, sigma, bounds[0], bounds[1], lowest)

    def profile(self, bandpowers: np.ndarray, r: np.ndarray, best: np.ndarray | None = None) -> np.ndarray:
        """Return the least - 2 ln L at each r (...), whatever the other amplitudes are.

        Parameters
        ----------
        bandpowers : array (..., nbin)
        r : array (...)
            One value a map. exp(- profile / 2) over values is the posterior of r, but for a factor.
        best : array (..., k), optional
            Amplitudes from ``fit``.
        """
        bandpowers = np.asarray(bandpowers, dtype=np.float64)
        best = self.fit(bandpowers).best if best is None else best
        r = np.asarray(r, dtype=np.float64)
        if self.shapes.shape[-2] == 1:
            return self.deviance(bandpowers, self.power(r[..., None]))
        fixed = self.fixed + r[..., None] * self.shapes[..., 0, :]
        rest = Likelihood(self.shapes[..., 1:, :], fixed, self.modes, self.correlation)
        others = best[..., 1:]
        information = self.information(self.power(best))
        slope = np.linalg.solve(information[..., 1:, 1:], information[..., 1:, :1])[..., 0]
        return rest._minimise(bandpowers, others - slope * (r - best[..., 0])[..., None])[1]

    def _minimise(self, bandpowers: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss-Newton steps, halved where - 2 ln L would rise: amplitudes (..., k) and - 2 ln L (...)."""
        at = np.array(start, dtype=np.float64)
        value = self.deviance(bandpowers, self.power(at))
        for _ in range(_STEPS):
            power = np.where(np.isfinite(value)[..., None], self.power(at), bandpowers)
            g, slope = _g(bandpowers / power)
            jacobian = self._white(self._slopes(power) * (slope * bandpowers / power)[..., None, :])
            h = self._white(np.sqrt(self.modes / 2) * g)
            gradient = jacobian @ h[..., None]
            step = np.linalg.solve(jacobian @ np.swapaxes(jacobian, -1, -2), gradient)
            far = np.sqrt(np.sum(step * gradient, axis=(-1, -2)))
            step = step[..., 0]
            if np.all((far < _CONVERGED) | ~np.isfinite(value)):
                break
            for _ in range(_HALVINGS):
                new = self.deviance(bandpowers, self.power(at + step))
                worse = new > value
                if not np.any(worse):
                    break
                step = np.where(worse[..., None], step / 2, step)
            better = new <= value
            at = np.where(better[..., None], at + step, at)
            value = np.where(better, new, value)
        return at, value

    def _bound(self, bandpowers: np.ndarray, best: np.ndarray, lowest: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """r on one side of the best at which the profile has risen by 1: where its root, nearly a line, is 1."""
        near = np.zeros_like(lowest)
        far = np.full_like(lowest, np.inf)
        at = np.ones_like(lowest)
        for _ in range(_STEPS):
            profile = self.profile(bandpowers, best[..., 0] + at * sigma, best)
            root = np.sqrt(np.maximum(profile - lowest, _NEAR_ONE))
            near = np.where(root < 1, at, near)
            far = np.where(root < 1, far, at)
            guess = at / root
            middle = np.where(np.isfinite(far), (near + far) / 2, 2 * at)
            before = at
            at = np.where((guess > near) & (guess < far), guess, middle)
            if np.all(np.abs(at - before) < _CONVERGED * at):
                break
        bound: np.ndarray = best[..., 0] + at * sigma
        return bound


@dataclass(frozen=True)
class Fit:
    """Amplitudes of maps, and r's errors.

    Attributes
    ----------
    best : array (..., k)
        r first.
    sigma : array (...)
        Of r, from Fisher's matrix at the best fit.
    low, high : array (...)
        Where the profile of - 2 ln L has risen by 1.
    deviance : array (...)
        - 2 ln L of the best fit: about the number of bins less that of the amplitudes.

    Examples
    --------
    >>> one = np.ones(1)
    >>> Fit(best=one[None], sigma=one, low=0 * one, high=2 * one, deviance=0 * one).best[..., 0]
    array([1.])
    """

    best: np.ndarray
    sigma: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviance: np.ndarray


def _g(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g(x) and its derivative (1 - 1/x) / g; near 1, where both lose their digits, by their series."""
    u = x - 1
    near = np.abs(u) < _NEAR_ONE
    away = np.where(near, 1.0, u)
    g = np.sign(away) * np.sqrt(2 * (away - np.log1p(away)))
    slope = away / (1 + away) / g
    return np.where(near, u - u**2 / 3 + 7 * u**3 / 36, g), np.where(near, 1 - 2 * u / 3 + 7 * u**2 / 12, slope)


def modes_and_correlation(covariance: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nu (nbin,) and rho (nbin, nbin) of bandpowers whose covariance about a model is known.

    nu_b = 2 C_b^2 / Cov_bb, rho_bb' = Cov_bb' / sqrt(Cov_bb Cov_b'b').

    Parameters
    ----------
    covariance : array (nbin, nbin)
        Of ``pseudo.covariance``, say, decoupled.
    power : array (nbin,)
        C of that model.

    Examples
    --------
    >>> modes_and_correlation(np.array([[2.0, 0.1], [0.1, 0.5]]), np.array([10.0, 5.0]))[0].tolist()
    [100.0, 100.0]
    """
    variance = np.diag(covariance)
    return 2 * power**2 / variance, covariance / np.sqrt(np.outer(variance, variance))


def modes_left(modes: np.ndarray, power: np.ndarray, measured: np.ndarray, skies: int) -> np.ndarray:
    """Return nu with the error of a measured shape in it, float64 (nbin,).

    The mean over n skies has itself the scatter sqrt(2 / (nu n)) R_b. A sky that is compared with it scatters by
    2 C^2 / nu + 2 R^2 / (nu n) = 2 C^2 / nu':

        nu' = nu / (1 + (R / C)^2 / n).

    Parameters
    ----------
    modes : array (nbin,)
        nu.
    power : array (nbin,)
        C, the whole model.
    measured : array (nbin,)
        R, the part that is a mean over skies, each with as many modes.
    skies : int
        n.

    Examples
    --------
    From a single sky everything counts double:

    >>> modes_left(np.array([100.0]), np.array([2.0]), np.array([2.0]), 1).tolist()
    [50.0]
    """
    left: np.ndarray = modes / (1 + (measured / power) ** 2 / skies)
    return left
