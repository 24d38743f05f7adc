"""Gains of bands against one of them, found in what all of them see of the CMB."""

import numpy as np
from scipy.optimize import approx_fprime, minimize

from cmbml.core.errors import demand
from cmbml.sky import sht

_FIRST, _LEAST, _LAST = 100, 200, 1000  # multipoles: below, foregrounds are strongest; beyond, noise is
_BINS = 16
_BEAM = 0.1
_STEP = 1e-6
_FAR = 50.0  # logarithm of the power of the CMB over what it is in a band
_UNKNOWN = 0.03  # of a gain, rms
_SHAPES = 2  # foregrounds


def reach(beams: np.ndarray, last: int) -> int:
    """Last multipole at which bands are calibrated: at most 1000 and ``last``, and where every beam is above .1.

    Raises
    ------
    UserError
        If that is less than 200.
    """
    end = int(min(_LAST, last, np.flatnonzero((beams > _BEAM).all(axis=0))[-1]))
    demand(
        end >= _LEAST,
        f"Bands are calibrated against each other at l = {_FIRST} to {_LEAST} and beyond, and these end at l = {end},"
        f" with the maps or where a beam falls below {_BEAM:g}; leave out those with the widest beams"
        " (instrument.bands), or set sims.combine.reference=null.",
    )
    return end


def calibrate(
    alms: np.ndarray, beams: np.ndarray, noise: np.ndarray, reference: int, *, end: int, f_sky: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gains of bands from their spectra at l = 100 and more (`gains`).

    Parameters
    ----------
    alms : array (nband, nalm)
        Of one field, the CMB of which is far above the noise: E or T.
    beams : array (nband, > end)
    noise : array (> end, nband, nband)
        N_ab(l) in the spectra of these alms, with no beam divided out; those of masked maps have the mean square of the
        mask times that of the full sky.
    reference : int
        Number of the band that is right.
    end : int
        Last multipole, of `reach`.
    f_sky : float, optional
        Part of the modes of the full sky that these alms have.

    Returns
    -------
    gains, errors : array (nband,)
        What each band is to be divided by, and how well that is known.
    """
    starts = np.linspace(_FIRST, end + 1, _BINS + 1).astype(int)[:-1]
    modes = 2.0 * np.arange(end + 1) + 1
    over = modes / (beams[:, None, : end + 1] * beams[None, :, : end + 1])
    seen = sht.alm2cl(alms[:, None], alms[None])[..., : end + 1] * over
    told = np.moveaxis(noise[: end + 1], 0, -1) * over
    number = np.add.reduceat(modes, starts)
    spectra, known = (np.moveaxis(np.add.reduceat(x, starts, axis=-1) / number, -1, 0) for x in (seen, told))
    return gains(spectra, known, f_sky * number, reference)


def gains(spectra: np.ndarray, noise: np.ndarray, modes: np.ndarray, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Most probable gains g of bands whose spectra are those of the CMB, of foregrounds and of known noise.

    In each bin C = c g g^T + A F A^T + N: c, the power of the CMB; A (nband, 2), what the bands see of two foregrounds
    of any spectrum, of which F (2, 2) is the power; N, the noise. All but N is free, and g = 1 in one band. Of the
    measured spectra S the likelihood is -2 log L = sum of modes (tr C^-1 S + log det C) (Cardoso et al. 2008, IEEE
    JSTSP 2, 735). CMB and foregrounds are told apart by their spectra in l: nothing need be known of either. Of gains
    it is known that they are 1 within 3 %: a band that sees hardly anything but foregrounds keeps its own. With three
    bands there is one foreground, with two none.

    Parameters
    ----------
    spectra : array (nbin, nband, nband)
        No beam in them.
    noise : array (nbin, nband, nband)
    modes : array (nbin,)
        Of which the spectra are means.
    reference : int
        The band whose gain is 1.

    Returns
    -------
    gains, errors : array (nband,)
        The errors are of the curvature of the probability at its top.

    Examples
    --------
    A band that is two percent too bright, without noise to speak of:

    >>> g = np.array([1, 1.02])
    >>> cmb = np.array([2.0, 1.0])[:, None, None] * np.outer(g, g)
    >>> noise = np.array([1e-4 * np.eye(2)] * 2)
    >>> found, error = gains(cmb + noise, noise, np.full(2, 1e6), 0)
    >>> found.round(4).tolist(), error.round(5).tolist()
    ([1.0, 1.02], [0.0, 1e-05])
    """
    fit = _Fit(spectra, noise, modes, reference)
    found = fit.start()
    for unknown in (_UNKNOWN / 100, _UNKNOWN):  # foregrounds first, lest one of them be taken for the CMB
        fit.prior = 1 / (unknown**2 * modes.sum())
        found = minimize(fit, found, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).x
    curvature = approx_fprime(found, lambda values: fit(values)[1], _STEP)
    variance = 2 / modes.sum() * np.diag(np.linalg.pinv(curvature))
    errors = np.zeros(len(spectra[0]))
    errors[fit.calibrated] = np.sqrt(np.maximum(variance[: len(fit.calibrated)], 0))
    return fit.parts(found)[0], errors


class _Fit:
    """-2 log of the probability over the number of modes, and its derivatives.

    The scale of the foregrounds is fixed where they are brightest over the CMB, in the first and in the last band:
    A is the unit matrix there. F = L L^T, L lower triangular.
    """

    def __init__(self, spectra: np.ndarray, noise: np.ndarray, modes: np.ndarray, reference: int):
        self.scale = np.median(spectra[:, reference, reference])
        self.spectra = spectra / self.scale
        self.noise = noise / self.scale
        self.weight = modes / modes.sum()
        self.prior = 0.0  # weight of the square of a gain less 1
        nbin, nband, _ = spectra.shape
        shapes = min(_SHAPES, nband - 2)
        self.fixed = [0, nband - 1][:shapes]
        self.calibrated = np.delete(np.arange(nband), reference)
        self.others = np.delete(np.arange(nband), self.fixed)
        self.lower = np.tril_indices(shapes)
        self.sizes = np.cumsum([nband - 1, (nband - shapes) * shapes, nbin])

    def parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gains (nband,), A (nband, shapes), log of the power of the CMB (nbin,), and L (nbin, shapes, shapes)."""
        of_gains, of_mixing, of_cmb, of_lower = np.split(values, self.sizes)
        nbin, nband, _ = self.spectra.shape
        shapes = len(self.fixed)
        gain = np.ones(nband)
        gain[self.calibrated] += of_gains
        mixing = np.zeros((nband, shapes))
        mixing[self.fixed] = np.eye(shapes)
        mixing[self.others] = of_mixing.reshape(len(self.others), shapes)
        root = np.zeros((nbin, shapes, shapes))
        root[:, *self.lower] = of_lower.reshape(nbin, -1)
        return gain, mixing, of_cmb, root

    def joined(self, gain: np.ndarray, mixing: np.ndarray, cmb: np.ndarray, root: np.ndarray) -> np.ndarray:
        """What `parts` takes apart, without what is fixed."""
        free = gain[self.calibrated], mixing[self.others].ravel(), cmb, root[:, *self.lower].ravel()
        return np.concatenate(free)

    def start(self) -> np.ndarray:
        """Gains of 1, the CMB of the band with the least power, and foregrounds of neighbours that are alike."""
        diagonal = np.einsum("bii->bi", self.spectra)
        cmb = diagonal.min(axis=1)
        away = np.abs(np.arange(diagonal.shape[1])[:, None] - np.array(self.fixed, dtype=int))
        left = diagonal - np.einsum("bii->bi", self.noise) - cmb[:, None]
        power = np.maximum(left[:, self.fixed], 1e-4 * cmb[:, None])
        root = np.eye(len(self.fixed)) * np.sqrt(power)[:, None]
        return self.joined(np.zeros_like(diagonal[0]), np.exp(-away), np.log(cmb), root)

    def __call__(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient, with d(-2 log L) / dC = C^-1 - C^-1 S C^-1."""
        gain, mixing, log_cmb, root = self.parts(values)
        cmb = np.exp(np.minimum(log_cmb, _FAR))
        foregrounds = mixing @ root
        model = cmb[:, None, None] * np.outer(gain, gain) + foregrounds @ foregrounds.transpose(0, 2, 1) + self.noise
        try:
            inverse = np.linalg.inv(model)
        except np.linalg.LinAlgError:  # a step that went too far
            return np.inf, np.zeros_like(values)
        ratio = inverse @ self.spectra
        value = self.weight @ (np.trace(ratio, axis1=1, axis2=2) + np.linalg.slogdet(model)[1])
        value += self.prior * ((gain - 1) ** 2).sum()
        slope = self.weight[:, None, None] * (inverse - ratio @ inverse)
        of_gain = slope @ gain
        of_foregrounds = 2 * slope @ foregrounds
        gradient = self.joined(
            2 * (cmb @ of_gain + self.prior * (gain - 1)),
            (of_foregrounds @ root.transpose(0, 2, 1)).sum(axis=0),
            cmb * (of_gain @ gain),
            mixing.T @ of_foregrounds,
        )
        return float(value), gradient
