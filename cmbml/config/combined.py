"""The checks of foregrounds that differ from split to split, and of a delensing of several bands."""

from omegaconf import DictConfig, OmegaConf

from cmbml.config.limits import Limits
from cmbml.config.schema import SEED
from cmbml.config.truth import cleaned, has_foregrounds, several_seeds
from cmbml.core.errors import demand, demand_value

_SPLITS = ("train", "valid", "test")


def check_seeds(cfg: DictConfig) -> None:
    """Refuse seeds of foregrounds that are none, or that do nothing.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    f = cfg.foregrounds
    seeds = f.seed if OmegaConf.is_dict(f.seed) else {"seed": f.seed}
    if OmegaConf.is_dict(f.seed):
        demand(
            set(f.seed) == set(_SPLITS),
            f"foregrounds.seed={f.seed} must be a number, or give one to each of {', '.join(_SPLITS)}.",
        )
    limits = Limits(*SEED, whole=True)
    for name, seed in seeds.items():
        key = "foregrounds.seed" if name == "seed" else f"foregrounds.seed.{name}"
        demand_value(limits.hold(seed), key, seed, str(limits))
    demand(
        f.kind in ("synthetic", "none") or not several_seeds(f.seed),
        f"foregrounds.seed={f.seed} gives each split synthetic foregrounds of its own, and those of"
        f" foregrounds={f.kind} are one sky: to share them between the skies of all splits, say so by one seed for all,"
        " foregrounds.seed={train: 0, valid: 0, test: 0}.",
    )


def check_combined(cfg: DictConfig) -> None:
    """Refuse bands without a combination of them, and training skies whose foregrounds are those of the test skies.

    Raises
    ------
    UserError
        One sentence that names the key.
    """
    f = cfg.foregrounds
    if not cleaned(cfg):
        for group, option, plain in (("foregrounds", f.kind, "none"), ("noise", cfg.noise.kind, "white")):
            demand(
                option == plain,
                f"{group}={option} is of skies of several bands; add sims=cleaned, which delenses what is combined of"
                " them.",
            )
        return
    demand(
        cfg.delens.field in ("E", "B"),
        f"field={cfg.delens.field}: what is combined of several bands is E and B; choose field=B or E.",
    )
    width = Limits(1, cfg.sky.lmax, whole=True)
    widths = cfg.sims.combine.get("BinSize", {})
    demand(set(widths) == {"E", "B"}, f"sims.combine.BinSize={widths} must give a number of multipoles to E and to B.")
    for field, value in widths.items():
        demand_value(width.hold(value), f"sims.combine.BinSize.{field}", value, str(width))
    learned = cfg.splits.train + cfg.splits.valid
    demand(
        not learned or not has_foregrounds(cfg) or OmegaConf.is_dict(f.seed) or any(f.vary.values()),
        f"foregrounds.seed={f.seed} gives training and test skies the same foregrounds, which whatever is learned or"
        " measured on the ones then knows on the others; give each split its own, foregrounds.seed={train: 1, valid: 1,"
        " test: 0}, or all the same one in that form if this is meant.",
    )
