"""Several processes that train one network: found (torchrun, Slurm), started (elastic launch), or none.

The only module of ``core`` that knows torch, which it imports when a function needs it: ``group`` costs nothing.
"""

import datetime
import json
import logging
import logging.handlers
import multiprocessing
import os
import re
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cmbml.core.errors import UserError
from cmbml.core.waiting import listens, until

Call = tuple[Callable[..., Any], Sequence[Any]]

PATIENCE = datetime.timedelta(days=2)  # how long a rank waits for the others, e.g. while rank 0 simulates skies
MEETING = datetime.timedelta(minutes=2)  # how long it waits for them to come at all
_GREETING = datetime.timedelta(seconds=2)  # for an answer of a store that listens
_SILENT_S = 5.0  # of that, before a word


class Group(NamedTuple):
    """Place of this process among those that work together."""

    rank: int
    size: int
    local_rank: int


def group(environ: Mapping[str, str] = os.environ) -> Group:
    """Return this process' place, from the variables of torchrun or of a Slurm step; (0, 1, 0) without them.

    A batch script that Slurm runs without ``srun`` is a single process, however many tasks it asked for.

    Raises
    ------
    UserError
        When one of the variables is no such number.
    """
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    slurm = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    for names in (torchrun, slurm):
        if names[0] in environ and names[1] in environ:
            size = _number_of(environ, names[1], 1, 10**6)
            return Group(_number_of(environ, names[0], 0, size - 1), size, _number_of(environ, names[2], 0, 10**6))
    return Group(0, 1, 0)


def _number_of(environ: Mapping[str, str], name: str, low: int, high: int) -> int:
    """Value of a variable, 0 if it is not there; refused when it is no whole number between two bounds."""
    text = environ.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
        raise UserError(f"The variable {name}={text!a} must be a whole number from {low} to {high}. {_LEFTOVER}")
    return int(text)


def count_devices(devices: int | str, device: str = "auto") -> int:
    """Return the number of processes to train with: ``auto`` takes every GPU, or one process without any.

    Raises
    ------
    UserError
        When a GPU is asked for that is not there.
    """
    import torch

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise UserError("system.device=cuda, but torch sees no GPU; use system.device=auto or cpu.")
    if devices == "auto":
        return max(gpus, 1)
    if gpus and int(devices) > gpus:
        raise UserError(f"system.devices={devices}, but torch sees {gpus} GPUs; use system.devices=auto.")
    return int(devices)


def launch(fn: Callable[..., Any], args: Sequence[Any], *, devices: int, run_id: str) -> Any:
    """Call ``fn(*args)`` in every process of a group and return what rank 0 returned.

    In a group that torchrun or ``srun`` started, whatever ``devices`` says, rank 0 calls this, and the others wait for
    it in ``follow``. Otherwise ``devices`` processes are started on this machine, or none when it is 1. Within ``fn``,
    ``group()`` tells the place; the communication is nccl between GPUs and gloo between CPUs.

    Parameters
    ----------
    fn
        A function at the top of a module, so that the processes can import it.
    args
        Its arguments, which are pickled: plain values and lazy sequences rather than large arrays.
    devices
        Number of processes.
    run_id
        A name for the group.

    Raises
    ------
    UserError
        When a process raised one, with its text.
    RuntimeError
        When a process failed otherwise, with the traceback of the first that did.
    """
    if group().size > 1:
        _tell((fn, args))
        return fn(*args)
    if devices <= 1:
        return fn(*args)
    return _elastic(fn, args, devices, run_id)


def meet() -> None:
    """Join the group that torchrun or ``srun`` started, if there is one; rank 0 does it before anything else.

    Raises
    ------
    UserError
        When the others do not come, because the variables of a group are left over from another job.
    """
    if group().size > 1:
        _join()


def follow() -> None:
    """Take part, as a rank other than 0 of a group that was found, in every launch of rank 0, until it dismisses."""
    while (call := _tell(None)) is not None:
        fn, args = call
        fn(*args)
    _leave()


def dismiss() -> None:
    """Send the followers home; called by rank 0 at its end. Does nothing in a process that is alone.

    After a failure it is not called: rank 0 ends, and with it its launcher ends the others, wherever they wait.
    """
    if group().size > 1:
        _tell(None)
        _leave()


def _tell(call: Call | None) -> Call | None:
    """Hand what rank 0 says to every rank of the group that the environment describes, which is joined first."""
    import torch.distributed as dist

    _join()
    message = [call]
    dist.broadcast_object_list(message, src=0)
    return message[0]


def _join(meeting_place: Path | None = None) -> None:
    """Become one rank of the group that the environment describes.

    Parameters
    ----------
    meeting_place : Path, optional
        File of the processes that were started on this machine: they meet in it, and listen on loopback alone.

    Raises
    ------
    UserError
        When the others do not come.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    place = group()
    gpus = torch.cuda.device_count()
    if place.local_rank < gpus:
        torch.cuda.set_device(place.local_rank)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    with _waiting_for_others(place):
        if meeting_place is None:
            store = _meet(place)
        else:
            os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback())
            store = dist.FileStore(str(meeting_place), place.size)
        try:
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{_described(place)} cannot meet: {str(error).splitlines()[0]}. {_LEFTOVER}") from None


def _meet(place: Group) -> Any:
    """Store at rank 0 of the group, when all ranks have come to it."""
    import torch.distributed as dist

    for name, value in slurm_master(os.environ).items():
        os.environ.setdefault(name, value)
    if not {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise UserError(f"{_described(place)} has no MASTER_ADDR and MASTER_PORT to meet at. {_LEFTOVER}")
    host = os.environ["MASTER_ADDR"]
    port = _number_of(os.environ, "MASTER_PORT", 1, 65535)
    # torchrun has a store there already, which its agent serves.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    master = place.rank == 0 and not served
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    end = time.monotonic() + MEETING.total_seconds()
    try:
        store = _store(host, port, place.size, master=master, end=end)
        store.set_timeout(PATIENCE)
        meeting = dist.PrefixStore(f"cmbml/{attempt}", store)
        meeting.set(f"here/{place.rank}", "")
        until(lambda: meeting.check([f"here/{rank}" for rank in range(place.size)]), end)
    except (RuntimeError, ValueError, OSError):
        minutes = MEETING.total_seconds() / 60
        raise UserError(
            f"{_described(place)} cannot meet at {host}:{port}: not all have come in {minutes:g} minutes. {_LEFTOVER}"
        ) from None
    return meeting


def _store(host: str, port: int, size: int, *, master: bool, end: float) -> Any:
    """Store at this place, made here or by another.

    torch's own wait for another is deaf to signals: it begins when somebody listens there, and is short.
    """
    import torch.distributed as dist

    if not master:
        until(lambda: listens(host, port), end)
    while True:
        try:
            return dist.TCPStore(host, port, size, is_master=master, timeout=_GREETING, wait_for_workers=False)
        except RuntimeError:
            if master or time.monotonic() > end:
                raise


_LEFTOVER = (
    "If this is a single process, these variables are left over from another job: unset RANK, WORLD_SIZE, LOCAL_RANK,"
    " MASTER_ADDR and MASTER_PORT, or SLURM_PROCID and SLURM_STEP_NUM_TASKS."
)


def _described(place: Group) -> str:
    names = "RANK and WORLD_SIZE" if "RANK" in os.environ else "SLURM_PROCID and SLURM_STEP_NUM_TASKS"
    return f"The group of {place.size} processes that {names} tell of, of which this is rank {place.rank},"


@contextmanager
def _waiting_for_others(place: Group) -> Iterator[None]:
    """Say for whom a process waits when the others do not come at once."""
    logger = logging.getLogger(__name__)
    message = f"{_described(place)} waits for the others to come. {_LEFTOVER}"
    timer = threading.Timer(_SILENT_S, logger.warning, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _loopback() -> str:
    """Name of the interface that no other machine reaches."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def slurm_master(environ: Mapping[str, str]) -> dict[str, str]:
    """Return address and port of rank 0 of a Slurm step: its first node, and a port made of the job's number."""
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)  # node[07-09,12],other -> node07
    if not first:
        return {}
    port = 20000 + _number_of(environ, "SLURM_JOB_ID", 0, 10**18) % 10000
    return {"MASTER_ADDR": first[1] + (first[2] or ""), "MASTER_PORT": str(port)}


def _elastic(fn: Callable[..., Any], args: Sequence[Any], devices: int, run_id: str) -> Any:
    """Start the processes on this machine, which meet in files of a folder of this user, and wait for them."""
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = max(1, torch.get_num_threads() // devices)
    with tempfile.TemporaryDirectory() as folder, _log_queue() as queue, _signals_restored():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=run_id,
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder, "agent")),
            rdzv_configs={"store_type": "file"},  # of this user alone, where a port would answer everybody
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        level = logging.getLogger().level
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a port of the agent that nobody here would use
        try:
            return elastic_launch(config, _worker)(fn, tuple(args), folder, threads, queue, level)[0]
        except ChildFailedError as failed:
            raise first_error(Path(folder), failed.get_first_failure()[1].message) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.sigval) from None


def _worker(fn: Callable[..., Any], args: tuple[Any, ...], folder: str, threads: int, queue: Any, level: int) -> Any:
    """Run as one of the started processes: logs go to the parent, so does the story of a failure."""
    import torch

    root = logging.getLogger()
    root.handlers = [logging.handlers.QueueHandler(queue)]
    root.setLevel(level)
    torch.set_num_threads(threads)
    try:
        _join(Path(folder, "workers"))
        result = fn(*args)
        _leave()  # not after a failure: the others may never answer
        return result
    except Exception as error:
        story = {
            "time": time.time(),
            "rank": group().rank,
            "user": isinstance(error, UserError),
            "text": str(error),
            "traceback": traceback.format_exc(),
        }
        Path(folder, f"failure{group().rank}.json").write_text(json.dumps(story), encoding="utf-8")
        raise


def first_error(folder: Path, message: object) -> Exception:
    """Make the parent's exception of the earliest failure; the others are its consequences."""
    stories = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("failure*.json")]
    if not stories:
        return RuntimeError(f"A training process died: {message}")
    first = min(stories, key=lambda story: story["time"])
    if first["user"]:
        return UserError(first["text"])
    return RuntimeError(f"The training process of rank {first['rank']} failed:\n{first['traceback']}")


@contextmanager
def _log_queue() -> Iterator[Any]:
    """Give a queue whose log records the handlers of this process write."""
    queue = multiprocessing.get_context("spawn").Queue()
    listener = logging.handlers.QueueListener(queue, *logging.getLogger().handlers, respect_handler_level=True)
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Put back the signal handlers that the launcher replaces, and quieten it: its failures are told in our words."""
    names = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    before = {name: signal.getsignal(name) for name in names}
    rooms = ("torch.distributed.elastic", "torch.multiprocessing")  # whose modules have levels of their own
    known = [name for name in logging.root.manager.loggerDict if name.startswith(rooms)]
    loggers = [logging.getLogger(name) for name in {*rooms, *known}]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for name, handler in before.items():
                signal.signal(name, handler)
