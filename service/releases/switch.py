"""The active release, and earlier ones still in use by running requests.

    with releases.lease() as release:    # one release from the beginning of a request to its end
        ...
    releases.switch(other)               # further requests get the other; the old one closes after its last request

A lease is one reference to everything that belongs together: encoder, index and calibration. So an answer is never made
of two releases, and nothing is closed that another still uses.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from models.bundle.bundle import Bundle
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import Priority
from service.encode.spool import Spool
from service.encode.text import TextQueue
from service.index.contract import Index
from service.search.calibration import Calibration
from service.search.snapshot import Snapshot
from service.system.caller import Caller

logger = logging.getLogger(__name__)

LET_GO_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class OpenRelease:
    """An open release. It never changes: another calibration, None before it was learned, makes another object.

    `texts` is None if its bundle embeds no words.
    """

    release_id: str
    bundle: Bundle
    encoder: Encoder
    batcher: Batcher
    index: Index
    calibration: Calibration | None = None
    spool: Spool | None = None
    texts: TextQueue | None = None

    def snapshot(self, caller: Caller | None = None, *, priority: Priority = "query") -> Snapshot:
        """This release for one request, with a place in its encoder's queue; the default caller waits without limit."""
        caller = caller or Caller()
        return Snapshot(
            encoder=self.batcher.encoder_of(caller, priority=priority),
            index=self.index,
            bundle=self.bundle,
            caller=caller,
            release_id=self.release_id,
            calibration=self.calibration,
            spool=self.spool,
            texts=None if self.texts is None else self.texts.of(caller, priority=priority),
        )

    def close(self) -> None:
        """Stop the queue and close the index; the encoder goes with its last reference."""
        try:
            self.batcher.close()
            if self.texts is not None:
                self.texts.close()
        finally:
            self.index.close()


@dataclass
class _Held:
    """A release and how many use it; `is_retired` once another one is active."""

    release: OpenRelease
    num_users: int = 0
    is_retired: bool = False


class WriteGate:
    """Lets many writers of the index pass at a time, except while it is closed. Any thread may use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_writers = 0
        self._is_closed = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Write inside the block, once the gate is open."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._num_writers += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_writers -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep writers out of the block: wait for those that write already, and let others wait for its end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._is_closed = True
            self._changed.wait_for(lambda: self._num_writers == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()


class ReleaseSwitch:
    """Hands out the active release, and closes every release it was given after its last request. Thread-safe.

    A writer outside a job passes `gate`, so that a switch misses nothing.
    """

    def __init__(self, release: OpenRelease) -> None:
        self.gate = WriteGate()
        self._held = _Held(release)
        self._old: list[_Held] = []
        self._lock = threading.Lock()
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="release-closer")

    @property
    def current(self) -> OpenRelease:
        """The active release, for a short look; longer work takes a lease."""
        return self._held.release

    @property
    def num_open(self) -> int:
        """How many releases are open: the active one and those still in use."""
        with self._lock:
            return 1 + len(self._old)

    @contextmanager
    def lease(self) -> Iterator[OpenRelease]:
        """Keep the active release open until the block ends, whatever is activated meanwhile."""
        with self._lock:
            held = self._held
            held.num_users += 1
            release = held.release
        try:
            yield release
        finally:
            with self._lock:
                held.num_users -= 1
                self._close_if_done(held)

    @contextmanager
    def lease_old(self, release_id: str) -> Iterator[OpenRelease | None]:
        """Keep an earlier release open that is still in use: its index cannot be opened twice; `switch` takes it back.

        Yields None if it is closed, and waits for one that is being closed.
        """
        with self._lock:
            held = next((one for one in self._old if one.release.release_id == release_id), None)
            if held is not None:
                held.num_users += 1
        if held is None:
            self._closer.submit(lambda: None).result()  # it closes one after another
            yield None
            return
        try:
            yield held.release
        finally:
            with self._lock:
                held.num_users -= 1
                self._close_if_done(held)

    def switch(self, release: OpenRelease) -> None:
        """Activate a release, new or from `lease_old`, which this object closes from now on.

        The one before closes when its last request ends.
        """
        with self._lock:
            known = next((one for one in self._old if one.release is release), None)
            if known is not None:
                known.is_retired = False
                self._old.remove(known)
            old, self._held = self._held, known or _Held(release)
            old.is_retired = True
            self._old.append(old)
            self._close_if_done(old)

    def recalibrate(self, release_id: str, calibration: Calibration) -> bool:
        """Give further requests another calibration; returns False if another release is active by now."""
        with self._lock:
            if self._held.release.release_id != release_id:
                return False
            self._held.release = replace(self._held.release, calibration=calibration)
            return True

    def close(self) -> None:
        """Close every release, used or not. Safe to call twice."""
        self._closer.shutdown(wait=True)
        with self._lock:
            held = [*self._old, self._held]
            self._old = []
        for one in held:
            one.release.close()

    def _close_if_done(self, held: _Held) -> None:
        """Close a retired release without users; the caller holds the lock."""
        if held.is_retired and held.num_users == 0 and held in self._old:
            self._old.remove(held)
            self._closer.submit(_close, [held.release])


def _close(box: list[OpenRelease]) -> None:
    """Close a release and give its memory back to the system."""
    release = box.pop()  # a box, emptied: the arguments of a call in another thread live as long as the call
    encoder = weakref.ref(release.encoder)
    try:
        release.close()
    except Exception:
        logger.exception("release %s could not be closed", release.release_id)
    logger.info("release %s is closed", release.release_id)
    del release
    _wait_until_gone(encoder)
    trim_memory()


def _wait_until_gone(encoder: weakref.ref[Encoder]) -> None:
    """Wait until the last request has let go of an encoder: what is still in use cannot be given back."""
    until = time.monotonic() + LET_GO_SECONDS
    while encoder() is not None and time.monotonic() < until:
        time.sleep(0.01)
    if encoder() is not None:  # in a cycle; a collection stops every thread, so it is not made for nothing
        gc.collect()


def trim_memory() -> None:
    """Have the C library return free memory: without it, weights of closed encoders stay with the process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
