"""The labels of a synthetic corpus: facts about every file, in `labels.csv`.

    rows = read_labels(Path("corpus/train/labels.csv"))

One row per media file. A scene with one object leaves the columns of the second one empty.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from models.sheet import read_sheet
from training.corpus.scene import SCENE_SECONDS, Scene, Source, open_stream

Streams = Literal["audio+video", "audio", "video"]

NUM_SOURCE_COLUMNS = 2


class CorpusMismatch(ValueError):
    """The output folder already holds another corpus, or its labels cannot be read."""


@dataclass(frozen=True, kw_only=True)
class SourceLabel:
    """Facts about one sounding object: its sound and its look.

    Attributes:
        timbre: Kind of sound.
        shape: Shape that goes with it.
        pitch_hz: Fundamental frequency.
        rate_hz: Pulses a second, 0 for a steady sound.
        phase: Where in its pulse it starts, in [0, 1).
        loudness_db: RMS level while it sounds, dB of full scale.
        radius: Radius, fraction of the frame's side.
        hue: Hue, 0 red to 0.78 violet.
        x: Horizontal centre, fraction from the left.
        y: Vertical centre, fraction from the top.
    """

    timbre: str
    shape: str
    pitch_hz: float
    rate_hz: float
    phase: float
    loudness_db: float
    radius: float
    hue: float
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """The labels of one file of a corpus.

    Attributes:
        file: File name inside the corpus folder.
        scene: Number of the scene; files of one scene belong together.
        split: Split of the corpus.
        seed: Seed of the corpus.
        streams: What the file holds.
        duration_seconds: Length.
        sources: The sounding objects, the louder one first.
    """

    file: str
    scene: int
    split: str
    seed: int
    streams: Streams
    duration_seconds: float
    sources: tuple[SourceLabel, ...]

    def __post_init__(self) -> None:
        """Check the streams.

        Raises:
            CorpusMismatch: If `streams` is not one of the three words.
        """
        if self.streams not in get_args(Streams):
            raise CorpusMismatch(f"streams must be one of {get_args(Streams)}, got {self.streams!r}")


SOURCE_FIELDS = tuple(SourceLabel.__dataclass_fields__)
FILE_FIELDS = ("file", "scene", "split", "seed", "streams", "duration_seconds")


def label_scene(scene: Scene, *, separate_fraction: float) -> list[LabelRow]:
    """Return the file names of a scene with their labels.

    Args:
        scene: The scene.
        separate_fraction: Expected share of scenes written as two files.

    Returns:
        One row, or two for a scene whose picture and sound are kept apart.
    """
    draw = open_stream(scene.seed, scene.split, scene.index, purpose="packaging").random()
    stem = f"{scene.index:04d}"
    files: list[tuple[str, Streams]] = [(f"{stem}.mp4", "audio+video")]
    if draw < separate_fraction:
        files = [(f"{stem}-picture.mp4", "video"), (f"{stem}-sound.m4a", "audio")]
    sources = tuple(_label_source(source) for source in scene.sources)
    return [
        LabelRow(
            file=file,
            scene=scene.index,
            split=scene.split,
            seed=scene.seed,
            streams=streams,
            duration_seconds=SCENE_SECONDS,
            sources=sources,
        )
        for file, streams in files
    ]


def _label_source(source: Source) -> SourceLabel:
    return SourceLabel(**{name: getattr(source, name) for name in SOURCE_FIELDS})


def write_labels(path: Path, rows: list[LabelRow]) -> None:
    """Write the label file, whole or not at all.

    Args:
        path: File to write.
        rows: One row per media file.
    """
    columns = [*FILE_FIELDS]
    columns += [f"{name}_{number}" for number in range(1, NUM_SOURCE_COLUMNS + 1) for name in SOURCE_FIELDS]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {name: getattr(row, name) for name in FILE_FIELDS}
            for number, source in enumerate(row.sources, start=1):
                cells |= {f"{name}_{number}": getattr(source, name) for name in SOURCE_FIELDS}
            writer.writerow(cells)
    unfinished.replace(path)


def read_labels(path: Path) -> list[LabelRow]:
    """Read a label file.

    Args:
        path: The `labels.csv` of a corpus.

    Returns:
        One row per media file, equal to those that were written.

    Raises:
        CorpusMismatch: If a column is missing or a value is not what the column holds.
    """
    try:
        sheet = read_sheet(path, column="file")
        return [_parse_row({name: sheet.point(text) for name, text in row.items()}) for _, row in sheet.rows]
    except (KeyError, ValueError, TypeError) as exc:
        raise CorpusMismatch(f"{path} is not a label file of a synthetic corpus: {exc!r}") from exc


def _parse_row(cells: dict[str, str]) -> LabelRow:
    return LabelRow(
        file=cells["file"],
        scene=int(cells["scene"]),
        split=cells["split"],
        seed=int(cells["seed"]),
        streams=cast(Streams, cells["streams"]),
        duration_seconds=float(cells["duration_seconds"]),
        sources=tuple(
            _parse_source(cells, number)
            for number in range(1, NUM_SOURCE_COLUMNS + 1)
            if cells[f"timbre_{number}"]
        ),
    )


def _parse_source(cells: dict[str, str], number: int) -> SourceLabel:
    numbers = {
        name: float(cells[f"{name}_{number}"]) for name in SOURCE_FIELDS if name not in ("timbre", "shape")
    }
    return SourceLabel(timbre=cells[f"timbre_{number}"], shape=cells[f"shape_{number}"], **numbers)
