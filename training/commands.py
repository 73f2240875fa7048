"""What the commands of `foley-train` that need torch do; `training.cli` only parses."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.bundle import BrokenBundle, load_bundle
from models.clip import Clip, ClipSpec, UnreadableClip, decode_clip
from models.export import GraphsDisagree, export_bundle
from training.checkpoint import BrokenCheckpoint, load_checkpoint
from training.config import RUNS
from training.data import NoTrainingData, PairedSegments, find_media, prepare
from training.evaluate import retrieval
from training.pretrain import TrainingDiverged
from training.pretrain import pretrain as run_pretraining

NUM_COMPARED_CLIPS = 8
"""Real clips on which an exported graph is compared with torch."""


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _git_commit() -> str | None:
    """Return the commit of the code that runs, or None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def _prepared(paths: list[Path], folder: Path, num_workers: int, progress: Progress) -> PairedSegments:
    bar = progress.add_task(f"decode {folder.name}", total=None)
    segments = prepare(
        paths,
        folder,
        ClipSpec(),
        num_workers=num_workers,
        on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
    )
    for failure in segments.failed:
        progress.console.print(f"left out {failure['path']}: {failure['reason']}", markup=False)
    return segments


def pretrain(
    *,
    run_name: str,
    data: list[Path],
    output: Path,
    validation: list[Path],
    num_steps: int | None,
    seed: int | None,
    evaluate_every: int,
    compile_passes: bool,
    num_workers: int,
    command: str,
    console: Console,
) -> None:
    """Decode the media, train, and leave `metrics.jsonl` and `checkpoint/` in the output folder.

    Args:
        run_name: Name of the run in `training.config.RUNS`.
        data: Training media.
        output: Folder of the run.
        validation: Held-out media; may be empty.
        num_steps: Instead of the run's own number of steps.
        seed: Instead of the run's own seed.
        evaluate_every: Steps between two checkpoints.
        compile_passes: Whether torch.compile fuses the passes.
        num_workers: Processes that decode.
        command: What was typed, for the checkpoint.
        console: Where the progress goes.

    Raises:
        typer.Exit: With code 2 if the run is not known, no media can be used, or the loss is not finite.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console)])
    if run_name not in RUNS:
        console.print(f"[red]there is no run {run_name!r}; there are {', '.join(RUNS)}[/red]")
        raise typer.Exit(2)
    config = RUNS[run_name]()
    config = dataclasses.replace(
        config,
        num_steps=config.num_steps if num_steps is None else num_steps,
        seed=config.seed if seed is None else seed,
        compile=config.compile or compile_passes,
    )
    try:
        with _progress(console) as progress:
            training = _prepared(data, output / "decoded-training", num_workers, progress)
            held_out = (
                _prepared(validation, output / "decoded-validation", num_workers, progress)
                if validation
                else None
            )
            bar = progress.add_task("train", total=config.num_steps)
            run_pretraining(
                config,
                training,
                output,
                validation=held_out,
                evaluate_every=evaluate_every,
                facts={"command": command, "commit": _git_commit()},
                on_step=lambda done, losses: progress.update(
                    bar, completed=done, description=f"train, loss {losses['loss']:.2f}"
                ),
            )
    except (NoTrainingData, TrainingDiverged, OSError) as exc:
        console.print(f"[red]{exc}[/red]")
        raise typer.Exit(2) from exc
    console.print(f"checkpoint in {output / 'checkpoint'}")


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
        clips = _first_pairs(find_media(media), NUM_COMPARED_CLIPS)
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


def _first_pairs(files: list[Path], count: int) -> list[Clip]:
    """Decode files until enough have given a first segment with both modalities."""
    pairs: list[Clip] = []
    for file in files:
        if len(pairs) == count:
            break
        try:
            clip = decode_clip(file, ClipSpec())
        except UnreadableClip:
            continue
        if clip.frames is not None and clip.samples is not None:
            pairs.append(clip)
    return pairs


def evaluate(*, bundle: Path, data: list[Path]) -> dict[str, Any]:
    """Measure zero-shot retrieval of a bundle on ONNX Runtime, over the first segment of every file with both.

    Args:
        bundle: Folder of the bundle.
        data: Held-out media.

    Returns:
        Bundle id, chance and recall in both directions, JSON values.

    Raises:
        typer.Exit: With code 2 if the bundle is broken or there is nothing to measure on.
    """
    try:
        loaded = load_bundle(bundle)
    except BrokenBundle as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2) from exc
    audio_session = onnxruntime.InferenceSession(loaded.audio_graph, providers=["CPUExecutionProvider"])
    video_session = onnxruntime.InferenceSession(loaded.video_graph, providers=["CPUExecutionProvider"])
    files = find_media(data)
    audio, video = [], []
    for clip in _first_pairs(files, len(files)):
        assert clip.samples is not None
        assert clip.frames is not None
        lengths = np.array([len(clip.samples)], np.int64)
        audio.append(audio_session.run(None, {"samples": clip.samples[None], "lengths": lengths})[0])
        video.append(video_session.run(None, {"frames": clip.frames[None]})[0])
    if not audio:
        typer.echo("no file has a segment with both picture and sound", err=True)
        raise typer.Exit(2)
    scores = retrieval(np.concatenate(audio), np.concatenate(video))
    return {
        "bundle_id": loaded.bundle_id,
        "chance_at_1": 100 / len(audio),
        "num_files": len(files),
        **scores.to_json(),
    }
