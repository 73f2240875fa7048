"""`foley export`: a collection, or what a search or an audit found, as a file for an editor or a sound program."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.terminal import WRONG_USAGE, fail, read_settings, report_errors, say
from service.system.text import count

if TYPE_CHECKING:
    from service.exports.event import Cut
    from service.system.settings import Settings

FORMATS = "edl, fcpxml, xmeml, otio, reaper, reaper-csv, audition, protools, ale, avid-markers, csv or json"


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="Name or id of a collection; or a file with what `foley search`, `audit` or `collections show` "
            "printed with --json, - for standard input.",
            metavar="COLLECTION|FILE|-",
        ),
    ],
    kind: Annotated[str, typer.Option("--format", help=f"{FORMATS}.", metavar="FORMAT")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new file. Default: standard output.")
    ] = None,
    frame_rate: Annotated[
        str,
        typer.Option(
            help="23.976, 24, 25, 29.97df, 29.97, 30, 50, 59.94df, 59.94 or 60; df: drop-frame timecode."
        ),
    ] = "25",
    path_map: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="Folder here and where the editor has it; may be repeated.", metavar="HERE=THERE"
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Default: the name of the collection.")] = None,
) -> None:
    """Write parts of files, one after the other, as a cut, markers or a table."""
    from service.exports.formats import FORMATS as KNOWN
    from service.exports.formats import write
    from service.exports.timecode import RATES

    if kind not in KNOWN or frame_rate not in RATES:
        name, value, known = (
            ("--format", kind, KNOWN) if kind not in KNOWN else ("--frame-rate", frame_rate, RATES)
        )
        fail(f"{name} must be one of {', '.join(known)}, got {value!r}", code=WRONG_USAGE)
    pairs = [_read_pair(pair) for pair in path_map or ()]
    with report_errors():
        name, items = _read_items(read_settings(), source)
        cut = _build(read_settings(), items, frame_rate=frame_rate, title=title or name, pairs=pairs)
        content = write(cut, next(one for one in KNOWN if one == kind))
        if output is None:
            sys.stdout.buffer.write(content)
        else:
            with output.open("xb") as file:  # never another one's
                file.write(content)
    left_out = (
        f", {cut.num_left_out} left out: not indexed, or without what was wanted" if cut.num_left_out else ""
    )
    say(f"{count(len(cut.events), 'part')} written{left_out}")


def _build(
    settings: Settings,
    items: Sequence[Mapping[str, Any]],
    *,
    frame_rate: str,
    title: str,
    pairs: Sequence[tuple[str, str]],
) -> Cut:
    from service.commands.inventory import open_inventory
    from service.exports.event import build_cut
    from service.exports.timecode import RATES

    with open_inventory(settings) as inventory:
        assets = inventory.get_assets(sorted({str(item["asset_id"]) for item in items}))
    return build_cut(items, assets, rate=RATES[frame_rate], title=title, path_map=pairs)


def _read_items(settings: Settings, source: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """The title and the items of a collection, or of an answer in a file."""
    if source != "-" and not Path(source).is_file():
        from dataclasses import asdict

        from service.jobs.collections import find_collection
        from service.jobs.documents import LEDGER_NAME
        from service.jobs.ledger import Ledger

        with Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
            collection = find_collection(ledger, source)
        return collection.name, [asdict(item) for item in collection.items]
    text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    try:
        document = json.loads(text)
        rows = next(document[name] for name in ("items", "results", "findings") if name in document)
        keys = ("asset_id", "start_seconds", "end_seconds", "modality", "note", "query")
        items = [{key: row[key] for key in keys if key in row} for row in rows]
        for item, row in zip(items, rows, strict=True):
            item["asset_id"] = str(row["asset_id"])
            if "verdict" in row:
                item["note"] = f"{row['verdict']} {float(row['offset_seconds']):+.2f} s"
            elif "found_by" in row:
                item["modality"] = document["target"]
            for key in ("start_seconds", "end_seconds"):
                item[key] = None if item.get(key) is None else float(item[key])
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        fail(f"{source} is no answer of `foley search`, `audit` or `collections show` with --json")
    return str(document.get("name") or "Foley"), items


def _read_pair(pair: str) -> tuple[str, str]:
    here, equals, there = pair.partition("=")
    if not (here and equals and there):
        fail(f"--map must be HERE=THERE, got {pair!r}", code=WRONG_USAGE)
    return here, there
