"""`foley assets`: what is indexed, and what is said about it.

    foley assets --folder ~/Videos/rain        list, as `foley assets list` does
    foley assets show clip.mp4
    foley assets annotate takes.csv

Where a `foley serve` has the index open, it is asked.
"""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.options import (
    Folder,
    HasModality,
    MaxDuration,
    Metadata,
    MinDuration,
    ModifiedAfter,
    ModifiedBefore,
    read_filter,
)
from service.commands.terminal import WRONG_USAGE, fail, print_json, read_settings, report_errors, say, stdout
from service.system.text import count

if TYPE_CHECKING:
    from service.index.contract import Filter

assets_app = typer.Typer(help="What is indexed: list, show, annotate, delete, export.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
Name = Annotated[str, typer.Argument(help="Id of an asset, or a path of its file.", metavar="ASSET")]
Names = Annotated[
    list[str], typer.Argument(help="Ids of assets, or paths of their files.", metavar="ASSET...")
]


@assets_app.callback(invoke_without_command=True)
def assets(
    context: typer.Context,
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> None:
    """List what is indexed, where no other command is named."""
    with report_errors():
        chosen = read_filter(
            folder=folder,
            modality=modality,
            min_duration=min_duration,
            max_duration=max_duration,
            modified_after=modified_after,
            modified_before=modified_before,
            metadata=metadata,
        )
    if context.invoked_subcommand is None:
        _list(chosen, as_json=as_json)
    elif chosen is not None or as_json:
        fail(f"options go after `{context.invoked_subcommand}`", code=WRONG_USAGE)


@assets_app.command("list")
def list_assets(
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> None:
    """List what is indexed."""
    with report_errors():
        chosen = read_filter(
            folder=folder,
            modality=modality,
            min_duration=min_duration,
            max_duration=max_duration,
            modified_after=modified_after,
            modified_before=modified_before,
            metadata=metadata,
        )
    _list(chosen, as_json=as_json)


@assets_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show all that is known of one asset."""
    from service.commands.inventory import find_asset, open_inventory
    from service.commands.printing import print_asset

    with report_errors(), open_inventory(read_settings()) as inventory:
        found = find_asset(inventory, name)
    if found is None:
        fail(f"nothing is indexed as {name}")
    if as_json:
        print_json(found)
    else:
        print_asset(stdout(), found)


@assets_app.command()
def delete(names: Names, as_json: Json = False) -> None:
    """Take assets out of the index. Their files stay where they are."""
    from service.commands.inventory import find_asset, open_inventory

    deleted, missing = [], []
    with report_errors(), open_inventory(read_settings()) as inventory:
        for name in names:
            found = find_asset(inventory, name)
            if found is not None and inventory.delete_asset(found["asset_id"]):
                deleted.append(found["asset_id"])
            else:
                missing.append(name)
    if as_json:
        print_json({"deleted": deleted, "missing": missing})
    else:
        say(f"{count(len(deleted), 'asset')} taken out of the index")
    if missing:
        fail(f"nothing is indexed as {', '.join(missing)}")


@assets_app.command()
def annotate(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a column `path`, or JSON: a list of objects with `path`, or an object by path. Paths are "
            "relative to the file.",
            exists=True,
            dir_okay=False,
            metavar="FILE",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say things about assets, by which searches and lists are filtered; rows that match nothing are named."""
    from service.commands.annotation import annotate as annotate_file
    from service.commands.inventory import open_inventory

    with report_errors(), open_inventory(read_settings()) as inventory:
        report = annotate_file(file, inventory)
    if as_json:
        print_json(report.to_json())
        return
    for path in report.unmatched:
        say(f"nothing is indexed at {path}")
    say(f"{count(report.num_changed, 'row')} changed an asset, {report.num_unchanged} said what was known")


@assets_app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Ends in .json or .csv.", dir_okay=False, metavar="FILE")],
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    metadata: Metadata = None,
) -> None:
    """Write paths and metadata of assets to a file that `annotate` reads."""
    from service.commands.annotation import export as export_file
    from service.commands.inventory import open_inventory

    with report_errors():
        chosen = read_filter(
            folder=folder,
            modality=modality,
            min_duration=min_duration,
            max_duration=max_duration,
            modified_after=modified_after,
            modified_before=modified_before,
            metadata=metadata,
        )
        with open_inventory(read_settings()) as inventory:
            num_assets = export_file(file, inventory.list_assets(chosen))
    say(f"{count(num_assets, 'asset')} in {file}")


def _list(chosen: Filter | None, *, as_json: bool) -> None:
    from service.commands.inventory import list_inventory
    from service.commands.printing import print_assets

    settings = read_settings()
    with report_errors():
        found = list_inventory(settings, chosen)
    if as_json:
        print_json({"assets": found})
    elif found:
        print_assets(stdout(), found)
    elif chosen is not None:
        say("no asset is like that")
    else:
        say(f"nothing is indexed in {settings.data}: start with `foley index PATH...`")
