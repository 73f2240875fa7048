"""Working with releases from a command line: in this process, or by asking the `foley serve` that has the library open.

Both ways give the same JSON values; `service.commands.releases` prints them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.client.following import JobClient, ServerRefused, find_server, keeping
from service.foley import open_foley
from service.index.failure import IndexInUse
from service.jobs.documents import describe_job
from service.jobs.lane import JobEnded
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import ReleaseRequest
from service.releases.documents import ReleaseList
from service.releases.manager import name_of_user
from service.releases.opening import active_release
from service.releases.store import ReleaseStore
from service.system.caller import CallerGone
from service.system.settings import Settings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3600.0
"""A switch embeds first what was indexed since the release was built."""
LOOK_SECONDS = 0.5

OnStep = Callable[[Mapping[str, Any]], None]


def list_releases(settings: Settings) -> ReleaseList:
    """Every release of the library, from its files alone.

    Args:
        settings: Whose library.

    Returns:
        Releases, the oldest first, and the name of the active one.
    """
    store = ReleaseStore(settings.release_folder)
    release_id, _ = active_release(settings)
    return {
        "releases": [store.describe(release, current=release_id) for release in store.list()],
        "active": release_id,
    }


def create_release(
    settings: Settings, bundle: Path, *, activate: bool, force: str, on_step: OnStep
) -> Mapping[str, Any]:
    """Build a release, and activate it where that is wanted.

    Args:
        settings: Whose library.
        bundle: Folder of the bundle.
        activate: Whether to activate it when it passes its gates.
        force: Why to activate it even when it does not; empty for never.
        on_step: Called with the progress.

    Returns:
        The job, with `release` and `switched` in its report.

    Raises:
        ServerRefused: If the job failed, wherever it ran.
    """  # noqa: DOC503 - interrupts go on
    request = ReleaseRequest(
        bundle=str(bundle.absolute()), activate=activate, force=force, who=name_of_user()
    )

    def here(jobs: Jobs) -> dict[str, Any]:
        job = jobs.releases.submit(request).job
        try:
            jobs.releases.run(job.job_id, on_step=on_step)
        except (CallerGone, JobEnded):
            logger.info("the build was stopped")
        return describe_job(jobs.ledger.get_job(job.job_id))

    def there(client: JobClient) -> dict[str, Any]:
        body = {"bundle": request.bundle, "activate": activate, "force": force}
        job = client.ask("POST", "/v1/releases", body=body)
        try:
            return _wait(client, job["job_id"], on_step)
        except KeyboardInterrupt:
            client.cancel(job["job_id"])
            return _wait(client, job["job_id"], on_step)

    job = _here_or_there(settings, here, there)
    if job["state"] == "failed":
        raise ServerRefused(f"{job['error']['detail']} ({job['error']['code']})")
    return job


def activate_release(settings: Settings, release_id: str, *, force: str) -> Mapping[str, Any]:
    """Let a release answer; see `service.releases.manager.ReleaseManager.activate`.

    Args:
        settings: Whose library.
        release_id: The release.
        force: Why, where it failed its gates.

    Returns:
        What the switch did.
    """
    return _here_or_there(
        settings,
        lambda jobs: jobs.releases.manager.activate(release_id, who=name_of_user(), why=force).to_json(),
        lambda client: client.ask(
            "POST", f"/v1/releases/{quote(release_id)}:activate", body={"force": force}
        ),
    )


def rollback_release(settings: Settings) -> Mapping[str, Any]:
    """Let the release before answer again.

    Args:
        settings: Whose library.

    Returns:
        What the switch did.
    """
    return _here_or_there(
        settings,
        lambda jobs: jobs.releases.manager.rollback().to_json(),
        lambda client: client.ask("POST", "/v1/releases:rollback"),
    )


def delete_release(settings: Settings, release_id: str, *, force: bool = False) -> None:
    """Remove a release and its generation of the index.

    Args:
        settings: Whose library.
        release_id: The release.
        force: Whether it may be the one to roll back to.
    """

    def here(jobs: Jobs) -> dict[str, Any]:
        jobs.releases.manager.delete(release_id, gives_up_rollback=force)
        return {}

    path = f"/v1/releases/{quote(release_id)}" + ("?force=true" if force else "")
    _here_or_there(settings, here, lambda client: client.ask("DELETE", path))


def calibrate_release(settings: Settings) -> Mapping[str, Any]:
    """Learn anew what the scores of the active release mean.

    Args:
        settings: Whose library.

    Returns:
        The calibration.
    """
    return _here_or_there(
        settings,
        lambda jobs: jobs.releases.manager.calibrate().to_json(),
        lambda client: client.ask("POST", "/v1/releases:calibrate"),
    )


def _wait(client: JobClient, job_id: str, on_step: OnStep) -> dict[str, Any]:
    while True:
        with keeping(job_id):
            job = client.ask("GET", f"/v1/jobs/{quote(job_id)}")
        on_step(job["progress"])
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(LOOK_SECONDS)


def _here_or_there(
    settings: Settings,
    here: Callable[[Jobs], Mapping[str, Any]],
    there: Callable[[JobClient], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Work in this process, or where another one has the index open, on the server that it is."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        with open_foley(settings) as foley, open_jobs(foley) as jobs:
            return here(jobs)
    except IndexInUse:
        server = find_server(settings)
        if server is None:
            raise
    with JobClient(*server, headers=settings.client_headers(), timeout_seconds=ANSWER_SECONDS) as client:
        return there(client)
