"""Optimizing a shard aside: in other processes, while the first one keeps answering and writing.

    the process that answers ── pages, and every change meanwhile ──▶ files ──▶ a builder: stores, optimizes, ends
                             ── changes since ─────────────────────▶ files ──▶ the next process: catches up
                             ── freeze: the last changes ──────────▶ file  ──▶ seals its shard, one rename, takes over

One process reads the pages and notes the changes in one order, so replaying them in this order makes the same shard. A
page is small: reading it keeps a search waiting for some milliseconds, and pages take turns with requests. The builder
gives way to others, but has a tenth of a core that they keep busy. During the last step changes wait, searches do not.
Before the rename the old shard is current and whole, after it the new one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.index.embedded.folder import count_bytes
from service.index.embedded.forms import read_storage
from service.index.embedded.generation import current_shard, next_shard
from service.index.embedded.messages import ShardConfig
from service.index.embedded.partial import Partial
from service.index.embedded.process import ShardProcess
from service.index.failure import IndexFailure, IndexUnavailable
from service.index.layout import VectorLayout
from service.system.storage import Storage

logger = logging.getLogger(__name__)

PAGE_NUMBERS = 50_000  # of tracks that Edge gives in a page: 2 segments of 2 × 16 × 768, 3 ms
PAGE_POINTS = 16  # at most; as rows, which are copied as they are, 2 ms
PAGES_PER_FILE = 32
SMALL_CHANGES = 16  # changes that the last step may have to catch up with
MAX_ROUNDS = 20
POLL_SECONDS = 0.2
CHECK_SECONDS = 30.0
NOTE_SECONDS = 10.0  # a copy that is cut off loses so much
RETRY_SECONDS = 600.0


class AsideBuild:
    """One build of a shard aside, from the `config` of the answering process; given up once `is_wanted` is False.

    The new shard has the `storage`. `on_copied` is called with the number of points copied, and of all.
    """

    def __init__(
        self,
        config: ShardConfig,
        *,
        storage: Storage,
        on_copied: Callable[[int, int], None],
        start_process: Callable[[ShardConfig], ShardProcess],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._page_points = page_points(
            config.layout, read_storage(config.folder / current_shard(config.folder))
        )
        self._config = replace(config, storage=storage, unfinished=frozenset())
        self._on_copied = on_copied
        self._start_process = start_process
        self._is_wanted = is_wanted
        self._process: ShardProcess | None = None

    def prepare(self, answering: ShardProcess) -> ShardProcess:
        """Copy the shard of the answering process, optimize the copy and catch up, all but the last changes.

        Returns the process that has the new shard open.
        """
        began = time.monotonic()
        # Twice: the changes on their way, and the shard they make. Counted here: there it would keep searches waiting.
        extra_bytes = 2 * count_bytes(self._config.folder)
        num_points, partial = self._ask(answering, "begin_copy", extra_bytes, self._config.storage)
        shard = partial.shard if partial else next_shard(self._config.folder)
        self._config = replace(self._config, shard=shard)
        builder = self._start(is_background=True)
        self._copy(answering, builder, num_points, partial)
        self._ask(builder, "optimize")
        self._catch_up(answering, builder)
        builder.close()
        following = self._start(is_background=False)
        self._catch_up(answering, following)
        self._ask(following, "prepare_switch")
        self._catch_up(answering, following)
        seconds = time.monotonic() - began
        logger.info("%d points are optimized aside in %s, in %.1f s", num_points, self._config.shard, seconds)
        return following

    def give_up(self) -> None:
        """Kill what was started. The shard it leaves is resumed, or swept away when the index opens again."""
        if self._process is not None:
            self._process.kill()
            self._process.close()

    def _start(self, *, is_background: bool) -> ShardProcess:
        self._process = self._start_process(replace(self._config, is_background=is_background))
        return self._process

    def _copy(
        self, answering: ShardProcess, builder: ShardProcess, num_points: int, partial: Partial | None
    ) -> None:
        offset = partial.offset if partial else None
        is_first = True
        num_copied = self._ask(builder, "info").num_segments
        noted = time.monotonic()
        while is_first or offset is not None:
            for _ in range(PAGES_PER_FILE):
                began = time.monotonic()
                offset = self._ask(answering, "copy_page", offset, self._page_points)
                is_first = False
                num_copied += self._page_points
                time.sleep(time.monotonic() - began)  # half of the time is for searches
                if offset is None:
                    break
            self._replay(answering, builder)
            self._on_copied(min(num_copied, num_points), num_points)
            if offset is not None and time.monotonic() - noted > NOTE_SECONDS:
                self._ask(builder, "flush")
                assert self._config.shard is not None
                note = Partial(shard=self._config.shard, storage=self._config.storage, offset=offset)
                self._ask(answering, "note_copy", note)
                noted = time.monotonic()

    def _catch_up(self, answering: ShardProcess, following: ShardProcess) -> None:
        for _ in range(MAX_ROUNDS):
            if self._replay(answering, following) <= SMALL_CHANGES:
                return

    def _replay(self, answering: ShardProcess, following: ShardProcess) -> int:
        changes: Path | None = self._ask(answering, "roll_copy")
        if changes is None:
            return 0
        num_changes: int = self._ask(following, "replay", changes)
        return num_changes

    def _ask(self, process: ShardProcess, method: str, *arguments: Any) -> Any:
        """Wait for an answer, however long it takes, unless the build is not wanted any more."""
        future = process.submit(method, *arguments)
        while self._is_wanted():
            try:
                return future.result(POLL_SECONDS)
            except TimeoutError:
                continue
        raise IndexUnavailable("the build is given up: the index closes")


def page_points(layout: VectorLayout, storage: Storage) -> int:
    """How many points of a shard are copied at a time."""
    numbers = sum(math.prod(shape) for shape in layout.tracks.values()) if storage == "float16" else 1
    return min(PAGE_POINTS, max(1, PAGE_NUMBERS // numbers))


class OptimizerWatch:
    """A thread that optimizes an index aside whenever more than a share of its segments has changed (`is_due`)."""

    def __init__(self, is_due: Callable[[float], bool], optimize: Callable[[], None]) -> None:
        self._is_due = is_due
        self._optimize = optimize
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, share: float) -> None:
        """Start to watch."""
        self._thread = threading.Thread(
            target=self._run, args=(share,), name="index-optimizer-watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop to watch; the index itself gives up a running build."""
        self._is_stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, share: float) -> None:
        pause_seconds = CHECK_SECONDS
        while not self._is_stopping.wait(pause_seconds):
            pause_seconds = CHECK_SECONDS
            try:
                if self._is_due(share):
                    self._optimize()
            except IndexFailure as exc:
                if not self._is_stopping.is_set():
                    logger.warning("the index could not be optimized aside: %s", exc)
                pause_seconds = RETRY_SECONDS
