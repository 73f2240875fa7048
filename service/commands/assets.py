"""`foley assets`: list, show, delete and annotate what is indexed."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.options import (
    Folder,
    HasModality,
    Json,
    MaxDuration,
    Metadata,
    MinDuration,
    ModifiedAfter,
    ModifiedBefore,
    Silent,
    Static,
    read_filter,
)
from service.commands.terminal import WRONG_USAGE, fail, print_json, read_settings, report_errors, say, stdout
from service.system.text import count

if TYPE_CHECKING:
    from service.index.contract import Filter

assets_app = typer.Typer(help="What is indexed: list, show, annotate, delete, export.")
Name = Annotated[str, typer.Argument(help="Id of an asset, or path of one of its files.", metavar="ASSET")]
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
    silent: Silent = None,
    static: Static = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> None:
    """List what is indexed, if no subcommand is given."""
    with report_errors():
        chosen = read_filter(context)
    if context.invoked_subcommand is None:
        _list(chosen, as_json=as_json)
    elif chosen is not None or as_json:
        hint = f"foley assets {context.invoked_subcommand} …"
        fail(f"put options after the subcommand: {hint}", code=WRONG_USAGE)


@assets_app.command("list")
def list_assets(
    context: typer.Context,
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    silent: Silent = None,
    static: Static = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> None:
    """List what is indexed."""
    with report_errors():
        chosen = read_filter(context)
    _list(chosen, as_json=as_json)


@assets_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show everything known about one asset."""
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
    """Delete assets from the index. Their files are not touched."""
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
        say(f"{count(len(deleted), 'asset')} deleted from the index")
    if missing:
        fail(f"nothing is indexed as {', '.join(missing)}")


@assets_app.command()
def annotate(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a column `path`, or JSON: a list of objects with `path`, or an object whose keys are "
            "paths. Paths are relative to this file.",
            exists=True,
            dir_okay=False,
            metavar="FILE",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Add metadata to assets, to filter searches and lists by. Rows that match no asset are reported."""
    from service.commands.annotation import annotate as annotate_file
    from service.commands.inventory import open_inventory

    with report_errors(), open_inventory(read_settings()) as inventory:
        report = annotate_file(file, inventory)
    if as_json:
        print_json(report.to_json())
        return
    for path in report.unmatched:
        say(f"nothing is indexed at {path}")
    say(
        f"{count(report.num_changed, 'row')} changed an asset, {report.num_unchanged} were already up to date"
    )


@assets_app.command()
def export(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="File to write, .json or .csv.", dir_okay=False, metavar="FILE")
    ],
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    silent: Silent = None,
    static: Static = None,
    metadata: Metadata = None,
    said: Annotated[bool, typer.Option("--said", help="Also write what files say of themselves.")] = False,
) -> None:
    """Write paths and metadata of assets to a file that `annotate` can read."""
    from service.commands.annotation import export as export_file
    from service.commands.inventory import open_inventory

    with report_errors():
        chosen = read_filter(context)
        with open_inventory(read_settings()) as inventory:
            num_assets = export_file(file, inventory.list_assets(chosen), with_said=said)
    say(f"{count(num_assets, 'asset')} written to {file}")


@assets_app.command()
def tracks(
    release: Annotated[
        str | None, typer.Option(help="Tracks of this release. Default: the active one.", metavar="RELEASE")
    ] = None,
) -> None:
    """Write the stored tracks to standard output, as a tar: what `foley-train adapt` learns from."""
    import sys

    from service.commands.here_or_there import write_tracks

    if sys.stdout.isatty():
        fail(
            "the tracks are a tar: foley assets tracks > tracks.tar",
            code=WRONG_USAGE,
        )
    with report_errors():
        write_tracks(read_settings(), release, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()


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
        say("no asset matches")
    else:
        say(f"nothing is indexed in {settings.data}: start with `foley index PATH...`")
