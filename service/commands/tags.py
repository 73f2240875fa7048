"""`foley suggest-tags`: tags for files that lack them, learned from the tags that are there; to look at or accept."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from service.commands.inventory import Inventory
    from service.index.contract import Filter

Suggestions = list[dict[str, Any]]


def suggest_tags(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids of assets, or paths of their files. Default: all that pass the filter.",
            metavar="[ASSET...]",
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only these tags; may be given several times.")
    ] = None,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Only tags that are at least this likely.")
    ] = 0.0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Add the listed tags to the metadata of their files.")
    ] = False,
    decline: Annotated[
        bool, typer.Option("--decline", help="Do not suggest the listed tags for these files again.")
    ] = False,
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="File that `foley-train adapt` or `graph` wrote: use it from now on.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
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
    """Suggest tags for files that lack them. Nothing is written without --accept or --decline."""
    from service.commands.inventory import open_inventory

    if accept and decline:
        fail("--accept and --decline exclude each other", code=WRONG_USAGE)
    settings = read_settings()
    with report_errors():
        chosen = read_filter(context)
        if classifier is not None:
            _keep(settings.data, classifier)
        with open_inventory(settings) as inventory:
            found = _choose(inventory, names or [], chosen, tag or [], min_probability)
            for one in found if accept or decline else ():
                tags = [entry["tag"] for entry in one["suggestions"]]
                inventory.decide_tags(one["asset_id"], {"accept" if accept else "decline": tags})
    did = "accepted" if accept else "declined" if decline else "suggested"
    num_tags = sum(len(one["suggestions"]) for one in found)
    if as_json:
        print_json({"assets": found, did: num_tags})
        return
    _print(found)
    say(f"{count(num_tags, 'tag')} of {count(len(found), 'file')} {did}")


def _keep(data: Path, file: Path) -> None:
    from service.library.tags import keep_classifier

    kept = keep_classifier(data, file)
    say(f"{count(len(kept.names), 'tag')} learned for {kept.bundle_id}")


def _choose(
    inventory: Inventory, names: Sequence[str], chosen: Filter | None, tags: Sequence[str], least: float
) -> Suggestions:
    """The suggestions that were asked for, the likeliest first."""
    found = []
    for one in _named(inventory, names) if names else inventory.list_suggestions(chosen):
        kept = [
            entry
            for entry in one["suggestions"]
            if entry["probability"] >= least and (not tags or entry["tag"] in tags)
        ]
        if kept:
            found.append({**one, "suggestions": kept})
    return sorted(found, key=lambda one: -float(one["suggestions"][0]["probability"]))


def _named(inventory: Inventory, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    from service.commands.inventory import find_asset

    for name in names:
        asset = find_asset(inventory, name)
        found = asset and inventory.get_suggestions(asset["asset_id"])
        if found is None:
            fail(f"nothing is indexed as {name}")
        yield found


def _print(found: Suggestions) -> None:
    from service.commands.printing import format_path, format_probability
    from service.commands.tables import print_columns

    rows = [
        (format_probability(entry["probability"]), entry["tag"], format_path(one["path"]))
        for one in found
        for entry in one["suggestions"]
    ]
    if rows:
        print_columns(stdout(), ("probability", "tag", "file"), rows)
