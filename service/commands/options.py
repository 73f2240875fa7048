"""The options of commands that say which assets count."""

# The options import nothing that takes long: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from service.index.contract import Filter, MetadataValue

PANEL = "Which assets"
Folder = Annotated[
    Path | None,
    typer.Option(help="Only assets with a file in this folder or below it.", rich_help_panel=PANEL),
]
HasModality = Annotated[
    Literal["audio", "video"] | None,
    typer.Option("--modality", help="Only assets that have this modality.", rich_help_panel=PANEL),
]
MinDuration = Annotated[
    float | None, typer.Option(min=0, help="Only files of so many seconds or more.", rich_help_panel=PANEL)
]
MaxDuration = Annotated[
    float | None, typer.Option(min=0, help="Only files of so many seconds or less.", rich_help_panel=PANEL)
]
ModifiedAfter = Annotated[
    datetime | None, typer.Option(help="Only files last changed then or later.", rich_help_panel=PANEL)
]
ModifiedBefore = Annotated[
    datetime | None, typer.Option(help="Only files last changed before then.", rich_help_panel=PANEL)
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        help="Only assets with this value: `take=3`, `ok=true`, `mood=calm`. One key several times: any of its "
        "values. Several keys: all of them.",
        metavar="KEY=VALUE",
        rich_help_panel=PANEL,
    ),
]


def read_filter(
    *,
    folder: Path | None,
    modality: Literal["audio", "video"] | None,
    min_duration: float | None,
    max_duration: float | None,
    modified_after: datetime | None,
    modified_before: datetime | None,
    metadata: list[str] | None,
) -> Filter | None:
    """Turn options into a filter.

    Args:
        folder: A folder, absolute or not.
        modality: A modality.
        min_duration: Seconds.
        max_duration: Seconds.
        modified_after: A time of this machine's zone.
        modified_before: A time of this machine's zone.
        metadata: Each `KEY=VALUE`.

    Returns:
        The filter, None where no option is given.
    """
    from service.index.contract import Filter

    chosen = Filter(
        folder=None if folder is None else str(folder.expanduser().absolute()),
        modality=modality,
        min_duration_seconds=min_duration,
        max_duration_seconds=max_duration,
        modified_after=None if modified_after is None else modified_after.timestamp(),
        modified_before=None if modified_before is None else modified_before.timestamp(),
        metadata=_read_pairs(metadata or []),
    )
    return None if chosen.is_empty else chosen


def _read_pairs(pairs: list[str]) -> dict[str, list[MetadataValue]]:
    from service.library.metadata import read_value

    found: dict[str, list[MetadataValue]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"must be KEY=VALUE, got {pair!r}", param_hint="--metadata")
        value = read_value(text)
        found.setdefault(key, []).extend(value if isinstance(value, list) else [value])
    return found
