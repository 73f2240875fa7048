"""`foley index --ray`: this process is the driver of a run whose work machines of a Ray cluster do."""

from __future__ import annotations

from contextlib import AbstractContextManager

from service.commands.here_or_there import Say, run_here
from service.jobs.cluster_worker import Plan
from service.jobs.database import LedgerInUse
from service.jobs.ray_pool import ClusterUnavailable, check_cluster, open_pool
from service.jobs.records import JobRequest
from service.library.cluster import Pool
from service.library.report import IndexReport, OnProgress
from service.search.snapshot import Snapshot
from service.system.settings import Settings


def run_cluster_job(
    settings: Settings, address: str, request: JobRequest, *, on_progress: OnProgress, say: Say
) -> IndexReport:
    """Index by the workers of a Ray cluster; see `run_job`. The data folder is this driver's own."""
    ray = check_cluster(settings, address)

    def open_workers(snapshot: Snapshot) -> AbstractContextManager[Pool]:
        plan = Plan.of(settings, snapshot)
        return open_pool(ray, address, plan, uses_gpus=settings.device != "cpu")

    try:
        return run_here(settings, "index", request, on_progress=on_progress, say=say, open_pool=open_workers)
    except LedgerInUse as exc:
        raise ClusterUnavailable(
            f"{exc}: give the driver a data folder of its own with FOLEY_DATA; the index is the server's"
        ) from exc
