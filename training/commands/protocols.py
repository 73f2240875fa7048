"""What `foley-train evaluate --protocol` does: check a manifest, measure a bundle on it, show published figures too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from models.bundle.bundle import load_bundle
from training.commands.evaluate import EXPECTED, log_to, show_progress
from training.data.listing import list_items
from training.evaluation.protocol import PROTOCOLS, Measured, Protocol, find_missing, measure_protocol

MAX_NAMED = 10
"""Missing files that are named; the JSON names all."""
NAMES = {"audio": "sound", "video": "picture", "text": "words"}


def run_protocol(
    model: Path, data: Sequence[Path], name: str, *, num_workers: int, console: Console
) -> dict[str, Any]:
    """Measure a bundle on the clips of a published protocol.

    Args:
        model: Folder of the bundle.
        data: Manifests of the clips, with captions if words are to be measured.
        name: Of the protocol.
        num_workers: Processes that decode.
        console: Where the table goes.

    Returns:
        What was measured and on how much, JSON values, with the published figures.

    Raises:
        typer.Exit: With code 2 if the bundle or the manifest cannot be read, or there is nothing to measure on.
    """
    log_to(console)
    protocol = PROTOCOLS[name]
    try:
        bundle, items = load_bundle(model), list_items(data)
        missing = find_missing(items)
        _report_files(protocol, num_listed=len(items), missing=missing, console=console)
        there = [item for item in items if (item.path or item.wav) not in set(missing)]
        with show_progress(console) as progress:
            bar = progress.add_task("embed", total=len(there))
            measured = measure_protocol(
                bundle,
                there,
                num_workers=num_workers,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except EXPECTED as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    for failure in measured.failed:
        console.print(f"skipped {failure.path}: {failure.reason}", markup=False, highlight=False)
    for words in measured.left_out:
        console.print(words, markup=False, highlight=False)
    console.print(protocol_table(bundle.bundle_id, name, protocol, measured))
    return {
        "model": bundle.bundle_id,
        "protocol": name,
        "clips": protocol.clips,
        "num_expected": protocol.num_clips,
        "num_listed": len(items),
        "num_clips": measured.num_clips,
        "num_captions": measured.num_captions,
        "is_complete": measured.num_clips == protocol.num_clips,
        "missing": [str(path) for path in missing],
        "failed": [asdict(failure) for failure in measured.failed],
        "left_out": list(measured.left_out),
        "chance_at_1": 100 / measured.num_clips,
        "retrieval": {direction: found.to_json() for direction, found in measured.recalls.items()},
        "published": [asdict(figure) for figure in protocol.published],
    }


def _report_files(protocol: Protocol, *, num_listed: int, missing: Sequence[Path], console: Console) -> None:
    """Say what the manifest lacks: figures on fewer clips are too good."""
    lines = []
    if num_listed != protocol.num_clips:
        lines.append(f"the manifest lists {num_listed} clips, the protocol has {protocol.num_clips}")
    if missing:
        lines.append(f"{len(missing)} of {num_listed} files are missing:")
        lines += [f"  {path}" for path in missing[:MAX_NAMED]]
        lines += (
            [f"  … and {len(missing) - MAX_NAMED} more: the JSON names all"]
            if len(missing) > MAX_NAMED
            else []
        )
    for line in lines:
        console.print(line, style="yellow", markup=False, highlight=False)


def protocol_table(model: str, name: str, protocol: Protocol, measured: Measured) -> Table:
    """Lay out what was measured beside what is published.

    Args:
        model: Name of the bundle.
        name: Of the protocol.
        protocol: What it is.
        measured: What the bundle reached.

    Returns:
        A row for each direction, then one for each published encoder.
    """
    share = "all" if measured.num_clips == protocol.num_clips else f"only {measured.num_clips} of"
    table = Table(
        title=f"{name}: {share} {protocol.num_clips} clips, chance at 1 {100 / measured.num_clips:.2f} %"
    )
    for heading in ("encoder", "query → found", "R@1", "R@5", "R@10", "source"):
        table.add_column(heading)
    for direction, found in measured.recalls.items():
        low, high = found.at_1_interval
        at_1 = f"{found.at_1:.1f} ({low:.1f}-{high:.1f})"
        table.add_row(
            model, name_of(direction), at_1, f"{found.at_5:.1f}", f"{found.at_10:.1f}", "measured now"
        )
    for figure in protocol.published:
        for direction in ("video_to_audio", "audio_to_video"):
            percent = getattr(figure, direction)
            if percent is not None:
                table.add_row(figure.encoder, name_of(direction), f"{percent:.1f}", "", "", figure.source)
    return table


def name_of(direction: str) -> str:
    """Name a direction for people.

    Args:
        direction: Such as `video_to_audio`.

    Returns:
        Such as `picture → sound`.
    """
    query, found = direction.split("_to_")
    return f"{NAMES[query]} → {NAMES[found]}"
