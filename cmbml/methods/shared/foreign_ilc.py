"""What the adapters to needlet ILCs of others share: settings by the names that users of pyilc know."""

import numbers
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from omegaconf import DictConfig

from cmbml.core.asset import Every, Item
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.needlet_peaks import peaks_by_rule
from cmbml.sims.bands import BandStage
from cmbml.sky import sht


class ForeignIlc(BandStage):
    """A stage that hands the bands of a test sky to another program's ILC and takes its map back.

    Attributes
    ----------
    lmax : int
        `method.ELLMAX`; null: what `method.ellpeaks` say, or what the pixels hold.
    peaks : list of int
        `method.ellmin` and `method.ellpeaks`; null: those of `cmbml.methods.shared.needlet_peaks`.
    """

    inputs = (Every("band", name="bands"),)
    outputs = ("prediction",)
    uses: ClassVar[tuple[str, ...]] = (
        *BandStage.uses,
        "clean.field",
        "method.ELLMAX",
        "method.N_scales",
        "method.ellmin",
        "method.ellpeaks",
        "method.perform_ILC_at_beam",
        "method.ILC_bias_tol",
    )

    def __init__(self, config: DictConfig):
        """Refuse what the other program would refuse too late, or not at all."""
        super().__init__(config)
        method = self.cfg.method
        most = min(self.cfg.sky.lmax, 3 * self.cfg.sky.nside - 2)
        peaks = method.ellpeaks
        n = method.N_scales
        beam = method.perform_ILC_at_beam
        self.lmax = method.ELLMAX
        if self.lmax is None:
            self.lmax = peaks[-1] - 1 if peaks else min(most, sht.accurate_lmax(self.cfg.sky.nside))
        if not isinstance(self.lmax, int) or not 11 <= self.lmax <= most:
            raise UserError(
                f"method.ELLMAX={self.lmax} must lie between 11 and {most}, the lower of sky.lmax and 3 nside - 2."
            )
        self.peaks = [method.ellmin, *(peaks_by_rule(method.ellmin, self.lmax, n) if peaks is None else peaks)]
        rising = self.peaks == sorted(set(self.peaks)) and self.peaks[-1] == self.lmax + 1
        if not rising or n not in (None, len(self.peaks)):
            raise UserError(
                f"method.ellpeaks={self.peaks[1:]} must be one fewer than N_scales={n}, and rise from"
                f" method.ellmin={method.ellmin} to ELLMAX + 1 = {self.lmax + 1}."
            )
        if not isinstance(beam, numbers.Real | None) or (beam is not None and beam <= 0):
            raise UserError(f"method.perform_ILC_at_beam={beam} must be a positive number of arcmin.")

    def items(self) -> list[Item]:
        """The test skies."""
        return [item for item in self.skies() if item["split"] == "test"]

    def check(self) -> None:
        """Refuse a band without a beam."""
        self.demand_beams()

    def target(self, fwhm_arcmin: Iterable[float]) -> float:
        """Width of the Gaussian beam of the map that is made: what was asked for, or the narrowest of these."""
        return float(self.cfg.method.perform_ILC_at_beam or min(fwhm_arcmin))

    def cleaned(self, data: np.ndarray, fwhm_arcmin: float, note: str) -> SkyMap:
        """Map (npix,) of `clean.field`, uK_CMB, RING."""
        return SkyMap(data[None], (self.cfg.clean.field,), "uK_CMB", fwhm_arcmin, self.lmax, note)
