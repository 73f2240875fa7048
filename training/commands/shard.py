"""What `foley-train shard` does: decode media into shards, show how far it is, name what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from models.media.clip import ClipSpec
from training.data.archive import BrokenShard
from training.data.listing import BadListing, list_items
from training.data.packing import Packing
from training.data.segments import NoTrainingData
from training.data.shards import AnotherSet, write_shards


def make_shards(
    data: Sequence[Path],
    output: Path,
    packing: Packing,
    *,
    shard_megabytes: int,
    num_workers: int,
    console: Console,
) -> None:
    """Decode media into shards; a second call with the same arguments resumes after the last whole shard.

    Args:
        data: Folders, media files and manifests.
        output: Folder of the shards.
        packing: How segments are packed.
        shard_megabytes: The most megabytes of a shard.
        num_workers: Processes that decode.
        console: Where the progress goes.

    Raises:
        typer.Exit: With code 2 if there is nothing to decode, or the folder holds other shards.
    """
    columns = (
        TextColumn("files"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("files", total=None)
            index = write_shards(
                list_items(data),
                output,
                ClipSpec(),
                packing,
                shard_bytes=shard_megabytes * 1_000_000,
                num_workers=num_workers,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except (AnotherSet, BadListing, BrokenShard, NoTrainingData, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    for failure in index.failed:
        console.print(f"skipped {failure['path']}: {failure['reason']}", markup=False, highlight=False)
    num_bytes = sum(shard["bytes"] for shard in index.shards)
    console.print(
        f"{index.num_segments} segments in {len(index.shards)} shards, {num_bytes / 1e6:.1f} MB, in {output}; "
        f"{len(index.failed)} files skipped, {index.num_left_out} segments left out: silence, or a picture that never "
        "changes",
        markup=False,
    )
