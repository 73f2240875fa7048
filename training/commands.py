"""What the commands of `foley-train` that need torch do; `training.cli` only parses."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.bundle import BrokenBundle, load_bundle
from models.clip import Clip, ClipSpec, UnreadableClip, decode_clip
from models.export import GraphsDisagree, Tracks, export_bundle, graph_tracks, open_graphs, torch_tracks
from training.checkpoint import BrokenCheckpoint, load_checkpoint
from training.evaluate import COMBINATIONS, Combination, Retrieval, retrieval
from training.listing import find_media

logger = logging.getLogger(__name__)

NUM_COMPARED_CLIPS = 8
"""Real clips on which an exported graph is compared with torch."""


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def export(
    *, checkpoint: Path, output: Path, media: list[Path], name: str, weights: str, console: Console
) -> None:
    """Make a bundle of a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.
        output: Folder of the bundle.
        media: Real clips to compare on; the first readable one becomes the golden clip.
        name: Name of the bundle.
        weights: "student" or "teacher".
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if the checkpoint is broken, nothing can be compared, or the graphs disagree.
    """
    try:
        loaded = load_checkpoint(checkpoint)
        clips = list(itertools.islice(_pairs(find_media(media)), NUM_COMPARED_CLIPS))
        facts = {key: value for key, value in loaded.run.items() if key != "config"}
        training = {**facts, "weights": weights, "run": {**loaded.run["config"], "network": None}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            bundle = export_bundle(loaded.build(weights), output, name=name, clips=clips, training=training)
    except (BrokenCheckpoint, GraphsDisagree, OSError, ValueError) as exc:
        console.print(f"[red]{exc}[/red]")
        raise typer.Exit(2) from exc
    size = sum(entry["bytes"] for entry in bundle.manifest.files.values())
    console.print(
        f"{bundle.bundle_id} in {output}, {size / 1e6:.1f} MB, agreement {bundle.manifest.agreement}"
    )


def _pairs(files: list[Path]) -> Iterator[Clip]:
    """Decode the first segment of every file; those that are unreadable or lack a modality are left out and logged."""
    for file in files:
        try:
            clip = decode_clip(file, ClipSpec())
        except UnreadableClip as exc:
            logger.warning("left out %s: %s", file, exc)
            continue
        if clip.frames is None or clip.samples is None:
            logger.warning("left out %s: its first segment lacks picture or sound", file)
            continue
        yield clip


def evaluate(*, model: Path, data: list[Path], console: Console) -> dict[str, Any]:
    """Measure zero-shot retrieval over the first segment of every file that has picture and sound.

    Args:
        model: Folder of a bundle (runs on ONNX Runtime) or of a checkpoint (runs on torch, the student).
        data: Held-out media.
        console: Where the table goes.

    Returns:
        What was measured and on how much, JSON values: recall by combination of moments and direction.

    Raises:
        typer.Exit: With code 2 if the model cannot be read or there is nothing to measure on.
    """
    files = find_media(data)
    try:
        name, embed = _embedder(model)
        with _progress(console) as progress:
            clips = progress.track(_pairs(files), total=len(files), description="embed")
            tracks = [embed(clip) for clip in clips]
    except (BrokenBundle, BrokenCheckpoint) as exc:
        console.print(f"[red]{exc}[/red]")
        raise typer.Exit(2) from exc
    if not tracks:
        console.print("[red]no file has a segment with both picture and sound[/red]")
        raise typer.Exit(2)
    audio, video = np.stack([t.audio for t in tracks]), np.stack([t.video for t in tracks])
    measured = {combine: retrieval(audio, video, combine=combine) for combine in COMBINATIONS}
    console.print(_table(measured))
    return {
        "model": name,
        "num_files": len(files),
        "num_segments": len(tracks),
        "chance_at_1": 100 / len(tracks),
        "retrieval": {combine: found.to_json() for combine, found in measured.items()},
    }


def _embedder(model: Path) -> tuple[str, Callable[[Clip], Tracks]]:
    """Load a bundle or a checkpoint: its name, and the function that embeds a clip with it."""
    if (model / "run.json").exists():
        checkpoint = load_checkpoint(model)
        name = f"{checkpoint.run['config']['name']}, step {checkpoint.run['step']}"
        return name, partial(torch_tracks, checkpoint.build())
    bundle = load_bundle(model)
    return bundle.bundle_id, partial(graph_tracks, *open_graphs(bundle.path))


def _table(measured: dict[Combination, Retrieval]) -> Table:
    table = Table(title=f"zero-shot retrieval, {next(iter(measured.values())).num_segments} segments")
    for heading in ("moments", "query → found", "R@1 (95 % interval)", "R@5", "R@10", "median rank"):
        table.add_column(heading)
    for combine, found in measured.items():
        for direction, r in (
            ("sound → picture", found.audio_to_video),
            ("picture → sound", found.video_to_audio),
        ):
            low, high = r.at_1_interval
            at_1 = f"{r.at_1:.1f} ({low:.1f}-{high:.1f})"
            table.add_row(combine, direction, at_1, f"{r.at_5:.1f}", f"{r.at_10:.1f}", f"{r.median_rank:g}")
    return table
