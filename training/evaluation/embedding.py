"""Media to tracks with a frozen model: what evaluation and probes measure.

    embedder = open_embedder(Path("models/starter"))
    media = embed_data(embedder, [Path("corpus/heldout")], num_workers=2)
    media.audio.shape                                                        # (N, 16, 128)

Files are decoded in other processes while earlier ones are embedded.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.media.clip import ClipSpec
from training.data.listing import BadListing, Item, list_items
from training.data.pairs import Failure, work_on_pairs
from training.data.segments import NoTrainingData, Segments
from training.data.sharded import ShardedSegments, is_sharded
from training.evaluation.embedder import Embedder, Tracks

ROWS_AHEAD = 4
"""Segments on their way for each thread that reads: 3 MB each."""


class Recording(NamedTuple):
    """One segment with sound and picture, before it is embedded.

    Attributes:
        name: Its file.
        labels: What is true of it, in the words of its manifest.
        samples: Mono sound at 16 kHz, float32, shape (S,).
        num_heard: Samples until the sound ends.
        frames: uint8, shape (T, H, W, 3).
    """

    name: str
    labels: tuple[str, ...]
    samples: NDArray[np.float32]
    num_heard: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EmbeddedMedia:
    """Tracks of segments with sound and picture.

    Attributes:
        audio: Unit embeddings of the sound of each moment, float32, shape (N, T, D).
        video: Unit embeddings of its picture, float32, shape (N, T, D).
        names: The file of each segment.
        labels: What is true of each, in the words of its manifest.
        num_files: Files that were asked for.
        failed: Those that gave nothing, or not all of themselves.
    """

    audio: Tracks
    video: Tracks
    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    num_files: int
    failed: tuple[Failure, ...]


def embed_data(
    embedder: Embedder,
    paths: Sequence[Path],
    *,
    every_segment: bool = False,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddedMedia:
    """Embed the media given on a command line.

    Args:
        embedder: The frozen model.
        paths: Shards and folders of shards, or folders of media, media files and manifests.
        every_segment: Whether all segments of a file count, or only its first, as in the published protocol.
        num_workers: Processes that decode media, threads that read shards.
        on_progress: Called with what is done and the total.

    Returns:
        Tracks in the order of the paths.

    Raises:
        BadListing: If shards and media are mixed, a path does not exist, or a manifest cannot be read.
        BrokenShard: If a shard is damaged.
        NoTrainingData: If nothing has both picture and sound.
    """  # noqa: DOC502, DOC503 - raised by what it calls, too
    sharded = [path for path in paths if is_sharded(path)]
    if sharded and len(sharded) < len(paths):
        raise BadListing(f"{sharded[0]} is a shard, but other data is not: embed them one after the other")
    if sharded:
        return embed_prepared(
            embedder,
            ShardedSegments.open(paths),
            every_segment=every_segment,
            num_threads=num_workers,
            on_progress=on_progress,
        )
    return embed_media(
        embedder,
        list_items(paths),
        every_segment=every_segment,
        num_workers=num_workers,
        on_progress=on_progress,
    )


def embed_media(
    embedder: Embedder,
    items: Sequence[Item],
    *,
    every_segment: bool = False,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddedMedia:
    """Decode and embed the segments of files that have both sound and picture.

    Args:
        embedder: The frozen model.
        items: What to embed, as `list_items` lists it.
        every_segment: Whether all such segments of a file count; the published protocol takes its first one.
        num_workers: Processes that decode.
        on_progress: Called with the items done and their total.

    Returns:
        Tracks in the order of the items.
    """
    failed: list[Failure] = []

    def recordings() -> Iterator[Recording]:
        # copy.copy hands the clip over as it is; one of the standard library, it loads no torch in the other processes
        for found in work_on_pairs(
            items,
            ClipSpec(),
            copy.copy,
            num_workers=num_workers,
            first_only=not every_segment,
            on_progress=on_progress,
        ):
            if isinstance(found, Failure):
                failed.append(found)
                continue
            number, clip = found
            assert clip.samples is not None
            assert clip.frames is not None
            item = items[number]
            yield Recording(item.name, item.labels, clip.samples, clip.num_heard, clip.frames)

    return _embed(embedder, recordings(), num_files=len(items), failed=failed)


def embed_prepared(
    embedder: Embedder,
    segments: Segments,
    *,
    every_segment: bool = True,
    limit: int | None = None,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddedMedia:
    """Embed segments that are decoded already.

    Args:
        embedder: The frozen model.
        segments: What to embed.
        every_segment: Whether all segments of a file count, or only its first.
        limit: Only the first so many; None for all.
        num_threads: Threads that read.
        on_progress: Called with the segments done and their total.

    Returns:
        Tracks in the order of the segments.
    """
    rows = [
        row
        for row in range(len(segments))
        if every_segment or row == 0 or segments.paths[row] != segments.paths[row - 1]
    ][:limit]

    def read(row: int) -> Recording:
        samples = segments.samples_of(row)[: segments.lengths[row]]
        num_heard, frames = int(segments.heard[row]), segments.frames_of(row)
        return Recording(segments.paths[row], segments.labels[row], samples, num_heard, frames)

    def recordings() -> Iterator[Recording]:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="segments") as pool:
            coming = iter(rows)
            waiting = deque(pool.submit(read, row) for row in islice(coming, num_threads * ROWS_AHEAD))
            for done in range(1, len(rows) + 1):
                yield waiting.popleft().result()
                waiting.extend(pool.submit(read, row) for row in islice(coming, 1))
                if on_progress:
                    on_progress(done, len(rows))

    failed = [Failure(path=failure["path"], reason=failure["reason"]) for failure in segments.failed]
    num_files = len({*segments.paths, *(failure.path for failure in failed)})
    return _embed(embedder, recordings(), num_files=num_files, failed=failed)


def _embed(
    embedder: Embedder, recordings: Iterable[Recording], *, num_files: int, failed: list[Failure]
) -> EmbeddedMedia:
    audio, video = [], []
    names: list[str] = []
    labels: list[tuple[str, ...]] = []
    coming = iter(recordings)
    while batch := list(islice(coming, embedder.batch_size)):
        lengths = np.array([len(recording.samples) for recording in batch], np.int64)
        samples = np.zeros((len(batch), lengths.max()), np.float32)
        for row, recording in zip(samples, batch, strict=True):
            row[: len(recording.samples)] = recording.samples
        heard = np.array([recording.num_heard for recording in batch], np.int64)
        tracks = embedder.embed(samples, lengths, heard, np.stack([recording.frames for recording in batch]))
        audio.append(tracks[0])
        video.append(tracks[1])
        names += [recording.name for recording in batch]
        labels += [recording.labels for recording in batch]
    if not names:
        reason = f"; {failed[0].path}: {failed[0].reason}" if failed else ""
        raise NoTrainingData(f"none of {num_files} files has a segment with both picture and sound{reason}")
    return EmbeddedMedia(
        audio=np.concatenate(audio),
        video=np.concatenate(video),
        names=tuple(names),
        labels=tuple(labels),
        num_files=num_files,
        failed=tuple(failed),
    )
