"""The client for programs in Python, which wait for an answer or have an event loop.

with Foley("http://127.0.0.1:8000") as foley:
    for result in foley.send(search_words("rain", target="audio"))["results"]:
        print(result["path"])

`service.client.requests` has the requests, `service.client.schema` the types of answers (made of /openapi.json by
`make clients`). A request is sent again, at most `attempts` times, if the service is overloaded (429, as long after
as `Retry-After` says) or cannot be reached, and if the connection broke and that does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Self, TypeVar, cast

import httpx

from service.client.client import NO_TLS, ServerGone
from service.client.requests import Call, get_job
from service.client.schema import AssetBody, AssetPageBody, JobBody, ProblemBody
from service.system.failure import Failure

T = TypeVar("T")
OnJob = Callable[[JobBody], object]
"""Called with a job whenever it was looked at."""

TIMEOUT_SECONDS = 120.0
LOOK_SECONDS = 0.3
RUNNING = ("queued", "running")


class Refused(Failure):
    """The service refused a request: `status` is that of its answer, `problem` what it said, `code` its stable code."""

    def __init__(self, status: int, problem: ProblemBody) -> None:
        self.code = problem.get("code", "internal_error")
        super().__init__(f"{problem.get('detail') or problem.get('title') or status} ({self.code})")
        self.status = status
        self.problem = problem


class Foley:
    """A service at an address such as `http://127.0.0.1:8000`; `key` is an API key, if one is needed."""

    def __init__(self, address: str, *, key: str | None = None, attempts: int = 4) -> None:
        self._http = httpx.Client(**_options(address, key))
        self._attempts = attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Send a request and read its answer; raises `Refused`, and `ServerGone` if there is no answer."""
        key = uuid.uuid4().hex
        for attempt in range(1, self._attempts + 1):
            with _open_file(call) as files:
                answer: httpx.Response | httpx.TransportError
                try:
                    answer = self._http.send(_build(self._http, call, key, files))
                except httpx.TransportError as exc:
                    answer = exc
            wait = _wait_seconds(call, answer, attempt)
            if wait is None or attempt == self._attempts:
                break
            time.sleep(wait)
        return _read(call, answer)

    def pages(self, call: Call[AssetPageBody]) -> Iterator[AssetBody]:
        """Every asset of a list, page by page."""
        while True:
            page = self.send(call)
            yield from page["assets"]
            if page["next_cursor"] is None:
                return
            call = _next_page(call, page["next_cursor"])

    def follow(self, job_id: str, on_job: OnJob = lambda _: None) -> JobBody:
        """Wait for the end of a job and return it."""
        while True:
            job = self.send(get_job(job_id))
            on_job(job)
            if job["state"] not in RUNNING:
                return job
            time.sleep(LOOK_SECONDS)


class AsyncFoley:
    """As `Foley`, in an event loop."""

    def __init__(self, address: str, *, key: str | None = None, attempts: int = 4) -> None:
        self._http = httpx.AsyncClient(**_options(address, key))
        self._attempts = attempts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """See `Foley.send`."""
        key = uuid.uuid4().hex
        for attempt in range(1, self._attempts + 1):
            with _open_file(call) as files:
                answer: httpx.Response | httpx.TransportError
                try:
                    answer = await self._http.send(_build(self._http, call, key, files))
                except httpx.TransportError as exc:
                    answer = exc
            wait = _wait_seconds(call, answer, attempt)
            if wait is None or attempt == self._attempts:
                break
            await asyncio.sleep(wait)
        return _read(call, answer)

    async def pages(self, call: Call[AssetPageBody]) -> AsyncIterator[AssetBody]:
        """See `Foley.pages`."""
        while True:
            page = await self.send(call)
            for asset in page["assets"]:
                yield asset
            if page["next_cursor"] is None:
                return
            call = _next_page(call, page["next_cursor"])

    async def follow(self, job_id: str, on_job: OnJob = lambda _: None) -> JobBody:
        """See `Foley.follow`."""
        while True:
            job = await self.send(get_job(job_id))
            on_job(job)
            if job["state"] not in RUNNING:
                return job
            await asyncio.sleep(LOOK_SECONDS)


def _options(address: str, key: str | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    options = {"base_url": address, "headers": headers, "timeout": TIMEOUT_SECONDS}
    return options if address.startswith("https:") else {**options, "verify": NO_TLS, "trust_env": False}


@contextlib.contextmanager
def _open_file(call: Call[Any]) -> Iterator[Mapping[str, Any] | None]:
    if call.file is None:
        yield None
        return
    with call.file.open("rb") as opened:
        yield {"file": ("query", opened)}  # without its name


def _build(
    http: httpx.Client | httpx.AsyncClient, call: Call[Any], key: str, files: Mapping[str, Any] | None
) -> httpx.Request:
    return http.build_request(
        call.method,
        call.path,
        params=_given(call.query),
        json=call.body,
        files=files,
        headers={**(call.headers or {}), **({"Idempotency-Key": key} if call.is_keyed else {})},
    )


def _wait_seconds(
    call: Call[Any], answer: httpx.Response | httpx.TransportError, attempt: int
) -> float | None:
    """How long to wait before the request is sent again; None if it is not."""
    if isinstance(answer, httpx.Response):
        seconds = answer.headers.get("Retry-After", "")
        return float(seconds) if answer.status_code == 429 and seconds.isdigit() else None
    never_sent = isinstance(answer, httpx.ConnectError | httpx.ConnectTimeout)
    return LOOK_SECONDS * attempt if never_sent or call.is_keyed or call.method == "GET" else None


def _read(call: Call[T], answer: httpx.Response | httpx.TransportError) -> T:
    if isinstance(answer, httpx.TransportError):
        raise ServerGone(f"the service does not answer: {answer}") from answer
    try:
        document = answer.json() if answer.content else {}
    except ValueError:
        document = {}
    if not answer.is_success:
        raise Refused(answer.status_code, cast("ProblemBody", document if isinstance(document, dict) else {}))
    return cast("T", document)


def _next_page(call: Call[T], cursor: str) -> Call[T]:
    return Call(call.method, call.path, query={**(call.query or {}), "cursor": cursor})


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}
