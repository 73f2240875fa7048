"""Items to segments with sound and picture, decoded in processes that may crash or hang without harm to the rest.

Results come in the order of the items, and only a few items are in memory at a time, however long the list or a file.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool
from PIL import Image, UnidentifiedImageError

from models.media.clip import Clip, ClipSpec, DecodeLimits, UnreadableClip, decode_segments, segment_bounds
from models.media.frame import crop_square
from models.media.stillness import is_still
from training.data.listing import Item

logger = logging.getLogger(__name__)

Work = TypeVar("Work")

SEGMENTS_AT_A_TIME = 16
"""Segments of one file that are decoded and handed over together: 50 MB."""
CHUNKS_AHEAD = 4
"""Files, or such parts of one, that are on their way for each process."""
MAX_SECONDS = 600.0
"""How long one handful of segments may take to decode before its process is killed."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An item that gave nothing, or not all of itself, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Chunk(Generic[Work]):
    """Some segments of an item.

    Attributes:
        results: What the work made of each one with both modalities.
        is_last: Whether the item has no more.
        num_segments: How many the whole item has, as far as its header says.
        num_left_out: Segments with both modalities that are left out, because one of them tells nothing.
        failure: Why the item ends here, where it should not.
    """

    results: list[Work] = field(default_factory=list)
    is_last: bool = True
    num_segments: int = 0
    num_left_out: int = 0
    failure: str | None = None


class UnreadablePicture(UnreadableClip):
    """A picture beside a sound file is not there or does not decode."""

    code = "unreadable_picture"


def decode_item(item: Item, spec: ClipSpec, *, first: int, count: int = SEGMENTS_AT_A_TIME) -> Chunk[Clip]:
    """Decode some segments of an item.

    Args:
        item: A media file, or a sound file with pictures; of the latter the first segment.
        spec: How to decode.
        first: First segment, from 0.
        count: The most segments.

    Returns:
        The segments with both modalities.
    """
    if item.path is not None:
        decoded = decode_segments(item.path.resolve(), spec, first=first, count=count)
        clips, is_last = decoded.clips, decoded.is_last
        num_segments = len(segment_bounds(decoded.info.duration_seconds or 0.0, spec))
    else:
        assert item.wav is not None
        sound = decode_segments(item.wav.resolve(), spec, count=1, modalities={"audio"})
        clips = tuple(_add_frames(clip, item, spec) for clip in sound.clips)
        is_last, num_segments = True, 1
    pairs = [clip for clip in clips if clip.frames is not None and clip.samples is not None]
    return Chunk(results=pairs, is_last=is_last, num_segments=num_segments)


def _add_frames(clip: Clip, item: Item, spec: ClipSpec) -> Clip:
    """Of F pictures at even distances, moment i sees the one that is on screen then: picture floor(i · F / T)."""
    files = item.frames
    if not files:
        raise UnreadablePicture(f"{item.frame_folder}/frame_0 is not there")
    numbers = (
        np.arange(spec.num_moments) * len(files) // spec.num_moments
    )  # 10 pictures → 0 0 1 1 2 3 3 4 5 5 …
    squares = {number: read_picture(files[number], spec.frame_size) for number in set(numbers.tolist())}
    frames = np.stack([squares[number] for number in numbers.tolist()])
    return replace(
        clip,
        frames=frames,
        is_static=is_still(frames),
        frame_times_seconds=clip.start_seconds
        + numbers * (clip.end_seconds - clip.start_seconds) / len(files),
    )


def read_picture(path: Path, size: int) -> NDArray[np.uint8]:
    """Read a picture file as the square that the encoder sees.

    Args:
        path: A JPEG or PNG file.
        size: Side of the square, in pixels.

    Returns:
        uint8, shape (size, size, 3), RGB.

    Raises:
        UnreadablePicture: If it is not there, is no such picture, or is damaged or too large.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as picture:
            DecodeLimits().check_frame_size(*picture.size)
            return crop_square(np.asarray(picture.convert("RGB")), size)
    except UnidentifiedImageError as exc:
        raise UnreadablePicture(f"{path} is neither JPEG nor PNG") from exc
    except (OSError, ValueError, Image.DecompressionBombError) as exc:
        raise UnreadablePicture(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _work_on_chunk(
    item: Item,
    first: int,
    *,
    spec: ClipSpec,
    work: Callable[[Clip], Work],
    first_only: bool,
    telling_only: bool,
) -> Chunk[Work]:
    """Runs in a process of the pool."""
    try:
        pairs = decode_item(item, spec, first=first, count=1 if first_only else SEGMENTS_AT_A_TIME)
    except UnreadableClip as exc:
        return Chunk(failure=f"{exc.code}: {exc}")
    clips = [clip for clip in pairs.results if not (telling_only and (clip.is_silent or clip.is_static))]
    return Chunk(
        results=[work(clip) for clip in clips],
        is_last=first_only or pairs.is_last,
        num_segments=pairs.num_segments,
        num_left_out=len(pairs.results) - len(clips),
    )


@dataclass
class _Lane(Generic[Work]):
    """One process with a pool of its own: of several in one pool, one that is killed may take their pipe with it."""

    pool: ProcessPool
    futures: list[Future[Chunk[Work]]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Self]:
        """Start a lane; its process ends with the block, whatever it does then."""
        pool = ProcessPool(max_workers=1, context=get_context("spawn"))
        try:
            yield cls(pool)
        finally:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def num_waiting(self) -> int:
        self.futures = [future for future in self.futures if not future.done()]
        return len(self.futures)

    def submit(self, task: Callable[[Item, int], Chunk[Work]], item: Item, first: int) -> Future[Chunk[Work]]:
        future: Future[Chunk[Work]] = self.pool.schedule(task, args=(item, first), timeout=MAX_SECONDS)
        self.futures.append(future)
        return future


@dataclass
class _Task(Generic[Work]):
    """Some segments of an item to work on; the future is there once they are on their way."""

    number: int
    first: int
    future: Future[Chunk[Work]] | None = None


class _Schedule(Generic[Work]):
    """Tasks in the order in which their results are needed, a few of them submitted ahead.

    Args:
        num_items: Items there are; of each the first segments are wanted.
        submit: Sends some segments of an item, from the first of them on, to a process.
        num_ahead: Tasks on their way.
    """

    def __init__(
        self, num_items: int, submit: Callable[[int, int], Future[Chunk[Work]]], num_ahead: int
    ) -> None:
        self._coming = iter(range(num_items))
        self._submit = submit
        self._num_ahead = num_ahead
        self._waiting: deque[_Task[Work]] = deque()

    def __iter__(self) -> Iterator[_Task[Work]]:
        while True:
            missing = max(0, self._num_ahead - len(self._waiting))
            self._waiting.extend(_Task(number, 0) for number in islice(self._coming, missing))
            for task in islice(self._waiting, self._num_ahead):
                task.future = task.future or self._submit(task.number, task.first)
            if not self._waiting:
                return
            yield self._waiting.popleft()

    def go_on(self, task: _Task[Work], num_segments: int) -> None:
        """Put what follows a task before everything else: a long file keeps all processes busy.

        Args:
            task: What was done last.
            num_segments: What its item has, as far as is known; the next ones are tried in any case.
        """
        if not (self._waiting and self._waiting[0].number == task.number):
            first = task.first + SEGMENTS_AT_A_TIME
            parts = range(first, max(num_segments, first + 1), SEGMENTS_AT_A_TIME)
            self._waiting.extendleft(_Task(task.number, part) for part in reversed(parts))

    def end(self, task: _Task[Work]) -> None:
        """Drop the waiting tasks of the same item.

        Args:
            task: The last of its item.
        """
        while self._waiting and self._waiting[0].number == task.number:
            self._waiting.popleft()


def work_on_pairs(
    items: Sequence[Item],
    spec: ClipSpec,
    work: Callable[[Clip], Work],
    *,
    num_workers: int,
    first_only: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_left_out: Callable[[str, int], None] | None = None,
) -> Iterator[tuple[int, Work] | Failure]:
    """Decode every segment that has sound and picture and do some work on it there and then.

    Args:
        items: What to decode.
        spec: How to decode.
        work: A function of a module, called in another process with each segment.
        num_workers: Processes.
        first_only: Whether only the first segment of each item is looked at.
        on_progress: Called with the items done and their total.
        on_left_out: If given, segments with silence or a picture that never changes are left out: any picture, or any
            sound, would do for them. It is called with the name of each item that has some, and how many.

    Yields:
        The number of each segment's item and what the work made of it, in the order of items and time; and a failure
        for each item that could not be read to its end, or has no such segment.
    """
    telling_only = on_left_out is not None
    call = partial(_work_on_chunk, spec=spec, work=work, first_only=first_only, telling_only=telling_only)
    nothing = (
        "its first segment lacks picture or sound" if first_only else "no segment has both picture and sound"
    )
    with contextlib.ExitStack() as stack:
        lanes: list[_Lane[Work]] = [stack.enter_context(_Lane.open()) for _ in range(num_workers)]
        schedule: _Schedule[Work] = _Schedule(
            len(items),
            lambda number, first: min(lanes, key=_Lane.num_waiting).submit(call, items[number], first),
            num_workers * CHUNKS_AHEAD,
        )
        num_found = num_left_out = 0
        for task in schedule:
            chunk = _take(task)
            yield from ((task.number, result) for result in chunk.results)
            num_found += len(chunk.results)
            num_left_out += chunk.num_left_out
            if not chunk.is_last:
                schedule.go_on(task, chunk.num_segments)
                continue
            schedule.end(task)
            name = items[task.number].name
            if num_left_out and on_left_out is not None:
                on_left_out(name, num_left_out)
                nothing_here = "every segment has silence or a picture that never changes"
            else:
                nothing_here = nothing
            reason = chunk.failure or ("" if num_found else f"no_pair: {nothing_here}")
            if reason:
                part = "the rest of " if num_found else ""
                logger.info("skipped %s%s: %s", part, name, reason)
                yield Failure(path=name, reason=reason)
            num_found = num_left_out = 0
            if on_progress:
                on_progress(task.number + 1, len(items))


def _take(task: _Task[Work]) -> Chunk[Work]:
    """Wait for a chunk; a process that died or hung costs its item only."""
    assert task.future is not None
    try:
        return task.future.result()
    except ProcessExpired as exc:
        return Chunk(failure=f"crash: the decoder ended with exit code {exc.exitcode}")
    except TimeoutError:
        return Chunk(failure=f"too_slow: not decoded within {MAX_SECONDS:g} s")
