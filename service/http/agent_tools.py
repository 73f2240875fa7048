"""Tools for agents (Model Context Protocol): each asks the HTTP API, so keys, scopes, limits and errors are the same.

    tools = build_tools(lambda headers: httpx.AsyncClient(base_url="http://127.0.0.1:8000"), settings)
    await tools.run_stdio_async()

Needs the extra `mcp`. A path of an agent counts only inside the library's folders (`FOLEY_LIBRARY_ROOTS`, or else the
folders of its jobs) and `FOLEY_AGENT_FOLDERS`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec
from urllib.parse import quote

import httpx
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.types import CallToolResult, ContentBlock, TextContent, ToolAnnotations
from pydantic import Field
from pydantic_core import to_json

from models.media.clip import UnreadableClip, open_regular
from models.media.names import find_path
from service.exports.formats import FormatName, RateName
from service.http.collection_schemas import CollectionsBody
from service.http.document import Document
from service.http.job_schemas import JobBody
from service.http.schemas import AssetBody, AssetPageBody, SearchAnswerBody
from service.library.scanning import LinkRules, UnusableFile
from service.search.options import Match
from service.system.failure import Failure
from service.system.modality import Modality
from service.system.settings import MAX_LIMIT, Settings

P = ParamSpec("P")
Connect = Callable[[Mapping[str, str]], httpx.AsyncClient]
"""Makes a client of the API that sends these headers with every request."""

KEY_HEADERS = ("authorization", "x-api-key")
MARGIN_SECONDS = 30.0  # of a search, beyond what decoding may take
TEXT_FILES = re.compile(r"text/|application/(.*\+)?(json|xml)")

INSTRUCTIONS = (
    "Foley finds the sound for a picture and the picture for a sound in a library of media files on this machine. "
    "`target` is what to find: audio (sound) or video (picture). Search by words, by a file, or by an asset that a "
    "search or the listing named. Errors begin with a stable code. Indexing is a job: start it, then ask its state."
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

Target = Annotated[Modality, Field(description="What to find: `audio` for sound, `video` for picture.")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Maximum number of results.")]
Folder = Annotated[str | None, Field(description="Only assets with a file in this folder or below it.")]
AssetId = Annotated[str, Field(description="`asset_id` of a result or of the listing.", max_length=64)]


class ExportBody(Document):
    """A file for an editing program."""

    name: str = Field(description="A name for the file.")
    media_type: str
    text: str = Field(description="Its content.")
    num_left_out: int = Field(ge=0, description="Items that are not in it, as they are not indexed.")


class ToolFailed(Failure):
    """A tool cannot answer; the message begins with the code of the reason, and is what the agent reads."""


def build_tools(connect: Connect, settings: Settings) -> MCPServer[Any]:
    """The server of the tools; over HTTP it passes the caller's API key on to `connect`."""
    server: MCPServer[Any] = MCPServer("foley", version=version("foley-av"), instructions=INSTRUCTIONS)
    tools = _Tools(_Api(connect, settings))
    for tool in (
        tools.search_by_words,
        tools.search_by_asset,
        tools.search_by_file,
        tools.list_library,
        tools.show_asset,
        tools.list_collections,
        tools.export,
        tools.job_state,
    ):
        server.add_tool(_telling(tool), annotations=READS)
    server.add_tool(_telling(tools.start_job), annotations=CHANGES)
    return server


def _telling(tool: Callable[P, Awaitable[CallToolResult]]) -> Callable[P, Awaitable[CallToolResult]]:
    """A tool that answers with its failure: the package would write words before the code."""

    @wraps(tool)
    async def told(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except ToolFailed as exc:
            return CallToolResult(content=[TextContent(text=str(exc))], is_error=True)

    return told


class _Tools:
    """What an agent may call; names, arguments and docstrings are what it reads."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    async def search_by_words(
        self,
        ctx: Context[Any, Any],
        text: Annotated[str, Field(description="What it sounds or looks like, or words of names and tags.")],
        target: Target,
        match: Annotated[
            Match | None, Field(description="`meaning`, `words` of names and metadata, or `both`.")
        ] = None,
        limit: Limit = 10,
        folder: Folder = None,
    ) -> Annotated[CallToolResult, SearchAnswerBody]:
        """Find sound or picture by words."""
        body = {"text": text, "target": target, "match": match, "limit": limit, "folder": folder}
        return await self._api.answer(ctx, "POST", "/v1/search", json=body)

    async def search_by_asset(
        self,
        ctx: Context[Any, Any],
        asset_id: AssetId,
        target: Target,
        start_seconds: Annotated[
            float | None, Field(ge=0, description="Search only with the segment at this time.")
        ] = None,
        limit: Limit = 10,
        folder: Folder = None,
    ) -> Annotated[CallToolResult, SearchAnswerBody]:
        """Find the sound or picture that belongs to an asset, or more like it."""
        body = {"asset_id": asset_id, "target": target, "limit": limit, "folder": folder}
        return await self._api.answer(ctx, "POST", "/v1/search", json=body | {"start_seconds": start_seconds})

    async def search_by_file(
        self,
        ctx: Context[Any, Any],
        path: Annotated[str, Field(description="Absolute path of a media file in an allowed folder.")],
        target: Target,
        text: Annotated[str | None, Field(description="Words that count beside the file.")] = None,
        limit: Limit = 10,
        folder: Folder = None,
    ) -> Annotated[CallToolResult, SearchAnswerBody]:
        """Find the sound for the picture of a media file, or the picture for its sound."""
        query = {"target": target, "text": text, "limit": limit, "folder": folder}
        real = await self._api.check_path(ctx, path)
        try:
            with (
                open_regular(real, follows_links=False) as (descriptor, _),
                open(descriptor, "rb", closefd=False) as file,
            ):
                return await self._api.answer(
                    ctx, "POST", "/v1/search", params=query, files={"file": ("query", file)}
                )
        except UnreadableClip as exc:
            raise ToolFailed(f"{exc.code}: {exc}") from exc

    async def list_library(
        self,
        ctx: Context[Any, Any],
        folder: Folder = None,
        modality: Annotated[Modality | None, Field(description="Only assets that have this stream.")] = None,
        limit: Limit = 50,
        cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None,
    ) -> Annotated[CallToolResult, AssetPageBody]:
        """List the assets of the library, page by page."""
        query = {"folder": folder, "modality": modality, "limit": limit, "cursor": cursor}
        return await self._api.answer(ctx, "GET", "/v1/assets", params=query)

    async def show_asset(
        self, ctx: Context[Any, Any], asset_id: AssetId
    ) -> Annotated[CallToolResult, AssetBody]:
        """Describe an asset: its files, length, streams and metadata, and a thumbnail if it has a picture."""
        path = f"/v1/assets/{quote(asset_id, safe='')}"
        answer = await self._api.answer(ctx, "GET", path)
        if "video" in (answer.structured_content or {})["modalities"]:
            answer.content += await self._api.find_picture(ctx, f"{path}/thumbnail")
        return answer

    async def list_collections(self, ctx: Context[Any, Any]) -> Annotated[CallToolResult, CollectionsBody]:
        """List what people have collected; a collection can be exported."""
        return await self._api.answer(ctx, "GET", "/v1/collections")

    async def export(
        self,
        ctx: Context[Any, Any],
        format: FormatName,
        collection_id: str | None = None,
        items: Annotated[
            list[dict[str, Any]] | None,
            Field(description="Or a list of {asset_id, start_seconds, end_seconds, modality, note}."),
        ] = None,
        frame_rate: RateName | None = None,
        title: str | None = None,
    ) -> Annotated[CallToolResult, ExportBody]:
        """Write a collection, or items, as a file for an editing program; the answer is its text."""
        body = {"collection_id": collection_id, "items": items, "format": format}
        body |= {"frame_rate": frame_rate, "title": title}
        answer = await self._api.ask(ctx, "POST", "/v1/exports", json=_given(body))
        name = re.search(r'filename="([^"]+)"', answer.headers.get("content-disposition", ""))
        kind = answer.headers.get("content-type", "")
        found = {"name": name[1] if name else f"export.{format}", "media_type": kind, "text": answer.text}
        found["num_left_out"] = int(answer.headers.get("foley-left-out", 0))
        return CallToolResult(content=[TextContent(text=answer.text)], structured_content=found)

    async def start_job(
        self,
        ctx: Context[Any, Any],
        paths: Annotated[list[str], Field(min_length=1, description="Absolute paths in allowed folders.")],
        kind: Annotated[
            Literal["index", "sync"],
            Field(description="`index` what is new or changed; `sync` also removes what is gone."),
        ] = "index",
    ) -> Annotated[CallToolResult, JobBody]:
        """Start to index or synchronise folders in the background."""
        for path in paths:
            await self._api.check_path(ctx, path)
        return await self._api.answer(ctx, "POST", "/v1/jobs", json={"kind": kind, "paths": paths})

    async def job_state(
        self, ctx: Context[Any, Any], job_id: Annotated[str, Field(max_length=64)]
    ) -> Annotated[CallToolResult, JobBody]:
        """State, progress and report of a job."""
        return await self._api.answer(ctx, "GET", f"/v1/jobs/{quote(job_id, safe='')}")


class _Api:
    """The HTTP API as one call of a tool asks it."""

    def __init__(self, connect: Connect, settings: Settings) -> None:
        self._connect = connect
        self._settings = settings

    async def answer(self, ctx: Context[Any, Any], method: str, path: str, **body: Any) -> CallToolResult:
        """Ask for a JSON object, and give it to the agent as text and as values."""
        document = (await self.ask(ctx, method, path, **body)).json()
        return CallToolResult(
            content=[TextContent(text=to_json(document).decode())], structured_content=document
        )

    async def ask(
        self,
        ctx: Context[Any, Any],
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        files: Any = None,
    ) -> httpx.Response:
        """Send a request; raises `ToolFailed` with the code of the problem that it answers."""
        async with self._client(ctx) as client:
            answer = await client.request(
                method, path, params=_given(params), json=json and _given(json), files=files
            )
        if answer.is_error:
            raise ToolFailed(_explain(answer))
        return answer

    async def find_picture(self, ctx: Context[Any, Any], path: str) -> list[ContentBlock]:
        """The picture at a path, if there is one."""
        async with self._client(ctx) as client:
            answer = await client.get(path)
        return [Image(data=answer.content, format="jpeg").to_image_content()] if answer.is_success else []

    async def check_path(self, ctx: Context[Any, Any], path: str) -> Path:
        """Where a path of an agent leads, without links; raises `ToolFailed` if that is in no allowed folder."""
        links = LinkRules(within=await self._folders(ctx))
        try:
            if not links.within:
                raise UnusableFile(Path(path), "path_not_allowed", "no folder is allowed")
            if not path.startswith("/") or "\0" in path:
                raise UnusableFile(Path("/"), "path_not_allowed", "not an absolute path")
            return links.check(Path(find_path(path)))
        except UnusableFile as exc:
            raise ToolFailed(f"{exc.code}: {exc}; see FOLEY_LIBRARY_ROOTS and FOLEY_AGENT_FOLDERS") from exc
        except (OSError, ValueError) as exc:
            raise ToolFailed(f"not_a_file: {getattr(exc, 'strerror', None) or exc}") from exc

    async def _folders(self, ctx: Context[Any, Any]) -> Sequence[Path]:
        if self._settings.library_roots:
            return (*self._settings.library_roots, *self._settings.agent_folders)
        jobs = (await self.ask(ctx, "GET", "/v1/jobs", params={"limit": MAX_LIMIT})).json()["jobs"]
        named = {path for job in jobs for path in job["request"].get("paths", ()) if path.startswith("/")}
        return (*(Path(find_path(path)) for path in sorted(named)), *self._settings.agent_folders)

    @asynccontextmanager
    async def _client(self, ctx: Context[Any, Any]) -> AsyncIterator[httpx.AsyncClient]:
        given = ctx.headers or {}
        async with self._connect({name: given[name] for name in KEY_HEADERS if name in given}) as client:
            client.timeout = httpx.Timeout(self._settings.query_timeout_seconds + MARGIN_SECONDS)
            try:
                yield client
            except httpx.LocalProtocolError as exc:
                raise ToolFailed("media_changed: the file changed while it was sent") from exc
            except httpx.TransportError as exc:
                raise ToolFailed(f"server_gone: the service does not answer: {exc}") from exc


def _given(fields: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (fields or {}).items() if value is not None}


def _explain(answer: httpx.Response) -> str:
    """A problem in one line that begins with its code: `no_stream: the file has no video stream`."""
    try:
        problem = dict(answer.json())
    except ValueError:
        problem = {}
    faults = [f"{fault['parameter']}: {fault['message']}" for fault in problem.get("errors") or ()]
    said = (
        "; ".join(faults) or problem.get("detail") or problem.get("title") or f"status {answer.status_code}"
    )
    wait = answer.headers.get("retry-after")
    return f"{problem.get('code', 'error')}: {said}" + (f"; try again in {wait} s" if wait else "")
