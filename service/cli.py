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

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from service.engine import Engine
    from service.settings import Settings

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="Finds the sound for a picture and the picture for a sound.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

keys_app = typer.Typer(help="API keys, for a service that other machines reach.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

Target = Literal["audio", "video"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]


@app.command()
def index(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", metavar="PATH...")],
    as_json: Json = False,
) -> None:
    """Index media files; folders are walked. What is indexed already and has not changed is passed over."""
    from service.console import print_report, show_progress
    from service.library import index_paths, library_limits

    settings = _read_settings()
    signal.signal(signal.SIGTERM, _interrupt)
    with _report_errors(), _open(settings) as engine, show_progress(_stderr()) as on_progress:
        report = index_paths(
            paths,
            snapshot=engine.snapshot(priority="bulk"),
            decoder=engine.decoder,
            limits=library_limits(settings),
            on_progress=on_progress,
        )
    if as_json:
        _print_json(report.to_json())
    else:
        print_report(_stdout(), report)
    if report.is_interrupted:
        _fail("stopped; what was indexed stays, and the same command goes on from there", code=INTERRUPTED)
    if report.files.indexed + report.files.unchanged == 0:
        _fail("no file was indexed" if report.files.failed else "no media files there")


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="The clip to search with.", exists=True, metavar="FILE")],
    target: Annotated[Target, typer.Option(help="What to find.")],
    source: Annotated[
        Target | None,
        typer.Option("--from", help="What of the clip to search by. Default: the other one, if it has it."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most results.")] = None,
    as_json: Json = False,
) -> None:
    """Find the sound that goes with a picture, or the picture that goes with a sound."""
    from service.console import print_answer

    settings = _read_settings()
    if limit is not None and limit > settings.max_limit:
        _fail(f"--limit may be {settings.max_limit} at most, got {limit}", code=WRONG_USAGE)
    with _report_errors(), _open(settings) as engine:
        if engine.index.count_segments(modality=target) == 0:
            kind = "sound" if target == "audio" else "picture"
            _fail(f"no file with {kind} is indexed in {settings.data}: start with `foley index PATH...`")
        answer = engine.search_file(
            file.resolve(), target=target, source=source, choice=engine.choose(limit=limit)
        )
    if as_json:
        _print_json(answer.to_json())
    else:
        print_answer(_stdout(), answer.to_json())


@app.command()
def assets(as_json: Json = False) -> None:
    """List what is indexed; a `foley serve` that has the index open is asked."""
    from service.console import print_assets
    from service.inventory import list_inventory

    settings = _read_settings()
    with _report_errors():
        found = list_inventory(settings)
    if as_json:
        _print_json({"assets": found})
    elif found:
        print_assets(_stdout(), found)
    else:
        _say(f"nothing is indexed in {settings.data}: start with `foley index PATH...`")


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
    from service.logs import configure_logs
    from service.server import run_server

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


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.", metavar="NAME")],
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(help="`read` searches and lists; `write` changes the library too; `admin` may do everything."),
    ] = "read",
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once: the service keeps a digest of it only."""
    from service import keys

    settings = _read_settings()
    with _report_errors():
        created = keys.create_key(settings.keys_path, name=name, scope=scope)
    if as_json:
        _print_json({"key": created.key, **created.stored.describe()})
        return
    _say(f"key {created.stored.key_id} with scope {scope} is in {settings.keys_path}; it is shown this once:")
    sys.stdout.write(f"{created.key}\n")


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the API keys: ids, names and scopes."""
    from service import keys
    from service.console import print_keys

    settings = _read_settings()
    with _report_errors():
        found = keys.read_keys(settings.keys_path) if settings.keys_path.exists() else []
    if as_json:
        _print_json({"keys": [key.describe() for key in found]})
    elif found:
        print_keys(_stdout(), [key.describe() for key in found])
    else:
        _say(f"there are no API keys in {settings.keys_path}: start with `foley keys create NAME`")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As `foley keys list` shows it.", metavar="ID")],
) -> None:
    """Take an API key away; a running service refuses it from its next request on."""
    from service import keys

    settings = _read_settings()
    with _report_errors():
        revoked = keys.revoke_key(settings.keys_path, key_id)
    _say(f"key {revoked.key_id} ({revoked.name}, scope {revoked.scope}) is revoked")


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
    as_json: Json = False,
) -> None:
    """Say what the encoder runs on and why, whether it is right, where time goes, and what would make it faster."""
    from service.console import print_diagnosis
    from service.doctor import examine

    settings = _read_settings()
    with _report_errors():
        _log_to_stderr()
        diagnosis = examine(settings, files=files or [], measures=measure)
    if as_json:
        _print_json(diagnosis.to_json())
    else:
        print_diagnosis(_stdout(), diagnosis.to_json())
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
    from service.demo import run_demo

    # Not FOLEY_DATA: the demo's clips must never land in the library of the person who tries it.
    settings = _read_settings(data=data or folder.absolute().parent / "data")
    with _report_errors(), _open(settings) as engine:
        num_failed = run_demo(folder, engine=engine, console=_stdout(), progress_console=_stderr())
    if num_failed:
        _fail(f"{num_failed} files of the demo could not be indexed")


def _read_settings(**changes: Any) -> Settings:
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**changes)
    except ValidationError as exc:
        problems = [
            f"{'FOLEY_' + str(error['loc'][0]).upper() + ': ' if error['loc'] else ''}"
            f"{error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_url=False, include_context=False)
        ]
        _fail("; ".join(problems), code=WRONG_USAGE)


@contextmanager
def _open(settings: Settings) -> Iterator[Engine]:
    from service.engine import open_engine

    _log_to_stderr()
    settings.data.mkdir(parents=True, exist_ok=True)
    with open_engine(settings) as engine:
        yield engine


def _log_to_stderr() -> None:
    from rich.logging import RichHandler

    handler = RichHandler(console=_stderr(), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


@contextmanager
def _report_errors() -> Iterator[None]:
    """Turn our own errors into one line and exit code 1."""
    from models.bundle import BrokenBundle
    from models.clip import UnreadableClip
    from service.decoding import DecodeFailure
    from service.demo import BadCorpus
    from service.encoder import EncoderFailure
    from service.index.contract import IndexFailure, IndexInUse
    from service.keys import KeysFailure

    try:
        yield
    except IndexInUse as exc:
        _fail(f"{exc}: stop the `foley` that has it open, or ask that one over HTTP")
    except (UnreadableClip, DecodeFailure) as exc:
        _fail(f"{exc} ({exc.code})")
    except (BadCorpus, BrokenBundle, EncoderFailure, IndexFailure, KeysFailure, OSError) as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        _fail("stopped", code=INTERRUPTED)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _stdout() -> Console:
    from rich.console import Console

    return Console()


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def _say(message: str) -> None:
    sys.stderr.write(f"foley: {message}\n")


def _fail(message: str, *, code: int = FAILED) -> NoReturn:
    _say(message)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
