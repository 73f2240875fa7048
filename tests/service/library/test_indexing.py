"""Indexing with real decode workers and a real encoder; the network is small, and the index is in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle, load_bundle
from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits, decode_segments
from service.decode.decoder import Decoder
from service.encode.encoder import Encoder
from service.encode.engines.contract import EncoderFailure
from service.index.contract import Asset, Index, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexFull
from service.index.layout import VectorLayout
from service.library.indexing import index_paths, library_limits
from service.library.options import RunOptions
from service.library.report import Counts, IndexReport, Progress
from service.search.snapshot import Snapshot
from service.system.settings import Settings
from tests.support.memory_index import MemoryIndex

Run = Callable[..., IndexReport]


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle, device="cpu")


class FaultyDecoder(Decoder):
    """A decoder whose worker meets a fate of its own at one file: the real process dies or hangs."""

    fates: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...], float]] = MappingProxyType({})

    def submit(self, path: Path | str, spec: ClipSpec, **kwargs: Any) -> Future[DecodedMedia]:
        if Path(path).name in self.fates:
            function, args, timeout_seconds = self.fates[Path(path).name]
            return self._enqueue(function, args, {}, timeout_seconds)
        return super().submit(path, spec, **kwargs)


@pytest.fixture(scope="module")
def decoder() -> Iterator[FaultyDecoder]:
    with FaultyDecoder(num_workers=2) as decoder:
        yield decoder


@pytest.fixture
def index(tmp_path: Path, bundle: Bundle) -> Iterator[Index]:
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(bundle.manifest)) as index:
        yield index


@pytest.fixture
def snapshot(bundle: Bundle, encoder: Encoder, index: Index) -> Snapshot:
    return Snapshot(encoder=encoder, index=index, bundle=bundle)


@pytest.fixture
def run(snapshot: Snapshot, decoder: Decoder) -> Run:
    def run(*paths: Path, **options: Any) -> IndexReport:
        return index_paths(paths, snapshot=snapshot, decoder=decoder, options=RunOptions(**options))

    return run


@pytest.fixture
def library(tmp_path: Path, library_files: Path) -> Path:
    """A private copy of four clips: 0 and 1, a silent one, a sound."""
    folder = tmp_path / "library"
    folder.mkdir()
    both = sorted(path for path in library_files.glob("0*.mp4") if "-" not in path.name)[:2]
    halves = [next(library_files.glob("*-picture.mp4")), next(library_files.glob("*-sound.m4a"))]
    for path in (*both, *halves):
        shutil.copy2(path, folder)
    return folder


def _assets(index: Index) -> dict[str, Asset]:
    return {asset.path: asset for asset in index.list_assets(limit=1000).assets}


def _failures(report: IndexReport) -> dict[str, str]:
    return {Path(failed.path).name: failed.code for failed in report.failed}


def test_a_folder_that_is_swapped_before_it_is_decoded(
    run: Run, index: Index, library: Path, decoder: FaultyDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was hashed is in the folder that stood there; what a link shows in its place is not decoded."""
    aside, outside = library.with_name("aside"), library.with_name("outside")
    shutil.copytree(library, outside)

    def submit(path: Path, spec: ClipSpec, **kwargs: Any) -> Future[DecodedMedia]:
        library.rename(aside)
        library.symlink_to(outside)
        try:
            future = FaultyDecoder.submit(decoder, path, spec, **kwargs)
            future.exception()
        finally:
            library.unlink()
            aside.rename(library)
        return future

    monkeypatch.setattr(decoder, "submit", submit)
    report = run(min(library.glob("0*.mp4")))
    assert [failed.code for failed in report.failed] == ["not_a_file"]
    assert _assets(index) == {}


def test_a_library_with_broken_files(run: Run, index: Index, library: Path) -> None:
    (library / "empty.webm").touch()
    (library / "text.mp4").write_text("no media at all " * 100)
    whole = sorted(library.glob("0*.mp4"))[0].read_bytes()
    (library / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (library / "notes.txt").write_text("hello")
    os.mkfifo(library / "pipe.mkv")
    report = run(library, library / "missing.mp4")
    assert report.files == Counts(indexed=5, failed=4)
    assert report.segments == Counts(indexed=5)
    assert report.num_ignored == 1
    assert report.partial == [str(library / "half.mp4")]
    assert _failures(report) == {
        "empty.webm": "empty",
        "missing.mp4": "not_found",
        "pipe.mkv": "not_a_file",
        "text.mp4": "not_media",
    }
    assert all(failed.reason for failed in report.failed)
    assert set(_assets(index)) == {str(path) for path in [*library.glob("0*"), library / "half.mp4"]}

    again = run(library)
    assert again.files == Counts(unchanged=5, failed=3)
    assert again.segments == Counts(unchanged=5)


def test_the_shared_media(run: Run, index: Index, shared_media: Path) -> None:
    report = run(shared_media)
    assert report.files == Counts(indexed=14, failed=2)
    assert _failures(report) == {"v17_zero_bytes.webm": "empty", "v30_truncated_nomoov.mp4": "not_media"}
    assets = {Path(path).name: asset for path, asset in _assets(index).items()}
    assert assets["v06_bbb_30s_vp8_vorbis.webm"].num_segments == 3
    assert assets["v26_monster_noaudio.mp4"].modalities == ("video",)
    assert assets["a28_vibeace_cover.mp3"].modalities == ("audio",)
    assert run(shared_media).files == Counts(unchanged=14, failed=2)


def test_a_long_file_in_chunks_is_the_same_as_in_one_piece(
    run: Run, index: Index, bundle: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    from training.corpus.recording import FRAME_RATE, SAMPLE_RATE_HZ, write_media

    rng = np.random.default_rng(1)
    frames = np.repeat(rng.integers(0, 255, (205, 64, 64, 3), dtype=np.uint8), FRAME_RATE, axis=0)
    samples = (0.1 * rng.standard_normal(205 * SAMPLE_RATE_HZ)).astype(np.float32)
    path = tmp_path / "long.mp4"
    write_media(path, frames=frames, samples=samples)
    assert run(path).segments == Counts(indexed=21)
    (asset,) = _assets(index).values()
    assert asset.num_segments == 21
    assert asset.media["is_duration_measured"]
    assert asset.media["duration_seconds"] == pytest.approx(205, abs=0.1)

    clips = decode_segments(path, bundle.manifest.clip_spec).clips
    for clip in (clips[0], clips[7], clips[8], clips[15], clips[16], clips[20]):
        for modality in ("audio", "video"):
            if modality == "audio":
                assert clip.samples is not None
                (track,) = encoder.encode_audio([clip.samples], [clip.num_heard])
            else:
                assert clip.frames is not None
                (track,) = encoder.encode_video([clip.frames])
            (match,) = index.search(VectorQuery(track=track, target=modality, limit=1))
            assert (match.start_seconds, match.end_seconds) == pytest.approx(
                (clip.start_seconds, clip.end_seconds), abs=0.05
            )
            # Tracks are stored in float16; sound after a seek is the same to 1e-3.
            assert match.score > 0.999


def test_a_moved_file_keeps_its_vectors(run: Run, index: Index, library: Path) -> None:
    run(library)
    old = next(library.glob("*-sound.m4a"))
    new = library / "sub" / "renamed.m4a"
    new.parent.mkdir()
    asset_id = _assets(index)[str(old)].asset_id
    old.rename(new)
    assert run(library).files == Counts(unchanged=4)
    assert _assets(index)[str(new)].asset_id == asset_id
    assert str(old) not in _assets(index)


def test_a_touched_file_is_read_once_more_and_not_again(run: Run, index: Index, library: Path) -> None:
    run(library)
    path = sorted(library.glob("0*"))[0]
    os.utime(path, ns=(5, 5))
    assert run(library).files == Counts(unchanged=4)
    assert _assets(index)[str(path)].media["modified_ns"] == 5


def test_a_changed_file_replaces_its_old_content(run: Run, index: Index, library: Path) -> None:
    run(library)
    first, second = sorted(path for path in library.glob("0*.mp4") if "-" not in path.name)
    old_id = _assets(index)[str(first)].asset_id
    first.write_bytes(
        next(library.glob("*-sound.m4a")).read_bytes() + b"\0" * 8
    )  # the same sound, other bytes
    report = run(library)
    assert report.files == Counts(indexed=1, unchanged=3)
    assert report.num_removed == 1
    assert index.get_asset(old_id) is None
    assert _assets(index)[str(first)].modalities == ("audio",)
    assert str(second) in _assets(index)


def test_old_content_moves_to_the_copy_that_still_has_it(run: Run, index: Index, library: Path) -> None:
    first, second = sorted(path for path in library.glob("0*.mp4") if "-" not in path.name)
    copy = library / "z-copy.mp4"
    shutil.copy(first, copy)
    assert run(library).files == Counts(indexed=4, unchanged=1)
    old_id = _assets(index)[str(first)].asset_id
    shutil.copy(second, first)
    report = run(library)
    assert report.files == Counts(unchanged=5)
    assert report.num_removed == 0
    assert _assets(index)[str(copy)].asset_id == old_id


def test_files_that_swap_their_contents_are_not_decoded_again(run: Run, index: Index, library: Path) -> None:
    run(library)
    first, second = sorted(path for path in library.glob("0*.mp4") if "-" not in path.name)
    before = _assets(index)
    first.rename(library / "aside")
    second.rename(first)
    (library / "aside").rename(second)
    report = run(library)
    assert (report.files, report.num_removed) == (Counts(unchanged=4), 0)
    after = _assets(index)
    assert after[str(first)].asset_id == before[str(second)].asset_id
    assert after[str(second)].asset_id == before[str(first)].asset_id


def test_a_copy_is_not_decoded_however_late_it_comes(run: Run, index: Index, library: Path) -> None:
    first = sorted(library.glob("0*.mp4"))[0]
    (library / "z").mkdir()
    for number in range(20):  # far more than are under way at a time
        shutil.copy(first, library / "z" / f"{number}.mp4")
    report = run(library)
    assert (report.files, report.num_copied) == (Counts(indexed=4, unchanged=20), 20)
    assert set(_assets(index)[str(first)].paths) == {str(first), *map(str, (library / "z").iterdir())}


def test_a_file_that_is_gone_is_left_alone(run: Run, index: Index, library: Path) -> None:
    run(library)
    next(library.glob("*-sound.m4a")).unlink()
    assert run(library).files == Counts(unchanged=3)
    assert len(_assets(index)) == 4


def test_copies_of_a_broken_file_are_all_reported(run: Run, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_text("the same text three times")
    report = run(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4")
    assert _failures(report) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "not_media")


def test_a_name_that_is_not_utf8(run: Run, index: Index, library: Path) -> None:
    odd = library / os.fsdecode(b"caf\xe9.mp4")
    sorted(library.glob("0*.mp4"))[0].rename(odd)
    (library / os.fsdecode(b"\xff.mp4")).touch()
    report = run(library)
    assert report.files == Counts(indexed=4, failed=1)
    assert report.failed[0].path == f"{library}/\\xff.mp4"
    assert str(odd) in _assets(index)
    assert run(library).files == Counts(unchanged=4, failed=1)


def test_a_worker_that_dies_or_hangs_costs_one_file(
    run: Run, decoder: FaultyDecoder, index: Index, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(path.name for path in library.glob("0*.mp4") if "-" not in path.name)
    fates = {
        first: (signal.raise_signal, (signal.SIGSEGV,), 20.0),
        second: (time.sleep, (60.0,), 1.0),
    }
    monkeypatch.setattr(decoder, "fates", fates)
    report = run(library)
    assert report.files == Counts(indexed=2, failed=2)
    assert _failures(report) == {first: "decoder_crashed", second: "decode_timed_out"}
    monkeypatch.undo()
    assert run(library).files == Counts(indexed=2, unchanged=2)


def test_a_later_chunk_that_fails_leaves_nothing_behind(
    run: Run, decoder: FaultyDecoder, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.corpus.recording import FRAME_RATE, write_media

    frames = np.zeros((300 * FRAME_RATE, 16, 16, 3), dtype=np.uint8)
    write_media(tmp_path / "long.mp4", frames=frames, samples=None)
    submit = Decoder.submit

    def fail_late(
        self: Decoder, path: Path, spec: ClipSpec, *, first: int, **kwargs: Any
    ) -> Future[DecodedMedia]:
        if first >= 24:
            return self._enqueue(signal.raise_signal, (signal.SIGKILL,), {}, 20.0)
        return submit(self, path, spec, first=first, **kwargs)

    monkeypatch.setattr(decoder, "submit", fail_late.__get__(decoder))
    report = run(tmp_path / "long.mp4")
    assert report.files == Counts(failed=1)
    assert report.segments == Counts(failed=24)
    assert _failures(report) == {"long.mp4": "decoder_crashed"}
    assert _assets(index) == {}
    assert index.info().num_segments == 0
    monkeypatch.undo()
    assert run(tmp_path / "long.mp4").segments == Counts(indexed=30)


def test_a_file_that_changes_under_our_hands(run: Run, index: Index, library: Path) -> None:
    path = sorted(library.glob("0*.mp4"))[0]

    def rewrite(progress: Progress) -> None:
        if progress.num_done == 0:
            path.write_bytes(path.read_bytes() + b"\0")

    report = run(path, on_progress=rewrite)
    assert _failures(report) == {path.name: "changed"}
    assert _assets(index) == {}


def test_a_file_that_is_too_long(run: Run, library_files: Path) -> None:
    report = run(library_files / "long.mp4", limits=DecodeLimits(max_duration_seconds=20.0))
    assert _failures(report) == {"long.mp4": "too_long"}


def test_a_full_disk_ends_the_run_with_its_name(
    tmp_path: Path, snapshot: Snapshot, decoder: Decoder, encoder: Encoder, library: Path
) -> None:
    EmbeddedIndex.open(
        tmp_path / "full", layout=VectorLayout.of(encoder.bundle.manifest), min_free_bytes=0
    ).close()
    floor = 2 * shutil.disk_usage(tmp_path).free
    with EmbeddedIndex.open(
        tmp_path / "full", layout=VectorLayout.of(encoder.bundle.manifest), min_free_bytes=floor
    ) as full:
        broken = Snapshot(encoder=encoder, index=full, bundle=snapshot.bundle)
        with pytest.raises(IndexFull):
            index_paths([library], snapshot=broken, decoder=decoder)
        assert _assets(full) == {}


class FaultyEncoder(Encoder):
    """An encoder that gives no embedding for sound of some lengths."""

    refused_lengths: frozenset[int] = frozenset()

    def encode_audio(
        self, samples: Sequence[NDArray[np.float32]], num_heard: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        if self.refused_lengths.intersection(map(len, samples)):
            raise EncoderFailure("the encoder gave a number that is not finite")
        return super().encode_audio(samples, num_heard)


def _write_tone(path: Path, num_samples: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, num_samples, "NONE", ""))
        file.writeframes((3000 * np.sin(np.arange(num_samples))).astype("<i2").tobytes())


def test_a_file_the_encoder_refuses_does_not_take_its_batch_with_it(
    bundle: Bundle, snapshot: Snapshot, decoder: Decoder, index: Index, tmp_path: Path
) -> None:
    folder = tmp_path / "tones"
    folder.mkdir()
    for number in range(6):
        _write_tone(folder / f"{number}.wav", 20_000 + number)
    faulty = FaultyEncoder(bundle, device="cpu")
    faulty.refused_lengths = frozenset({20_002})
    broken = Snapshot(encoder=faulty, index=index, bundle=snapshot.bundle)
    report = index_paths([folder], snapshot=broken, decoder=decoder)
    assert report.files == Counts(indexed=5, failed=1)
    assert report.segments == Counts(indexed=5, failed=1)
    assert _failures(report) == {"2.wav": "encoder_failed"}

    # When it refuses everything it is the encoder that is broken, and the run ends.
    for number in range(6):
        _write_tone(folder / f"{number}.wav", 30_000 + number)
    faulty.refused_lengths = frozenset(range(30_000, 30_006))
    with pytest.raises(EncoderFailure, match="not finite"):
        index_paths([folder], snapshot=broken, decoder=decoder)


def test_stopping_keeps_what_is_done_and_going_on_completes_it(run: Run, index: Index, library: Path) -> None:
    for number in range(60):  # far more than are under way at a time
        _write_tone(library / f"{number}.wav", 20_000 + number)

    def stop(progress: Progress) -> None:
        if progress.num_done >= 1:
            raise KeyboardInterrupt

    report = run(library, on_progress=stop)
    assert report.is_interrupted
    assert report.files.indexed >= 1
    num_stored = len(_assets(index))
    assert report.files.indexed <= num_stored < 64
    assert run(library).files == Counts(indexed=64 - num_stored, unchanged=num_stored)


def test_progress_tells_the_truth(run: Run, library: Path) -> None:
    (library / "empty.mp4").touch()
    told: list[Progress] = []
    run(library, on_progress=told.append)
    assert told[0].num_files == 5
    assert [p.num_done for p in told] == sorted(p.num_done for p in told)
    assert (told[-1].num_done, told[-1].num_failed, told[-1].num_segments) == (5, 1, 4)
    assert told[-1].left_seconds == pytest.approx(0.0)
    assert told[-1].segments_per_second > 0


def test_the_shard_process_may_die_in_the_middle(
    snapshot: Snapshot, decoder: Decoder, encoder: Encoder, library: Path, tmp_path: Path
) -> None:
    with EmbeddedIndex.open(
        tmp_path / "embedded", layout=VectorLayout.of(encoder.bundle.manifest), min_free_bytes=0
    ) as index:
        first_pid = index.shard_pid

        def kill_process(progress: Progress) -> None:
            if progress.num_done >= 1 and index.shard_pid == first_pid:  # files may end several at once
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first_pid, 9)

        embedded = replace(snapshot, index=index)
        options = RunOptions(on_progress=kill_process)
        report = index_paths([library], snapshot=embedded, decoder=decoder, options=options)
        assert report.files == Counts(indexed=4)
        assert len(_assets(index)) == 4
        assert index.shard_pid != first_pid


def test_limits_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, max_library_seconds=60, max_frame_width=100, max_channels=2)
    assert library_limits(settings) == DecodeLimits(
        max_duration_seconds=60, max_frame_width=100, max_frame_height=4320, max_streams=32, max_channels=2
    )


def test_the_report_as_json(run: Run, library: Path) -> None:
    (library / "empty.mp4").touch()
    report = run(library).to_json()
    assert report.pop("seconds") > 0
    assert set(report.pop("stages")) == {
        "decode_seconds",
        "encode_seconds",
        "write_seconds",
        "elapsed_seconds",
        "slowest",
        "slowest_share",
    }
    assert report == {
        "files": {"indexed": 4, "unchanged": 0, "failed": 1},
        "segments": {"indexed": 4, "unchanged": 0, "failed": 0},
        "failed": [
            {"path": str(library / "empty.mp4"), "code": "empty", "reason": "the file is empty: 0 bytes"}
        ],
        "quarantined": [
            {
                "path": str(library / "empty.mp4"),
                "code": "empty",
                "reason": "the file is empty: 0 bytes",
                "attempts": 1,
            }
        ],
        "partial": [],
        "linked_folders": [],
        **dict.fromkeys(
            ("moved", "copied", "retagged", "deleted", "removed_assets", "ignored", "unsettled"), 0
        ),
    }
