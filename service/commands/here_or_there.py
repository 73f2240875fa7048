"""Work on a library for a command: in this process, or by the running `foley serve` that has the library open.

    found = here_or_there(settings, lambda: read_index(), lambda client: client.ask("GET", "/v1/audit"))

Both ways give the same values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from service.foley import open_foley
from service.index.failure import IndexInUse
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.jobs.database import LedgerInUse
from service.jobs.documents import LEDGER_NAME, describe_job, show_request
from service.jobs.files import find_missing
from service.jobs.lane import JobEnded
from service.jobs.ledger import Ledger
from service.jobs.library_jobs import OpenPool
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRecord, JobRequest, Kind, ReleaseRequest
from service.jobs.release_jobs import OnStep
from service.library.report import IndexReport, OnProgress, Progress
from service.operations.backup import ROUTE, Manifest, read_library, read_tar, save_backup
from service.operations.track_stream import ROUTE as TRACKS
from service.operations.track_stream import stream_release
from service.releases.documents import ReleaseList
from service.releases.manager import ReleaseManager, name_of_user
from service.releases.opening import active_release
from service.releases.store import ReleaseStore
from service.system.caller import CallerGone
from service.system.failure import Failure
from service.system.settings import Settings
from service.system.text import count

if TYPE_CHECKING:
    from service.client.client import Client

logger = logging.getLogger(__name__)

BACKUP_SECONDS = 120.0  # for the next piece of a running server's answer
SWITCH_SECONDS = 3600.0  # a switch first embeds what was indexed since the release was built

T = TypeVar("T")
Say = Callable[[str], None]


class JobFailed(Failure):
    """The job failed on the server, with this code; the message says why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


def here_or_there(settings: Settings, here: Callable[[], T], there: Callable[[Client], T]) -> T:
    """Work here, or ask the server that has the library open; raises `IndexInUse` if that is not our server."""
    try:
        return here()
    except (IndexInUse, LedgerInUse) as exc:
        held = exc
    # httpx takes 0.1 s to import, which a command that works here need not wait for.
    from service.client.client import find_server  # noqa: PLC0415

    with find_server(settings, held) as client:
        return there(client)


def run_here(
    settings: Settings,
    kind: Kind,
    request: JobRequest,
    *,
    on_progress: OnProgress,
    say: Say,
    open_pool: OpenPool | None = None,
) -> IndexReport:
    """Do a job in this process; see `run_job` and `LibraryJobs.run`."""
    with _open_jobs(settings) as jobs:
        same = jobs.library.find_same(kind, request)
        if same is not None and same.started_at is not None:
            say(f"resuming job {same.job_id}, which was interrupted")
        job = same or jobs.library.submit(kind, request).job
        return jobs.library.run(job.job_id, on_progress=on_progress, open_pool=open_pool)


def run_job(
    settings: Settings, kind: Kind, request: JobRequest, *, on_progress: OnProgress, say: Say
) -> IndexReport:
    """Do a job and wait for its end. An interrupted one is resumed; Ctrl-C ends it, and the report says so."""

    def here() -> IndexReport:
        return run_here(settings, kind, request, on_progress=on_progress, say=say)

    def there(client: Client) -> IndexReport:
        job = client.ask(
            "POST", "/v1/jobs", body={"kind": kind, **show_request(request.to_json())}, is_keyed=True
        )
        say(f"the server on {client.address} has the index open and runs job {job['job_id']}")
        return _follow(client, job["job_id"], on_progress)

    return here_or_there(settings, here, there)


def repair_library(
    settings: Settings, *, active: str | None, on_progress: OnProgress, say: Say
) -> IndexReport:
    """Let a damaged index open again, and index what it lacks of what the ledger knows; `active` becomes active."""
    if active is not None:
        ReleaseStore(settings.release_folder).activate(active, previous=None)
    release_id, bundle = active_release(settings)
    aside = index_place(settings).repair(bundle, release_id=release_id)
    if aside is not None:
        say(f"the index cannot be read and is kept in {aside}: what people said of assets is only in backups")
    with open_foley(settings) as foley, open_jobs(foley) as jobs:
        missing = find_missing(jobs.ledger, {asset.asset_id for asset in iter_assets(foley.index)})
        say(f"{count(len(missing), 'file')} to index again")
        if not missing:
            return IndexReport()
        job = jobs.library.submit("index", JobRequest(paths=tuple(missing))).job
        return jobs.library.run(job.job_id, on_progress=on_progress)


def retry_job(settings: Settings, job_id: str, *, on_progress: OnProgress, say: Say) -> IndexReport:
    """Try the failed files of a job again, and those it never reached; the report covers all its runs.

    For a job that builds a release see `retry_build`.
    """

    def here() -> IndexReport:
        with _open_jobs(settings) as jobs:
            return jobs.library.run(jobs.retry(job_id).job_id, on_progress=on_progress)

    def there(client: Client) -> IndexReport:
        client.ask("POST", f"/v1/jobs/{quote(job_id)}:retry")
        say(f"the server on {client.address} has the index open and runs the job")
        return _follow(client, job_id, on_progress)

    return here_or_there(settings, here, there)


def _follow(client: Client, job_id: str, on_progress: OnProgress) -> IndexReport:
    job = client.follow(job_id, lambda progress: on_progress(Progress.from_json(progress)))
    _check_job(job)
    report = IndexReport() if job["report"] is None else _read_report(client, job_id, job["report"])
    report.is_interrupted = job["state"] != "done"
    return report


def _read_report(client: Client, job_id: str, document: Mapping[str, Any]) -> IndexReport:
    """The report with all failed files: the server's document names only the first of them."""
    if len(document["failed"]) == document["files"]["failed"]:
        return IndexReport.from_json(document)
    query = {"outcome": ("failed", "quarantined")}
    files = list(client.list_pages(f"/v1/jobs/{quote(job_id)}/files", "files", query=query))
    return IndexReport.from_json(
        {
            **document,
            "failed": [_pick(file, "path", "code", "reason") for file in files],
            "quarantined": [
                _pick(file, "path", "code", "reason", "attempts")
                for file in files
                if file["outcome"] == "quarantined"
            ],
        }
    )


def _pick(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: document[name] for name in names}


def cancel_job(settings: Settings, job_id: str) -> str:
    """Cancel a job that waits or runs, and return its state."""

    def here() -> str:
        with Ledger.open(settings.data / LEDGER_NAME) as ledger:  # no process runs it: the ledger is ours
            job = ledger.get_job(job_id)
            if job.has_ended:
                raise JobEnded(f"job {job_id} has ended: {job.state}")
            return ledger.end_job(job_id, "cancelled", report=None).state

    def there(client: Client) -> str:
        return str(client.ask("POST", f"/v1/jobs/{quote(job_id)}:cancel")["state"])

    return here_or_there(settings, here, there)


def make_backup(settings: Settings, folder: Path) -> Manifest:
    """Write a backup into a new folder, and return what it holds."""

    def here() -> Manifest:
        with closing(read_library(settings)) as files:
            return save_backup(folder, files)

    def there(client: Client) -> Manifest:
        with (
            client.stream("POST", ROUTE, timeout_seconds=BACKUP_SECONDS) as pieces,
            closing(read_tar(pieces)) as files,
        ):
            return save_backup(folder, files)

    return here_or_there(settings, here, there)


def write_tracks(settings: Settings, release_id: str | None, write: Callable[[bytes], object]) -> None:
    """Write the stored tracks of a release (None: the active one) as a tar, piece by piece."""

    def here() -> None:
        with closing(stream_release(settings, release_id)) as pieces:
            for piece in pieces:
                write(piece)

    def there(client: Client) -> None:
        query = {"release": release_id}
        with client.stream("GET", TRACKS, query=query, timeout_seconds=BACKUP_SECONDS) as pieces:
            for piece in pieces:
                write(piece)

    here_or_there(settings, here, there)


def find_bundle(settings: Settings, release_id: str | None) -> Path:
    """Folder of the verified bundle of a release (None: the active one); raises `ReleaseNotFound`."""
    active_id, bundle = active_release(settings)
    if release_id in (None, active_id, bundle.bundle_id):
        return bundle.path
    return ReleaseStore(settings.release_folder).load_bundle(release_id).path


def list_releases(settings: Settings) -> ReleaseList:
    """Every release of the library, the oldest first, and the name of the active one; read from files alone."""
    store = ReleaseStore(settings.release_folder)
    release_id, _ = active_release(settings)
    return {
        "releases": [store.describe(release, current=release_id) for release in store.list()],
        "active": release_id,
    }


def create_release(
    settings: Settings,
    bundle: Path,
    *,
    activate: bool,
    force: str,
    any_cost: bool,
    storage: str = "",
    on_step: OnStep,
) -> Mapping[str, Any]:
    """Build a release of a bundle, and return the job; its report holds `release` and `switched`.

    With `activate` the release is activated if it passes its gates; with `force`, the reason, even if it does not. With
    `any_cost` the time and memory of its encoder have no limit. Raises `JobFailed` if the job failed on the server.
    """
    request = ReleaseRequest(
        bundle=str(bundle.absolute()),
        activate=activate,
        force=force,
        any_cost=any_cost,
        storage=storage,
        who=name_of_user(),
    )
    body = _pick(show_request(request.to_json()), "bundle", "activate", "force", "any_cost", "storage")
    return _build(
        settings,
        lambda jobs: jobs.releases.submit(request).job,
        lambda client: client.ask("POST", "/v1/releases", body=body),
        on_step=on_step,
    )


def retry_build(settings: Settings, job_id: str, *, on_step: OnStep) -> Mapping[str, Any]:
    """Build the release of a job again; see `create_release`."""
    return _build(
        settings,
        lambda jobs: jobs.retry(job_id, who=name_of_user()),
        lambda client: client.ask("POST", f"/v1/jobs/{quote(job_id)}:retry"),
        on_step=on_step,
    )


def _build(
    settings: Settings,
    queue_here: Callable[[Jobs], JobRecord],
    queue_there: Callable[[Client], Mapping[str, Any]],
    *,
    on_step: OnStep,
) -> Mapping[str, Any]:
    """Queue a job that builds a release, wait for its end, and return it."""

    def here() -> Mapping[str, Any]:
        with _open_jobs(settings) as jobs:
            job_id = queue_here(jobs).job_id
            try:
                jobs.releases.run(job_id, on_step=on_step)
            except (CallerGone, JobEnded):
                logger.info("the build was stopped")
            return describe_job(jobs.ledger.get_job(job_id))

    job = here_or_there(settings, here, lambda client: client.follow(queue_there(client)["job_id"], on_step))
    _check_job(job)
    return job


def _check_job(job: Mapping[str, Any]) -> None:
    if job["state"] == "failed":
        raise JobFailed(job["error"]["code"], job["error"]["detail"])


def activate_release(settings: Settings, release_id: str, *, force: str) -> Mapping[str, Any]:
    """Activate a release, and return what the switch did; `force` says why, if it failed its gates."""
    return _with_releases(
        settings,
        lambda manager: manager.activate(release_id, who=name_of_user(), why=force).to_json(),
        "POST",
        f"/v1/releases/{quote(release_id)}:activate",
        body={"force": force},
    )


def rollback_release(settings: Settings) -> Mapping[str, Any]:
    """Switch back to the previous release, and return what the switch did."""
    return _with_releases(
        settings, lambda manager: manager.rollback().to_json(), "POST", "/v1/releases:rollback"
    )


def delete_release(settings: Settings, release_id: str, *, force: bool = False) -> None:
    """Delete a release and its index; with `force` also the one that a rollback returns to."""

    def here(manager: ReleaseManager) -> Mapping[str, Any]:
        manager.delete(release_id, gives_up_rollback=force)
        return {}

    path = f"/v1/releases/{quote(release_id)}" + ("?force=true" if force else "")
    _with_releases(settings, here, "DELETE", path)


def calibrate_release(settings: Settings) -> Mapping[str, Any]:
    """Calibrate the scores of the active release on the current library, and return the calibration."""
    return _with_releases(
        settings, lambda manager: manager.calibrate().to_json(), "POST", "/v1/releases:calibrate"
    )


def _with_releases(
    settings: Settings,
    here: Callable[[ReleaseManager], Mapping[str, Any]],
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Work with the releases here, or send a request to the server."""

    def work() -> Mapping[str, Any]:
        with _open_jobs(settings) as jobs:
            return here(jobs.releases.manager)

    return here_or_there(
        settings, work, lambda client: client.ask(method, path, body=body, timeout_seconds=SWITCH_SECONDS)
    )


@contextmanager
def _open_jobs(settings: Settings) -> Iterator[Jobs]:
    settings.data.mkdir(parents=True, exist_ok=True)
    with open_foley(settings) as foley, open_jobs(foley) as jobs:
        yield jobs
