"""What blocks the event loop is seen, and told to the metrics of a running service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from service.http.loop_lag import watch_loop
from service.system.settings import Settings
from tests.support.serving import serve_in_thread
from tests.support.waiting import wait_until


def test_a_call_that_blocks_is_seen() -> None:
    seen: list[float] = []

    async def main() -> None:
        watch = asyncio.create_task(watch_loop(seen.append, interval_seconds=0.01))
        await asyncio.sleep(0.2)
        time.sleep(0.3)
        await asyncio.sleep(0.05)
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch

    asyncio.run(main())
    assert len(seen) > 5
    assert min(seen) >= 0
    assert max(seen) > 0.28
    assert sorted(seen)[len(seen) // 2] < 0.28, "the others were not held up"


def test_a_service_tells_it(bundle_path: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, bundle=bundle_path, device="cpu", min_free_bytes=0)
    with serve_in_thread(settings) as service:

        def count() -> float:
            text = service.client.get("/metrics").text
            line = next(
                line for line in text.splitlines() if line.startswith("foley_event_loop_lag_seconds_count")
            )
            return float(line.split()[1])

        wait_until(lambda: count() >= 3)
