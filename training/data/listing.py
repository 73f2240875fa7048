"""Training data from folders, media files and manifests as a list of items.

    for item in list_items([Path("~/Videos").expanduser(), Path("vggsound/train.json")]):
        print(item.name, item.labels)

A manifest names its files relative to its own folder:

    *.csv    a column `path`, and if wanted `labels`, several separated by ";", and `caption`, or `caption_1`,
             `caption_2` …; other columns are ignored
    *.json   a list of entries, or an object with the list under "data". An entry is {"path", "labels", "captions"}, a
             caption or a list of them; or of CAV-MAE's
             form {"video_id", "wav", "video_path", "labels"}: sound in `wav`, pictures in
             `video_path`/frame_0/`video_id`.jpg, frame_1/… over the first segment of it, labels separated by ","
    labels.csv of a synthetic corpus, given by itself or found in a folder: the labels are the timbres
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.media.names import find_path, is_ignored, show_path
from models.sheet import Sheet, UnreadableSheet, read_sheet
from training.corpus.labels import CorpusMismatch, read_labels

MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .3gp .ogv .mxf".split()
)
"""File name endings that are taken for video files when a folder is walked."""


_CAPTION = re.compile(r"caption(_\d+)?")


class BadListing(ValueError):
    """The given data does not exist, or its manifest cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One recording with sound and picture: a media file, or a sound file with pictures beside it.

    Attributes:
        path: The media file; None where sound and pictures are files of their own.
        wav: The sound file; None for a media file.
        frame_folder: Where the pictures of the sound are, in folders frame_0, frame_1 …; None for a media file.
        frame_name: Their name in each of these folders.
        num_frames: How many there are, at even distances over the first segment of the sound.
        labels: What is true of it, in the words of its manifest; empty where nothing is said.
        captions: Sentences about it.
    """

    path: Path | None = None
    wav: Path | None = None
    frame_folder: Path | None = None
    frame_name: str = ""
    num_frames: int = 0
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.path is None) == (self.wav is None):
            raise ValueError(f"an item has either a path or a wav, got {self.path} and {self.wav}")

    @property
    def name(self) -> str:
        """The file that stands for the item in reports, as text that UTF-8 can hold."""
        return show_path(self.wav or self.path or "")

    @property
    def frames(self) -> tuple[Path, ...]:
        """The picture files, in order; empty for a media file."""
        folder = self.frame_folder
        if folder is None:
            return ()
        return tuple(folder / f"frame_{i}" / self.frame_name for i in range(self.num_frames))

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        values = {
            "path": self.path and str(self.path),
            "wav": self.wav and str(self.wav),
            "frame_folder": self.frame_folder and str(self.frame_folder),
            "frame_name": self.frame_name,
            "num_frames": self.num_frames,
            "labels": list(self.labels),
            "captions": list(self.captions),
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
            frame_folder=Path(values["frame_folder"]) if "frame_folder" in values else None,
            frame_name=values.get("frame_name", ""),
            num_frames=values.get("num_frames", 0),
            labels=tuple(values.get("labels", ())),
            captions=tuple(values.get("captions", ())),
        )


def list_items(paths: Sequence[Path]) -> list[Item]:
    """List what folders and manifests hold, and media files as they are. Whether a listed file is there shows later.

    Args:
        paths: Folders, walked to the bottom, manifests and media files.

    Returns:
        Items in the order of the manifests, and in sorted order of each folder.

    Raises:
        BadListing: If a path does not exist, or a manifest cannot be read; the message names the line or entry.
    """
    found: list[Item] = []
    for path in paths:
        if path.is_dir():
            found += _list_folder(path)
        elif not path.exists():
            raise BadListing(f"{path} does not exist")
        else:
            found += MANIFESTS.get(path.suffix.lower(), _list_file)(path)
    return found


def find_media(paths: Sequence[Path]) -> list[Path]:
    """List the media files of folders and manifests, without pairs that are split over two files.

    Args:
        paths: Folders, walked to the bottom, manifests and media files.

    Returns:
        The files in the order of `list_items`.
    """
    return [item.path for item in list_items(paths) if item.path is not None]


def _list_file(path: Path) -> list[Item]:
    return [Item(path=path)]


def _list_folder(folder: Path) -> list[Item]:
    files = sorted(p for p in _walk(folder) if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
    manifest = folder / "labels.csv"
    known: dict[Path | None, Item] = {}
    if manifest.is_file() and _is_of_corpus(_read_csv(manifest).columns):
        known = {item.path: item for item in _list_corpus(manifest)}
    return [known.get(file, Item(path=file)) for file in files]


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder to the bottom that indexing would not ignore; links to folders are not followed."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from (Path(here, name) for name in names if not is_ignored(name))


def _list_csv(manifest: Path) -> list[Item]:
    sheet = _read_csv(manifest)
    if _is_of_corpus(sheet.columns):
        return _list_corpus(manifest)
    if "path" not in sheet.columns:
        raise BadListing(f"{manifest} must have a column `path`, got {', '.join(sheet.columns) or 'none'}")
    items = []
    for number, row in sheet.rows:
        if not row.get("path"):
            raise BadListing(f"{manifest}, line {number}: the path is empty")
        captions = tuple(text for name, text in row.items() if _CAPTION.fullmatch(name) and text)
        items.append(
            Item(
                path=_locate(manifest.parent, row["path"]),
                labels=_split(row.get("labels", ""), ";"),
                captions=captions,
            )
        )
    return items


def _read_csv(manifest: Path) -> Sheet:
    try:
        return read_sheet(manifest, column="path")
    except UnreadableSheet as exc:
        raise BadListing(f"{manifest}: {exc}") from exc


def _locate(folder: Path, text: str) -> Path:
    """The file that a manifest in a folder names."""
    return Path(find_path(str(folder / text)))


def _is_of_corpus(columns: Collection[str]) -> bool:
    return "timbre_1" in columns and "file" in columns


def _list_corpus(manifest: Path) -> list[Item]:
    try:
        rows = read_labels(manifest)
    except CorpusMismatch as exc:
        raise BadListing(str(exc)) from exc
    return [
        Item(
            path=manifest.parent / row.file,
            labels=tuple(dict.fromkeys(source.timbre for source in row.sources)),
        )
        for row in rows
    ]


def _list_json(manifest: Path) -> list[Item]:
    try:
        entries = json.loads(manifest.read_bytes())  # UTF-8, -16 or -32, with a mark or without
    except ValueError as exc:  # UnicodeDecodeError is one too
        raise BadListing(f"{manifest} is not JSON: {exc}") from exc
    if isinstance(entries, dict):
        entries = entries.get("data")
    if not isinstance(entries, list):
        raise BadListing(f"{manifest} must be a list of entries, or an object with one under data")
    return list(_parse_entries(manifest, entries))


def _parse_entries(manifest: Path, entries: list[Any]) -> Iterator[Item]:
    count_frames = cache(_count_frames)
    for number, entry in enumerate(entries, start=1):
        try:
            yield _parse_entry(manifest.parent, entry, count_frames)
        except BadListing as exc:
            raise BadListing(f"{manifest}, entry {number}: {exc}") from exc


def _parse_entry(folder: Path, entry: Any, count_frames: Callable[[Path], int]) -> Item:
    if not isinstance(entry, dict):
        raise BadListing(f"an entry is an object, got {json.dumps(entry)[:80]}")
    if "path" in entry:
        return Item(
            path=_locate(folder, _text(entry, "path")), labels=_labels(entry, ";"), captions=_captions(entry)
        )
    if "wav" not in entry:
        raise BadListing(f"an entry needs path or wav, got only {', '.join(entry) or 'nothing'}")
    pictures = _locate(folder, _text(entry, "video_path"))
    return Item(
        wav=_locate(folder, _text(entry, "wav")),
        frame_folder=pictures,
        frame_name=f"{_text(entry, 'video_id')}.jpg",
        num_frames=count_frames(pictures),
        labels=_labels(entry, ","),
        captions=_captions(entry),
    )


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise BadListing(f"{name} must be text, got {json.dumps(value)[:80]}")
    return value


def _labels(entry: dict[str, Any], separator: str) -> tuple[str, ...]:
    value = entry.get("labels") or ""
    if isinstance(value, str):
        return _split(value, separator)
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise BadListing(f"labels must be text or a list of texts, got {json.dumps(value)[:80]}")
    return tuple(value)


def _captions(entry: dict[str, Any]) -> tuple[str, ...]:
    value = entry.get("captions", entry.get("caption")) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadListing(f"captions must be text or a list of texts, got {json.dumps(value)[:80]}")
    return tuple(text for text in texts if text.strip())


def _split(labels: str, separator: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in labels.split(separator) if label.strip())


def _count_frames(folder: Path) -> int:
    """Count frame_0, frame_1 ... of a folder; the released extraction makes 10 (CAV-MAE) or 16 (CAV-MAE Sync)."""
    count = 0
    while (folder / f"frame_{count}").is_dir():
        count += 1
    return count


MANIFESTS: dict[str, Callable[[Path], list[Item]]] = {".csv": _list_csv, ".json": _list_json}
"""What lists the files of a manifest, by the ending of its name."""
