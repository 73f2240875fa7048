"""The commands for running the service: `foley serve`, `doctor`, `keys`, `backup`, `restore`, `migrate`."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.commands.options import Json
from service.commands.terminal import (
    FAILED,
    WRONG_USAGE,
    fail,
    log_to_stderr,
    print_json,
    read_settings,
    report_errors,
    say,
    stderr,
    stdout,
)
from service.system.storage import Storage
from service.system.text import count

if TYPE_CHECKING:
    from service.operations.backup import Manifest

keys_app = typer.Typer(help="API keys, for a service that other machines can reach.", no_args_is_help=True)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: this machine only.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = None,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Accept requests from other machines without API keys: anyone who reaches the port can read and "
            "delete.",
        ),
    ] = False,
) -> None:
    """Start the HTTP server: search, embeddings, indexed media."""
    from service.commands.starter_hint import hint_once
    from service.http.server import run_server
    from service.system.logs import configure_logs

    changes: dict[str, Any] = {"host": host, "port": port, "allow_remote": allow_remote or None}
    settings = read_settings(**{name: value for name, value in changes.items() if value is not None})
    if settings.allow_remote and not settings.needs_keys:
        say(f"WARNING: anyone who can reach {settings.host}:{settings.port} can read and delete the library")
    configure_logs(settings.log_format, level=settings.log_level)
    with report_errors():
        try:
            run_server(settings, on_open=lambda: hint_once(settings, logging.getLogger(__name__).warning))
        except SystemExit as exc:  # uvicorn has logged why
            raise typer.Exit(FAILED if exc.code else 0) from exc


def doctor(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Media files; the first is timed. Default: the bundle's own clip.", exists=True),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure on the files how much each precision differs from float32, and keep the results.",
        ),
    ] = False,
    read_index: Annotated[
        bool,
        typer.Option(
            "--read-index", help="Check the sealed files of the embedded index against their hashes."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the encoder, the index and the speed, and say what would make the encoder faster."""
    from functools import partial

    from service.commands.printing import print_diagnosis
    from service.jobs.documents import find_lost
    from service.operations.doctor import examine

    settings = read_settings()
    with report_errors():
        log_to_stderr()
        diagnosis = examine(
            settings,
            files=files or [],
            measures=measure,
            reads_index=read_index,
            find_lost=partial(find_lost, settings),
        )
    if as_json:
        print_json(diagnosis.to_json())
    else:
        print_diagnosis(stdout(), diagnosis.to_json())
    if diagnosis.problems:
        fail("; ".join(diagnosis.problems))
    for path, reason in diagnosis.left_out.items():
        say(f"skipped {path}: {reason}")


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.", metavar="NAME")],
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(
            help="`read` can search and list; `write` can also change the library; `admin` can do everything."
        ),
    ] = "read",
    as_json: Json = False,
) -> None:
    """Create an API key. It is shown only once: the service keeps only a digest of it."""
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        created = keys.create_key(settings.keys_path, name=name, scope=scope)
    if as_json:
        print_json({"key": created.key, **created.stored.describe()})
        return
    say(
        f"key {created.stored.key_id} with scope {scope} is in {settings.keys_path}; it is shown only this once:"
    )
    sys.stdout.write(f"{created.key}\n")


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the API keys: ids, names and scopes."""
    from service.commands.printing import print_keys
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        found = keys.read_keys(settings.keys_path) if settings.keys_path.exists() else []
    if as_json:
        print_json({"keys": [key.describe() for key in found]})
    elif found:
        print_keys(stdout(), [key.describe() for key in found])
    else:
        say(f"there are no API keys in {settings.keys_path}: start with `foley keys create NAME`")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As `foley keys list` shows it.", metavar="ID")],
) -> None:
    """Revoke an API key; a running service refuses it from the next request on."""
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        revoked = keys.revoke_key(settings.keys_path, key_id)
    say(f"key {revoked.key_id} ({revoked.name}, scope {revoked.scope}) is revoked")


def backup(
    folder: Annotated[Path, typer.Argument(help="The new backup; must not exist.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Copy the index, the job ledger, the API keys and the active release; also while `foley serve` runs."""
    from service.commands.here_or_there import make_backup

    settings = read_settings()
    with report_errors():
        log_to_stderr()
        manifest = make_backup(settings, folder.absolute())
    _print_manifest(manifest, f"backed up to {folder}", as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.", exists=True, file_okay=False, metavar="FOLDER")],
    is_forced: Annotated[bool, typer.Option("--force", help="Replace existing data.")] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a backup, then restore it. Stop `foley serve` first."""
    from service.operations.restore import restore_backup

    settings = read_settings()
    with report_errors():
        log_to_stderr()
        manifest = restore_backup(settings, folder.absolute(), is_forced=is_forced)
    _print_manifest(manifest, f"restored to {settings.data}", as_json=as_json)


def _print_manifest(manifest: Manifest, done: str, *, as_json: bool) -> None:
    num_bytes = sum(file["num_bytes"] for file in manifest.files.values())
    if as_json:
        names = ("release_id", "bundle_id", "num_assets", "num_segments")
        print_json({**{name: getattr(manifest, name) for name in names}, "num_bytes": num_bytes})
    else:
        assets, segments = count(manifest.num_assets, "asset"), count(manifest.num_segments, "segment")
        say(f"{assets}, {segments}, {count(num_bytes, 'byte')} {done}")


def migrate(
    target: Annotated[
        str | None,
        typer.Option("--to", help="Copy to this Qdrant server or data folder.", metavar="URL|PATH"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Copy from this Qdrant server or data folder. Default: the one in the settings.",
            metavar="URL|PATH",
        ),
    ] = None,
    joins: Annotated[
        bool, typer.Option("--join", help="Add to what the target has: indexes of parts become one.")
    ] = False,
    storage: Annotated[
        Storage | None,
        typer.Option(
            "--storage",
            help="Store the tracks of this index as `float16`, or as `fine` in 8 or `compact` in 4 bits a number.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy the index from a folder to a Qdrant server or back, or store its tracks in fewer bytes.

    Run the same command again to resume.
    """
    from dataclasses import asdict

    from service.commands.printing import show_copying
    from service.operations.migration import change_storage, migrate_places

    if storage is not None:
        if source is not None or target is not None or joins:
            fail(
                "--storage changes the index of the settings: it goes with no other option", code=WRONG_USAGE
            )
        with report_errors(), show_copying(stderr()) as on_copied:
            log_to_stderr()
            change = change_storage(read_settings(), storage, on_copied=on_copied)
        if as_json:
            print_json(asdict(change))
        else:
            say(
                f"{count(change.num_segments, 'segment')} stored as {change.storage}: "
                f"{count(change.bytes_before, 'byte')} before, {count(change.bytes_after, 'byte')} now; scores of "
                f"sampled segments differ by {change.score_error:.1e} in the mean, {change.largest_error:.1e} at most"
            )
        return
    if source is None and target is None:
        fail("give a target with --to or a source with --from", code=WRONG_USAGE)
    settings = read_settings()
    with report_errors(), show_copying(stderr()) as on_copied:
        log_to_stderr()
        done = migrate_places(settings, source=source, target=target, joins=joins, on_copied=on_copied)
    if as_json:
        print_json(asdict(done))
    else:
        both = "the target has" if joins else "both sides have"
        say(
            f"{count(done.num_copied, 'asset')} copied, {done.num_present} already there; {both} "
            f"{count(done.num_segments, 'segment')}; {count(done.num_compared, 'vector')} compared and equal"
        )
