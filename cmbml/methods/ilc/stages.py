"""The stages of the internal linear combinations: the CMB with its weights, and what of the rest is left in it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import has_foregrounds, has_parts
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.maps.skymap import SkyMap
from cmbml.methods.ilc.scales import Scale, bin_windows, cosine_windows, last_multipole, make_scales
from cmbml.methods.ilc.seds import response
from cmbml.methods.ilc.settings import check, mask_first, needlet_peaks
from cmbml.methods.ilc.weights import apply, fit
from cmbml.sims.bands import BandStage
from cmbml.sky import dipole, sht
from cmbml.sky.beams import gaussian_beam


class IlcStage(BandStage):
    """A stage that works on one field of all bands of a test sky, in harmonic space.

    Where `method.masked` says so, T, or Q and U, are multiplied by the mask first, and the field is that of the masked
    sky: E and B are those of the masked Q and U.
    """

    uses: ClassVar[tuple[str, ...]] = (*BandStage.uses, "clean.field", "method.masked")
    reads: ClassVar[tuple[str, ...]] = (*BandStage.reads, "mask.kind")

    def items(self) -> list[Item]:
        """The test skies."""
        return [{"split": "test", "sim": sim} for sim in range(self.cfg.splits.test)]

    def analysed(self, bands: Files, mask: SkyMap | None) -> tuple[list[str], np.ndarray]:
        """Names of the bands that have the field, and the alms of the field in them, (nband, nalm) to `sky.lmax`."""
        field = self.cfg.clean.field
        alms = {}
        needed = ("T",) if field == "T" else ("Q", "U")
        for i, item in enumerate(bands.items):
            sky_of_band: SkyMap = bands[i]
            if set(needed) <= set(sky_of_band.fields):
                alm = self.alms(self.seen(sky_of_band.select(needed), mask), self.cfg.sky.lmax)
                alms[item["band"]] = alm[int(field == "B")]
        if not alms:
            raise UserError(f"field={field} needs bands with {' and '.join(needed)}, and none of the bands has them.")
        return list(alms), np.stack(list(alms.values()))

    def seen(self, maps: np.ndarray, mask: SkyMap | None) -> np.ndarray:
        """T, (1, npix), or Q and U, (2, npix), times the mask, if there is one.

        Of T of others first goes what is monopole and dipole inside the mask, which would be a step at its border.
        """
        if mask is None:
            return maps
        weights = mask["mask"].astype(np.float64)
        if len(maps) == 1 and not has_parts(self.cfg):
            maps, _ = dipole.without_dipole(maps * (weights > 0))
        return maps * weights


class Clean(IlcStage):
    """The combination of the bands that keeps the CMB and has the least variance, scale by scale.

    Attributes
    ----------
    kind : str
        How the note of the map calls the windows of the scales.
    """

    name = "clean"
    kind: ClassVar[str]
    inputs = (Every("band", name="bands"), Optional("mask", when=mask_first))
    outputs = ("prediction", "ilc_weights")
    uses: ClassVar[tuple[str, ...]] = (
        *IlcStage.uses,
        "clean.fwhm_arcmin",
        "method.ELLMAX",
        "method.ellmin",
        "method.perform_ILC_at_beam",
        "method.wavelet_beam_criterion",
        "method.prewhiten",
        "method.N_deproj",
        "method.ILC_deproj_comps",
        "method.seds",
    )
    memory = "7.5 bands"

    def __init__(self, config: DictConfig):
        """Refuse settings that cannot be."""
        super().__init__(config)
        check(self.cfg)

    def run(self, item: Item, *, bands: Files, mask: SkyMap | None = None) -> tuple[SkyMap, dict[str, np.ndarray]]:
        """Map of `clean.field`, uK_CMB, RING, with a Gaussian beam, and the weights of `cmbml.methods.ilc.weights.fit`.

        The map carries the mask if the bands were given it, and says so.

        With the weights are stored ``bands``, their names, and ``beams`` (nband, ELLMAX + 1), by which each band's alms
        are multiplied beforehand: the map's beam over the band's own. Monopole and dipole of maps of others do not
        decide on the weights; they are combined by them, and what the weights would spread of them is left out.
        """
        method = self.cfg.method
        sky = self.cfg.sky
        names, alms = self.analysed(bands, mask)
        beams = np.stack([self.beam({"band": name}) for name in names])
        fwhm_arcmin = float(method.perform_ILC_at_beam or self.cfg.clean.fwhm_arcmin)
        ellmax = self.ellmax(beams)
        scales = self.scales(beams)
        ratio = beam_ratio(beams, fwhm_arcmin)
        alms = rebeamed(alms, ratio)
        low = np.zeros_like(alms)
        if not has_parts(self.cfg):
            low = sht.almxfl(alms, np.arange(sht.alm_lmax(alms) + 1) < 2)
        alms = alms - low
        weights = fit(alms, scales, self.mixing(names), prewhiten=method.prewhiten)
        found = apply(weights, alms)
        if low.any():
            found += sht.almxfl(apply(weights, low), np.arange(ellmax + 1) < 2)
        data = sht.synthesis(found, sky.nside)
        note = f"{self.kind} internal linear combination of {len(names)} {'bands' if mask is None else 'masked bands'}"
        fields = (self.cfg.clean.field,)
        prediction = SkyMap(data[None], fields, "uK_CMB", fwhm_arcmin, ellmax, note, masks=int(mask is not None))
        return prediction, {"bands": np.array(names), "beams": ratio[:, : ellmax + 1], **weights}

    def check(self) -> None:
        """Refuse scales for which there are too few bands."""
        field = "T" if self.cfg.clean.field == "T" else "Q"
        seeing = [item for item in self.bands() if field in self.fields(item)]
        self.scales(np.stack([self.beam(item) for item in seeing]))

    def scales(self, beams: np.ndarray) -> list[Scale]:
        """The scales and their bands, of which ``beams`` (nband, lmax + 1) are."""
        method = self.cfg.method
        return make_scales(
            self.windows(self.ellmax(beams)),
            beams,
            criterion=method.wavelet_beam_criterion,
            constraints=1 + len(method.ILC_deproj_comps),
            bias_tol=method.get("ILC_bias_tol"),
        )

    def ellmax(self, beams: np.ndarray) -> int:
        """`method.ELLMAX`, or what pixels and beams allow."""
        method = self.cfg.method
        sky = self.cfg.sky
        if method.ELLMAX is not None:
            return method.ELLMAX
        if method.get("ellpeaks") is not None:
            return method.ellpeaks[-1] - 1
        needed = 1 + len(method.ILC_deproj_comps)
        resolved = last_multipole(beams, criterion=method.wavelet_beam_criterion, needed=needed)
        return min(sky.lmax, sht.accurate_lmax(sky.nside), resolved)

    def mixing(self, names: Sequence[str]) -> np.ndarray:
        """Response of each band to the CMB and to what is deprojected, (nband, 1 + N_deproj)."""
        method = self.cfg.method
        columns = [np.ones(len(names))]
        for component in method.ILC_deproj_comps:
            column = [response(component, *self.bandpass({"band": name}), method.seds) for name in names]
            columns.append(np.array(column) / np.linalg.norm(column))
        return np.stack(columns, axis=1)

    def windows(self, ellmax: int) -> np.ndarray:
        """Windows of the scales, (nscale, ellmax + 1)."""
        raise NotImplementedError


class HarmonicClean(Clean):
    """One weight a band in each bin of multipoles, the same over the sky (Tegmark et al. 2003, PRD 68 123523)."""

    kind = "harmonic"
    uses = (*Clean.uses, "method.BinSize")
    memory = "4.5 bands"

    def windows(self, ellmax: int) -> np.ndarray:
        """Bins of `method.BinSize` multipoles; by default those that did best on synthetic skies of Planck."""
        width = self.cfg.method.BinSize or (160 if self.cfg.clean.field == "T" else 80)
        return bin_windows(self.cfg.method.ellmin, ellmax, width)


class NeedletClean(Clean):
    """Weights that vary over the sky in each scale of needlets (Delabrouille et al. 2009, A&A 493 835)."""

    kind = "needlet"
    uses = (*Clean.uses, "method.N_scales", "method.ellpeaks", "method.ILC_bias_tol")

    def windows(self, ellmax: int) -> np.ndarray:
        """Cosine needlets."""
        return cosine_windows(self.cfg.method.ellmin, needlet_peaks(self.cfg.method, ellmax))


class Residuals(IlcStage):
    """What the weights leave of the foregrounds and of the noise, where they are known apart.

    The weights are linear and keep the CMB: CMB, foregrounds and noise are together the prediction. What the map
    analysis of the bands errs in the CMB counts as noise. Where the bands were masked first, all parts are: then the
    CMB holds the E that the mask mixes into B, and what a band's beam carries across the mask's border counts as noise.
    """

    name = "residuals"
    inputs = (
        "prediction",
        "ilc_weights",
        "lensed_alm",
        Optional(Every("foreground"), when=has_foregrounds),
        Optional("mask", when=mask_first),
    )
    outputs = ("residuals",)

    reads = (*IlcStage.reads, "foregrounds.kind")
    memory = "5 bands"

    def items(self) -> list[Item]:
        """The test skies, if they are simulated."""
        return super().items() if has_parts(self.cfg) else []

    def run(
        self,
        item: Item,
        *,
        prediction: SkyMap,
        ilc_weights: dict[str, np.ndarray],
        lensed_alm: dict[str, np.ndarray],
        foreground: Files | None = None,
        mask: SkyMap | None = None,
    ) -> SkyMap:
        """Maps of ``{field}_foregrounds`` and ``{field}_noise``, uK_CMB, with the beam of the prediction."""
        field = self.cfg.clean.field
        nside = self.cfg.sky.nside
        lmax = prediction.lmax
        left = np.zeros(12 * nside**2)
        if foreground is not None:
            _, alms = self.analysed(foreground, mask)
            alms = rebeamed(sht.truncate(alms, lmax), ilc_weights["beams"])
            left = sht.synthesis(apply(ilc_weights, alms), nside)
        kept = np.sum(ilc_weights["windows"] ** 2, axis=0)
        seen = self.cmb(lensed_alm, prediction.fwhm_arcmin, mask)
        cmb = sht.synthesis(sht.almxfl(sht.truncate(seen, lmax), kept), nside)
        data = np.stack([left, prediction[field].astype(np.float64) - cmb - left])
        return replace(
            prediction,
            data=data,
            fields=(f"{field}_foregrounds", f"{field}_noise"),
            note=f"residuals: {prediction.note}",
        )

    def cmb(self, lensed_alm: dict[str, np.ndarray], fwhm_arcmin: float, mask: SkyMap | None) -> np.ndarray:
        """Alms of the field of the CMB with a Gaussian beam, and of the mask if there is one, (nalm,) to `sky.lmax`."""
        field = self.cfg.clean.field
        sky = self.cfg.sky
        beam = gaussian_beam(fwhm_arcmin, sky.lmax)
        needed = field if mask is None or field == "T" else "EB"
        alms = np.stack([sht.almxfl(lensed_alm[x].astype(np.complex128), beam) for x in needed])
        if mask is None:
            return alms[0]
        maps = self.seen(sht.synthesis(alms, sky.nside, spin=2 * (len(needed) - 1)), mask)
        return self.alms(maps, sky.lmax)[int(field == "B")]


def beam_ratio(beams: np.ndarray, fwhm_arcmin: float) -> np.ndarray:
    """What brings bands to one Gaussian beam, (nband, lmax + 1); 0 where a band sees nothing any more."""
    target = gaussian_beam(fwhm_arcmin, beams.shape[1] - 1)
    return np.divide(target, beams, out=np.zeros_like(beams), where=beams > np.sqrt(np.finfo(float).tiny))


def rebeamed(alms: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Alms of each band times what brings it to the common beam."""
    return np.stack([sht.almxfl(alm, one) for alm, one in zip(alms, ratio, strict=True)])
