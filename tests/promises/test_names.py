r"""Names that are no UTF-8 work everywhere: in a library, over HTTP, in files of metadata, in training."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.media.names import find_path, read_path, show_bytes_in_streams, show_path, show_text
from service.cli import app
from service.commands.annotation import annotate, export
from service.commands.inventory import OpenInventory, find_asset, to_query
from service.http.routes.jobs import _read_path
from service.http.routes.media import content_disposition
from service.index.contract import Filter, Index
from service.index.layout import VectorLayout
from service.library.assets import describe_asset
from service.library.scanning import FoundFile, find_files, identify
from service.system.logs import configure_logs
from service.system.settings import Settings
from tests.support.index_contract import make_segment, make_tracks
from tests.support.libraries import write_tone
from tests.support.memory_index import MemoryIndex
from training.data.listing import Item, list_items

NAME = os.fsdecode(b"\xff\xfe caf\xe9.wav")
SHOWN = r"\xff\xfe caf\xe9.wav"
FOLDER = os.fsdecode(b"t\xf6ne")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return write_tone(tmp_path / FOLDER / NAME, 1, seconds=0.2)


@pytest.fixture
def index(tmp_path: Path, odd: Path) -> Iterator[Index]:
    """An index in which the file is."""
    (found,) = find_files([tmp_path / FOLDER])
    assert isinstance(found, FoundFile)
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of_both(16, 32)) as index:
        track = make_tracks(1, seed=1)[0]
        segment = make_segment("a", audio_track=track, path=str(found.path), asset_id=identify(found))
        index.write_asset([segment], is_last=True)
        yield index


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/music/\udcff\udcfe caf\udce9.wav", r"/music/\xff\xfe caf\xe9.wav"),
        ("/music/caf\xe9.wav", "/music/caf\xe9.wav"),
        (r"/music/\xff.wav", r"/music/\xff.wav"),
        ("/a\\xff/\udcff", r"/a\x5cxff/\xff"),
        ("/a\\b/\udcff", r"/a\x5cb/\xff"),
        ("/snow \N{SNOWMAN}/\udcff", "/snow \N{SNOWMAN}/\\xff"),
    ],
)
def test_a_path_is_read_as_it_was_shown(path: str, shown: str) -> None:
    assert show_path(path) == shown
    assert shown.encode()
    assert show_path(read_path(shown)) == shown
    if path != r"/music/\xff.wav":  # shown as the name of one byte is
        assert read_path(shown) == path
    assert read_path(r"/x\x41.wav") == r"/x\x41.wav"  # nothing is shown like that


def test_of_two_names_that_look_alike_the_one_that_is_there_is_found(tmp_path: Path) -> None:
    plain, odd = tmp_path / r"\xff.wav", tmp_path / "\udcff.wav"
    assert find_path(str(plain)) == str(odd)
    plain.touch()
    assert find_path(str(plain)) == str(plain)


def test_lists_filters_and_lookups_take_the_name_as_it_is_and_as_it_is_shown(index: Index, odd: Path) -> None:
    asset = index.find_path(str(odd))
    assert asset is not None
    document = describe_asset(asset)
    assert document["path"].endswith(rf"/t\xf6ne/{SHOWN}")
    json.dumps(document, ensure_ascii=False).encode()
    for folder in (str(odd.parent), show_path(odd.parent)):
        assert index.list_assets(limit=9, filter=Filter(folder=folder)).assets == (asset,)
        query = to_query(Filter(folder=folder))
        assert query["folder"] == show_path(odd.parent)
    for name in (str(odd), show_path(odd), asset.asset_id):
        found = find_asset(OpenInventory(index), name)
        assert found is not None, name
        assert found["asset_id"] == asset.asset_id
    header = content_disposition(asset.path)
    assert header.isascii()
    assert "caf" in header


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_metadata_goes_out_and_comes_back(index: Index, odd: Path, tmp_path: Path, kind: str) -> None:
    inventory = OpenInventory(index)
    file = tmp_path / f"takes.{kind}"
    assert export(file, inventory.list_assets()) == 1
    text = file.read_text("utf-8")
    assert SHOWN in (json.loads(text)[0]["path"] if kind == "json" else text)
    if kind == "csv":
        file.write_text(f"path;lufs\n{show_path(odd)};-23,5\n")
    else:
        file.write_text(json.dumps({show_path(odd): {"lufs": -23.5}}))
    assert annotate(file, inventory).num_changed == 1
    assert [asset["metadata"] for asset in inventory.list_assets()] == [{"lufs": -23.5}]


def test_commands_take_the_shown_name(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLEY_DATA", str(odd.parent / "data"))
    result = CliRunner().invoke(app, ["search", show_path(odd)])
    assert "does not exist" not in result.output
    assert "--target" in result.output


def test_jobs_over_http_take_the_shown_name(odd: Path) -> None:
    assert _read_path(show_path(odd), Settings()) == str(odd)
    assert _read_path(str(odd), Settings(library_roots=(odd.parent,))) == str(odd)


def test_logs_and_terminals_take_every_name(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    written = {}
    try:
        for form in ("json", "console"):
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
            configure_logs(form, stream=stream)  # type: ignore[arg-type]
            logging.getLogger("names").warning("skipped %s", odd, extra={"path": str(odd)})
            written[form] = raw.getvalue().decode()
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    line = json.loads(written["json"])
    assert line["event"] == f"skipped {show_path(odd)}"
    assert line["path"] == show_path(odd)
    assert f"skipped {show_path(odd)}" in written["console"]
    for encoding in ("utf-8", "ascii"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
        show_bytes_in_streams()
        print(odd, "\N{SNOWMAN}")  # noqa: T201
        assert show_path(odd) in raw.getvalue().decode(encoding)
    assert show_text("\ud800") == r"\ud800"


@pytest.mark.parametrize("kind", ["csv", "json", "folder"])
def test_training_lists_the_file_however_it_is_named(tmp_path: Path, kind: str) -> None:
    video = tmp_path / FOLDER / NAME.replace(".wav", ".mp4")
    video.parent.mkdir()
    video.touch()
    manifest = tmp_path / f"set.{kind}"
    if kind == "csv":
        manifest.write_text(f"path\tlabels\n{show_path(Path(FOLDER, video.name))}\train;wind\n")
    elif kind == "json":
        manifest.write_text(json.dumps([{"path": show_path(video), "labels": "rain;wind"}]))
    (item,) = list_items([video.parent if kind == "folder" else manifest])
    assert item.path == video
    assert item.name == show_path(video)
    item.name.encode()
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
