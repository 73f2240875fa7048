"""Shards whose tracks are rows of a codec: the same answers within the error, rows used again, damage noticed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from service.index.contract import Segment, VectorQuery
from service.index.draft import follow
from service.index.embedded import packed
from service.index.embedded.forms import TrackForm, fitting, read_storage
from service.index.embedded.messages import ShardConfig, Write
from service.index.embedded.shard import Shard
from service.index.failure import IndexDamaged, IndexFailure
from service.index.layout import VectorLayout
from service.index.points import point_id, to_points
from service.system.storage import STORAGES, Storage
from tests.support.index_contract import make_asset, make_id, make_segment, make_tracks

WIDTH = 96
LAYOUT = VectorLayout.of_both(16, WIDTH)
TRACKS = make_tracks(60, seed=1, clusters=6, width=WIDTH)
ERROR = {"float16": 2e-4, "fine": 3e-4, "compact": 3e-3}  # of a score

OpenShard = Callable[..., Shard]


@pytest.fixture
def open_shard(tmp_path: Path) -> Iterator[OpenShard]:
    opened: list[Shard] = []

    def open_one(storage: Storage = "fine", name: str = "a") -> Shard:
        config = ShardConfig(folder=tmp_path / name, layout=LAYOUT, min_free_bytes=0, storage=storage)
        config.folder.mkdir(exist_ok=True)
        opened.append(Shard(config))
        return opened[-1]

    yield open_one
    for shard in opened:
        with contextlib.suppress(Exception):  # the test closed it
            shard.close()


def write(shard: Shard, segments: list[Segment]) -> None:
    points = to_points(segments, layout=LAYOUT)
    draft = follow(None, segments[0], points[0]).extend(points)
    bodies = [draft.label(point) for point in points[1:]]
    one = Write(asset_id=segments[0].asset_id, bodies=bodies, head=draft.finish(), body_ids=draft.body_ids)
    assert shard.write([one]) == [None]


def rows_of(shard: Shard) -> tuple[int, int]:
    return len(shard._tracks), shard._tracks.num_free


def ask(shard: Shard, track: np.ndarray, limit: int = 60) -> dict[float, float]:  # type: ignore[type-arg]
    found = shard.search(VectorQuery(track=track, target="audio", limit=limit))
    return {match.start_seconds: match.score for match in found}


def test_each_kind_gives_the_same_scores_within_its_error(open_shard: OpenShard) -> None:
    scores = {}
    for storage in STORAGES:
        shard = open_shard(storage, storage)
        write(shard, make_asset("a", TRACKS))
        scores[storage] = [ask(shard, track) for track in make_tracks(4, seed=2, clusters=6, width=WIDTH)]
        assert shard.search(VectorQuery(track=TRACKS[0], target="video", limit=3)) == []
    for storage, found in scores.items():
        for mine, exact in zip(found, scores["float16"], strict=True):
            assert mine.keys() == exact.keys()
            off = [abs(mine[start] - exact[start]) for start in exact]
            assert np.mean(off) < ERROR[storage]
            assert next(iter(mine)) == next(iter(exact))


def test_what_a_shard_stores_it_keeps(open_shard: OpenShard, tmp_path: Path) -> None:
    shard = open_shard("compact")
    write(shard, make_asset("a", TRACKS[:2]))
    shard.close()
    meaning = json.loads((tmp_path / "a" / "index.json").read_text())
    assert meaning == {
        "version": 4,
        "tracks": {m: [16, WIDTH] for m in ("audio", "video")},
        "similarity": "cosine",
    }
    assert read_storage(tmp_path / "a" / "shard") == "compact"
    again = open_shard("fine")
    assert (again._tracks.holds_alone, len(ask(again, TRACKS[0]))) == (True, 2)
    again.close()
    note = tmp_path / "a" / "shard" / "storage.json"
    note.write_text('{"storage": "finer"}')
    (tmp_path / "a" / "shard.closed").unlink()
    with pytest.raises(IndexDamaged, match=r"storage 'finer', which this program does not know"):
        open_shard()


def test_an_index_of_before_stays_float16_and_of_its_version(open_shard: OpenShard, tmp_path: Path) -> None:
    shard = open_shard("float16")
    write(shard, make_asset("a", TRACKS[:2]))
    shard.close()
    meaning = (tmp_path / "a" / "index.json").read_text()
    assert json.loads(meaning)["version"] == 2
    again = open_shard("fine")
    assert not again._tracks.holds_alone
    assert (tmp_path / "a" / "index.json").read_text() == meaning


def test_rows_are_smaller_or_it_is_float16() -> None:
    assert fitting("fine", VectorLayout.of_both(16, 768)) == "fine"
    assert fitting("fine", VectorLayout(tracks={"audio": (1, 1024)})) == "fine"
    assert fitting("compact", VectorLayout(tracks={"audio": (16, 768), "video": (2, 2)})) == "float16"
    assert TrackForm(VectorLayout.of_both(1, 1024), "fine").codecs["audio"].row_bytes == 8 + 1024 + 512


def test_rows_of_what_is_gone_are_used_again(open_shard: OpenShard) -> None:
    shard = open_shard()
    for name in "ab":
        write(shard, make_asset(name, TRACKS[:10]))
    assert rows_of(shard) == (20, 0)
    write(shard, make_asset("a", TRACKS[10:14]))
    assert rows_of(shard) == (24, 10), "replaced segments and those beyond the last"
    assert shard.stale_share() == 0
    write(shard, make_asset("c", TRACKS[20:30]))
    assert rows_of(shard) == (24, 0)
    assert shard.delete_assets([make_id("b")]) == [10]
    assert rows_of(shard) == (24, 10)
    shard.close()
    again = open_shard()
    assert rows_of(again) == (24, 10)
    write(again, [make_segment("d", 0, audio_track=TRACKS[40], video_track=TRACKS[41])])
    assert rows_of(again) == (25, 9), "a file for each modality"
    for track, expected in (
        (TRACKS[12], make_id("a")),
        (TRACKS[25], make_id("c")),
        (TRACKS[40], make_id("d")),
    ):
        best = again.search(VectorQuery(track=track, target="audio", limit=1))[0]
        assert best.asset_id == expected
        assert best.score == pytest.approx(1, abs=1e-3)
    assert again.stale_share() == 0


def test_a_segment_that_is_written_again_is_found_by_what_it_is_now(
    open_shard: OpenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of points are remembered between searches, of some points."""
    monkeypatch.setattr(packed, "MAX_PLACES", 15)
    shard = open_shard()
    write(shard, make_asset("b", TRACKS[30:38]))
    for first in (0, 10, 20):
        write(shard, make_asset("a", TRACKS[first : first + 6]))
        for place in range(first, first + 6):
            best = shard.search(VectorQuery(track=TRACKS[place], target="audio", limit=14))[0]
            assert (best.asset_id, best.start_seconds) == (make_id("a"), 10.0 * (place - first))
            assert best.score == pytest.approx(1, abs=1e-3)
    write(shard, make_asset("c", TRACKS[40:44]))
    shard.delete_assets([make_id("a")])
    assert shard.search(VectorQuery(track=TRACKS[42], target="audio", limit=1))[0].asset_id == make_id("c")
    assert isinstance(shard._tracks, packed.PackedTracks)
    assert len(shard._tracks._places["audio"]) == 12, (
        "those of deleted points went with the others when it was full"
    )


def test_a_damaged_row_is_no_result_and_the_index_says_so(open_shard: OpenShard, tmp_path: Path) -> None:
    shard = open_shard()
    write(shard, make_asset("a", TRACKS[:12]))
    shard.close()
    path = tmp_path / "a" / "shard" / "audio.rows"
    damaged = bytearray(path.read_bytes())
    size = len(damaged) // 12
    (place,) = [
        n
        for n in range(12)
        if damaged[n * size + 4 : n * size + 20] == UUID(point_id(make_id("a"), 70.0)).bytes
    ]
    damaged[place * size + 200] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(IndexDamaged, match=r"audio\.rows is damaged: it is not what it was when"):
        open_shard()
    (tmp_path / "a" / "shard.closed").unlink()  # as after a kill
    again = open_shard()
    again.check()
    found = ask(again, TRACKS[7])
    assert len(found) == 11
    assert 70.0 not in found
    with pytest.raises(IndexDamaged, match="1 tracks of the index are damaged or lost"):
        again.check()
    with pytest.raises(IndexDamaged, match="1 audio tracks of the index are damaged"):
        again.read_segments(make_id("a"), 0, 12, ["audio_track"])
    assert len(again.read_segments(make_id("a"), 0, 7, ["audio_track"])) == 7


def test_lost_rows_are_noticed_when_it_opens(open_shard: OpenShard, tmp_path: Path) -> None:
    shard = open_shard()
    write(shard, make_asset("a", TRACKS[:12]))
    shard.close()
    (tmp_path / "a" / "shard.closed").unlink()
    path = tmp_path / "a" / "shard" / "audio.rows"
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    again = open_shard()
    with pytest.raises(IndexDamaged, match="has lost 4 tracks"):
        again.check()
    assert len(ask(again, TRACKS[0])) == 8


def test_tracks_in_any_form_become_rows_of_the_shard(open_shard: OpenShard) -> None:
    """A write that was on its way while the index was switched to another kind of storage."""
    segments = make_asset("a", TRACKS[:5])
    points = to_points(segments, layout=LAYOUT)
    for given in STORAGES:
        for storage in STORAGES:
            form = TrackForm(LAYOUT, storage)
            own = form.to_own(TrackForm(LAYOUT, given).to_own(points))
            for point, segment in zip(own, segments, strict=True):
                assert segment.audio_track is not None
                read = form.read(point.vectors["audio_track"], "audio")
                assert (read * segment.audio_track).sum(axis=1).mean() > 0.98
                assert point.vectors["audio_track"].dtype == (
                    np.float32 if storage == "float16" else np.uint8
                )


def test_a_packed_index_is_refused_by_programs_of_before(open_shard: OpenShard, tmp_path: Path) -> None:
    open_shard().close()
    with pytest.raises(IndexFailure, match=r"'version': 4.*asked for"):
        Shard(ShardConfig(folder=tmp_path / "a", layout=VectorLayout.of_both(16, 95), min_free_bytes=0))
