"""Ctrl-C and SIGTERM: the first ends a run after its step, with a checkpoint; the second ends it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n"


class Stopped(RuntimeError):
    """A run ended early, after a checkpoint, because a signal asked for it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def heed_signals(*, is_heard: bool = True) -> Iterator[Callable[[], int]]:
    """Note the first SIGINT or SIGTERM; further ones do what they did before.

    Args:
        is_heard: Whether this process says on stderr that the signal was noted.

    Yields:
        Returns the number of the noted signal, 0 if there was none.
    """
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)
        give_back()
        if is_heard:
            os.write(2, NOTICE)  # not through a console, which may be in the middle of a line

    def give_back() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    earlier = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: noted[0] if noted else 0
    finally:
        give_back()
