"""Ctrl-C and SIGTERM end a run with one line, and its workers with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPO

SLOW = ["main_delens.py", "experiment=tiny", "method=quadratic", "splits.train=40", "run.workers=2"]


def processes_of(group: int) -> list[str]:
    """What the living processes of a process group are."""
    living = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            living.append(name)
    return living


@pytest.mark.parametrize(
    ("number", "whole_group", "code", "words"),
    [
        (signal.SIGINT, True, 130, "Interrupted; the same command goes on where this one stopped.\n"),
        (signal.SIGTERM, False, 143, "Terminated; the same command goes on where this one stopped.\n"),
    ],
)
def test_a_signal_ends_a_run_with_one_line_and_its_workers(tmp_path, number, whole_group, code, words):
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(
            [sys.executable, *SLOW, f"system.root={tmp_path}/data"],
            cwd=REPO,
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    begin = time.monotonic()
    while not list(tmp_path.rglob("cmb_lensed_alm.npz")):  # the workers are at work
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() - begin < 200
        time.sleep(0.05)
    assert len(processes_of(run.pid)) >= 3
    (os.killpg if whole_group else os.kill)(run.pid, number)
    _, error = run.communicate(timeout=30)
    assert run.returncode == code
    assert error.endswith(words)
    assert "Traceback" not in error
    ended = time.monotonic()
    while processes_of(run.pid):
        assert time.monotonic() - ended < 5
        time.sleep(0.05)
