"""What there is to learn from: folders, media files and manifests become a list of items.

for item in list_items([Path("~/Videos").expanduser()]):
    print(item.name, item.labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .3gp .ogv .mxf".split()
)
"""File name endings that are taken for video files when a folder is walked."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One recording with sound and picture: a media file, or a sound file with pictures beside it.

    Attributes:
        path: The media file; None where sound and pictures are files of their own.
        wav: The sound file; None for a media file.
        frames: The pictures at even distances over the sound, in order; empty for a media file.
        labels: What is true of it, in the words of its manifest; empty where nothing is said.
    """

    path: Path | None = None
    wav: Path | None = None
    frames: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.path is None) == (self.wav is None):
            raise ValueError(f"an item has either a path or a wav, got {self.path} and {self.wav}")

    @property
    def name(self) -> str:
        """The file that stands for the item in reports."""
        return str(self.wav if self.path is None else self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        values = {
            "path": self.path and str(self.path),
            "wav": self.wav and str(self.wav),
            "frames": [str(frame) for frame in self.frames],
            "labels": list(self.labels),
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Item:
        """Build an item from what `to_json` returned.

        Args:
            values: The fields that are set.

        Returns:
            The item.
        """
        return cls(
            path=Path(values["path"]) if "path" in values else None,
            wav=Path(values["wav"]) if "wav" in values else None,
            frames=tuple(Path(frame) for frame in values.get("frames", [])),
            labels=tuple(values.get("labels", [])),
        )


def find_media(paths: Sequence[Path]) -> list[Path]:
    """List the video files in folders, and files as they are.

    Args:
        paths: Folders, walked to the bottom, and files.

    Returns:
        Files in sorted order of each folder.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
        else:
            found.append(path)
    return found


def list_items(paths: Sequence[Path]) -> list[Item]:
    """List what folders hold, and files as they are.

    Args:
        paths: Folders, walked to the bottom, and files.

    Returns:
        Items in sorted order of each folder.
    """
    return [Item(path=path) for path in find_media(paths)]
