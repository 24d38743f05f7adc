"""Coupled spectra and pure B: against ducc0's matrices, 3j symbols one by one, all modes of a sky, and Monte Carlo."""

import ducc0
import numpy as np
import pytest
from camb.mathutils import threej

from cmbml.sky import pseudo, sht
from cmbml.sky.lensing_theory import fiducial
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


def spectra_of_skies(nside, lmax, count, seed=5):
    """Pure bandpowers of skies in a cap, and what is expected: means, errors, bins."""
    cls = fiducial()
    ee, bb = (cls[name][: lmax + 1] for name in ("lensed_ee", "lensed_bb"))
    mask = apodise(band_mask(nside, 20.0), 15.0)
    window = pseudo.window_of(mask, lmax)
    edges = bin_edges(2, lmax + 1, 14)
    coupling = pseudo.pure_coupling(window.cl, lmax)
    unbiased, windows = pseudo.decoupling(coupling, edges)
    rng = np.random.default_rng(seed)
    powers = []
    for _ in range(count):
        eb = np.stack([random_alm(rng, lmax, ee), random_alm(rng, lmax, bb)])
        alm = pseudo.pure_b_alm(sht.synthesis(eb, nside, spin=2), window, lmax)
        powers.append(unbiased @ sht.alm2cl(alm))
    square = sht.alm2cl(sht.analysis(mask**2, lmax))
    scatter = unbiased @ pseudo.covariance(coupling @ bb, square, f_sky(mask)) @ unbiased.T
    modes = f_sky(mask) ** 2 / f_sky(mask, 4) * bin_spectrum(np.ones(lmax + 1), edges) * np.diff(edges**2)
    knox = np.sqrt(2 / modes) * bin_spectrum(bb, edges)
    return np.array(powers), windows @ bb, np.sqrt(np.diag(scatter)), knox, edges


@pytest.mark.slow
def test_pure_bandpowers_of_many_skies():
    """At l >= 30: unbiased within 2 % and within errors; scatter near Knox's, and near what `covariance` says."""
    powers, expected, scatter, knox, edges = spectra_of_skies(nside=64, lmax=128, count=500)
    used = (edges[:-1] >= 30) & (edges[1:] <= 115)
    assert used.sum() >= 5
    bias = (powers.mean(0) / expected - 1)[used]
    sigma = powers.std(0, ddof=1)
    error = (sigma / np.sqrt(len(powers)) / expected)[used]
    print("bias", bias, "+-", error, "scatter / Knox", (sigma / knox)[used], "/ covariance", (sigma / scatter)[used])
    assert np.all(np.abs(bias) < 0.02)
    assert np.sum((bias / error) ** 2) < 2.5 * used.sum()
    assert np.all((sigma / knox)[used] < 1.25)
    assert np.all((sigma / knox)[used] > 0.9)
    np.testing.assert_allclose((sigma / scatter)[used], 1, atol=0.12)
