"""How late the event loop is: what blocks it keeps every request waiting, and nothing else would show it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

INTERVAL_SECONDS = 0.05


async def watch_loop(
    observe: Callable[[float], None], *, interval_seconds: float = INTERVAL_SECONDS
) -> NoReturn:
    """Sleep again and again, and tell how much too long each time; until it is cancelled.

    Args:
        observe: Takes the seconds that the loop was late, 0 or more.
        interval_seconds: How long to sleep.
    """
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + interval_seconds
        await asyncio.sleep(interval_seconds)
        observe(max(0.0, clock() - due))
