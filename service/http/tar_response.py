"""A tar that is made while it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Generator

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class TarResponse(StreamingResponse):
    """Streams `first`, then pieces that block; closes them and calls `on_end` however that ends.

    A tar that ends well has let go of everything before its end is sent: who has read it may ask again at once.
    """

    def __init__(self, pieces: Generator[bytes], *, first: bytes = b"", on_end: Callable[[], None]) -> None:
        self._at_end = contextlib.ExitStack()  # close() runs each once, the last one first
        self._at_end.callback(on_end)
        self._at_end.callback(pieces.close)
        super().__init__(self._stream(first, pieces), media_type="application/x-tar")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client may hang up at any time."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):  # a client that hangs up cancels us
                await anyio.to_thread.run_sync(self._at_end.close)

    async def _stream(self, first: bytes, pieces: Generator[bytes]) -> AsyncIterator[bytes]:
        yield first
        while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
        await anyio.to_thread.run_sync(self._at_end.close)
