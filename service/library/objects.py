"""Objects of a storage (S3, Google Cloud, a web server) through fsspec: list, describe, read; the extra `storage`.

Credentials are found by the storage's own means (environment, profile, role of the machine). What its packages say is
never passed on: a message could hold an address with a signature. A failure of ours names what is wrong in our words.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from models.media.clip import clamp_time_ns
from models.media.names import is_ignored, xmp_names
from service.library.locations import ObjectPath
from service.library.mounts import is_within
from service.system.failure import Failure

R = TypeVar("R")
READ_BYTES = 8 << 20  # in one request: what is lost when a connection is cut, and what is held in memory
ATTEMPTS = 4
RETRY_SECONDS = 0.5
OPTIONS: Mapping[str, Any] = {
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}}}
}  # `_ask` and s3fs try again
QUIET = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")

for _name in QUIET:  # they log what requests are signed with, and gcsfs what a storage answers
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class StorageUnavailable(Failure):
    """A storage does not answer, refuses, or cannot be used here; the message says which."""

    code = "storage_unavailable"


class ObjectNotFound(StorageUnavailable):
    """The storage says that there is no such object."""

    code = "media_missing"


class ObjectChanged(StorageUnavailable):
    """Another object is there than was described."""

    code = "media_changed"


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """What a storage says of an object; `etag` is empty and the time 0 if it does not say.

    `sidecar` is the XMP file beside it, if `list_objects` found one.
    """

    path: ObjectPath
    size_bytes: int
    modified_ns: int
    etag: str
    takes_ranges: bool = True
    sidecar: StoredObject | None = None


def list_objects(root: ObjectPath) -> Iterator[StoredObject]:
    """The object of this name, else all below it that are not hidden, in the order of their names."""
    system = _open(root)
    if root.scheme.startswith("http"):
        infos = _browse(system, root)
    else:
        found = _ask(lambda: system.find(_key(root), detail=True))
        if not found:
            raise ObjectNotFound("the storage has nothing there")
        infos = {f"{root.scheme}://{name}": info for name, info in found.items()}
    named = root.url in infos
    for url in sorted(infos):
        below = url[len(root.url) :].strip("/")
        if not url.endswith("/") and not any(
            is_ignored(name) for name in below.split("/") if name.strip(".")
        ):
            stored = _read(ObjectPath(url), infos[url])
            yield replace(stored, sidecar=_find_sidecar(stored.path, None if named else infos))


def check_storage(root: ObjectPath) -> None:
    """Raise `ObjectNotFound` if there is nothing of this name or below it, and what else keeps it from being read."""
    system = _open(root)
    _ask(lambda: system.info(_key(root)))


def describe_object(path: ObjectPath) -> StoredObject:
    """What the storage says of an object now; raises `ObjectNotFound` only if it says that there is none."""
    system = _open(path)
    info = _ask(lambda: system.info(_key(path)))
    if info.get("type") == "directory":
        raise ObjectNotFound("there is no object of this name, only others below it")
    return _read(path, info)


def _find_sidecar(path: ObjectPath, infos: Mapping[str, dict[str, Any]] | None) -> StoredObject | None:
    """The XMP file beside an object: of those listed, else the storage is asked."""
    folder = path.url[: -len(path.name)]
    for beside in (ObjectPath(folder + name) for name in xmp_names(path.name)):
        if infos is None:
            with suppress(ObjectNotFound):
                return describe_object(beside)
        elif beside.url in infos:
            return _read(beside, infos[beside.url])
    return None


def read_object(stored: StoredObject) -> Iterator[bytes]:
    """The content, piece by piece, read on where a connection was cut.

    Raises `ObjectChanged` if another object is there by then.
    """
    system = _open(stored.path)
    try:
        if stored.takes_ranges:
            for start in range(0, stored.size_bytes, READ_BYTES):
                yield _ask(lambda start=start: _read_range(system, stored, start))  # type: ignore[misc]
        else:
            yield from _read_through(system, stored)
    except ObjectNotFound:
        raise
    except StorageUnavailable:
        _check(stored)
        raise
    _check(stored)


def _read_range(system: Any, stored: StoredObject, start: int) -> bytes:
    end = min(start + READ_BYTES, stored.size_bytes)
    piece: bytes = system.cat_file(_key(stored.path), start=start, end=end)
    if len(piece) != end - start:
        raise OSError("the connection ended early")
    return piece


def _read_through(system: Any, stored: StoredObject) -> Iterator[bytes]:
    """Read from the start, again from there if the connection is cut: the server takes no ranges."""
    num_sent = 0
    for attempt in range(1, ATTEMPTS + 1):
        position = 0
        try:
            with system.open(_key(stored.path), "rb", block_size=0) as file:
                while piece := file.read(READ_BYTES):
                    fresh = piece[max(0, num_sent - position) :]
                    position += len(piece)
                    num_sent += len(fresh)
                    yield fresh
            if position == stored.size_bytes:
                return
        except Exception as exc:
            if attempt == ATTEMPTS:
                raise _translate(exc) from None
        time.sleep(RETRY_SECONDS * attempt)
    raise StorageUnavailable("the connection to the storage was cut again and again")


def _check(stored: StoredObject) -> None:
    now = describe_object(stored.path)
    if (now.size_bytes, now.etag) != (stored.size_bytes, stored.etag):
        raise ObjectChanged("the object was changed while it was read")


def _browse(system: Any, root: ObjectPath) -> dict[str, dict[str, Any]]:
    """What an index page links to, and the pages below it."""
    if root.suffix and (info := _ask(lambda: system.info(root.url))).get("mimetype") != "text/html":
        return {root.url: info}
    found: dict[str, dict[str, Any]] = {}
    waiting, seen = [f"{root.url}/"], set[str]()
    while waiting:
        page = waiting.pop()
        for url in _ask(lambda page=page: system.ls(page, detail=False)):  # type: ignore[misc]
            if not is_within(url, root.url) or "?" in url or "#" in url or url in seen:
                continue
            seen.add(url)
            if url.endswith("/"):
                waiting.append(url)
            else:
                found[url] = _ask(lambda url=url: system.info(url))  # type: ignore[misc]
    return found


def _key(path: ObjectPath) -> str:
    """How fsspec names it: the address of a web server, else bucket and key."""
    return path.url if path.scheme.startswith("http") else path.url.partition("://")[2]


def _open(path: ObjectPath) -> Any:
    # fsspec and s3fs take a second to import, which a library of files need not wait for.
    try:
        import fsspec  # type: ignore[import-untyped, unused-ignore] # noqa: PLC0415

        return fsspec.filesystem(path.scheme, use_listings_cache=False, **OPTIONS.get(path.scheme, {}))
    except ImportError:
        package = "gcsfs" if path.scheme == "gs" else "foley-av[storage]"
        raise StorageUnavailable(f"{path.scheme}:// needs a package: pip install '{package}'") from None
    except Exception as exc:
        raise _translate(exc) from None


def _ask(call: Callable[[], R]) -> R:
    """Ask a storage, and again if what failed may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as exc:
            failure = _translate(exc)
            if (
                attempt == ATTEMPTS
                or type(failure) is not StorageUnavailable
                or isinstance(exc, PermissionError)
            ):
                raise failure from None  # the cause may hold an address with a signature
        time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _translate(exc: Exception) -> StorageUnavailable:
    """What went wrong, in words that hold nothing of the storage's."""
    if isinstance(exc, StorageUnavailable):
        return exc
    if isinstance(exc, FileNotFoundError):
        # fsspec's web client calls every failure one; what the server answered is in the cause
        cause = exc.__cause__
        if cause is None or isinstance(cause, FileNotFoundError) or _status(cause) in (404, 410):
            return ObjectNotFound("the storage has no such object")
        if _status(cause) in (401, 403):
            return StorageUnavailable("the storage refuses access: check the credentials")
    if isinstance(exc, PermissionError) or _status(exc) in (401, 403):
        return StorageUnavailable("the storage refuses access: check the credentials")
    if "Credential" in type(exc).__name__:
        return StorageUnavailable("there are no credentials for the storage")
    return StorageUnavailable(f"the storage does not answer as it should ({type(exc).__name__})")


def _status(exc: BaseException) -> int | None:
    """The status of an HTTP answer that became an exception; botocore's hides behind s3fs's."""
    if type(exc) is OSError and str(exc).startswith("Forbidden: "):  # gcsfs's
        return 403
    for name in ("status", "code"):  # aiohttp's, gcsfs's
        if str(status := getattr(exc, name, None)).isdecimal():
            return int(str(status))
    response = getattr(exc, "response", None)
    facts = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    code = facts.get("HTTPStatusCode")
    return code if isinstance(code, int) else None


def _read(path: ObjectPath, info: dict[str, Any]) -> StoredObject:
    if info.get("size") is None:
        raise StorageUnavailable("the storage does not say how large the object is")
    return StoredObject(
        path=path,
        size_bytes=int(info["size"]),
        modified_ns=_time_ns(info),
        etag=str(info.get("ETag") or info.get("etag") or "").removeprefix("W/").strip('"'),
        takes_ranges=not path.scheme.startswith("http") or bool(info.get("partial")),
    )


def _time_ns(info: dict[str, Any]) -> int:
    value = next(
        (info[k] for k in ("LastModified", "mtime", "updated", "Last-Modified") if info.get(k)), None
    )
    try:
        if isinstance(value, str):
            value = parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
        seconds = value.replace(tzinfo=value.tzinfo or UTC).timestamp() if value is not None else 0.0
    except (ValueError, AttributeError):
        seconds = 0.0
    return clamp_time_ns(round(seconds * 1e6) * 1000)
