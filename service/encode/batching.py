"""Segments of many callers, joined into runs of one encoder.

    with Batcher(encoder, BatchLimits(max_batch=16)) as batcher:
        tracks = batcher.encoder_of(caller).encode_audio([samples])    # in any thread; blocks

Callers queue their segments and sleep; a few threads take batches (`service.encode.queue` says which) and run the
encoder. What a caller gets is what the encoder would have given it alone. A batch that fails is encoded again one
by one, so that a segment the encoder cannot take fails its own caller only. A segment whose caller left, or whose
deadline passed, is not encoded. A batcher has one encoder: two are never mixed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.encode.engines.contract import EncoderFailure, Floats
from service.encode.queue import PRIORITIES, BatchLimits, BatchQueue, Item, Order, Priority
from service.system.caller import Caller, CallerGone, DeadlinePassed
from service.system.failure import Failure
from service.system.modality import Modality, Track
from service.system.timing import timed

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0  # for the batches that run when a batcher is closed
RETRY_AFTER_SECONDS = 5


Runs = Mapping[Modality, Callable[[Sequence[Any]], NDArray[np.float32]]]
"""What embeds rows, by modality."""


class BatcherClosed(Failure):
    """The batcher was closed before the segments' turn came."""

    code = "encoder_closed"


class QueueFull(Failure):
    """Too many segments of queries wait for the encoder already; `headers` go to the client."""

    code = "overloaded"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": f"{RETRY_AFTER_SECONDS}"}


class SegmentEncoder(Protocol):
    """Turns segments into tracks: an encoder, or its queue."""

    def encode_audio(self, samples: Sequence[Floats], num_heard: Sequence[int] | None = None) -> Floats:
        """Embed sound, float32 (S,) each, which ends after so many samples, as (B, T, D)."""

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed pictures, uint8 (T, H, W, 3) each, as (B, T, D)."""


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """What a batcher has done so far, and the segments that wait now (`num_queued`).

    `num_batches` counts runs of the encoder by their number of segments, `num_failed` segments, `num_retried` batches
    that were encoded again one by one. Orders are refused if the queue is full, expire at their deadline, and are
    abandoned if their caller leaves. `queued_seconds` and `encode_seconds` are sums; `running_seconds` is the age of
    the oldest run that has not ended, 0 if there is none.
    """

    num_queued: Mapping[Priority, int]
    num_encoded: Mapping[Priority, int]
    num_batches: Mapping[int, int]
    num_refused: int
    num_expired: int
    num_abandoned: int
    num_failed: int
    num_retried: int
    queued_seconds: float
    encode_seconds: float
    running_seconds: float


class QueuedEncoder:
    """The encoder as one caller sees it: a place in the queue."""

    def __init__(self, batcher: Batcher, caller: Caller, priority: Priority) -> None:
        self._batcher = batcher
        self._caller = caller
        self._priority = priority

    def encode_audio(self, samples: Sequence[Floats], num_heard: Sequence[int] | None = None) -> Floats:
        """Embed sound; see `service.encode.encoder.Encoder.encode_audio`, and `Batcher.encode` for further errors."""
        rows = list(zip(samples, map(len, samples) if num_heard is None else num_heard, strict=True))
        return self._batcher.encode(rows, modality="audio", caller=self._caller, priority=self._priority)

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed pictures; see `Encoder.encode_video`, and `Batcher.encode` for further errors."""
        return self._batcher.encode(frames, modality="video", caller=self._caller, priority=self._priority)


class Batcher:
    """Runs one encoder, or functions by modality, which must allow `limits.num_runs` threads at a time.

    Any thread may call.
    """

    def __init__(self, encoder: SegmentEncoder | Runs, limits: BatchLimits) -> None:
        self.limits = limits
        self._encode = encoder if isinstance(encoder, Mapping) else _runs_of(encoder)
        self._queue = BatchQueue(limits)
        self._orders: set[Order] = set()  # those with a waiting caller
        self._changed = threading.Condition()  # guards the queue, the orders and the counts
        self._is_closed = False
        self._counts: Counter[str] = Counter()
        self._num_encoded: Counter[Priority] = Counter()
        self._num_batches: Counter[int] = Counter()
        self._seconds = {"queued": 0.0, "encode": 0.0}
        self._running: list[float] = []  # when the runs under way began
        self._threads = [
            threading.Thread(target=self._work, name=f"encode-{number}", daemon=True)
            for number in range(limits.num_runs)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encoder_of(self, caller: Caller, *, priority: Priority = "query") -> QueuedEncoder:
        """The encoder as a caller sees it."""
        return QueuedEncoder(self, caller, priority)

    def encode(
        self, rows: Sequence[Any], *, modality: Modality, caller: Caller, priority: Priority
    ) -> NDArray[np.float32]:
        """Queue the samples, each with where its sound ends, or frames of B segments; returns their unit embeddings.

        Bulk work waits for room in a full queue, a query is refused with `QueueFull`. Raises `CallerGone`,
        `DeadlinePassed`, `BatcherClosed`, and `EncoderFailure` if the encoder cannot take one of the segments.
        """
        if not rows:
            return self._encode[modality](rows)
        order = Order(caller=caller, priority=priority, modality=modality, rows=rows)
        with timed("encode"), caller.telling(lambda: self._wake(order)):
            try:
                self._enqueue(order)
                self._wait_for(order)
            except (CallerGone, DeadlinePassed, QueueFull) as exc:
                with self._changed:
                    self._counts[type(exc).__name__] += 1
                raise
            finally:
                self._withdraw(order)
        return order.joined()

    def stats(self) -> BatchStats:
        """What was done so far."""
        with self._changed:
            return BatchStats(
                num_queued={priority: self._queue.count(priority) for priority in PRIORITIES},
                num_encoded={priority: self._num_encoded[priority] for priority in PRIORITIES},
                num_batches=dict(self._num_batches),
                num_refused=self._counts[QueueFull.__name__],
                num_expired=self._counts[DeadlinePassed.__name__],
                num_abandoned=self._counts[CallerGone.__name__],
                num_failed=self._counts["failed"],
                num_retried=self._counts["retried"],
                queued_seconds=self._seconds["queued"],
                encode_seconds=self._seconds["encode"],
                running_seconds=time.monotonic() - min(self._running) if self._running else 0.0,
            )

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Fail what waits, give running batches some time to end, and stop the threads."""
        self._refuse(self._shut(), "the encoder was closed")
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            logger.warning("the encoder still runs %g s after it was stopped", timeout_seconds)
        self._refuse(self._orders, "the encoder was closed and did not end in time")

    # The callers' side

    def _enqueue(self, order: Order) -> None:
        with self._changed:
            while not self._is_closed and not self._queue.has_room(order):
                if order.priority == "query":
                    raise QueueFull(f"{self._queue.count('query')} segments wait for the encoder already")
                order.caller.check()
                self._changed.wait(order.caller.left_seconds())
            if self._is_closed:
                raise BatcherClosed("the encoder is closed")
            order.caller.check()
            order.arrived_at = time.monotonic()
            self._orders.add(order)
            self._queue.add(order)
            self._changed.notify_all()

    def _wait_for(self, order: Order) -> None:
        while not order.is_done:
            order.woken.wait(order.caller.left_seconds())
            if not order.is_done:
                order.caller.check()

    def _withdraw(self, order: Order) -> None:
        with self._changed:
            self._orders.discard(order)
            self._queue.discard(order)
            self._changed.notify_all()

    def _wake(self, order: Order) -> None:
        order.woken.set()
        with self._changed:
            self._changed.notify_all()

    # The threads' side

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._encode_batch(batch)
        except BaseException:  # a fault of this module, not of the encoder: no caller may wait for ever
            logger.exception("an encode thread died")
            self._shut()
            self._refuse(self._orders, "an encode thread died")

    def _next_batch(self) -> list[Item]:
        """Wait for a batch; empty after the batcher was closed."""
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                batch, held_seconds = self._queue.take(now)
                if batch:
                    self._seconds["queued"] += sum(now - item.order.arrived_at for item in batch)
                    self._changed.notify_all()  # there is room now
                    return batch
                self._changed.wait(held_seconds)
            return []

    def _encode_batch(self, batch: list[Item]) -> None:
        began = time.monotonic()
        with self._changed:
            self._running.append(began)
        outcome = self._try(batch)
        is_tried_again = isinstance(outcome, Exception) and len(batch) > 1
        with self._changed:
            self._running.remove(began)
            self._seconds["encode"] += time.monotonic() - began
            self._num_batches[len(batch)] += 1
            self._counts["retried"] += is_tried_again
            if not is_tried_again:
                self._deliver(batch, outcome)
        if is_tried_again:
            logger.warning("a batch of %d segments failed and is encoded one by one: %s", len(batch), outcome)
            for item in batch:
                if item.order.is_wanted(time.monotonic()):
                    self._encode_batch([item])

    def _try(self, batch: list[Item]) -> list[Track] | Exception:
        try:
            tracks = self._encode[batch[0].order.modality]([item.row for item in batch])
        except Exception as exc:  # it belongs to the callers of this batch and not to the thread
            return exc
        if len(tracks) != len(batch):
            return EncoderFailure(f"the encoder gave {len(tracks)} tracks for {len(batch)} segments")
        return list(tracks)

    def _deliver(self, batch: list[Item], outcome: list[Track] | Exception) -> None:
        if isinstance(outcome, Exception):
            self._counts["failed"] += len(batch)
            for item in batch:
                item.order.fail(outcome)
            return
        for item, track in zip(batch, outcome, strict=True):
            self._num_encoded[item.order.priority] += 1
            item.order.put(item.position, track)

    def _shut(self) -> list[Order]:
        """Take nothing further; returns the orders that had segments waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return self._queue.clear()

    def _refuse(self, orders: Iterable[Order], reason: str) -> None:
        with self._changed:
            for order in orders:
                order.fail(BatcherClosed(reason))


def _runs_of(encoder: SegmentEncoder) -> Runs:
    return {
        "audio": lambda rows: encoder.encode_audio([row[0] for row in rows], [row[1] for row in rows]),
        "video": encoder.encode_video,
    }
