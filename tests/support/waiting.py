"""Waiting for what another process or thread does: for the event, with a limit that no busy machine reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")

GENEROUS_SECONDS = 240.0
"""Longer than anything takes on a machine with ten times as much to do as it has cores: it ends what hangs."""


def wait_until(look: Callable[[], Seen], *, seconds: float = GENEROUS_SECONDS, every: float = 0.01) -> Seen:
    """Look again and again until something true is seen, and return that; fail with the last thing seen.

    The looks drift apart, after two seconds of waiting by ten times: a hundred requests a second take half a core.
    """
    began = time.monotonic()
    while not (seen := look()):
        waited = time.monotonic() - began
        assert waited < seconds, f"it never happened; last seen: {seen!r}"
        time.sleep(every * min(10.0, 1.0 + 4.5 * waited))
    return seen
