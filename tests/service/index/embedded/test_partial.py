"""A copy of a shard that was cut off is resumed where it was, and never once the shard has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.index.contract import VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.embedded.messages import ShardConfig
from service.index.embedded.partial import FILE_NAME, Partial
from service.index.embedded.shard import Shard
from service.index.failure import IndexUnavailable
from service.system.storage import Storage
from tests.service.index.embedded.test_packed import LAYOUT, TRACKS, write
from tests.support.embedded import open_index
from tests.support.index_contract import make_asset, make_id

COPY = Partial(shard="shard.1", storage="fine", offset="")


@pytest.fixture
def open_shard(tmp_path: Path) -> Iterator[Callable[..., Shard]]:
    opened: list[Shard] = []

    def open_one(shard: str | None = None, storage: Storage = "float16") -> Shard:
        config = ShardConfig(folder=tmp_path, layout=LAYOUT, min_free_bytes=0, shard=shard, storage=storage)
        opened.append(Shard(config))
        return opened[-1]

    yield open_one
    for shard in opened:
        kill(shard)


def kill(shard: Shard) -> None:
    """Let go of the files of a shard, and write nothing."""
    shard.end_copy()
    shard._edge.close()


def copy_pages(answering: Shard, builder: Shard, offset: str | None, num_pages: int) -> str | None:
    for _ in range(num_pages):
        offset = answering.copy_page(offset, 2)
        changes = answering.roll_copy()
        assert changes is not None
        builder.replay(changes)
        if offset is None:
            break
    return offset


def test_a_copy_goes_on_where_it_was(open_shard: Callable[..., Shard], tmp_path: Path) -> None:
    answering = open_shard()
    write(answering, make_asset("a", TRACKS[:9]))
    assert answering.begin_copy(0, "fine") == (9, None)
    builder = open_shard("shard.1", "fine")
    offset = copy_pages(answering, builder, None, 2)
    assert offset is not None
    builder.flush()
    note = replace(COPY, offset=offset)
    answering.note_copy(note)
    copy_pages(answering, builder, offset, 1)  # beyond the note: copied again
    for killed in (answering, builder):
        kill(killed)
    again = open_shard()
    assert (tmp_path / "shard.1").is_dir(), "it is spared when the index opens"
    assert again.begin_copy(0, "fine") == (9, note)
    following = open_shard("shard.1", "compact")  # it keeps the kind that it has
    assert following.info().num_segments == 6
    assert copy_pages(again, following, offset, 9) is None
    assert following.info().num_segments == 9
    assert following.stale_share() == 0
    for track in TRACKS[:9]:
        query = VectorQuery(track=track, target="audio", limit=1)
        (exact,), (found,) = again.search(query), following.search(query)
        assert found.start_seconds == exact.start_seconds
        assert found.score == pytest.approx(exact.score, abs=1e-3)


def test_a_change_ends_it(open_shard: Callable[..., Shard], tmp_path: Path) -> None:
    answering = open_shard()
    write(answering, make_asset("a", TRACKS[:4]))
    note = replace(COPY, offset=make_id("x")[:8])
    (tmp_path / "shard.1").mkdir()
    answering.begin_copy(0, "fine")
    answering.note_copy(note)
    assert answering.begin_copy(0, "fine")[1] == note
    assert answering.begin_copy(0, "compact")[1] is None, "of another kind"
    answering.note_copy(note)
    assert json.loads((tmp_path / FILE_NAME).read_text())["shard"] == "shard.1"
    answering.set_facts(make_id("a"), {"written_at_seconds": 1.0})
    assert not (tmp_path / FILE_NAME).exists()
    answering.note_copy(note)
    assert not (tmp_path / FILE_NAME).exists(), "the copy lacks the change if it is cut off"
    kill(answering)
    open_shard()
    assert not (tmp_path / "shard.1").exists()


def test_an_index_is_stored_in_another_way_while_it_answers(tmp_path: Path) -> None:
    """There and back, by one rename each; a switch that fails leaves what was."""
    with open_index(tmp_path, layout=LAYOUT) as index:
        for name in range(3):
            index.write_asset(make_asset(name, TRACKS[20 * name : 20 * name + 20]), is_last=True)
        query = VectorQuery(track=TRACKS[25], target="audio", limit=5)
        before = index.search(query)
        copied: list[tuple[int, int]] = []
        index.store_as("compact", on_copied=lambda done, whole: copied.append((done, whole)))
        assert copied[-1] == (60, 60)
        _check(index, "compact", tmp_path, before, off=5e-3)
        index.write_asset(make_asset("late", TRACKS[:2]), is_last=True)
        index.optimize_aside()
        assert index.storage == "compact", "a rebuild keeps it"
        index.delete_asset(make_id("late"))
        index.store_as("float16")
        _check(index, "float16", tmp_path, before, off=5e-3)
        index._shard.retire()
        with pytest.raises((IndexUnavailable, Exception)):
            index.store_as("fine")
    with open_index(tmp_path, layout=LAYOUT) as index:
        _check(index, "float16", tmp_path, before, off=5e-3)


def _check(index: EmbeddedIndex, storage: Storage, folder: Path, before: list, *, off: float) -> None:  # type: ignore[type-arg]
    assert index.storage == storage
    found = index.search(VectorQuery(track=TRACKS[25], target="audio", limit=5))
    assert found[0].start_seconds == before[0].start_seconds
    assert [match.score for match in found] == pytest.approx([match.score for match in before], abs=off)
    assert len(list(folder.glob("shard*/segments"))) == 1, "the old shard is removed"
    assert json.loads((folder / "index.json").read_text())["version"] == 4
    assert index.count_assets() == 3
