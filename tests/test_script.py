"""A script's words make what those of the command line make."""

import pytest

from cmbml.core.errors import UserError
from cmbml.script import configure, pipeline

WORDS = ("experiment=tiny", "nside=32", "foregrounds=none", "mask=band", "run.workers=1")


def test_script_and_command_share_their_work(command, tmp_path):
    words = (*WORDS, f"system.root={tmp_path}/data")
    before = pipeline("sims", *words)
    code, error = command(*WORDS, "run.only=[mask]", config_name="sims")
    assert code == 0, error
    (work,) = before.plan()["mask"]
    assert work.why == ""
    assert before.assets.file("mask", {}).read().nside == 32


def test_words_are_checked_as_on_the_command_line(tmp_path):
    root = f"system.root={tmp_path}"
    assert configure("sims", *WORDS, root).sky.lmax == int(2.93 * 32)
    with pytest.raises(UserError, match=r"instrument\.table=nowhere|nowhere is neither there"):
        configure("sims", "instrument.table=nowhere", root)
    with pytest.raises(UserError, match="network=unet5 belongs to main_clean.py"):
        configure("delens", "network=unet5", root)
    with pytest.raises(UserError, match="is read by no stage"):
        pipeline("delens", "method=wiener", "train.seed=1", root)
