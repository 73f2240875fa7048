"""A job that a running `foley serve` does for a command: sent over HTTP, and followed to its end.

    with JobClient(host, port, headers=settings.client_headers()) as client:
        job = client.submit("index", request)
        report = client.follow(job["job_id"], on_progress)

Only the server can write to an index it has open. Ctrl-C cancels the job there.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote, urlencode

from service.client.refusal import explain_refusal
from service.client.served_inventory import listens
from service.index.opening import index_folder
from service.jobs.records import JobRequest, Kind
from service.library.report import IndexReport, OnProgress, Progress
from service.releases.opening import active_release
from service.system.failure import Failure
from service.system.settings import MAX_LIMIT, Settings

TIMEOUT_SECONDS = 30.0
LOOK_SECONDS = 0.3
ATTEMPTS = 4  # at a request whose answer did not come
CANCEL_SECONDS = 30.0


def find_server(settings: Settings) -> tuple[str, int] | None:
    """Where the `foley serve` answers that has the active index open.

    Args:
        settings: Whose library; host and port are where its server is looked for.

    Returns:
        Host and port; None where the process that has the index open does not listen there.
    """
    release_id, _ = active_release(settings)
    lock = index_folder(settings, release_id) / "lock"
    holder = lock.read_text("ascii", "replace").strip()  # the number of that process
    # What answers on the port could be the server of another library.
    if not listens(holder, settings.port):
        return None
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound to it here
    return everywhere.get(settings.host, settings.host), settings.port


class ServerRefused(Failure):
    """The server did not take the job, or its job failed."""


class ServerGone(ServerRefused):
    """The server does not answer."""


@contextmanager
def keeping(job_id: str) -> Iterator[None]:
    """Say of a server that goes away in the block that its job is not lost.

    Args:
        job_id: The job.

    Yields:
        Nothing.

    Raises:
        ServerGone: If the server went away.
    """
    try:
        yield
    except ServerGone as exc:
        kept = f"job {job_id} is kept and goes on when `foley serve` starts again; `foley jobs show` tells how far"
        raise ServerGone(f"{exc}; {kept}") from exc


class JobClient:
    """Jobs on one server.

    Args:
        host: Its address.
        port: Its port.
        headers: What every request carries: an API key, if one is needed.
        timeout_seconds: How long an answer may take.
    """

    def __init__(
        self, host: str, port: int, *, headers: Mapping[str, str], timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.address = f"{host}:{port}"
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        self._headers = dict(headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send any request.

        Args:
            method: HTTP method.
            path: Path and query string.
            body: JSON values.

        Returns:
            The answer's JSON object, empty where it has none.
        """
        return self._ask(method, path, body=body)

    def submit(self, kind: Kind, request: JobRequest) -> dict[str, Any]:
        """Send a job.

        Args:
            kind: What it does.
            request: With what.

        Returns:
            The job.

        Raises:
            ServerRefused: If the server does not take it, or a path cannot be sent.
        """
        body = {"kind": kind, **request.to_json()}
        try:
            "".join(request.paths).encode()
        except UnicodeEncodeError as exc:
            raise ServerRefused("a path that is not UTF-8 cannot be sent to the server") from exc
        key = uuid.uuid4().hex  # so that sending it again does no harm
        return self._ask("POST", "/v1/jobs", body=body, headers={"Idempotency-Key": key})

    def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a job again for its failed files."""
        return self._ask("POST", f"/v1/jobs/{quote(job_id)}:retry")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job."""
        return self._ask("POST", f"/v1/jobs/{quote(job_id)}:cancel")

    def follow(self, job_id: str, on_progress: OnProgress) -> IndexReport:
        """Wait for a job to end. Ctrl-C cancels it, and the report says that it was interrupted.

        Args:
            job_id: Which.
            on_progress: Called with the state of things.

        Returns:
            What was done.

        Raises:
            ServerRefused: If the job failed.
        """
        with keeping(job_id):
            job = self._end_of(job_id, on_progress)
        if job["state"] == "failed":
            raise ServerRefused(f"{job['error']['detail']} ({job['error']['code']})")
        report = IndexReport() if job["report"] is None else self._read_report(job_id, job["report"])
        report.is_interrupted = job["state"] != "done"
        return report

    def _end_of(self, job_id: str, on_progress: OnProgress) -> dict[str, Any]:
        try:
            return self._wait(job_id, on_progress, until=None)
        except KeyboardInterrupt:
            self._ask("POST", f"/v1/jobs/{quote(job_id)}:cancel", allowed=(409,))
            return self._wait(job_id, on_progress, until=time.monotonic() + CANCEL_SECONDS)

    def _wait(self, job_id: str, on_progress: OnProgress, *, until: float | None) -> dict[str, Any]:
        while True:
            job = self._ask("GET", f"/v1/jobs/{quote(job_id)}")
            on_progress(Progress.from_json(job["progress"]))
            is_late = until is not None and time.monotonic() > until
            if is_late or job["state"] not in ("queued", "running"):
                return job
            time.sleep(LOOK_SECONDS)

    def _read_report(self, job_id: str, document: dict[str, Any]) -> IndexReport:
        """The report with all failed files: the server shows the first of them only."""
        if len(document["failed"]) < document["files"]["failed"]:
            files = self._list_files(job_id, "failed", "quarantined")
            failed = [{name: file[name] for name in ("path", "code", "reason")} for file in files]
            quarantined = [
                {name: file[name] for name in ("path", "code", "reason", "attempts")}
                for file in files
                if file["outcome"] == "quarantined"
            ]
            document = {**document, "failed": failed, "quarantined": quarantined}
        return IndexReport.from_json(document)

    def _list_files(self, job_id: str, *outcomes: str) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": MAX_LIMIT, "outcome": outcomes}
        while True:
            page = self._ask("GET", f"/v1/jobs/{quote(job_id)}/files?{urlencode(query, doseq=True)}")
            files += page["files"]
            if page["next_cursor"] is None:
                return files
            query["cursor"] = page["next_cursor"]

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._ask_once(method, path, body=body, headers=headers or {}, allowed=allowed)
            except (OSError, http.client.HTTPException) as exc:
                self._connection.close()  # the next request opens it again
                if attempt == ATTEMPTS:
                    raise ServerGone(f"the server on {self.address} does not answer: {exc}") from exc
                time.sleep(LOOK_SECONDS * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _ask_once(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        allowed: tuple[int, ...],
    ) -> dict[str, Any]:
        text = None if body is None else json.dumps(body).encode()
        sent = {**self._headers, **headers, **({"Content-Type": "application/json"} if text else {})}
        self._connection.request(method, path, body=text, headers=sent)
        response = self._connection.getresponse()
        content = response.read()
        try:
            answer: dict[str, Any] = json.loads(content or b"{}")
        except ValueError as exc:
            raise http.client.HTTPException(f"status {response.status} without JSON") from exc
        if response.status >= http.client.BAD_REQUEST and response.status not in allowed:
            raise ServerRefused(
                f"the server on {self.address} refused: {explain_refusal(response.status, answer)}"
            )
        return answer
