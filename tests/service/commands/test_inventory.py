"""`foley assets`: from the index, or from the server that has it open."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from models.bundle.bundle import load_bundle
from service.client import client
from service.client.client import ServerGone
from service.commands.inventory import list_inventory
from service.index import iteration
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexInUse
from service.index.layout import VectorLayout
from service.index.opening import index_folder
from service.system.settings import Settings
from tests.support.paths import REPOSITORY
from tests.support.serving import find_free_port
from tests.support.waiting import GENEROUS_SECONDS


def foley_assets(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    for name in ("data", "bundle", "device", "port", "min_free_bytes"):
        environment[f"FOLEY_{name.upper()}"] = str(getattr(settings, name))
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "assets", *arguments],
        env={**environment, "COLUMNS": "200"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=GENEROUS_SECONDS,
    )


@pytest.fixture(scope="session")
def copied_settings(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The indexed library in a folder that no server has open."""
    data = tmp_path_factory.mktemp("copied") / "data"
    shutil.copytree(indexed_settings.data, data, ignore=shutil.ignore_patterns("lock"))
    return indexed_settings.replace(data=data, port=find_free_port())


def test_every_asset_is_listed_page_by_page(
    copied_settings: Settings, library_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration, "ASSETS_PER_PAGE", 2)
    files = sorted(str(path) for path in library_files.glob("*.m*"))
    assets = list_inventory(copied_settings)
    assert sorted(asset["path"] for asset in assets) == files
    assert len(assets) > 2
    long = next(asset for asset in assets if asset["path"].endswith("long.mp4"))
    assert (long["num_segments"], long["modalities"]) == (3, ["audio", "video"])
    assert len(long["asset_id"]) == 64


def test_an_open_index_is_asked_of_its_server(
    server: str, indexed_settings: Settings, copied_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_LIMIT", 2)
    settings = indexed_settings.replace(port=httpx.URL(server).port)
    assert list_inventory(settings) == list_inventory(copied_settings)


def test_another_server_on_the_port_is_not_asked(server: str, copied_settings: Settings) -> None:
    """It would answer, for another library."""
    settings = copied_settings.replace(port=httpx.URL(server).port)
    bundle = load_bundle(settings.bundle)
    with (
        EmbeddedIndex.open(
            index_folder(settings, bundle.bundle_id),
            layout=VectorLayout.of(bundle.manifest),
            min_free_bytes=0,
        ),
        pytest.raises(
            IndexInUse, match=rf"number {os.getpid()}\), which does not listen on port {settings.port}"
        ),
    ):
        list_inventory(settings)


def test_a_holder_that_listens_but_is_no_server_is_an_error(
    copied_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(client, "LOOK_SECONDS", 0.01)
    bundle = load_bundle(copied_settings.bundle)
    folder = index_folder(copied_settings, bundle.bundle_id)
    with (
        EmbeddedIndex.open(folder, layout=VectorLayout.of(bundle.manifest), min_free_bytes=0),
        socket.create_server(("127.0.0.1", copied_settings.port)),
        pytest.raises(ServerGone, match=r"the server on 127\.0\.0\.1:\d+ does not answer: timed out"),
    ):
        list_inventory(copied_settings)


def test_nothing_is_made_where_nothing_is_indexed(indexed_settings: Settings, tmp_path: Path) -> None:
    settings = indexed_settings.replace(data=tmp_path / "data")
    assert list_inventory(settings) == []
    assert not (tmp_path / "data").exists()
    result = foley_assets(settings)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith(
        f"foley: nothing is indexed in {tmp_path / 'data'}: start with `foley index"
    )


def test_the_command_prints_json_or_a_table(copied_settings: Settings, library_files: Path) -> None:
    result = foley_assets(copied_settings, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"assets": list_inventory(copied_settings)}
    shown = foley_assets(copied_settings)
    assert shown.returncode == 0
    assert str(library_files / "long.mp4") in shown.stdout
    assert "00:24" in shown.stdout
    assert "audio + video" in shown.stdout
