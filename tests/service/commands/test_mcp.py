"""`foley mcp`: one process that an agent starts, which is the server if no other is, and who is asked otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from service.commands import mcp as command
from service.system.settings import Settings
from tests.support.agents import ask_agent, read
from tests.support.serving import find_free_port

if TYPE_CHECKING:
    from mcp import Client


def test_an_agent_starts_it_and_others_may_ask_it_too(
    bundle_path: Path, library_files: Path, tmp_path: Path
) -> None:
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    port = find_free_port()
    changes = {"DATA": tmp_path / "data", "BUNDLE": bundle_path, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}
    changes |= {"PORT": port, "PRECISION": "fp32", "AGENT_FOLDERS": library_files}
    environment = {f"FOLEY_{name}": str(value) for name, value in changes.items()}
    started = StdioServerParameters(
        command=sys.executable, args=["-m", "service.cli", "mcp"], env=environment, cwd=Path.cwd()
    )
    files = sorted(library_files.glob("*.m*"))[:1]

    async def work(agent: Client) -> list[dict[str, str]]:
        job = await read(agent, "start_job", paths=[str(file) for file in files])
        while (await read(agent, "job_state", job_id=job["job_id"]))["state"] in ("queued", "running"):
            await anyio.sleep(0.05)
        async with httpx.AsyncClient() as client:
            seen = (await client.get(f"http://127.0.0.1:{port}/v1/assets")).json()
        assert await read(agent, "list_library") == seen
        return list(seen["assets"])

    with (tmp_path / "log").open("w") as log:
        (asset,) = ask_agent(stdio_client(started, log), work)
    assert asset["path"] == str(files[0])
    with pytest.raises(httpx.ConnectError):  # it ends with its agent
        httpx.get(f"http://127.0.0.1:{port}/livez")


def test_a_running_server_is_asked(
    server: str, indexed_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def talk(_: Settings, address: str) -> None:
        asked.append(address)

    monkeypatch.setattr(command, "_talk", talk)
    settings = indexed_settings.replace(port=httpx.URL(server).port)
    anyio.run(command._serve, settings)
    assert asked == [server.removeprefix("http://")]
