"""`foley audit`: find files whose sound does not belong to their picture."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.options import Json
from service.commands.terminal import log_to_stderr, print_json, read_settings, report_errors, say, stdout
from service.system.text import count

if TYPE_CHECKING:
    from service.system.settings import Settings

AUDIT_SECONDS = 3600.0


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of files.")] = 50,
    max_offset: Annotated[
        float, typer.Option(min=0, max=600, help="Maximum shift of the sound to look for, in seconds.")
    ] = 30.0,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also show files that fit, and those of which it cannot tell.")
    ] = False,
    moments: Annotated[
        bool,
        typer.Option(
            "--moments",
            help="Name the seconds whose sound does not belong to the picture, also of files that fit. Needs a release "
            "that weighs moments: foley-train agreement.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find files whose sound does not belong to their picture, is out of sync, or is silent."""
    from service.search.off_screen import MomentsNotWeighed
    from service.search.separation import Separation

    settings = read_settings()
    log_to_stderr()
    with report_errors():
        found = _audit(settings, limit=limit, max_offset=max_offset)
        if moments and not found["weighs_moments"]:
            raise MomentsNotWeighed(
                f"release {found['release_id']} does not weigh moments: make one that does with `foley-train agreement`"
            )
    if as_json:
        print_json(found)
        return
    hidden = () if show_all else ("fits", "cannot_tell")
    _print(
        [one for one in found["findings"] if one["verdict"] not in hidden or (moments and one["off_screen"])],
        moments=moments,
    )
    verdicts = {name.replace("_", " "): number for name, number in found["verdicts"].items()}
    numbers = ", ".join(f"{number} {name}" for name, number in sorted(verdicts.items()))
    say(f"checked {count(found['num_files'], 'file')} with sound and picture: {numbers}")
    say(f"own sound against that of other files: {Separation(**found['separation'])}")


def _audit(settings: Settings, *, limit: int, max_offset: float) -> dict[str, Any]:
    from service.commands.here_or_there import here_or_there
    from service.foley import open_foley
    from service.jobs.documents import LEDGER_NAME
    from service.jobs.ledger import Ledger
    from service.jobs.marks import read_marks
    from service.search.audit import audit_release

    def here() -> dict[str, Any]:
        with open_foley(settings) as foley:
            found = audit_release(foley.snapshot(priority="bulk"), max_offset_seconds=max_offset)
        with Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
            return found.with_marks(read_marks(ledger)).to_json(limit=limit)

    query = {"limit": limit, "max_offset_seconds": max_offset}
    return here_or_there(
        settings,
        here,
        lambda client: client.ask("GET", "/v1/audit", query=query, timeout_seconds=AUDIT_SECONDS),
    )


def _print(findings: list[dict[str, Any]], *, moments: bool) -> None:
    from service.commands.printing import format_path, format_probability, format_time
    from service.commands.tables import print_columns

    rows = []
    for one in findings:
        offset = one["offset_seconds"]
        late = f"sound {abs(offset):.1f} s {'late' if offset > 0 else 'early'}" if offset else ""
        likely = format_probability(one["match_probability"])
        spans = ", ".join(f"{format_time(a)}–{format_time(b)}" for a, b in one["off_screen"] or ())
        seen = (spans,) if moments else ()
        rows.append((likely, one["verdict"].replace("_", " "), late, *seen, format_path(one["path"])))
    if rows:
        named = ("off screen",) if moments else ()
        print_columns(stdout(), ("own sound", "verdict", "offset", *named, "file"), rows)
