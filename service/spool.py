"""What was embedded of files on their way into the index, kept on disk until they are stored.

    spool = Spool(data / "spool" / release_id)
    spool.append(asset_id, chunk)
    for chunk in spool.read(asset_id): ...
    spool.remove(asset_id)

An index knows an asset only when its last segment is written. So without this a kill in the last minute of a film would
have all of it decoded and embedded again; with it, what was under way in the encoder is. A chunk is handed to the
kernel and not waited for: a kill loses nothing of it, a power cut what was not on the disk yet. Tracks are float16, as
an index stores them. A record that is cut short or damaged ends the file: what follows is embedded again.
"""

from __future__ import annotations

import json
import logging
import re
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from service.index.contract import Modality
from service.matching import EmbeddedSegment

logger = logging.getLogger(__name__)

KEPT_SECONDS = 7 * 86400.0
"""How long the chunks of a file that nobody goes on with are kept."""
NAME = re.compile(r"[0-9a-f]{64}")
_LENGTHS = struct.Struct("<4sIQI")  # mark, bytes of the facts, bytes of the tracks, crc32 of both
_MARK = b"FOL1"
_MAX_BYTES = 2**28  # of one record


@dataclass(frozen=True, kw_only=True)
class SpooledChunk:
    """A chunk of a file as the encoder left it.

    Attributes:
        number: Which chunk of the file, from 0.
        num_clips: Segments it has, those in which nothing decodes included.
        segments: Those that were embedded, with tracks of shape (T, D).
        is_final: Whether the file ends with it.
        media: Facts about the file as they are stored with its segments: JSON values.
    """

    number: int
    num_clips: int
    segments: Sequence[EmbeddedSegment]
    is_final: bool
    media: Mapping[str, Any]


class Spool:
    """The chunks of one release. One process uses it, a file of it in one thread at a time.

    Args:
        folder: Where it lies; made with the first chunk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_full = False

    def append(self, asset_id: str, chunk: SpooledChunk) -> None:
        """Keep one more chunk of a file. Where that fails the file will be embedded from here on after a kill.

        Args:
            asset_id: The file.
            chunk: The chunk after the last one.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path(asset_id).open("ab") as file:
                file.write(_pack(chunk))
        except OSError as exc:
            if not self._is_full:
                logger.warning("what was embedded of a file cannot be kept: %s", exc)
            self._is_full = True

    def read(self, asset_id: str) -> Iterator[SpooledChunk]:
        """Read what is kept of a file, chunk 0 first, one at a time.

        What comes after the last whole chunk is cut off. Nothing is to be appended before this has ended.

        Args:
            asset_id: The file.

        Yields:
            SpooledChunk: Chunks in order, none left out.
        """
        path = self._path(asset_id)
        try:
            with path.open("r+b") as file:
                number = 0
                while (chunk := _unpack(file)) is not None and chunk.number == number:
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
        """Forget the files that nobody went on with for a week."""
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


def _pack(chunk: SpooledChunk) -> bytes:
    facts = {
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
    return _LENGTHS.pack(_MARK, len(text), len(tracks), crc) + text + tracks


def _unpack(file: BinaryIO) -> SpooledChunk | None:
    """The next record of a file; None at its end, and where it is not whole."""
    lengths = file.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    mark, num_text, num_tracks, crc = _LENGTHS.unpack(lengths)
    if mark != _MARK or num_text + num_tracks > _MAX_BYTES:
        return None
    text, tracks = file.read(num_text), file.read(num_tracks)
    if len(text) + len(tracks) < num_text + num_tracks or zlib.crc32(tracks, zlib.crc32(text)) != crc:
        return None
    facts = json.loads(text)
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
