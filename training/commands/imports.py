"""What `foley-train import` does: released weights become a bundle that the service can load.

Both graphs are compared with torch before the bundle appears, and its golden clip is recorded: the first clip of
`--media`, or, without media and without a network, a synthetic one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from models.bundle.bundle import describe_file
from models.media.clip import Clip, ClipSpec
from models.network.geometry import PublishedKind
from models.network.published import Heads, import_network
from models.network.tgdp import Tgdp
from models.network.weights import unwrap_weights
from training.commands.export import compared_clips, export_quietly, print_bundle
from training.corpus.clips import render_clips

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What to import, and how."""

    file: Path
    """`.safetensors`, or a file of `torch.save`."""
    kind: PublishedKind
    """Whose released checkpoint it is."""
    heads: Heads
    """Attention heads, where the released widths do not tell."""
    without_decoder: bool
    """Leave the decoder out, there or not."""
    without_contrastive_heads: bool
    """Embed right after the joint block, although the file has contrastive heads."""
    license_note: str | None
    """What the bundle should say of the weights' license."""


def import_weights(
    request: ImportRequest,
    *,
    output: Path,
    media: list[Path],
    num_clips: int,
    name: str,
    command: str,
    console: Console,
) -> None:
    """Make a bundle of released weights.

    Args:
        request: What to import.
        output: Folder of the bundle; must not exist.
        media: Clips to compare on; the first readable one becomes the golden clip. None: synthetic ones.
        num_clips: Most clips to compare on.
        name: Name of the bundle.
        command: What was typed, for the manifest.
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if the weights are not those of the kind, nothing can be compared, or the graphs differ.
    """
    try:
        with console.status(f"reading {escape(request.file.name)}"):
            found = unwrap_weights(request.file)
            network = _build_network(request, found.tensors)
        if found.wrappers:
            console.print(
                f"taken off around the tensors and their names: {', '.join(found.wrappers)}",
                markup=False,
                soft_wrap=True,
            )
        if media:
            config = network.config
            spec = ClipSpec(num_moments=config.num_moments, frame_size=config.frame_size)
            clips = compared_clips(media, spec, num_clips, console)
        else:
            clips = make_clips(network, num_clips)
        facts = {**_describe(request, network), "command": command}
        facts["golden_clip"] = "the first of the given media" if media else "synthetic"
        bundle = export_quietly(network, output, name=name, clips=clips, facts=facts, console=console)
    except (OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    print_bundle(bundle, output, num_clips=len(clips), console=console)


def make_clips(network: Tgdp, num_clips: int) -> list[Clip]:
    """Render clips of synthetic scenes, always the same ones.

    Args:
        network: Whose frames and moments they have.
        num_clips: How many.

    Returns:
        Clips of 10 s with picture and sound.
    """
    config = network.config
    return render_clips(ClipSpec(num_moments=config.num_moments, frame_size=config.frame_size), num_clips)


def _build_network(request: ImportRequest, tensors: Mapping[str, Tensor]) -> Tgdp:
    return import_network(
        tensors,
        kind=request.kind,
        heads=request.heads,
        without_decoder=request.without_decoder,
        without_contrastive_heads=request.without_contrastive_heads,
    )


def _describe(request: ImportRequest, network: Tgdp) -> dict[str, Any]:
    """Return the origin of the weights and what was imported, as JSON values."""
    heads = "part of the embedding" if network.config.head_depth else "none"
    return {
        "imported": {
            "file": request.file.name,
            **describe_file(request.file),
            "kind": request.kind,
            "license": request.license_note,
            "decoder": "left out" if request.without_decoder else "imported",
            "contrastive_heads": "left out" if request.without_contrastive_heads else heads,
        }
    }
