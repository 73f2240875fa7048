from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.media.clip import ClipSpec
from models.network.geometry import TgdpConfig
from training.data.archive import BrokenShard
from training.data.batches import MomentBatches
from training.data.listing import BadListing, list_items
from training.data.packing import Packing
from training.data.segments import NoTrainingData, PairedSegments, Segments
from training.data.sharded import ShardedSegments, is_sharded
from training.data.shards import write_shards
from training.data.sources import open_segments

SHARD_BYTES = 1_100_000
"""Two synthetic clips."""


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(list_items([corpus]), folder, ClipSpec(), Packing(), shard_bytes=SHARD_BYTES, num_workers=1)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def sharded(folder: Path) -> ShardedSegments:
    return ShardedSegments.open([folder])


def test_rows_are_those_of_the_arrays(sharded: ShardedSegments, segments: PairedSegments) -> None:
    both: list[Segments] = [sharded, segments]
    assert len({len(one) for one in both}) == 1
    assert sharded.paths == segments.paths
    assert sharded.labels == segments.labels
    assert (sharded.lengths == segments.lengths).all()
    assert (sharded.heard == segments.heard).all()
    assert {f["path"] for f in sharded.failed} == {f["path"] for f in segments.failed}
    for row in range(len(segments)):
        assert np.abs(sharded.samples_of(row) - segments.samples_of(row)).max() <= 2.0**-23
        assert (sharded.frames_of(row)[5] == sharded.frames_at([row], [5])[0]).all()
        error = sharded.frames_of(row).astype(float) - segments.frames_of(row)
        assert np.sqrt(np.square(error).mean()) < 4


def test_a_batch_is_that_of_the_arrays(sharded: ShardedSegments, segments: PairedSegments) -> None:
    """float16 moves the arrays' log-mel by 1e-3, the last bit of 24 what is next to silence by a little more."""
    ours, theirs = (MomentBatches(one, TgdpConfig(), batch_size=4, seed=1) for one in (sharded, segments))
    for step in (0, 3):
        windows, frames = ours.at(step)
        expected_windows, expected_frames = theirs.at(step)
        assert (windows - expected_windows).abs().max() < 5e-3
        assert (windows - expected_windows).abs().mean() < 5e-4
        assert (frames.float() - expected_frames.float()).square().mean().sqrt() < 4
        again = MomentBatches(
            ShardedSegments.open([sharded.shards[0].parent]), TgdpConfig(), batch_size=4, seed=1
        )
        assert all(torch.equal(a, b) for a, b in zip(again.at(step), (windows, frames), strict=True))


def test_shards_open_one_by_one_and_without_their_index(copy: Path, sharded: ShardedSegments) -> None:
    archives = sorted(copy.glob("*.tar"))
    assert len(archives) == len(sharded.shards) > 1
    last = ShardedSegments.open([archives[-1]])
    assert last.paths == sharded.paths[-len(last) :]
    assert (last.frames_at([0], [3]) == sharded.frames_at([len(sharded) - len(last)], [3])).all()
    table = archives[-1].with_suffix(".json")
    before = json.loads(table.read_text())
    for row in before["segments"]:
        del row["num_heard"]  # of a version that did not say it: all of a segment is heard
    table.write_text(json.dumps(before))
    assert (ShardedSegments.open([archives[-1]]).heard == last.lengths).all()
    for file in copy.glob("*.json"):
        file.unlink()
    assert ShardedSegments.open([copy]).fingerprint == sharded.fingerprint
    assert last.fingerprint != sharded.fingerprint


def test_a_bit_that_flipped_is_an_error(copy: Path) -> None:
    damaged = ShardedSegments.open([copy])
    path = copy / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[damaged.offsets[1, 16] + 5000] ^= 1  # in the sound of row 1
    content[damaged.offsets[0, 7] + 300] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        BrokenShard, match=r"shard-000000\.tar, segment of .*: flac differs from what was written"
    ):
        damaged.windows_at([0, 1], [0, 0], 416)
    with pytest.raises(BrokenShard, match=r"segment of .*: 07\.jpg differs from what was written"):
        damaged.frames_at([1, 0], [7, 7])
    assert damaged.frames_at([1, 0], [7, 6]).any()


def test_a_shard_that_is_missing_or_cut_short_is_an_error(copy: Path) -> None:
    path = copy / "shard-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-512])
    with pytest.raises(BrokenShard, match=rf"shard-000001\.tar must have {len(content)} bytes, it has "):
        ShardedSegments.open([copy])
    path.unlink()
    with pytest.raises(BrokenShard, match=r"it has 0"):
        ShardedSegments.open([copy])
    with pytest.raises(BrokenShard, match=r"shard-000001\.tar does not exist"):
        ShardedSegments.open([path])


def test_a_set_that_is_not_complete_is_an_error(copy: Path) -> None:
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "is_complete": False}))
    with pytest.raises(BrokenShard, match="are not complete"):
        ShardedSegments.open([copy])


def test_a_segment_that_is_not_as_its_table_says_is_an_error(folder: Path) -> None:
    wrong = ShardedSegments.open([folder])
    wrong.lengths[0] -= 1
    with pytest.raises(BrokenShard, match="160000 samples instead of 159999"):
        wrong.samples_of(0)
    small = ShardedSegments.open([folder], ClipSpec(frame_size=112))
    with pytest.raises(BrokenShard, match=r"a frame of \(224, 224, 3\) instead of 112 x 112"):
        small.frames_at([0], [0])


def test_shards_are_told_from_media(folder: Path, corpus: Path, tmp_path: Path) -> None:
    assert is_sharded(folder)
    assert is_sharded(folder / "shard-000000.tar")
    assert not is_sharded(corpus)
    assert isinstance(open_segments([folder], tmp_path / "none", ClipSpec()), ShardedSegments)
    assert not (tmp_path / "none").exists()
    with pytest.raises(BadListing, match="is a shard, but other data is not"):
        open_segments([folder, corpus], tmp_path / "none", ClipSpec())


def test_media_are_decoded_into_the_folder(segments: PairedSegments, tmp_path: Path) -> None:
    opened = open_segments([Path(segments.paths[0])], tmp_path / "decoded", ClipSpec(), num_workers=1)
    assert opened.paths == segments.paths[:1]
    assert (tmp_path / "decoded" / "segments.json").exists()


def test_no_segment_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(bytes(10_240))
    with pytest.raises(NoTrainingData, match=r"no segment in .*empty\.tar"):
        ShardedSegments.open([tmp_path / "empty.tar"])
