"""How an uploaded file gets from the body of a request to a private file on disk, and off it again."""

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
from starlette.requests import Request

from service.http.form import FormReader, read_boundary
from service.system.failure import Failure
from service.system.timing import timed

T = TypeVar("T")

WRITE_BYTES = 1024 * 1024  # bytes gathered for one trip to the disk, which is made off the event loop
STALE_SECONDS = 3600.0  # no request lasts this long: a folder not touched since was left by a killed process


class UploadDiskFull(Failure):
    """The disk has no room for the uploaded file."""

    code = "disk_full"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A received file and the fields that came with it.

    Attributes:
        path: The file, under a name of ours; it is removed when the request ends.
        num_bytes: Its size.
        fields: Text fields by name.
    """

    path: Path
    num_bytes: int
    fields: Mapping[str, str]


class UploadFolder:
    """A folder only we can read, where uploaded files live while they are answered.

    Args:
        parent: Where to make it; folders there that a killed process left are removed.
        reserve_bytes: Free space that an upload must leave.
    """

    def __init__(self, parent: Path, *, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(parent)
        self._path = Path(tempfile.mkdtemp(prefix="serve-", dir=parent))

    def write(self, file: BinaryIO, pieces: list[bytes]) -> int:
        """Write pieces to one of our files, as long as the disk has room. Blocks.

        Args:
            file: A file from `create`.
            pieces: What to write, in order.

        Returns:
            How many bytes were written.

        Raises:
            UploadDiskFull: If the disk is full, or would have less room left than the reserve.
        """
        data = b"".join(pieces)
        free_bytes = shutil.disk_usage(self._path).free
        if free_bytes - len(data) < self._reserve_bytes:
            raise UploadDiskFull(f"the disk has only {free_bytes} bytes free")
        return write_all(file, data)

    @contextmanager
    def create(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new empty file, open for writing; it is gone when the block ends."""
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
async def receive_upload(request: Request, folder: UploadFolder) -> AsyncIterator[Upload]:
    """Receive the multipart body of a request; the file exists inside the block only.

    Args:
        request: A request whose body nobody has read.
        folder: Where the file is kept meanwhile.

    Yields:
        The file and its fields.

    Raises:
        InvalidForm: If the body is not a form with exactly one file.
        UploadDiskFull: If the disk has no room.
    """  # noqa: DOC502 - the parser and the folder raise them
    boundary = read_boundary(request.headers.get("content-type", ""))
    async with _in_threads(folder.create()) as (path, file):
        form = FormReader(boundary)
        num_bytes = 0
        with timed("receive"):
            async for chunk in request.stream():
                form.feed(chunk)
                if form.num_pending_bytes >= WRITE_BYTES:
                    num_bytes += await anyio.to_thread.run_sync(folder.write, file, form.take_file_bytes())
            form.finish()
            num_bytes += await anyio.to_thread.run_sync(folder.write, file, form.take_file_bytes())
        yield Upload(path=path, num_bytes=num_bytes, fields=form.fields)


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
    """Write to an unbuffered file.

    Args:
        file: Open for writing.
        data: What to write.

    Returns:
        How many bytes were written: all.

    Raises:
        UploadDiskFull: If the disk is full.
        OSError: If it fails in another way.
    """
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
