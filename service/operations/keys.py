"""API keys: who may call from other machines, and what for.

    created = create_key(path, name="web shop", scope="read")    # created.key is shown once and kept nowhere
    KeyStore(path).identify(created.key)

A key is `foley_` + its public id + 32 random bytes. The file keeps their sha256 only: a random key cannot be guessed
from it, so that no slow hash is needed. Scopes include each other: admin > write > read. The file is written whole
(aside, fsync, rename) under a lock, and read again when it changes: a revoked key stops working at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
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
    """A key's name is empty, too long or not plain text."""


class Unauthorized(Failure):
    """The request carries no key, or one that is not valid.

    Args:
        message: Which of the two.
        is_wrong: Whether a key was given.

    Attributes:
        headers: What to tell the client beside the error (RFC 6750).
    """

    code = "unauthorized"

    def __init__(self, message: str, *, is_wrong: bool) -> None:
        super().__init__(message)
        error = ', error="invalid_token"' if is_wrong else ""
        self.headers = {"WWW-Authenticate": f'Bearer realm="foley"{error}'}


class ScopeMissing(Failure):
    """The key may not do this.

    Args:
        has: Scope of the key.
        needs: Scope of the route.

    Attributes:
        headers: What to tell the client beside the error (RFC 6750).
    """

    code = "insufficient_scope"

    def __init__(self, *, has: Scope, needs: Scope) -> None:
        super().__init__(f"the key has scope {has}, this needs {needs}")
        challenge = f'Bearer realm="foley", error="insufficient_scope", scope="{needs}"'
        self.headers = {"WWW-Authenticate": challenge}


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key as the file knows it.

    Attributes:
        key_id: Public name of the key, part of it; appears in the log.
        name: What it is for, for people.
        scope: What it may do.
        sha256: Hex digest of the whole key.
        created_at: ISO 8601, UTC.
    """

    key_id: str
    name: str
    scope: Scope
    sha256: str
    created_at: str

    def allows(self, needed: Scope) -> bool:
        """Whether the key may do what needs a scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(needed)

    def describe(self) -> dict[str, str]:
        """The key as JSON values, without its digest."""
        return {name: value for name, value in asdict(self).items() if name != "sha256"}


@dataclass(frozen=True, kw_only=True)
class CreatedKey:
    """A new key; this is the only place that ever holds it.

    Attributes:
        key: What the client sends.
        stored: What the file keeps.
    """

    key: str
    stored: StoredKey


def create_key(path: Path, *, name: str, scope: Scope) -> CreatedKey:
    """Make a key and add it to the file.

    Args:
        path: The file; made where it is missing, readable by its owner only.
        name: What it is for.
        scope: What it may do.

    Returns:
        The key.

    Raises:
        InvalidKeyName: If the name is empty, too long or not printable.
    """
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
    """Take a key out of the file; a running service refuses it from its next request on.

    Args:
        path: The file.
        key_id: The key's id.

    Returns:
        What the file said of it.

    Raises:
        NoSuchKey: If there is none of this id.
    """
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        for revoked in keys:
            if revoked.key_id == key_id:
                _write_keys(path, [key for key in keys if key is not revoked])
                return revoked
    raise NoSuchKey(f"{path} has no key {key_id[:40]!r}: `foley keys list` shows them")


def read_keys(path: Path) -> list[StoredKey]:
    """Read the file.

    Args:
        path: The file.

    Returns:
        Its keys, oldest first.

    Raises:
        KeysFailure: If it is missing, not ours or damaged.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] != FORMAT_VERSION:
            raise KeysFailure(f"{path} has version {document['version']}, this is {FORMAT_VERSION}")
        return [_to_key(entry) for entry in document["keys"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise KeysFailure(f"the file of API keys {path} cannot be read: {exc}") from exc


def _to_key(entry: dict[str, Any]) -> StoredKey:
    key = StoredKey(**entry)
    if key.scope not in SCOPES or len(bytes.fromhex(key.sha256)) != hashlib.sha256().digest_size:
        raise ValueError(f"key {key.key_id!r} has no known scope or no sha256")
    return replace(key, sha256=key.sha256.lower())


class KeyStore:
    """The keys of a running service. Any thread may ask it.

    Args:
        path: The file; read now, and again whenever it changes.

    Raises:
        KeysFailure: If it cannot be read or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: Sequence[StoredKey] = ()
        if not path.exists():
            raise KeysFailure(f"no API keys yet: `foley keys create NAME` makes the first, in {path}")
        if not self._current():
            raise KeysFailure(f"{path} holds no key: `foley keys create` makes one")

    def identify(self, key: str) -> StoredKey | None:
        """Find a key.

        Args:
            key: What a client sent.

        Returns:
            What the file says of it, None where it is none of ours. A file that is damaged or gone since holds none.

        Raises:
            KeysFailure: If the file cannot be read any more: then nobody is let in.
        """  # noqa: DOC502 - raised where it is read
        digest = _digest(key)
        found = None
        for stored in self._current():  # all of them, so that the time says nothing of the place
            if hmac.compare_digest(digest, stored.sha256):
                found = stored
        return found

    def _current(self) -> Sequence[StoredKey]:
        with self._lock:
            try:
                facts = self._path.stat()
            except OSError as exc:
                raise KeysFailure(f"the file of API keys {self._path} cannot be read: {exc}") from exc
            seen = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if seen != self._seen:
                self._keys = read_keys(self._path)
                self._seen = seen
            return self._keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other writers out: two that add a key at once must not lose one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path.with_name(path.name + ".lock")):
        yield


def _write_keys(path: Path, keys: Sequence[StoredKey]) -> None:
    document = {"version": FORMAT_VERSION, "keys": [asdict(key) for key in keys]}
    replace_file(path, json.dumps(document, indent=1) + "\n", mode=stat.S_IRUSR | stat.S_IWUSR)
