"""`foley collections`: what people collect from answers: list, show, add, remove.

The ledger takes them directly, also while `foley serve` runs.
"""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.commands.options import Json
from service.commands.terminal import (
    WRONG_USAGE,
    fail,
    print_json,
    read_settings,
    report_errors,
    say,
    stdout,
)
from service.system.text import count

if TYPE_CHECKING:
    from service.jobs.collections import Collection
    from service.jobs.ledger import Ledger
    from service.system.settings import Settings

collections_app = typer.Typer(help="What you collect: list, show, add, remove.", invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="Name or id of a collection.", metavar="COLLECTION")]


@collections_app.callback()
def collections(context: typer.Context, as_json: Json = False) -> None:
    """List collections, if no subcommand is given."""
    if context.invoked_subcommand is None:
        list_all(as_json=as_json)


@collections_app.command("list")
def list_all(as_json: Json = False) -> None:
    """List collections, the one changed last first."""
    from service.commands.printing import format_text, format_when
    from service.commands.tables import print_columns
    from service.jobs.collections import list_collections

    with _ledger(read_settings()) as ledger:
        found = list_collections(ledger)
    if as_json:
        print_json({"collections": found})
    elif found:
        rows = [
            (
                one["collection_id"],
                str(one["num_items"]),
                format_when(one["updated_at"]),
                format_text(one["name"]),
            )
            for one in found
        ]
        print_columns(stdout(), ("id", "items", "changed", "name"), rows, right=("items",))
    else:
        say("there are no collections: start with `foley collections add NAME ASSET...`")


@collections_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show the items of a collection."""
    from service.commands.printing import format_path, format_text, format_time
    from service.commands.tables import print_columns
    from service.jobs.collections import find_collection

    settings = read_settings()
    with _ledger(settings) as ledger:
        found = _describe(settings, find_collection(ledger, name))
    if as_json:
        print_json(found)
        return
    rows = []
    for number, item in enumerate(found["items"], start=1):
        times = [
            "" if seconds is None else format_time(seconds)
            for seconds in (item["start_seconds"], item["end_seconds"])
        ]
        path = item["path"] and format_path(item["path"])
        file = path or f"not indexed: {item['asset_id']}"
        rows.append((str(number), *times, format_text(item["note"]), file))
    if rows:
        print_columns(
            stdout(), ("item", "from", "to", "note", "file"), rows, folding=("note", "file"), right=("item",)
        )
    else:
        say(f"{name} has no items")


@collections_app.command()
def add(
    name: Name,
    assets: Annotated[
        list[str], typer.Argument(help="Ids of assets, or paths of their files.", metavar="ASSET...")
    ],
    start: Annotated[float | None, typer.Option(min=0, help="Start of the part, in seconds.")] = None,
    end: Annotated[float | None, typer.Option(min=0, help="End of the part, in seconds.")] = None,
    modality: Annotated[
        Literal["audio", "video"] | None, typer.Option(help="What of the file is wanted.")
    ] = None,
    note: Annotated[str, typer.Option(help="What you say of it.")] = "",
    as_json: Json = False,
) -> None:
    """Add assets to a collection; one that does not exist is created."""
    from service.commands.inventory import find_asset, open_inventory
    from service.jobs.collections import (
        CollectionNotFound,
        Item,
        append_items,
        create_collection,
        find_collection,
    )

    if end is not None and end <= (start or 0):
        fail(f"--end must be after --start, got {end:g}", code=WRONG_USAGE)
    settings = read_settings()
    with report_errors(), open_inventory(settings) as inventory:
        found = {asset: find_asset(inventory, asset) for asset in assets}
    if missing := [asset for asset, document in found.items() if document is None]:
        fail(f"nothing is indexed as {', '.join(missing)}")
    items = [
        Item(
            asset_id=document["asset_id"], start_seconds=start, end_seconds=end, modality=modality, note=note
        )
        for document in found.values()
        if document is not None
    ]
    with _ledger(settings) as ledger:
        try:
            kept = find_collection(ledger, name)
        except CollectionNotFound:
            kept = create_collection(ledger, name)
        kept = append_items(ledger, kept.collection_id, items)
    if as_json:
        print_json(_describe(settings, kept))
    else:
        say(f"{kept.name} has {count(len(kept.items), 'item')}")


@collections_app.command()
def remove(
    name: Name,
    numbers: Annotated[
        list[int] | None, typer.Argument(min=1, help="Numbers of items, as shown.", metavar="[ITEM]...")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete the whole collection.")] = False,
) -> None:
    """Remove items from a collection, or all of it. The files stay where they are."""
    from service.jobs.collections import change_collection, delete_collection, find_collection

    if bool(numbers) == everything:
        fail("name the items, or give --all", code=WRONG_USAGE)
    with _ledger(read_settings()) as ledger:
        kept = find_collection(ledger, name)
        if everything:
            delete_collection(ledger, kept.collection_id)
            say(f"{kept.name} is deleted")
            return
        chosen = set(numbers or ())
        if wrong := sorted(number for number in chosen if number > len(kept.items)):
            fail(f"{kept.name} has {count(len(kept.items), 'item')}, there is no item {wrong[0]}")
        items = [item for number, item in enumerate(kept.items, start=1) if number not in chosen]
        change_collection(ledger, kept.collection_id, items=items, is_seen=kept.etag.__eq__)
    say(f"{kept.name} has {count(len(items), 'item')}")


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    from service.jobs.documents import LEDGER_NAME
    from service.jobs.ledger import Ledger

    with report_errors(), Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
        yield ledger


def _describe(settings: Settings, kept: Collection) -> dict[str, Any]:
    """A collection as the HTTP API describes it."""
    from service.commands.inventory import open_inventory
    from service.jobs.collections import describe_collection

    with open_inventory(settings) as inventory:
        found = inventory.get_assets(sorted({item.asset_id for item in kept.items}))
    return describe_collection(kept, found)
