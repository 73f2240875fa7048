"""The command `foley audit`."""

# Like the other commands, this one imports what it needs itself.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from service.commands.terminal import (
    fail,
    log_to_stderr,
    print_json,
    read_settings,
    report_errors,
    say,
    stdout,
)
from service.system.text import count


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most files to show.")] = 50,
    max_offset: Annotated[
        float, typer.Option(min=0, max=600, help="How far to look for a shifted sound, seconds.")
    ] = 30.0,
    show_all: Annotated[bool, typer.Option("--all", help="Show files that fit, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Find files whose sound does not fit their picture: mis-muxed, dubbed, silent, or shifted by how much."""
    from service.client.following import ServerRefused
    from service.search.calibration import TooFewPairs

    settings = read_settings()
    log_to_stderr()
    with report_errors():
        try:
            found = _audit(settings, limit=limit, max_offset=max_offset)
        except (ServerRefused, TooFewPairs) as exc:
            fail(str(exc))
    if as_json:
        print_json(found)
        return
    shown = [one for one in found["findings"] if show_all or one["verdict"] != "fits"]
    if not shown:
        say(f"nothing is wrong with {count(found['num_files'], 'file')} with sound and picture")
        return
    _print(shown)
    say(f"looked at {count(found['num_files'], 'file')} with sound and picture")


def _audit(settings: Any, *, limit: int, max_offset: float) -> dict[str, Any]:
    """Read the index here, or ask the server that has it open."""
    from service.client.following import JobClient, find_server
    from service.foley import open_foley
    from service.index.failure import IndexInUse
    from service.search.audit import audit_release

    try:
        with open_foley(settings) as foley:
            snapshot = foley.snapshot(priority="bulk")
            findings = audit_release(snapshot, max_offset_seconds=max_offset)
            return {
                "findings": [finding.to_json() for finding in findings[:limit]],
                "num_files": len(findings),
                "release_id": snapshot.release_id,
            }
    except IndexInUse:
        server = find_server(settings)
        if server is None:
            raise
    query = urlencode({"limit": limit, "max_offset_seconds": max_offset})
    with JobClient(*server, headers=settings.client_headers(), timeout_seconds=3600) as client:
        return client.ask("GET", f"/v1/audit?{query}")


def _print(findings: list[dict[str, Any]]) -> None:
    from service.commands.printing import format_path
    from service.commands.tables import print_columns

    rows = []
    for one in findings:
        offset = one["offset_seconds"]
        late = f"sound {abs(offset):.1f} s {'late' if offset > 0 else 'early'}" if offset else ""
        rows.append((f"{one['match_probability']:.0%}", one["verdict"], late, format_path(one["path"])))
    print_columns(stdout(), ("own sound", "verdict", "offset", "file"), rows)
