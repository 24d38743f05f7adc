"""What the analysis of the maps makes of a sky: measured on the training skies, for the filters of all methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cmbml.config.resolvers import of_model
from cmbml.config.truth import masked, purified
from cmbml.core.asset import Every, File, Files, Item, Optional
from cmbml.core.errors import demand
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sky import pseudo, sht
from cmbml.sky.beams import gaussian_beam
from cmbml.sky.masks import f_sky
from cmbml.sky.measured_noise import seen_through, transfer_and_noise

WORDS = ("measured", "theory")  # any other value of delens.noise is a file
NAMES = tuple(f"{kind}_{x}" for kind in ("transfer", "noise") for x in "teb")


def is_measured(cfg: DictConfig) -> bool:
    """Whether the filters know the observation by the training skies, and not by the table of the instrument."""
    return bool(cfg.delens.noise == "measured" and cfg.splits.train)


def is_measured_behind_a_mask(cfg: DictConfig) -> bool:
    """Whether they are measured there on a masked sky."""
    return is_measured(cfg) and masked(cfg)


def is_given(cfg: DictConfig) -> bool:
    """Whether a file holds what was measured on the training skies of another dataset."""
    return cfg.delens.noise not in WORDS


def is_known(cfg: DictConfig) -> bool:
    """Whether the filters are of measured noise, wherever that was measured."""
    return is_measured(cfg) or is_given(cfg)


class ObservedNoise(Stage):
    """Transfer and noise of the observed T, E and B, by comparison with the true lensed alms of the training skies.

    Above 2 nside a HEALPix analysis loses a few percent of the signal and takes other multipoles' for it; cleaned maps
    hold what their foregrounds have left. Nothing of this is assumed here: whatever an observation has not in common
    with its sky is noise. On a masked sky the truth is given the mask as well, without pixels, and the noise is that of
    the full sky: its power over the mean of mask^2. What a mask without taper has beyond the band limit is noise, too.

    With a file as `delens.noise` it is what this stage has made of another dataset, whose skies were observed alike.
    """

    name = "observed_noise"
    inputs = (
        Optional(Every("obs_alm", split="train"), Every("lensed_alm", split="train"), when=is_measured),
        Optional("mask", when=is_measured_behind_a_mask),
    )
    outputs = ("observed_noise",)
    uses = ("delens.fwhm_arcmin", "sky.lmax")
    reads = ("delens.noise", "splits.train", "mask.kind", "mask.apodise_deg", "sims.combine")
    memory = "17 alm"

    def items(self) -> list[Item]:
        """One item if anything is measured, or given."""
        return [{}] if is_known(self.cfg) else []

    @property
    def given(self) -> Path:
        """The file that is given."""
        return of_model("delens.noise", self.cfg.delens.noise, "observed_noise.npz", WORDS)

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """That file, if there is one."""
        return {"delens.noise": [self.given]} if is_given(self.cfg) else {}

    def check(self) -> None:
        """Refuse a file that holds something else."""
        if is_given(self.cfg):
            self.read_given()

    def read_given(self) -> dict[str, np.ndarray]:
        """What the file holds.

        Raises
        ------
        UserError
            When it lacks a spectrum, or has one of another length or with impossible values.
        """
        held = File(self.given).read()
        lmax = self.cfg.sky.lmax
        for x in NAMES:
            cl = held.get(x, np.array("none"))
            least = np.finfo(float).tiny if x.startswith("transfer") else 0.0
            good = cl.shape == (lmax + 1,) and cl.dtype.kind == "f" and bool((np.isfinite(cl) & (cl >= least)).all())
            demand(
                good,
                f"delens.noise={self.given} has no spectrum {x} of l = 0 .. {lmax} (sky.lmax); give the"
                " observed_noise.npz of a dataset of this nside, band limit, beam and noise.",
            )
        skies = held.get("skies", np.array(0))
        demand(
            skies.shape == () and skies.dtype.kind == "i" and int(skies) > 0,
            f"delens.noise={self.given} does not say on how many skies it was measured; give an observed_noise.npz.",
        )
        return {x: held[x].astype(float) for x in NAMES} | {"skies": skies}

    def run(
        self, item: Item, *, obs_alm: Files | None = None, lensed_alm: Files | None = None, mask: SkyMap | None = None
    ) -> dict[str, np.ndarray]:
        """``transfer_x`` and ``noise_x`` (lmax + 1,) of the observed x = t, e, b, uK^2 with the beam; ``skies``."""
        if obs_alm is None or lensed_alm is None:
            return self.read_given()
        lmax = self.cfg.sky.lmax
        beam = gaussian_beam(self.cfg.delens.fwhm_arcmin, lmax)
        weights = None if mask is None else sht.analysis(mask["mask"].astype(float), lmax)
        pure = purified(self.cfg)
        part = 1.0 if mask is None else f_sky(mask["mask"])
        spectra: dict[str, np.ndarray] = {}
        for seen, lensed in zip(obs_alm, lensed_alm, strict=True):
            true = {x: sht.almxfl(alm.astype(np.complex128), beam) for x, alm in lensed.items()}
            true = true if weights is None else _through(true, weights, pure=pure)
            for x, alm in seen.items():
                found = [sht.alm2cl(*pair) for pair in ((alm, None), (alm, true[x]), (true[x], None))]
                spectra[x] = spectra.get(x, 0.0) + np.stack(found) / len(obs_alm)
        out = {"skies": np.array(len(obs_alm))}
        for x, means in spectra.items():
            transfer, noise = transfer_and_noise(*means, skies=part * len(obs_alm))
            out |= {f"transfer_{x.lower()}": transfer, f"noise_{x.lower()}": noise / part}
        return out


def _through(alms: dict[str, np.ndarray], weights: np.ndarray, *, pure: bool) -> dict[str, np.ndarray]:
    """T, E and B of a masked sky, or its pure B; ``weights`` are the alms of the mask."""
    e, b = seen_through(np.stack([alms["E"], alms["B"]]), weights, spin=2)
    if pure:
        b = pseudo.pure_through(alms["B"], lambda alm: seen_through(alm[None], weights, spin=0)[0])
    return {"T": seen_through(alms["T"][None], weights, spin=0)[0], "E": e, "B": b}
