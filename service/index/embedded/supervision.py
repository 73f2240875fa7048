"""The shard process under supervision: called, replaced when it dies, handed over to one with a newer shard.

    supervisor = ShardSupervisor(config, call_seconds=30.0, unfinished=frozenset)
    supervisor.call("search", query)

A call that a process did not survive is made once more on the next one: repeating any call does no harm. Any thread
may call.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from service.index.embedded.aside import AsideBuild
from service.index.embedded.folder import FolderLock
from service.index.embedded.forms import fitting
from service.index.embedded.generation import current_shard, sweep_others
from service.index.embedded.messages import ShardConfig, ShardFrozen
from service.index.embedded.process import ShardProcess, ShardProcessDied
from service.index.failure import IndexFailure, IndexUnavailable
from service.system.storage import Storage


class ShardSupervisor:
    """Keeps one shard process for an index's folder, which it locks until it is closed.

    A call fails after `call_seconds`, and a process that answers nothing for that long is killed. `unfinished` returns
    the assets that are being written, which a new process must not sweep. A shard that is optimized in place takes no
    other call (`is_optimizing`). Raises the `IndexFailure` of a process that cannot open the shard.
    """

    def __init__(
        self, config: ShardConfig, *, call_seconds: float, unfinished: Callable[[], frozenset[str]]
    ) -> None:
        self.is_optimizing = False
        self._config = config
        self._call_seconds = call_seconds
        self._unfinished = unfinished
        self._lock = threading.Lock()  # guards the replacement of the process
        self._is_closed = False
        self._is_building = False
        self._can_change = threading.Event()  # cleared while another process takes over
        self._can_change.set()
        self._folder_lock = FolderLock(config.folder)
        try:
            self._process = self._start(config)
        except BaseException:
            self._folder_lock.close()
            raise

    @property
    def pid(self) -> int:
        """Id of the shard process."""
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the shard, and once more on a new process if the first one died.

        Fails with `ShardProcessDied` if the second one died as well, with `ShardFrozen` if it waited too long for
        another process to take over.
        """
        num_deaths = 0
        while True:
            try:
                return self._call_once(method, arguments)
            except ShardProcessDied:
                num_deaths += 1
                if num_deaths > 1:
                    raise
            except ShardFrozen:
                if not self._can_change.wait(self._call_seconds):
                    raise

    def optimize(self) -> None:
        """Build the HNSW graphs, however long it takes. Other calls fail with `IndexUnavailable` then."""
        with self._lock:
            if self.is_optimizing or self._is_building:
                raise IndexUnavailable("the index is being optimized already")
            process = self._living()
            self.is_optimizing = True
        try:
            process.submit("optimize").result()
        finally:
            self.is_optimizing = False

    def optimize_aside(
        self, storage: Storage, *, on_copied: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        """Build the HNSW graphs in other processes, while this index answers and is written to.

        The new shard has the `storage`; `on_copied` is called with the number of segments copied, and of all.

        Blocks the caller alone. Searches wait for some milliseconds at a time; writes wait during the last step, which
        takes less than a second. The disk needs room for the index twice more. Fails with `IndexUnavailable` if it is
        under way already, if a process died, or if the index closes.
        """
        with self._lock:
            if self.is_optimizing or self._is_building:
                raise IndexUnavailable("the index is being optimized already")
            answering = self._living()
            self._is_building = True
        build = AsideBuild(
            self._config,
            storage=fitting(storage, self._config.layout),
            on_copied=on_copied,
            start_process=self._start,
            is_wanted=lambda: not self._is_closed,
        )
        try:
            self._switch(answering, build.prepare(answering))
            answering.close()
            sweep_others(self._config.folder, current_shard(self._config.folder))
        except BaseException:
            build.give_up()
            with contextlib.suppress(IndexUnavailable):
                answering.submit("end_copy")
            raise
        finally:
            self._is_building = False
            self._can_change.set()

    def _switch(self, answering: ShardProcess, following: ShardProcess) -> None:
        """Let another process take over: changes wait for it, searches do not."""
        self._can_change.clear()
        changes, unfinished = self._wait(answering, answering.submit("freeze"))
        if changes is not None:
            self._wait(following, following.submit("replay", changes))
        try:
            following.submit("switch", unfinished).result()
        except BaseException:
            # Before the rename or after it? The disk decides, and no process may go on that thinks otherwise.
            answering.kill()
            raise
        with self._lock:
            self._process = following
        self._can_change.set()

    def retire(self) -> None:
        """Take no further call; a build aside is given up soon."""
        with self._lock:
            self._is_closed = True

    def close(self) -> None:
        """Retire, flush and stop the process. Safe to call twice."""
        self.retire()
        while self._is_building:  # it looks several times a second
            time.sleep(0.01)
        with self._lock:
            self._process.close()
            self._folder_lock.close()

    def _call_once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            if self.is_optimizing:
                raise IndexUnavailable("the index is being optimized: no other call until it is done")
            process = self._living()
        future = process.submit(method, *arguments)
        return self._wait(process, future)

    def _wait(self, process: ShardProcess, future: Future[Any]) -> Any:
        try:
            return future.result(self._call_seconds)
        except TimeoutError as exc:
            silent_seconds = time.monotonic() - process.answered_at
            if silent_seconds >= self._call_seconds and not self.is_optimizing:
                process.kill()
            raise IndexUnavailable(f"the shard process did not answer in {self._call_seconds} s") from exc

    def _living(self) -> ShardProcess:
        """The process, or a new one in place of a dead one. The caller holds the lock."""
        if self._is_closed:
            raise IndexFailure(f"the index in {self._config.folder} is closed")
        if not self._process.is_alive:
            self._process.close()
            self._process = self._start(replace(self._config, unfinished=self._unfinished()))
        return self._process

    def _start(self, config: ShardConfig) -> ShardProcess:
        return ShardProcess(config, lock_fd=self._folder_lock.fd, send_seconds=self._call_seconds)
