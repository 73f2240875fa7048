"""What lies around a file and says something of it: an XMP file beside it, and its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from models.media.clip import MediaInfo, UnreadableClip, open_regular
from models.media.ucs import read_ucs
from service.library.scanning import FoundFile

MAX_SIDECAR_BYTES = 1 << 20


def read_sidecar(found: FoundFile) -> bytes:
    """The bytes of `take.wav.xmp` or `take.xmp` beside `take.wav`, which only the decoder parses; empty without."""
    for name in dict.fromkeys(
        (f"{found.source.name}.xmp", f"{found.source.stem}.xmp", f"{found.source.stem}.XMP")
    ):
        try:
            with open_regular(found.source.with_name(name), follows_links=False) as (descriptor, status):
                if status.st_size <= MAX_SIDECAR_BYTES:
                    return os.read(descriptor, MAX_SIDECAR_BYTES)
        except (UnreadableClip, OSError, ValueError):
            continue
    return b""


def with_name(info: MediaInfo, path: str) -> MediaInfo:
    """The facts with what the name of the file says, where the file itself says nothing else."""
    return replace(info, said=cast(Any, {**read_ucs(path), **info.said}))


def rename(media: Mapping[str, Any], old: str, path: str) -> Mapping[str, Any]:
    """What changes in stored facts if the first file has another name: `said`, if the names say something."""
    said, by_name = media.get("said") or {}, read_ucs(old)
    renamed = {**read_ucs(path), **{key: value for key, value in said.items() if by_name.get(key) != value}}
    return {} if renamed == said else {"said": renamed}
