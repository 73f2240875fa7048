"""`TarResponse` lets go of what it holds before its end is sent, and once only however it ends."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anyio
import pytest
from starlette.requests import ClientDisconnect

from service.http.tar_response import TarResponse

SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "path": "/", "headers": []}


async def receive_nothing() -> dict[str, Any]:
    await anyio.sleep_forever()
    raise AssertionError


def test_who_has_read_the_end_may_ask_again_at_once() -> None:
    ended: list[str] = []
    ended_when_sent: list[tuple[bool, bool]] = []

    def pieces() -> Generator[bytes]:
        try:
            yield b"two"
        finally:
            ended.append("pieces")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            ended_when_sent.append((message.get("more_body", False), "turn" in ended))

    answer = TarResponse(pieces(), first=b"one", on_end=lambda: ended.append("turn"))
    anyio.run(answer, SCOPE, receive_nothing, send)
    assert ended_when_sent == [(True, False), (True, False), (False, True)]
    assert ended == ["pieces", "turn"]


def test_a_client_that_hangs_up_ends_the_turn() -> None:
    ended: list[str] = []

    def pieces() -> Generator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            ended.append("pieces")

    async def send(message: Any) -> None:
        if message.get("body") == b"more":
            raise OSError("gone")

    answer = TarResponse(pieces(), on_end=lambda: ended.append("turn"))
    with pytest.raises(ClientDisconnect):
        anyio.run(answer, SCOPE, receive_nothing, send)
    assert ended == ["pieces", "turn"]
