"""`foley search`, alone and while a server has the index open."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.operations.keys import create_key
from service.system.settings import Settings
from tests.support.serving import find_free_port, serve_in_thread


def search(settings: Settings, *arguments: object, api_key: str | None = None) -> tuple[int, str, str]:
    names = ("data", "bundle", "device", "port", "min_free_bytes")
    environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("FOLEY_")}
    environment |= {f"FOLEY_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment |= {"FOLEY_API_KEY": api_key, "FOLEY_PRECISION": "fp32", "COLUMNS": "200"}
    result = CliRunner().invoke(app, ["search", *map(str, arguments)], env=environment)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def alone(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same library in a folder that no server has open."""
    data = tmp_path_factory.mktemp("alone") / "data"
    shutil.copytree(indexed_settings.data, data, ignore=shutil.ignore_patterns("lock"))
    return indexed_settings.replace(data=data, port=find_free_port())


@pytest.fixture
def served(server: str, indexed_settings: Settings) -> Settings:
    return indexed_settings.replace(port=httpx.URL(server).port)


@pytest.mark.parametrize(
    "options",
    [
        ["--target", "audio"],
        ["--target", "video", "--from", "video", "--limit", 2],
        ["--target", "audio", "--min-score", 0.9],
        ["--target", "audio", "--modality", "video", "--min-duration", 20, "--modified-after", "2020-01-01"],
        ["--target", "audio", "--metadata", "take=3"],
        ["--target", "audio", "--folder", "/nowhere"],
        ["--target", "audio", "--folder", "s3://bucket/nothing"],
    ],
)
def test_the_server_answers_as_the_command_does_alone(
    served: Settings, alone: Settings, library_files: Path, options: list[Any]
) -> None:
    answers = []
    for settings in (served, alone):
        code, output, errors = search(settings, library_files / "long.mp4", *options, "--json")
        assert (code, errors) == (0, "")
        answers.append(json.loads(output))
    there, here = answers
    assert [one["path"] for one in there["results"]] == [one["path"] for one in here["results"]]
    for one, other in zip(there["results"], here["results"], strict=True):
        # The threads of the encoder differ between the two, and with them the order of float32 sums.
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert {**there, "results": []} == {**here, "results": []}


def test_the_table_is_the_same(served: Settings, library_files: Path) -> None:
    code, output, errors = search(
        served, library_files / "long.mp4", "--target", "video", "--from", "video", "--limit", 1
    )
    assert (code, errors) == (0, "")
    assert "long.mp4" in output
    assert "picture → picture ·" in output


def test_a_refusal_is_one_line(served: Settings, library_files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no media " * 99)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "large.mp4").write_bytes(bytes(5 * 1024 * 1024))  # the server takes 4 MiB
    silent = next(library_files.glob("*-picture.mp4"))
    for file, reason in (
        (tmp_path / "text.mp4", "(not_media)"),
        (tmp_path / "empty.mp4", "(empty)"),
        (tmp_path / "large.mp4", "(too_large)"),
        (tmp_path, "(not_a_file)"),
    ):
        code, output, errors = search(served, file, "--target", "audio", "--json")
        assert (code, output) == (1, "")
        assert errors.startswith("foley: ")
        assert errors.endswith(f"{reason}\n"), errors
        assert errors.count("\n") == 1
    code, _, errors = search(served, silent, "--target", "audio", "--from", "audio")
    assert (code, "(no_stream)" in errors) == (1, True)


@pytest.fixture
def with_keys(alone: Settings) -> Iterator[tuple[Settings, str]]:
    path = alone.data / "api-keys.json"
    key = create_key(path, name="reader", scope="read").key
    with serve_in_thread(alone.replace(api_keys_file=path, library_roots="*")) as running:
        yield alone.replace(port=running.client.base_url.port), key


def test_the_key_is_sent_and_asked_for(with_keys: tuple[Settings, str], library_files: Path) -> None:
    settings, key = with_keys
    file = library_files / "long.mp4"
    code, _, errors = search(settings, file, "--target", "audio")
    assert code == 1
    assert "(unauthorized): set FOLEY_API_KEY to a key" in errors
    assert errors.count("\n") == 1
    code, output, errors = search(settings, file, "--target", "audio", "--json", api_key=key)
    assert (code, errors) == (0, "")
    assert json.loads(output)["results"]


def test_an_empty_library_says_how_to_begin(alone: Settings, library_files: Path, tmp_path: Path) -> None:
    settings = alone.replace(data=tmp_path / "data")
    with serve_in_thread(settings) as running:
        asked = settings.replace(port=running.client.base_url.port)
        code, output, errors = search(asked, library_files / "long.mp4", "--target", "audio")
    assert (code, output) == (1, "")
    assert (
        errors
        == f"foley: no file with sound is indexed in {tmp_path / 'data'}: start with `foley index PATH...`\n"
    )


def test_names_that_are_no_utf8_are_sent_and_other_text_is_refused(
    served: Settings, library_files: Path
) -> None:
    asked = (library_files / "long.mp4", "--target", "audio")
    assert search(served, *asked, "--folder", "/\udcff")[0] == 0
    code, _, errors = search(served, *asked, "--metadata", "x=\udcff")
    assert code == 1
    assert "metadata: must be JSON: lone leading surrogate" in errors


def test_words_need_no_file(served: Settings, alone: Settings) -> None:
    answers = []
    for settings in (served, alone):
        options = ("--text", "long", "--target", "video", "--metadata", "take=3")
        assert json.loads(search(settings, *options, "--json")[1])["reason"] == "no_word_found"
        code, output, errors = search(settings, "--text", "long", "--target", "video", "--json")
        assert (code, errors) == (0, "")
        answers.append(json.loads(output))
    assert answers[0] == answers[1]
    (only,) = answers[0]["results"]
    assert (Path(only["path"]).name, only["score"], only["found_by"]) == ("long.mp4", None, ["words"])


def test_what_a_search_with_words_needs(alone: Settings, library_files: Path) -> None:
    code, _, errors = search(alone, "--target", "audio")
    assert (code, "a clip, or words with --text" in errors) == (2, True)
    clip = library_files / "long.mp4"
    assert search(alone, clip, "--text", "x", "--match", "words", "--target", "audio")[0] == 2
    code, _, errors = search(alone, clip, "--text", "but at night", "--target", "audio")
    assert (code, "embeds no words" in errors) == (1, True)
    code, output, _ = search(alone, "--text", "long", "--target", "video")
    assert (code, "found by" in output, "words → picture" in output) == (0, True, True)
