"""Serving an asset's file in whole or in part, as players ask for it (RFC 9110, section 14)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO
from urllib.parse import quote

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from models.media.clip import UnreadableClip, clamp_time_ns, hash_media, open_without_links
from service.http.state import State
from service.index.contract import Asset
from service.jobs.database import LedgerFailure
from service.jobs.files import recall_identity, write_identity
from service.jobs.ledger import Ledger
from service.library.fetching import copy_asset
from service.library.journal import FileRow
from service.library.locations import ObjectPath, is_url
from service.library.object_cache import ObjectCache, ObjectTooLarge
from service.library.objects import ObjectChanged, ObjectNotFound, StorageUnavailable
from service.library.scanning import (
    NO_LINKED_FOLDERS,
    LinkRules,
    UnusableFile,
)
from service.library.stamps import stamp_of
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


class _ContentUnknown(Exception):
    """What a file holds must be read."""


class RangeNotSatisfiable(Failure):
    """The range asked for starts after the end of a file of `num_bytes`."""

    code = "range_not_satisfiable"

    def __init__(self, num_bytes: int) -> None:
        super().__init__(f"the file has {num_bytes} bytes and the range starts after them")
        self.headers = {"Content-Range": f"bytes */{num_bytes}"}


class _OpenFileResponse(FileResponse):
    """Sends the file that was opened and checked, whatever its path leads to by now, and closes it."""

    chunk_size = CHUNK_BYTES

    def __init__(
        self, file: BinaryIO, facts: os.stat_result, headers: Mapping[str, str], *, is_copy: bool = False
    ) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers, stat_result=facts)
        self._file = file
        self._facts = facts
        self._is_copy = is_copy  # of an object: never written to, but it may go to make room for others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stamp = stamp_of(self._facts)

        async def send_unchanged(message: Message) -> None:
            if not self._is_copy and stamp_of(os.fstat(self._file.fileno())) != stamp:
                raise MediaChanged("the file is being written to: the rest of it is not sent")
            await send(message)

        with self._file:
            await super().__call__(scope, receive, send_unchanged)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        span = parse_range(http_range, file_size)  # starlette's answers what may be ignored with 400
        return [] if span is None else [span]


async def respond_with_media(request: Request, asset: Asset, state: State) -> Response:
    """Answer with the file, a range or 304; raises `MediaMissing`, `MediaChanged`, `RangeNotSatisfiable`."""
    settings = state.foley.settings
    links = LinkRules(within=settings.library_roots, storages=settings.storage_roots)
    work = partial(open_media, asset, ledger=state.jobs.ledger, links=links, objects=state.foley.objects)
    try:
        file, facts = await anyio.to_thread.run_sync(partial(work, reads=False))
    except (
        _ContentUnknown
    ):  # few are read at a time; who waits for another to read the same file finds it known
        file, facts = await anyio.to_thread.run_sync(work, limiter=state.hashing)
    etag = f'"{asset.asset_id}"'  # the id is the hash of the content: as strong as a validator can be
    headers = _headers(asset, etag, os.pread(file.fileno(), HEAD_BYTES, 0))
    if matches_etag(request.headers.get("if-none-match"), etag):
        file.close()
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    is_copy = isinstance(file.name, str)  # see `_open_object`: other files are opened by descriptors
    return _OpenFileResponse(file, facts, headers, is_copy=is_copy)


def open_media(
    asset: Asset,
    *,
    ledger: Ledger | None = None,
    links: LinkRules = NO_LINKED_FOLDERS,
    reads: bool = True,
    objects: ObjectCache | None = None,
) -> tuple[BinaryIO, os.stat_result]:
    """Open one of an asset's files, once, and make sure that it has the content that was indexed.

    It must lie where `links` may lead. The content is read unless the ledger knows it by its size, times, inode and
    disk; without `reads` that ends here. An object is copied to this machine. Raises what is wrong with the first:
    `MediaMissing`, `MediaChanged`, or `StorageUnavailable` and `ObjectTooLarge` of an object.
    """
    reasons: list[Exception] = []
    for path in asset.paths:
        try:
            if is_url(path):
                return _open_object(ObjectPath(path), asset, links, objects, reads=reads)
            descriptor = _open_file(path, links)
            try:
                facts = os.fstat(descriptor)
                _check_content(descriptor, facts, path, asset, ledger, reads=reads)
            except BaseException:
                os.close(descriptor)
                raise
        except (MediaMissing, MediaChanged, StorageUnavailable, ObjectTooLarge) as exc:
            reasons.append(exc)
        else:
            return os.fdopen(descriptor, "rb", buffering=0), facts
    raise reasons[0]


def _open_object(
    path: ObjectPath, asset: Asset, links: LinkRules, objects: ObjectCache | None, *, reads: bool
) -> tuple[BinaryIO, os.stat_result]:
    """The copy of an object, which is named by its content; what is open stays when it makes room for others."""
    if objects is None or not links.allows_object(path):
        raise MediaMissing("the object does not lie below the addresses of the library")
    with objects.holding(asset.asset_id):
        if not reads and not objects.has(asset.asset_id):
            raise _ContentUnknown
        try:
            file = copy_asset(objects, str(path), asset.asset_id).open("rb", buffering=0)
        except ObjectNotFound as exc:
            raise MediaMissing("the storage has no such object any more") from exc
        except ObjectChanged as exc:
            raise MediaChanged(str(exc)) from exc
    return file, os.fstat(file.fileno())


def _open_file(path: str, links: LinkRules) -> int:
    try:
        return open_without_links(links.check(Path(path)))
    except UnusableFile as exc:
        raise MediaMissing("the file does not lie in the folders of the library") from exc
    except (OSError, ValueError) as exc:
        raise MediaMissing("the file was moved, deleted or made unreadable since it was indexed") from exc


def _check_content(
    descriptor: int, facts: os.stat_result, path: str, asset: Asset, ledger: Ledger | None, *, reads: bool
) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise MediaMissing("what is now at the file's path is not a regular file")
    changed = MediaChanged("the file was written to since it was indexed; index it again")
    if not facts.st_size or asset.media.get("size_bytes", facts.st_size) != facts.st_size:
        raise changed
    now = FileRow(
        path=path,
        size_bytes=facts.st_size,
        modified_ns=clamp_time_ns(facts.st_mtime_ns),
        stamp=stamp_of(facts),
    )
    known = None if ledger is None else recall_identity(ledger, path)
    if known is None or replace(known, asset_id=None) != now:
        if not reads:
            raise _ContentUnknown
        try:
            known = replace(now, asset_id=hash_media(descriptor)[0])
            if stamp_of(os.fstat(descriptor)) != now.stamp:
                raise changed
        except (OSError, UnreadableClip) as exc:  # of a disk that fails, or it is cut short just now
            raise MediaMissing("the file cannot be read to its end") from exc
        os.lseek(descriptor, 0, os.SEEK_SET)
        if ledger is not None:
            with suppress(LedgerFailure), ledger.write(is_durable=False) as connection:
                write_identity(connection, known)
    if known.asset_id != asset.asset_id:
        raise changed


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
    }


def matches_etag(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` or `If-Match` names the entity."""
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in tags or "*" in tags
