"""Objects of Google Cloud Storage, by gcsfs and a server of its interface: listed, copied, changed, cut, refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.library import objects
from service.library.locations import ObjectPath
from service.library.object_cache import ObjectCache
from service.library.objects import (
    ObjectChanged,
    ObjectNotFound,
    StorageUnavailable,
    check_storage,
    describe_object,
    list_objects,
    read_object,
)
from tests.support.storage import tone

BUCKET = "archive"
ROOT = ObjectPath(f"gs://{BUCKET}/rain")
Answer = Callable[[Any, Callable[[Any], None]], None]


class Storage:
    """The server; `answer` may answer whoever lists or reads, in its place."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address)
        self.answer: Answer = lambda handler, read: read(handler)

    def create(self) -> None:
        self._http.get("/wipe").raise_for_status()
        self._http.post("/storage/v1/b", json={"name": BUCKET}).raise_for_status()

    def put(self, key: str, content: bytes) -> None:
        self._http.post(
            f"/upload/storage/v1/b/{BUCKET}/o",
            params={"uploadType": "media", "name": key},
            content=content,
            headers={"content-type": "audio/wav"},
        ).raise_for_status()


@pytest.fixture(scope="module")
def served() -> Iterator[Storage]:
    pytest.importorskip("gcsfs", reason="needs gcsfs, of the extra `dev`")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    read = emulator.RequestHandler.do_GET
    with server, pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{server._api._httpd.server_port}"
        storage = Storage(address)
        patch.setattr(emulator.RequestHandler, "do_GET", lambda handler: storage.answer(handler, read))
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setattr(objects, "RETRY_SECONDS", 0.0)
        yield storage


@pytest.fixture
def storage(served: Storage) -> Iterator[Storage]:
    """An empty bucket."""
    served.create()
    yield served
    served.answer = lambda handler, read: read(handler)


def test_what_is_below_a_prefix_is_listed_and_copied(storage: Storage, tmp_path: Path) -> None:
    contents = {f"rain/{name}": tone(n) for n, name in enumerate(["a.wav", "b/ü c#1.wav", "b//d%20.wav"])}
    for key, content in contents.items():
        storage.put(key, content)
    storage.put("rain/a.xmp", b"<x/>")
    storage.put("rain/.hidden.wav", b"no")
    storage.put("rainbow/e.wav", b"no")
    found = {str(stored.path): stored for stored in list_objects(ROOT)}
    assert set(found) == {f"gs://{BUCKET}/{key}" for key in (*contents, "rain/a.xmp")}
    cache = ObjectCache(tmp_path, max_bytes=1 << 20)
    for key, content in contents.items():
        stored = found[f"gs://{BUCKET}/{key}"]
        assert cache.fetch(stored) == hashlib.sha256(content).hexdigest()
        assert stored.size_bytes == len(content)
        assert stored.etag
        assert stored.modified_ns
        assert (stored.sidecar is not None) == (key == "rain/a.wav")
        again = describe_object(stored.path)
        assert (again.etag, again.modified_ns) == (stored.etag, stored.modified_ns)


def test_what_is_not_there(storage: Storage) -> None:
    storage.put("rain/a.wav", b"content")
    check_storage(ROOT)
    for path in (f"gs://{BUCKET}/none", "gs://no-such-bucket/rain"):
        for ask in (check_storage, lambda path: list(list_objects(path)), describe_object):
            with pytest.raises(ObjectNotFound):
                ask(ObjectPath(path))
    with pytest.raises(ObjectNotFound, match="only others below it"):
        describe_object(ROOT)


def test_an_object_that_changes_while_it_is_read(storage: Storage) -> None:
    storage.put("rain/a.wav", b"content")
    stored = describe_object(ObjectPath(f"{ROOT.url}/a.wav"))
    storage.put("rain/a.wav", b"another")
    with pytest.raises(ObjectChanged):
        list(read_object(stored))


def test_an_answer_that_is_cut_is_asked_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tone(1)
    storage.put("rain/a.wav", content)
    stored = describe_object(ObjectPath(f"{ROOT.url}/a.wav"))
    cuts = iter([True, True])

    def cut(handler: Any, read: Callable[[Any], None]) -> None:
        if "alt=media" not in handler.path or not next(cuts, False):
            return read(handler)
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:1000])
        return None

    async def sleep_not(*_: object) -> None:
        return None

    storage.answer = cut
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", sleep_not)
    assert b"".join(read_object(stored)) == content
    assert next(cuts, None) is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_storage_that_refuses_says_nothing_of_its_own(
    storage: Storage, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    storage.put("rain/a.wav", b"content")

    def refuse(handler: Any, _: object) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.wfile.write(b'{"error": {"code": %d, "message": "secret-of-the-bucket"}}' % status)

    storage.answer = refuse
    for ask in (check_storage, lambda path: list(list_objects(path)), describe_object):
        with pytest.raises(StorageUnavailable, match="refuses access") as caught:
            ask(ROOT)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert "secret-of-the-bucket" not in caplog.text
