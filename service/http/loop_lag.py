"""How late the event loop is: whatever blocks it delays every request, and nothing else would show it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

INTERVAL_SECONDS = 0.05


async def watch_loop(
    observe: Callable[[float], None], *, interval_seconds: float = INTERVAL_SECONDS
) -> NoReturn:
    """Sleep again and again until cancelled, and report each time how many seconds too late the loop woke up."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + interval_seconds
        await asyncio.sleep(interval_seconds)
        observe(max(0.0, clock() - due))
