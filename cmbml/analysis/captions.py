"""What tables and pictures say of themselves: the one line that each carries, units, and which pixels count."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from omegaconf import DictConfig

from cmbml.core.stage import Stage
from cmbml.maps.skymap import SkyMap


def unit_text(caption: Mapping) -> str:
    """Return the unit of a caption for readers, "" for a dimensionless field."""
    unit = str(caption.get("unit") or "")
    return "" if unit == "1" else unit.replace("uK", "µK")


def foregrounds_text(config: DictConfig) -> str:
    """Return what the foregrounds of a dataset are, from the groups `foregrounds` and `sims`."""
    if config.sims.external:
        return "those of the files"
    kind = config.foregrounds.kind
    names = {
        "synthetic": "SYNTHETIC templates",
        "pysm": f"PySM3 {' '.join(config.foregrounds.presets)}",
        "residual": "of observations, with their noise",
    }
    return names.get(kind, kind)


def describe(caption: Mapping) -> str:
    """Say in one line what a table or a figure is of.

    Parameters
    ----------
    caption : mapping
        ``field``, ``unit``, ``target``, ``method``, ``dataset``, ``split``, ``sim``, ``form``, ``nside``, ``lmax``,
        ``fwhm_arcmin``, ``noise_uk_arcmin``: those that are known, a number or a string each. Any other key is added at
        the end under its own name.
    """
    texts = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in caption.items()
        if value is not None and value != ""
    }
    unit = unit_text(caption)
    templates = {
        "field": "field {}" + (f" [{unit}]" if unit else ""),
        "target": "target {}",
        "method": "method {}",
        "dataset": "dataset {}",
        "split": "split {}",
        "sim": "sim {}",
        "form": "{} beam",
        "nside": "nside {}",
        "lmax": "lmax {}",
        "fwhm_arcmin": "beam {} arcmin FWHM",
        "noise_uk_arcmin": "noise {} µK arcmin",
    }
    parts = [template.format(texts[name]) for name, template in templates.items() if name in texts]
    parts += [f"{name} {text}" for name, text in texts.items() if name not in templates and name != "unit"]
    return " · ".join(parts)


INSIDE = 0.5  # of a masked sky, pixels of more than this weight are compared and drawn


def inside(mask: SkyMap | None) -> np.ndarray | None:
    """Pixels of a masked sky that are compared and drawn, bool (npix,); None for the full sky."""
    return None if mask is None else mask["mask"] > INSIDE


def good_pixels(mask: SkyMap | None, npix: int) -> np.ndarray:
    """The same where all pixels of the full sky are wanted, bool (npix,)."""
    return np.ones(npix, dtype=bool) if mask is None else mask["mask"] > INSIDE


class Captioned(Stage):
    """A stage whose pictures and tables say what they show.

    Attributes
    ----------
    dataset_keys : tuple of str
        Configuration that `of_dataset` reads.
    caption_keys : tuple of str
        The same and that which tells the method.
    """

    dataset_keys: ClassVar[tuple[str, ...]]
    caption_keys: ClassVar[tuple[str, ...]]

    def of_dataset(self) -> dict[str, Any]:
        """Entries of `describe` that all methods share."""
        raise NotImplementedError

    def seen_part(self, mask: SkyMap | None) -> dict[str, str]:
        """Entry of a caption: how much of the sky counts; none for the full sky."""
        raise NotImplementedError

    def caption(self, *, mask: SkyMap | None = None, **more: Any) -> dict[str, Any]:
        """Entries of `describe` for one method."""
        return {**self.of_dataset(), "method": self.cfg.method.name, **more, **self.seen_part(mask)}
