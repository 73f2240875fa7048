"""API keys: made, found, revoked, and nothing in the file that would let anybody in."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.operations.keys import (
    InvalidKeyName,
    KeysFailure,
    KeyStore,
    NoSuchKey,
    Scope,
    create_key,
    read_keys,
    revoke_key,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "keys.json"


def test_a_key_is_found_and_says_what_it_may(path: Path) -> None:
    made: dict[Scope, str] = {}
    for scope in ("read", "write", "admin"):
        made[scope] = create_key(path, name=f"for {scope}", scope=scope).key
    store = KeyStore(path)
    allowed = {"read": "r", "write": "rw", "admin": "rwa"}
    for scope, key in made.items():
        stored = store.identify(key)
        assert stored is not None
        assert (stored.name, stored.scope) == (f"for {scope}", scope)
        assert "".join(s[0] for s in ("read", "write", "admin") if stored.allows(s)) == allowed[scope]


def test_other_keys_are_not_found(path: Path) -> None:
    key = create_key(path, name="x", scope="admin").key
    store = KeyStore(path)
    digest = read_keys(path)[0].sha256
    for wrong in ("", key[:-1], key + "x", key.upper(), key[:15], digest, "\udcff", "é" * 50):
        assert store.identify(wrong) is None


def test_keys_are_long_random_and_not_in_the_file(path: Path) -> None:
    keys = [create_key(path, name="x", scope="read").key for _ in range(5)]
    assert len(set(keys)) == 5
    for key in keys:
        prefix, key_id, secret = key.split("_", 2)
        assert prefix == "foley"
        assert len(secret) >= 43  # 32 bytes as base64
        assert secret not in path.read_text()
        assert key_id in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_running_store_sees_changes(path: Path) -> None:
    first = create_key(path, name="first", scope="read")
    store = KeyStore(path)
    second = create_key(path, name="second", scope="read")
    assert store.identify(second.key) is not None
    assert revoke_key(path, first.stored.key_id) == first.stored
    assert store.identify(first.key) is None
    assert store.identify(second.key) is not None


def test_a_damaged_file_lets_nobody_in(path: Path) -> None:
    key = create_key(path, name="x", scope="read").key
    store = KeyStore(path)
    path.write_text("{")
    with pytest.raises(KeysFailure, match="cannot be read"):
        store.identify(key)
    path.unlink()
    with pytest.raises(KeysFailure, match="cannot be read"):
        store.identify(key)
    assert create_key(path, name="x", scope="read")
    assert store.identify(key) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "version 9"),
        ({"keys": [{"key_id": "x"}]}, "cannot be read"),
        ({"scope": "root"}, "unknown scope"),
        ({"sha256": "ab"}, "unknown scope or no sha256"),
    ],
)
def test_what_is_no_file_of_keys(path: Path, change: dict[str, object], message: str) -> None:
    create_key(path, name="x", scope="read")
    document = json.loads(path.read_text())
    for name, value in change.items():
        (document if name in document else document["keys"][0])[name] = value
    path.write_text(json.dumps(document))
    with pytest.raises(KeysFailure, match=message):
        read_keys(path)


def test_no_file_and_no_keys(path: Path) -> None:
    with pytest.raises(KeysFailure, match="foley keys create"):
        KeyStore(path)
    created = create_key(path, name="x", scope="read")
    revoke_key(path, created.stored.key_id)
    with pytest.raises(KeysFailure, match="holds no key"):
        KeyStore(path)
    with pytest.raises(NoSuchKey, match="has no key 'nope'"):
        revoke_key(path, "nope")


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb"])
def test_names(path: Path, name: str) -> None:
    with pytest.raises(InvalidKeyName, match="printable"):
        create_key(path, name=name, scope="read")


def test_writers_at_the_same_time_lose_no_key(path: Path) -> None:
    def create(number: int) -> None:
        create_key(path, name=f"{number}", scope="read")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(key.name) for key in read_keys(path)) == list(range(12))


def test_the_commands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLEY_API_KEYS_FILE", str(path))
    run = CliRunner().invoke
    assert "no API keys" in run(app, ["keys", "list"]).stderr
    created = run(app, ["keys", "create", "shop", "--scope", "write"])
    assert created.exit_code == 0
    stored = KeyStore(path).identify(created.stdout.strip())
    assert stored is not None
    assert (stored.name, stored.scope) == ("shop", "write")
    listed = run(app, ["keys", "list", "--json"])
    assert json.loads(listed.stdout) == {"keys": [stored.describe()]}
    assert stored.sha256 not in listed.stdout + run(app, ["keys", "list"]).stdout
    assert "shop" in run(app, ["keys", "list"]).stdout
    assert run(app, ["keys", "revoke", stored.key_id]).exit_code == 0
    again = run(app, ["keys", "revoke", stored.key_id])
    assert again.exit_code == 1
    assert again.stderr.startswith("foley: ")
    assert run(app, ["keys", "create", "x", "--scope", "root"]).exit_code == 2


@pytest.mark.parametrize(
    ("mode", "is_refused"), [(0o644, True), (0o660, True), (0o640, False), (0o400, False)]
)
def test_a_file_that_others_may_read_or_change_lets_nobody_in(
    path: Path, mode: int, is_refused: bool
) -> None:
    key = create_key(path, name="x", scope="read").key
    store = KeyStore(path)
    path.chmod(mode)
    if is_refused:
        with pytest.raises(KeysFailure, match=f"others may read or change .*: chmod 600 {path}$"):
            store.identify(key)
        path.chmod(0o600)
    assert store.identify(key) is not None


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(path: Path, kind: str) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600) if kind == "pipe" else path.mkdir(0o700)
    with pytest.raises(KeysFailure, match=r"is not a regular file|Is a directory"):
        KeyStore(path)
