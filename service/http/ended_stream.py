"""An answer in pieces that lets go of what it holds, however it ends.

A generator that is left in the middle, because its client went away or the connection broke, or that was never begun,
runs its `finally` when Python collects it: later, or never.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EndedStream(StreamingResponse):
    """A stream with something to do in the end.

    Args:
        pieces: The body.
        on_end: Called once, in a thread, when the answer is sent or never will be.
        media_type: What the body is.
        status_code: HTTP status.
        headers: Further headers.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        on_end: Callable[[], None],
        media_type: str | None = None,
        status_code: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(pieces, status_code=status_code, headers=headers, media_type=media_type)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            await super().__call__(scope, receive, send)

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):  # a client that hangs up cancels us
            await anyio.to_thread.run_sync(self._on_end)
