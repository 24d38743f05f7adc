"""Settings that make no sense, for every key of every main: each plans all the same, or ends with a sentence.

What a configuration is made of is composed once a main; words are then set as Hydra sets them, and the plan is made as
a dry run makes it, in this process.
"""

import copy
import random
import re
import signal
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cmbml import start
from cmbml.config.options import check_options
from cmbml.core.asset import Every, Record
from tests.conftest import REPO

SECONDS = 5  # of processor time, for one plan
KINDS = {
    "not finite": ("inf", "-inf", "nan", "[0.5,nan]", "{143:inf}"),
    "huge": ("1e300", "-1e300", "99999999999999999999", "1000000000"),
    "tiny": ("-1", "0", "1e-300", "0.5", "-0.0"),
    "list": ("[1]", "[]", "[foo,foo]", "[[1,2],[1,2]]", "[null]", "[0,0]"),
    "mapping": ("{a:1}", "{}", "{143:-3}", "{a:{b:[1]}}"),
    "nothing": ("null", '""', "' '", "???"),
    "word": ("foo", "true", "../x", "größe", "'a b'", "7"),
}
# What a word is noticed by, where it is another key than its own.
NOTICED = {
    "nside": "lmax",
    "sims.stages": "no stage makes",
    "method.stages": "no stage makes",
    "compare.stages": "no stage makes",
    "dataset": "lacks",  # a comparison tells the path where nothing lies
    "system.root": "lacks",
    "assets.constants.dataset": "lacks",
    "assets.files.obs": "lacks",
}
BASES = {
    "sims": ("experiment=tiny",),
    "delens": ("experiment=tiny",),
    "clean": ("experiment=tiny", "method=patch_unet"),
    "compare": ("experiment=tiny",),
}
MORE = {  # what belongs together, or is no value of a key
    "sims": (
        *("system=null", "noise=3", "foregrounds=null", "sims=foo", "splits=[tiny]", "experiment=", "network=unet"),
        ("run.only=[theory]", "run.start=observe"),
        ("splits.train=1000000000", "splits.test=1000000000"),
        ("sims=external", "sims.external.obs=null"),
        ("assets.files.cls=/tmp/one.npz",),
        ("assets.files.mask='{root'",),
        ("dataset=Logs",),
        ("dataset=/abs",),
        ("cosmology.base.As=-1",),
    ),
    "delens": (
        *("train=null", "method=3", "method=größe", "network=unet5", "rotation=", "experiment=cmbml_512"),
        ("delens.label=foo",),
        ("sky.fields=[T,E,B,E]",),
        ("delens.inputs=[E,E]",),
        ("run.only=[train]", "run.start=measure"),
        ("run.force=[foo]",),
        ("method.name=../../x",),
        ("nside=1", "patches.patch=1"),
        ("analysis.band=[[1,2],[1,2]]",),
        ("delens.fiducial={r:[1]}",),
        ("method.stages=3",),
        ("network._target_=foo",),
        ("network._target_={a:1}",),
        ("network.activation=[1]",),
        ("network.in_channels=7",),
        ("network.out_channels=7",),
    ),
    "clean": (
        *("train=null", "method=null", "method=delens_unet", "instrument=plank", "mask=true"),
        ("field=TQU",),
        ("instrument.bands=[100,100]",),
        ("clean.target_fwhm_arcmin=10800",),
        ("method.trained=/nope/model.pt",),
        ("method.trained=foo",),
        ("method.trained=3",),
        ("method.target=foo",),
    ),
    "compare": (
        ("compare.methods=[]",),
        ("compare.methods=[none,none]",),
        ("compare.methods=[größe]",),
        ("compare.methods=[[1,2]]",),
        ("assets.constants.dataset={a:1}",),
        ("compare.reference=nope",),
        ("compare.sim=7",),
        ("method=hilc",),
    ),
}


class Slow(BaseException):
    """A plan takes too long."""


@contextmanager
def limited(seconds: float):
    """End what takes more processor time than this."""

    def end(number, frame):
        raise Slow

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def keys_of(node: dict, above: str = ""):
    """Dotted keys of groups and values; of the table of paths, which is one kind of thing, a few."""
    for name, value in node.items():
        key = f"{above}{name}"
        if re.match(r"assets\.(files|holds)\.(?!band|obs|cls|model)", key) or key == "run.dry":
            continue
        yield key
        if isinstance(value, dict):
            yield from keys_of(value, f"{key}.")


def planned(name: str, composed_once, words: tuple[str, ...], seconds: float = SECONDS) -> tuple[int, str]:
    """Exit code and standard error of a dry run."""
    code = 0
    with redirect_stderr(StringIO()) as error:
        try:
            with start._sentences(False), limited(seconds):
                checked = check_options(REPO / "cfg", name, words)
                cfg = copy.deepcopy(composed_once)
                overrides = OverridesParser.create().parse_overrides(checked)
                ConfigLoaderImpl._apply_overrides_to_config(
                    overrides, cfg
                )  # as `compose` does, in a hundredth of its time
                cfg.run.dry = True
                start.run(cfg)
        except SystemExit as end:
            code = end.code
    return code, error.getvalue()


def fault(words: tuple[str, ...], code: int, error: str) -> str:
    """What is wrong with how a plan ended, or nothing."""
    if code == 0:
        return ""
    if code != 1 or error.count("\n") != 1 or not error.startswith("Error: ") or not error.endswith(".\n"):
        return f"{words} ended with {code} and no sentence: {error}"
    keys = [word.partition("=")[0] for word in words]
    named = [name for key in keys for name in (key.rpartition(".")[2], NOTICED.get(key, key))]
    return "" if any(name in error for name in named) else f"{words} names no key: {error}"


def stand_in(cfg) -> None:
    """Empty files in the place of what a comparison reads, for a plan looks at them from outside alone."""
    pipeline = start.build(cfg)
    for stage in pipeline.stages:
        for source in stage.sources:
            for item in stage.found(source.asset) if isinstance(source, Every) else stage.items():
                file = pipeline.assets.file(source.asset, item)
                path = file.record().path if isinstance(source, Record) else file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


@pytest.mark.parametrize("name", BASES)
def test_settings_that_make_no_sense(composed, tmp_path, name):
    cfg = composed(*BASES[name], "run.dry=true", name=name)
    if name == "compare":
        stand_in(cfg)
    OmegaConf.set_struct(cfg, True)
    assert planned(name, cfg, (), seconds=60) == (0, "")  # which imports what plans need
    chance = random.Random(name)
    tried = [word if isinstance(word, tuple) else (word,) for word in MORE[name]]
    keys = list(keys_of(OmegaConf.to_container(cfg)))
    for key in chance.sample(keys, 75):
        kind = chance.choice(list(KINDS))
        tried.append((f"{key}={chance.choice(KINDS[kind])}",))
    faults = []
    for words in tried:
        try:
            faults.append(fault(words, *planned(name, cfg, words)))
        except (Exception, Slow) as error:
            faults.append(f"{words} ended with {error!r}")
    assert not any(faults), "\n".join(filter(None, faults))
