"""`foley cut`: a stretch of a file as a file of its own."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.terminal import WRONG_USAGE, fail, read_settings, report_errors, say

if TYPE_CHECKING:
    from service.system.settings import Settings

TIMEOUT_SECONDS = 300.0  # to read a long file up to its start


def cut(
    source: Annotated[str, typer.Argument(help="A media file, or the id of an asset.", metavar="FILE|ID")],
    start: Annotated[float, typer.Option(help="Start, in seconds.", metavar="S")],
    end: Annotated[float, typer.Option(help="End, in seconds; at most 600 after the start.", metavar="S")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new file. Default: named after the source and the times, here."
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="audio: the sound alone, as WAV; video: the picture with its sound. Default: all."),
    ] = None,
    moment: Annotated[
        float | None,
        typer.Option(help="Best moment, in seconds of the source: a marker in a WAV.", metavar="S"),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Encode picture again, to begin at the start and not at a key frame."),
    ] = False,
) -> None:
    """Copy a stretch of a file into a new file; nothing is overwritten."""
    from typing import get_args

    from models.media.cut import MAX_SECONDS, MIN_SECONDS, cut_segment, is_span
    from service.decode.decoder import Decoder
    from service.decode.sandbox import WorkerLimits
    from service.library.indexing import library_limits
    from service.system.modality import Modality

    kind = next((one for one in get_args(Modality) if one == modality), None)
    if modality is not None and kind is None:
        fail(f"--modality must be audio or video, got {modality!r}", code=WRONG_USAGE)
    if not is_span(start, end) or (moment is not None and not math.isfinite(moment)):
        fail(
            f"--end must be after --start, by {MIN_SECONDS:g} to {MAX_SECONDS:g} s, got {start:g} to {end:g}",
            code=WRONG_USAGE,
        )
    settings = read_settings()
    with report_errors():
        path = _find(settings, source)
        if output is not None and output.exists():
            raise FileExistsError(17, "the file exists", str(output))
        limits = WorkerLimits(memory_bytes=settings.worker_memory_bytes)
        with Decoder(num_workers=1, limits=limits) as decoder:
            segment = decoder.read(
                path.resolve(),
                cut_segment,
                TIMEOUT_SECONDS + end - start,
                start,
                end,
                modality=kind,
                moment=moment,
                exact=exact,
                limits=library_limits(settings),
            )
        times = f"{segment.start_seconds:.3f}-{segment.end_seconds:.3f}"
        output = output or Path(f"{path.stem} {times}{segment.suffix}")
        if output.suffix.lower() != segment.suffix:
            fail(f"the segment is {segment.media_type}: the name of the file must end in {segment.suffix}")
        with output.open("xb") as file:  # never another one's
            file.write(segment.content)
    how = "copied" if segment.is_copy else "decoded" if segment.suffix == ".wav" else "encoded again"
    early = " from the key frame before the start" if segment.start_seconds < start - 1e-3 else ""
    say(f"{output}: {times} s, {how}{early}")


def _find(settings: Settings, source: str) -> Path:
    """The file of a path or an asset; ends the command if there is none, or its content is not what was indexed."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    from models.media.clip import hash_media
    from models.media.names import find_path
    from service.commands.inventory import find_asset, open_inventory
    from service.library.fetching import copy_asset
    from service.library.locations import is_url
    from service.library.object_cache import ObjectCache

    with open_inventory(settings) as inventory:
        asset = find_asset(inventory, source)
    if asset is None:
        fail(f"{source} is no file, and no asset of the library has this id")
    if is_url(asset["paths"][0]):
        return copy_asset(ObjectCache.of(settings), asset["paths"][0], asset["asset_id"])
    path = Path(find_path(asset["paths"][0]))
    if hash_media(path.resolve())[0] != asset["asset_id"]:
        fail(f"{path} was written to since it was indexed (media_changed)")
    return path
