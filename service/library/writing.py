"""The threads of the pipeline that write tracks to the index, each write durable before it is acknowledged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from service.index.contract import Index, Segment
from service.index.iteration import iter_segments, write_in_parts, write_patiently
from service.library.occupancy import Occupancy
from service.library.stages import (
    Adopt,
    Broken,
    Drop,
    Dropped,
    Event,
    IncomingFile,
    Refused,
    Tracks,
    Unforeseen,
    Written,
    blame_file,
)

WRITE_SEGMENTS = 64  # segments of one durable write at most
WRITERS = 8  # each waits for its write to be durable; an index that can makes those of all durable together


class Writers:
    """Threads that write; all segments of a file go through the same one, in order."""

    def __init__(self, index: Index, events: queue.SimpleQueue[Event]) -> None:
        self.occupancy = Occupancy(WRITERS)
        self._threads = [WriteThread(index, events, self.occupancy) for _ in range(WRITERS)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, message: Tracks | Adopt | Drop) -> None:
        """Hand a message to the thread of its file."""
        self._threads[int(message.file.asset_id[:8], 16) % WRITERS].messages.put(message)

    def stop(self) -> None:
        """End after the writes that run; waiting messages are dropped."""
        for thread in self._threads:
            thread.stop()

    def join(self) -> None:
        """Wait for the end."""
        for thread in self._threads:
            thread.join()


class WriteThread(threading.Thread):
    """Writes tracks to the index, up to 64 segments at a time; `messages` says what to do, in this order."""

    def __init__(self, index: Index, events: queue.SimpleQueue[Event], occupancy: Occupancy) -> None:
        super().__init__(name="write", daemon=True)
        self.messages: queue.SimpleQueue[Tracks | Adopt | Drop | None] = queue.SimpleQueue()
        self._occupancy = occupancy
        self._index = index
        self._events = events
        self._is_stopping = False
        self._waiting: dict[IncomingFile, list[Segment]] = {}  # the newest segments of incomplete files
        self._num_seen: dict[IncomingFile, int] = {}
        self._first_media: dict[IncomingFile, Mapping[str, Any]] = {}

    def run(self) -> None:
        """Take messages until `stop` is called."""
        try:
            while (message := self.messages.get()) is not None and not self._is_stopping:
                with self._occupancy.working():
                    if isinstance(message, Drop):
                        self._drop(message.file)
                    elif isinstance(message, Adopt):
                        self._adopt(message)
                    else:
                        self._take(message)
        except BaseException as exc:
            self._events.put(Broken(error=exc))

    def stop(self) -> None:
        """End after the write that runs; waiting messages are dropped."""
        self._is_stopping = True
        self.messages.put(None)

    def _adopt(self, message: Adopt) -> None:
        file = message.file
        try:
            write_in_parts(self._index, self._segments_of_twin(message))
            file.is_adopted = True
        except Exception as exc:
            error = blame_file(exc)
            file.is_refused = True
            self._events.put(Refused(file=file, error=error))
        self._events.put(Written(file=file, num_segments=0, is_final=file.is_adopted))

    def _segments_of_twin(self, message: Adopt) -> Iterator[Segment]:
        file, twin = message.file, self._index.get_asset(message.twin_id)
        num_read = 0
        if twin is not None:
            file.num_segments, file.is_partial = twin.num_segments, bool(twin.media.get("is_partial"))
            own = {
                name: message.facts[name]
                for name in ("container", "size_bytes", "modified_ns", "said", "sidecar")
            }
            media = {**twin.media, **own}
            for segment in iter_segments(self._index, twin):
                num_read += 1
                path = str(file.found.path)
                yield replace(segment, asset_id=file.asset_id, path=path, paths=(), media=media, metadata={})
        if (
            twin is None or num_read != twin.num_segments
        ):  # before the last write: what is written is not shown
            raise Unforeseen("the asset with the same sound and picture was removed: the file is decoded")

    def _take(self, tracks: Tracks) -> None:
        is_stored = not tracks.file.is_refused and self._store(tracks)
        num_segments = len(tracks.segments) if is_stored else 0
        is_final = is_stored and tracks.is_final
        self._events.put(Written(file=tracks.file, num_segments=num_segments, is_final=is_final))

    def _store(self, tracks: Tracks) -> bool:
        """Hand segments to the index; returns False if it refuses the file."""
        file = tracks.file
        waiting = self._waiting.setdefault(file, [])
        first_media = self._first_media.setdefault(file, tracks.media)
        try:
            waiting += self._to_segments(tracks)
            self._write(waiting, is_final=tracks.is_final)
            if (
                tracks.is_final and tracks.media != first_media
            ):  # the end of a long file showed its true length
                self._index.set_paths(file.asset_id, paths=[str(file.found.path)], media=tracks.media)
        except Exception as exc:
            error = blame_file(exc)
            file.is_refused = True
            self._events.put(Refused(file=file, error=error))
            return False
        if tracks.is_final:
            self._forget(file)
        return True

    def _to_segments(self, tracks: Tracks) -> list[Segment]:
        # Segments in which nothing decodes are left out: the numbers count those that are stored.
        first = self._num_seen.get(tracks.file, 0)
        self._num_seen[tracks.file] = first + len(tracks.segments)
        return [
            Segment(
                asset_id=tracks.file.asset_id,
                path=str(tracks.file.found.path),
                index=index,
                start_seconds=segment.start_seconds,
                end_seconds=segment.end_seconds,
                media=tracks.media,
                audio_track=segment.tracks.get("audio"),
                video_track=segment.tracks.get("video"),
            )
            for index, segment in enumerate(tracks.segments, start=first)
        ]

    def _write(self, waiting: list[Segment], *, is_final: bool) -> None:
        """Write all of a complete file; of others keep some back, because the last write needs at least one."""
        while len(waiting) > WRITE_SEGMENTS or (is_final and waiting):
            batch = waiting[:WRITE_SEGMENTS]
            write_patiently(self._index, batch, is_last=is_final and len(batch) == len(waiting))
            del waiting[:WRITE_SEGMENTS]

    def _drop(self, file: IncomingFile) -> None:
        self._forget(file)
        try:
            self._index.delete_asset(file.asset_id)
        except Exception as exc:  # what is unfinished is not shown, and swept away when the index is opened
            blame_file(exc)
        self._events.put(Dropped(file=file))

    def _forget(self, file: IncomingFile) -> None:
        self._waiting.pop(file, None)
        self._num_seen.pop(file, None)
        self._first_media.pop(file, None)
