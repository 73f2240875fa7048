"""Serving an asset's file: ranges, validators, names and types that the file's own name has no say in."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.types import Message, Scope

from service.http.routes.media import (
    MediaChanged,
    MediaMissing,
    RangeNotSatisfiable,
    _ContentUnknown,
    _OpenFileResponse,
    content_disposition,
    media_type,
    open_media,
    parse_range,
)
from service.index.contract import Asset
from service.jobs.ledger import Ledger
from service.library.indexing import index_paths
from service.library.scanning import (
    LinkRules,
)
from service.library.stamps import stamp_of
from service.system.settings import Settings
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, SIZE)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=999-", (999, SIZE)),
        ("bytes=990-2000", (990, SIZE)),
        ("bytes=-1", (999, SIZE)),
        ("bytes=-5000", (0, SIZE)),
        ("BYTES = 1-2", (1, 3)),
        # What a server may ignore, it ignores: the whole file is a right answer to each of these.
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=a-b", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=٣-٤", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, SIZE) == expected


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-2000", "bytes=-0"])
def test_ranges_outside_the_file(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable, match="1000 bytes") as caught:
        parse_range(header, SIZE)
    assert caught.value.headers == {"Content-Range": "bytes */1000"}


@pytest.mark.parametrize(
    ("media", "head", "expected"),
    [
        ({"container": "mov,mp4,m4a,3gp,3g2,mj2", "has_video": True}, b"", "video/mp4"),
        ({"container": "mov,mp4,m4a,3gp,3g2,mj2", "has_video": False}, b"", "audio/mp4"),
        ({"container": "matroska,webm", "has_video": True}, b"\x1aE\xdf\xa3\x42\x82\x84webm", "video/webm"),
        ({"container": "matroska,webm", "has_video": False}, b"\x1aE\xdf\xa3\x42\x82\x84webm", "audio/webm"),
        ({"container": "matroska,webm", "has_video": True}, b"\x42\x82\x88matroska", "video/x-matroska"),
        ({"container": "wav", "has_video": False}, b"", "audio/wav"),
        ({"container": "mpegts", "has_video": True}, b"", "video/mp2t"),
        ({"container": "html"}, b"<html>", "application/octet-stream"),
        ({}, b"", "application/octet-stream"),
    ],
)
def test_media_types(media: dict[str, object], head: bytes, expected: str) -> None:
    assert media_type(media, head) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b/rain.wav", "inline; filename=\"rain.wav\"; filename*=UTF-8''rain.wav"),
        (
            '/a/x"; evil=1\r\nX: y.mp4',
            "inline; filename=\"x__ evil_1__X_ y.mp4\"; filename*=UTF-8''x%22%3B%20evil",
        ),
        ("/a/Żółw.mp4", "inline; filename=\"____w.mp4\"; filename*=UTF-8''%C5%BB%C3%B3%C5%82w.mp4"),
        ("/a/\udcff.mp4", "inline; filename=\"_.mp4\"; filename*=UTF-8''%EF%BF%BD.mp4"),
    ],
)
def test_names(path: str, expected: str) -> None:
    found = content_disposition(path)
    if "Żółw" in path:
        expected = expected.replace("____w", "___w")
    assert found.startswith(expected)
    assert found.isascii()
    assert found.isprintable()


def asset_at(path: Path, **media: object) -> Asset:
    paths = (str(path),)
    content = path.read_bytes() if "\0" not in str(path) and path.is_file() else b""
    asset_id = hashlib.sha256(content).hexdigest()
    return Asset(
        asset_id=asset_id, path=paths[0], paths=paths, num_segments=1, modalities=("audio",), media=media
    )


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaMissing, match="moved, deleted"):
        open_media(asset_at(tmp_path / "gone"))
    with pytest.raises(MediaMissing, match="not a regular file"):
        open_media(asset_at(tmp_path))
    with pytest.raises(MediaMissing, match="moved, deleted"):
        open_media(asset_at(Path("/nul\0byte")))


def test_files_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"12345")
    file, facts = open_media(asset_at(path, size_bytes=5, modified_ns=path.stat().st_mtime_ns))
    file.close()
    assert facts.st_size == 5
    with pytest.raises(MediaChanged, match="index it again"):
        open_media(asset_at(path, size_bytes=6))
    asset = asset_at(path, size_bytes=5)
    path.write_bytes(b"54321")
    with pytest.raises(MediaChanged, match="index it again"):
        open_media(asset)


def test_only_the_indexed_content_is_opened_and_only_in_the_library(tmp_path: Path) -> None:
    library, outside = tmp_path / "library", tmp_path / "outside"
    for folder in (library / "sub", outside):
        folder.mkdir(parents=True)
    path, secret = library / "sub" / "a.wav", outside / "a.wav"
    path.write_bytes(b"sound")
    secret.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    os.utime(secret, ns=(1, 1))
    asset = asset_at(path, size_bytes=5, modified_ns=1)

    def read(*roots: Path) -> bytes:
        with Ledger.open(tmp_path / "ledger.sqlite", is_worker=False) as ledger:
            file, _ = open_media(asset, ledger=ledger, links=LinkRules(within=roots))
        with file:
            return file.read()

    assert read() == read(library) == read(outside, library) == b"sound"
    with pytest.raises(MediaMissing, match="does not lie in the folders"):
        read(outside)
    path.write_bytes(b"SOUND")  # in place, and the time set back
    os.utime(path, ns=(1, 1))
    with pytest.raises(MediaChanged):
        read()
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(MediaChanged):
        read()
    with pytest.raises(MediaMissing):
        read(library)
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside)
    with pytest.raises(MediaChanged):
        read()
    with pytest.raises(MediaMissing):
        read(library)
    secret.write_bytes(b"sound")  # a link may lead to the content, inside the folders
    assert read(tmp_path) == b"sound"


def test_a_content_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    asset = asset_at(path, size_bytes=5)
    with Ledger.open(tmp_path / "ledger.sqlite", is_worker=False) as ledger:
        with pytest.raises(_ContentUnknown):  # the thread of a request reads no file of any size
            open_media(asset, ledger=ledger, reads=False)
        open_media(asset, ledger=ledger)[0].close()
        monkeypatch.setattr("service.http.routes.media.hash_media", None)
        for _ in range(3):
            open_media(asset, ledger=ledger, reads=False)[0].close()


def _write_again(path: Path, _: Path) -> None:
    path.write_bytes(b"SOUND")


def _link_hard(path: Path, secret: Path) -> None:
    path.unlink()
    path.hardlink_to(secret)


def _link(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


def _rename(path: Path, secret: Path) -> None:
    secret.rename(path)


def _swap_folder(path: Path, secret: Path) -> None:
    path.parent.rename(path.parent.with_name("aside"))
    secret.parent.rename(path.parent)


def _make_pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_process(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(f"/proc/self/root{secret}")


@pytest.mark.parametrize(
    "spoil", [_write_again, _link_hard, _link, _rename, _swap_folder, _make_pipe, _link_process]
)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_known", [True, False])
def test_another_content_of_the_same_size_and_time_is_never_opened(
    tmp_path: Path, spoil: Callable[[Path, Path], None], number: int, is_known: bool
) -> None:
    """By any path of the asset, whether the ledger knew the file or not."""
    paths = [tmp_path / "library" / str(place) / "a.wav" for place in range(2)]
    secret = tmp_path / "secret" / "a.wav"
    for path, content in ((paths[0], b"sound"), (paths[1], b"sound"), (secret, b"other")):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    both = tuple(map(str, paths))
    asset = replace(asset_at(paths[0], size_bytes=5, modified_ns=1), paths=both)
    with Ledger.open(tmp_path / "ledger.sqlite", is_worker=False) as ledger:
        if is_known:
            open_media(replace(asset, paths=both[number:]), ledger=ledger)[0].close()
        paths[1 - number].unlink()
        spoil(paths[number], secret)
        if spoil is not _make_pipe:
            os.utime(paths[number], ns=(1, 1))
        for _ in range(2):  # also once it is known what is there
            with pytest.raises((MediaChanged, MediaMissing)):
                open_media(asset, ledger=ledger)


def test_a_folder_that_becomes_a_link_while_it_is_opened_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "a.wav"
    path.parent.mkdir()
    path.write_bytes(b"sound")
    asset = asset_at(path)
    path.parent.rename(tmp_path / "aside")
    path.parent.symlink_to(tmp_path / "aside")
    monkeypatch.setattr(LinkRules, "check", lambda _, given: given)
    with pytest.raises(MediaMissing):
        open_media(asset)


@pytest.fixture(scope="module")
def own_library(
    library_files: Path, indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[serve_in_thread, dict[str, Path]]]:
    """A service with a library that tests may spoil, and its files by asset id."""
    folder = tmp_path_factory.mktemp("own")
    sources = sorted(library_files.glob("*.mp4"))[:4]
    paths = [folder / name for name in ("a.html", 'b"\r\n; x=ł.mp4', "c.mp4", "d.mp4")]
    for source, path in zip(sources, paths, strict=True):
        shutil.copy(source, path)
    with (
        memory_indexes(),
        serve_in_thread(indexed_settings.replace(data=tmp_path_factory.mktemp("own-data"))) as running,
    ):
        foley = running.app.state.shared.foley
        index_paths(paths, snapshot=foley.snapshot(), decoder=foley.decoder)
        yield running, {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}


def test_file_over_http(own_library: tuple[serve_in_thread, dict[str, Path]]) -> None:
    running, files = own_library
    for asset_id, path in list(files.items())[:2]:
        content = path.read_bytes()
        url = f"/v1/assets/{asset_id}/media"
        whole = running.client.get(url)
        assert whole.status_code == 200
        assert whole.content == content
        assert whole.headers["content-type"] in ("video/mp4", "audio/mp4")
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["content-disposition"].startswith("inline; filename=")
        etag = whole.headers["etag"]
        assert etag == f'"{asset_id}"'

        head = running.client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(content))

        part = running.client.get(url, headers={"Range": "bytes=100-199"})
        assert part.status_code == 206
        assert part.content == content[100:200]
        assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
        head_of_part = running.client.head(url, headers={"Range": "bytes=100-199"})
        assert (head_of_part.status_code, head_of_part.headers["content-length"]) == (206, "100")

        outside = running.client.get(url, headers={"Range": f"bytes={len(content)}-"})
        assert outside.status_code == 416
        assert outside.headers["content-range"] == f"bytes */{len(content)}"
        assert outside.json()["code"] == "range_not_satisfiable"

        same = {"Range": "bytes=0-9", "If-Range": etag}
        assert running.client.get(url, headers=same).status_code == 206
        same = {"Range": "bytes=0-9", "If-Range": whole.headers["last-modified"]}
        assert running.client.get(url, headers=same).status_code == 206
        other = {"Range": "bytes=0-9", "If-Range": '"another"'}
        assert running.client.get(url, headers=other).content == content
        assert running.client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_file_that_vanished_or_changed(own_library: tuple[serve_in_thread, dict[str, Path]]) -> None:
    running, files = own_library
    gone, changed = list(files.items())[2:]
    gone[1].unlink()
    answer = running.client.get(f"/v1/assets/{gone[0]}/media")
    assert (answer.status_code, answer.json()["code"]) == (404, "media_missing")
    changed[1].write_bytes(b"<script>")
    answer = running.client.get(f"/v1/assets/{changed[0]}/media")
    assert (answer.status_code, answer.json()["code"]) == (410, "media_changed")
    # The index still knows both.
    assert running.client.get(f"/v1/assets/{gone[0]}").status_code == 200


def test_asset_is_deleted(own_library: tuple[serve_in_thread, dict[str, Path]]) -> None:
    running, files = own_library
    asset_id = next(iter(files))
    url = f"/v1/assets/{asset_id}"
    assert running.client.delete(url).status_code == 204
    assert running.client.get(url).status_code == 404
    answer = running.client.delete(url)
    assert (answer.status_code, answer.json()["code"]) == (404, "asset_not_found")
    assert files[asset_id].exists()
    listed = running.client.get("/v1/assets").json()["assets"]
    assert asset_id not in {asset["asset_id"] for asset in listed}
    assert isinstance(running.client, httpx.Client)


def test_a_copy_is_served_where_the_first_file_is_gone(tmp_path: Path) -> None:
    first, copy = tmp_path / "first.wav", tmp_path / "copy.wav"
    copy.write_bytes(b"hello")
    paths = (str(first), str(copy))
    asset = replace(asset_at(copy, size_bytes=5, modified_ns=1), path=paths[0], paths=paths)
    file, facts = open_media(asset)  # a copy has a time of its own
    assert (file.read(), facts.st_size) == (b"hello", 5)
    file.close()
    copy.write_bytes(b"other length")
    with pytest.raises(MediaMissing, match="was moved"):
        open_media(asset)


@pytest.mark.parametrize("is_written", [True, False])
def test_the_rest_of_a_file_that_is_written_to_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    monkeypatch.setattr(_OpenFileResponse, "chunk_size", 10)
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(100))
    before, sent = path.stat(), bytearray()

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))
        while is_written and len(sent) == 30 and stamp_of(path.stat()) == stamp_of(before):
            path.write_bytes(b"x" * 100)

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def answer() -> None:
        scope: Scope = {"type": "http", "method": "GET", "headers": []}
        await _OpenFileResponse(path.open("rb", buffering=0), before, {})(scope, receive, send)

    with pytest.raises(MediaChanged, match="being written to") if is_written else nullcontext():
        anyio.run(answer)
    assert sent == bytes(30 if is_written else 100)
