"""A running `foley serve`, asked over HTTP for what only it can do: it has the library's index open.

with find_server(settings, held) as client:
    document = client.ask("GET", "/v1/jobs", query={"limit": 5})
"""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import psutil

from models.media.clip import open_regular
from service.index.failure import IndexInUse
from service.index.opening import index_folder
from service.releases.opening import active_release
from service.system.failure import Failure
from service.system.settings import MAX_LIMIT, Settings

TIMEOUT_SECONDS = 30.0
LOOK_SECONDS = 0.3
ATTEMPTS = 4
CANCEL_SECONDS = 30.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx's own reads every certificate there is, for 70 ms
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound to it here
HINTS = {
    "unauthorized": "set FOLEY_API_KEY to a key that `foley keys create` made there",
    "insufficient_scope": "set FOLEY_API_KEY to a key of that scope",
}

Query = Mapping[str, str | int | float | Sequence[str] | None]
OnProgress = Callable[[Mapping[str, Any]], None]
"""Called with the `progress` of a job's document."""


class ServerRefused(Failure):
    """The server does not do what was asked of it; `status` is that of its answer, 0 if nothing was sent."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ServerGone(Failure):
    """The server does not answer."""


def find_server(settings: Settings, held: Failure) -> Client:
    """A client of the `foley serve` that has the active index open; `held` says that a process has it open.

    Raises `IndexInUse` if that process does not listen on the port of the settings: what answers there could be the
    server of another library. Raises `held` if the index is not in a folder, so that nothing names the process.
    """
    release_id, _ = active_release(settings)
    lock = index_folder(settings, release_id) / "lock"
    if not lock.exists():
        raise held
    if not _listens(lock, settings.port):
        raise IndexInUse(f"{held}, which does not listen on port {settings.port}") from held
    host = EVERYWHERE.get(settings.host, settings.host)
    return Client(host, settings.port, headers=settings.client_headers())


def _listens(lock: Path, port: int) -> bool:
    """Whether the process whose number is in the lock accepts connections on a port."""
    try:
        connections = psutil.Process(int(lock.read_text("ascii"))).net_connections("tcp")
    except (psutil.Error, OSError, ValueError):  # it has ended, or belongs to another user
        return False
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        for connection in connections
    )


class Client:
    """One server; `headers` are sent with every request: an API key, if one is needed."""

    def __init__(self, host: str, port: int, *, headers: Mapping[str, str]) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._http = httpx.Client(
            base_url=f"http://{self.address}", headers=headers, trust_env=False, verify=NO_TLS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        is_keyed: bool = False,
        timeout_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and read the answer's JSON object; an answer without a body is an empty one.

        A request whose answer did not come is repeated if that does no harm: a GET, or one that `is_keyed`, which
        carries an `Idempotency-Key`. One that never reached the server is repeated too.

        Raises `ServerRefused` if the answer is a problem; `ServerGone` if there is none.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex} if is_keyed else {}
        with self._translated():
            request = self._http.build_request(
                method,
                path,
                params=_given(query),
                json=body,
                headers=headers,
                timeout=_timeout(timeout_seconds),
            )
            return self._read(self._send(request, may_repeat=is_keyed or method == "GET"))

    def list_pages(self, path: str, name: str, *, query: Query | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a list that is answered page by page; `name` is the field of the answer that holds them."""
        fields = {**(query or {}), "limit": MAX_LIMIT}
        while True:
            page = self.ask("GET", path, query=fields)
            yield from page[name]
            if page["next_cursor"] is None:
                return
            fields["cursor"] = page["next_cursor"]

    def upload(self, path: str, file: Path, *, query: Query, timeout_seconds: float) -> dict[str, Any]:
        """Send a file as a form, without its name, and read the answer's JSON object; see `ask`."""
        with (
            self._translated(),
            open_regular(file) as (descriptor, _),
            open(descriptor, "rb", closefd=False) as opened,
        ):
            return self._read(
                self._http.post(
                    path,
                    params=_given(query),
                    files={"file": ("query", opened)},
                    timeout=_timeout(timeout_seconds),
                )
            )

    @contextmanager
    def stream(
        self, method: str, path: str, *, query: Query | None = None, timeout_seconds: float
    ) -> Iterator[Iterator[bytes]]:
        """Send a request and read the answer's body piece by piece; see `ask`. The timeout is that of each piece."""
        with (
            self._translated(),
            self._http.stream(
                method, path, params=_given(query), timeout=_timeout(timeout_seconds)
            ) as response,
        ):
            if response.is_error:
                response.read()
                self._read(response)
            yield response.iter_bytes()

    def follow(self, job_id: str, on_progress: OnProgress) -> dict[str, Any]:
        """Wait for a job to end and return its document. Ctrl-C cancels it; then it may still be running in there.

        Raises `ServerGone` if the server goes away; it resumes the job when it is started again.
        """
        path = f"/v1/jobs/{quote(job_id)}"
        try:
            try:
                return self._wait(path, on_progress, until=None)
            except KeyboardInterrupt:
                self._cancel(path)
                return self._wait(path, on_progress, until=time.monotonic() + CANCEL_SECONDS)
        except ServerGone as exc:
            kept = f"job {job_id} is kept and is resumed when `foley serve` starts again"
            raise ServerGone(f"{exc}; {kept}; `foley jobs show {job_id}` shows how far it is") from exc

    def _cancel(self, path: str) -> None:
        try:
            self.ask("POST", f"{path}:cancel")
        except ServerRefused as exc:
            if exc.status != httpx.codes.CONFLICT:  # it has ended
                raise

    def _wait(self, path: str, on_progress: OnProgress, *, until: float | None) -> dict[str, Any]:
        while True:
            job = self.ask("GET", path)
            on_progress(job["progress"])
            is_late = until is not None and time.monotonic() > until
            if is_late or job["state"] not in ("queued", "running"):
                return job
            time.sleep(LOOK_SECONDS)

    def _send(self, request: httpx.Request, *, may_repeat: bool) -> httpx.Response:
        for attempt in range(1, ATTEMPTS):
            try:
                return self._http.send(request)
            except httpx.TransportError as exc:
                if not (may_repeat or isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise
                time.sleep(LOOK_SECONDS * attempt)
        return self._http.send(request)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            document: dict[str, Any] = response.json() if response.content else {}
        except ValueError as exc:
            raise ServerRefused(
                f"the server on {self.address} answers something other than JSON: status {response.status_code}",
                status=response.status_code,
            ) from exc
        if response.is_error:
            problem = _explain(response.status_code, document)
            raise ServerRefused(
                f"the server on {self.address} refused: {problem}", status=response.status_code
            )
        return document

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as exc:
            raise ServerRefused("a value that is not UTF-8 cannot be sent to the server") from exc
        except httpx.LocalProtocolError as exc:
            raise ServerRefused(f"the file changed while it was sent: {exc}") from exc
        except httpx.TransportError as exc:
            raise ServerGone(f"the server on {self.address} does not answer: {exc}") from exc


def _given(query: Query | None) -> dict[str, str | int | float | Sequence[str]]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _timeout(seconds: float | None) -> httpx.Timeout:
    return httpx.Timeout(TIMEOUT_SECONDS if seconds is None else seconds, connect=TIMEOUT_SECONDS)


def _explain(status: int, problem: Mapping[str, Any]) -> str:
    """What a problem document (RFC 9457) says, in one line with what helps: `the file has 0 bytes (empty)`."""
    code = problem.get("code")
    text = str(problem.get("detail") or problem.get("title") or f"status {status}")
    text += f" ({code})" if code else ""
    return f"{text}: {HINTS[code]}" if code in HINTS else text
