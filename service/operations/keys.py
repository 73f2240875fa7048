"""API keys: who may call from other machines, and what for.

    created = create_key(path, name="web shop", scope="read")    # created.key is shown once and stored nowhere
    KeyStore(path).identify(created.key)

A key is `foley_` + its public id + 32 random bytes. The file keeps only the sha256 of a key: a random key cannot be
guessed from it, so no slow hash is needed. Scopes include each other: admin > write > read. The file is replaced whole
under a lock, and read again when it changes: a revoked key stops working immediately.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shlex
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from service.system.failure import Failure
from service.system.files import locked_file, replace_file

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each includes those before it
PREFIX = "foley_"
SECRET_BYTES = 32
MAX_NAME = 100
FORMAT_VERSION = 1


class KeysFailure(Failure):
    """The file of API keys cannot be used."""

    code = "keys_unavailable"
    is_public = False


class NoSuchKey(KeysFailure):
    """No key has this id."""


class InvalidKeyName(KeysFailure):
    """A key's name is empty, too long or not printable."""


class Unauthorized(Failure):
    """The request carries no key, or, if `is_wrong`, an invalid one; `headers` go with the answer (RFC 6750)."""

    code = "unauthorized"

    def __init__(self, message: str, *, is_wrong: bool) -> None:
        super().__init__(message)
        error = ', error="invalid_token"' if is_wrong else ""
        self.headers = {"WWW-Authenticate": f'Bearer realm="foley"{error}'}


class ScopeMissing(Failure):
    """The scope of the key is not enough for the route; `headers` go with the answer (RFC 6750)."""

    code = "insufficient_scope"

    def __init__(self, *, has: Scope, needs: Scope) -> None:
        super().__init__(f"the key has scope {has}, this needs {needs}")
        challenge = f'Bearer realm="foley", error="insufficient_scope", scope="{needs}"'
        self.headers = {"WWW-Authenticate": challenge}


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key as it is in the file."""

    key_id: str  # its public part, which appears in the log
    name: str
    scope: Scope
    sha256: str  # hex digest of the whole
    created_at: str  # ISO 8601

    def allows(self, needed: Scope) -> bool:
        """Whether the key has a scope, or one that includes it."""
        return SCOPES.index(self.scope) >= SCOPES.index(needed)

    def describe(self) -> dict[str, str]:
        """The key as JSON values, without its digest."""
        return {name: value for name, value in asdict(self).items() if name != "sha256"}


@dataclass(frozen=True, kw_only=True)
class CreatedKey:
    """A new key: what the client sends, which is kept nowhere else, and what the file keeps."""

    key: str
    stored: StoredKey


def create_key(path: Path, *, name: str, scope: Scope) -> CreatedKey:
    """Create a key and add it to the file (made if missing, for its owner only); raises `InvalidKeyName`."""
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise InvalidKeyName(f"a key's name must be 1 to {MAX_NAME} printable characters, got {name[:120]!r}")
    key_id = secrets.token_hex(4)
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    stored = StoredKey(key_id=key_id, name=name, scope=scope, sha256=_digest(key), created_at=created_at)
    with _locked(path):
        _write_keys(path, [*(read_keys(path) if path.exists() else []), stored])
    return CreatedKey(key=key, stored=stored)


def revoke_key(path: Path, key_id: str) -> StoredKey:
    """Remove a key from the file and return it; a running service refuses it at once. Raises `NoSuchKey`."""
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        for revoked in keys:
            if revoked.key_id == key_id:
                _write_keys(path, [key for key in keys if key is not revoked])
                return revoked
    raise NoSuchKey(f"{path} has no key {key_id[:40]!r}: `foley keys list` shows them")


def read_keys(path: Path) -> list[StoredKey]:
    """The keys of the file, the oldest first; raises `KeysFailure` if it is missing, damaged or open to others."""
    try:
        document = json.loads(_read_private(path))
        if document["version"] != FORMAT_VERSION:
            raise KeysFailure(
                f"{path} has version {document['version']}, this program reads {FORMAT_VERSION}"
            )
        return [_to_key(entry) for entry in document["keys"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise KeysFailure(f"the file of API keys {path} cannot be read: {exc}") from exc


def _read_private(path: Path) -> bytes:
    """The file's content; raises `KeysFailure` if it is no regular file, or others may read or change it."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise KeysFailure(f"the file of API keys {path} is not a regular file")
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise KeysFailure(
                f"others may read or change the file of API keys: chmod 600 {shlex.quote(str(path))}"
            )
        return file.read()


def _to_key(entry: dict[str, Any]) -> StoredKey:
    key = StoredKey(**entry)
    if key.scope not in SCOPES or len(bytes.fromhex(key.sha256)) != hashlib.sha256().digest_size:
        raise ValueError(f"key {key.key_id!r} has an unknown scope or no sha256")
    return replace(key, sha256=key.sha256.lower())


class KeyStore:
    """The keys of a running service, read again whenever their file changes; for any thread.

    Raises `KeysFailure` if the file cannot be read or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: Sequence[StoredKey] = ()
        if not path.exists():
            raise KeysFailure(
                f"no API keys yet: create the first one with `foley keys create NAME`, in {path}"
            )
        if not self._current():
            raise KeysFailure(f"{path} holds no key: create one with `foley keys create NAME`")

    def identify(self, key: str) -> StoredKey | None:
        """The key that a client sent; None if unknown. Raises `KeysFailure` if the file is unreadable by now."""
        digest = _digest(key)
        found = None
        for stored in self._current():  # all of them, so that the time reveals no position
            if hmac.compare_digest(digest, stored.sha256):
                found = stored
        return found

    def has(self, key: StoredKey) -> bool:
        """Whether a key is still valid; not if the file cannot be read."""
        with contextlib.suppress(KeysFailure):
            return key in self._current()
        return False

    def _current(self) -> Sequence[StoredKey]:
        with self._lock:
            try:
                facts = self._path.stat()
            except OSError as exc:
                raise KeysFailure(f"the file of API keys {self._path} cannot be read: {exc}") from exc
            seen = (facts.st_ctime_ns, facts.st_ino, facts.st_size)
            if seen != self._seen:
                self._keys = read_keys(self._path)
                self._seen = seen
            return self._keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other writers out: of two keys added at the same time none may be lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path.with_name(path.name + ".lock")):
        yield


def _write_keys(path: Path, keys: Sequence[StoredKey]) -> None:
    document = {"version": FORMAT_VERSION, "keys": [asdict(key) for key in keys]}
    replace_file(path, json.dumps(document, indent=1) + "\n")
