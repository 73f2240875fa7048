"""A whole service on a Qdrant server, here qdrant-client's local mode: index, serve, search, change, delete.

Local mode compares with every point: this says nothing about speed or recall (`tests.support.qdrant_local`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.bundle.bundle import load_bundle
from service.commands.inventory import list_inventory
from service.foley import open_foley
from service.library.indexing import index_paths
from service.system.settings import Settings
from tests.support.qdrant_local import Shared, serve_local
from tests.support.serving import serve_in_thread

URL = "http://qdrant.invalid:6333"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    yield from serve_local(tmp_path / "qdrant", monkeypatch)


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path, library_files: Path) -> Settings:
    folder = tmp_path / "library"
    folder.mkdir()
    for path in sorted(library_files.glob("*.m*"))[:3]:
        shutil.copy(path, folder)
    return Settings(
        data=tmp_path / "data", bundle=bundle_path, device="cpu", qdrant_url=URL, search_workers=2
    )


def test_a_service_on_a_server(settings: Settings, remote: Shared, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    with open_foley(settings) as foley:
        report = index_paths([folder], snapshot=foley.snapshot(), decoder=foley.decoder)
        assert (report.files.indexed, report.files.failed) == (3, 0)
        again = index_paths([folder], snapshot=foley.snapshot(), decoder=foley.decoder)
        assert (again.files.indexed, again.files.unchanged) == (0, 3)
    assert not (settings.data / "index").exists(), "nothing is kept in a folder beside the server"
    assert len(list_inventory(settings)) == 3
    bundle = load_bundle(settings.bundle)
    assert remote.count("foley").count == remote.count(f"foley-{bundle.bundle_id}").count
    with serve_in_thread(settings) as service:
        client = service.client
        check_search(client, folder)
        check_changes(client)
        remote.is_away = True
        answer = client.get("/v1/assets")
        assert (answer.status_code, answer.json()["code"]) == (503, "index_unavailable")
        assert client.get("/livez").status_code == 200
        remote.is_away = False
        assert client.get("/readyz").status_code == 200


def check_search(client: httpx.Client, folder: Path) -> None:
    assets = client.get("/v1/assets").json()["assets"]
    asset = next(asset for asset in assets if asset["modalities"] == ["audio", "video"])
    name = Path(asset["path"]).name
    with (folder / name).open("rb") as file:
        answer = client.post("/v1/search", files={"file": file}, data={"target": "audio", "from": "audio"})
    assert answer.status_code == 200, answer.text
    best = answer.json()["results"][0]
    assert best["asset_id"] == asset["asset_id"]
    assert best["score"] == pytest.approx(1.0, abs=1e-3)
    stored = client.post("/v1/search", json={"asset_id": asset["asset_id"], "target": "video"})
    assert stored.status_code == 200, stored.text
    media = client.get(f"/v1/assets/{asset['asset_id']}/media", headers={"Range": "bytes=0-3"})
    assert media.status_code == 206


def check_changes(client: httpx.Client) -> None:
    first, second, _ = client.get("/v1/assets").json()["assets"]
    answer = client.patch(f"/v1/assets/{first['asset_id']}", json={"metadata": {"take": 3}})
    assert answer.status_code == 200, answer.text
    found = client.get(f"/v1/assets/{first['asset_id']}").json()
    assert found["metadata"] == {"take": 3}
    assert client.delete(f"/v1/assets/{second['asset_id']}").status_code in (200, 204)
    assert client.get(f"/v1/assets/{second['asset_id']}").status_code == 404
    assert len(client.get("/v1/assets").json()["assets"]) == 2
