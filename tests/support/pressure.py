"""Clients that press on a server: slow ones that hold connections, and more at once than it can answer.

They speak HTTP over plain sockets of one event loop, so that hundreds cost the machine little beside the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

SlowKind = Literal["silent", "head", "body", "stalled"]
KINDS: tuple[SlowKind, ...] = ("silent", "head", "body", "stalled")
BOUNDARY = "frontier"
ARRIVAL_SECONDS = 0.01  # between two slow senders
MIN_REQUESTS = 30  # three times what two workers and their queue hold: some must be refused


def form(content: bytes, **fields: str) -> bytes:
    """A whole POST /v1/search with a file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'
        for n, v in fields.items()
    ]
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = "".join(parts).encode() + start.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its status, and the seconds from the last byte sent, 0 where none came."""

    status: int
    seconds: float


async def ask(address: str, request: bytes, *, timeout_seconds: float = 60.0) -> Answer:
    """Send a request on a connection of its own and read the answer to its end."""
    parts = urlsplit(address)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            line = await reader.readline()
            seconds = time.perf_counter() - began
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return Answer(status=0, seconds=time.perf_counter() - began)
    return Answer(status=int(line.split()[1]) if line else 0, seconds=seconds)


def percentile(seconds: Sequence[float], percent: int) -> float:
    """A percentile by the nearest rank."""
    ranked = sorted(seconds)
    return ranked[min(len(ranked) - 1, round(percent / 100 * len(ranked)))]


# Slow senders


async def send_slowly(address: str, kind: SlowKind, *, give_up_seconds: float) -> float:
    """Hold a connection as long as the server lets us; seconds until it was closed, infinity where it never was."""
    parts = urlsplit(address)
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = b"POST /v1/search?target=audio HTTP/1.1\r\nHost: localhost\r\n"
    rest = (
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 1000000\r\n\r\n".encode()
    )
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    writer.write({"silent": b"", "head": head, "body": head + rest, "stalled": head + rest + start}[kind])

    async def drip() -> None:
        while kind in ("head", "body"):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            writer.write(b"x" if kind == "head" else b"-")
            await writer.drain()

    dripping = asyncio.ensure_future(drip())
    try:
        async with asyncio.timeout(give_up_seconds):
            with contextlib.suppress(OSError):
                await reader.read()  # until the server closes
        return time.perf_counter() - began
    except TimeoutError:
        return float("inf")
    finally:
        dripping.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await dripping
        writer.close()


@dataclass(kw_only=True)
class SlowReport:
    """What slow senders could do.

    Attributes:
        closed_seconds: For each sender, when the server closed it.
        quiet: Seconds of a good client's answers before they came.
        pressed: The same while they were there.
        num_failed: Answers of the good client that were not 200.
    """

    closed_seconds: list[float]
    quiet: list[float]
    pressed: list[float]
    num_failed: int

    @property
    def ratio(self) -> float:
        """p99 under pressure against quiet."""
        return percentile(self.pressed, 99) / percentile(self.quiet, 99)

    def __str__(self) -> str:
        median, last = statistics.median(self.closed_seconds), max(self.closed_seconds)
        quiet, pressed = (percentile(seconds, 99) * 1e3 for seconds in (self.quiet, self.pressed))
        return (
            f"{len(self.closed_seconds)} slow senders closed after {median:.1f} s (median), {last:.1f} s (last); "
            f"p99 of a good client {quiet:.1f} → {pressed:.1f} ms ({self.ratio:.2f} ×), {self.num_failed} of "
            f"{len(self.pressed)} failed"
        )

    def check(self, *, within_seconds: float) -> None:
        """Fail where a sender was not closed in time, or a good client noticed."""
        late = [seconds for seconds in self.closed_seconds if seconds > within_seconds]
        assert not late, f"{len(late)} slow senders still open after {within_seconds} s: {self}"
        assert self.num_failed == 0, str(self)


async def press_slowly(address: str, *, num_senders: int, limit_seconds: float) -> SlowReport:
    """Measure a good client without and with slow senders of every kind."""
    good = b"GET /v1/assets?limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    quiet: list[Answer] = []
    pressed: list[Answer] = []

    async def be_good(answers: list[Answer], stop: asyncio.Event) -> None:
        while not stop.is_set():
            answers.append(await ask(address, good))
            await asyncio.sleep(0.02)

    stop = asyncio.Event()
    client = asyncio.ensure_future(be_good(quiet, stop))
    await asyncio.sleep(min(10.0, limit_seconds / 2))
    stop.set()
    await client
    stop = asyncio.Event()
    client = asyncio.ensure_future(be_good(pressed, stop))
    senders = []
    for number in range(num_senders):  # they come one after another, as clients do
        kind = KINDS[number % len(KINDS)]
        sender = send_slowly(address, kind, give_up_seconds=1.05 * limit_seconds + 0.2)
        senders.append(asyncio.ensure_future(sender))
        await asyncio.sleep(ARRIVAL_SECONDS)
    closed = await asyncio.gather(*senders)
    stop.set()
    await client
    return SlowReport(
        closed_seconds=list(closed),
        quiet=[answer.seconds for answer in quiet],
        pressed=[answer.seconds for answer in pressed],
        num_failed=sum(answer.status != 200 for answer in quiet + pressed),
    )


# Overload


@dataclass(kw_only=True)
class OverloadReport:
    """What became of more requests than can be answered.

    Attributes:
        capacity: Requests answered per second without overload.
        offered: Requests sent per second.
        answers: All answers.
    """

    capacity: float
    offered: float
    answers: list[Answer] = field(default_factory=list)

    def of(self, *statuses: int) -> list[float]:
        """Seconds of the answers with these statuses."""
        return [answer.seconds for answer in self.answers if answer.status in statuses]

    def __str__(self) -> str:
        accepted, refused = self.of(200) or [float("nan")], self.of(429) or [float("nan")]
        return (
            f"{self.offered:.0f} requests/s offered, {self.offered / self.capacity:.1f} × capacity: "
            f"{len(self.of(200))} accepted (p50 {percentile(accepted, 50):.2f} s, last {max(accepted):.2f} s), "
            f"{len(self.of(429))} refused (p50 {percentile(refused, 50) * 1e3:.0f} ms, p99 "
            f"{percentile(refused, 99) * 1e3:.0f} ms, last {max(refused) * 1e3:.0f} ms), "
            f"{len(self.answers) - len(self.of(200, 429))} neither"
        )

    def check(self, *, deadline_seconds: float, refusal_seconds: float) -> None:
        """Fail where an accepted request was late, a refusal slow, or an answer something else."""
        assert len(self.of(200, 429)) == len(self.answers), str(self)
        assert self.of(429), f"nothing was refused: {self}"
        assert max(self.of(200)) <= deadline_seconds, f"accepted, but late: {self}"
        assert percentile(self.of(429), 99) <= refusal_seconds, f"refused, but slowly: {self}"


async def overload(
    address: str, request: bytes, *, factor: float, seconds: float, num_workers: int
) -> OverloadReport:
    """Measure what a server can answer, then offer it a multiple of that, evenly, whatever it answers."""
    await asyncio.gather(*(ask(address, request) for _ in range(2 * num_workers)))  # the decode workers start
    done = 0
    until = time.perf_counter() + min(seconds, 4.0)

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < until:
            done += (await ask(address, request)).status == 200

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(num_workers)))
    capacity = done / (time.perf_counter() - began)
    report = OverloadReport(capacity=capacity, offered=factor * capacity)
    asking = []
    began = time.perf_counter()
    for number in range(max(int(report.offered * seconds), MIN_REQUESTS)):
        await asyncio.sleep(max(0.0, began + number / report.offered - time.perf_counter()))
        asking.append(asyncio.ensure_future(ask(address, request)))
    report.answers = list(await asyncio.gather(*asking))
    return report
