"""Files that survive a crash whole: written aside, flushed, renamed, and the folder flushed too."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step: after a crash it holds the old content or the new, never a part.

    Args:
        path: The file; its folder exists.
        content: All of it; text goes as UTF-8.
        mode: Who may read it, from its first byte on.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)  # what a crash left keeps the rights it had
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
