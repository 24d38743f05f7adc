"""Results of cleaning methods that nobody ran: skies of flat spectra, and maps whose measured numbers are closed forms.

The real `Measure` stage measures them; the records that other stages would have left are written by hand.
"""

import json

import healpy as hp
import numpy as np
from omegaconf import DictConfig

from cmbml.analysis.cleaning.measure import Measure
from cmbml.core.asset import Assets
from cmbml.core.pipeline import Pipeline
from cmbml.core.provenance import digest
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from tests.analysis.standin import LMAX, NSIDE, draw, write

C, N, FWHM_ARCMIN = 4.0, 0.04, 450.0
SEEN = 0.3  # the mask leaves what is farther than this from the equator's plane
BANDS = ("100", "143", "217", "353")
# Method -> (what it keeps of the CMB, amplitude of its noise, the bands that it reads; None: it reads the truth).
METHODS = {
    "baseline": (1.0, 0.0, None), "plain": (1.0, 1.0, BANDS), "worse": (1.0, 1.5, BANDS[1:3]), "low": (0.9, 1.0, BANDS),
}  # fmt: skip
WORDS = (
    "dataset=standin", f"nside={NSIDE}", f"sky.lmax={LMAX}", "instrument=toy", "mask=band", "method=perfect_ilc",
    "splits.test=6", "analysis.fwhm_arcmin=500", "analysis.band=[2,40]", "analysis.bands=[[2,20],[20,40]]",
    "analysis.delta_l=13", "analysis.zoom=[0,60,80]",
)  # fmt: skip


def make(cfg: DictConfig, name: str, *, factor: float = 1.0, field: str = "T") -> None:
    """Write the dataset, and the results of one of ``METHODS``; ``factor`` is the noise level of the dataset."""
    assets = Assets(cfg.assets.files, {**cfg.assets.constants, "method": name})
    cfg.method.name = name
    keep, noise, bands = METHODS[name]
    z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))[2]
    write(assets, {}, {"mask": SkyMap(np.float32(np.abs(z) > SEEN)[None], ("mask",), "1", 0.0, LMAX)})
    for sim in range(cfg.splits.test):
        item, rng = {"split": "test", "sim": sim}, np.random.default_rng(sim)
        truth, error = draw(rng, C), draw(rng, N)
        alms = dict.fromkeys("TEB", np.zeros_like(truth)) | {field: truth}
        found = sht.almxfl(keep * truth + noise * error, gaussian_beam(FWHM_ARCMIN, LMAX))
        write(assets, item, {"lensed_alm": alms, "cmb_map": _sky(truth, field, 0.0),
                             "prediction": _sky(found, field, FWHM_ARCMIN)})  # fmt: skip
        prints = {band: digest(factor, sim, band) for band in BANDS}
        folder = assets.file("lensed_alm", item).path.parent
        for band, known in prints.items():
            seen = {"fingerprint": known, "settings": {"noise.factor": factor, "foregrounds.kind": "synthetic"}}
            (folder / f".obs_{band}_map.fits.json").write_text(json.dumps(record("observe", item, {}) | seen))
        known = {"lensed_alm": {"l": "x"}} if bands is None else {"band": {b: prints[b] for b in bands}}
        path = assets.file("prediction", item).path
        path.with_name(".prediction_map.fits.json").write_text(json.dumps(record("predict", item, known)))
    if name == "low":
        path = assets.file("model", {}).path
        path.with_name(".model.pt.json").write_text(json.dumps(record("train", {}, {}) | {"peak_gb": None}))
    Pipeline([Measure(cfg)], assets).run()


def record(stage: str, item: dict, inputs: dict) -> dict:
    """Sidecar that a stage would have left."""
    own = {"seconds": 2.0 + item.get("sim", 98), "peak_gb": 0.25, "git": {"commit": "c" * 40, "dirty": False}}
    return {"stage": stage, "item": item, "inputs": inputs, "settings": {}, "packages": {"cmbml": "1"}, **own}


def _sky(alm: np.ndarray, field: str, fwhm_arcmin: float) -> SkyMap:
    return SkyMap(sht.synthesis(alm, NSIDE)[None], (field,), "uK_CMB", fwhm_arcmin, LMAX)
