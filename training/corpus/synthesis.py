"""Write a corpus of synthetic clips: real media files with sound that fits the picture, and their labels.

    foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2

Scene 7 becomes `0007.mp4`, or, for the share of scenes that is kept apart, `0007-picture.mp4` and
`0007-sound.m4a`. `labels.csv` has one row per file. It is written first; a file it names that is not there
yet is made by the next run. Needs NumPy and PyAV only.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from training.corpus.labels import CorpusMismatch, LabelRow, label_scene, read_labels, write_labels
from training.corpus.picture import render_frames
from training.corpus.recording import FRAME_RATE, SAMPLE_RATE_HZ, write_media
from training.corpus.scene import SCENE_SECONDS, Scene, Split, sample_scene
from training.corpus.sound import render_samples

OnProgress = Callable[[int, int], None]

FRAME_SIZE = 224
LABELS_NAME = "labels.csv"
SCENES_PER_TASK = 8


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
        on_progress: Called with (scenes done, scenes wanted) at the start and now and then.

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
    if on_progress is not None:
        on_progress(num_done, num_scenes)
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
        try:
            write_media(
                unfinished,
                frames=frames if "video" in row.streams else None,
                samples=samples if "audio" in row.streams else None,
            )
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _find_conflict(path: Path, rows: list[LabelRow]) -> str | None:
    """Return how the existing corpus differs, or None if there is none or it is the same."""
    if not path.exists():
        return None
    for there, wanted in zip(read_labels(path), rows, strict=False):
        if there != wanted:
            return (
                f"{path.parent} already holds {there.file} of seed {there.seed}, split {there.split}; "
                f"asked for {wanted.file} of seed {wanted.seed}, split {wanted.split}"
            )
    return None
