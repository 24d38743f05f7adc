"""The typed groups of the configuration: every key and its type; the yaml files give the values."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class System:
    """Where files go and what computes."""

    root: str = MISSING
    device: str = MISSING
    devices: Any = MISSING
    tensorboard: bool = MISSING
    checkpoint_every: int = MISSING
    cluster: dict[str, Any] = MISSING


@dataclass
class Run:
    """Which stages run, and how."""

    only: list[str] = MISSING
    start: str | None = MISSING
    force: list[str] = MISSING
    dry: bool = MISSING
    verify: bool = MISSING
    workers: int = MISSING


@dataclass
class Sky:
    """The sphere on which skies are made."""

    nside: int = MISSING
    lmax: int = MISSING
    margin: int = MISSING
    fields: list[str] = MISSING
    seed: int = MISSING


@dataclass
class Cosmology:
    """Parameters of the cosmologies: fixed, on a grid, drawn from a Gaussian or from a chain."""

    base: dict[str, Any] = MISSING
    grid: dict[str, Any] = MISSING
    gaussian: dict[str, Any] = MISSING
    chain: dict[str, Any] = MISSING


@dataclass
class Instrument:
    """An instrument: its table, which of its bands are observed, and what goes before the table."""

    name: str = MISSING
    table: str = MISSING
    contents: str = MISSING
    min_fwhm_pixels: float = MISSING
    fwhm_arcmin: Any = MISSING
    noise_t_uk_arcmin: Any = MISSING
    noise_p_uk_arcmin: Any = MISSING
    pixel_window: bool = MISSING
    bands: Any = MISSING


@dataclass
class Foregrounds:
    """Where the foregrounds come from, and how they differ from sky to sky."""

    kind: str = MISSING
    presets: list[str] = MISSING
    folder: str = MISSING
    nside_sky: int = MISSING
    seed: int = MISSING
    vary: dict[str, float] = MISSING
    components: bool = MISSING


@dataclass
class Noise:
    """Noise of the bands: how it is spread over the sky, how strong, and its long-range part."""

    kind: str = MISSING
    factor: float = MISSING
    knee: bool = MISSING
    folder: str = MISSING
    files: dict[str, str] = MISSING


@dataclass
class Mask:
    """Which part of the sky is seen: kind of mask, width and shape of the taper at its border."""

    kind: str = MISSING
    b_deg: float = MISSING
    f_sky: float = MISSING
    file: str | None = MISSING
    column: str | None = MISSING
    threshold: float | None = MISSING
    apodise_deg: float = MISSING
    apodise_kind: str = MISSING


@dataclass
class Splits:
    """Number of skies of each split."""

    train: int = MISSING
    valid: int = MISSING
    test: int = MISSING


@dataclass
class Rotation:
    """Orientations of the sphere: kind of rotation and pairs of angles (theta, phi) in degrees."""

    kind: str = MISSING
    pairs: list[Any] = MISSING
    predict: list[Any] = MISSING
    symmetries: bool = MISSING
    average: int = MISSING


@dataclass
class Patches:
    """Side of the square patches and width of their halo, in pixels."""

    layout: str = MISSING
    patch: int = MISSING
    halo: int = MISSING


@dataclass
class Delens:
    """What is delensed, and how the network is asked for it."""

    field: str = MISSING
    target: str = MISSING
    label: str = MISSING
    inputs: list[str] = MISSING
    fwhm_arcmin: float = MISSING
    lmin_b: int = MISSING
    fiducial: dict[str, float] = MISSING
    export_npy: bool = MISSING


@dataclass
class Quadratic:
    """The quadratic estimator and the lensing template."""

    estimator: str = MISSING
    wiener: str = MISSING
    template: str = MISSING


@dataclass
class Analysis:
    """Common form, bands and bins of the measurement."""

    fwhm_arcmin: float = MISSING
    lmax: int = MISSING
    band: list[int] = MISSING
    delta_l: int = MISSING
    band_r: list[int] = MISSING
    f_sky: float = MISSING
    zoom: list[float] = MISSING
    stages: list[str] = MISSING


@dataclass
class Compare:
    """Which finished methods are compared."""

    methods: list[str] = MISSING
    reference: str = MISSING
    sim: int = MISSING
    stages: list[str] = MISSING


@dataclass
class Clean:
    """What is recovered from the bands, and what learned methods are asked for."""

    field: str = MISSING
    fwhm_arcmin: float = MISSING
    target_fwhm_arcmin: float = MISSING
    channels: int = MISSING
    outputs: int = MISSING


@dataclass
class CleaningAnalysis:
    """Common form, bands and bins of the measurement of a cleaned map."""

    fwhm_arcmin: float = MISSING
    lmax: int = MISSING
    band: list[int] = MISSING
    bands: list[list[int]] = MISSING
    delta_l: int = MISSING
    pictures: int = MISSING
    zoom: list[float] = MISSING
    stages: list[str] = MISSING


@dataclass
class Assets:
    """The table of paths, and what the larger files hold."""

    constants: dict[str, Any] = MISSING
    files: dict[str, str] = MISSING
    holds: dict[str, str] = MISSING


@dataclass
class Sims:
    """The stages that make a dataset, and where its files are if they exist already."""

    stages: list[str] = MISSING
    external: dict[str, Any] = MISSING
