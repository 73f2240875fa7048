"""`foley assets`: list, show, annotate, export, delete, on an index of our own and on one a server has open."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from models.media.preview import Preview
from service.cli import app
from service.library.previews import Previews
from service.system.settings import Settings
from tests.support.serving import find_free_port

Run = Callable[..., Any]


@pytest.fixture(params=["closed", "served"])
def run(
    request: pytest.FixtureRequest,
    indexed_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Run the command on a library that nobody has open, and on one that a server has open."""
    settings = indexed_settings
    if request.param == "served":
        port = httpx.URL(request.getfixturevalue("server")).port
    else:
        port = find_free_port()
        settings = settings.replace(data=tmp_path / "data")
        shutil.copytree(indexed_settings.data, settings.data, ignore=shutil.ignore_patterns("lock"))
    for name in [name for name in os.environ if name.startswith("FOLEY_")]:
        monkeypatch.delenv(name)
    for name, value in {"DATA": settings.data, "PORT": port, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}.items():
        monkeypatch.setenv(f"FOLEY_{name}", str(value))
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()

    def run(*arguments: object, code: int = 0) -> Any:
        result = runner.invoke(app, ["assets", *map(str, arguments)])
        assert result.exit_code == code, result.output
        if "--json" in arguments and result.stdout:
            return json.loads(result.stdout)
        return result

    yield run
    if request.param == "closed":
        return
    for asset in run("--json")["assets"]:  # the server's library serves other tests
        if asset["metadata"]:
            httpx.patch(
                f"http://127.0.0.1:{port}/v1/assets/{asset['asset_id']}",
                json={"metadata": dict.fromkeys(asset["metadata"])},
            )


def test_assets_are_annotated_found_and_exported(run: Run, library_files: Path, tmp_path: Path) -> None:
    files = sorted(library_files.glob("*.m*"))
    sheet = tmp_path / "takes.csv"
    sheet.write_text(f'path,take,tags\n{files[0]},3,"[""a"", 1]"\n{files[1]},4,\nnothing.wav,5,\n')
    report = run("annotate", sheet, "--json")
    assert report == {"changed": 2, "unchanged": 0, "unmatched": [str(tmp_path / "nothing.wav")]}
    again = run("annotate", sheet)
    assert f"nothing is indexed at {tmp_path / 'nothing.wav'}" in again.stderr
    assert "0 rows changed an asset, 2 were already up to date" in again.stderr

    def listed(*arguments: object) -> list[str]:
        return sorted(asset["path"] for asset in run("list", *arguments, "--json")["assets"])

    assert listed() == [str(path) for path in files]
    assert listed("--metadata", "take=3") == [str(files[0])]
    assert listed("--metadata", "take=3", "--metadata", "take=4") == [str(path) for path in files[:2]]
    assert listed("--metadata", "tags=a", "--metadata", "take=4") == []
    heard = [asset["path"] for asset in run("--json")["assets"] if "audio" in asset["modalities"]]
    assert (listed("--silent"), listed("--no-silent")) == ([], sorted(heard))
    assert listed("--silent", "--no-static") == []
    assert listed("--min-duration", 20) == [str(library_files / "long.mp4")]
    assert listed("--folder", library_files, "--modified-after", "2001-01-01") == listed()
    assert listed("--modified-before", "2001-01-01") == []
    assert run("--metadata", "take=4", "--json") == run("list", "--metadata", "take=4", "--json")
    assert "no asset matches" in run("--folder", "/nowhere").stderr

    shown = run("show", files[0], "--json")
    assert (shown["path"], shown["metadata"]) == (str(files[0]), {"take": 3, "tags": ["a", 1]})
    assert run("show", shown["asset_id"], "--json") == shown
    assert '["a", 1]' in run("show", files[0]).stdout
    assert "nothing is indexed as x.wav" in run("show", "x.wav", code=1).stderr

    for name in ("out.json", "out.csv"):
        run("export", tmp_path / name, "--metadata", "take=3")
        assert run("annotate", tmp_path / name, "--json") == {"changed": 0, "unchanged": 1, "unmatched": []}
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"path": str(files[0]), "take": 3, "tags": ["a", 1]}
    ]
    assert "must end in .csv or .json" in run("export", tmp_path / "out.txt", code=1).stderr
    assert "must be KEY=VALUE" in run("--metadata", "take", code=2).stderr
    assert (
        "put options after the subcommand: foley assets show"
        in run("--metadata", "take=3", "show", files[0], code=2).stderr
    )
    sheet.write_text("path,take\nx.wav,1,2\n")
    assert "more cells" in run("annotate", sheet, code=1).stderr


@pytest.mark.parametrize("run", ["closed"], indirect=True)
def test_assets_are_deleted(run: Run, library_files: Path, tmp_path: Path) -> None:
    before = run("--json")["assets"]
    by_path, by_id, *rest = before
    caches = Previews(tmp_path / "data/previews", max_bytes=1 << 20), tmp_path / "data/objects"
    caches[1].mkdir(exist_ok=True)
    for asset in before:
        caches[0].put(asset["asset_id"], Preview(thumbnail=b"t"))
        (caches[1] / asset["asset_id"]).touch()
    result = run("delete", by_path["path"], by_id["asset_id"], "no.wav", "--json", code=1)
    assert result == {"deleted": [by_path["asset_id"], by_id["asset_id"]], "missing": ["no.wav"]}
    assert run("--json")["assets"] == rest
    left = [asset["asset_id"] for asset in rest]
    assert [a["asset_id"] for a in before if caches[0].get(a["asset_id"])] == left
    assert {path.name for path in caches[1].iterdir()} == set(left)
    assert Path(by_path["path"]).exists()
    assert "1 asset deleted" in run("delete", rest[0]["path"]).stderr
