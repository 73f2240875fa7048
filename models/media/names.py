r"""Names of files: as text although they may be any bytes, and those that no library means.

    show_path("/music/caf\udce9.wav")    # '/music/caf\\xe9.wav': printed, logged, sent as JSON, written to files
    read_path(r"/music/caf\xe9.wav")     # '/music/caf\udce9.wav', as Python names the file

Everything that leaves a process writes a path as `show_path` does; everything that takes one reads it with `find_path`.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from io import TextIOWrapper
from pathlib import PurePath

SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin", "recycler", "recycled", "system volume information",  # Windows
        "lost+found", "network trash folder", "temporary items", "__macosx",  # Linux, macOS
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "~snapshot",  # network drives
    }
)  # fmt: skip
_SHOW_BYTES = "show_bytes"  # name of the error handler
_SURROGATES = re.compile("[\ud800-\udfff]")


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is skipped in a folder: `.x`, `._clip.mov`, `$RECYCLE.BIN`, `@eaDir`."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def show_path(path: os.PathLike[str] | str) -> str:
    r"""A path as text in UTF-8; if it is not, its wrong bytes become \xNN and its backslashes \x5c."""
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.replace(b"\\", rb"\x5c").decode("utf-8", "backslashreplace")


def read_path(text: str) -> str:
    r"""The path that `show_path` wrote as this text; of two that it writes alike, the one that is not UTF-8."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(text))
    path = os.fsdecode(raw)
    return path if show_path(path) == text else text


def find_path(text: str) -> str:
    r"""The path that somebody wrote: the text itself if that is there or holds no \xNN, else what `read_path` reads."""
    return text if "\\x" not in text or os.path.lexists(text) else read_path(text)


def find_argument(text: str) -> str:
    r"""An argument of a command: if it is the name of a file as `show_path` wrote it, that file's path."""
    path = find_path(text)
    return path if os.path.lexists(path) else text


def show_text(text: str) -> str:
    r"""Text with paths in it, their bytes that are not UTF-8 as \xNN: what a log or a terminal takes."""
    return _SURROGATES.sub(lambda found: ascii(found[0])[1:-1].replace(r"\udc", r"\x"), text)


def show_bytes_in_streams() -> None:
    r"""Let stdout and stderr write bytes of names that are not UTF-8 as \xNN; strict streams would raise."""
    codecs.register_error(_SHOW_BYTES, _show_bytes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_SHOW_BYTES)


def _show_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    shown = show_text(wrong)
    # what an encoding other than UTF-8 lacks
    return "".join(c if c.isascii() else ascii(c)[1:-1] for c in shown), error.end


def xmp_names(name: str) -> tuple[str, ...]:
    """What an XMP file that describes a file may be called, `take.wav.xmp` before `take.xmp`."""
    stem = PurePath(name).stem
    return tuple(dict.fromkeys((f"{name}.xmp", f"{stem}.xmp", f"{stem}.XMP")))
