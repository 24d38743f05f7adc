"""What files and work take, in units that grow with the sky: for the dry run, within a factor of about 1.5.

The numbers of units are measured: sizes and ``peak_gb`` of sidecars at nside 64 to 256, of stages in processes of their
own, where the peak less what the process holds before is proportional to the unit.
"""

from omegaconf import DictConfig


def units(cfg: DictConfig) -> dict[str, float]:
    """Bytes of what `assets.holds` and the stages' ``memory`` count in; maps, alms and spectra are those of a file.

    ``map``: of `sky.nside`, in single precision; ``template``: at `foregrounds.nside_sky`; ``bands``: a map of what is
    recovered in each band; ``alm`` and ``cl``: up to `sky.lmax`, in single and in double precision; ``drawn_alm`` and
    ``drawn_cl``: up to `sky.lmax` + `sky.margin`; ``MB``. ``item`` is what most stages hold, beside what the program
    takes without any data, and a suffix is a file that is not listed.
    """
    sky = cfg.sky
    one_map = _map(sky.nside)
    drawn = sky.lmax + sky.margin
    return {
        "map": one_map,
        "template": _map(cfg.foregrounds.nside_sky) if "foregrounds" in cfg else one_map,
        "bands": one_map * (cfg.clean.channels if "clean" in cfg else 1),
        "alm": _alm(sky.lmax),
        "cl": 8.0 * (sky.lmax + 1),
        "drawn_alm": _alm(drawn),
        "drawn_cl": 8.0 * (drawn + 1),
        "MB": 1e6,
        "item": 35 * one_map,
        ".fits": one_map,
        ".npy": one_map,
        ".png": 0.11e6,
        ".pdf": 0.11e6,
        ".html": 2e6,
    }


def _map(nside: int) -> float:
    return 4.0 * 12 * nside**2


def _alm(lmax: int) -> float:
    return 4.0 * (lmax + 1) * (lmax + 2)
