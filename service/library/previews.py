"""Previews of assets, kept on disk: thumbnails, filmstrips and waveforms, at most 40 KB each.

    previews = Previews(data / "previews", max_bytes=4 << 30)
    previews.put(asset_id, preview)
    previews.get(asset_id)          # None if it was never made, or made room for others

A cache: each can be made again of its file. What was not asked for the longest goes first.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import threading
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.media.preview import Preview
from service.system.files import read_disk_space

logger = logging.getLogger(__name__)

PREVIEWS = "previews"  # folder in that of the data
NAME = re.compile(r"[0-9a-f]{64}")
KEPT_SHARE = 0.9  # of the room, once it was full
_HEAD = struct.Struct("<4sII")  # mark, bytes of the facts, crc32 of all that follows
_MARK = b"FLP1"
_PARTS = ("thumbnail", "strip", "peaks")


class Previews:
    """The previews of a library. Any thread may call it; what cannot be written or read counts as not made."""

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int | None = 0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._num_bytes: int | None = None  # None: not counted yet

    def get(self, asset_id: str) -> Preview | None:
        """The preview of an asset, as far as it was made."""
        path = self._path(asset_id)
        try:
            content = path.read_bytes()
            os.utime(path)
            return _unpack(content)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None

    def put(self, asset_id: str, preview: Preview) -> None:
        """Keep a preview, with what is known of the asset already and this one lacks."""
        try:
            with self._lock:
                kept = self.get(asset_id)
                self._write(asset_id, preview if kept is None else _join(kept, preview))
        except OSError as exc:
            logger.warning("a preview cannot be kept: %s", exc)

    def copy(self, asset_id: str, twin_id: str) -> None:
        """Give an asset the preview of another that has the same sound and picture."""
        if (kept := self.get(twin_id)) is not None:
            self.put(asset_id, kept)

    def remove(self, asset_id: str) -> None:
        """Forget an asset."""
        with suppress(OSError):
            self._path(asset_id).unlink()

    def _path(self, asset_id: str) -> Path:
        if not NAME.fullmatch(asset_id):
            raise ValueError(f"no asset id: {asset_id[:80]!r}")
        return self._folder / asset_id[:2] / asset_id

    def _write(self, asset_id: str, preview: Preview) -> None:
        path, content = self._path(asset_id), _pack(preview)
        if self._num_bytes is None:
            self._num_bytes = sum(size for _, size, _ in self._list())
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not read_disk_space(path.parent, min_free_bytes=self._min_free_bytes).has_room():
            return
        aside = path.with_name(f".{path.name}")
        aside.write_bytes(content)
        aside.chmod(0o600)
        aside.replace(path)
        self._num_bytes += len(content)  # one that was replaced counts twice until the next count
        if self._num_bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._list())
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= KEPT_SHARE * self._max_bytes:
                break
            with suppress(OSError):
                path.unlink()
                total -= size
        self._num_bytes = total

    def _list(self) -> list[tuple[int, int, Path]]:
        """When each was last used, how many bytes it has, and where it is."""
        found = []
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
        return found


def _join(kept: Preview, new: Preview) -> Preview:
    if new.peaks is None:
        new = replace(new, peaks=kept.peaks, bucket_seconds=kept.bucket_seconds)
    if new.strip is None:
        new = replace(new, strip=kept.strip, num_tiles=kept.num_tiles, tile_width=kept.tile_width)
    return replace(new, thumbnail=new.thumbnail or kept.thumbnail)


def _pack(preview: Preview) -> bytes:
    peaks = None if preview.peaks is None else preview.peaks.tobytes()
    parts = [preview.thumbnail, preview.strip, peaks]
    facts = json.dumps(
        {
            "sizes": [None if part is None else len(part) for part in parts],
            "num_tiles": preview.num_tiles,
            "tile_width": preview.tile_width,
            "bucket_seconds": preview.bucket_seconds,
        }
    ).encode()
    content = facts + b"".join(part or b"" for part in parts)
    return _HEAD.pack(_MARK, len(facts), zlib.crc32(content)) + content


def _unpack(content: bytes) -> Preview:
    mark, num_facts, checksum = _HEAD.unpack_from(content)
    content = content[_HEAD.size :]
    if mark != _MARK or zlib.crc32(content) != checksum:
        raise ValueError("the preview is damaged")
    facts, place = json.loads(content[:num_facts]), num_facts
    parts: dict[str, bytes | None] = {}
    for name, size in zip(_PARTS, facts.pop("sizes"), strict=True):
        parts[name] = None if size is None else content[place : place + size]
        place += size or 0
    peaks = parts["peaks"]
    return Preview(
        thumbnail=parts["thumbnail"],
        strip=parts["strip"],
        peaks=None if peaks is None else np.frombuffer(peaks, np.int8).reshape(-1, 2),
        **facts,
    )
