"""The pipeline that takes files into an index: decode, encode and write at the same time.

    add(file) → decode workers, several chunks of a file at once → encode thread → write threads → ended file

One thread, the caller's, owns all state; the others (`service.library.stages`) take messages from queues and answer
with events, which `wait` handles. How many chunks are under way is counted, so memory is bounded whichever
stage is slow. Segments reach the index in order, and an asset exists there only when its last one is written.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits, MediaInfo, NoStream
from models.media.preview import join_parts
from service.decode.decoder import Decoder
from service.decode.lane import DecodeFailure
from service.encode.engines.contract import EncoderFailure
from service.encode.spool import chunk_segments
from service.library.object_cache import ObjectCache
from service.library.occupancy import Occupancy
from service.library.previews import Previews
from service.library.report import StageTimes
from service.library.said import read_again, read_sidecar, with_name
from service.library.scanning import FoundFile, check_unchanged
from service.library.stages import (
    Adopt,
    Broken,
    Chunk,
    Decoded,
    Drop,
    Dropped,
    Encoded,
    EncodeThread,
    Event,
    FileError,
    IncomingFile,
    Refused,
    Tracks,
    Written,
    blame_file,
)
from service.library.writing import Writers
from service.search.snapshot import Snapshot
from service.search.sources import embedded
from service.system.caller import Caller, CallerGone

MAX_UNWRITTEN = 32  # embedded chunks that may wait for the disk
MIN_HASH_RATE = 10e6  # bytes a second of a slow network disk
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 60.0, 1800.0


class Pipeline:
    """Takes files into an index. One thread calls it; leaving the `with` block stops what is under way."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        decoder: Decoder,
        limits: DecodeLimits,
        stop: Caller | None = None,
        previews: Previews | None = None,
        objects: ObjectCache | None = None,
    ) -> None:
        self.num_written_segments = 0
        self._bundle = snapshot.bundle
        self._spec: ClipSpec = snapshot.spec
        self._chunk_segments = chunk_segments(self._spec)
        self._caller = snapshot.caller
        self._stop = stop or Caller()
        self._decoder = decoder
        self._limits = limits
        self._previews = previews
        self._objects = objects
        self._max_chunks = decoder.num_workers + 3
        self._num_chunks = 0  # from the call to a worker until it is encoded
        self._num_unwritten = 0
        self._open_files: dict[IncomingFile, None] = {}  # in the order they were added
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._began_at: float | None = None
        self._decoding = Occupancy(decoder.num_workers)
        self._write = Writers(snapshot.index, self._events)
        self._spool = snapshot.spool
        self._encode = EncodeThread(
            snapshot.encoder, self._write, self._events, self._spool, snapshot.bundle.moments()
        )
        self._encode.start()
        self._write.start()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_room(self) -> bool:
        """Whether another file may be added now."""
        return self._num_chunks < self._max_chunks and self._num_unwritten < MAX_UNWRITTEN

    @property
    def is_busy(self) -> bool:
        """Whether any file is under way."""
        return bool(self._open_files)

    @property
    def stage_times(self) -> StageTimes:
        """How long each stage was at work since the first file."""
        return StageTimes(
            decode_seconds=self._decoding.seconds,
            encode_seconds=self._encode.occupancy.seconds,
            write_seconds=self._write.occupancy.seconds,
            elapsed_seconds=0.0 if self._began_at is None else time.monotonic() - self._began_at,
        )

    def add(self, file: IncomingFile) -> None:
        """Start a file."""
        self._began_at = self._began_at or time.monotonic()
        self._open_files[file] = None
        if self._objects is not None and file.found.stored is not None:
            self._objects.hold(file.asset_id)
            file.copy = self._objects.path(file.asset_id)
        file.previews = None if self._previews is None else []
        self._submit(file)

    def read_said(self, found: FoundFile, source: Path) -> dict[str, Any]:
        """See `service.library.said.read_again`."""
        return read_again(found, source, self._decoder, self._limits)

    def wait(self) -> list[IncomingFile]:
        """Wait for an event; the files that ended by it. Raises `CallerGone` if `stop` left, or what broke a stage."""
        with self._stop.telling(self._wake):
            self._stop.check()
            event = self._events.get()
        match event:
            case Decoded():
                return self._take_decoded(event.file, event.chunk)
            case Encoded():
                self._num_chunks -= event.num_chunks
                self._num_unwritten += event.num_sent
            case Written():
                self._num_unwritten -= 1
                self.num_written_segments += event.num_segments
                if event.is_final:
                    return self._finish(event.file)
            case Refused():
                return self._fail(event.file, event.error)
            case Dropped():
                return self._finish(event.file)
            case Broken():
                event.reraise()
        self._top_up()
        return []

    def _wake(self) -> None:
        self._events.put(Broken(error=CallerGone("the work was cancelled")))

    def close(self) -> None:
        """Stop the threads after their present step. What is written stays."""
        if self._open_files:
            self._caller.leave()  # what waits for the encoder is dropped
        for file in self._open_files:
            for future in file.running.values():
                future.cancel()
            self._release(file)
        for stage in (self._encode, self._write):
            stage.stop()
        for stage in (self._encode, self._write):
            stage.join()

    # Decoding

    def _submit(self, file: IncomingFile) -> None:
        try:
            if not self._resend(file):
                self._decode(file)
        except Exception as exc:
            file.is_refused = True
            self._events.put(Refused(file=file, error=blame_file(exc)))

    def _decode(self, file: IncomingFile) -> None:
        chunk = file.next_submitted
        future = self._decoder.submit(
            file.source,
            self._spec,
            first=chunk * self._chunk_segments,
            count=self._chunk_segments,
            modalities=embedded(self._bundle),
            limits=self._limits,
            timeout_seconds=self._timeout_seconds(file),
            hashes_packets=chunk == 0,
            with_preview=self._previews is not None,
            sidecar=b"" if chunk else read_sidecar(file.found),
            follows_links=False,
        )
        file.next_submitted += 1
        self._num_chunks += 1
        file.running[chunk] = future
        self._decoding.enter()
        future.add_done_callback(lambda _: self._end_decoding(file, chunk))

    def _resend(self, file: IncomingFile) -> bool:
        """Write the next chunk that an earlier run embedded, if there is one; these come before all others."""
        if file.spooled is None:
            file.spooled = iter(()) if self._spool is None else self._spool.read(file.asset_id)
        chunk = next(file.spooled, None)
        if chunk is None:
            return False
        file.next_submitted += 1
        file.next_forwarded += 1
        file.previews = None
        file.num_segments += chunk.num_clips
        facts = dict(chunk.media)
        file.is_partial, file.sidecar = facts.pop("is_partial"), facts.pop("sidecar", "")
        file.info = MediaInfo(**facts)
        file.is_forwarded = chunk.is_final
        self._num_unwritten += 1
        self._write.put(
            Tracks(file=file, segments=chunk.segments, is_final=chunk.is_final, media=chunk.media)
        )
        return True

    def _end_decoding(self, file: IncomingFile, chunk: int) -> None:
        self._decoding.leave()
        self._events.put(Decoded(file=file, chunk=chunk))

    def _timeout_seconds(self, file: IncomingFile) -> float:
        chunk_seconds = self._chunk_segments * self._spec.segment_seconds
        # A container without an index is read from its start to reach a later chunk.
        media_seconds = max(chunk_seconds, (file.info and file.info.duration_seconds) or 0.0)
        # With the first chunk all packets are hashed.
        hash_seconds = 0.0 if file.next_submitted else file.found.size_bytes / MIN_HASH_RATE
        return min(max(MIN_TIMEOUT_SECONDS, 2 * media_seconds) + hash_seconds, MAX_TIMEOUT_SECONDS)

    def _take_decoded(self, file: IncomingFile, chunk: int) -> list[IncomingFile]:
        future = file.running.pop(chunk)
        if file.error is not None or file.is_forwarded or future.cancelled():
            self._num_chunks -= 1
            self._top_up()
            return []
        file.decoded[chunk] = _outcome_of(future)
        ended = self._forward(file)
        self._top_up()
        return ended

    def _forward(self, file: IncomingFile) -> list[IncomingFile]:
        """Send the chunks that are decoded to the encoder, in order."""
        while not file.is_forwarded and file.next_forwarded in file.decoded:
            media = file.decoded.pop(file.next_forwarded)
            try:
                problem = self._accept(file, media) if isinstance(media, DecodedMedia) else media
            except Exception as exc:
                problem = blame_file(exc)
            if problem is not None:
                self._num_chunks -= 1
                return self._fail(file, self._explain(problem))
        if file.is_forwarded:
            self._abandon_chunks(file)
        return []

    def _explain(self, problem: FileError) -> FileError:
        """Say of a file without sound, or without picture, that the bundle embeds nothing else."""
        if isinstance(problem, NoStream) and len(embedded(self._bundle)) == 1:
            return NoStream(f"{problem}, and {self._bundle.bundle_id} embeds nothing else")
        return problem

    def _accept(self, file: IncomingFile, media: DecodedMedia) -> FileError | None:
        """Send a chunk to the encoder; returns what is wrong with the file instead, if anything is."""
        info = media.info if file.info else with_name(media.info, str(file.found.path))
        if file.copy is not None:
            info = replace(info, modified_ns=file.found.modified_ns)
        file.info = info.after(file.info)  # the last one knows the measured duration
        file.is_partial = file.is_partial or media.is_partial
        if media.is_last and file.num_segments == 0 and not media.clips:
            return NoStream("no segment of the file could be decoded")
        check_unchanged(file.found)  # for each chunk: it must be of this content
        if file.next_forwarded == 0 and (twin_id := file.find_twin(file.info.packets_hash)) is not None:
            file.next_forwarded, file.is_forwarded = 1, True
            self._num_chunks -= 1
            self._num_unwritten += 1
            self._write.put(Adopt(file=file, twin_id=twin_id, facts=file.media()))
            if self._previews is not None:
                file.previews = None
                self._previews.copy(file.asset_id, twin_id)
            return None
        if file.previews is not None and media.preview is not None:
            file.previews.append(media.preview)
        file.num_segments += len(media.clips)
        file.next_forwarded += 1
        file.is_forwarded = media.is_last
        number, facts = file.next_forwarded - 1, file.media()
        chunk = Chunk(file=file, number=number, clips=media.clips, is_final=media.is_last, media=facts)
        self._encode.messages.put(chunk)
        return None

    def _abandon_chunks(self, file: IncomingFile) -> None:
        """Drop what was decoded or started beyond the end of the file."""
        self._num_chunks -= len(file.decoded)
        file.decoded.clear()
        for future in list(file.running.values()):
            future.cancel()

    def _top_up(self) -> None:
        """Start further chunks of long files, the earlier file first, while there is room."""
        for file in self._open_files:
            while self.has_room and self._wants_chunk(file):
                self._submit(file)

    def _wants_chunk(self, file: IncomingFile) -> bool:
        if file.error is not None or file.is_refused or file.is_forwarded:
            return False
        if not file.running and not file.decoded:
            return True
        # Chunks ahead of the next one only if the header promises that they exist.
        duration_seconds = (file.info and file.info.duration_seconds) or 0.0
        return file.next_submitted * self._chunk_segments * self._spec.segment_seconds < duration_seconds

    # Ends

    def _fail(self, file: IncomingFile, error: FileError) -> list[IncomingFile]:
        if file.error is not None:
            return []
        file.error = error
        self._abandon_chunks(file)
        if file.num_segments == 0:
            return self._finish(file)
        self._encode.messages.put(Drop(file=file))
        return []

    def _finish(self, file: IncomingFile) -> list[IncomingFile]:
        if file in self._open_files:
            del self._open_files[file]
            self._release(file)
        if self._spool is not None and not _may_pass(file.error):
            self._spool.remove(file.asset_id)
        if self._previews is not None and file.previews and file.error is None and file.info is not None:
            self._previews.put(file.asset_id, join_parts(file.previews, file.info.duration_seconds))
        self._top_up()
        return [file]

    def _release(self, file: IncomingFile) -> None:
        if self._objects is not None and file.copy is not None:
            self._objects.release(file.asset_id)


class RehearsedPipeline:
    """A pipeline that reports every file as indexed, and does nothing."""

    has_room = True
    num_written_segments = 0
    stage_times = StageTimes()

    def __init__(self) -> None:
        self._files: deque[IncomingFile] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether a file waits."""
        return bool(self._files)

    def add(self, file: IncomingFile) -> None:
        """Take a file."""
        self._files.append(file)

    def read_said(self, found: FoundFile, source: Path) -> dict[str, Any]:
        """Nothing: it is not stored."""
        return {}

    def wait(self) -> list[IncomingFile]:
        """One file, as if it were stored."""
        return [self._files.popleft()]


def _may_pass(error: FileError | None) -> bool:
    """Whether a file failed for a reason that may pass: another attempt continues after the chunks that are kept."""
    return isinstance(error, DecodeFailure | EncoderFailure)


def _outcome_of(future: Future[DecodedMedia]) -> DecodedMedia | FileError:
    try:
        return future.result()
    except Exception as exc:
        return blame_file(exc)
