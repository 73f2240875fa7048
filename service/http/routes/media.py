"""Serving an asset's file in whole or in part, as players ask for it (RFC 9110, section 14)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, BinaryIO
from urllib.parse import quote

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from service.index.contract import Asset
from service.system.failure import Failure

CHUNK_BYTES = 256 * 1024

# FFmpeg's name of the container → (type with picture, type without)
MEDIA_TYPES: Mapping[str, tuple[str, str]] = {
    "mov": ("video/quicktime", "audio/mp4"),
    "mp4": ("video/mp4", "audio/mp4"),
    "matroska": ("video/x-matroska", "audio/x-matroska"),
    "webm": ("video/webm", "audio/webm"),
    "ogg": ("video/ogg", "audio/ogg"),
    "avi": ("video/x-msvideo", "video/x-msvideo"),
    "flv": ("video/x-flv", "video/x-flv"),
    "mpeg": ("video/mpeg", "video/mpeg"),
    "mpegts": ("video/mp2t", "video/mp2t"),
    "asf": ("video/x-ms-wmv", "audio/x-ms-wma"),
    "wav": ("audio/wav", "audio/wav"),
    "w64": ("audio/wav", "audio/wav"),
    "mp3": ("audio/mpeg", "audio/mpeg"),
    "flac": ("audio/flac", "audio/flac"),
    "aac": ("audio/aac", "audio/aac"),
    "aiff": ("audio/aiff", "audio/aiff"),
    "caf": ("audio/x-caf", "audio/x-caf"),
}
HEAD_BYTES = 64


class MediaMissing(Failure):
    """The asset's file is not where it was when it was indexed."""

    code = "media_missing"


class MediaChanged(Failure):
    """The file at the asset's path is not the one that was indexed."""

    code = "media_changed"


class RangeNotSatisfiable(Failure):
    """The range asked for starts after the end of a file of `num_bytes`."""

    code = "range_not_satisfiable"

    def __init__(self, num_bytes: int) -> None:
        super().__init__(f"the file has {num_bytes} bytes and the range starts after them")
        self.headers = {"Content-Range": f"bytes */{num_bytes}"}


class _OpenFileResponse(FileResponse):
    """Sends the file that was opened and checked, whatever its path leads to by now, and closes it."""

    chunk_size = CHUNK_BYTES

    def __init__(self, file: BinaryIO, facts: os.stat_result, headers: Mapping[str, str]) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers, stat_result=facts)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        span = parse_range(http_range, file_size)  # starlette's answers what may be ignored with 400
        return [] if span is None else [span]


async def respond_with_media(request: Request, asset: Asset) -> Response:
    """Answer with the file, a range or 304; raises `MediaMissing`, `MediaChanged`, `RangeNotSatisfiable`."""
    file, facts = await anyio.to_thread.run_sync(open_media, asset)
    etag = f'"{asset.asset_id}"'  # the id is the hash of the content: as strong as a validator can be
    headers = _headers(asset, etag, os.pread(file.fileno(), HEAD_BYTES, 0))
    if _matches(request.headers.get("if-none-match"), etag):
        file.close()
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    return _OpenFileResponse(file, facts, headers)


def open_media(asset: Asset) -> tuple[BinaryIO, os.stat_result]:
    """Open one of an asset's files, once, and make sure it can be the one that was indexed.

    Raises what is wrong with the first: `MediaMissing` if it is gone or cannot be read, `MediaChanged` if its size or
    time of change differs from the indexed one. Of a copy only the size is known.
    """
    reasons = []
    for path in asset.paths:
        try:
            return _open_file(path, asset.media, is_copy=path != asset.path)
        except (MediaMissing, MediaChanged) as exc:
            reasons.append(exc)
    raise reasons[0]


def _open_file(path: str, media: Mapping[str, Any], *, is_copy: bool) -> tuple[BinaryIO, os.stat_result]:
    try:
        # O_NONBLOCK: a FIFO put in the file's place must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise MediaMissing("the file was moved, deleted or made unreadable since it was indexed") from exc
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise MediaMissing("what is now at the file's path is not a regular file")
    found = {"size_bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
    if is_copy:
        del found["modified_ns"]
    if any(media.get(name, value) != value for name, value in found.items()):
        os.close(descriptor)
        raise MediaChanged("the file was written to since it was indexed; index it again")
    return os.fdopen(descriptor, "rb", buffering=0), facts


def parse_range(header: str | None, num_bytes: int) -> tuple[int, int] | None:
    """The half-open range of bytes that a Range header asks for.

    None if the whole file is to be sent: no header, one we need not understand (RFC 9110 lets a server ignore it), or
    several ranges, which no player asks for. Raises `RangeNotSatisfiable` if the range starts after the end.
    """
    found = re.fullmatch(
        r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", header or "", re.ASCII | re.IGNORECASE
    )
    if not found or found[1] == found[2] == "":
        return None
    if found[1] == "":  # the last N bytes
        start, end = max(num_bytes - int(found[2]), 0), num_bytes
    else:
        start = int(found[1])
        end = min(int(found[2]) + 1, num_bytes) if found[2] else num_bytes
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(num_bytes)
    return start, end


def media_type(media: Mapping[str, Any], head: bytes = b"") -> str:
    """The type of sound or picture by the container found in the file, never one that a browser would run.

    `media` is what was indexed about the file; `head`, its first bytes, tells WebM from other Matroska.
    """
    names = str(media.get("container") or "").lower().split(",")
    if "matroska" in names:
        names = ["webm"] if b"\x42\x82\x84webm" in head else ["matroska"]  # the element DocType
    elif "mp4" in names:
        names = ["mp4"]  # QuickTime too: browsers play it as MP4 and not by its own type
    has_video = bool(media.get("has_video", media.get("video_codec")))
    for name in names:
        if name in MEDIA_TYPES:
            return MEDIA_TYPES[name][0 if has_video else 1]
    return "application/octet-stream"


def content_disposition(path: str) -> str:
    """A header that names the file without letting the name write headers (RFC 6266)."""
    name = PurePath(path).name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    plain = re.sub(r"[^A-Za-z0-9 ._()\[\]-]", "_", name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _headers(asset: Asset, etag: str, head: bytes) -> dict[str, str]:
    return {
        "Content-Type": media_type(asset.media, head),
        "Content-Disposition": content_disposition(asset.path),
        "ETag": etag,
        "Cache-Control": "private, max-age=0, must-revalidate",
        "X-Content-Type-Options": "nosniff",
    }


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags
