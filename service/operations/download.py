"""One file over HTTP: resumed after a cut, never larger than said, and in place only if its hash is right.

    download(client, address, target, expected=Expected(sha256=…), room=…, on_bytes=…)

What has come lies in `.NAME.part` beside the target, so that a later call goes on from there. The proxies of the
environment (HTTPS_PROXY, NO_PROXY) are used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from service.system.failure import Failure
from service.system.files import NoRoom, sync_folder

TIMEOUT = httpx.Timeout(60.0, connect=30.0)
CHECK_BYTES = 64 << 20  # the disk is looked at again after so many
MAX_BYTES = 32 << 30
MAX_REDIRECTS = 5
MAX_RESUMES = 100

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that are there, and of the whole file if that is known."""
Room = Callable[[int], None]
"""Raises `NoRoom` if so many more bytes would leave too little of the disk."""


class DownloadFailed(Failure):
    """A file could not be downloaded; the message says why."""


class Unreachable(DownloadFailed):
    """The host cannot be reached, or breaks off again and again."""


class WrongFile(DownloadFailed):
    """What came is not the file that was published: its size or hash differs. It was removed."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a file must be; None if it is not known."""

    num_bytes: int | None = None
    sha256: str | None = None


def open_client() -> httpx.Client:
    """A client that uses the environment's proxies and follows no redirect by itself."""
    try:
        return httpx.Client(timeout=TIMEOUT, follow_redirects=False)
    except ValueError as exc:  # an address of a proxy that is none
        raise Unreachable(f"the proxy of the environment (HTTPS_PROXY) cannot be used: {exc}") from exc


def read_text(client: httpx.Client, address: str, *, max_bytes: int) -> str:
    """The body of a small document; raises `DownloadFailed`."""
    body = b""
    try:
        with _open(client, address, {}) as response:
            _check_status(response, address)
            for piece in response.iter_bytes():
                body += piece
                if len(body) > max_bytes:
                    raise DownloadFailed(f"{address} is larger than {max_bytes} bytes")
    except httpx.TransportError as exc:
        raise _unreachable(address, exc) from exc
    return body.decode("utf-8", "replace")


def download(
    client: httpx.Client, address: str, target: Path, *, expected: Expected, room: Room, on_bytes: OnBytes
) -> str:
    """Download a file, and return its sha256. A cut connection is resumed as long as each try brings more of it.

    Raises `WrongFile`, `Unreachable`, another `DownloadFailed`, or `NoRoom`; what has come is kept but for `WrongFile`.
    """
    part = target.with_name(f".{target.name}.part")
    fetch = _Fetch(client, address, part, expected, room, on_bytes)
    for _ in range(MAX_RESUMES):
        before = fetch.size()
        try:
            fetch.run()
            break
        except httpx.TransportError as exc:
            if fetch.size() <= before:
                raise _unreachable(address, exc) from exc
    else:
        raise Unreachable(f"{address} breaks off again and again")
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if expected.sha256 not in (None, sha256):
        fetch.forget()
        raise WrongFile(f"{address} has sha256 {sha256}, published is {expected.sha256}; it was removed")
    part.rename(target)
    fetch.forget()
    sync_folder(target.parent)
    return sha256


class _Fetch:
    """One file on its way: what has come, and which version of the file that is a part of."""

    def __init__(
        self,
        client: httpx.Client,
        address: str,
        part: Path,
        expected: Expected,
        room: Room,
        on_bytes: OnBytes,
    ) -> None:
        self.client, self.address, self.part = client, address, part
        self.expected, self.room, self.on_bytes = expected, room, on_bytes
        self.version = part.with_suffix(".etag")

    def size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.part.lstat().st_size
        return 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def run(self) -> None:
        """Ask for what is missing, and write it."""
        if self.size() and self.size() == self.expected.num_bytes:
            return
        headers = {"Accept-Encoding": "identity", **self._range()}
        with _open(self.client, self.address, headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:  # the file has changed
                self.forget()
                raise httpx.ReadError("the part that was there does not belong to the file")
            _check_status(response, self.address)
            start = self.size() if self._continues(response) else 0
            whole = self._whole_size(response, start)
            if etag := response.headers.get("etag"):
                self.version.write_text(etag)
            self._write(response, start, whole)
        if whole is not None and self.size() < whole:
            raise httpx.ReadError(f"the connection was cut after {self.size()} of {whole} bytes")

    def _range(self) -> dict[str, str]:
        """Ask for the rest only: of the same version, or of a file whose hash will tell."""
        etag = self.version.read_text() if self.version.exists() else ""
        is_strong = etag.startswith('"')
        if not self.size() or not (is_strong or self.expected.sha256):
            return {}
        condition = {"If-Range": etag} if is_strong else {}
        return {"Range": f"bytes={self.size()}-", **condition}

    def _continues(self, response: httpx.Response) -> bool:
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            return False
        if not response.headers.get("content-range", "").startswith(f"bytes {self.size()}-"):
            raise DownloadFailed(f"{self.address} sends another range than it was asked for")
        return True

    def _whole_size(self, response: httpx.Response, start: int) -> int | None:
        """Size of the whole file, from the answer and from what was published."""
        length = response.headers.get("content-length", "")
        found = start + int(length) if re.fullmatch(r"\d{1,18}", length) else None
        wanted = self.expected.num_bytes
        if found is not None and wanted not in (None, found):
            self.forget()
            raise WrongFile(f"{self.address} has {found} bytes, published are {wanted}")
        whole = wanted if found is None else found
        if whole is not None and whole > MAX_BYTES:
            raise WrongFile(f"{self.address} has {whole} bytes, at most {MAX_BYTES} are taken")
        return whole

    def _write(self, response: httpx.Response, start: int, whole: int | None) -> None:
        limit, done, checked = whole or MAX_BYTES, start, start
        self.room(0 if whole is None else whole - start)
        try:
            with os.fdopen(_open_part(self.part), "r+b") as file:
                file.truncate(start)
                file.seek(start)
                for piece in response.iter_raw():
                    done += len(piece)
                    if done > limit:
                        raise WrongFile(f"{self.address} is larger than {limit} bytes; it was removed")
                    file.write(piece)
                    self.on_bytes(done, whole)
                    if done - checked >= CHECK_BYTES:
                        checked = done
                        self.room(0 if whole is None else whole - done)
                file.flush()
                os.fsync(file.fileno())
        except WrongFile:
            self.forget()
            raise
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(exc, NoRoom):
                raise NoRoom(exc.errno, f"the disk is full: {self.part} has what came so far") from exc
            raise


def _open_part(part: Path) -> int:
    """Open a regular file for writing; it is made if it is missing, and a link is not followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DownloadFailed(f"{part} must be a regular file")
    return descriptor


@contextlib.contextmanager
def _open(client: httpx.Client, address: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Send a request and follow redirects: never from https to anything else, and to http and https only."""
    try:
        url = httpx.URL(address)
        for _ in range(MAX_REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                target = url.join(response.headers["location"])
            if target.scheme not in ({"https"} if url.scheme == "https" else {"http", "https"}):
                raise DownloadFailed(f"{url} redirects to {target.scheme}:, which is refused")
            url = target
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise DownloadFailed(f"{address} cannot be asked for: {exc}") from exc
    raise DownloadFailed(f"{address} redirects more than {MAX_REDIRECTS} times")


def _check_status(response: httpx.Response, address: str) -> None:
    if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise DownloadFailed(f"{address} answers {response.status_code} {response.reason_phrase}")


def _unreachable(address: str, exc: httpx.TransportError) -> Unreachable:
    """Name the host, and the proxy if one stands between, without its password."""
    url = httpx.URL(address)
    proxy = "" if proxy_bypass(url.host) else getproxies().get(url.scheme, "")
    through = f" through the proxy {urlsplit(proxy).hostname} ({url.scheme.upper()}_PROXY)" if proxy else ""
    return Unreachable(f"{url.host} cannot be reached{through}: {exc or type(exc).__name__}")
