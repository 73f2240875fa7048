"""Write a corpus of synthetic clips: real media files with sound that fits the picture, and their labels.

    foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2

Scene 7 becomes `0007.mp4`, or, for the share of scenes that is kept apart, `0007-picture.mp4` and
`0007-sound.m4a`. `labels.csv` has one row per file. It is written first; a file it names that is not there
yet is made by the next run. Needs NumPy and PyAV only.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast, get_args

import av
import numpy as np
from numpy.typing import NDArray

from training.picture import render_frames
from training.scene import SCENE_SECONDS, Scene, Source, Split, open_stream, sample_scene
from training.sound import render_samples

Streams = Literal["audio+video", "audio", "video"]
OnProgress = Callable[[int, int], None]

FRAME_SIZE = 224
FRAME_RATE = 8
"""Frames a second. Moments lie at multiples of 5/8 s: 8 is the lowest rate with a frame at each of them."""
SAMPLE_RATE_HZ = 44100
AUDIO_BIT_RATE = 96_000
PICTURE_OPTIONS = {"preset": "veryfast", "crf": "23", "threads": "1"}
"""One thread: the bytes of the file must not depend on the number of cores."""
SOUND_OPTIONS = {"aac_coder": "fast"}
LABELS_NAME = "labels.csv"
NUM_SOURCE_COLUMNS = 2
SCENES_PER_TASK = 8


class CorpusMismatch(ValueError):
    """The output folder already holds another corpus, or its labels cannot be read."""


@dataclass(frozen=True, kw_only=True)
class SourceLabel:
    """What is true of one sounding object, for ear and eye.

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
    """What is known about one file of a corpus.

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


def write_corpus(
    output: Path,
    *,
    num_scenes: int,
    seed: int,
    split: Split,
    separate_fraction: float = 0.0,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
) -> list[LabelRow]:
    """Make the files and labels of scenes 0 to `num_scenes`; those that are there already are kept.

    Args:
        output: Folder to write into; made if needed.
        num_scenes: How many scenes, at least 1.
        seed: Seed of the corpus.
        split: Split of the corpus.
        separate_fraction: Expected share of scenes whose picture and sound are two files, in [0, 1].
        num_workers: Processes that render; 1 renders in this process.
        on_progress: Called with (scenes done, scenes wanted) now and then.

    Returns:
        One row per file, in the order of the scenes.

    Raises:
        ValueError: If a number is out of range.
        CorpusMismatch: If the folder holds a corpus with other settings.
    """
    if num_scenes < 1 or num_workers < 1 or not 0.0 <= separate_fraction <= 1.0:
        raise ValueError(
            "num_scenes and num_workers must be at least 1 and separate_fraction within [0, 1], got "
            f"{num_scenes}, {num_workers} and {separate_fraction}"
        )
    output.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for index in range(num_scenes)
        for row in label_scene(sample_scene(seed, split, index), separate_fraction=separate_fraction)
    ]
    conflict = _find_conflict(output / LABELS_NAME, rows)
    if conflict is not None:
        raise CorpusMismatch(conflict)
    write_labels(output / LABELS_NAME, rows)
    missing = sorted({row.scene for row in rows if not (output / row.file).exists()})
    tasks = [
        (output, seed, split, separate_fraction, missing[start : start + SCENES_PER_TASK])
        for start in range(0, len(missing), SCENES_PER_TASK)
    ]
    num_done = num_scenes - len(missing)
    for num_made in _run_tasks(tasks, num_workers=num_workers):
        num_done += num_made
        if on_progress is not None:
            on_progress(num_done, num_scenes)
    return rows


Task = tuple[Path, int, Split, float, list[int]]


def _run_tasks(tasks: list[Task], *, num_workers: int) -> Iterator[int]:
    """Run the tasks and yield how many scenes each made, as they end."""
    if num_workers == 1:
        yield from map(_make_scenes, tasks)
        return
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_make_scenes, task) for task in tasks]):
            yield future.result()


def _make_scenes(task: Task) -> int:
    output, seed, split, separate_fraction, indices = task
    for index in indices:
        write_scene(output, sample_scene(seed, split, index), separate_fraction=separate_fraction)
    return len(indices)


def write_scene(output: Path, scene: Scene, *, separate_fraction: float) -> None:
    """Render one scene and write its file or files. A file appears under its name only when it is whole.

    Args:
        output: Folder to write into.
        scene: What to render.
        separate_fraction: Expected share of scenes written as two files.
    """
    times = np.arange(round(SCENE_SECONDS * FRAME_RATE)) / FRAME_RATE
    frames = render_frames(scene, times, FRAME_SIZE)
    samples = render_samples(scene, SAMPLE_RATE_HZ)
    for row in label_scene(scene, separate_fraction=separate_fraction):
        path = output / row.file
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
        write_media(
            unfinished,
            frames=frames if "video" in row.streams else None,
            samples=samples if "audio" in row.streams else None,
        )
        unfinished.replace(path)


def write_media(path: Path, *, frames: NDArray[np.uint8] | None, samples: NDArray[np.float32] | None) -> None:
    """Write one mp4 file with H.264 and AAC, playable from its first bytes.

    Args:
        path: File to write.
        frames: RGB frames at FRAME_RATE, uint8, shape (T, H, W, 3) with even sides, or None for no picture.
        samples: Mono samples at SAMPLE_RATE_HZ in [-1, 1], float32, shape (S,), or None for no sound.
    """
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        picture = sound = None
        if frames is not None:
            picture = container.add_stream("libx264", rate=FRAME_RATE, options=PICTURE_OPTIONS)
            picture.height, picture.width = frames.shape[1:3]
            picture.pix_fmt = "yuv420p"
        if samples is not None:
            sound = container.add_stream(
                "aac", rate=SAMPLE_RATE_HZ, layout="mono", options={"aac_coder": "fast"}
            )
            sound.bit_rate = AUDIO_BIT_RATE
        if picture is not None and frames is not None:
            for number, pixels in enumerate(frames):
                image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                image.pts, image.time_base = number, Fraction(1, FRAME_RATE)
                container.mux(picture.encode(image))
            container.mux(picture.encode())
        if sound is not None and samples is not None:
            block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")  # (1, S)
            block.sample_rate, block.pts = SAMPLE_RATE_HZ, 0
            block.time_base = Fraction(1, SAMPLE_RATE_HZ)
            container.mux(sound.encode(block))
            container.mux(sound.encode())


def label_scene(scene: Scene, *, separate_fraction: float) -> list[LabelRow]:
    """Name the files of a scene and say what is true of them.

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
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_parse_row(cells) for cells in csv.DictReader(file)]
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


def _find_conflict(path: Path, rows: list[LabelRow]) -> str | None:
    """Say why the corpus that is there is another one, or None where there is none or the same."""
    if not path.exists():
        return None
    for there, wanted in zip(read_labels(path), rows, strict=False):
        if there != wanted:
            return (
                f"{path.parent} already holds {there.file} of seed {there.seed}, split {there.split}; "
                f"asked for {wanted.file} of seed {wanted.seed}, split {wanted.split}"
            )
    return None
