"""A library in object storage, on a real server of S3: indexed, synchronised, played; cut, changed, away, too large."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.commands import cut as cutting
from service.exports.event import relink
from service.jobs.documents import LEDGER_NAME
from service.library import objects
from service.library.cluster import index_on_cluster
from service.library.fetching import Fetching
from service.library.locations import InvalidLocation, ObjectPath, locate
from service.library.object_cache import CopiesInUse, ObjectCache, ObjectTooLarge
from service.library.objects import (
    ObjectChanged,
    ObjectNotFound,
    StorageUnavailable,
    StoredObject,
    describe_object,
    list_objects,
    read_object,
)
from service.library.scanning import FoundFile
from service.system.caller import Caller, CallerGone
from service.system.settings import Settings
from tests.support.local_pool import LocalPool
from tests.support.memory_index import MemoryIndex, memory_indexes
from tests.support.serving import serve_in_thread
from tests.support.storage import BUCKET, KEY, SECRET, Storage, serve_storage, tone
from tests.support.waiting import wait_until

CACHE_BYTES = 100_000  # three of the sounds
ROOT = f"s3://{BUCKET}/rain"
Job = dict[str, Any]
Run = Callable[..., Job]


@pytest.fixture(scope="module")
def served_storage() -> Iterator[Storage]:
    yield from serve_storage()


@pytest.fixture
def storage(served_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """An empty bucket."""
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.0)
    served_storage.create()
    served_storage.read.clear()
    yield served_storage
    served_storage.cuts, served_storage.is_away = 0, False
    served_storage.before_read = lambda _: None


@pytest.fixture(scope="module")
def running(
    served_storage: Storage, tmp_path_factory: pytest.TempPathFactory, bundle_path: Path
) -> Iterator[serve_in_thread]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"),
        bundle=bundle_path,
        device="cpu",
        min_free_bytes=0,
        storage_roots=(ROOT,),
        object_cache_bytes=CACHE_BYTES,
    )
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


@pytest.fixture
def run(running: serve_in_thread, storage: Storage) -> Run:
    """Runs a job over the bucket, in a library that knows nothing of earlier tests."""
    foley = running.app.state.shared.foley
    for asset in foley.index.list_assets(limit=1000).assets:
        foley.index.delete_asset(asset.asset_id)
    for copy in (foley.settings.data / "objects").glob("*"):
        copy.unlink()

    def run(kind: str = "index", **options: Any) -> Job:
        body = {"kind": kind, "paths": [ROOT], **options}
        answer = running.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return wait_until(lambda: _ended(running.client, answer.headers["location"]))

    return run


def _ended(http: httpx.Client, location: str) -> Job | None:
    job: Job = http.get(location).json()
    return job if job["state"] in ("done", "failed", "cancelled") else None


def _assets(running: serve_in_thread) -> dict[str, str]:
    """Path → id."""
    assets = running.client.get("/v1/assets", params={"folder": ROOT, "limit": 100}).json()["assets"]
    return {path: asset["asset_id"] for asset in assets for path in asset["paths"]}


def _codes(job: Job) -> dict[str, str]:
    return {Path(failed["path"]).name: failed["code"] for failed in job["report"]["failed"]}


def test_a_bucket_is_indexed_once(run: Run, running: serve_in_thread, storage: Storage) -> None:
    """The copies have room for three: five are read, hashed and decoded all the same, and one is too large."""
    contents = {f"rain/{n}/{n} é.wav": tone(n) for n in range(5)}
    contents["rain/copy//of 0.wav"] = contents["rain/0/0 é.wav"]
    for key, content in contents.items():
        storage.put(key, content)
    storage.put("rain/large.wav", tone(9, seconds=4.0))
    storage.put("rain/text.mp4", b"no media at all " * 100)
    storage.put("rain/notes.txt", b"no media")
    storage.put("rain/.hidden/0.wav", tone(8))
    storage.put("rainbow/0.wav", tone(7))
    job = run()
    assert (job["state"], job["report"]["files"]) == ("done", {"indexed": 5, "unchanged": 1, "failed": 2}), (
        _codes(job)
    )
    assert _codes(job) == {"large.wav": "object_too_large", "text.mp4": "not_media"}
    assert job["report"]["ignored"] == 1
    hashes = {
        f"s3://{BUCKET}/{key}": hashlib.sha256(content).hexdigest() for key, content in contents.items()
    }
    assert _assets(running) == hashes
    copies = list((running.app.state.shared.foley.settings.data / "objects").iterdir())
    assert sum(copy.stat().st_size for copy in copies) <= CACHE_BYTES
    assert all(hashlib.sha256(copy.read_bytes()).hexdigest() == copy.name for copy in copies)

    storage.read.clear()
    for key in contents:
        storage.touch(key)  # another time, and the same ETag and size
    job = run()
    assert job["report"]["files"] == {"indexed": 0, "unchanged": 6, "failed": 2}
    assert storage.read == []


def test_what_changes_and_goes_is_followed(run: Run, running: serve_in_thread, storage: Storage) -> None:
    for number in range(3):
        storage.put(f"rain/{number}.wav", tone(number))
    run("sync")
    storage.put("rain/0.wav", tone(10))
    storage.delete("rain/1.wav")
    storage.delete("rain/2.wav")
    storage.put("rain/moved.wav", tone(2))
    plan = run("sync", dry_run=True)["report"]
    assert {entry["does"] for entry in plan["plan"]} == {"changed", "deleted", "moved"}
    job = run("sync")
    report = job["report"]
    assert (report["deleted"], report["moved"], report["removed_assets"]) == (1, 1, 2), report
    assert _assets(running) == {
        f"{ROOT}/0.wav": hashlib.sha256(tone(10)).hexdigest(),
        f"{ROOT}/moved.wav": hashlib.sha256(tone(2)).hexdigest(),
    }


def test_the_xmp_file_beside_an_object_is_read(run: Run, running: serve_in_thread, storage: Storage) -> None:
    """A change of it alone is noticed by the next run, for an object that is named too; nothing is embedded again."""
    xmp = '<a xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>%s</dc:title></a>'

    def titles() -> dict[str, object]:
        assets = running.client.get("/v1/assets", params={"folder": ROOT}).json()["assets"]
        return {Path(a["paths"][0]).name: a["media"].get("said", {}).get("title") for a in assets}

    for name in ("gate", "bell"):
        storage.put(f"rain/{name}.wav", tone(1 if name == "gate" else 2))
    storage.put("rain/gate.xmp", (xmp % "Old gate").encode())
    storage.put("rain/bell.wav.xmp", b"x" * (2 << 20))
    assert run()["report"]["files"]["indexed"] == 2
    assert titles() == {"gate.wav": "Old gate", "bell.wav": None}

    storage.put("rain/gate.xmp", (xmp % "New gate").encode())
    storage.put("rain/bell.wav.xmp", (xmp % "Bell").encode())
    rehearsal = run("sync", dry_run=True)
    assert titles() == {"gate.wav": "Old gate", "bell.wav": None}, rehearsal
    report = run("sync", paths=[ROOT])["report"]
    assert (report["files"]["unchanged"], report["segments"]["indexed"]) == (2, 0)
    assert titles() == {"gate.wav": "New gate", "bell.wav": "Bell"}

    storage.delete("rain/gate.xmp")
    storage.read.clear()
    run("index", paths=[f"{ROOT}/gate.wav", f"{ROOT}/bell.wav"])
    assert titles() == {"gate.wav": None, "bell.wav": "Bell"}
    assert not any(key.startswith("rain/bell") for key in storage.read)


def test_a_storage_that_is_away_or_empty_deletes_nothing(
    run: Run, running: serve_in_thread, storage: Storage
) -> None:
    storage.put("rain/0.wav", tone(0))
    run("sync")
    storage.is_away = True
    job = run("sync")
    storage.is_away = False
    assert (job["state"], job["error"]["code"]) == ("failed", "sync_refused")
    assert "does not answer" in job["error"]["detail"]
    storage.delete("rain/0.wav")
    assert run("sync")["error"]["code"] == "sync_refused"
    assert len(_assets(running)) == 1
    assert run("sync", allow_empty=True)["report"]["removed_assets"] == 1


def test_workers_of_a_cluster_read_objects(
    run: Run, running: serve_in_thread, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each into copies of its own; the driver reads none."""
    monkeypatch.setattr(MemoryIndex, "is_shared", True)
    foley = running.app.state.shared.foley
    for number in range(5):
        storage.put(f"rain/{number}.wav", tone(number))
    storage.put("rain/copy.wav", tone(0))
    copies = ObjectCache(tmp_path / "copies", max_bytes=CACHE_BYTES)
    pool = LocalPool(foley.snapshot, foley.decoder, objects=copies)
    report = index_on_cluster([locate(ROOT)], snapshot=foley.snapshot(), pool=pool, decoder=foley.decoder)
    assert (report.files.indexed, report.files.unchanged, report.files.failed) == (5, 1, 0)
    assert set(_assets(running)) == {f"{ROOT}/{name}.wav" for name in (*range(5), "copy")}
    assert list((tmp_path / "copies").iterdir())
    storage.read.clear()
    report = index_on_cluster([locate(ROOT)], snapshot=foley.snapshot(), pool=pool, decoder=foley.decoder)
    assert report.files.unchanged == 6
    # that an asset has a second path is known without reading it only by the ledger, which is not here
    assert len(set(storage.read)) <= 1


def test_a_connection_that_is_cut(run: Run, running: serve_in_thread, storage: Storage) -> None:
    storage.put("rain/0.wav", tone(0))
    storage.cuts = 3
    assert run()["report"]["files"] == {"indexed": 1, "unchanged": 0, "failed": 0}
    assert storage.cuts == 0
    assert _assets(running) == {f"{ROOT}/0.wav": hashlib.sha256(tone(0)).hexdigest()}


@pytest.mark.parametrize("seconds", [1.0, 0.5], ids=["same size", "smaller"])
def test_an_object_that_changes_after_it_was_listed(
    run: Run, running: serve_in_thread, storage: Storage, seconds: float
) -> None:
    storage.put("rain/0.wav", tone(0))
    storage.before_read = lambda key: storage.put(key, tone(1, seconds=seconds))
    assert _codes(run()) == {"0.wav": "changed"}
    assert _assets(running) == {}
    storage.before_read = lambda _: None
    assert run()["report"]["files"]["indexed"] == 1
    assert _assets(running) == {f"{ROOT}/0.wav": hashlib.sha256(tone(1, seconds=seconds)).hexdigest()}


def test_an_object_is_played_drawn_and_cut(
    run: Run, running: serve_in_thread, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        storage.put(f"rain/{number}.wav", tone(number))
    run()
    http, settings = running.client, running.app.state.shared.foley.settings
    for path, asset_id in _assets(running).items():
        number = int(Path(path).stem)
        media = http.get(f"/v1/assets/{asset_id}/media", headers={"Range": "bytes=44-99"})
        assert (media.status_code, media.content) == (206, tone(number)[44:100])
        assert http.get(f"/v1/assets/{asset_id}/media").content == tone(number)
        segment = http.get(f"/v1/assets/{asset_id}/segment", params={"start": 0, "end": 0.5})
        assert (segment.status_code, len(segment.content) > 16_000) == (200, True)
        assert http.get(f"/v1/assets/{asset_id}/waveform").status_code == 200
    export = http.post("/v1/exports", json={"format": "otio", "items": [{"asset_id": asset_id}]})
    assert f"s3://{BUCKET}/rain/{number}.wav" in export.text, export.text

    monkeypatch.setattr(cutting, "read_settings", lambda: settings)
    monkeypatch.setattr(
        "service.commands.inventory.find_asset", lambda *_: {"asset_id": asset_id, "paths": [path]}
    )
    monkeypatch.setattr("service.commands.inventory.open_inventory", lambda _: memory_indexes())
    cutting.cut(path, start=0.0, end=0.5, output=tmp_path / "part.wav")
    assert (tmp_path / "part.wav").stat().st_size > 16_000


def test_a_copy_that_goes_while_it_is_played(run: Run, running: serve_in_thread, storage: Storage) -> None:
    content = tone(0, seconds=3.0)
    storage.put("rain/0.wav", content)
    run()
    (asset_id,) = _assets(running).values()
    with running.client.stream("GET", f"/v1/assets/{asset_id}/media") as answer:
        (running.app.state.shared.foley.settings.data / "objects" / asset_id).unlink()
        assert answer.read() == content


def test_what_became_of_an_object_is_told(run: Run, running: serve_in_thread, storage: Storage) -> None:
    storage.put("rain/0.wav", tone(0))
    run()
    (asset_id,) = _assets(running).values()
    copy = running.app.state.shared.foley.settings.data / "objects" / asset_id
    http, place = running.client, f"/v1/assets/{asset_id}/media"

    def fetched() -> tuple[int, str]:
        copy.unlink(missing_ok=True)
        answer = http.get(place)
        assert SECRET not in answer.text
        return answer.status_code, answer.json()["code"]

    storage.put("rain/0.wav", tone(1))
    assert fetched() == (410, "media_changed")
    storage.delete("rain/0.wav")
    assert fetched() == (404, "media_missing")
    storage.is_away = True
    assert fetched() == (503, "storage_unavailable")
    storage.is_away = False
    storage.put("rain/0.wav", tone(0))
    assert http.get(place).status_code == 200


def test_no_secret_is_written_anywhere(
    run: Run, running: serve_in_thread, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    storage.put("rain/0.wav", tone(0))
    job = run()
    storage.is_away = True
    failed = run("sync")
    ledger = (running.app.state.shared.foley.settings.data / LEDGER_NAME).read_bytes()
    told = [json.dumps([job, failed]), caplog.text, ledger.decode("latin-1")]
    for secret in (SECRET, KEY, "Signature", "AWS4"):
        assert not any(secret in text for text in told)


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY}:{SECRET}@{BUCKET}/rain",
        f"https://user:{SECRET}@127.0.0.1/rain.wav",
        f"https://127.0.0.1/rain.wav?X-Amz-Signature={SECRET}",
        f"https://127.0.0.1/rain.wav#{SECRET}",
        f"ftp://127.0.0.1/{SECRET}",
        f"file:///{SECRET}",
        f"s3:///{SECRET}",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidLocation) as refused:
        locate(url)
    assert SECRET not in str(refused.value)


def test_jobs_over_http_name_only_what_the_operator_allows(running: serve_in_thread) -> None:
    for url in ("s3://other/rain", f"s3://{BUCKET}", f"s3://{BUCKET}/rainbow", "http://127.0.0.1:1/"):
        answer = running.client.post("/v1/jobs", json={"kind": "index", "paths": [url]})
        assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed")
    answer = running.client.post("/v1/jobs", json={"kind": "index", "paths": [f"s3://a:{SECRET}@b/c"]})
    assert answer.status_code == 422
    assert SECRET not in answer.text


def test_names_are_kept_as_they_are(storage: Storage) -> None:
    keys = ["a//b.wav", "a/../b.wav", "ü#?&+ %20.wav", "a/é.WAV"]
    for key in keys:
        storage.put(f"rain/{key}", key.encode())
    found = {stored.path.url: b"".join(read_object(stored)) for stored in list_objects(ObjectPath(ROOT))}
    assert found == {f"{ROOT}/{key}": key.encode() for key in keys}
    (named,) = list_objects(ObjectPath(f"{ROOT}/a//b.wav"))
    assert named.size_bytes == 8
    assert relink(f"{ROOT}/a/b.wav", [(ROOT, "/Volumes/rain")]) == "/Volumes/rain/a/b.wav"
    with pytest.raises(ObjectNotFound):
        describe_object(ObjectPath(f"{ROOT}/a"))


class _NotFound(Exception):
    status = 404


class _Broken(Exception):
    status = 500


@pytest.mark.parametrize(
    ("cause", "kind"),
    [(None, ObjectNotFound), (_NotFound(), ObjectNotFound), (_Broken(), StorageUnavailable)],
)
def test_a_web_server_that_fails_has_not_lost_its_files(cause: Exception | None, kind: type) -> None:
    """fsspec's web client calls every failure FileNotFoundError; a sync would delete what is only unreachable."""
    error = FileNotFoundError("https://example.invalid/a.wav?signature=x")
    error.__cause__ = cause
    failure = objects._translate(error)
    assert type(failure) is kind
    assert "signature" not in str(failure)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A plain web server: with an index page, times and no ranges."""
    (tmp_path / "web" / "rain").mkdir(parents=True)
    (tmp_path / "web" / "rain" / "0.wav").write_bytes(tone(0))
    (tmp_path / "web" / "1.wav").write_bytes(tone(1))
    handler = functools.partial(_Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_files_of_a_web_server(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra `storage`")
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.0)
    found = {stored.path.url: b"".join(read_object(stored)) for stored in list_objects(ObjectPath(web))}
    assert found == {f"{web}/1.wav": tone(1), f"{web}/rain/0.wav": tone(0)}
    stored = describe_object(ObjectPath(f"{web}/1.wav"))
    assert abs(stored.modified_ns / 1e9 - time.time()) < 1000
    with pytest.raises(ObjectNotFound):
        describe_object(ObjectPath(f"{web}/2.wav"))
    with pytest.raises(ObjectChanged):
        list(
            read_object(
                StoredObject(path=stored.path, size_bytes=1, modified_ns=0, etag="", takes_ranges=False)
            )
        )


def test_a_storage_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    monkeypatch.setattr("fsspec.filesystem", lambda *_, **__: __import__("gcsfs"))
    with pytest.raises(StorageUnavailable, match="pip install 'gcsfs'"):
        list(list_objects(ObjectPath("gs://bucket")))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """Room for 30 bytes; every object has ten, the first of which are its name."""
    monkeypatch.setattr(
        "service.library.object_cache.read_object", lambda stored: iter([stored.path.name.encode().ljust(10)])
    )
    return ObjectCache(tmp_path / "cache", max_bytes=30)


def _object(name: str, size_bytes: int = 10) -> StoredObject:
    return StoredObject(path=ObjectPath(f"s3://b/{name}"), size_bytes=size_bytes, modified_ns=0, etag="e")


def test_copies_make_room_for_each_other(cache: ObjectCache) -> None:
    first, second, third = (cache.fetch(_object(name)) for name in "abc")
    assert first == hashlib.sha256(b"a         ").hexdigest()
    with cache.holding(first):
        fourth = cache.fetch(_object("d"))
        assert [cache.has(one) for one in (first, second, third, fourth)] == [True, False, True, True]
        with cache.holding(third), cache.holding(fourth):
            with pytest.raises(CopiesInUse):
                cache.fetch(_object("e"))
            assert len(cache.fetch(_object("e"), is_urgent=False)) == 64
    with pytest.raises(ObjectTooLarge, match="FOLEY_OBJECT_CACHE_BYTES"):
        cache.fetch(_object("f", 31))


def test_the_copy_of_a_deleted_asset_goes_unless_it_is_in_use(cache: ObjectCache) -> None:
    copy = cache.fetch(_object("a"))
    with cache.holding(copy):
        cache.remove(copy)
        assert cache.has(copy)
    cache.remove(copy)
    cache.remove(copy)
    assert not cache.has(copy)


def test_what_is_fetched_ahead_waits_for_its_turn(cache: ObjectCache) -> None:
    ahead = [cache.fetch(_object(name), is_urgent=False) for name in "abcd"]
    assert [cache.has(one) for one in ahead] == [True, True, True, False]
    urgent = cache.fetch(_object("e"))
    assert [cache.has(one) for one in (*ahead, urgent)] == [False, True, True, False, True]
    cache.forget(ahead[1])
    assert cache.has(cache.fetch(_object("d"), is_urgent=False))


def test_what_is_read_ahead_ends_with_the_run(cache: ObjectCache) -> None:
    """A large object may take minutes: who stops must not wait for it. What is urgent goes on."""
    stop = Caller()
    fetching = Fetching(cache, stop)
    fetching.stop_ahead()
    found = FoundFile.of(_object("a"))
    with pytest.raises(CallerGone):
        fetching.identify(found)
    fetching.bring(found, hashlib.sha256(b"a         ").hexdigest())
    stop.leave()
    with pytest.raises(CallerGone):
        fetching.bring(FoundFile.of(_object("b")), "0" * 64)
    assert len(list((cache.path("x").parent).iterdir())) == 1
