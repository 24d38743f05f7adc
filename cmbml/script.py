"""The same from a script or a notebook: words as on the command line, to a configuration or a pipeline."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cmbml.config import resolvers
from cmbml.config.options import check_options
from cmbml.config.places import CFG
from cmbml.core.pipeline import Pipeline
from cmbml.start import build


def configure(job: str, *words: str) -> DictConfig:
    """Configuration of a job, checked and with all keys filled in.

    Parameters
    ----------
    job : str
        ``sims``, ``delens``, ``clean`` or ``compare``.
    *words : str
        What would stand behind the name of the main on the command line, ``"nside=32"``.

    Raises
    ------
    UserError, HydraException
        When a word is wrong; the mains show the sentence of it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cfg = configure("sims", "nside=32", f"system.root={folder}")
    >>> cfg.sky.lmax, cfg.instrument.name
    (93, 'planck')
    """
    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CFG), version_base="1.3"):
        cfg = compose(job, overrides=check_options(CFG, job, words))
    resolvers.prepare(cfg)
    return cfg


def pipeline(job: str, *words: str) -> Pipeline:
    """Pipeline that a command would run: ``pipeline("sims", "nside=32").run()`` is ``python main_sims.py nside=32``.

    The keys of ``run`` are arguments of `Pipeline.run` here.
    """
    cfg = configure(job, *words)
    return build(cfg, [word.partition("=")[0].lstrip("+~") for word in words if not word.startswith("hydra")])
