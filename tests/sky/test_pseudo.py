"""Coupled spectra and pure B: against ducc0's matrices, 3j symbols one by one, all modes of a sky, and Monte Carlo."""

import ducc0
import numpy as np
import pytest
from camb.mathutils import threej

from cmbml.sky import pseudo, sht
from cmbml.sky.lensing_theory import fiducial
from cmbml.sky.likelihood import Likelihood, modes_and_correlation
from cmbml.sky.masks import apodise, band_mask, f_sky
from cmbml.sky.spectra import bin_edges, bin_spectrum


def random_alm(rng, lmax, cl=None):
    alm = (rng.standard_normal(sht.alm_size(lmax)) + 1j * rng.standard_normal(sht.alm_size(lmax))) / np.sqrt(2)
    alm[: lmax + 1] = alm[: lmax + 1].real * np.sqrt(2)
    return alm if cl is None else sht.almxfl(alm, np.sqrt(cl))


@pytest.mark.parametrize("lmax", [30, 200])
def test_coupling_is_ducc0s(lmax):
    """1e-12 of the largest element: far from the diagonal both lose digits, where nothing is coupled."""
    window_cl = np.random.default_rng(1).uniform(0.5, 1, 2 * lmax + 1) / (1 + np.arange(2 * lmax + 1)) ** 3
    theirs = np.empty((3, lmax + 1, lmax + 1))
    ducc0.misc.experimental.coupling_matrix_rect(np.stack([window_cl, window_cl]), (0, 4), theirs)
    theirs *= 2 * np.arange(lmax + 1) + 1
    ours = [pseudo.scalar_coupling(window_cl, lmax), *pseudo.spin2_coupling(window_cl, lmax)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a[2:, 2:], b[2:, 2:], rtol=0, atol=1e-12 * b.max())


def test_pure_coupling_is_the_sum_over_symbols():
    """The three terms of pure B, each with its symbol (Grain et al. 2009, appendix): of odd parity they cancel."""
    lmax, last = 9, 6
    window_cl = np.random.default_rng(2).uniform(0.5, 1, last + 1)
    expected = np.zeros((lmax + 1, lmax + 1))
    leaked = np.zeros((lmax + 1, lmax + 1))
    for l1 in range(2, lmax + 1):
        for l2 in range(2, lmax + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, last) + 1):
                weights = (
                    1.0,
                    2 * np.sqrt(l3 * (l3 + 1) / ((l1 - 1) * (l1 + 2))),
                    np.sqrt((l3 + 2) * (l3 + 1) * l3 * (l3 - 1) / ((l1 + 2) * (l1 + 1) * l1 * (l1 - 1))),
                )
                total = 0.0
                for i, weight in enumerate(weights):
                    least = max(abs(l1 - l2), i)
                    total += weight * (threej(l1, l2, 2 - i, -2)[l3 - least] if l3 >= least else 0.0)
                power = (2 * l2 + 1) / (4 * np.pi) * (2 * l3 + 1) * window_cl[l3] * total**2
                (leaked if (l1 + l2 + l3) % 2 else expected)[l1, l2] += power
    np.testing.assert_allclose(pseudo.pure_coupling(window_cl, lmax), expected, atol=1e-12 * expected.max())
    assert leaked.max() < 1e-12 * expected.max()


class Exact:
    """Transforms without quadrature errors: fields of a window of band limit ``last`` times a sky to ``lmax``."""

    def __init__(self, lmax, last):
        self.grid = lmax + last
        window = random_alm(np.random.default_rng(3), last)
        self.cl = sht.alm2cl(window)
        self.fields = pseudo._derivatives(window, self.synthesis)

    def synthesis(self, alm, spin):
        field = sht.synthesis_gl(np.atleast_2d(alm), self.grid, spin=spin)
        return field if spin == 0 else np.stack([field.real, field.imag])

    def analysis(self, field, spin):
        if spin:
            return sht.analysis_gl(field, self.grid, self.grid, spin=spin)
        parts = [sht.analysis_gl(part, self.grid, self.grid, spin=0)[0] for part in (field.real, field.imag)]
        return np.stack(parts)

    def pure_b(self, eb):
        return pseudo._pure_b(sht.synthesis_gl(eb, self.grid, spin=2), self.fields, self.grid, self.analysis)


def test_e_does_not_enter_pure_b():
    """It does enter the B of spin 2, by as much as B does."""
    lmax = 24
    sky = Exact(lmax, 12)
    alm = random_alm(np.random.default_rng(4), lmax, (np.arange(lmax + 1) >= 2).astype(float))
    e_alone, b_alone = np.stack([alm, 0 * alm]), np.stack([0 * alm, alm])
    standard = sky.analysis(sky.fields[0] * sht.synthesis_gl(e_alone, sky.grid, spin=2), 2)[1]
    leaked = np.abs(sky.pure_b(e_alone)).max()
    assert np.abs(standard).max() > 0.5
    assert leaked < 1e-10
    assert np.abs(sky.pure_b(b_alone)).max() > 0.5


def test_pure_coupling_is_that_of_pure_alms():
    """All modes of B, one after the other: their summed power is the mean pseudo-spectrum exactly."""
    lmax = 5
    sky = Exact(lmax, 3)
    columns = np.zeros((sky.grid + 1, lmax + 1))
    for m in range(lmax + 1):
        for ell in range(max(m, 2), lmax + 1):
            for amplitude in (1.0,) if m == 0 else (np.sqrt(0.5), 1j * np.sqrt(0.5)):
                eb = np.zeros((2, sht.alm_size(lmax)), dtype=complex)
                eb[1, m * (2 * lmax + 1 - m) // 2 + ell] = amplitude
                columns[:, ell] += sht.alm2cl(sky.pure_b(eb))
    expected = pseudo.pure_coupling(sky.cl, sky.grid)[:, : lmax + 1]
    np.testing.assert_allclose(columns, expected, atol=1e-12 * expected.max())


def test_bins_that_leave_out_multipoles_are_refused():
    with pytest.raises(ValueError, match="reach from l = 2 to 30, and not 20 to 30"):
        pseudo.decoupling(np.eye(31), np.array([20, 31]))


class CutSkies:
    """Skies of E and B in the part of the sky beyond 20 degrees from the equator, and their pure bandpowers."""

    def __init__(self, nside, lmax, width, ee, bb):
        self.nside = nside
        self.lmax = lmax
        self.ee = ee
        self.bb = bb
        mask = apodise(band_mask(nside, 20.0), 15.0)
        self.window = pseudo.window_of(mask, lmax)
        self.edges = bin_edges(2, lmax + 1, width)
        coupling = pseudo.pure_coupling(self.window.cl, lmax)
        self.unbiased, self.windows = pseudo.decoupling(coupling, self.edges)
        square = sht.alm2cl(sht.analysis(mask**2, lmax))
        self.covariance = self.unbiased @ pseudo.covariance(coupling @ bb, square, f_sky(mask)) @ self.unbiased.T
        modes = f_sky(mask) ** 2 / f_sky(mask, 4) * np.diff(self.edges**2)
        self.knox = np.sqrt(2 / modes) * bin_spectrum(bb, self.edges)

    def qu(self, rng):
        eb = np.stack([random_alm(rng, self.lmax, cl) for cl in (self.ee, self.bb)])
        return sht.synthesis(eb, self.nside, spin=2)

    def bandpowers(self, rng):
        return self.unbiased @ sht.alm2cl(pseudo.pure_b_alm(self.qu(rng), self.window, self.lmax))

    def standard_bandpowers(self, rng):
        """With the mean of the E that leaks; only their scatter is of interest."""
        same, _ = pseudo.spin2_coupling(self.window.cl, self.lmax)
        alm = sht.analysis(self.qu(rng) * self.window.fields[0].real, self.lmax, spin=2)[1]
        return pseudo.decoupling(same, self.edges)[0] @ sht.alm2cl(alm)


def check_bandpowers(skies, count, used, *, bias, scatter):
    """Mean and scatter of many skies, in bins: within limits, and the mean within its error."""
    rng = np.random.default_rng(5)
    powers = np.array([skies.bandpowers(rng) for _ in range(count)])
    off = (powers.mean(0) / (skies.windows @ skies.bb) - 1)[used]
    sigma = powers.std(0, ddof=1)
    error = (sigma / np.sqrt(count) / (skies.windows @ skies.bb))[used]
    knox = (sigma / skies.knox)[used]
    predicted = (sigma / np.sqrt(np.diag(skies.covariance)))[used]
    print(f"bias {off} +- {error}, scatter / Knox {knox}, / covariance {predicted}")
    assert np.all(np.abs(off) < bias)
    assert np.sum((off / error) ** 2) < used.sum() + 3 * np.sqrt(2 * used.sum())
    assert np.all(knox < scatter)
    np.testing.assert_allclose(predicted, 1, atol=0.05 + 3 / np.sqrt(2 * count))


def test_pure_bandpowers_of_skies():
    """E a hundred times B, and growing; few and small skies."""
    lmax = 64
    ell = np.arange(lmax + 1)
    bb = np.where(ell >= 2, 1.0, 0.0)
    skies = CutSkies(nside=32, lmax=lmax, width=10, ee=bb * (1 + 3.0 * ell), bb=bb)
    check_bandpowers(skies, 60, (skies.edges[:-1] >= 30) & (skies.edges[1:] <= 58), bias=0.03, scatter=1.35)


@pytest.mark.slow
def test_pure_bandpowers_of_many_skies():
    """The CMB's E, 20 to 400 times B. At l >= 30 unbiased within 2 %, and the scatter at most 1.25 of Knox's."""
    cls = {name: cl[:129] for name, cl in fiducial().items()}
    skies = CutSkies(nside=64, lmax=128, width=14, ee=cls["lensed_ee"], bb=cls["lensed_bb"])
    check_bandpowers(skies, 500, (skies.edges[:-1] >= 30) & (skies.edges[1:] <= 115), bias=0.02, scatter=1.25)


@pytest.mark.slow
def test_standard_bandpowers_scatter_more():
    """By the E that leaks, here of a wide taper and B that is all of the lensing; pure B scatters by 1.05 of Knox's."""
    cls = {name: cl[:129] for name, cl in fiducial().items()}
    skies = CutSkies(nside=64, lmax=128, width=14, ee=cls["lensed_ee"], bb=cls["lensed_bb"])
    rng = np.random.default_rng(7)
    powers = np.array([skies.standard_bandpowers(rng) for _ in range(100)])
    knox = powers.std(0, ddof=1) / skies.knox
    print(f"from {skies.edges[:-1]}: scatter / Knox {knox}")
    assert np.all(knox[(skies.edges[:-1] >= 30) & (skies.edges[1:] <= 115)] > 1.25)


@pytest.mark.slow
def test_r_of_many_cut_skies():
    """From Q and U to r, with modes and correlation of the analytic covariance: bias, and coverage of the interval."""
    r, lmax = 0.02, 128
    cls = {name: cl[: lmax + 1] for name, cl in fiducial().items()}
    tensor = cls["bb"] / 0.01
    rest = 0.3 * (cls["lensed_bb"] - cls["bb"]) + np.where(np.arange(lmax + 1) >= 2, 2e-8, 0)
    skies = CutSkies(nside=64, lmax=lmax, width=14, ee=cls["lensed_ee"], bb=r * tensor + rest)
    used = (skies.edges[:-1] >= 30) & (skies.edges[1:] <= 115)
    covariance = skies.covariance[np.ix_(used, used)]
    modes, correlation = modes_and_correlation(covariance, (skies.windows @ skies.bb)[used])
    likelihood = Likelihood((skies.windows @ tensor)[None, used], (skies.windows @ rest)[used], modes, correlation)
    rng = np.random.default_rng(6)
    fit = likelihood.fit(np.array([skies.bandpowers(rng)[used] for _ in range(400)]))
    found = fit.best[:, 0]
    coverage = np.mean((fit.low < r) & (r < fit.high))
    scatter = found.std(ddof=1)
    print(f"r {found.mean():.5f} +- {scatter / 20:.5f}, sigma {fit.sigma.mean():.5f}, seen {scatter:.5f}, {coverage=}")
    assert abs(found.mean() - r) < 2.5 * scatter / 20
    assert fit.sigma.mean() == pytest.approx(scatter, rel=0.12)
    assert 0.62 < coverage < 0.74
