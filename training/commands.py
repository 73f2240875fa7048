"""What the commands of `foley-train` that need torch do; `training.cli` only parses."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from models.clip import Clip, ClipSpec, UnreadableClip, decode_clip
from models.export import GraphsDisagree, export_bundle
from training.checkpoint import BrokenCheckpoint, load_checkpoint
from training.listing import find_media

logger = logging.getLogger(__name__)

NUM_COMPARED_CLIPS = 8
"""Real clips on which an exported graph is compared with torch."""


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
