"""`foley search` and `foley demo`: find the other half of a clip, and measure how well that works."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from service.commands.terminal import (
    WRONG_USAGE,
    fail,
    open_foley_of,
    print_json,
    read_settings,
    report_errors,
    stderr,
    stdout,
)
from service.system.text import count

if TYPE_CHECKING:
    from service.client.client import Client
    from service.index.contract import Filter
    from service.search.options import Match
    from service.system.settings import Settings

Stream = Literal["audio", "video"]
MARGIN_SECONDS = 60.0  # to send the file and to wait for a worker, on top of the search itself


def search(
    context: typer.Context,
    target: Annotated[Stream, typer.Option(help="What to find.")],
    file: Annotated[
        Path | None, typer.Argument(help="The clip to search with.", exists=True, metavar="[FILE]")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Words to search with, alone or beside the clip: --text 'dog barking in the rain'."
        ),
    ] = None,
    weight: Annotated[
        float,
        typer.Option(min=0.001, max=1000, help="How much --text counts beside the clip, which counts 1."),
    ] = 1.0,
    match: Annotated[
        Literal["both", "meaning", "words"] | None,
        typer.Option(
            help="What --text alone finds: what it means, files whose names or metadata have its words, or both. "
            "Default: both if the active bundle embeds words, else words."
        ),
    ] = None,
    source: Annotated[
        Stream | None,
        typer.Option(
            "--from", help="Stream of the clip to search with. Default: the opposite of --target, if present."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of results.")] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Minimum score of a result: a cosine, or any number if the bundle compares by dot product."
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
    """Find the sound that goes with a picture, the picture that goes with a sound, or what words describe."""
    from service.commands.printing import print_answer

    settings = read_settings()
    if limit is not None and limit > settings.max_limit:
        fail(f"--limit may be at most {settings.max_limit}, got {limit}", code=WRONG_USAGE)
    if file is None and text is None:
        fail("give a clip, or words with --text", code=WRONG_USAGE)
    if match is not None and file is not None:
        fail("--match is for --text without a clip", code=WRONG_USAGE)
    with report_errors():
        answer = _search(
            settings,
            None if file is None else file.resolve(),
            text=text,
            weight=weight,
            match=match,
            target=target,
            source=source,
            limit=limit,
            min_score=min_score,
            filter=read_filter(context),
        )
    if answer is None:
        kind = "sound" if target == "audio" else "picture"
        fail(f"no file with {kind} is indexed in {settings.data}: start with `foley index PATH...`")
    if as_json:
        print_json(answer)
    else:
        print_answer(stdout(), answer)


def _search(
    settings: Settings,
    file: Path | None,
    *,
    text: str | None,
    weight: float,
    match: Match | None,
    target: Stream,
    source: Stream | None,
    limit: int | None,
    min_score: float | None,
    filter: Filter | None,
) -> dict[str, Any] | None:
    """The answer as JSON values; None if no file with the target modality is indexed."""
    from service.commands.here_or_there import here_or_there
    from service.commands.inventory import to_query
    from service.search.mixed_query import WeightedText
    from service.search.options import SearchOptions
    from service.search.sources import check_embedded
    from service.search.text_query import search_text

    def here() -> dict[str, Any] | None:
        with open_foley_of(settings.replace(decode_workers=1)) as foley:  # there is one file to decode
            check_embedded(foley.bundle, target)
            if foley.index.count_segments(modality=target) == 0:
                return None
            options = SearchOptions.of(
                settings,
                target=target,
                source=source,
                limit=limit,
                min_score=min_score,
                filter=filter,
                match=match,
            )
            if file is None:
                return search_text(text or "", options, snapshot=foley.snapshot()).to_json()
            words = None if text is None else WeightedText(text=text, weight=weight)
            return foley.search_file(file, options, words=words).to_json()

    def there(client: Client) -> dict[str, Any] | None:
        query: dict[str, Any] = {
            "target": target,
            "from": source,
            "limit": settings.default_limit if limit is None else limit,  # ours, as it is without a server
            "min_score": min_score,
            **to_query(filter),
        }
        seconds = settings.query_timeout_seconds + MARGIN_SECONDS
        if file is None:
            query |= {"text": text, "match": match}
            query |= {"metadata": json.loads(str(query["metadata"]))} if query.get("metadata") else {}
            answer = client.ask("POST", "/v1/search", body=query, timeout_seconds=seconds)
        else:
            if text is not None:
                query |= {"text": text, "text_weight": weight}
            answer = client.upload("/v1/search", file, query=query, timeout_seconds=seconds)
        return None if answer["reason"] == "nothing_to_search" else answer

    return here_or_there(settings, here, there)


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Made by `foley-train synthesize`.", exists=True, file_okay=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder for the demo's own index. Default: `data` next to the given folder."),
    ] = None,
) -> None:
    """Index a synthetic library and measure how well picture finds sound and sound finds picture."""
    from service.commands.demo import run_demo

    # Not FOLEY_DATA: the demo's clips must never land in the library of the person who tries it.
    settings = read_settings(data=data or folder.absolute().parent / "data")
    with report_errors(), open_foley_of(settings) as foley:
        num_failed = run_demo(folder, foley=foley, console=stdout(), progress_console=stderr())
    if num_failed:
        fail(f"{count(num_failed, 'file')} of the demo could not be indexed")
