"""The pipeline that takes files into an index: decode, encode and write at the same time.

    add(job) → decode workers, several chunks of a file at once → encode thread → write threads → ended job

One thread, the caller's, owns all state; the others (`service.library.stages`) take messages from queues and answer
with events, which `wait` handles. How many chunks are under way is counted, so memory is bounded whichever
stage is slow. Segments reach the index in order, and an asset exists there only when its last one is written.
"""

from __future__ import annotations

import queue
import time
from concurrent.futures import Future
from typing import Protocol

from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits, MediaInfo, NoStream, UnreadableClip
from service.decode.decoder import Decoder
from service.decode.lane import DecodeFailure, DecoderClosed
from service.encode.engines.contract import EncoderFailure
from service.encode.spool import CHUNK_SEGMENTS
from service.library.occupancy import Occupancy
from service.library.report import StageTimes
from service.library.scanning import UnusableFile, check_unchanged
from service.library.stages import (
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
)
from service.library.writing import Writers
from service.search.snapshot import Snapshot
from service.system.caller import Caller, CallerGone

MAX_UNWRITTEN = 32  # embedded chunks that may wait for the disk
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 60.0, 1800.0


class FilePipeline(Protocol):
    """What files are handed to."""

    @property
    def has_room(self) -> bool:
        """Whether another file may be added now."""

    @property
    def is_busy(self) -> bool:
        """Whether any file is under way."""

    @property
    def num_written_segments(self) -> int:
        """Segments that are durable in the index."""

    @property
    def stage_times(self) -> StageTimes:
        """How long each stage was at work since the first file."""

    def add(self, job: IncomingFile) -> None:
        """Start a file."""

    def wait(self) -> list[IncomingFile]:
        """Wait until something happens; the jobs that ended by it, often none."""


class Pipeline:
    """Takes files into an index. One thread calls it; leaving the `with` block stops what is under way.

    Args:
        snapshot: Encoder and index.
        decoder: Decodes the files.
        limits: What a file may ask of the decoder.
        stop: Who wants the work; when it leaves, in any thread, `wait` raises `CallerGone`.
    """

    def __init__(
        self, *, snapshot: Snapshot, decoder: Decoder, limits: DecodeLimits, stop: Caller | None = None
    ) -> None:
        self.num_written_segments = 0
        self._spec: ClipSpec = snapshot.spec
        self._caller = snapshot.caller
        self._stop = stop or Caller()
        self._decoder = decoder
        self._limits = limits
        self._max_chunks = decoder.num_workers + 3
        self._num_chunks = 0  # from the call to a worker until it is encoded
        self._num_unwritten = 0
        self._open_jobs: dict[IncomingFile, None] = {}  # in the order they were added
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._began_at: float | None = None
        self._decoding = Occupancy(decoder.num_workers)
        self._write = Writers(snapshot.index, self._events)
        self._spool = snapshot.spool
        self._encode = EncodeThread(snapshot.encoder, self._write, self._events, self._spool)
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
        return bool(self._open_jobs)

    @property
    def stage_times(self) -> StageTimes:
        """How long each stage was at work since the first file."""
        return StageTimes(
            decode_seconds=self._decoding.seconds,
            encode_seconds=self._encode.occupancy.seconds,
            write_seconds=self._write.occupancy.seconds,
            elapsed_seconds=0.0 if self._began_at is None else time.monotonic() - self._began_at,
        )

    def add(self, job: IncomingFile) -> None:
        """Start a file."""
        self._began_at = self._began_at or time.monotonic()
        self._open_jobs[job] = None
        self._submit(job)

    def wait(self) -> list[IncomingFile]:
        """Wait until something happens. What breaks the encoder or the index is raised.

        Returns:
            The jobs that ended by it, often none.

        Raises:
            CallerGone: If the one who wants the work leaves.
        """  # noqa: DOC502 - raised by `reraise`
        with self._stop.telling(self._wake):
            self._stop.check()
            event = self._events.get()
        match event:
            case Decoded():
                return self._take_decoded(event.job, event.chunk)
            case Encoded():
                self._num_chunks -= event.num_chunks
                self._num_unwritten += event.num_sent
            case Written():
                self._num_unwritten -= 1
                self.num_written_segments += event.num_segments
                if event.is_final:
                    return self._finish(event.job)
            case Refused():
                return self._fail(event.job, event.error)
            case Dropped():
                return self._finish(event.job)
            case Broken():
                event.reraise()
        self._top_up()
        return []

    def _wake(self) -> None:
        self._events.put(Broken(error=CallerGone("the work was cancelled")))

    def close(self) -> None:
        """Stop the threads after what they do at this moment. What is written stays."""
        if self._open_jobs:
            self._caller.leave()  # what waits for the encoder is dropped
        for job in self._open_jobs:
            for future in job.running.values():
                future.cancel()
        for stage in (self._encode, self._write):
            stage.stop()
        for stage in (self._encode, self._write):
            stage.join()

    # Decoding

    def _submit(self, job: IncomingFile) -> None:
        if self._resend(job):
            return
        chunk = job.next_submitted
        job.next_submitted += 1
        self._num_chunks += 1
        future = self._decoder.submit(
            job.found.path,
            self._spec,
            first=chunk * CHUNK_SEGMENTS,
            count=CHUNK_SEGMENTS,
            limits=self._limits,
            timeout_seconds=self._timeout_seconds(job),
        )
        job.running[chunk] = future
        self._decoding.enter()
        future.add_done_callback(lambda _: self._end_decoding(job, chunk))

    def _resend(self, job: IncomingFile) -> bool:
        """Write a chunk that an earlier run embedded, if there is another; they come before all that is decoded."""
        if job.spooled is None:
            job.spooled = iter(()) if self._spool is None else self._spool.read(job.asset_id)
        chunk = next(job.spooled, None)
        if chunk is None:
            return False
        job.next_submitted += 1
        job.next_forwarded += 1
        job.num_segments += chunk.num_clips
        facts = dict(chunk.media)
        job.is_partial = facts.pop("is_partial")
        job.info = MediaInfo(**facts)
        job.is_forwarded = chunk.is_final
        self._num_unwritten += 1
        self._write.put(Tracks(job=job, segments=chunk.segments, is_final=chunk.is_final, media=chunk.media))
        return True

    def _end_decoding(self, job: IncomingFile, chunk: int) -> None:
        self._decoding.leave()
        self._events.put(Decoded(job=job, chunk=chunk))

    def _timeout_seconds(self, job: IncomingFile) -> float:
        chunk_seconds = CHUNK_SEGMENTS * self._spec.segment_seconds
        # A container without an index is read from its start to reach a later chunk.
        media_seconds = max(chunk_seconds, (job.info and job.info.duration_seconds) or 0.0)
        return min(max(MIN_TIMEOUT_SECONDS, 2 * media_seconds), MAX_TIMEOUT_SECONDS)

    def _take_decoded(self, job: IncomingFile, chunk: int) -> list[IncomingFile]:
        future = job.running.pop(chunk)
        if job.error is not None or job.is_forwarded or future.cancelled():
            self._num_chunks -= 1
            self._top_up()
            return []
        job.decoded[chunk] = _outcome_of(future)
        ended = self._forward(job)
        self._top_up()
        return ended

    def _forward(self, job: IncomingFile) -> list[IncomingFile]:
        """Send the chunks that are decoded to the encoder, in order."""
        while not job.is_forwarded and job.next_forwarded in job.decoded:
            media = job.decoded.pop(job.next_forwarded)
            problem = self._accept(job, media) if isinstance(media, DecodedMedia) else media
            if problem is not None:
                self._num_chunks -= 1
                return self._fail(job, problem)
        if job.is_forwarded:
            self._abandon_chunks(job)
        return []

    def _accept(self, job: IncomingFile, media: DecodedMedia) -> FileError | None:
        """Send one chunk on; return what is wrong with the file instead, if anything is."""
        job.info = media.info  # the last one knows the measured duration
        job.is_partial = job.is_partial or media.is_partial
        if media.is_last and job.num_segments == 0 and not media.clips:
            return NoStream("no segment of the file could be decoded")
        try:
            check_unchanged(job.found)  # each chunk: what is kept of it must be of this content
        except UnusableFile as exc:
            return exc
        job.num_segments += len(media.clips)
        job.next_forwarded += 1
        job.is_forwarded = media.is_last
        self._encode.messages.put(
            Chunk(
                job=job,
                number=job.next_forwarded - 1,
                clips=media.clips,
                is_final=media.is_last,
                media=job.media(),
            )
        )
        return None

    def _abandon_chunks(self, job: IncomingFile) -> None:
        """Give back what was decoded or started beyond the end of the file."""
        self._num_chunks -= len(job.decoded)
        job.decoded.clear()
        for future in list(job.running.values()):
            future.cancel()

    def _top_up(self) -> None:
        """Start further chunks of long files, the earlier file first, while there is room."""
        for job in self._open_jobs:
            while self.has_room and self._wants_chunk(job):
                self._submit(job)

    def _wants_chunk(self, job: IncomingFile) -> bool:
        if job.error is not None or job.is_forwarded:
            return False
        if not job.running and not job.decoded:
            return True
        # Chunks ahead of the next one only where the header promises that they exist.
        duration_seconds = (job.info and job.info.duration_seconds) or 0.0
        return job.next_submitted * CHUNK_SEGMENTS * self._spec.segment_seconds < duration_seconds

    # Ends

    def _fail(self, job: IncomingFile, error: FileError) -> list[IncomingFile]:
        if job.error is not None:
            return []
        job.error = error
        self._abandon_chunks(job)
        if job.num_segments == 0:
            return self._finish(job)
        self._encode.messages.put(Drop(job=job))
        return []

    def _finish(self, job: IncomingFile) -> list[IncomingFile]:
        self._open_jobs.pop(job, None)
        if self._spool is not None and not _may_pass(job.error):
            self._spool.remove(job.asset_id)
        self._top_up()
        return [job]


def _may_pass(error: FileError | None) -> bool:
    """Whether a file failed for a reason that another attempt may not meet: that goes on where this one ended."""
    return isinstance(error, DecodeFailure | EncoderFailure)


def _outcome_of(future: Future[DecodedMedia]) -> DecodedMedia | FileError:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, DecoderClosed) or not isinstance(error, UnreadableClip | DecodeFailure):
        raise error
    return error
