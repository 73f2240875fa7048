"""`POST /mcp`: the tools for agents over streamable HTTP (Model Context Protocol), with the keys of every route.

Each request stands for itself: there are no sessions, and answers are JSON. The route is there if the extra `mcp` is
installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from service.http.state import StateOf
from service.system.settings import Settings

PATH = "/mcp"
router = APIRouter()


class _AgentResponse(Response):
    """Hands a request to the tools."""

    def __init__(self, tools: Any) -> None:
        super().__init__()
        self._tools = tools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A manager serves once, and as long as its group of tasks: a request each, as there are no sessions.
        from mcp.server.transport_security import TransportSecuritySettings  # noqa: PLC0415 - see `_build`

        open_host = TransportSecuritySettings(
            enable_dns_rebinding_protection=False
        )  # `AccessGuard` has looked
        self._tools.streamable_http_app(json_response=True, stateless_http=True, transport_security=open_host)
        manager = self._tools.session_manager
        async with manager.run():
            await manager.asgi_app(scope, receive, send)


async def talk(request: Request, state: StateOf) -> Response:
    """Serve one message of an agent."""
    app: FastAPI = request.app
    if not hasattr(app.state, "agent_tools"):
        app.state.agent_tools = _build(app, state.foley.settings)
    return _AgentResponse(app.state.agent_tools)


if find_spec("mcp") is not None:
    router.post(PATH, include_in_schema=False)(talk)


def _build(app: FastAPI, settings: Settings) -> Any:
    # The package takes 0.7 s to import, which a server without agents need not wait for.
    from service.http.agent_tools import build_tools  # noqa: PLC0415

    def connect(headers: Mapping[str, str]) -> httpx.AsyncClient:
        """A client of this application: the call of a tool passes the guard again, with the caller's key."""
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers, trust_env=False
        )

    return build_tools(connect, settings)
