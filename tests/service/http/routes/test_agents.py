"""The tools for agents over streamable HTTP, asked with the client library of the package `mcp`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from service.system.settings import Settings
from tests.support.agents import ask_agent, fail, read

if TYPE_CHECKING:
    from mcp import Client

TOOLS = {
    "search_by_words",
    "search_by_asset",
    "search_by_file",
    "list_library",
    "show_asset",
    "list_collections",
    "export",
    "start_job",
    "job_state",
}


def test_an_agent_finds_what_the_api_finds(server: str, client: httpx.Client, library_files: Path) -> None:
    file = library_files / "long.mp4"
    asset_id = hashlib.sha256(file.read_bytes()).hexdigest()

    async def work(agent: Client) -> None:
        tools = (await agent.list_tools()).tools
        assert {tool.name for tool in tools} == TOOLS
        assert all(tool.output_schema and tool.description for tool in tools)
        assert [tool.name for tool in tools if not tool.annotations.read_only_hint] == ["start_job"]  # type: ignore[union-attr]

        by_words = await read(agent, "search_by_words", text="long", target="audio", limit=3)
        assert [found["asset_id"] for found in by_words["results"]] == [asset_id]
        by_asset = await read(agent, "search_by_asset", asset_id=asset_id, target="video", limit=2)
        asked = {"asset_id": asset_id, "target": "video", "limit": 2}
        assert by_asset == client.post("/v1/search", json=asked).json()
        by_file = await read(agent, "search_by_file", path=str(file), target="video", limit=2)
        sent = {"file": ("query", file.read_bytes())}
        assert by_file == client.post("/v1/search", data={"target": "video", "limit": 2}, files=sent).json()

        page = await read(agent, "list_library", limit=2)
        second = await read(agent, "list_library", limit=2, cursor=page["next_cursor"])
        assert page["assets"] + second["assets"] == client.get("/v1/assets?limit=4").json()["assets"]
        shown = await agent.call_tool("show_asset", {"asset_id": asset_id})
        assert shown.structured_content == client.get(f"/v1/assets/{asset_id}").json()
        assert [content.type for content in shown.content] == ["text", "image"]
        assert "collections" in await read(agent, "list_collections")

        items = [{"asset_id": asset_id, "start_seconds": 1.0, "end_seconds": 3.0}]
        made = {"items": items, "format": "edl", "frame_rate": "25", "title": "Rain"}
        exported = await read(agent, "export", **made)
        assert exported["text"] == client.post("/v1/exports", json=made).text
        assert (exported["name"], exported["num_left_out"]) == ("Rain.edl", 0)

        job = await read(agent, "start_job", paths=[str(file)])
        assert (await read(agent, "job_state", job_id=job["job_id"]))["kind"] == "index"

    ask_agent(server, work)


def test_an_error_begins_with_its_code(server: str, library_files: Path, tmp_path: Path) -> None:
    (library_files / "out").symlink_to(tmp_path)
    (tmp_path / "secret.wav").write_bytes(b"secret")

    async def work(agent: Client) -> None:
        assert (await fail(agent, "show_asset", asset_id="0" * 64)).startswith("asset_not_found: ")
        assert (await fail(agent, "show_asset", asset_id="../jobs")).startswith("not_found: ")
        assert (await fail(agent, "job_state", job_id="x")).startswith("job_not_found: ")
        text = await fail(agent, "search_by_words", text="", target="audio")
        assert text.startswith("invalid_parameter: ")
        for path in (tmp_path / "secret.wav", library_files / "out" / "secret.wav", "/etc/passwd", "a.wav"):
            for refused in (
                await fail(agent, "search_by_file", path=str(path), target="audio"),
                await fail(agent, "start_job", paths=[str(path)]),
            ):
                assert refused.startswith("path_not_allowed: "), path
        gone = await fail(agent, "search_by_file", path=str(library_files / "gone.wav"), target="audio")
        assert gone == "not_a_file: No such file or directory"

    try:
        ask_agent(server, work)
    finally:
        (library_files / "out").unlink()


class _Context:
    headers: None = None


@pytest.mark.parametrize("named", [None, "/media", "/films"])
def test_without_roots_the_folders_of_jobs_and_named_ones_count(named: str | None, tmp_path: Path) -> None:
    from service.http.agent_tools import ToolFailed, _Api

    (tmp_path / "media").mkdir()
    (tmp_path / "films").mkdir()
    jobs = {"jobs": [{"request": {"paths": [str(tmp_path / "media")]}}, {"request": {"bundle": "/"}}]}
    settings = Settings(agent_folders=f"{tmp_path}/films" if named == "/films" else "")  # type: ignore[arg-type]

    def connect(_: Any) -> httpx.AsyncClient:
        answer = {"jobs": []} if named is None else jobs
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def check(path: Path) -> Path:
        return await _Api(connect, settings).check_path(_Context(), str(path))  # type: ignore[arg-type]

    allowed = {None: (), "/media": ("media",), "/films": ("media", "films")}[named]
    for name in ("media", "films"):
        if name in allowed:
            assert anyio.run(check, tmp_path / name) == tmp_path / name
            continue
        with pytest.raises(ToolFailed, match="path_not_allowed: "):
            anyio.run(check, tmp_path / name)


def test_a_server_that_is_gone_is_named() -> None:
    from service.http.agent_tools import build_tools

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody listens")

    def connect(_: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://test")

    async def work(agent: Client) -> str:
        return await fail(agent, "list_library")

    said = ask_agent(build_tools(connect, Settings()), work)
    assert said == "server_gone: the service does not answer: nobody listens"
