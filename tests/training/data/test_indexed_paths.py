from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from training.data import library
from training.data.library import LibraryUnavailable, indexed_paths


def script(program: str) -> list[str]:
    """A command in place of `foley assets --json`."""
    return [sys.executable, "-c", program]


def printing(paths: list[Path], *, modalities: tuple[str, ...] = ("audio", "video")) -> list[str]:
    assets = [{"asset_id": "0" * 64, "path": str(path), "modalities": modalities} for path in paths]
    answer = json.dumps({"assets": [*assets, {"path": "/sound.wav", "modalities": ["audio"]}]})
    return script(f"print({answer!r})")


def test_files_of_the_index_come_in_its_order_and_those_that_are_gone_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / name for name in ("b.mp4", "gone.mp4", "ä.mp4")]
    for path in (paths[0], paths[2]):
        path.touch()
    with caplog.at_level(logging.INFO):
        command = printing([*paths, Path("s3://archive/rain.mp4")])
        assert indexed_paths(command=command) == [paths[0], paths[2]]
    assert f"skipped {paths[1]}, which is indexed: it no longer exists" in caplog.messages
    assert any(
        text.endswith("rain.mp4, which is indexed: training reads no objects of a storage")
        for text in caplog.messages
    )
    assert "of 5 indexed files 4 have sound and picture, and 2 of these are there" in caplog.messages


def test_no_file_that_is_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for command, counts in (
        (printing([tmp_path / "gone.mp4"]), "2 indexed files 1 have sound and picture, and 0 of these"),
        (printing([tmp_path / "a.mp4"], modalities=("video",)), "2 indexed files 0 have sound and picture"),
    ):
        with pytest.raises(LibraryUnavailable, match=counts):
            indexed_paths(command=command)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('{\"assets\": []}')", "nothing is indexed with the bundle in use: start with `foley index"),
        (
            "import sys; sys.exit('Loading\\nfoley: the index in /x is open in another process')",
            "^`foley assets` failed: the index in /x is open in another process$",
        ),
        ("raise SystemExit(3)", "`foley assets` failed: exit code 3"),
        ("print('hello')", "did not print a list of assets: JSONDecodeError"),
        ("print('[1]')", "did not print a list of assets: TypeError"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(program: str, message: str) -> None:
    with pytest.raises(LibraryUnavailable, match=message):
        indexed_paths(command=script(program))


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(LibraryUnavailable, match=r"`/nowhere/foley` cannot be run: .*No such file"):
        indexed_paths(command=["/nowhere/foley"])


def test_the_service_itself_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real `foley assets`, of a library that is empty, and with a setting that is wrong."""
    monkeypatch.setenv("FOLEY_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(REPOSITORY))
    with pytest.raises(LibraryUnavailable, match="nothing is indexed"):
        indexed_paths()
    monkeypatch.setenv("FOLEY_BUNDLE", "/nowhere")
    with pytest.raises(LibraryUnavailable, match="`foley assets` failed: /nowhere is not a bundle"):
        indexed_paths()
    assert library.COMMAND[0] == sys.executable
