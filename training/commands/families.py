"""What `foley-train import --kind pe-av|clap|light` does: a published model of another family becomes a bundle."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from models.bundle.bundle import Bundle, check_name, describe_file
from models.media.clip import Clip
from models.network.clap import read_clap
from models.network.encoders import Encoders, export_encoders
from models.network.geometry import EncoderKind
from models.network.light import read_light, weight_files
from models.network.pe_av import read_pe_av
from models.network.published_folder import PublishedFolder
from training.commands.export import compared_clips, print_bundle
from training.corpus.clips import render_clips


@dataclass(frozen=True, kw_only=True)
class FamilyRequest:
    """What to import, and how."""

    folder: Path
    """As the model was published: config.json, model.safetensors, tokenizer.json, settings of the processor; of light
    the wheels."""
    kind: EncoderKind
    """Whose model it is."""
    segment_seconds: float | None
    """Length of a segment, which has one vector; None for 10 s."""
    license_note: str | None
    """What the bundle should say of the weights' license."""


def import_family(
    request: FamilyRequest,
    *,
    output: Path,
    media: list[Path],
    num_clips: int,
    name: str,
    command: str,
    console: Console,
) -> None:
    """Make a bundle of a published model.

    Args:
        request: What to import.
        output: Folder of the bundle; must not exist.
        media: Clips to compare on; the first readable one becomes the golden clip. None: synthetic ones.
        num_clips: Most clips to compare on.
        name: Name of the bundle.
        command: What was typed, for the manifest.
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if the folder cannot be used, nothing can be compared, or the graphs differ.
    """  # noqa: DOC503 - the other exceptions become this one
    try:
        check_name(name)
        if output.exists():
            raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
        with console.status("reading the folder"):
            encoders, weights = _read(request)
        clips = _clips(encoders, media, num_clips, console)
        facts = {"imported": _describe(request, weights), "command": command}
        facts["golden_clip"] = "the first of the given media" if media else "synthetic"
        bundle = _export_quietly(encoders, output, name, clips, facts, console)
    except (OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    print_bundle(bundle, output, num_clips=len(clips), console=console)


def _read(request: FamilyRequest) -> tuple[Encoders, Sequence[Path]]:
    """Read the encoders, and name the files of their weights."""
    if request.segment_seconds is not None and request.kind != "pe-av":
        raise ValueError(f"--segment-seconds is for --kind pe-av: {request.kind} embeds 10 s")
    if request.kind == "light":
        return read_light(request.folder), weight_files(request.folder)
    folder = PublishedFolder.open(request.folder)
    if request.kind == "pe-av":
        return read_pe_av(folder, segment_seconds=request.segment_seconds or 10.0), folder.weights
    return read_clap(folder), folder.weights


def _clips(encoders: Encoders, media: list[Path], num_clips: int, console: Console) -> list[Clip]:
    wanted = frozenset(encoders.media)
    if media:
        return compared_clips(media, encoders.clip_spec, num_clips, console, modalities=wanted)
    return render_clips(encoders.clip_spec, num_clips, modalities=wanted)


def _export_quietly(
    encoders: Encoders,
    output: Path,
    name: str,
    clips: list[Clip],
    facts: dict[str, Any],
    console: Console,
) -> Bundle:
    with warnings.catch_warnings(), console.status("exporting") as status:
        warnings.simplefilter("ignore")
        for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        show: Callable[[str], None] = status.update
        return export_encoders(encoders, output, name=name, clips=clips, training=facts, on_step=show)


def _describe(request: FamilyRequest, weights: Sequence[Path]) -> dict[str, Any]:
    """Return the origin of the weights, as JSON values."""
    return {
        "folder": request.folder.name,
        "files": {file.name: describe_file(file) for file in weights},
        "kind": request.kind,
        "license": request.license_note,
    }
