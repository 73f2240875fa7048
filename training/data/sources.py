"""Opens the data of `--data`: shards are read directly, anything else is decoded into a folder first.

segments = open_segments([Path("shards")], Path("run/decoded"), ClipSpec())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from models.media.clip import ClipSpec
from training.data.listing import BadListing, list_items
from training.data.segments import Segments, prepare
from training.data.sharded import ShardedSegments, is_sharded


def open_segments(
    paths: Sequence[Path],
    folder: Path,
    spec: ClipSpec,
    *,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Segments:
    """Open shards, or decode media; a folder that is already complete is used without change.

    Args:
        paths: Shards and folders of shards, or folders of media, media files and manifests.
        folder: Where decoded segments go; not made for shards.
        spec: What a segment looks like.
        num_workers: Decoding processes.
        on_progress: Called with the items decoded and their total.

    Returns:
        Segments with picture and sound.

    Raises:
        BadListing: If shards and media are mixed, a path does not exist, or a manifest cannot be read.
    """
    sharded = [path for path in paths if is_sharded(path)]
    if sharded and len(sharded) == len(paths):
        return ShardedSegments.open(paths, spec)
    if sharded:
        raise BadListing(
            f"{sharded[0]} is a shard, but other data is not: make shards of all data or of none"
        )
    return prepare(list_items(paths), folder, spec, num_workers=num_workers, on_progress=on_progress)
