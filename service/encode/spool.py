"""What was embedded of files on their way into the index, kept on disk until they are stored.

    spool = Spool(data / "spool" / release_id)
    spool.append(asset_id, chunk)
    for chunk in spool.read(asset_id): ...
    spool.remove(asset_id)

An index knows an asset only when its last segment is written: without this a kill in the last minute of a film would
have all of it embedded again. A chunk is handed to the kernel and not waited for: a kill loses nothing of it, a power
cut may. Tracks are float16, as in the index. What follows a record that is cut short or damaged is embedded again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from models.media.clip import ClipSpec
from service.encode.embedding import EmbeddedSegment
from service.system.files import read_disk_space
from service.system.modality import Modality

logger = logging.getLogger(__name__)

CHUNK_SEGMENTS = 8
"""Segments of a chunk: 80 s of frames and samples are 25 MB, what one call to a decode worker returns."""


def chunk_segments(spec: ClipSpec) -> int:
    """Segments of a chunk of these clips: one where it holds every frame, 100 MB at 30 a second."""
    return 1 if spec.frame_times == "all" else CHUNK_SEGMENTS


KEPT_SECONDS = 7 * 86400.0
"""How long the chunks of an unfinished file are kept."""
NAME = re.compile(r"[0-9a-f]{64}")
_HEAD = struct.Struct("<4sIQI")  # mark, bytes of the facts, bytes of the tracks, crc32 of both
_MARK = b"FOL1"
_MAX_BYTES = 2**28  # of one record


@dataclass(frozen=True, kw_only=True)
class SpooledChunk:
    """A chunk of a file as the encoder left it; `number` counts from 0, `is_final` is the last of the file.

    `num_clips` counts segments in which nothing decodes too, `segments` are the embedded ones. `media` are facts
    about the file as they are stored with its segments: JSON values.
    """

    number: int
    num_clips: int
    segments: Sequence[EmbeddedSegment]
    is_final: bool
    media: Mapping[str, Any]


class Spool:
    """The chunks of one release. One process uses it, a file of it in one thread at a time.

    A chunk that was made with another `basis` counts as none. At least `min_free_bytes` stay free on the disk; None is
    the default of `read_disk_space`.
    """

    def __init__(self, folder: Path, *, basis: str = "", min_free_bytes: int | None = 0) -> None:
        self.folder = folder
        self._basis = basis
        self._min_free_bytes = min_free_bytes
        self._has_warned = False

    def append(self, asset_id: str, chunk: SpooledChunk) -> None:
        """Keep one more chunk of a file. If that fails, a kill costs embedding the file again from here on."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not read_disk_space(self.folder, min_free_bytes=self._min_free_bytes).has_room():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
            with open(self._path(asset_id), "ab", opener=partial(os.open, mode=0o600)) as file:
                file.write(_pack(chunk, self._basis))
        except OSError as exc:
            if not self._has_warned:
                logger.warning("what was embedded of a file cannot be kept: %s", exc)
            self._has_warned = True

    def read(self, asset_id: str) -> Iterator[SpooledChunk]:
        """Read what is kept of a file from chunk 0, and cut off what is damaged. Append only after this ended."""
        path = self._path(asset_id)
        try:
            with path.open("r+b") as file:
                number = 0
                while (chunk := _unpack(file, self._basis)) is not None and chunk.number == number:
                    end = file.tell()
                    yield chunk
                    number += 1
                    file.seek(end)
                file.truncate(end if number else 0)
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError):
                logger.warning("what was embedded of a file before cannot be read: %s", exc)

    def remove(self, asset_id: str) -> None:
        """Forget a file: it is stored, or failed."""
        self._path(asset_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the files that no run continued for a week."""
        oldest = time.time() - KEPT_SECONDS
        for path in self.folder.glob("*"):
            try:
                if NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
                    path.unlink()
            except OSError as exc:
                logger.warning("an old file of the spool stays: %s", exc)

    def _path(self, asset_id: str) -> Path:
        if not NAME.fullmatch(asset_id):
            raise ValueError(f"an asset id is 64 hexadecimal digits, got {asset_id[:80]!r}")
        return self.folder / asset_id


def _pack(chunk: SpooledChunk, basis: str) -> bytes:
    facts = {
        "basis": basis,
        "number": chunk.number,
        "num_clips": chunk.num_clips,
        "is_final": chunk.is_final,
        "media": chunk.media,
        "segments": [
            [s.start_seconds, s.end_seconds, {name: track.shape for name, track in s.tracks.items()}]
            for s in chunk.segments
        ],
    }
    text = json.dumps(facts).encode()
    tracks = b"".join(
        np.asarray(track, "<f2").tobytes() for segment in chunk.segments for track in segment.tracks.values()
    )
    crc = zlib.crc32(tracks, zlib.crc32(text))
    return _HEAD.pack(_MARK, len(text), len(tracks), crc) + text + tracks


def _unpack(file: BinaryIO, basis: str) -> SpooledChunk | None:
    """The next record of a file; None at its end, and if it is not whole or of another basis."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    mark, text_bytes, tracks_bytes, crc = _HEAD.unpack(head)
    if mark != _MARK or text_bytes + tracks_bytes > _MAX_BYTES:
        return None
    text, tracks = file.read(text_bytes), file.read(tracks_bytes)
    is_whole = (len(text), len(tracks)) == (text_bytes, tracks_bytes)
    if not is_whole or zlib.crc32(tracks, zlib.crc32(text)) != crc:
        return None
    facts = json.loads(text)
    if facts.pop("basis") != basis:
        return None
    place = 0
    segments = []
    for start_seconds, end_seconds, shapes in facts.pop("segments"):
        found: dict[Modality, np.ndarray[Any, np.dtype[np.float32]]] = {}
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            values = np.frombuffer(tracks, "<f2", count, place)
            found[name] = values.astype(np.float32).reshape(shape)
            place += 2 * count
        segments.append(EmbeddedSegment(start_seconds=start_seconds, end_seconds=end_seconds, tracks=found))
    return SpooledChunk(**facts, segments=tuple(segments))
