"""What `adapt` and its kin are asked for, which clips they hold back, and how those are measured and shown."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from training.adapting.fitting import FitConfig
from training.adapting.labels import Labels
from training.data.files import FolderInUse, only_one
from training.data.library import LibraryUnavailable
from training.data.stored_tracks import StoredTracks
from training.evaluation.classes import mean_average_precision
from training.evaluation.evaluate import Retrieval, retrieval

HELD_BACK = 10
"""One file of so many is held back, by the hash of its content: it chooses nothing and is measured."""

MAX_MEASURED = 2000
"""At most so many held-back clips are compared with each other."""

LEAST_HELD_BACK = 20


@contextlib.contextmanager
def beside(output: Path, console: Console) -> Iterator[Path]:
    """A scratch folder beside a bundle that will be written, gone afterwards, and what a killed run left gone before.

    Args:
        output: Folder of the bundle; must not exist, and no other run may be making it.
        console: Where is said why nothing was learned.

    Yields:
        The scratch folder.

    Raises:
        typer.Exit: With code 2 if nothing can be learned, or the result is refused.
    """  # noqa: DOC503 - the other exceptions become this one
    try:
        if output.exists():
            raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = output.with_name(f".{output.name}.learning")
        scratch.mkdir(exist_ok=True)
        with only_one(scratch, waits=False):
            for left in (scratch / "work", *output.parent.glob(f".{output.name}.*")):
                if (
                    left.name == "work" or left.suffix[1:].isdecimal()
                ):  # a bundle that a process of this id began
                    shutil.rmtree(left, ignore_errors=True)
            try:
                (scratch / "work").mkdir()
                yield scratch / "work"
            finally:
                shutil.rmtree(scratch)
    except (FolderInUse, LibraryUnavailable, OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc


class Refused(ValueError):
    """The heads find fewer of the held-back files' own pairs than the release gate allows."""


@dataclass(frozen=True, kw_only=True)
class AdaptRequest:
    """What to learn.

    Attributes:
        config: How the heads are fitted.
        sources: Where labels come from; see `training.adapting.labels`.
        graph: Of the labels, as `foley-train graph` wrote it; needed by the method `graph`.
        name: Name of the bundle.
        max_drop: Points of R@1 that may be lost on held-back files.
        precision: Share of suggested labels that must have been right.
        finetune: So many last blocks of the encoders learn from media instead of heads from stored tracks; 0 for none.
        command: As it was typed, for the manifest.
    """

    config: FitConfig
    sources: Sequence[str] = ()
    graph: Path | None = None
    name: str = "adapted"
    max_drop: float = 2.0
    precision: float = 0.9
    finetune: int = 0
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What heads find among held-back clips; mAP is None without labels."""

    retrieval: Retrieval
    mean_average_precision: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**self.retrieval.to_json(), "mean_average_precision": self.mean_average_precision}


def is_held_back(tracks: StoredTracks) -> NDArray[np.bool_]:
    """Which files nothing is learned from, bool, shape (files,)."""
    return np.array([int(asset.asset_id[:8], 16) % HELD_BACK == 0 for asset in tracks.assets])


def choose_held(tracks: StoredTracks, segments: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Choose segments of the files that are held back: one file of ten, by the hash of its content.

    Args:
        tracks: Of the library.
        segments: With sound and picture.

    Returns:
        Which are held back, shape (len(segments),).

    Raises:
        ValueError: If too few are held back, or too few are not.
    """
    found: NDArray[np.bool_] = is_held_back(tracks)[tracks.asset_of_segments()[segments]]
    if found.sum() < 2 or (~found).sum() < 2:
        raise ValueError(
            f"{len(segments)} segments with sound and picture are too few: some must be held back to measure"
        )
    return found


def read_graph(file: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """Read the skeleton that `foley-train graph` found, over sound and picture of these labels, (2C, 2C).

    Args:
        file: graph.json.
        names: The labels now; edges of others are left out.

    Returns:
        How often each edge was found, in [0, 1], in both directions.

    Raises:
        ValueError: If it is no such file.
    """
    nodes = [f"{kind} {name}" for kind in ("sound", "picture") for name in names]
    places = {node: number for number, node in enumerate(nodes)}
    found = np.zeros((2 * len(names), 2 * len(names)), np.float32)
    try:
        for edge in json.loads(file.read_text("utf-8"))["edges"]:
            if edge["from"] in places and edge["to"] in places:
                one, other = places[edge["from"]], places[edge["to"]]
                found[one, other] = found[other, one] = edge["frequency"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{file} is no graph of `foley-train graph`: {exc!r}") from exc
    return found


def measure_tracks(adapted: Mapping[str, NDArray[np.float32]], truth: NDArray[np.bool_] | None) -> Measured:
    """What tracks (N, T, D) of held-back clips find, by modality; with labels (N, C) their mAP too."""
    most = max(rows.shape[1] for rows in adapted.values())
    adapted = {name: np.repeat(rows, most // rows.shape[1], axis=1) for name, rows in adapted.items()}
    vectors = {}
    for name, rows in adapted.items():
        mean = rows.mean(axis=1)
        vectors[name] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return Measured(
        retrieval=retrieval(adapted["audio"], adapted["video"]),
        mean_average_precision=None
        if truth is None
        else mean_average_precision(vectors["audio"], vectors["video"], truth),
    )


def check_kept(frozen: Measured | None, adapted: Measured, max_drop: float) -> None:
    """Raise `Refused` if R@1 falls by more points than is allowed."""
    if frozen is None:
        return
    for direction in ("audio_to_video", "video_to_audio"):
        before = getattr(frozen.retrieval, direction).at_1
        after = getattr(adapted.retrieval, direction).at_1
        if after < before - max_drop:
            raise Refused(
                f"refused: R@1 of {direction.replace('_', ' ')} falls from {before:.1f} to {after:.1f} on held-back "
                f"files, and {max_drop:g} points are allowed; learn from more files, or with --method pair"
            )


def print_labels(labels: Labels, console: Console) -> None:
    """Say how many labels there are."""
    several = "several labels a file" if labels.has_many else "one label a file"
    console.print(
        f"{len(labels.names)} labels on {labels.has_label.sum()} of {len(labels.truth)} files, {several}"
    )


def print_table(table: Mapping[str, Measured | None], *, num_clips: int, console: Console) -> None:
    """Print what each method finds among the held-back clips."""
    shown = Table(title=f"{num_clips} held-back clips, in percent; [95 % interval of R@1]")
    for column in (
        "",
        "mAP →picture",
        "mAP →sound",
        "R@1 →picture",
        "R@1 →sound",
        "R@10 →picture",
        "R@10 →sound",
    ):
        shown.add_column(column, justify="left" if not column else "right")
    for name, found in table.items():
        if found is None:
            continue
        precision = found.mean_average_precision or ("–", "–")
        both = (found.retrieval.audio_to_video, found.retrieval.video_to_audio)
        shown.add_row(
            name,
            *(value if isinstance(value, str) else f"{value:.1f}" for value in precision),
            *(f"{one.at_1:.1f} \\[{one.at_1_interval[0]:.1f}–{one.at_1_interval[1]:.1f}]" for one in both),
            *(f"{one.at_10:.1f}" for one in both),
        )
    console.print(shown)
