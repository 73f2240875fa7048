"""The command `foley`: index a library, search it, serve it.

    foley index ~/Videos
    foley search clip.mp4 --target audio
    foley serve

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 the command line or a setting is
wrong, 130 stopped by Ctrl-C.
"""

# The commands import what they need themselves: `foley --help` must not wait for NumPy, FFmpeg and the rest.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.commands.assets import assets_app
from service.commands.audit import audit
from service.commands.library import COMMANDS, jobs_app
from service.commands.operations import COMMANDS as OPERATIONS
from service.commands.operations import keys_app
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
from service.commands.releases import releases_app
from service.commands.terminal import FAILED, WRONG_USAGE
from service.commands.terminal import fail as _fail
from service.commands.terminal import log_to_stderr as _log_to_stderr
from service.commands.terminal import open_foley_of as _open
from service.commands.terminal import print_json as _print_json
from service.commands.terminal import print_version as _print_version
from service.commands.terminal import read_settings as _read_settings
from service.commands.terminal import report_errors as _report_errors
from service.commands.terminal import say as _say
from service.commands.terminal import stderr as _stderr
from service.commands.terminal import stdout as _stdout
from service.system.text import count

if TYPE_CHECKING:
    from service.index.contract import Filter
    from service.system.settings import Settings

app = typer.Typer(
    help="Finds the sound for a picture and the picture for a sound.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Finds the sound for a picture and the picture for a sound."""


app.add_typer(keys_app, name="keys")
app.add_typer(assets_app, name="assets")
app.add_typer(jobs_app, name="jobs")
app.add_typer(releases_app, name="releases")
for command in (*COMMANDS, *OPERATIONS, audit):
    app.command()(command)

Target = Literal["audio", "video"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="The clip to search with.", exists=True, metavar="FILE")],
    target: Annotated[Target, typer.Option(help="What to find.")],
    source: Annotated[
        Target | None,
        typer.Option("--from", help="What of the clip to search by. Default: the other one, if it has it."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most results.")] = None,
    min_score: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Only results that score so much or more.")
    ] = None,
    folder: Folder = None,
    modality: HasModality = None,
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    modified_after: ModifiedAfter = None,
    modified_before: ModifiedBefore = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> None:
    """Find the sound that goes with a picture, or the picture that goes with a sound."""
    from service.commands.printing import print_answer

    settings = _read_settings()
    if limit is not None and limit > settings.max_limit:
        _fail(f"--limit may be {settings.max_limit} at most, got {limit}", code=WRONG_USAGE)
    with _report_errors():
        chosen = read_filter(
            folder=folder,
            modality=modality,
            min_duration=min_duration,
            max_duration=max_duration,
            modified_after=modified_after,
            modified_before=modified_before,
            metadata=metadata,
        )
    with _report_errors():
        answer = _search(
            settings,
            file.resolve(),
            target=target,
            source=source,
            limit=limit,
            min_score=min_score,
            filter=chosen,
        )
    if answer is None:
        kind = "sound" if target == "audio" else "picture"
        _fail(f"no file with {kind} is indexed in {settings.data}: start with `foley index PATH...`")
    if as_json:
        _print_json(answer)
    else:
        print_answer(_stdout(), answer)


def _search(
    settings: Settings,
    file: Path,
    *,
    target: Target,
    source: Target | None,
    limit: int | None,
    min_score: float | None,
    filter: Filter | None,
) -> dict[str, Any] | None:
    """Search here, or ask the server that has the index open; None where nothing of the kind is indexed."""
    from service.client.following import find_server
    from service.client.served_search import search_served
    from service.index.failure import IndexInUse
    from service.search.options import SearchOptions

    try:
        with _open(settings) as foley:
            if foley.index.count_segments(modality=target) == 0:
                return None
            options = SearchOptions.of(
                settings, target=target, source=source, limit=limit, min_score=min_score, filter=filter
            )
            return foley.search_file(file, options).to_json()
    except IndexInUse:
        server = find_server(settings)
        if server is None:
            raise
        limit = settings.default_limit if limit is None else limit  # ours, as it is without a server
        parameters = {"target": target, "from": source, "limit": limit, "min_score": min_score}
        answer = search_served(settings, server, file, parameters=parameters, filter=filter)
        return None if answer["reason"] == "nothing_to_search" else answer


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: this machine only.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Listen to other machines without API keys, though anyone who reaches the port may read and delete.",
        ),
    ] = False,
) -> None:
    """Answer over HTTP: search, embeddings and the indexed media."""
    from service.http.server import run_server
    from service.system.logs import configure_logs

    changes: dict[str, Any] = {"host": host, "port": port, "allow_remote": allow_remote or None}
    settings = _read_settings(**{name: value for name, value in changes.items() if value is not None})
    if settings.allow_remote and not settings.needs_keys:
        _say(f"WARNING: anyone who can reach {settings.host}:{settings.port} may read and delete the library")
    configure_logs(settings.log_format, level=settings.log_level)
    with _report_errors():
        try:
            run_server(settings)
        except SystemExit as exc:  # uvicorn has logged why
            raise typer.Exit(FAILED if exc.code else 0) from exc


@app.command()
def migrate(
    target: Annotated[
        str | None,
        typer.Option("--to", help="Copy to this Qdrant server or data folder.", metavar="URL|PATH"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Copy from there. Default: what the settings name.", metavar="URL|PATH"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy the index between a folder and a Qdrant server, either way; the same command goes on where one stopped."""
    from dataclasses import asdict

    from service.commands.printing import show_copying
    from service.operations.migration import migrate_places

    if source is None and target is None:
        _fail("say where to with --to, or where from with --from", code=WRONG_USAGE)
    settings = _read_settings()
    with _report_errors(), show_copying(_stderr()) as on_copied:
        _log_to_stderr()
        done = migrate_places(settings, source=source, target=target, on_copied=on_copied)
    if as_json:
        _print_json(asdict(done))
    else:
        _say(
            f"{count(done.num_copied, 'asset')} copied, {done.num_present} were there; "
            f"{count(done.num_segments, 'segment')} on both "
            f"sides, {done.num_compared} vectors compared and alike"
        )


@app.command()
def doctor(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Real media: the first is timed. Default: the bundle's own clip.", exists=True),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure on the files how far each precision is from float32, and keep it."
        ),
    ] = False,
    read_index: Annotated[
        bool,
        typer.Option(
            "--read-index",
            help="Read the files of the embedded index that never change, and compare them with their hashes.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what the encoder runs on and why, whether it is right, where time goes, and what would make it faster."""
    from service.commands.printing import print_diagnosis
    from service.operations.doctor import examine

    settings = _read_settings()
    with _report_errors():
        _log_to_stderr()
        diagnosis = examine(settings, files=files or [], measures=measure, reads_index=read_index)
    if as_json:
        _print_json(diagnosis.to_json())
    else:
        print_diagnosis(_stdout(), diagnosis.to_json())
    if not diagnosis.problems:
        for path, reason in diagnosis.left_out.items():
            _say(f"left out {path}: {reason}")
    if diagnosis.problems:
        _fail("; ".join(diagnosis.problems))


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(help="Made by `foley-train synthesize`.", exists=True, file_okay=False)
    ],
    data: Annotated[
        Path | None, typer.Option(help="Where the demo's own index goes. Default: `data` beside the folder.")
    ] = None,
) -> None:
    """Index a synthetic library and measure how well picture finds sound and sound finds picture."""
    from service.commands.demo import run_demo

    # Not FOLEY_DATA: the demo's clips must never land in the library of the person who tries it.
    settings = _read_settings(data=data or folder.absolute().parent / "data")
    with _report_errors(), _open(settings) as foley:
        num_failed = run_demo(folder, foley=foley, console=_stdout(), progress_console=_stderr())
    if num_failed:
        _fail(f"{count(num_failed, 'file')} of the demo could not be indexed")


if __name__ == "__main__":
    app()
