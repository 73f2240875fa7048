"""Gives an index of before the words of its assets, in the background, while it answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from service.index.failure import IndexFailure

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # a server may be away
WAIT_SECONDS = 1.0  # a search waits so long: a small library has its words by then


class WordFiller:
    """Calls `add_some`, which returns to how many assets it gave words, in a thread until that is none.

    Half of the time is for others. What a stop leaves is done when the index is opened again.
    """

    def __init__(self, add_some: Callable[[], int]) -> None:
        self._add_some = add_some
        self._is_stopping = threading.Event()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-words", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until every asset has its words, but not for long."""
        self._is_done.wait(WAIT_SECONDS)

    def join(self) -> None:
        """Wait until every asset has its words, or it failed."""
        self._thread.join()

    def stop(self) -> None:
        """Stop after the present call."""
        self._is_stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        num_assets = 0
        try:
            while not self._is_stopping.is_set():
                began = time.monotonic()
                if not (some := self._add_some()):
                    break
                num_assets += some
                self._is_stopping.wait(time.monotonic() - began)
        except IndexFailure as exc:
            if not self._is_stopping.is_set():
                logger.warning(
                    "some assets cannot be found by words until the index is opened again: %s", exc
                )
        if num_assets:
            logger.info("%d assets can be found by the words of their names now", num_assets)
        self._is_done.set()
