"""An agent for tests: the client library of the package `mcp`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from mcp import Client  # not at the top: it takes a second, in each worker of a run

T = TypeVar("T")


def ask_agent(server: Any, work: Callable[[Client], Awaitable[T]], *, headers: Mapping[str, str] = {}) -> T:
    """Do something as an agent of a server: an address (its `/mcp` is asked), or what starts one over stdio."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async def run() -> T:
        if not isinstance(server, str):
            async with Client(server) as agent:
                return await work(agent)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(f"{server}/mcp", http_client=http)) as agent,
        ):
            return await work(agent)

    return anyio.run(run)


async def read(agent: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers, as values."""
    answer = await agent.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


async def fail(agent: Client, tool: str, **arguments: Any) -> str:
    """The message of a tool that fails."""
    answer = await agent.call_tool(tool, arguments)
    assert answer.is_error
    return str(answer.content[0].text)  # type: ignore[union-attr]
