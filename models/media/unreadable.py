"""Why a file cannot be used as a clip: one exception for each reason, with its stable name.

UnreadableClip
├── NotARegularFile      a folder, link, pipe or device
├── EmptyFile
├── NotMedia             in none of the container formats we read
├── NoStream             nothing of the kind that is asked for
├── NotInMedia           a stretch that the file does not have
├── BrokenMedia          nothing in it decodes
├── Encrypted            what it holds is encrypted
├── ClipTooLong
└── TooComplex
"""

from __future__ import annotations

from typing import ClassVar


class UnreadableClip(Exception):
    """The file cannot be used as a clip; `code` is the stable name of the reason."""

    code: ClassVar[str] = "unreadable"


class NotARegularFile(UnreadableClip):
    """The path is a folder, link, pipe or device, or cannot be opened at all."""

    code = "not_a_file"


class EmptyFile(UnreadableClip):
    """The file has no bytes."""

    code = "empty"


class NotMedia(UnreadableClip):
    """The content is in none of the container formats we read."""

    code = "not_media"


class NoStream(UnreadableClip):
    """The file has no stream of the requested kind."""

    code = "no_stream"


class NotInMedia(UnreadableClip):
    """The file has no such stretch."""

    code = "invalid_parameter"


class BrokenMedia(UnreadableClip):
    """The file opens, but nothing in it decodes."""

    code = "broken_media"


class Encrypted(UnreadableClip):
    """The sound and picture are encrypted: only a player with the key can show them."""

    code = "encrypted"

    def __init__(
        self, reason: str = "the file is encrypted: only a player that has its key can show it"
    ) -> None:
        super().__init__(reason)


class ClipTooLong(UnreadableClip):
    """The file lasts longer than the limit."""

    code = "too_long"


class TooComplex(UnreadableClip):
    """The file has too many streams or channels, or too large a picture."""

    code = "too_complex"
