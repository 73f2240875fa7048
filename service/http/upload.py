"""How an uploaded file gets from a multipart form to a private file on disk, and off it again.

The form is parsed as it arrives: one part named `file`, which may be large, and short text fields. starlette's
`request.form` is not used: it takes a part for a file only if the part has a file name, which clients leave out, it
takes a form without its closing boundary for a whole one, and it writes where it cannot see how full the disk is.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.system.failure import Failure
from service.system.files import read_disk_space
from service.system.timing import timed

T = TypeVar("T")

FILE_FIELD = "file"
MAX_PARTS = 16
MAX_FIELD_BYTES = 16_384  # 4,096 characters of any kind
WRITE_BYTES = 1024 * 1024  # bytes gathered for one trip to the disk, which is made off the event loop
STALE_SECONDS = 3600.0  # no request lasts this long: a folder not touched since was left by a killed process


class NotMultipart(Failure):
    """The body is not declared as multipart/form-data."""

    code = "unsupported_content_type"


class MalformedBody(Failure):
    """The body is not the multipart/form-data it is declared as."""

    code = "malformed_body"


class TooManyParts(Failure):
    """The form has more parts, or a longer field, than any call needs."""

    code = "too_many_fields"


class MissingFile(Failure):
    """The form has no part named `file`."""

    code = "missing_file"


class DuplicateField(Failure):
    """The form names a field twice."""

    code = "invalid_parameter"


class UploadDiskFull(Failure):
    """The disk has no room for the uploaded file."""

    code = "disk_full"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A received file, under a name of ours until the request ends, and the text fields that came with it."""

    path: Path
    num_bytes: int
    fields: Mapping[str, str]
    has_file: bool = True


class UploadFolder:
    """A folder only we can read, where uploaded files live while they are answered.

    It is made in `parent`, where folders that a killed process left are removed. An upload must leave `reserve_bytes`
    free on the disk.
    """

    def __init__(self, parent: Path, *, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(parent)
        self._path = Path(tempfile.mkdtemp(prefix="serve-", dir=parent))

    def write(self, file: BinaryIO, pieces: list[bytes]) -> int:
        """Write pieces to a file from `create`; returns their length, or raises `UploadDiskFull`. Blocks."""
        data = b"".join(pieces)
        disk = read_disk_space(self._path, min_free_bytes=self._reserve_bytes)
        if not disk.has_room(len(data)):
            raise UploadDiskFull(f"the disk has only {disk.free_bytes} bytes free")
        return write_all(file, data)

    @contextmanager
    def create(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new empty file, open for writing; it is removed when the block ends."""
        descriptor, name = tempfile.mkstemp(prefix="upload-", dir=self._path)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self._path, ignore_errors=True)


@asynccontextmanager
async def receive_upload(
    request: Request, folder: UploadFolder, *, needs_file: bool = True
) -> AsyncIterator[Upload]:
    """Receive the multipart body of a request, not read before; the file exists inside the block only."""
    form = FormReader(read_boundary(request.headers.get("content-type", "")))
    async with _in_threads(folder.create()) as (path, file):
        num_bytes = 0
        with timed("receive"):
            async for chunk in request.stream():
                form.feed(chunk)
                if form.num_pending_bytes >= WRITE_BYTES:
                    num_bytes += await anyio.to_thread.run_sync(folder.write, file, form.take_file_bytes())
            form.finish(needs_file=needs_file)
            num_bytes += await anyio.to_thread.run_sync(folder.write, file, form.take_file_bytes())
        yield Upload(path=path, num_bytes=num_bytes, fields=form.fields, has_file=form.has_file)


@asynccontextmanager
async def _in_threads(blocking: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context off the event loop: to unlink a large file takes milliseconds."""
    entered = await anyio.to_thread.run_sync(blocking.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(blocking.__exit__, None, None, None)


def write_all(file: BinaryIO, data: bytes) -> int:
    """Write all of `data` to an unbuffered file and return its length; `UploadDiskFull` if the disk is full."""
    num_written = 0
    try:
        while num_written < len(data):
            num_written += file.write(memoryview(data)[num_written:])
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UploadDiskFull(f"no room on the disk after {num_written} bytes") from exc
        raise
    return num_written


def _remove_stale(parent: Path) -> None:
    oldest = time.time() - STALE_SECONDS
    for folder in parent.glob("serve-*"):
        if folder.lstat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def read_boundary(content_type: str) -> bytes:
    """The boundary between parts, 1 to 70 bytes, from a Content-Type header."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise NotMultipart(f"the body must be multipart/form-data, got {content_type[:80]!r}")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise MalformedBody(f"the multipart boundary must have 1 to 70 characters, got {len(boundary)}")
    return bytes(boundary)


class FormReader:
    """Takes a multipart body in pieces; `fields` has the text fields that are complete, `take_file_bytes` the file."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.num_pending_bytes = 0
        self._pending: list[bytes] = []
        self._has_file = False
        self._num_parts = 0
        self._is_finished = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_content,
                "on_part_data": self._add_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse the next piece, and raise the error that names what is wrong with it."""
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise MalformedBody(f"the body is not valid multipart/form-data: {exc}") from exc

    @property
    def has_file(self) -> bool:
        """Whether a part of the form is a file."""
        return self._has_file

    def finish(self, *, needs_file: bool = True) -> None:
        """Check that the form is whole, and has a file if it needs one."""
        if not self._is_finished:
            raise MalformedBody("the multipart body ends before its closing boundary")
        if needs_file and not self._has_file:
            raise MissingFile(f"the form has no part named {FILE_FIELD!r}")

    def take_file_bytes(self) -> list[bytes]:
        """File bytes received since the last call."""
        taken, self._pending, self.num_pending_bytes = self._pending, [], 0
        return taken

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise TooManyParts(f"the form has more than {MAX_PARTS} parts")
        self._disposition, self._name, self._value = b"", "", b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _start_content(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise MalformedBody("a part of the form has no name in its Content-Disposition header")
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name == FILE_FIELD:
            if self._has_file:
                raise DuplicateField(f"the form has more than one part named {FILE_FIELD!r}")
            self._has_file = True
        elif self._name in self.fields:
            raise DuplicateField(f"{self._name[:80]!r} is given more than once")

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._pending.append(data[start:end])
            self.num_pending_bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise TooManyParts(f"{self._name[:80]!r} is longer than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name != FILE_FIELD:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_finished = True
