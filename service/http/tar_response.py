"""A tar that is made while it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class TarResponse(StreamingResponse):
    """Streams `first`, then pieces that block; closes them and calls `on_end` however that ends."""

    def __init__(self, pieces: Generator[bytes], *, first: bytes = b"", on_end: Callable[[], None]) -> None:
        self._pieces, self._on_end = pieces, on_end
        super().__init__(_stream(first, pieces), media_type="application/x-tar")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client may hang up at any time."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):  # a client that hangs up cancels us
                await anyio.to_thread.run_sync(self._pieces.close)
            self._on_end()


async def _stream(first: bytes, pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    yield first
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece
