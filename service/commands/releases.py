"""The commands `foley releases`: swap the encoders of a library, while a service answers or without one."""

# Like the other commands, these import what they need themselves.
# ruff: noqa: PLC0415

from __future__ import annotations

import datetime
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.terminal import (
    fail,
    log_to_stderr,
    print_json,
    read_settings,
    report_errors,
    say,
    stderr,
    stdout,
)
from service.system.text import count

releases_app = typer.Typer(help="Swap the encoders, and go back.", invoke_without_command=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
ReleaseName = Annotated[str, typer.Argument(help="Name of a release.", metavar="RELEASE")]
Force = Annotated[
    str, typer.Option(help="Why to activate it although it failed its gates; recorded.", metavar="REASON")
]


@releases_app.callback()
def releases(context: typer.Context, as_json: Json = False) -> None:
    """List the releases, where no other command is named."""
    if context.invoked_subcommand is None:
        list_all(as_json=as_json)


@releases_app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the releases, the oldest first."""
    from service.commands.releases_here_or_there import list_releases
    from service.commands.tables import print_columns

    settings = read_settings()
    with _errors():
        found = list_releases(settings)
    if as_json:
        print_json(found)
        return
    if not found["releases"]:
        say(
            f"no release was ever made: {found['active']} answers. Make one with `foley releases create BUNDLE`"
        )
        return
    rows, refusals = [], []
    for release in found["releases"]:
        made = datetime.datetime.fromtimestamp(release["created_at"]).astimezone().strftime("%Y-%m-%d %H:%M")
        state = release["state"] + (" (before)" if release["is_previous"] else "")
        recall = release["gates"].get("recall", {}).get("new", {})
        shown = " / ".join(f"{recall[name]['at_1']:.1%}" for name in ("audio", "video") if name in recall)
        rows.append((release["release_id"], state, made, shown))
        if reasons := release["gates"].get("reasons"):
            refusals.append(f"{release['release_id']} was refused: {'; '.join(reasons)}")
    print_columns(stdout(), ("release", "state", "made", "R@1 sound / picture"), rows, folding=())
    for refusal in refusals:  # a line each: a column of them would be a few letters wide
        stdout().print(refusal, markup=False, highlight=False, soft_wrap=True)


@releases_app.command()
def create(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.", exists=True, file_okay=False)],
    activate: Annotated[
        bool, typer.Option("--activate", help="Activate it when it has passed its gates.")
    ] = False,
    force: Force = "",
    as_json: Json = False,
) -> None:
    """Build a release of a bundle: try it, embed the library with it, compare it with the active one."""
    from service.commands.releases_here_or_there import create_release

    if force and not activate:
        fail("--force belongs to --activate", code=2)
    settings = read_settings()
    log_to_stderr()
    with _errors(), _show_steps() as on_step:
        job = create_release(settings, bundle, activate=activate, force=force, on_step=on_step)
    if as_json:
        print_json(job)
    if job["state"] != "done":
        fail("stopped; the same command goes on from there", code=130)
    release, switched = job["report"]["release"], job["report"]["switched"]
    if not as_json:
        _print_gates(release)
    if switched is not None:
        _tell_switch(switched)
    elif release["outcome"] != "ready":
        fail(f"release {release['release_id']} was refused")
    else:
        name = release["release_id"]
        say(f"release {name} is ready: `foley releases activate {name}` lets it answer")


@releases_app.command("activate")
def activate_one(release: ReleaseName, force: Force = "", as_json: Json = False) -> None:
    """Let a release answer; requests that run end with the one they began with."""
    from service.commands.releases_here_or_there import activate_release

    settings = read_settings()
    log_to_stderr()
    with _errors():
        switched = activate_release(settings, release, force=force)
    if as_json:
        print_json(switched)
    else:
        _tell_switch(switched)


@releases_app.command()
def rollback(as_json: Json = False) -> None:
    """Let the release before answer again, at once."""
    from service.commands.releases_here_or_there import rollback_release

    settings = read_settings()
    log_to_stderr()
    with _errors():
        switched = rollback_release(settings)
    if as_json:
        print_json(switched)
    else:
        _tell_switch(switched)


@releases_app.command()
def delete(
    release: ReleaseName,
    force: Annotated[bool, typer.Option("--force", help="The one a rollback returns to as well.")] = False,
) -> None:
    """Remove a release with its generation of the index."""
    from service.commands.releases_here_or_there import delete_release

    settings = read_settings()
    with _errors():
        delete_release(settings, release, force=force)
    say(f"release {release} is gone")


@releases_app.command()
def compare(
    first: ReleaseName,
    second: Annotated[str, typer.Argument(help="Another release.", metavar="RELEASE")],
    output: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("releases.html"),
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Show two releases side by side, as a page: recall, overlap, latency, memory, gates."""
    from service.releases.comparison import compare_releases
    from service.releases.store import ReleaseStore

    store = ReleaseStore(read_settings().release_folder)
    with _errors():
        output.write_text(compare_releases(store.get(first), store.get(second)), encoding="utf-8")
    say(f"the page is {output}")
    if open_it:
        webbrowser.open(output.absolute().as_uri())


@releases_app.command()
def calibrate(as_json: Json = False) -> None:
    """Learn anew, from the library as it is now, what the scores of the active release mean."""
    from service.commands.releases_here_or_there import calibrate_release

    settings = read_settings()
    log_to_stderr()
    with _errors():
        calibration = calibrate_release(settings)
    if as_json:
        print_json(calibration)
        return
    for target, direction in calibration["directions"].items():
        say(
            f"{target}: {direction['num_queries']} queries; expected calibration error {direction['error']:.3f} on "
            f"held-out pairs, of best results alone {direction['best']['error']:.3f}"
        )


@contextmanager
def _errors() -> Iterator[None]:
    from service.client.following import ServerRefused
    from service.jobs.database import LedgerFailure
    from service.releases.store import ReleaseError
    from service.search.calibration import TooFewPairs

    with report_errors():
        try:
            yield
        except (LedgerFailure, ReleaseError, ServerRefused, TooFewPairs) as exc:
            fail(str(exc))


@contextmanager
def _show_steps() -> Iterator[Any]:
    """A line that says how far a build is; nothing where no person watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("waiting", total=None, left="")

        def update(progress: Mapping[str, Any]) -> None:
            left = progress.get("left_seconds")
            bar.update(
                task,
                description=progress.get("step", "waiting"),
                total=progress.get("num_files"),
                completed=progress.get("num_done", 0),
                left="" if left is None else f"{left:.0f} s left",
            )

        yield update


def _print_gates(release: Mapping[str, Any]) -> None:
    from service.commands.tables import print_columns

    gates = release["gates"].get("gates", ())
    rows = [(gate["gate"], "passed" if gate["passed"] else "failed", gate["reason"]) for gate in gates]
    if rows:
        print_columns(stdout(), ("gate", "", "measured"), rows)
    else:
        stdout().print("; ".join(release["gates"].get("reasons", ())), markup=False, highlight=False)


def _tell_switch(switched: Mapping[str, Any]) -> None:
    behind = f"; a job adds {count(switched['num_behind'], 'file')}" if switched["num_behind"] else ""
    say(
        f"release {switched['release_id']} answers, switched in {1000 * switched['switch_seconds']:.0f} ms "
        f"after {switched['seconds']:.1f} s of preparation{behind}"
    )
