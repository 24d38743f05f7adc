"""What learned methods of cleaning share: from the bands of a sky, by a network, to a map of the CMB.

A method of cleaning that learns lists ``Target``, ``TrainBands`` and ``PredictBands`` in its yaml file, and chooses its
network, training, patches and rotation there. What it does otherwise it overrides in a stage of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.config.limits import Limits
from cmbml.config.schema import BEAM
from cmbml.config.truth import has_truth
from cmbml.core.asset import Every, File, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import SimStage
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.trained import WithNetwork, is_trained_here
from cmbml.methods.shared.training import Seeing, Training, prediction
from cmbml.sims.bands import BandStage
from cmbml.sky import rotation, sht
from cmbml.sky.fields import field_map
from cmbml.train.network import shown as short


class Target(SimStage):
    """The map that a network is asked for: the CMB of a sky, with the beam `clean.target_fwhm_arcmin`."""

    name = "target"
    splits = ("train", "valid")
    inputs = ("lensed_alm", "cmb_map")
    outputs = ("target",)
    uses = ("clean.field", "clean.target_fwhm_arcmin", "sky.nside", "sky.lmax")
    reads = (*SimStage.reads, "method.trained")
    memory = "14 map"

    def __init__(self, config: DictConfig):
        """Refuse skies that nobody knows the truth of."""
        super().__init__(config)
        if is_trained_here(config) and not has_truth(config):
            raise UserError(
                f"method={config.method.name} learns from skies whose CMB is known; name it in sims.external.truth, or"
                " give method.trained=..., the model.pt of a network that was trained on simulated skies."
            )

    def items(self) -> Iterable[Item]:
        """The training and validation skies, if a network is trained."""
        return super().items() if is_trained_here(self.cfg) else []

    def run(self, item: Item, *, lensed_alm: dict[str, np.ndarray], cmb_map: SkyMap) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING; 0 arcmin is the CMB as it is."""
        clean = self.cfg.clean
        sky = self.cfg.sky
        fwhm_arcmin = clean.target_fwhm_arcmin or cmb_map.fwhm_arcmin
        if fwhm_arcmin < cmb_map.fwhm_arcmin:
            raise UserError(
                f"clean.target_fwhm_arcmin={fwhm_arcmin} is finer than the {cmb_map.fwhm_arcmin} of the CMB's own maps;"
                " widen it, or give 0 for the maps as they are."
            )
        missing = (fwhm_arcmin**2 - cmb_map.fwhm_arcmin**2) ** 0.5
        maps = [field_map(lensed_alm, x, nside=sky.nside, fwhm_arcmin=missing) for x in clean.field]
        return SkyMap(np.stack(maps), tuple(clean.field), "uK_CMB", fwhm_arcmin, sky.lmax, "CMB without noise")


class OfBands(BandStage, Seeing):
    """A stage that shows the bands of a sky to a network."""

    def channels(self) -> tuple[list[str], list[str]]:
        """Fields of the maps that the network sees, band by band, and of those that it gives."""
        field = self.cfg.clean.field
        return [x for band in self.bands() for x in shown(self.fields(band), field)], list(field)

    def named(self) -> list[str]:
        """Field and band of each map that the network sees."""
        field = self.cfg.clean.field
        return [f"{x} of {band['band']}" for band in self.bands() for x in shown(self.fields(band), field)]

    def seen(self) -> dict[str, Any]:
        """Band limit, beams, foregrounds and noise of the bands."""
        cfg = self.cfg
        return {
            "sky.lmax": cfg.sky.lmax,
            "foregrounds.kind": cfg.foregrounds.kind,
            "noise.kind": cfg.noise.kind,
            "noise.factor": cfg.noise.factor,
            **{f"beam of {band.name}": round(float(band.fwhm_arcmin), 4) for band in self.instrument.bands},
        }

    def sky(self, bands: Files, sim: int) -> np.ndarray:
        """Return what the network sees of a sky, (channels, npix), float32, RING; of E and B their own maps."""
        field = self.cfg.clean.field
        places = {(x["sim"], x["band"]): i for i, x in enumerate(bands.items)}
        seen = (bands[places[sim, band["band"]]] for band in self.bands() if shown(self.fields(band), field))
        return np.concatenate([maps_of(m, field, self.cfg.sky.lmax) for m in seen])

    def tables(self) -> "Tables":
        """Pixel tables of the orientations, when these are permutations."""
        turned = self.cfg.rotation
        pairs = turned.pairs if turned.kind == "permutation" else []
        return Tables(self.cfg.sky.nside, tuple(map(tuple, pairs)))


def shown(fields: Sequence[str], wanted: str) -> list[str]:
    """Fields of a band's maps that a network sees when it is asked for T, E, B or TQU."""
    if wanted in ("E", "B"):
        return [wanted] if {"Q", "U"} <= set(fields) else []
    return [x for x in fields if x in wanted] if "T" in fields else []


def maps_of(seen: SkyMap, wanted: str, lmax: int) -> np.ndarray:
    """Maps (n, npix) of a band as `shown` lists them."""
    if wanted in ("E", "B"):
        alm = sht.analysis(seen.select("QU").astype(np.float64), lmax, spin=2)["EB".index(wanted)]
        return sht.synthesis(alm, seen.nside)[None].astype(np.float32)
    return seen.select(shown(seen.fields, wanted))


@dataclass(frozen=True)
class Tables(Sequence[np.ndarray]):
    """Tables of rotation by permutation, each made when it is asked for."""

    nside: int
    pairs: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, k: int) -> np.ndarray:  # type: ignore[override]  # one at a time, without slices
        return rotation.permutation(self.nside, *self.pairs[k])[0]


@dataclass(frozen=True)
class BandSkies(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Skies as the trainer wants them: (inputs, target), each (channels, npix) float32 RING, read when asked for."""

    stage: OfBands
    bands: Files
    target: Files

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]  # one at a time, without slices
        return self.stage.sky(self.bands, self.target.items[i]["sim"]), self.target[i].data


FWHM = Limits(*BEAM)
# What the network is shown and how; training and prediction both depend on it.
GEOMETRY = (*BandStage.uses, "clean.field", "patches", "rotation.kind")
# What else the maps of a sky depend on; the stages that make them use it.
SEEN = ("foregrounds.kind", "noise.kind", "noise.factor")


class TrainBands(OfBands, Training):
    """Train a network from the bands of the training skies to their targets."""

    inputs = tuple(
        Every(asset, split=split, name=f"{split}_{asset}")
        for split in ("train", "valid")
        for asset in ("band", "target")
    )
    uses = (*GEOMETRY, "network", "train", "rotation.pairs", "rotation.symmetries")
    reads = ("system", "splits", "instrument.bands", "rotation.average", "method.trained", *SEEN)

    def __init__(self, config: DictConfig):
        """Refuse rotations that do not suit the fields, too."""
        field = config.clean.field
        kind = config.rotation.kind
        if field == "TQU" and (kind == "permutation" or config.rotation.symmetries or config.rotation.average > 1):
            raise UserError(
                "field=TQU: Q and U mix when the sky or a patch is turned, which index tables cannot do; use "
                "rotation=harmonic or rotation=none."
            )
        super().__init__(config)

    def items(self) -> Iterable[Item]:
        """One training; none where the network is given."""
        return [{}] if is_trained_here(self.cfg) else []

    def run(
        self,
        item: Item,
        *,
        train_band: Files,
        train_target: Files,
        valid_band: Files,
        valid_target: Files,
        scratch: Mapping[str, File],
    ) -> tuple[dict[str, Any], list[dict]]:
        """The trained network as a plain dictionary, with its bands and the beam of its target; one row an epoch."""
        train = BandSkies(self, train_band, train_target)
        valid = BandSkies(self, valid_band, valid_target)
        model, history = self.fitted(train, valid, self.tables(), scratch)
        about = {"shown": self.named(), "found": self.cfg.clean.field, "fwhm_arcmin": train_target[0].fwhm_arcmin}
        return model | about, history


class PredictBands(WithNetwork, OfBands):
    """What the network finds in the test skies: the CMB with the beam of its target."""

    name = "predict"
    inputs = (Optional("model", when=is_trained_here), Every("band", name="bands"))
    outputs = ("prediction",)
    parallel = False
    uses = (*GEOMETRY, "rotation.predict", "rotation.average")
    reads = (
        *BandStage.reads,
        "rotation.pairs",
        "train.batch_size",
        "system.device",
        "method.trained",
        "network",
        *SEEN,
    )

    def items(self) -> Iterable[Item]:
        """The test skies."""
        return [item for item in self.skies() if item["split"] == "test"]

    def demand_fit(self, model: Mapping[str, Any], name: str) -> None:
        """Refuse a network that was trained on other bands or for another field."""
        if not {"shown", "found", "fwhm_arcmin"} <= set(model) or not FWHM.hold(model["fwhm_arcmin"]):
            raise UserError(f"{name} is no network of a method of cleaning; give its model.pt.")
        wanted = self.named()
        if (model["shown"], model["found"]) != (wanted, self.cfg.clean.field):
            bands = ", ".join(map(short, model["shown"])) if isinstance(model["shown"], list) else ""
            raise UserError(
                f"The network of {name} finds {short(model['found'])} from {bands}, and here"
                f" {self.cfg.clean.field} is wanted from {', '.join(wanted)}; give the same field and instrument.bands."
            )

    def run(self, item: Item, *, bands: Files, model: dict[str, Any] | None = None) -> SkyMap:
        """Map of `clean.field`, uK_CMB, RING, from the network, that of `method.trained` if None."""
        model = self.trained if model is None else model
        found = prediction(self.cfg, model, self.sky(bands, item["sim"]), self.tables())
        fields = tuple(self.cfg.clean.field)
        lmax = self.cfg.sky.lmax
        return SkyMap(found, fields, "uK_CMB", model["fwhm_arcmin"], lmax, "CMB found by a network")
