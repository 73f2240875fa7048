from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset

from models.media.clip import ClipSpec
from tests.support.paths import REPOSITORY
from training.data.archive import BrokenShard, read_index, read_listing, scan_shard
from training.data.listing import Item, list_items
from training.data.packing import Packing, decode_flac
from training.data.segments import NoTrainingData, PairedSegments, prepare
from training.data.sharded import ShardedSegments
from training.data.shards import AnotherSet, write_shards

SHARD_BYTES = 1_100_000
"""Two synthetic clips."""


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(list_items([corpus]), folder, ClipSpec(), Packing(), shard_bytes=SHARD_BYTES, num_workers=1)
    return folder


def test_a_name_that_is_no_utf8_is_in_shards_and_in_segments(corpus: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\xfe caf\xe9.mp4")
    os.link(next(corpus.glob("[0-9]*.mp4")), odd)
    (tmp_path / "\udcff.mp4").touch()
    items = list_items([tmp_path])
    write_shards(items, tmp_path / "shards", ClipSpec(), Packing(), num_workers=1)
    index = read_index(tmp_path / "shards")
    assert [failed["path"] for failed in index.failed] == [rf"{tmp_path}/\xff.mp4"]
    segments = prepare(items, tmp_path / "prepared", ClipSpec(), num_workers=1)
    shown = rf"{tmp_path}/\xff\xfe caf\xe9.mp4"
    assert set(ShardedSegments.open([tmp_path / "shards"]).paths) == set(segments.paths) == {shown}


def test_shards_hold_every_segment_and_stay_below_their_size(shards: Path, segments: PairedSegments) -> None:
    index = read_index(shards)
    assert index.num_segments == len(segments)
    assert {f["path"]: f["reason"] for f in index.failed} == {f["path"]: f["reason"] for f in segments.failed}
    assert len(index.shards) > 1
    for number, shard in enumerate(index.shards):
        assert shard["name"] == f"shard-{number:06d}.tar"
        assert shard["bytes"] == (shards / shard["name"]).stat().st_size <= SHARD_BYTES + 20_480
    assert sum(shard["num_segments"] for shard in index.shards) == len(segments)
    assert not list(shards.glob(".*.part"))


def test_webdataset_reads_them(shards: Path, segments: PairedSegments) -> None:
    last = len(read_index(shards).shards) - 1
    urls = f"{shards}/shard-{{000000..{last:06d}}}.tar"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the collector
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{row:09d}" for row in range(len(segments))]
    for row, sample in enumerate(samples):
        assert sample["json"]["path"] == segments.paths[row]
        assert tuple(sample["json"]["labels"]) == segments.labels[row] != ()
        assert sample["json"]["num_samples"] == segments.lengths[row]
        assert (sample["json"]["start_seconds"], sample["json"]["end_seconds"]) == (0.0, 10.0)
        for moment in range(16):
            error = sample[f"{moment:02d}.jpg"].astype(float) - segments.frames[row, moment]
            assert np.sqrt(np.square(error).mean()) < 4
        heard = decode_flac(sample["flac"])
        assert np.abs(heard - segments.samples_of(row)[: len(heard)]).max() <= 2.0**-23


def test_a_complete_set_is_left_as_it_is_and_another_one_is_refused(shards: Path, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.glob("shard-*")}
    items = list_items([corpus])
    again = write_shards(items, shards, ClipSpec(), Packing(), shard_bytes=SHARD_BYTES)
    assert again == read_index(shards)
    assert {path: path.stat().st_mtime_ns for path in shards.glob("shard-*")} == before
    for change, message in (
        ({"packing": Packing(sample_bits=16)}, "with other packing"),
        ({"items": items[1:]}, "with other items"),
        ({"spec": ClipSpec(num_moments=8), "shard_bytes": 5}, "with other spec and shard_bytes"),
    ):
        wanted = {
            "items": items,
            "spec": ClipSpec(),
            "packing": Packing(),
            "shard_bytes": SHARD_BYTES,
            **change,
        }
        with pytest.raises(AnotherSet, match=f"holds shards {message}; choose another folder"):
            write_shards(
                wanted["items"], shards, wanted["spec"], wanted["packing"], shard_bytes=wanted["shard_bytes"]
            )


def test_shards_of_somebody_else_are_not_touched(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "theirs.tar").write_bytes(b"x")
    with pytest.raises(AnotherSet, match=r"holds shards without an index\.json"):
        write_shards(list_items([corpus]), tmp_path, ClipSpec(), Packing())


def test_nothing_to_pack_is_an_error(tmp_path: Path, corpus: Path) -> None:
    items = [Item(path=corpus / "broken.mp4")]
    with pytest.raises(NoTrainingData, match="none of 1 files has a segment with both"):
        write_shards(items, tmp_path, ClipSpec(), Packing(), num_workers=1)


@pytest.mark.parametrize("killed_after", [2, 4])
def test_a_killed_command_goes_on_after_the_last_whole_shard(
    shards: Path, corpus: Path, tmp_path: Path, killed_after: int
) -> None:
    script = f"""
def kill(done, total):
    if done == {killed_after}:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":  # the decoding process imports this file, too
    import os, signal
    from pathlib import Path
    from models.media.clip import ClipSpec
    from training.data.listing import list_items
    from training.data.packing import Packing
    from training.data.shards import write_shards
    write_shards(list_items([Path({str(corpus)!r})]), Path({str(tmp_path / "set")!r}), ClipSpec(), Packing(),
                 shard_bytes={SHARD_BYTES}, num_workers=1, on_progress=kill)
"""
    (tmp_path / "shard.py").write_text(script)
    root = REPOSITORY
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "shard.py")],
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(BrokenShard, match="are not complete; run foley-train shard again"):
        read_index(tmp_path / "set")
    whole = sorted((tmp_path / "set").glob("shard-*.json"))
    assert len(whole) == (killed_after - 1) // 2
    before = [path.stat().st_mtime_ns for path in whole]
    done: list[tuple[int, int]] = []
    write_shards(
        list_items([corpus]),
        tmp_path / "set",
        ClipSpec(),
        Packing(),
        shard_bytes=SHARD_BYTES,
        num_workers=1,
        on_progress=lambda *at: done.append(at),
    )
    assert [path.stat().st_mtime_ns for path in whole] == before
    assert done[-1] == (len(list_items([corpus])), len(list_items([corpus])))
    assert read_index(tmp_path / "set") == read_index(shards)  # sizes and checksums, too


def test_a_shard_without_its_table_is_read_to_make_it(shards: Path) -> None:
    path = shards / "shard-000000.tar"
    table = read_listing(path)
    assert table is not None
    scanned = scan_shard(path, 16)
    assert {key: table[key] for key in scanned} == scanned


def test_what_is_no_shard_of_ours_is_an_error(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "cut.tar").write_bytes((shards / "shard-000000.tar").read_bytes()[:300_000])
    with pytest.raises(BrokenShard, match=r"cut\.tar is not a whole tar archive"):
        scan_shard(tmp_path / "cut.tar", 16)
    for name, members, message in (
        ("pictures", {"jpg": b"x", "cls": b"3"}, r"sample 7 has no 00\.jpg, .*flac, json"),
        (
            "facts",
            {**{f"{i:02d}.jpg": b"x" for i in range(16)}, "flac": b"x", "json": b"{}"},
            "is not ours: KeyError",
        ),
    ):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar"), encoder=False) as tar:
            tar.write({"__key__": "7", **members})
        with pytest.raises(BrokenShard, match=message):
            scan_shard(tmp_path / f"{name}.tar", 16)


def test_a_folder_without_an_index_is_none_of_shards(tmp_path: Path) -> None:
    with pytest.raises(BrokenShard, match="it is not a folder of shards"):
        read_index(tmp_path)
