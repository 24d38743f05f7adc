"""Results of methods that nobody ran: Gaussian skies of one field, and maps whose measured numbers are closed forms.

The skies are flat in C_l: primordial CU, lensing CS and noise CN, independent. The real stages measure them.
"""

import healpy as hp
import numpy as np
from omegaconf import DictConfig

from cmbml.analysis import projections
from cmbml.analysis.delensing.measure import Baseline, Measure
from cmbml.core import handlers
from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam

NSIDE, LMAX, FWHM_ARCMIN = 16, 40, 200.0  # estimates hold B from l = 39 on: sigma(r) is of l <= 29
CU, CS, CN = 1.0, 4.0, 0.4
W = CS / (CS + CN)
# What a method estimates, and what it subtracts from the observed map o: made from the lensing s, an independent error
# m of the same power, and o.
TEMPLATES = {
    "good": ("kappa", lambda s, m, o: 0.8 * s + 0.2 * m),
    "half": ("lensing", lambda s, m, o: 0.5 * s),
    "trap": ("lensing", lambda s, m, o: W * o),
    "smooth": ("unlensed", lambda s, m, o: (1 - CU / (CU + CS + CN)) * o),
}
A_RES = {"good": 0.08, "half": 0.25}
WORDS = (
    "dataset=standin", f"nside={NSIDE}", f"sky.lmax={LMAX}", "patches.patch=8", "patches.halo=4", "delens.lmin_b=39",
    f"instrument.fwhm_arcmin={FWHM_ARCMIN}", f"analysis.lmax={LMAX}", "analysis.band=[2,40]", "analysis.r.band=[2,40]",
    "analysis.delta_l=13", "analysis.zoom=[0,60,80]", "train.batch_size=2",
)  # fmt: skip


def draw(rng: np.random.Generator, cl: float) -> np.ndarray:
    """Alms (nalm,) of a flat spectrum from l = 2."""
    ell, m = hp.Alm.getlm(LMAX)
    pair = rng.standard_normal((2, len(ell)))
    alm = np.where(m == 0, pair[0], (pair[0] + 1j * pair[1]) / np.sqrt(2))
    return np.where(ell >= 2, np.sqrt(cl) * alm, 0)


def make(cfg: DictConfig, *, seed: int = 0) -> None:
    """Write the dataset, and the results of the method `method.name`, which is one of ``TEMPLATES``."""
    assets = Assets(cfg.assets.files, cfg.assets.constants)
    beam = gaussian_beam(FWHM_ARCMIN, LMAX)
    field, (_, template) = cfg.delens.field, TEMPLATES[cfg.method.name]

    def sky(alm: np.ndarray) -> SkyMap:
        data = sht.synthesis(sht.almxfl(alm, beam), NSIDE)
        return SkyMap(data[None], (field,), "uK_CMB", FWHM_ARCMIN, LMAX)

    curve = np.linspace(0.2, 0.4, LMAX + 1)
    truth = {"bb_tensor": np.full(LMAX + 1, CU), "bb_lensing": np.full(LMAX + 1, CS)}
    truth["noise_b"] = np.full(LMAX + 1, CN)
    truth |= {"residual_quadratic": curve, "residual_iterative": curve / 2}
    truth |= {"wiener_phi": np.full(LMAX + 1, 0.5)}
    values = {"filters": truth}
    write(assets, {}, values)
    for sim in range(cfg.splits.test):
        rng = np.random.default_rng([seed, sim])
        u, s, n, m = (draw(rng, cl) for cl in (CU, CS, CN, CS))
        observed = u + s + n
        kappa = draw(rng, 1e-4)
        nothing = dict.fromkeys([*"TEB", "kappa"], np.zeros_like(u))
        values = {
            "unlensed_alm": nothing | {field: u, "kappa": kappa},
            "lensed_alm": nothing | {field: u + s},
            "obs": sky(observed),
            "prediction": sky(observed - template(s, m, observed)),
            "lensing_template": sky(template(s, m, observed)),
        }
        if cfg.method.target == "kappa":
            found = sht.synthesis(0.5 * kappa, NSIDE)
            values["estimate"] = SkyMap(found[None], ("kappa",), "1", 0.0, LMAX)
        write(assets, {"split": "test", "sim": sim}, values)
    Pipeline([Baseline(cfg), Measure(cfg)], assets).run()


def quickly(monkeypatch, *, pdf: bool) -> None:
    """Let figures be of few points and, unless PDF files are looked at, not be drawn a second time for them."""
    monkeypatch.setitem(projections.STYLE, "figure.dpi", 40)
    if not pdf:
        nothing = handlers._HANDLERS[".pdf"][0], lambda path, figure: path.write_bytes(b"")
        monkeypatch.setitem(handlers._HANDLERS, ".pdf", nothing)


def write(assets: Assets, item: dict, values: dict) -> None:
    """Write what is not there; the files of the dataset stay as they are for the next method."""
    for name, value in values.items():
        file = assets.file(name, item)
        if not file.exists():
            file.write(value)
