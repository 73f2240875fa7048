"""Options that several commands have: `--json`, and which assets to include."""

# The functions import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from service.index.contract import Bounds, Filter, MetadataValue

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]

PANEL = "Which assets"
Folder = Annotated[
    str | None,
    typer.Option(
        help="Only assets with a file in or below this folder, or address.",
        metavar="FOLDER",
        rich_help_panel=PANEL,
    ),
]
HasModality = Annotated[
    Literal["audio", "video"] | None,
    typer.Option("--modality", help="Only assets that have this modality.", rich_help_panel=PANEL),
]
MinDuration = Annotated[
    float | None,
    typer.Option(min=0, help="Only files at least this long, in seconds.", rich_help_panel=PANEL),
]
MaxDuration = Annotated[
    float | None, typer.Option(min=0, help="Only files at most this long, in seconds.", rich_help_panel=PANEL)
]
ModifiedAfter = Annotated[
    datetime | None,
    typer.Option(help="Only files last changed at or after this time.", rich_help_panel=PANEL),
]
ModifiedBefore = Annotated[
    datetime | None, typer.Option(help="Only files last changed before this time.", rich_help_panel=PANEL)
]
Silent = Annotated[
    bool | None,
    typer.Option(
        "--silent/--no-silent",
        help="Only assets whose sound is silence from start to end, or only those with other sound.",
        rich_help_panel=PANEL,
    ),
]
Static = Annotated[
    bool | None,
    typer.Option(
        "--static/--no-static",
        help="Only assets in whose picture nothing changes, or only those with a moving picture.",
        rich_help_panel=PANEL,
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        help="Only assets with this metadata: `take=3`, `ok=true`, `mood=calm`; from one number to another: "
        "`lufs=-24..-22.5`, `fps=50..`. The same key several times: any of the values matches. Several keys: all must "
        "match.",
        metavar="KEY=VALUE",
        rich_help_panel=PANEL,
    ),
]


def read_filter(context: typer.Context) -> Filter | None:
    """The filter that the options above ask for, as the command of this context was given them; None without any."""
    from service.index.contract import Filter
    from service.library.locations import is_url

    given = context.params
    folder: str | None = given["folder"]
    after, before = given["modified_after"], given["modified_before"]  # in the time zone of this machine
    chosen = Filter(
        folder=folder if folder is None or is_url(folder) else str(Path(folder).expanduser().absolute()),
        modality=given["modality"],
        min_duration_seconds=given["min_duration"],
        max_duration_seconds=given["max_duration"],
        modified_after=None if after is None else after.timestamp(),
        modified_before=None if before is None else before.timestamp(),
        is_silent=given["silent"],
        is_static=given["static"],
        metadata=_read_pairs(given["metadata"] or []),
    )
    return None if chosen.is_empty else chosen


def _read_pairs(pairs: list[str]) -> dict[str, list[MetadataValue] | Bounds]:
    from service.index.contract import Bounds
    from service.library.metadata import read_value

    found: dict[str, list[MetadataValue] | Bounds] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"must be KEY=VALUE, got {pair!r}", param_hint="--metadata")
        bounds, value, earlier = _read_bounds(text), read_value(text), found.get(key, [])
        if isinstance(earlier, Bounds) or (bounds and earlier):
            raise typer.BadParameter(f"{key} takes one range or several values", param_hint="--metadata")
        found[key] = bounds or [*earlier, *(value if isinstance(value, list) else [value])]
    return found


def _read_bounds(text: str) -> Bounds | None:
    """The bounds that `-24..-22.5`, `50..` and `..3` say; None for other text."""
    from service.index.contract import Bounds
    from service.library.metadata import read_value

    numbers: list[float | None] = []
    for part in text.split("..") if len(text) > len("..") else []:
        value = read_value(part) if part else None
        if isinstance(value, str | bool | list):
            return None
        numbers.append(value)
    return Bounds(at_least=numbers[0], at_most=numbers[1]) if len(numbers) == 2 else None
