"""Foregrounds of a many-band dataset: synthetic templates, and what each band sees of them or of PySM3's presets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cmbml.config.truth import seed_of, several_seeds
from cmbml.core.asset import Every, Files, Item, Optional
from cmbml.core.errors import UserError
from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap
from cmbml.sims.bands import BandStage, as_user_error
from cmbml.sims.mask import Mask
from cmbml.sky import foregrounds, masks, synthetic

_DUST_GHZ = 353.0


def synthetic_templates(cfg: DictConfig) -> bool:
    """Whether the foregrounds are made of synthetic templates."""
    return cfg.foregrounds.kind == "synthetic"


def splits_apart(cfg: DictConfig) -> list[Item]:
    """One item a split, the test skies last, where their foregrounds have seeds of their own; else one."""
    if not several_seeds(cfg.foregrounds.seed):
        return [{}]
    return [{"split": split} for split in ("train", "valid", "test") if cfg.splits[split]]


def follows_synthetic_dust(cfg: DictConfig) -> bool:
    """Whether the mask is cut along the dust, and that is a synthetic template."""
    return cfg.mask.kind == "galactic" and synthetic_templates(cfg)


class Templates(Stage):
    """Synthetic templates, one component a file, alike for all skies: a stand-in for the Galaxy, not a map of it."""

    name = "synthetic_templates"
    version = 2
    outputs = ("foreground_template",)
    uses = ("foregrounds.nside_sky",)
    reads = ("foregrounds.kind", "foregrounds.seed", "splits")
    memory = "19 template"

    def items(self) -> Iterable[Item]:
        """One item a component, if the foregrounds are synthetic; where seeds differ, a split and component."""
        if self.cfg.foregrounds.kind != "synthetic":
            return []
        return [{**split, "component": name} for split in splits_apart(self.cfg) for name in synthetic.COMPONENTS]

    def settings_of(self, item: Item) -> dict[str, Any]:
        """With the seed of the split."""
        return {**self.settings, "foregrounds.seed": self.seed(item)}

    def seed(self, item: Item) -> int:
        """Seed of an item's templates."""
        return seed_of(self.cfg.foregrounds.seed, item.get("split", "test"))

    def run(self, item: Item) -> dict[str, np.ndarray]:
        """Maps of `cmbml.sky.synthetic.templates`, float32, RING."""
        cfg = self.cfg.foregrounds
        name = item["component"]
        seed = self.seed(item)
        rngs = {component: self.rng(f"foregrounds/{component}", seed) for component in synthetic.COMPONENTS}
        return synthetic.templates(cfg.nside_sky, rngs, [name])[name]


class Foregrounds(BandStage):
    """All foregrounds together as a band sees them: bandpass, beam, and the pixels of the dataset.

    They are made at `foregrounds.nside_sky` and brought to the dataset's nside in harmonic space. Alike for all skies,
    unless `foregrounds.vary` gives amplitudes and spectral indices a scatter from sky to sky, or `foregrounds.seed`
    gives each split templates of its own.
    """

    name = "foregrounds"
    inputs = (Optional(Every("foreground_template", name="templates"), when=synthetic_templates),)
    outputs = ("foreground",)
    uses = (
        *BandStage.uses,
        "foregrounds.kind",
        "foregrounds.presets",
        "foregrounds.nside_sky",
        "foregrounds.vary",
        "sky.seed",
    )
    reads = (
        *BandStage.reads,
        "foregrounds.folder",
        "foregrounds.components",
        "foregrounds.residual",
        "foregrounds.seed",
    )
    memory = "31 template + 70 MB"  # of PySM3

    def items(self) -> Iterable[Item]:
        """One item a band, or a split or sky and band; none without foregrounds."""
        if self.cfg.foregrounds.kind == "none":
            return []
        if any(self.cfg.foregrounds.vary.values()):
            return self.bands_of_skies()
        return [{**split, **band} for split in splits_apart(self.cfg) for band in self.bands()]

    def check(self) -> None:
        """Refuse a band without a beam or bandpass, and a preset that PySM3 does not have."""
        self.demand_beams()
        for item in self.bands():
            self.bandpass(item)
        cfg = self.cfg.foregrounds
        if cfg.kind == "pysm":
            as_user_error(foregrounds.template_files, cfg.presets, cfg.nside_sky, key="foregrounds.presets: ")

    def run(self, item: Item, *, templates: Files | None = None) -> SkyMap:
        """Map of the band's fields, uK_CMB, RING, with the band's beam."""
        freqs, weights = self.bandpass(item)
        beam = self.beam(item)
        rows = ["TQU".index(field) for field in self.fields(item)]
        seen = as_user_error(foregrounds.evaluate, self.emission(item, templates), freqs, weights)[rows]
        maps = foregrounds.smoothed(seen, beam, nside=self.cfg.sky.nside)
        return self.skymap(item, maps, f"{self.origin()} foregrounds: {', '.join(self.components(item))}")

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The templates of PySM3 beside what the instrument's table names."""
        files = super().made_of(item)
        if self.cfg.foregrounds.kind != "pysm":
            return files
        return {**files, **template_files(self.cfg.foregrounds, self.components(item), [self.bandpass(item)[0]])}

    def origin(self) -> str:
        """How maps are labelled."""
        return "SYNTHETIC" if self.cfg.foregrounds.kind == "synthetic" else "PySM3"

    def components(self, item: Item) -> list[str]:
        """Names of the components, or presets, of an item: one of them, or all."""
        cfg = self.cfg.foregrounds
        known = list(synthetic.COMPONENTS if cfg.kind == "synthetic" else cfg.presets)
        return [item["component"]] if "component" in item else known

    def emission(self, item: Item, templates: Files | None) -> Iterator[Any]:
        """PySM3's sky of each component, one at a time."""
        cfg = self.cfg.foregrounds
        for name in self.components(item):
            if templates is None:
                yield preset_sky(cfg, name, [self.bandpass(item)[0]])
                continue
            maps = templates[[known["component"] for known in templates.items].index(name)]
            if any(cfg.vary.values()):
                rng = self.rng(f"vary/{name}", self.cfg.sky.seed, item["split"], item["sim"])
                maps = synthetic.varied(name, maps, rng, amplitude=cfg.vary.amplitude, index=cfg.vary.index)
            yield foregrounds.synthetic_sky(name, maps)


class Components(Foregrounds):
    """Each foreground alone, as a band sees it; on request (`foregrounds.components`)."""

    name = "components"
    outputs = ("component",)

    def items(self) -> Iterable[Item]:
        """The items of `Foregrounds`, component by component; those of observations are not known apart."""
        if not self.cfg.foregrounds.components or self.cfg.foregrounds.kind == "residual":
            return []
        return [{**item, "component": name} for item in super().items() for name in self.components({})]


class SkyMask(Mask):
    """The mask of a many-band dataset, which beside those of `Mask` may follow the dust (``mask.kind=galactic``)."""

    inputs = (Optional(Every("foreground_template", name="dust", component="dust"), when=follows_synthetic_dust),)
    uses = (*Mask.uses, "foregrounds.kind", "foregrounds.presets", "foregrounds.nside_sky")
    reads = ("foregrounds.folder", "foregrounds.seed", "splits")
    memory = "9 template"

    def check(self) -> None:
        """Refuse presets without dust, where the mask is to follow it."""
        if self.cfg.mask.kind == "galactic" and self.cfg.foregrounds.kind == "pysm":
            self.preset_of_dust()

    def run(self, item: Item, *, dust: Files | None = None) -> SkyMap:
        """Map ``mask``, RING, without unit and beam."""
        cfg = self.cfg
        if cfg.mask.kind != "galactic":
            return super().run(item)
        if dust is None:
            intensity = as_user_error(foregrounds.evaluate, [self.dust()], _DUST_GHZ)[0]
        else:
            intensity = dust[len(dust) - 1]["I"]  # that of the test skies, where splits have their own
        weights = masks.galactic_mask(intensity, cfg.mask.f_sky, cfg.sky.nside)
        return self.tapered(weights, f"faintest dust, f_sky {cfg.mask.f_sky:g}")

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The file of the mask, or the templates of the dust that it follows."""
        if self.cfg.mask.kind != "galactic" or self.cfg.foregrounds.kind != "pysm":
            return super().made_of(item)
        return template_files(self.cfg.foregrounds, [self.preset_of_dust()], [np.array([_DUST_GHZ])])

    def preset_of_dust(self) -> str:
        """The first preset of dust."""
        names = [name for name in self.cfg.foregrounds.presets if name.startswith("d")]
        if not names:
            raise UserError("mask=galactic takes the shape of the dust, and foregrounds.presets names no model of it.")
        return names[0]

    def dust(self) -> Any:
        """PySM3's sky of the first preset of dust."""
        return preset_sky(self.cfg.foregrounds, self.preset_of_dust())


def template_files(cfg: DictConfig, presets: Sequence[str], bands: Sequence[np.ndarray]) -> dict[str, list[Path]]:
    """Files that PySM3 reads for presets and bands, below `foregrounds.folder`."""
    names = as_user_error(foregrounds.template_files, presets, cfg.nside_sky, bands=bands, key="foregrounds.presets: ")
    folder = Path(cfg.folder).expanduser()
    return {"foregrounds.folder": [folder / name for name in names]}


def preset_sky(cfg: DictConfig, name: str, bands: Sequence[np.ndarray] | None = None) -> Any:
    """PySM3's sky of a preset, from the templates in `foregrounds.folder`.

    Raises
    ------
    UserError
        When templates are missing or PySM3 has no such preset.
    """
    try:
        return foregrounds.preset_sky(name, cfg.nside_sky, Path(cfg.folder).expanduser(), bands=bands)
    except foregrounds.MissingTemplates as error:
        raise UserError(
            f"{error}; fetch them with  python get_data/fetch.py assets --presets {','.join(cfg.presets)}."
        ) from None
    except ValueError as error:
        raise UserError(f"foregrounds.presets: {error}.") from None
