"""Where the items of a stage run: in processes of this machine, or on a Dask cluster, local or made of Slurm jobs."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cmbml.core.errors import UserError

logger = logging.getLogger(__name__)

NONE: Mapping[str, Any] = {"kind": "none"}


@contextmanager
def backend(cluster: Mapping[str, Any], workers: int) -> Iterator[None]:
    """Send what joblib does within the block to a cluster, if there is one.

    Parameters
    ----------
    cluster : mapping
        ``kind``: none, dask or slurm. dask: ``address`` of a running scheduler, or null for a cluster of processes
        that lives as long as the block. slurm: the words of dask_jobqueue.SLURMCluster under ``job``.
    workers : int
        Number of processes or of jobs.

    Raises
    ------
    UserError
        When the packages of clusters are not installed or the scheduler cannot be reached.
    """
    if cluster["kind"] == "none":
        yield
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise UserError(f"system={cluster['kind']} needs Dask: pip install -e .[cluster].") from None
    with make(cluster, workers) as place:
        try:
            client = Client(place, timeout=cluster["timeout_s"])
        except (OSError, TimeoutError) as error:
            raise UserError(f"system.cluster.address={place}: no Dask scheduler answers there ({error}).") from None
        logger.info("items run on the Dask cluster at %s", client.scheduler.address)
        with client, parallel_config(backend="dask", wait_for_workers_timeout=cluster["timeout_s"]):
            yield


def end_workers() -> None:
    """Kill the processes of this machine that items run in."""
    from joblib.externals.loky import reusable_executor

    executor = reusable_executor._executor  # asking for it would start one
    if executor is not None:
        executor.shutdown(wait=False, kill_workers=True)


def killed() -> tuple[type[BaseException], ...]:
    """What is raised when a worker process has died: by joblib, and by Dask, if it is there, after some attempts."""
    try:
        from distributed.scheduler import KilledWorker
    except ImportError:
        return (TerminatedWorkerError,)
    return TerminatedWorkerError, KilledWorker


@contextmanager
def make(cluster: Mapping[str, Any], workers: int) -> Iterator[Any]:
    """Address of a scheduler that runs already, or a cluster of ``workers`` that lives as long as the block."""
    if cluster["kind"] == "slurm":
        with slurm(cluster) as made:
            made.scale(jobs=workers)
            yield made
    elif cluster["address"]:
        yield cluster["address"]
    else:
        from dask.distributed import LocalCluster

        with LocalCluster(
            workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", security=_security()
        ) as made:
            yield made


def slurm(cluster: Mapping[str, Any]) -> Any:
    """Cluster of Slurm jobs, none of them submitted yet; ``job_script()`` shows what is."""
    from dask_jobqueue import SLURMCluster

    job = {key: value for key, value in cluster["job"].items() if value is not None}
    return SLURMCluster(**job, security=_security())


def _security() -> Any:
    """Certificates for as long as the cluster lives: whoever has none can neither connect nor listen."""
    from dask.distributed import Security

    return Security.temporary()
