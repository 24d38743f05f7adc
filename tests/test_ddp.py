"""One process, processes that are started here, and processes that torchrun or Slurm started, train alike."""

import datetime
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import distributed

from cmbml.core import launch
from cmbml.core.errors import UserError
from cmbml.sky.rotation import permutation
from tests.conftest import REPO
from tests.train.toy import NSIDE, train

# 96 patches in batches of 19: the last batch, of one patch, leaves a rank without any. Dropout is on, too.
PAIRS = [[60, -30], [120, 30]]
JOB = {
    "train__epochs": 2,
    "train__batch_size": 19,
    "train__optimizer__lr": 1e-3,
    "rotation__kind": "permutation",
    "rotation__pairs": PAIRS,
}
SMALL = {"OMP_NUM_THREADS": "1"}


def run(folder: Path, devices: int = 1) -> list[dict[str, float]]:
    tables = [permutation(NSIDE, *pair)[0] for pair in PAIRS]
    return train(folder, tables=tables, options={"devices": devices}, **JOB)[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """History of one process."""
    return run(tmp_path_factory.mktemp("alone"))


def assert_alike(history, alone) -> None:
    assert len(history) == len(alone) == 2
    for row, reference in zip(history, alone, strict=True):
        assert row == pytest.approx(reference, rel=1e-6)  # float32 sums in another order


def test_started_processes_train_like_one(tmp_path, alone, caplog):
    caplog.set_level(logging.INFO)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    history = run(tmp_path, devices=2)
    assert_alike(history, alone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    lines = [r.getMessage() for r in caplog.records if "patches/s" in r.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]  # of rank 0, through our own log
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    # The finished training is found again by a single process: the files are the same.
    assert run(tmp_path) == history


def test_torchrun(tmp_path, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    done = subprocess.run(
        [*command, "tests.test_ddp", str(tmp_path)], cwd=REPO, env=os.environ | SMALL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for history in told(done.stdout, 1):
        assert_alike(history, alone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_slurm_step(tmp_path, alone):
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_ddp", str(tmp_path)],
            env=os.environ | SMALL | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            cwd=REPO,
            text=True,
        )
        for rank in "01"
    ]
    for rank in ranks:
        out, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0
        for history in told(out, 1 if rank is ranks[0] else 0):
            assert_alike(history, alone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def told(out: str, n: int) -> list[list[dict[str, float]]]:
    """The histories that n ranks printed."""
    histories = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert len(histories) == n
    return histories


def fail() -> None:
    """Rank 1 fails and rank 0 waits for it."""
    if launch.group().rank == 1:
        raise ZeroDivisionError("the code did it")
    distributed.all_reduce(torch.zeros(1))


def test_failure_of_a_started_process_reaches_the_parent():
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed:.*in fail\n.*ZeroDivisionError: the code did it"):
        launch.launch(fail, (), devices=2, run_id="test")


def test_the_earliest_failure_is_told_and_a_users_mistake_stays_one(tmp_path):
    story = {"time": 2.0, "rank": 0, "user": False, "text": "connection closed", "traceback": "..."}
    (tmp_path / "failure0.json").write_text(json.dumps(story))
    assert "connection closed" not in str(launch.first_error(tmp_path / "nothing", "killed"))
    assert str(launch.first_error(tmp_path, "")) == "The training process of rank 0 failed:\n..."
    (tmp_path / "failure1.json").write_text(json.dumps(story | {"time": 1.0, "user": True, "text": "too large"}))
    error = launch.first_error(tmp_path, "")
    assert isinstance(error, UserError)
    assert str(error) == "too large"


def test_one_device_needs_no_processes():
    assert launch.launch(os.getpid, (), devices=1, run_id="test") == os.getpid()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3"}, (3, 4, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (0, 1, 0)),  # a batch script without srun
    ],
)
def test_place_from_the_environment(environ, expected):
    assert launch.group(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node7", "node7"), ("a,b", "a"), ("gpu[07-09,12],login", "gpu07"), ("r1n[3,5]", "r1n3")],
)
def test_first_node_of_slurm(nodes, first):
    found = launch.slurm_master({"SLURM_JOB_NODELIST": nodes, "SLURM_JOB_ID": "1234567"})
    assert found == {"MASTER_ADDR": first, "MASTER_PORT": "24567"}


def test_number_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.count_devices("auto") == 4
    assert launch.count_devices(3, "cuda") == 3
    assert launch.count_devices("auto", "cpu") == 1
    assert launch.count_devices(6, "cpu") == 6
    with pytest.raises(UserError, match="torch sees 4 GPUs"):
        launch.count_devices(5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.count_devices("auto") == 1
    assert launch.count_devices(2) == 2
    with pytest.raises(UserError, match="no GPU"):
        launch.count_devices("auto", "cuda")


if __name__ == "__main__":
    if launch.group().rank:
        launch.follow()
    else:
        print(json.dumps(run(Path(sys.argv[1]))), flush=True)
        launch.dismiss()


def listening(pids: set[int]) -> set[str]:
    """Addresses at which these processes listen, as the kernel has them, in hexadecimal."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                inodes.add(os.readlink(link))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                addresses.add(local.split(":")[0])
    return addresses


def report(folder: str) -> None:
    """Write down, while all processes are there and have talked, where they and their parent listen."""
    total = torch.ones(1)
    distributed.all_reduce(total)
    found = listening({os.getpid(), os.getppid()})
    Path(folder, f"{launch.group().rank}.json").write_text(json.dumps([sorted(found), total.item()]))
    distributed.barrier()


def test_started_processes_listen_on_loopback_alone(tmp_path):
    launch.launch(report, (str(tmp_path),), devices=2, run_id="test")
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    for rank in range(2):
        addresses, total = json.loads((tmp_path / f"{rank}.json").read_text())
        assert total == 2
        assert set(addresses) <= loopback
        assert addresses, "gloo listens somewhere"


LEFT_OVER = {
    "torchrun": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"},
    "without a place": {"RANK": "0", "WORLD_SIZE": "2"},
    "no number": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "here"},
    "follower": {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29518"},
    "slurm": {
        "SLURM_PROCID": "0",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": "7",
    },
}


@pytest.mark.parametrize("variables", LEFT_OVER.values(), ids=LEFT_OVER)
def test_variables_of_another_job_end_with_a_sentence(variables, monkeypatch, caplog):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "MEETING", datetime.timedelta(seconds=3))
    monkeypatch.setattr(launch, "_SILENT_S", 0.5)
    with pytest.raises(UserError, match=r"left over from another job: unset RANK, WORLD_SIZE") as caught:
        launch.meet()
    assert "\n" not in str(caught.value)
    if variables.get("MASTER_PORT", "").isdigit():
        assert "waits for the others to come" in caplog.text


NO_PLACE = {
    "rank": ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' must be a whole number from 0 to 1"),
    "negative": ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1' must be a whole number from 0 to 1"),
    "beyond": ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK='2' must be a whole number from 0 to 1"),
    "size": ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0' must be a whole number from 1"),
    "lines": ({"RANK": "0", "WORLD_SIZE": "2\n"}, r"WORLD_SIZE='2\\n' must be"),
    "local": ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": ""}, "LOCAL_RANK='' must be"),
    "slurm": ({"SLURM_PROCID": "٣", "SLURM_STEP_NUM_TASKS": "4"}, r"SLURM_PROCID='.u0663' must be"),
    "job": (LEFT_OVER["slurm"] | {"SLURM_JOB_ID": "abc"}, "SLURM_JOB_ID='abc' must be"),
    "port": (LEFT_OVER["torchrun"] | {"MASTER_PORT": "99999999"}, "MASTER_PORT='99999999' must be .* 1 to 65535"),
}


@pytest.mark.parametrize("case", NO_PLACE)
def test_variables_that_are_no_place_are_named_at_once(case):
    variables, sentence = NO_PLACE[case]
    done = subprocess.run(
        [sys.executable, "main_sims.py", "run.dry=true"],
        cwd=REPO,
        env=plain() | variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.match(f"Error: The variable {sentence}", done.stderr), done.stderr


def plain() -> dict[str, str]:
    """The environment without a group."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "WORLD", "SLURM", "MASTER"))}


@pytest.fixture
def as_in_a_terminal():
    """A shell has its background jobs ignore Ctrl-C, and they hand that on to their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_waits_for_its_group_hears_signals(rank, number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = LEFT_OVER["torchrun"] | {"RANK": rank, "MASTER_PORT": port}
    run = subprocess.Popen(
        [sys.executable, "main_sims.py", "run.dry=true"],
        cwd=REPO,
        env=plain() | place,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = run.stderr.readline()  # after five seconds of silence
    assert "waits for the others to come" in said
    begun = time.monotonic()
    run.send_signal(number)
    _, rest = run.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert run.returncode == 128 + number
    word = "Terminated" if number == signal.SIGTERM else "Interrupted"
    assert rest == f"{word}; the same command goes on where this one stopped.\n"


def test_the_launcher_of_torch_is_quiet():
    child = logging.getLogger("torch.distributed.elastic.agent.server.api")
    child.setLevel(logging.WARNING)
    with launch._signals_restored():
        assert not child.isEnabledFor(logging.ERROR)
    assert child.level == logging.WARNING
