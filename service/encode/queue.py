"""Which segments the encoder takes next: the order of work, without threads and without a clock of its own.

    queries   ──▶ first in, first out ──┐
                                        ├──▶ up to `max_batch` segments of one modality
    bulk work ──▶ first in, first out ──┘

Queries go first, but after `QUERY_TURNS` batches of theirs in a row bulk work that waits has one. The oldest
segment decides the modality. A batch that is not full is held back for `max_wait_seconds` at most, and only while
segments of two or more callers are there: a single caller never waits for others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.system.caller import Caller
from service.system.modality import Modality, Track

Priority = Literal["query", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("query", "bulk")
QUERY_TURNS = 4  # batches of queries, one after another, that bulk work lets go first


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How segments are joined.

    An incomplete batch waits for more at most `max_wait_seconds`, counted from its oldest segment. `max_queued` is
    for queries and bulk work each; `num_runs` batches are encoded at the same time.
    """

    max_batch: int = 1
    max_wait_seconds: float = 0.0
    max_queued: int = 64
    num_runs: int = 1

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queued", "num_runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.max_wait_seconds < float("inf"):
            raise ValueError(f"max_wait_seconds must be finite and not negative, got {self.max_wait_seconds}")


@dataclass(eq=False, kw_only=True)
class Order:
    """Segments of one modality that one caller gave at once and waits for.

    `arrived_at` is on the monotonic clock. The caller's thread sleeps on `woken`, which is set when the order is done
    or the caller left.
    """

    caller: Caller
    priority: Priority
    modality: Modality
    rows: Sequence[Any]  # frames, or samples and after how many of them their sound ends
    arrived_at: float = 0.0
    tracks: dict[int, Track] = field(default_factory=dict)
    error: Exception | None = None
    is_done: bool = False
    woken: threading.Event = field(default_factory=threading.Event)

    def is_wanted(self, now: float) -> bool:
        """Whether anything of it is still worth encoding."""
        return not self.is_done and self.caller.is_waiting(now)

    def put(self, position: int, track: Track) -> None:
        """Take one track; the last one ends the order."""
        self.tracks[position] = track
        if len(self.tracks) == len(self.rows):
            self._end()

    def fail(self, error: Exception) -> None:
        """End it without result, unless it ended before."""
        if not self.is_done:
            self.error = error
            self._end()

    def joined(self) -> NDArray[np.float32]:
        """The tracks in the order of the rows, float32, shape (B, T, D), or the error."""
        if self.error is not None:
            raise self.error
        return np.stack([self.tracks[position] for position in range(len(self.rows))])

    def _end(self) -> None:
        self.is_done = True
        self.woken.set()


@dataclass(frozen=True, eq=False)
class Item:
    """One segment of an order."""

    order: Order
    position: int

    @property
    def row(self) -> Any:
        """Its samples or frames."""
        return self.order.rows[self.position]


class BatchQueue:
    """Segments that wait. Not safe for threads: the batcher's lock guards it."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: dict[Priority, deque[Item]] = {priority: deque() for priority in PRIORITIES}
        self._num_query_turns = 0  # batches of queries since bulk work began to wait or had its turn

    def count(self, priority: Priority) -> int:
        """How many segments wait."""
        return len(self._waiting[priority])

    def has_room(self, order: Order) -> bool:
        """Whether an order may be added now. A large one fits into an empty queue."""
        num_waiting = self.count(order.priority)
        return num_waiting == 0 or num_waiting + len(order.rows) <= self._limits.max_queued

    def add(self, order: Order) -> None:
        """Queue all segments of an order."""
        self._waiting[order.priority].extend(Item(order, position) for position in range(len(order.rows)))

    def discard(self, order: Order) -> None:
        """Remove what still waits of an order."""
        waiting = self._waiting[order.priority]
        self._keep(order.priority, (item for item in waiting if item.order is not order))

    def clear(self) -> list[Order]:
        """Empty the queue; returns the orders that had segments in it."""
        orders = {item.order: None for waiting in self._waiting.values() for item in waiting}
        for waiting in self._waiting.values():
            waiting.clear()
        return list(orders)

    def take(self, now: float) -> tuple[list[Item], float | None]:
        """Take the next batch at a time on the clock of `Order.arrived_at`; drop segments that are no longer wanted.

        Without a batch the second value is the seconds after which to ask again, None if nothing waits.
        """
        for priority in PRIORITIES:
            self._keep(priority, (item for item in self._waiting[priority] if item.order.is_wanted(now)))
        priority = self._next_priority()
        waiting = self._waiting[priority]
        if not waiting:
            return [], None
        batch = self._oldest(waiting)
        held_seconds = self._held_seconds(waiting, batch, now)
        if held_seconds > 0:
            return [], held_seconds
        taken = set(batch)
        self._keep(priority, (item for item in waiting if item not in taken))
        has_bulk = bool(self._waiting["bulk"])
        self._num_query_turns = self._num_query_turns + 1 if priority == "query" and has_bulk else 0
        return batch, None

    def _next_priority(self) -> Priority:
        if not self._waiting["query"]:
            return "bulk"
        is_bulks_turn = self._waiting["bulk"] and self._num_query_turns >= QUERY_TURNS
        return "bulk" if is_bulks_turn else "query"

    def _oldest(self, waiting: deque[Item]) -> list[Item]:
        modality = waiting[0].order.modality
        alike = (item for item in waiting if item.order.modality == modality)
        return list(islice(alike, self._limits.max_batch))

    def _held_seconds(self, waiting: deque[Item], batch: list[Item], now: float) -> float:
        is_alone = all(item.order.caller is batch[0].order.caller for item in waiting)
        if is_alone or len(batch) == self._limits.max_batch:
            return 0.0
        return batch[0].order.arrived_at + self._limits.max_wait_seconds - now

    def _keep(self, priority: Priority, items: Iterable[Item]) -> None:
        self._waiting[priority] = deque(items)
