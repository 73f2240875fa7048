"""A shard's table of contents: the position and checksum of each file of each sample.

`foley-train shard` leaves the table beside the shard as JSON; where it is missing, the shard is read once to make it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from training.data.packing import member_names

HEADER_BYTES = 512
"""Header of a member of a tar archive, and what its bytes are filled up to."""


FACTS: dict[str, Callable[[Any], Any]] = {
    "path": str,
    "labels": list,
    "start_seconds": float,
    "end_seconds": float,
    "num_samples": int,
    "gain": float,
}
"""What the JSON of a sample must say."""


class Member(NamedTuple):
    """The position, size and checksum of a file in an archive."""

    offset: int
    data: bytes


class BrokenShard(ValueError):
    """A shard is damaged, missing, or not one of ours."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The index of a set of shards.

    Attributes:
        num_segments: Segments in all shards.
        shards: `name`, `bytes`, `sha256` and `num_segments` of each, in order.
        failed: `path` and `reason` of what could not be read.
        num_left_out: Segments left out because their sound is silence or nothing changes in their picture.
    """

    num_segments: int
    shards: tuple[dict[str, Any], ...]
    failed: tuple[dict[str, str], ...]
    num_left_out: int = 0


def read_index(folder: Path) -> ShardIndex:
    """Read the index of a complete set of shards.

    Args:
        folder: Of the shards.

    Returns:
        Its index.

    Raises:
        BrokenShard: If there is no index, or the set is not complete.
    """
    path = folder / "index.json"
    if not path.exists():
        raise BrokenShard(f"{folder} has no index.json: it is not a folder of shards")
    index = json.loads(path.read_text())
    if not index["is_complete"]:
        raise BrokenShard(f"the shards in {folder} are not complete; run foley-train shard again")
    return ShardIndex(
        num_segments=index["num_segments"],
        shards=tuple(index["shards"]),
        failed=tuple(index["failed"]),
        num_left_out=sum(index.get("left_out", {}).values()),
    )


def shard_listing(path: Path) -> Path:
    """Name the file that lists a shard.

    Args:
        path: The shard.

    Returns:
        The file beside it.
    """
    return path.with_suffix(".json")


def read_listing(path: Path) -> dict[str, Any] | None:
    """Read the table of a shard.

    Args:
        path: The shard.

    Returns:
        What `scan_shard` found when it was written; None where the table or the shard is missing or cut short.
    """
    listing = shard_listing(path)
    if not (path.exists() and listing.exists()):
        return None
    shard: dict[str, Any] = json.loads(listing.read_text())
    return shard if shard["bytes"] == path.stat().st_size else None


def tar_bytes(members: Iterable[bytes]) -> int:
    """Count the bytes that files take in an archive.

    Args:
        members: Contents of the files.

    Returns:
        Bytes, headers included.
    """
    return sum(HEADER_BYTES + -(-len(data) // HEADER_BYTES) * HEADER_BYTES for data in members)


def scan_shard(path: Path, num_moments: int) -> dict[str, Any]:
    """Read a shard from end to end and list it.

    Args:
        path: The archive.
        num_moments: Frames of a segment.

    Returns:
        `name`, `bytes`, `sha256` and `segments`: of each its facts, and `offsets`, `sizes` and `crc32` of its members,
        in the order of `member_names`.

    Raises:
        BrokenShard: If it is no archive, or a sample lacks a member.
    """
    segments: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            for key, members in _samples(file):
                segments.append(_list_sample(members, num_moments, where=f"{path}, sample {key}"))
    except (tarfile.TarError, OSError) as exc:
        raise BrokenShard(f"{path} is not a whole tar archive: {exc}") from exc
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "segments": segments}


def _samples(file: BinaryIO) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members of each sample of an archive, which stand together, by the endings of their names."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        files = (entry for entry in tar if entry.isfile())
        for key, entries in groupby(files, key=lambda entry: entry.name.partition(".")[0]):
            members = {}
            for entry in entries:
                content = tar.extractfile(entry)
                assert content is not None
                members[entry.name.partition(".")[2]] = Member(entry.offset_data, content.read())
            yield key, members


def _list_sample(members: dict[str, Member], num_moments: int, *, where: str) -> dict[str, Any]:
    names = member_names(num_moments)
    missing = [name for name in names if name not in members]
    if missing:
        raise BrokenShard(f"{where} has no {', '.join(missing)}")
    try:
        facts = json.loads(members["json"].data)
        kept = {name: kind(facts[name]) for name, kind in FACTS.items()}
        kept["num_heard"] = int(facts.get("num_heard", kept["num_samples"]))  # shards of before do not say it
    except (ValueError, KeyError, TypeError) as exc:
        raise BrokenShard(f"{where} has a JSON that is not ours: {exc!r}") from exc
    ordered = [members[name] for name in names]
    return {
        **kept,
        "offsets": [member.offset for member in ordered],
        "sizes": [len(member.data) for member in ordered],
        "crc32": [zlib.crc32(member.data) for member in ordered],
    }
