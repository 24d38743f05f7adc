"""The typed groups of the configuration: every key and its type; the yaml files give the values."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from cmbml.config.limits import LIST, MAPPING, TEXT, Kind, Limits, keyed, within

SEED = (0, 2**32 - 1)
LMAX = (2, 24575)  # 3 nside - 1 of the finest sky
NSIDE = (1, 8192)
BEAM = (0, 10800)  # arcmin
WIDTH = (1e-3, 10800)  # arcmin, of what has one
ANGLE = (-360, 360)  # degrees
SKIES = 10000  # of a split: sim0000 to sim9999


@dataclass
class System:
    """Where files go and what computes."""

    root: str = MISSING
    device: str = MISSING
    devices: Any = MISSING
    tensorboard: bool = MISSING
    checkpoint_every: int = within(1, 1e6)
    cluster: dict[str, Any] = keyed({"threads": Limits(1, 1024, whole=True), "timeout_s": Limits(0.1, 1e7)})


@dataclass
class Run:
    """Which stages run, and how."""

    only: list[str] = MISSING
    start: str | None = MISSING
    force: list[str] = MISSING
    dry: bool = MISSING
    verify: bool = MISSING
    workers: int = within(1, 4096)


@dataclass
class Sky:
    """The sphere on which skies are made."""

    nside: int = within(*NSIDE)
    lmax: int = within(*LMAX)
    margin: int = within(0, 20000)
    fields: list[str] = MISSING
    seed: int = within(*SEED)


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
    min_fwhm_pixels: float = within(0, 1000)
    fwhm_arcmin: Any = MISSING
    noise_t_uk_arcmin: Any = MISSING
    noise_p_uk_arcmin: Any = MISSING
    pixel_window: bool = MISSING
    bands: Any = MISSING


@dataclass
class Foregrounds:
    """Where the foregrounds come from, and how they differ from sky to sky."""

    kind: str = MISSING
    stage: str = MISSING
    presets: list[str] = MISSING
    folder: str = MISSING
    nside_sky: int = within(*NSIDE)
    seed: Any = MISSING
    vary: dict[str, float] = within(0, 10)
    components: bool = MISSING
    residual: dict[str, Any] = keyed(
        {
            "cmb_fwhm_arcmin": Limits(*BEAM),
            "fwhm_arcmin": Limits(*BEAM, optional=True),
            "holes": MAPPING,
            "holes.threshold": Limits(0, 1),
            **dict.fromkeys(("obs", "unit", "cmb", "cmb_unit", "coordinates"), TEXT),
            **dict.fromkeys(("holes.file", "holes.column", "holes.coordinates"), TEXT),
        }
    )


@dataclass
class Noise:
    """Noise of the bands: how it is spread over the sky, how strong, and its long-range part."""

    kind: str = MISSING
    factor: float = within(0, 1e6)
    knee: bool = MISSING
    tube_correlation: float = within(0, 1)
    folder: str = MISSING
    files: dict[str, str] = MISSING


@dataclass
class Mask:
    """Which part of the sky is seen: kind of mask, width and shape of the taper at its border."""

    kind: str = MISSING
    b_deg: float = within(0, 90)
    f_sky: float = within(0, 1)
    file: str | None = MISSING
    column: str | None = MISSING
    threshold: float | None = within(-1e30, 1e30)
    coordinates: str | None = MISSING
    apodise_deg: float = within(0, 90)
    apodise_kind: str = MISSING


@dataclass
class Splits:
    """Number of skies of each split."""

    train: int = within(0, SKIES)
    valid: int = within(0, SKIES)
    test: int = within(1, SKIES)


@dataclass
class DelensSplits(Splits):
    """The same with the variants of the first test sky, and the split of what r is measured against."""

    variants: int = within(0, SKIES)
    known: str | None = MISSING


@dataclass
class Rotation:
    """Orientations of the sphere: kind of rotation and pairs of angles (theta, phi) in degrees."""

    kind: str = MISSING
    pairs: list[Any] = within(*ANGLE)
    predict: list[Any] = within(*ANGLE)
    symmetries: bool = MISSING
    average: int = within(1, 8)


@dataclass
class Patches:
    """Side of the square patches and width of their halo, in pixels."""

    layout: str = MISSING
    patch: int = within(*NSIDE)
    halo: int = within(0, 8192)


@dataclass
class Delens:
    """What is delensed, and how the network is asked for it."""

    field: str = MISSING
    target: str = MISSING
    label: str = MISSING
    inputs: list[str] = MISSING
    fwhm_arcmin: float = within(*WIDTH)
    lmin_b: int = within(0, LMAX[1])
    noise: str = MISSING
    fiducial: dict[str, float] = MISSING
    export_npy: bool = MISSING


@dataclass
class Quadratic:
    """The quadratic estimator and the lensing template."""

    estimator: str = MISSING
    wiener: str = MISSING
    template: str = MISSING


@dataclass
class LinearMap:
    """The linear MAP: when its iteration ends, its grid, and how many samples its errors are made of."""

    tolerance: float = within(1e-9, 0.9)
    iterations: int = within(1, 10000)
    grid: float = within(1, 2)
    samples: int = within(0, 10000)


@dataclass
class OfR:
    """How r is measured: in which B, multipoles and bins, with what free, and against which skies."""

    b: str = MISSING
    band: list[int] = within(0, LMAX[1])
    delta_l: int = within(1, LMAX[1])
    free: list[str] = MISSING
    known: str = MISSING


@dataclass
class Analysis:
    """Common form, bands and bins of the measurement."""

    fwhm_arcmin: float = within(*BEAM)
    lmax: int = within(*LMAX)
    band: list[int] = within(0, LMAX[1])
    delta_l: int = within(1, LMAX[1])
    r: OfR = dataclasses.field(default_factory=OfR)
    f_sky: float = within(0, 1)
    pictures: int = within(0, SKIES)
    zoom: list[float] = within(*ANGLE)
    response: bool = MISSING
    stages: list[str] = MISSING


@dataclass
class Compare:
    """Which finished methods are compared."""

    methods: list[str] = MISSING
    reference: str = MISSING
    sim: int = within(0, SKIES - 1)
    stages: list[str] = MISSING


@dataclass
class Clean:
    """What is recovered from the bands, and what learned methods are asked for."""

    field: str = MISSING
    fwhm_arcmin: float = within(*BEAM)
    target_fwhm_arcmin: float = within(*BEAM)
    channels: int = within(1, 10000)
    outputs: int = within(1, 3)


@dataclass
class CleaningAnalysis:
    """Common form, bands and bins of the measurement of a cleaned map."""

    fwhm_arcmin: float = within(*BEAM)
    lmax: int = within(*LMAX)
    band: list[int] = within(0, LMAX[1])
    bands: list[list[int]] = within(0, LMAX[1])
    delta_l: int = within(1, LMAX[1])
    pictures: int = within(0, SKIES)
    zoom: list[float] = within(*ANGLE)
    stages: list[str] = MISSING


@dataclass
class Assets:
    """The table of paths, and what the larger files hold."""

    constants: dict[str, Any] = MISSING
    files: dict[str, str] = MISSING
    holds: dict[str, str] = MISSING


BAND = Kind((str, int, type(None)), "null or the name of a band")
_EXTERNAL_TEXTS = (
    *("obs", "unit", "coordinates"),
    *("truth", "truth_unlensed", "truth_lensed", "truth_kappa", "truth_unit"),
)


@dataclass
class Sims:
    """The stages that make a dataset; where its files are if they exist already; how bands are combined; variants."""

    stages: list[str] = MISSING
    variants: list[Any] = MISSING
    combine: dict[str, Any] = keyed({"BinSize": MAPPING, "reference": BAND})
    external: dict[str, Any] = keyed({"truth_fwhm_arcmin": Limits(*BEAM), **dict.fromkeys(_EXTERNAL_TEXTS, TEXT)})


# Numbers of the groups that have keys of their own.
METHOD: dict[str, Limits | Kind] = {
    "stages": LIST,
    "seds": MAPPING,
    "masked": Kind((bool, type(None)), "null, true or false"),
    "lmax": Limits(*LMAX, whole=True),
    "fwhm_arcmin": Limits(*BEAM, optional=True),
    "perform_ILC_at_beam": Limits(*BEAM, optional=True),
    **dict.fromkeys(("trained", "predictions", "unit", "coordinates", "checkout", "python", "param_dict_file"), TEXT),
}
NETWORK = {  # what its layers make of them, a network says itself
    "in_channels": Limits(1, 10000, whole=True),
    "out_channels": Limits(1, 10000, whole=True),
    "n_filters": Limits(1, 8192, whole=True),
    "conv_width": Limits(1, 64, whole=True),
    "network_depth": Limits(1, 12, whole=True),
    "growth_factor": Limits(1, 16, whole=True),
    "shortcut": Limits(0, 1023, whole=True),
    "width": Limits(1, 1023, whole=True),
    "dropout": Limits(0, 1),
}
TRAIN = {  # more is checked in `cmbml.train.settings`
    "epochs": Limits(1, 1e6, whole=True),
    "batch_size": Limits(1, 1e6, whole=True),
    "optimizer.lr": Limits(1e-12, 100),
    "optimizer.weight_decay": Limits(0, 1e6),
    "schedule.final": Limits(0, 1),
    "schedule.steps": Limits(1, 1e12, optional=True),
    "repeats": Limits(1, 1000, whole=True),
    "scale": Limits(1e-9, 1e9),
    "seed": Limits(*SEED, whole=True),
}
