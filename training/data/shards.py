"""Media to WebDataset shards: every segment decoded once to 16 JPEG frames and FLAC sound, a sixth of the arrays.

    write_shards(list_items([Path("vggsound.csv")]), Path("shards"), ClipSpec(), Packing())

    shards/shard-000000.tar      any WebDataset reader reads it: see training.data.packing for the members
    shards/shard-000000.json     where each member lies, with checksums: random access, and where to go on after a kill
    shards/index.json            the set: how it was made, its shards, what could not be read; complete or not

    webdataset.WebDataset("shards/shard-{000000..000041}.tar").decode("rgb8")

A shard has its name only once it is whole. Called again, it goes on after the last whole shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from webdataset import TarWriter

from models.media.clip import ClipSpec
from training.data.archive import ShardIndex, read_index, read_listing, scan_shard, shard_listing, tar_bytes
from training.data.files import only_one, written_whole
from training.data.listing import Item
from training.data.packing import PackedSegment, Packing, pack_segment
from training.data.pairs import Failure, work_on_pairs
from training.data.segments import NoTrainingData

FORMAT = 1
"""Number of the layout of a set of shards."""
SHARD_BYTES = 1_000_000_000
"""The most bytes of a shard, of which there is one segment at least."""
Value = TypeVar("Value")


class AnotherSet(ValueError):
    """The folder holds shards of other media, or made another way."""


def write_shards(
    items: Sequence[Item],
    output: Path,
    spec: ClipSpec,
    packing: Packing,
    *,
    shard_bytes: int = SHARD_BYTES,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShardIndex:
    """Decode every segment with picture and sound into shards. A complete folder is not changed.

    Args:
        items: What to decode.
        output: Folder of the shards.
        spec: How to decode.
        packing: How to pack.
        shard_bytes: The most bytes of a shard.
        num_workers: Decoding processes.
        on_progress: Called with the items done and their total.

    Returns:
        What the shards hold.

    Raises:
        NoTrainingData: If no item has a segment with both modalities.
    """
    listed = json.dumps([item.to_json() for item in items]).encode()
    wanted = {
        "format": FORMAT,
        "items": hashlib.sha256(listed).hexdigest(),
        "spec": spec.to_json(),
        "packing": asdict(packing),
        "shard_bytes": shard_bytes,
    }
    output.mkdir(parents=True, exist_ok=True)
    with only_one(output):
        if not _start_or_check(output, wanted):
            work = partial(pack_segment, packing=packing, max_samples=spec.segment_samples)
            pile = _Pile(output, items, spec.num_moments, shard_bytes)
            pile.fill(
                lambda rest, done: work_on_pairs(
                    rest,
                    spec,
                    work,
                    num_workers=num_workers,
                    on_progress=on_progress and (lambda more, _: on_progress(done + more, len(items))),
                    on_left_out=lambda path, count: pile.newly_left_out.update({path: count}),
                )
            )
            if not pile.num_segments:
                raise NoTrainingData(f"none of {len(items)} files has a segment with both picture and sound")
            _write_json(output / "index.json", {"wanted": wanted, "is_complete": True, **pile.describe()})
    return read_index(output)


def _start_or_check(output: Path, wanted: dict[str, Any]) -> bool:
    """Return whether the folder holds the complete set; an empty folder gets the index of a new set."""
    path = output / "index.json"
    if path.exists():
        index = json.loads(path.read_text())
        differing = [key for key in wanted if index["wanted"].get(key) != wanted[key]]
        if differing:
            raise AnotherSet(
                f"{output} holds shards with other {' and '.join(differing)}; choose another folder"
            )
        return bool(index["is_complete"])
    if any(output.glob("*.tar")):
        raise AnotherSet(f"{output} holds shards without an index.json; choose another folder")
    _write_json(path, {"wanted": wanted, "is_complete": False})
    return False


class _Pile:
    """Writes shards one after the other, starting after those of an earlier process.

    Args:
        folder: Where they go.
        items: What they are made of.
        num_moments: Frames of a segment.
        shard_bytes: The most bytes of one.
    """

    def __init__(self, folder: Path, items: Sequence[Item], num_moments: int, shard_bytes: int) -> None:
        self.folder = folder
        self.items = items
        self.num_moments = num_moments
        self.shard_bytes = shard_bytes
        self.shards: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}  # until the last whole shard
        self.newly_failed: dict[str, str] = {}
        self.left_out: dict[str, int] = {}  # likewise
        self.newly_left_out: dict[str, int] = {}
        self.num_segments = 0
        self.last = (0, -1.0)  # item and start of the last segment that is in a whole shard
        while (shard := read_listing(self._path())) is not None:
            self._count(shard)

    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.shards):06d}.tar"

    def _count(self, shard: dict[str, Any]) -> None:
        number, start_seconds = shard["last"]
        self.last = number, start_seconds
        self.num_segments += len(shard["segments"])
        self.failed |= shard["failed"]
        self.left_out |= shard.get("left_out", {})
        entry = {name: shard[name] for name in ("name", "bytes", "sha256")}
        self.shards.append({**entry, "num_segments": len(shard["segments"])})

    def describe(self) -> dict[str, Any]:
        """Return the index of all shards."""
        failed = [
            {"path": path, "reason": reason} for path, reason in (self.failed | self.newly_failed).items()
        ]
        left_out = self.left_out | self.newly_left_out
        return {
            "num_segments": self.num_segments,
            "shards": self.shards,
            "failed": failed,
            "left_out": left_out,
        }

    def fill(
        self, pack: Callable[[Sequence[Item], int], Iterator[tuple[int, PackedSegment] | Failure]]
    ) -> None:
        """Write the missing shards.

        Args:
            pack: Packs the segments of the last items, of which so many come before.
        """
        first, last_start = self.last
        coming = _Peekable(
            (number + first, segment)
            for number, segment in self._note_failures(pack(self.items[first:], first))
            if number or segment.start_seconds > last_start  # the others are in the last shard already
        )
        while coming.has_more():
            self._write_shard(coming)

    def _note_failures(
        self, found: Iterator[tuple[int, PackedSegment] | Failure]
    ) -> Iterator[tuple[int, PackedSegment]]:
        for result in found:
            if isinstance(result, Failure):
                self.newly_failed[result.path] = result.reason
            else:
                yield result

    def _write_shard(self, coming: _Peekable[tuple[int, PackedSegment]]) -> None:
        """Write segments until the shard is full."""
        path = self._path()
        num_bytes = count = 0
        with written_whole(path) as file:
            with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
                for number, segment in coming:
                    item = self.items[number]
                    facts = {"path": item.name, "labels": list(item.labels), **segment.facts}
                    members = {**segment.members, "json": json.dumps(facts, ensure_ascii=False).encode()}
                    num_bytes += tar_bytes(members.values())
                    if count and num_bytes > self.shard_bytes:
                        coming.put_back((number, segment))
                        break
                    tar.write({"__key__": f"{self.num_segments + count:09d}", **members})
                    last, count = (number, segment.start_seconds), count + 1
            file.flush()
            shard = scan_shard(Path(file.name), self.num_moments)
        assert len(shard["segments"]) == count
        shard |= {"name": path.name, "last": last}
        shard |= {"failed": self.newly_failed, "left_out": self.newly_left_out}
        _write_json(shard_listing(path), shard)
        self._count(shard)
        self.newly_failed, self.newly_left_out = {}, {}


class _Peekable(Generic[Value]):
    """An iterator that takes its last value back.

    Args:
        values: What it gives.
    """

    def __init__(self, values: Iterator[Value]) -> None:
        self._values = values
        self._returned: list[Value] = []

    def __iter__(self) -> Iterator[Value]:
        while self.has_more():
            yield self._returned.pop()

    def has_more(self) -> bool:
        """Whether there is another value; it is fetched to find out."""
        if not self._returned:
            self._returned.extend(islice(self._values, 1))
        return bool(self._returned)

    def put_back(self, value: Value) -> None:
        """Give this value next.

        Args:
            value: What was given last.
        """
        self._returned.append(value)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(values).encode())
