"""What `foley-train convert` does: the graphs of a bundle in float16 or 8-bit integers, in a folder beside it."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import typer
from rich.console import Console

from models.bundle.bundle import load_bundle
from models.bundle.conversion import convert_bundle
from training.commands.export import first_segments
from training.data.listing import find_media


def convert(
    bundle_path: Path, precision: str, *, media: list[Path], max_clips: int, console: Console
) -> None:
    """Write a variant of a bundle, compared with float32 on real clips.

    Args:
        bundle_path: Folder of the bundle.
        precision: `fp16` or `int8`.
        media: Files and folders of clips with picture and sound.
        max_clips: Most clips to compare on.
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if bundle or media cannot be used, or the precision is too far from float32.
    """
    try:
        bundle = load_bundle(bundle_path)
        with console.status("decoding clips"):
            found = first_segments(find_media(media), bundle.manifest.clip_spec, bundle.manifest.tracks)
            clips = list(itertools.islice(found, max_clips))
        with console.status(f"converting to {precision} and comparing with float32"):
            quantizer = logging.getLogger()  # it advises, on the root logger, what these graphs do not need
            level = quantizer.level
            quantizer.setLevel(logging.ERROR)
            try:
                variant = convert_bundle(bundle, precision, clips)
            finally:
                quantizer.setLevel(level)
    except (OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    size = sum(entry["bytes"] for entry in variant.files.values())
    written = f"{precision} of {bundle.bundle_id} in {variant.path}, {size / 1e6:.1f} MB"
    for line in (written, str(variant.agreement)):
        console.print(line, markup=False, soft_wrap=True)
