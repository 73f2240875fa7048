"""The clients for programs: their types are those of the API, and both do the same with a live server."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.client import foley as foley_module
from service.client.client import ServerGone
from service.client.foley import AsyncFoley, Foley, Refused
from service.client.requests import (
    Call,
    change_collection,
    get_asset,
    get_collection,
    list_assets,
    search_file,
    search_words,
    start_job,
)
from service.client.schema import CollectionBody
from service.http.routes.pages import FOLDER
from tests.support.clients import GENERATOR, PYTHON, TYPESCRIPT, describe, write_python, write_typescript
from tests.support.serving import find_free_port

needs_node = pytest.mark.skipif(
    not GENERATOR.exists() or shutil.which("node") is None,
    reason="needs node, and `npm ci` in clients/typescript",
)


class _Busy(http.server.BaseHTTPRequestHandler):
    """Is overloaded at the first request of each path, and breaks the connection at the first of /breaks."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        is_first = self.path not in {path for path, _ in self.seen}
        self.seen.append((self.path, self.headers["Idempotency-Key"]))
        if self.path == "/breaks" and is_first:
            self.close_connection = True
            return
        body = b'{"status": "alive"}'
        self.send_response(429 if is_first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that is overloaded at first."""
    monkeypatch.setattr(_Busy, "seen", [], raising=False)
    monkeypatch.setattr(foley_module, "LOOK_SECONDS", 0.01)
    server = http.server.HTTPServer(("127.0.0.1", 0), _Busy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe()


@pytest.fixture
def expected(server: str, library_files: Path) -> dict[str, Any]:
    """What a client finds in the library, with the answers of plain requests."""
    with httpx.Client(base_url=server, timeout=60) as client:
        assets = [asset["asset_id"] for asset in client.get("/v1/assets").json()["assets"]]
    own = hashlib.sha256((library_files / "long.mp4").read_bytes()).hexdigest()
    return {
        "by_clip": own,
        "by_words": [own],
        "assets": assets,
        "state": "done",
        "code": "404 asset_not_found",
        "changed": ["wind", "412 collection_changed"],
    }


def test_the_types_of_python_are_those_of_the_api(document: dict[str, Any]) -> None:
    assert write_python(document) == PYTHON.read_text(), "run `make clients`"


@needs_node
def test_the_types_of_typescript_are_those_of_the_api(document: dict[str, Any], tmp_path: Path) -> None:
    made = write_typescript(document, tmp_path)
    assert made == (TYPESCRIPT / "schema.ts").read_text(), "run `make clients`"


def test_the_page_keeps_to_the_types_of_the_api() -> None:
    compiler = FOLDER.parent / "node_modules/.bin/tsc"
    if not compiler.exists():
        pytest.skip("needs node, and `npm ci` in service/http/web")
    found = subprocess.run([compiler, "--noEmit"], cwd=FOLDER.parent, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_a_program_that_waits(server: str, library_files: Path, expected: dict[str, Any]) -> None:
    file, looks = library_files / "long.mp4", []
    with Foley(server) as foley:
        job = foley.follow(foley.send(start_job([file]))["job_id"], looks.append)
        with pytest.raises(Refused, match=r"no asset .* is indexed \(asset_not_found\)") as refused:
            foley.send(get_asset("0" * 64))
        new: Call[CollectionBody] = Call("POST", "/v1/collections", body={"name": "rain"})
        seen = foley.send(new)
        changed = foley.send(change_collection(seen, name="wind"))
        with pytest.raises(Refused) as late:
            foley.send(change_collection(seen, items=[]))
        assert foley.send(get_collection(seen["collection_id"])) == changed
        foley.send(Call("DELETE", f"/v1/collections/{seen['collection_id']}"))
        found = {
            "changed": [changed["name"], f"{late.value.status} {late.value.code}"],
            "by_clip": foley.send(search_file(file, target="video", from_="video"))["results"][0]["asset_id"],
            "by_words": [
                one["asset_id"] for one in foley.send(search_words("long", target="audio"))["results"]
            ],
            "assets": [asset["asset_id"] for asset in foley.pages(list_assets(limit=2))],
            "state": job["state"],
            "code": f"{refused.value.status} {refused.value.code}",
        }
    assert found == expected
    assert looks[-1] == job
    assert job["progress"]["num_done"] == 1


def test_a_program_with_an_event_loop(server: str, library_files: Path, expected: dict[str, Any]) -> None:
    file, looks = library_files / "long.mp4", []

    async def work() -> dict[str, Any]:
        async with AsyncFoley(server) as foley:
            job = await foley.follow((await foley.send(start_job([file])))["job_id"], looks.append)
            with pytest.raises(Refused) as refused:
                await foley.send(get_asset("0" * 64))
            new: Call[CollectionBody] = Call("POST", "/v1/collections", body={"name": "rain"})
            seen = await foley.send(new)
            changed = await foley.send(change_collection(seen, name="wind"))
            with pytest.raises(Refused) as late:
                await foley.send(change_collection(seen, items=[]))
            await foley.send(Call("DELETE", f"/v1/collections/{seen['collection_id']}"))
            by_clip = await foley.send(search_file(file, target="video", from_="video"))
            by_words = await foley.send(search_words("long", target="audio"))
            return {
                "changed": [changed["name"], f"{late.value.status} {late.value.code}"],
                "by_clip": by_clip["results"][0]["asset_id"],
                "by_words": [one["asset_id"] for one in by_words["results"]],
                "assets": [asset["asset_id"] async for asset in foley.pages(list_assets(limit=2))],
                "state": job["state"],
                "code": f"{refused.value.status} {refused.value.code}",
            }

    assert anyio.run(work) == expected
    assert looks


@pytest.mark.parametrize("is_async", [False, True])
def test_what_may_be_sent_again_is(busy: str, is_async: bool) -> None:
    def send(call: Call[Any], attempts: int = 4) -> Any:
        async def work() -> Any:
            async with AsyncFoley(busy, attempts=attempts) as foley:
                return await foley.send(call)

        if is_async:
            return anyio.run(work)
        with Foley(busy, attempts=attempts) as foley:
            return foley.send(call)

    assert send(Call("GET", "/livez")) == {"status": "alive"}
    assert [path for path, _ in _Busy.seen] == ["/livez", "/livez"]
    assert send(Call("POST", "/v1/jobs", body={}, is_keyed=True))
    (key,) = {key for path, key in _Busy.seen if path == "/v1/jobs"}
    assert key
    with pytest.raises(ServerGone, match="does not answer"):
        send(Call("POST", "/breaks", body={}))
    with pytest.raises(Refused) as refused:
        send(Call("GET", "/other"), attempts=1)
    assert refused.value.status == 429


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foley_module, "LOOK_SECONDS", 0.01)
    with (
        Foley(f"http://127.0.0.1:{find_free_port()}") as foley,
        pytest.raises(ServerGone, match="the service does not answer"),
    ):
        foley.send(get_asset("0" * 64))


@needs_node
def test_a_program_in_typescript(
    server: str, busy: str, library_files: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    built = tmp_path / "built"
    compiler = TYPESCRIPT / "node_modules" / ".bin" / "tsc"
    subprocess.run([compiler, "--project", TYPESCRIPT, "--outDir", built], check=True)
    (built / "node_modules").symlink_to(TYPESCRIPT / "node_modules")
    (built / "package.json").write_text('{"type": "module"}')
    live = built / "live.js"
    live.write_text(live.read_text().replace('"./client"', '"./client.js"'))
    file = library_files / "long.mp4"
    run = subprocess.run(
        ["node", live, server, file, file, busy], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("looks") > 0
    assert found.pop("patient") == {"status": "alive"}
    assert found == expected
