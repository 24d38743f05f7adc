"""What the analysis of the maps makes of a sky: measured on the training skies, for the filters of all methods."""

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import masked
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import f_sky
from cmbml.sky.measured_noise import seen_through, transfer_and_noise


def is_measured(cfg: DictConfig) -> bool:
    """Whether the filters know the observation by the training skies, and not by the table of the instrument."""
    return bool(cfg.delens.noise == "measured" and cfg.splits.train)


class ObservedNoise(Stage):
    """Transfer and noise of the observed T, E and B, by comparison with the true lensed alms of the training skies.

    Above 2 nside a HEALPix analysis loses a few percent of the signal and takes other multipoles' for it; cleaned maps
    hold what their foregrounds have left. Nothing of this is assumed here: whatever an observation has not in common
    with its sky is noise. On a masked sky the truth is given the mask as well, without pixels, and the noise is that of
    the full sky: its power over the mean of mask^2. What a mask without taper has beyond the band limit is noise, too.
    """

    name = "observed_noise"
    inputs = (
        Every("obs_alm", split="train"),
        Every("lensed_alm", split="train"),
        Optional("mask", when=masked),
    )
    outputs = ("observed_noise",)
    uses = ("delens.fwhm_arcmin", "sky.lmax")
    reads = ("delens.noise", "splits.train", "mask.kind")
    memory = "17 alm"

    def items(self) -> list[Item]:
        """One item if anything is measured."""
        return [{}] if is_measured(self.cfg) else []

    def run(
        self, item: Item, *, obs_alm: Files, lensed_alm: Files, mask: SkyMap | None = None
    ) -> dict[str, np.ndarray]:
        """``transfer_x`` and ``noise_x`` (lmax + 1,) of the observed x = t, e, b, uK^2 with the beam; ``skies``."""
        lmax = self.cfg.sky.lmax
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, lmax)
        weights = None if mask is None else sht.analysis(mask["mask"].astype(float), lmax)
        part = 1.0 if mask is None else f_sky(mask["mask"])
        spectra: dict[str, np.ndarray] = {}
        for seen, lensed in zip(obs_alm, lensed_alm, strict=True):
            true = {x: sht.almxfl(alm.astype(np.complex128), beam) for x, alm in lensed.items()}
            true = true if weights is None else _through(true, weights)
            for x, alm in seen.items():
                found = [sht.alm2cl(*pair) for pair in ((alm, None), (alm, true[x]), (true[x], None))]
                spectra[x] = spectra.get(x, 0.0) + np.stack(found) / len(obs_alm)
        out = {"skies": np.array(len(obs_alm))}
        for x, means in spectra.items():
            transfer, noise = transfer_and_noise(*means, skies=part * len(obs_alm))
            out |= {f"transfer_{x.lower()}": transfer, f"noise_{x.lower()}": noise / part}
        return out


def _through(alms: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """T, E and B of a masked sky; ``weights`` are the alms of the mask."""
    e, b = seen_through(np.stack([alms["E"], alms["B"]]), weights, spin=2)
    return {"T": seen_through(alms["T"][None], weights, spin=0)[0], "E": e, "B": b}
