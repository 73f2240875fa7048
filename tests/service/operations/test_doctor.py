"""`foley doctor`: what it finds is what is there, and what it says would help would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from models.media.clip import ClipSpec, probe_media
from service.cli import app
from service.commands.printing import print_diagnosis
from service.decode.landlock import describe_landlock
from service.encode.agreement import ProbeClips
from service.encode.encoder import Encoder
from service.encode.engines import candidates as choice
from service.encode.engines.hardware import has_bf16, installed_version
from service.index.embedded.index import EmbeddedIndex
from service.index.embedded.messages import ShardConfig
from service.index.layout import VectorLayout
from service.index.opening import index_folder, index_place
from service.jobs.documents import LEDGER_NAME, find_lost
from service.jobs.journal import LedgerJournal
from service.jobs.ledger import Ledger
from service.library.journal import FileRow
from service.operations import doctor
from service.operations.clip_timing import write_golden_clip
from service.operations.doctor import advise, examine
from service.releases.opening import active_release
from service.system.settings import Settings
from tests.support.index_contract import make_asset, make_tracks
from tests.support.memory_index import memory_indexes
from tests.support.paths import REPOSITORY
from tests.support.waiting import GENEROUS_SECONDS


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data", bundle=bundle_path, device="cpu", precision="fp32", min_free_bytes=0
    )


def test_an_empty_installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.operations.stopwatch.ROUNDS", 1)
    found = examine(settings).to_json()
    assert found["problems"] == []
    assert found["bundle"]["bundle_id"] == load_bundle(settings.bundle).bundle_id
    assert found["encoder"]["precision"] == "fp32"
    assert found["encoder"]["golden_difference"] < 1e-4
    assert found["index"]["num_segments"] == 0
    assert not settings.data.exists()  # it only looks
    clip = found["clip"]
    assert (clip["seconds"], clip["width"], clip["height"]) == (10.0, 640, 360)
    names = [stage["stage"] for stage in clip["stages"]]
    assert names[:4] == [
        "open: header and first picture",
        "picture: open, decode, resize",
        "sound: open, decode, resample",
        "both, in a decode worker and back",
    ]
    ours = ["sound: front end", "sound: encoder"]
    apart = found["encoder"]["engine"] == "openvino"
    assert names[4:-1] == (ours if apart else ["sound: front end and encoder"])
    assert names[-1] == "picture: front end and encoder"
    assert all(stage["milliseconds"] > 0 for stage in clip["stages"])
    assert 50 < found["memory"]["process"]["now_mib"] <= found["memory"]["process"]["peak_mib"]
    states = {entry["candidate"]: entry["obstacle"] for entry in found["candidates"]}
    assert states["onnxruntime fp32"] is None
    assert "foley-train convert" in states["onnxruntime int8"]


def environment_of(settings: Settings) -> dict[str, str]:
    names = ("data", "bundle", "device", "precision", "min_free_bytes")
    return {f"FOLEY_{name.upper()}": str(getattr(settings, name)) for name in names} | {"COLUMNS": "200"}


def run_doctor(settings: Settings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "doctor", *map(str, arguments)],
        env={**environment, **environment_of(settings)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=GENEROUS_SECONDS,
    )


def test_a_library_is_searched_and_its_index_described(
    indexed_settings: Settings, library_files: Path, tmp_path: Path
) -> None:
    file = library_files / "long.mp4"
    data = tmp_path / "data"  # a copy: the server of other tests may have the index open
    shutil.copytree(indexed_settings.data, data, ignore=shutil.ignore_patterns("lock"))
    result = run_doctor(indexed_settings.replace(data=data), file, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["clip"]["source"] == str(file)
    assert found["clip"]["stages"][-1]["stage"] == "search"
    assert found["index"]["num_segments"] >= 8
    assert found["index"]["engine"] == "Qdrant Edge"
    assert found["memory"]["index_process"]["now_mib"] > 5


def test_a_table_for_people(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.operations.stopwatch.ROUNDS", 1)
    result = CliRunner().invoke(app, ["doctor"], env=environment_of(settings))
    assert result.exit_code == 0, result.stderr
    for text in (
        describe_landlock() or "confined by Landlock",
        "golden clip",
        "reproduced",
        "Qdrant Edge",
        "picture: open, decode, resize",
        "onnxruntime-cuda fp16",
    ):
        assert text in result.stdout


def test_an_index_in_use_is_no_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_examine_clip", lambda *_: None)
    bundle = load_bundle(settings.bundle)
    folder = index_folder(settings, bundle.bundle_id)
    with EmbeddedIndex.open(folder, layout=VectorLayout.of_both(16, 128), min_free_bytes=0):
        found = examine(settings).to_json()
    assert found["problems"] == []
    assert "unavailable" in found["index"]


def test_what_cannot_run_is_a_problem_and_the_rest_is_said(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings.replace(precision="int8")).to_json()
    assert "no int8 graphs beside it" in found["problems"][0]
    assert "provider" not in found["encoder"]
    assert "clip" not in found
    (tmp_path / "text.mp4").write_text("no media")
    said = examine(settings, files=[tmp_path / "text.mp4"]).to_json()["problems"]
    assert len(said) == 1
    assert str(tmp_path / "text.mp4") in said[0]


@pytest.mark.skipif(
    not has_bf16() or installed_version("openvino") is None, reason="needs bfloat16 and OpenVINO"
)
def test_agreement_is_measured_on_real_files(
    settings: Settings, library_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_examine_clip", lambda *_: None)
    files = [library_files / "long.mp4", library_files / "missing.mp4"]
    found = examine(settings.replace(precision="bf16"), files=files, measures=True).to_json()
    assert found["encoder"]["agreement"]["clips"] == "3 segments of 1 file"
    assert found["encoder"]["agreement"]["num_embeddings"] == 2 * 3 * 16
    assert found["problems"] == []
    assert [one["path"] for one in found["left_out"]] == [str(files[1])]


def test_files_that_cannot_be_read_are_left_out(
    settings: Settings, library_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where what is left is not enough, they are problems, each said once."""
    measured: list[ProbeClips | None] = []
    monkeypatch.setattr(doctor, "_measure_all", lambda *given: measured.append(given[-1]))
    (tmp_path / "text.mp4").write_text("no media")
    long = library_files / "long.mp4"
    found = examine(settings, files=[tmp_path / "text.mp4", long], measures=True).to_json()
    assert found["problems"] == []
    assert [one["path"] for one in found["left_out"]] == [str(tmp_path / "text.mp4")]
    assert found["clip"]["source"] == str(long)  # the first that can be read
    assert measured[0] is not None
    assert measured[0].description == "3 segments of 1 file"
    found = examine(settings, files=[tmp_path / "text.mp4"], measures=True).to_json()
    assert [problem.split(":")[0] for problem in found["problems"]] == [
        str(tmp_path / "text.mp4"),
        "fewer than 2 segments with picture and sound",
    ]


def test_one_segment_has_no_neighbour(
    settings: Settings, tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_examine_clip", lambda *_: None)
    monkeypatch.setattr(doctor, "_measure_all", lambda *_: None)
    write_golden_clip(load_bundle(bundle_path).golden(), tmp_path / "one.mp4", spec=ClipSpec())
    found = examine(settings, files=[tmp_path / "one.mp4"], measures=True).to_json()
    assert found["problems"] == ["fewer than 2 segments with picture and sound: measured on the golden clip"]


def test_the_golden_clip_as_a_file(tmp_path: Path, bundle_path: Path) -> None:
    write_golden_clip(load_bundle(bundle_path).golden(), tmp_path / "golden.mp4", spec=ClipSpec())
    info = probe_media(tmp_path / "golden.mp4")
    assert (info.width, info.height) == (640, 360)
    assert info.duration_seconds == pytest.approx(10, abs=0.2)
    assert info.has_audio


def test_advice(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(settings.bundle)
    monkeypatch.setattr(choice, "RANKING", [c for c in choice.RANKING if str(c) == "onnxruntime fp32"])
    encoder = Encoder(bundle, device="cpu")
    monkeypatch.setattr(doctor, "num_cores", lambda: 8)
    monkeypatch.setattr(doctor, "has_cuda_driver", lambda: False)

    def advice(**changes: object) -> list[str]:
        return advise(settings.replace(**changes), bundle, encoder)

    monkeypatch.setattr(
        doctor, "_obstacle", lambda candidate, _: None if "bf16" in str(candidate) else "not here"
    )
    monkeypatch.setattr(doctor, "installed_version", lambda _: "1")
    monkeypatch.setattr(doctor, "candidates", lambda **_: doctor.RANKING)
    assert advice(precision="auto") == []
    assert advice(precision="fp32") == ["FOLEY_PRECISION=auto may take openvino bf16"]
    assert advice(precision="auto", num_threads=2) == ["FOLEY_NUM_THREADS is 2 and there are 8 cores"]
    assert advice(precision="auto", num_threads=2, encode_runs=4) == []
    monkeypatch.setattr(doctor, "installed_version", lambda _: None)
    monkeypatch.setattr(doctor, "has_bf16", lambda: True)
    assert advice(precision="auto") == [
        "pip install 'foley-av[openvino]': bfloat16, which takes half the time of float32 on this processor"
    ]
    monkeypatch.setattr(doctor, "has_cuda_driver", lambda: True)
    assert advice(precision="auto", device="auto")[0].startswith(
        "this machine has a CUDA device that the encoder"
    )


def test_sealed_files_of_the_index_are_read_where_that_is_asked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(settings.bundle)
    width = bundle.manifest.embedding_width
    folder = index_folder(settings, bundle.bundle_id)
    config = ShardConfig(
        folder=folder, layout=VectorLayout.of_both(16, width), min_free_bytes=0, exact_below=50
    )
    with EmbeddedIndex(config) as index:
        index.write_asset(make_asset("a", make_tracks(100, seed=3, width=width)), is_last=True)
        index.optimize_aside()
    monkeypatch.setattr("service.operations.stopwatch.ROUNDS", 1)
    found = examine(settings, reads_index=True).to_json()
    assert found["problems"] == []
    assert found["index"]["num_files_read"] > 0
    sealed = max(folder.glob("shard.*/segments/**/matrix.dat"))
    with sealed.open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")
    next(folder.glob("shard.*.closed")).unlink()  # which knows small ones without being asked
    done = CliRunner().invoke(app, ["doctor", "--read-index", "--json"], env=environment_of(settings))
    assert done.exit_code == 1
    assert "its content is not what was sealed" in json.loads(done.stdout)["problems"][0]


def test_what_the_ledger_says_and_the_index_lacks_is_listed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is the second witness: an index that lost assets, or all of itself, opens without a word."""
    monkeypatch.setattr(doctor, "_examine_encoder", lambda diagnosis, *_: diagnosis.facts.update(encoder={}))
    release_id, bundle = active_release(settings)
    with Ledger.open(settings.data / LEDGER_NAME) as ledger:
        journal = LedgerJournal(ledger, ledger.create_job("index", {}).job.job_id, basis="")
        for number in range(12):
            row = FileRow(path=f"/m/{number:02}.wav", size_bytes=1, modified_ns=1, asset_id=f"{number:064x}")
            journal.end(row.ended("indexed", num_segments=1))
        journal.flush()
    assert examine(settings).to_json()["ledger"]["num_lost"] == 0, "control: without the ledger nothing shows"
    with memory_indexes():
        index = index_place(settings).open(bundle, release_id=release_id)
        tracks = make_tracks(1, seed=1, width=bundle.manifest.embedding_width)
        index.write_asset(make_asset(3, tracks, asset_id=f"{3:064x}"), is_last=True)
        index.close()
        for num_lost in (11, 12):
            found = examine(settings, find_lost=partial(find_lost, settings)).to_json()
            assert found["ledger"]["num_lost"] == num_lost
            assert found["ledger"]["lost"][0] == {"path": "/m/00.wav", "asset_id": "0" * 64}
            assert len(found["ledger"]["lost"]) == 10
            (problem,) = found["problems"]
            assert problem.startswith(f"the index lacks {num_lost} files that the ledger says are stored")
            index_place(settings).drop(release_id)
    console = Console(file=StringIO(), width=200)
    print_diagnosis(console, found)
    assert "12 files stored that the index lacks, such as" in console.file.getvalue()
