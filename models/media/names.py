"""Names that no library means: hidden files, recycle bins, what systems and network drives leave in every folder."""

from __future__ import annotations

SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin", "recycler", "recycled", "system volume information",  # Windows
        "lost+found", "network trash folder", "temporary items", "__macosx",  # Linux, macOS
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "~snapshot",  # network drives
    }
)  # fmt: skip


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is skipped in a folder: `.x`, `._clip.mov`, `$RECYCLE.BIN`, `@eaDir`."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES
