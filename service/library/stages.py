"""The pipeline's thread that encodes, and what all its threads send; `service.library.writing` has those that write.

Each thread takes messages in order, reports to the pipeline by events, and never waits for it. A file that the encoder
or the index refuses is marked at once: later chunks of it are skipped.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from models.bundle.bundle import MomentWeights
from models.media.clip import Clip, DecodedMedia, MediaInfo, PreviewPart, UnreadableClip
from service.decode.lane import DecodeFailure, DecoderClosed
from service.encode.batching import SegmentEncoder
from service.encode.embedding import EmbeddedSegment, embed_clips, weigh_moments
from service.encode.engines.contract import EncoderFailure
from service.encode.spool import Spool, SpooledChunk
from service.index.failure import IndexFailure, InvalidSegment, InvalidVector
from service.library.occupancy import Occupancy
from service.library.scanning import FoundFile, UnusableFile
from service.system.failure import Failure
from service.system.modality import Modality

logger = logging.getLogger(__name__)

BATCH_CLIPS = 16  # what the encoder is given at once; on a GPU that is one run
MAX_REFUSALS = 5  # after so many failures in a row the encoder itself is at fault
MODALITIES: tuple[Modality, ...] = ("audio", "video")

EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


class Unforeseen(Failure):
    """A step failed unexpectedly at one file; the log has the traceback."""

    code = "unforeseen"


FileError = UnreadableClip | DecodeFailure | EncoderFailure | IndexFailure | UnusableFile | Unforeseen


def blame_file(exc: Exception) -> FileError:
    """What is wrong with the file at which a step raised this; raises it if the machine or the job is at fault."""
    if isinstance(exc, DecoderClosed) or (isinstance(exc, OSError) and exc.errno in EXHAUSTED):
        raise exc
    if isinstance(
        exc, UnreadableClip | DecodeFailure | UnusableFile | InvalidVector | InvalidSegment | Unforeseen
    ):
        return exc
    if isinstance(exc, Failure):
        raise exc
    logger.error("a step failed at one file: %r", exc, exc_info=exc)
    text = f"{type(exc).__name__}: {exc}"
    return Unforeseen(text.encode("utf-8", "backslashreplace").decode())


@dataclass(eq=False, kw_only=True)
class IncomingFile:
    """One file on its way into the index."""

    asset_id: str
    found: FoundFile
    copy: Path | None = None  # of an object
    sidecar: str = ""  # stamp of the XMP file beside it
    info: MediaInfo | None = None  # None until the first chunk is decoded
    is_partial: bool = False  # less than 95 % of the declared duration could be decoded
    num_segments: int = 0  # sent to the encoder
    error: FileError | None = None
    is_refused: bool = False  # set by a stage that cannot take the file; it skips the rest
    is_forwarded: bool = False  # its last chunk went to the encoder
    is_adopted: bool = False  # it has the segments of an asset with the same sound and picture
    find_twin: Callable[[str | None], str | None] = lambda _: None  # the asset of that, by `packets_hash`
    previews: list[PreviewPart] | None = (
        None  # None: no preview is made, or what it needs was not decoded here
    )
    spooled: Iterator[SpooledChunk] | None = None  # of an earlier run, written first; None: not read yet
    next_submitted: int = 0  # the chunk to decode next
    next_forwarded: int = 0  # the chunk to encode next
    running: dict[int, Future[DecodedMedia]] = field(default_factory=dict)
    decoded: dict[int, DecodedMedia | FileError] = field(default_factory=dict)  # waiting for an earlier one

    @property
    def source(self) -> Path:
        """What is decoded."""
        return self.copy or self.found.source

    def media(self) -> dict[str, Any]:
        """Facts about the file that are stored with its segments, as JSON values."""
        facts: dict[str, Any] = {} if self.info is None else asdict(self.info)
        return {**facts, "is_partial": self.is_partial, "sidecar": self.sidecar}


@dataclass(eq=False)
class Waiting:
    """A content on its way into the index: the file it is read from, and others that have it too."""

    found: FoundFile
    copies: list[FoundFile]
    attempts: int  # failed ones so far, over all runs


# Messages: to the encode thread, and from there to the write thread


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Decoded segments of a file; the file ends with them if `is_final`."""

    file: IncomingFile
    number: int
    clips: Sequence[Clip]
    is_final: bool
    media: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Embedded segments of a file; it ends with them if `is_final`."""

    file: IncomingFile
    segments: Sequence[EmbeddedSegment]
    is_final: bool
    media: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Store a file with the segments of an asset that has the same sound and picture."""

    file: IncomingFile
    twin_id: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Remove what was written of a file that failed."""

    file: IncomingFile


# Events: to the pipeline


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A worker has ended its work on a chunk."""

    file: IncomingFile
    chunk: int


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The encoder took `num_chunks` chunks, and `num_sent` of them went on to be written."""

    num_chunks: int
    num_sent: int


@dataclass(frozen=True, kw_only=True)
class Written:
    """The index took a chunk; after the final one the asset is searchable."""

    file: IncomingFile
    num_segments: int
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The encoder or the index cannot take this file."""

    file: IncomingFile
    error: FileError


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Nothing of the file is left in the index."""

    file: IncomingFile


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A stage has failed and stopped."""

    error: BaseException

    def reraise(self) -> NoReturn:
        """Raise the error in the caller's thread, and never as that of one file."""
        if isinstance(self.error, Failure) or not isinstance(self.error, Exception):
            raise self.error
        raise Failure(f"a stage of the pipeline broke: {self.error!r}") from self.error


Event = Decoded | Encoded | Written | Refused | Dropped | Broken


class NextStage(Protocol):
    """Takes what was encoded."""

    def put(self, message: Tracks | Drop) -> None:
        """Take a message; never waits."""


class EncodeThread(threading.Thread):
    """Embeds chunks, small ones together, in order; the spool keeps what is embedded until its file is stored."""

    def __init__(
        self,
        encoder: SegmentEncoder,
        next_stage: NextStage,
        events: queue.SimpleQueue[Event],
        spool: Spool | None = None,
        moments: MomentWeights | None = None,
    ) -> None:
        super().__init__(name="encode", daemon=True)
        self.messages: queue.SimpleQueue[Chunk | Drop | None] = queue.SimpleQueue()
        self.occupancy = Occupancy()
        self._encoder = encoder
        self._next_stage = next_stage
        self._events = events
        self._spool = spool
        self._moments = moments
        self._is_stopping = False
        self._num_refusals = 0

    def run(self) -> None:
        """Take messages until `stop` is called."""
        try:
            while batch := self._take_batch():
                self._handle(batch)
        except BaseException as exc:
            self._events.put(Broken(error=exc))

    def stop(self) -> None:
        """End soon; waiting messages are dropped."""
        self._is_stopping = True
        self.messages.put(None)

    def _take_batch(self) -> list[Chunk | Drop]:
        """Wait for a message, and take those that wait behind it, until there are enough for the encoder."""
        batch: list[Chunk | Drop] = []
        num_clips = 0
        while num_clips < BATCH_CLIPS:
            try:
                message = self.messages.get(block=not batch)
            except queue.Empty:
                break
            if message is None or self._is_stopping:
                return []
            batch.append(message)
            num_clips += len(message.clips) if isinstance(message, Chunk) else 0
        return batch

    def _handle(self, batch: Sequence[Chunk | Drop]) -> None:
        chunks = [message for message in batch if isinstance(message, Chunk)]
        with self.occupancy.working():
            embedded = self._embed([chunk for chunk in chunks if not chunk.file.is_refused])
        for message in batch:
            if isinstance(message, Drop):
                self._next_stage.put(message)
            elif id(message) in embedded:
                try:
                    self._keep(message, embedded[id(message)])
                except Exception as exc:
                    self._refuse(message.file, blame_file(exc))
                self._next_stage.put(embedded[id(message)])  # of a refused file nothing is written
        if chunks:
            self._events.put(Encoded(num_chunks=len(chunks), num_sent=len(embedded)))

    def _keep(self, chunk: Chunk, tracks: Tracks) -> None:
        if self._spool is not None:
            spooled = SpooledChunk(
                number=chunk.number,
                num_clips=len(chunk.clips),
                segments=tracks.segments,
                is_final=chunk.is_final,
                media=chunk.media,
            )
            self._spool.append(chunk.file.asset_id, spooled)

    def _embed(self, chunks: Sequence[Chunk]) -> dict[int, Tracks]:
        """Embed chunks together; if that fails, one by one, to find which one is at fault."""
        if not chunks:
            return {}
        try:
            embedded = self._embed_together(chunks)
        except Exception as exc:
            error = exc if isinstance(exc, EncoderFailure) else blame_file(exc)
            if len(chunks) == 1:
                self._refuse(chunks[0].file, error)
                return {}
            return {key: tracks for chunk in chunks for key, tracks in self._embed([chunk]).items()}
        self._num_refusals = 0
        return embedded

    def _embed_together(self, chunks: Sequence[Chunk]) -> dict[int, Tracks]:
        clips = [clip for chunk in chunks for clip in chunk.clips]
        embedded = embed_clips(clips, encoder=self._encoder, modalities=MODALITIES)
        segments = iter(weigh_moments(embedded, self._moments))
        return {
            id(chunk): Tracks(
                file=chunk.file,
                segments=[
                    next(segments)
                    for clip in chunk.clips
                    if clip.frames is not None or clip.samples is not None
                ],
                is_final=chunk.is_final,
                media=chunk.media,
            )
            for chunk in chunks
        }

    def _refuse(self, file: IncomingFile, exc: FileError) -> None:
        self._num_refusals += 1
        if self._num_refusals >= MAX_REFUSALS:
            raise exc if isinstance(exc, EncoderFailure) else EncoderFailure(str(exc)) from exc
        file.is_refused = True
        self._events.put(Refused(file=file, error=exc))
