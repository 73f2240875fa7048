"""What `foley-train export` does: a checkpoint becomes a bundle, compared with torch on real clips."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from models.bundle.bundle import Bundle
from models.media.clip import Clip, ClipSpec, UnreadableClip, decode_clip
from models.network.export import GraphsDisagree, export_bundle
from models.network.tgdp import Tgdp
from training.checkpoint import BrokenCheckpoint, load_checkpoint
from training.data.listing import find_media

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
        clips = compared_clips(media, ClipSpec())
        facts = {key: value for key, value in loaded.run.items() if key != "config"}
        training = {**facts, "weights": weights, "run": {**loaded.run["config"], "network": None}}
        bundle = export_quietly(loaded.build(weights), output, name=name, clips=clips, facts=training)
    except (BrokenCheckpoint, GraphsDisagree, OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    size = sum(entry["bytes"] for entry in bundle.manifest.files.values())
    console.print(
        f"{bundle.bundle_id} in {output}, {size / 1e6:.1f} MB, agreement {bundle.manifest.agreement}",
        markup=False,
        soft_wrap=True,
    )


def compared_clips(media: Sequence[Path], spec: ClipSpec) -> list[Clip]:
    """Decode the clips that an export is compared on.

    Args:
        media: Folders, manifests and files.
        spec: How the network needs them.

    Returns:
        At most 8 first segments with picture and sound; files without are left out and logged.
    """
    return list(itertools.islice(_pairs(find_media(media), spec), NUM_COMPARED_CLIPS))


def export_quietly(
    network: Tgdp, output: Path, *, name: str, clips: Sequence[Clip], facts: dict[str, Any]
) -> Bundle:
    """Export without the exporter's warnings about its own internals; see `export_bundle`.

    Args:
        network: The trained network.
        output: Folder of the bundle.
        name: Name of the bundle.
        clips: Real clips with picture and sound.
        facts: JSON values that say how the network was made.

    Returns:
        The bundle as it will be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return export_bundle(network, output, name=name, clips=clips, training=facts)


def _pairs(files: list[Path], spec: ClipSpec) -> Iterator[Clip]:
    """Decode the first segment of every file; those that are unreadable or lack a modality are left out and logged."""
    for file in files:
        try:
            clip = decode_clip(file, spec)
        except UnreadableClip as exc:
            logger.warning("skipped %s: %s", file, exc)
            continue
        if clip.frames is None or clip.samples is None:
            logger.warning("skipped %s: its first segment lacks picture or sound", file)
            continue
        yield clip
