"""Stages on a Dask cluster: the same bytes as on this machine; what a Slurm job is asked for."""

import pytest

from cmbml.core import cluster
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.stage import THREAD_VARIABLES
from tests.core.test_engine import contents
from tests.core.toy import toy

DASK = {"kind": "dask", "address": None, "threads": 1, "timeout_s": 60}
distributed = pytest.importorskip("dask.distributed")


def on_dask(pipeline: Pipeline, **changes) -> Pipeline:
    return Pipeline(pipeline.stages, pipeline.assets, DASK | changes)


def test_cluster_does_not_change_the_bytes(tmp_path):
    toy(tmp_path / "here").run(workers=1)
    on_dask(toy(tmp_path / "there")).run(workers=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    on_dask(toy(tmp_path / "there"), address="tcp://127.0.0.1:1").run()  # nothing to do: no cluster is asked


def test_failed_item_is_told_from_a_cluster_that_is_running(tmp_path, monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")  # as the worker does, which is a thread of this process here
    with (
        distributed.LocalCluster(1, processes=False, protocol="tcp", dashboard_address=None) as cluster,
        pytest.raises(UserError, match=r"failed for split=train, sim=1: ValueError: this sim cannot be made"),
    ):
        on_dask(toy(tmp_path, noise={"bad_sim": 1}), address=cluster.scheduler_address).run(workers=1)
    assert (tmp_path / "Train" / "sim0002" / "noise.npy").exists()


def test_scheduler_that_does_not_answer(tmp_path):
    with pytest.raises(UserError, match=r"address=tcp://127.0.0.1:1: no Dask scheduler answers"):
        on_dask(toy(tmp_path), address="tcp://127.0.0.1:1", timeout_s=1).run()


def test_slurm_job_asks_for_what_is_configured(composed):
    pytest.importorskip("dask_jobqueue")
    cfg = composed("system=slurm", "system.cluster.job.account=cosmo", "system.cluster.threads=4")
    with cluster.slurm(cfg.system.cluster) as made:
        script = made.job_script().splitlines()
    assert {"#SBATCH -A cosmo", "#SBATCH --cpus-per-task=4", "#SBATCH -t 04:00:00", "#SBATCH --mem=15G"} <= set(script)
    assert not any(line.startswith("#SBATCH -p") for line in script)
    assert any("distributed.cli.dask_worker" in line for line in script)
