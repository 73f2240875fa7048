"""What `foley-train export` does: a checkpoint becomes a bundle, compared with torch on real clips."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
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


def export(
    *,
    checkpoint: Path,
    output: Path,
    media: list[Path],
    num_clips: int,
    name: str,
    weights: str,
    console: Console,
) -> None:
    """Make a bundle of a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.
        output: Folder of the bundle.
        media: Real clips to compare on; the first readable one becomes the golden clip.
        num_clips: Most of them to compare on.
        name: Name of the bundle.
        weights: "student" or "teacher".
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if the checkpoint is broken, nothing can be compared, or the graphs disagree.
    """
    try:
        loaded = load_checkpoint(checkpoint)
        clips = compared_clips(media, ClipSpec(), num_clips, console)
        facts = {key: value for key, value in loaded.run.items() if key != "config"}
        training = {**facts, "weights": weights, "run": {**loaded.run["config"], "network": None}}
        bundle = export_quietly(
            loaded.build(weights), output, name=name, clips=clips, facts=training, console=console
        )
    except (BrokenCheckpoint, GraphsDisagree, OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    print_bundle(bundle, output, num_clips=len(clips), console=console)


def print_bundle(bundle: Bundle, output: Path, *, num_clips: int, console: Console) -> None:
    """Print what was made, and how far ONNX Runtime was from torch.

    Args:
        bundle: New bundle.
        output: Its folder as it was given.
        num_clips: How many clips were compared.
        console: Where it goes.
    """
    size = sum(entry["bytes"] for entry in bundle.manifest.files.values())
    agreement = ", ".join(f"{graph} {value:.1e}" for graph, value in bundle.manifest.agreement.items())
    clips = f"{num_clips} clip{'' if num_clips == 1 else 's'}"
    for line in (
        f"{bundle.bundle_id} in {output}, {size / 1e6:.1f} MB",
        f"largest difference between ONNX Runtime and torch on {clips}: {agreement}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def compared_clips(
    media: Sequence[Path],
    spec: ClipSpec,
    num_clips: int,
    console: Console,
    *,
    modalities: Collection[str] = ("audio", "video"),
) -> list[Clip]:
    """Decode the clips that an export is compared on.

    Args:
        media: Folders, manifests and files.
        spec: How the network needs them.
        num_clips: At most so many.
        console: Where the progress is shown.
        modalities: What a clip must have.

    Returns:
        First segments with these; files without are left out and logged.
    """
    clips: list[Clip] = []
    with console.status("decoding clips") as status:
        for clip in itertools.islice(first_segments(find_media(media), spec, modalities), num_clips):
            clips.append(clip)
            status.update(f"decoding clips: {len(clips)} of at most {num_clips}")
    return clips


def export_quietly(
    network: Tgdp,
    output: Path,
    *,
    name: str,
    clips: Sequence[Clip],
    facts: dict[str, Any],
    console: Console,
) -> Bundle:
    """Export with progress, and without the exporter's warnings about its own internals; see `export_bundle`.

    Args:
        network: The trained network.
        output: Folder of the bundle.
        name: Name of the bundle.
        clips: Real clips with picture and sound.
        facts: JSON values that say how the network was made.
        console: Where the progress is shown.

    Returns:
        The bundle as it will be loaded.
    """
    num_steps, done = 2 * len(clips) + 3, itertools.count(1)
    with warnings.catch_warnings(), console.status("exporting") as status:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return export_bundle(
            network,
            output,
            name=name,
            clips=clips,
            training=facts,
            on_step=lambda step: status.update(f"step {next(done)} of {num_steps}: {step}"),
        )


def first_segments(files: list[Path], spec: ClipSpec, modalities: Collection[str]) -> Iterator[Clip]:
    """Decode the first segment of every file; those that are unreadable or lack a modality are left out and logged.

    Args:
        files: Media files.
        spec: How they are decoded.
        modalities: What a clip must have.

    Yields:
        The segments.
    """
    for file in files:
        try:
            clip = decode_clip(file, spec)
        except UnreadableClip as exc:
            logger.warning("skipped %s: %s", file, exc)
            continue
        has = {"audio": clip.samples is not None, "video": clip.frames is not None}
        if not all(has[modality] for modality in modalities):
            logger.warning("skipped %s: its first segment lacks picture or sound", file)
            continue
        yield clip
