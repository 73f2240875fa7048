"""The demo: index a synthetic library, search it across sound and picture, and count what is found.

    foley-train synthesize .demo/media --scenes 60 --split demo --separate 0.2
    foley demo .demo/media

Every figure is measured in this run. A scene's picture and sound are in one file or in two; either way the query is
one modality of a real file, and the right answer is the file with the other half.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.text import Text

from service.commands.printing import format_path, format_time, print_report, show_progress
from service.commands.starter_hint import hint_once
from service.commands.tables import print_columns
from service.foley import Foley
from service.index.contract import Filter, Index
from service.index.iteration import iter_assets
from service.library.indexing import index_paths, library_limits
from service.library.options import RunOptions
from service.releases.manager import ReleaseManager
from service.search.options import SearchOptions
from service.system.failure import Failure
from service.system.modality import NAMES, OPPOSITE, Modality, name_direction
from service.system.paths import make_absolute

LABELS_NAME = "labels.csv"
NUM_ROWS = 12
NUM_SHOWN = 3


class BadCorpus(Failure):
    """The folder is not a corpus that `foley-train synthesize` wrote."""


@dataclass(frozen=True, kw_only=True)
class SceneFiles:
    """A scene and the file of each of its halves: one file or two."""

    number: int
    files: Mapping[Modality, Path]

    @property
    def is_separate(self) -> bool:
        """Whether picture and sound are two files."""
        return self.files["audio"] != self.files["video"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One search: the `source` half of a scene looks for the other half."""

    scene: SceneFiles
    source: Modality


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a query found: the names of the best files, and score and time of the best moment of the first."""

    query: Query
    rank: int  # 1 + how many other files scored at least as high as the right one: a tie counts as wrong
    names: tuple[str, ...]
    score: float
    moment_seconds: float


def run_demo(folder: Path, *, foley: Foley, console: Console, progress_console: Console) -> int:
    """Index a corpus, search it both ways, print the results, and return how many files could not be indexed.

    `foley` has an index of the demo's own. Tables go to `console`, progress bars to `progress_console`. Raises
    `BadCorpus` if no file with sound or none with picture could be indexed, `KeyboardInterrupt` if that was stopped.
    """
    folder = make_absolute(folder)
    scenes = read_scenes(folder)
    console.rule(f"1. Index {format_path(folder)}")
    with show_progress(progress_console) as on_progress:
        report = index_paths(
            [folder],
            snapshot=foley.snapshot(priority="bulk"),
            decoder=foley.decoder,
            options=RunOptions(limits=library_limits(foley.settings), on_progress=on_progress),
        )
    print_report(console, report)
    if report.is_interrupted:
        raise KeyboardInterrupt
    ReleaseManager(foley.settings, foley.releases, foley.decoder).calibrate_if_stale()
    queries = [Query(scene=scene, source=source) for source in ("video", "audio") for scene in scenes]
    console.rule("2. Search with one half of a scene for the other half")
    num_candidates = {modality: count_assets(foley.index, modality) for modality in NAMES}
    if not all(num_candidates.values()):
        raise BadCorpus(f"nothing to search: {num_candidates} files with sound and with picture are indexed")
    began = time.monotonic()
    outcomes = search_all(queries, num_candidates, foley=foley, console=progress_console)
    seconds = time.monotonic() - began
    print_examples(console, outcomes)
    num_separate = sum(scene.is_separate for scene in scenes)
    console.print(
        f"{len(outcomes)} searches, file to answer, in {seconds:.1f} s. {num_separate} of {len(scenes)} scenes are in "
        "two files; of the others one stream is the query, and the file itself is the right answer.",
        highlight=False,
    )
    console.rule("3. How often the right file is first")
    print_recall(console, outcomes, num_candidates)
    console.rule("4. Your own files")
    print_next_steps(console, foley)
    return report.files.failed


def read_scenes(folder: Path) -> list[SceneFiles]:
    """The scenes that have both halves, by number; raises `BadCorpus` if none has, or labels.csv is unreadable."""
    halves: dict[int, dict[Modality, Path]] = {}
    try:
        with (folder / LABELS_NAME).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                path = folder / row["file"]
                present = row["streams"].split("+")
                halves.setdefault(int(row["scene"]), {}).update({m: path for m in NAMES if m in present})
    except (OSError, ValueError, KeyError, AttributeError) as exc:
        raise BadCorpus(f"{folder / LABELS_NAME} cannot be read: {exc}") from exc
    scenes = [
        SceneFiles(number=number, files=files) for number, files in sorted(halves.items()) if len(files) == 2
    ]
    if not scenes:
        raise BadCorpus(f"{folder / LABELS_NAME} names no scene with both picture and sound")
    return scenes


def search_all(
    queries: Sequence[Query], num_candidates: Mapping[Modality, int], *, foley: Foley, console: Console
) -> list[Outcome]:
    """Search with every query, a few at a time, with a progress bar; all candidates of a modality are ranked."""
    with ThreadPoolExecutor(foley.settings.decode_workers) as pool:
        running = pool.map(
            lambda query: search_one(query, num_candidates[OPPOSITE[query.source]], foley=foley), queries
        )
        is_hidden = not console.is_terminal
        return list(
            track(
                running, "searching", total=len(queries), console=console, transient=True, disable=is_hidden
            )
        )


def search_one(query: Query, num_candidates: int, *, foley: Foley) -> Outcome:
    """Search with one half of a scene and find the rank of the other half among all candidates."""
    target = OPPOSITE[query.source]
    right = str(query.scene.files[target])
    options = SearchOptions(
        target=target,
        source=query.source,
        limit=num_candidates,
        window=num_candidates,
        prefetch=foley.index.count_segments(modality=target),
    )
    results = foley.search_file(query.scene.files[query.source], options).results
    scores = {result.match.path: result.match.score or 0.0 for result in results}
    threshold = scores.get(right, float("-inf"))
    best = results[0].match
    moment = max(range(len(best.moments)), key=best.moments.__getitem__)
    length = best.end_seconds - best.start_seconds
    return Outcome(
        query=query,
        rank=1 + sum(score >= threshold for path, score in scores.items() if path != right),
        names=tuple(Path(result.match.path).name for result in results[:NUM_SHOWN]),
        score=best.score or 0.0,
        moment_seconds=best.start_seconds + moment / len(best.moments) * length,
    )


def count_assets(index: Index, modality: Modality) -> int:
    """How many assets have a modality: the candidates of a search for it."""
    return sum(1 for _ in iter_assets(index, filter=Filter(modality=modality)))


def choose_examples(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """At most twelve examples for the table, by scene number alone: half each way, scenes in two files first."""
    ordered = sorted(outcomes, key=lambda o: (not o.query.scene.is_separate, o.query.scene.number))
    halves = [
        [o for o in ordered if o.query.source == source][: NUM_ROWS // 2] for source in ("video", "audio")
    ]
    return halves[0] + halves[1]


def print_examples(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Show some searches: the query, what it found, whether that is right."""
    rows = []
    for outcome in choose_examples(outcomes):
        source = outcome.query.source
        verdict = Text("right", "green") if outcome.rank == 1 else Text(f"wrong, is #{outcome.rank}", "red")
        rows.append(
            (
                Text(f"{NAMES[source]} of {outcome.query.scene.files[source].name}"),
                Text(", ".join(outcome.names)),
                f"{outcome.score:.3f}",
                format_time(outcome.moment_seconds),
                verdict,
            )
        )
    print_columns(
        console, ("query", "best matches", "score", "moment", ""), rows, folding=("query", "best matches")
    )


def print_recall(
    console: Console, outcomes: Sequence[Outcome], num_candidates: Mapping[Modality, int]
) -> None:
    """Show how often the right file came first, next to what guessing gives."""
    rows = []
    for source in ("video", "audio"):
        target = OPPOSITE[source]
        ranks = [outcome.rank for outcome in outcomes if outcome.query.source == source]
        num_right = sum(rank == 1 for rank in ranks)
        chance = 1 / num_candidates[target]
        rows.append(
            (
                name_direction(target),
                f"{num_right} of {len(ranks)}",
                f"{num_right / len(ranks):.1%}",
                f"{chance:.1%}",
                f"{num_right / len(ranks) / chance:.0f} ×",
            )
        )
    print_columns(console, ("search", "right file first", "R@1", "chance", "better by"), rows, folding=())
    counts = " and ".join(f"{num_candidates[m]} with {NAMES[m]}" for m in NAMES)
    console.print(f"Candidates: {counts}. A tie counts as wrong.", highlight=False)


def print_next_steps(console: Console, foley: Foley) -> None:
    """Show the commands for one's own files."""
    command = format_path(Path(sys.argv[0]).absolute())
    settings = foley.settings
    steps = (
        (f"{command} index ~/Videos", "once, and again after changes"),
        (f"{command} search clip.mp4 --target audio", "the sound that goes with a picture"),
        (f"{command} search sound.wav --target video", "the picture that goes with a sound"),
        (f"{command} serve", f"a search page on http://{settings.host}:{settings.port}"),
        (f"FOLEY_DATA={format_path(settings.data)} {command} serve", "the same over the clips of this demo"),
    )
    width = max(len(step) for step, _ in steps)
    for step, meaning in steps:
        console.print(Text(f"  {step:<{width}}  # {meaning}"), soft_wrap=True)
    hint_once(settings, lambda hint: console.print(Text(hint, "yellow"), soft_wrap=True))
