"""The command `foley` as people run it: real processes, their output and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from models.media.clip import decode_segments
from service.cli import app
from service.encode.encoder import Encoder
from service.index.contract import Asset, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout
from tests.support.libraries import write_tones
from tests.support.paths import REPOSITORY
from tests.support.waiting import GENEROUS_SECONDS, wait_until

COMMAND = [sys.executable, "-m", "service.cli"]
MANY = 48  # seconds of work: no signal comes too late


def _environment(data: Path, bundle: Path, **more: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    ours = {
        "DATA": str(data),
        "BUNDLE": str(bundle),
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "DECODE_WORKERS": "1",
        "MIN_FREE_BYTES": "0",
    }
    ours |= more
    return {**environment, **{f"FOLEY_{name}": value for name, value in ours.items()}, "COLUMNS": "200"}


class Foley:
    """Runs the command with a data folder of its own."""

    def __init__(self, data: Path, bundle: Path) -> None:
        self.data = data
        self.bundle = bundle

    def __call__(self, *args: object, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, args)],
            env=_environment(self.data, self.bundle, **settings),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=GENEROUS_SECONDS,
        )

    def here(self, *args: object, **settings: str) -> subprocess.CompletedProcess[str]:
        """The same in this process, for what a process adds nothing to."""
        environment = {name: None for name in os.environ if name.startswith("FOLEY_")}
        environment |= _environment(self.data, self.bundle, **settings)
        done = CliRunner().invoke(app, [*map(str, args)], env=environment)
        return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)

    def start(self, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *map(str, args)],
            env=_environment(self.data, self.bundle),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def assets(self) -> dict[str, Asset]:
        bundle = load_bundle(self.bundle)
        folder = self.data / "index" / bundle.bundle_id
        with EmbeddedIndex.open(folder, layout=VectorLayout.of(bundle.manifest), min_free_bytes=0) as index:
            return {asset.path: asset for asset in index.list_assets(limit=1000).assets}


@pytest.fixture
def foley(tmp_path: Path, bundle_path: Path) -> Foley:
    return Foley(tmp_path / "data", bundle_path)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path, library_files: Path) -> Foley:
    foley = Foley(tmp_path_factory.mktemp("cli") / "data", bundle_path)
    assert foley("index", library_files).returncode == 0
    return foley


def test_help_is_quick() -> None:
    slow = {"numpy", "av", "onnxruntime", "fastapi", "httpx", "psutil"}
    program = f"import sys, service.cli; sys.exit(bool({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
    result = subprocess.run([*COMMAND, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("index", "search", "serve", "demo"))


def test_index_twice(foley: Foley, library_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    shutil.copytree(library_files, folder)
    (folder / "empty.mp4").touch()
    num_files = len(list(library_files.glob("*.m*")))
    first = foley("index", folder, "--json")
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert first.stdout.count("\n") == 1
    seconds = answer.pop("seconds")
    assert seconds > 0
    assert {name: answer[name] for name in ("files", "segments", "failed")} == {
        "files": {"indexed": num_files, "unchanged": 0, "failed": 1},
        "segments": {"indexed": num_files + 2, "unchanged": 0, "failed": 0},
        "failed": [
            {"path": str(folder / "empty.mp4"), "code": "empty", "reason": "the file is empty: 0 bytes"}
        ],
    }
    second = json.loads(foley("index", folder, "--json").stdout)
    assert second["files"] == {"indexed": 0, "unchanged": num_files, "failed": 1}
    assert second["segments"] == {"indexed": 0, "unchanged": num_files + 2, "failed": 0}

    shown = foley("index", folder)
    assert re.search(rf"unchanged\s+{num_files}\s+{num_files + 2}\s*\n", shown.stdout)
    assert re.search(r"empty\.mp4\s+empty\s+the file is empty", shown.stdout)
    assert "1 other file skipped" in shown.stdout  # labels.csv


def test_index_of_nothing_useful_fails(foley: Foley, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hello")
    empty = foley("index", tmp_path / "folder", "--json")
    assert (empty.returncode, empty.stderr) == (1, "foley: no media files found\n")
    assert json.loads(empty.stdout)["files"] == {"indexed": 0, "unchanged": 0, "failed": 0}
    missing = foley("index", tmp_path / "none", "--json")
    assert (missing.returncode, missing.stderr) == (1, "foley: no file was indexed\n")
    assert json.loads(missing.stdout)["failed"][0]["code"] == "not_found"


def test_what_is_kept_is_for_its_owner_only(indexed: Foley, library_files: Path) -> None:
    """As it is made, whatever the umask; and what an older version left open is closed when it is opened."""

    def kept() -> list[Path]:
        roots = [indexed.data / name for name in ("index", "releases", "spool")]
        return [
            *indexed.data.glob("ledger.sqlite*"),
            *(path for root in roots for path in (root, *root.rglob("*"))),
        ]

    def open_ones() -> list[Path]:
        return [path for path in kept() if path.stat().st_mode & 0o077]

    assert len(kept()) > 10
    assert open_ones() == []
    for path in kept():
        path.chmod(path.stat().st_mode | 0o055)
    assert indexed.here("search", library_files / "long.mp4", "--target", "audio").returncode == 0
    assert all(path.name.startswith("ledger") for path in open_ones())  # which a search does not open
    assert indexed.here("jobs").returncode == 0
    assert open_ones() == []


def test_search_as_json_names_everything(indexed: Foley, library_files: Path) -> None:
    result = indexed.here("search", library_files / "long.mp4", "--target", "audio", "--limit", 3, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["target"], answer["from"]) == ("audio", "video")
    assert len(answer["results"]) == 3
    for found in answer["results"]:
        assert len(found["moments"]) == 16
        assert found["score"] == pytest.approx(np.mean(found["moments"]), abs=1e-9)
        assert found["best_moment"]["similarity"] == max(found["moments"])
        assert found["start_seconds"] < found["end_seconds"]
        assert Path(found["path"]).is_file()


def test_search_within_one_modality_finds_the_file_itself(
    indexed: Foley, library_files: Path, tmp_path: Path
) -> None:
    sound = next(library_files.glob("*-sound.m4a"))
    link = tmp_path / "link"
    link.symlink_to(sound)
    answer = json.loads(indexed.here("search", link, "--target", "audio", "--from", "audio", "--json").stdout)
    assert answer["results"][0]["path"] == str(sound)
    assert answer["results"][0]["score"] == pytest.approx(1.0, abs=1e-3)


def test_search_for_people(indexed: Foley, library_files: Path) -> None:
    result = indexed(
        "search", library_files / "long.mp4", "--target", "video", "--from", "video", "--limit", 2
    )
    assert result.returncode == 0
    assert re.search(r" 1\s+1\.000\s+00:\d\d–00:\d\d\s+00:\d\d \(1\.00\)\s+\S*long\.mp4", result.stdout)
    assert "picture → picture ·" in result.stdout


def test_failed_searches_say_why_in_one_line(
    indexed: Foley, foley: Foley, library_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no media " * 99)
    silent = next(library_files.glob("*-picture.mp4"))
    cases: list[tuple[Foley, list[Any], str]] = [
        (foley, [silent], r"no file with sound is indexed in .*: start with `foley index PATH\.\.\.`"),
        (indexed, [silent, "--from", "audio"], r"the query has no audio to search from \(no_stream\)"),
        (indexed, [tmp_path / "text.mp4"], r"\(not_media\)"),
        (indexed, [tmp_path], r"\(not_a_file\)"),
    ]
    for command, arguments, reason in cases:
        result = command.here("search", *arguments, "--target", "audio", "--json")
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(rf"foley: .*{reason}\n", result.stderr), result.stderr


def test_no_door_is_open_without_keys(indexed: Foley) -> None:
    result = indexed("serve", "--host", "0.0.0.0")
    assert result.returncode == 1
    assert re.fullmatch(
        r"foley: no API keys yet: create the first one with `foley keys create NAME`, in .*need API keys\n",
        result.stderr,
    )


def test_wrong_usage_is_code_2(indexed: Foley, library_files: Path, tmp_path: Path) -> None:
    clip = library_files / "long.mp4"
    for arguments in (
        ["search", clip, "--target", "smell"],
        ["search", tmp_path / "none", "--target", "audio"],
        ["search", clip, "--target", "audio", "--limit", 1001],
        ["index"],
        ["demo", tmp_path / "none"],
    ):
        result = indexed.here(*arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_wrong_settings_are_named(indexed: Foley, library_files: Path) -> None:
    result = indexed("index", library_files, PORT="many")
    assert result.returncode == 2
    assert result.stderr.startswith("foley: FOLEY_PORT must be a whole number, got 'many'")
    result = indexed.here("index", library_files, BUNDLE="/nowhere")
    assert result.returncode == 1
    assert re.fullmatch(r"foley: /nowhere is not a bundle: .*\n", result.stderr)


def test_a_variable_that_is_no_setting_is_named(indexed: Foley) -> None:
    result = indexed("jobs", PRT="9000", TEST_QDRANT_URL="http://x", MEDIA="/media")
    assert result.stderr.splitlines()[0] == (
        "foley: WARNING: FOLEY_PRT is not a setting and is ignored; did you mean FOLEY_PORT?"
    )
    assert result.stderr.count("WARNING") == 1


@pytest.mark.parametrize("module", ["service.cli", "training.cli"])
def test_version_and_short_help(module: str) -> None:
    for option, text in (("--version", "foley 0"), ("-h", "Usage")):
        done = subprocess.run(
            [sys.executable, "-m", module, option], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr, text in done.stdout) == (0, "", True)


def test_an_index_in_use_is_named(indexed: Foley, bundle_path: Path, library_files: Path) -> None:
    bundle = load_bundle(bundle_path)
    folder = indexed.data / "index" / bundle.bundle_id
    with EmbeddedIndex.open(folder, layout=VectorLayout.of(bundle.manifest), min_free_bytes=0):
        result = indexed.here("search", library_files / "long.mp4", "--target", "audio")
    assert result.returncode == 1
    assert re.fullmatch(r"foley: .*stop the `foley` that has it open.*\n", result.stderr)


def test_serve_answers_and_stops(indexed: Foley) -> None:
    server = indexed.start("serve", "--port", "0")
    assert server.stderr is not None
    try:
        address = next(
            found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
        )
        assert httpx.get(f"{address}/livez", timeout=10).status_code == 200
        server.terminate()
        server.communicate(timeout=GENEROUS_SECONDS)
    finally:
        server.kill()
    assert server.returncode in (0, -signal.SIGTERM)


def test_serve_on_a_port_in_use_fails(indexed: Foley) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = indexed("serve", "--port", taken.getsockname()[1])
    assert result.returncode == 1
    assert re.fullmatch(
        r"foley: 127\.0\.0\.1:\d+ is in use: choose .* --port or FOLEY_PORT.*\n", result.stderr
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_by_signal_is_clean(foley: Foley, tmp_path: Path, number: signal.Signals) -> None:
    many = tmp_path / "many"
    write_tones(many, MANY)
    process = foley.start("index", many, "--json")
    _wait_for_work(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 130, errors
    assert errors == "foley: stopped; run the same command to continue\n"
    answer = json.loads(output)
    assert answer["files"]["indexed"] < MANY
    again = json.loads(foley("index", many, "--json").stdout)
    assert again["files"]["unchanged"] >= answer["files"]["indexed"]
    assert again["files"]["indexed"] + again["files"]["unchanged"] == MANY


@pytest.mark.long
def test_kill_9_in_the_middle_and_again_equals_one_run(
    foley: Foley, library_files: Path, tmp_path: Path, bundle_path: Path
) -> None:
    many = tmp_path / "many"
    write_tones(many, MANY)
    shutil.copytree(library_files, many, dirs_exist_ok=True)
    chance = random.Random(0)
    for _ in range(2):
        process = foley.start("index", many)
        _wait_for_work(process)
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
    assert foley("index", many).returncode == 0
    whole = Foley(tmp_path / "whole", bundle_path)
    assert whole("index", many).returncode == 0
    assets = foley.assets()
    assert assets == whole.assets()
    assert len(assets) == MANY + len(list(library_files.glob("*.m*")))

    bundle = load_bundle(bundle_path)
    encoder = Encoder(bundle, device="cpu")
    folder = foley.data / "index" / bundle.bundle_id
    with EmbeddedIndex.open(
        folder, layout=VectorLayout.of(encoder.bundle.manifest), min_free_bytes=0
    ) as index:
        for path, asset in assets.items():
            for clip in decode_segments(path, bundle.manifest.clip_spec).clips:
                if clip.samples is not None:
                    (track,) = encoder.encode_audio([clip.samples], [clip.num_heard])
                    matches = index.search(VectorQuery(track=track, target="audio", limit=20))
                    same = [
                        m
                        for m in matches
                        if (m.asset_id, m.start_seconds) == (asset.asset_id, clip.start_seconds)
                    ]
                    assert len(same) == 1
                    assert same[0].score > 0.999


def _wait_for_work(process: subprocess.Popen[str]) -> None:
    """Wait until files are being decoded: the process has decode workers, which start with the first files."""

    def decodes() -> bool:
        assert process.poll() is None, "it ended before"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a child ended while we looked
            threads = Path(f"/proc/{process.pid}/task").glob("*/children")
            children = [child for thread in threads for child in thread.read_text().split()]
            return any(b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
        return False

    wait_until(decodes)
