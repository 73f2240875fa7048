"""How well learned words find: text → sound and text → picture, on the tracks of an indexed synthetic corpus.

    FOLEY_DATA=data python -m benchmarks.text_retrieval corpus/labels.csv [--text-encoder minilm]

Captions are written from the labels: all that is said of both sources; pitch, timbre and shape; timbre and shape. For
each seed half of the clips teach, the other half is searched with its captions. R@10 in percent; chance is 10 of that
half.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import numpy as np
from rich.console import Console
from rich.table import Table

from training.adapting.sentences import Sentences, export_sentences
from training.adapting.wording import WordingConfig, fit_wording, measure_wording
from training.commands.text import gather
from training.corpus.labels import LabelRow, SourceLabel, read_labels
from training.data.stored_tracks import StoredTracks, load_tracks

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "violet")
PITCHES = (
    (200.0, "very low"),
    (350.0, "low"),
    (600.0, "middle"),
    (1000.0, "high"),
    (float("inf"), "very high"),
)


def describe(source: SourceLabel) -> str:
    """All that can be heard and seen of a source, in words."""
    pace = "steady" if source.rate_hz == 0 else "slow" if source.rate_hz < 2 else "quick"
    pitch = next(name for bound, name in PITCHES if source.pitch_hz < bound)
    colour = COLOURS[min(len(COLOURS) - 1, int(source.hue / 0.79 * len(COLOURS)))]
    side = "left" if source.x < 0.5 else "right"
    return f"{pace} {pitch} {source.timbre} tone of a {colour} {source.shape} on the {side}"


def name(source: SourceLabel) -> str:
    """Pitch, timbre and shape alone."""
    pitch = next(word for bound, word in PITCHES if source.pitch_hz < bound)
    return f"{pitch} {source.timbre} {source.shape}"


def name_shortly(source: SourceLabel) -> str:
    """Timbre and shape alone."""
    return f"{source.timbre} {source.shape}"


def measure(
    tracks: StoredTracks,
    rows: Sequence[LabelRow],
    sentences: Sentences,
    say: Callable[[SourceLabel], str],
    seed: int,
) -> dict[str, float | int]:
    """Learn from half of the clips, and search the other half."""
    said = {row.file: " and a ".join(map(say, row.sources)) for row in rows}
    captions = [
        (said[PurePath(asset.paths[0]).name],) if PurePath(asset.paths[0]).name in said else ()
        for asset in tracks.assets
    ]
    clips, _ = gather(tracks, captions, sentences)
    taught, asked = np.array_split(np.random.default_rng(seed).permutation(len(clips.texts)), 2)
    config = WordingConfig(seed=seed)
    projections = {name: fit_wording(clips.choose(taught), (name,), config) for name in ("audio", "video")}
    return measure_wording(clips.choose(asked), projections)


def main() -> None:
    """Print a row for each kind of caption and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--text-encoder", choices=("use", "minilm"), default="use")
    options = parser.parse_args()
    console = Console()
    table = Table("captions", "seed", "text → sound", "text → picture", "chance")
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        tracks = load_tracks(Path(folder) / "tracks")
        sentences = export_sentences(options.text_encoder, Path(folder))
        for say in (describe, name, name_shortly):
            for seed in range(options.seeds):
                found = measure(tracks, read_labels(options.labels), sentences, say, seed)
                chance, figures = found["at_10_chance"], (found["at_10_audio"], found["at_10_video"])
                passed &= min(figures) >= 5 * chance
                table.add_row(say.__name__, str(seed), *(f"{one:.1f}" for one in (*figures, chance)))
    console.print(table)
    console.print(f"at least 5 × chance both ways: {'yes' if passed else 'no'}")


if __name__ == "__main__":
    main()
