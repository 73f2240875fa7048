"""The command `foley mcp`: the library as tools for an agent on this machine, over stdin and stdout."""

# The command imports what it needs itself: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from service.commands.terminal import WRONG_USAGE, fail, log_to_stderr, read_settings, report_errors

if TYPE_CHECKING:
    from service.foley import Foley
    from service.system.settings import Settings

LOOK_SECONDS = 0.02


def mcp() -> None:
    """Give an agent (MCP client) the library as tools, over stdin and stdout.

    Asks the running `foley serve`. If there is none, this is one as long as the agent keeps it open.
    """
    import anyio

    settings = read_settings()
    if find_spec("mcp") is None:
        fail("the package mcp is not installed: pip install 'foley-av[mcp]'", code=WRONG_USAGE)
    with report_errors():
        log_to_stderr()
        anyio.run(_serve, settings)


async def _serve(settings: Settings) -> None:
    from contextlib import ExitStack

    from service.client.client import find_server
    from service.foley import open_foley
    from service.index.failure import IndexInUse
    from service.jobs.database import LedgerInUse
    from service.jobs.documents import LEDGER_NAME
    from service.jobs.ledger import Ledger

    with ExitStack() as stack:
        try:
            Ledger.open(settings.data / LEDGER_NAME).close()
            foley = stack.enter_context(open_foley(settings))
        except (IndexInUse, LedgerInUse) as exc:
            with find_server(settings, exc) as client:
                address = client.address
            await _talk(settings, address)
            return
        async with _listening(settings.replace(host="127.0.0.1"), foley) as address:
            await _talk(settings, address)


@asynccontextmanager
async def _listening(settings: Settings, foley: Foley) -> AsyncIterator[str]:
    """Serve the API, as `foley serve` does, so that other commands can work on the library meanwhile."""
    import anyio

    from service.http.server import Server, check_address, configure_server

    check_address(settings)
    server = Server(
        configure_server(settings, foley), foley=foley, stop_seconds=settings.graceful_stop_seconds
    )
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(LOOK_SECONDS)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
        server.should_exit = True
    if server.watchdog is not None:
        server.watchdog.cancel()


async def _talk(settings: Settings, address: str) -> None:
    import httpx

    from service.client.client import NO_TLS
    from service.http.agent_tools import build_tools

    def connect(_headers: Mapping[str, str]) -> httpx.AsyncClient:
        headers = settings.client_headers()
        return httpx.AsyncClient(
            base_url=f"http://{address}", headers=headers, trust_env=False, verify=NO_TLS
        )

    await build_tools(connect, settings).run_stdio_async()
