"""What people say about assets: merged one by one, and read from files beside the media."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.commands.annotation import annotate, export
from service.commands.inventory import OpenInventory
from service.index.contract import Index, Segment
from service.index.layout import VectorLayout
from service.library.metadata import InvalidMetadata, merge_metadata, read_value
from tests.support.memory_index import MemoryIndex

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    track = np.zeros((16, 4), dtype=np.float32)
    track[:, 0] = 1
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of_both(16, 4)) as index:
        for asset_id, path in ((ONE, tmp_path / "media" / "one.wav"), (TWO, tmp_path / "two.wav")):
            segment = Segment(
                asset_id=asset_id, path=str(path), index=0, start_seconds=0, end_seconds=1, audio_track=track
            )
            index.write_asset([segment], is_last=True)
        yield index


def metadata_of(index: Index, asset_id: str) -> dict[str, Any]:
    asset = index.get_asset(asset_id)
    assert asset is not None
    return dict(asset.metadata)


def test_a_merge_keeps_what_it_does_not_name(index: Index) -> None:
    merge_metadata(index, ONE, {"take": 1, "mood": ["calm"], "gone": None})
    asset = merge_metadata(index, ONE, {"take": None, "ok": False})
    assert asset is not None
    assert asset.metadata == metadata_of(index, ONE) == {"mood": ["calm"], "ok": False}
    assert metadata_of(index, TWO) == {}
    assert merge_metadata(index, "3" * 64, {"x": 1}) is None


def test_what_files_say_is_written_for_those_who_want_it(tmp_path: Path) -> None:
    said = {"take": "1", "keywords": ["wood"]}
    asset = {"path": "/a.wav", "media": {"said": said}, "metadata": {"take": 2}}
    for with_said, expected in ((False, {}), (True, said)):
        assert export(tmp_path / "a.json", [asset], with_said=with_said) == 1
        assert json.loads((tmp_path / "a.json").read_text()) == [{"path": "/a.wav", **expected, "take": 2}]


def test_merges_at_the_same_time_all_count(index: Index) -> None:
    threads = [threading.Thread(target=merge_metadata, args=(index, ONE, {f"key{n}": n})) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metadata_of(index, ONE) == {f"key{n}": n for n in range(12)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"k{n}": n for n in range(65)}, "64 keys, got 65"),
        ({"k" * 129: 1}, "128 characters"),
        ({"k": list(range(65))}, "64 values"),
        ({"k": "x" * 1025}, "1024 characters, 'k' has more"),
        ({"k": math.nan}, "text, numbers"),
        ({"k": [1, -math.inf]}, "text, numbers"),
        ({"k": 2**63}, "64 bits"),
        ({"k": {"nested": 1}}, "text, numbers"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused(index: Index, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidMetadata, match=message):
        merge_metadata(index, ONE, changes)
    assert metadata_of(index, ONE) == {}


def test_a_csv_file_is_applied(index: Index, tmp_path: Path) -> None:
    sheet = tmp_path / "takes.csv"
    sheet.write_text(
        "path,take,ok,scene,mood\n"
        'media/one.wav,3,true,007,"calm, cold"\n'
        f"{tmp_path / 'two.wav'},-12,False,,\n"
        "media/../nothing.wav,1,true,,\n",
        encoding="utf-8-sig",
    )
    merge_metadata(index, TWO, {"mood": "kept"})
    report = annotate(sheet, OpenInventory(index))
    assert metadata_of(index, ONE) == {"take": 3, "ok": True, "scene": "007", "mood": "calm, cold"}
    assert metadata_of(index, TWO) == {"take": -12, "ok": "False", "mood": "kept"}
    assert report.to_json() == {"changed": 2, "unchanged": 0, "unmatched": [str(tmp_path / "nothing.wav")]}
    assert annotate(sheet, OpenInventory(index)).to_json()["unchanged"] == 2


@pytest.mark.parametrize("shape", ["list", "object"])
def test_a_json_file_is_applied(index: Index, tmp_path: Path, shape: str) -> None:
    rows = {"media/one.wav": {"take": 3, "tags": ["rain", 7, True]}, "other.wav": {"take": 1}}
    document = rows if shape == "object" else [{"path": path, **values} for path, values in rows.items()]
    (tmp_path / "takes.JSON").write_text(json.dumps(document))
    report = annotate(tmp_path / "takes.JSON", OpenInventory(index))
    assert metadata_of(index, ONE) == {"take": 3, "tags": ["rain", 7, True]}
    assert (report.num_changed, report.unmatched) == (1, [str(tmp_path / "other.wav")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "file,take\na.wav,1\n", "no column 'path'"),
        ("x.csv", "", "no column 'path'"),
        ("x.csv", "path,take\na.wav,1,2\n", "line 2 has more cells"),
        ("x.csv", 'path,take\n"a.wav,1\n', "cannot be read"),
        ("x.csv", "path,take\n,1\n", "row 1 has no 'path'"),
        ("x.csv", b"path,take\n\xff\xfe,1\n", "cannot be read"),
        ("x.json", "{", "cannot be read"),
        ("x.json", "3", "must be a list of objects"),
        ("x.json", '["a.wav"]', "must hold objects, got 'a.wav'"),
        ("x.json", '[{"take": 1}]', "row 1 has no 'path'"),
        ("x.json", '{"a.wav": {"take": NaN}}', r"row 1: metadata holds text, numbers"),
    ],
)
def test_a_file_that_is_no_metadata_changes_nothing(
    index: Index, tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidMetadata, match=message):
        annotate(file, OpenInventory(index))


def test_a_fault_in_the_last_row_changes_no_asset(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('[{"path": "two.wav", "take": 1}, {"path": "media/one.wav", "take": null}]')
    with pytest.raises(InvalidMetadata, match="row 2"):
        annotate(file, OpenInventory(index))
    assert metadata_of(index, TWO) == {}


def test_patch_over_http(client: httpx.Client, library_files: Path) -> None:
    asset = client.get("/v1/assets", params={"limit": 1}).json()["assets"][0]
    url = f"/v1/assets/{asset['asset_id']}"
    answer = client.patch(url, json={"metadata": {"take": 1, "tags": ["a", 2], "lufs": -23.5, "x": None}})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {**asset, "metadata": {"take": 1, "tags": ["a", 2], "lufs": -23.5}}
    assert client.get(url).json() == answer.json()
    assert client.patch(url, json={"metadata": {"take": None, "tags": None, "lufs": None}}).json() == asset
    missing = client.patch(f"/v1/assets/{'0' * 64}", json={"metadata": {}})
    assert (missing.status_code, missing.json()["code"]) == (404, "asset_not_found")
    for body in (
        {},
        {"metadata": {"x": 2**63}},
        {"metadata": {}, "path": "/x"},
        [],
    ):
        refused = client.patch(url, json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter"), body
    assert client.get(url).json() == asset


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-23.5", -23.5),
        ("23.976", 23.976),
        ("120.50", 120.5),
        ("0.5", 0.5),
        ("120.0", 120.0),
        ("1e-07", 1e-07),
        ("3e8", "3e8"),
        ("1.2.3", "1.2.3"),
        (".5", ".5"),
        ("5.", "5."),
        ("00.5", "00.5"),
        ("nan", "nan"),
        ("1e+300", "1e+300"),
        ("9" * 19, "9" * 19),
        ("9" * 30 + ".5", "9" * 30 + ".5"),
    ],
)
def test_numbers_as_people_write_them(text: str, value: object) -> None:
    read = read_value(text)
    assert (read, type(read)) == (value, type(value))
