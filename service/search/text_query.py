"""Search with words: by the vector of the text, by the words of names and metadata, or by both.

    search_text("dog barking in the rain", SearchOptions(target="audio"), snapshot=snapshot)

A text is a track of equal rows, its vector for the target: the score of a segment is the similarity of the text with
the mean of its moments, and the moments show where the words fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from service.encode.text import UnusableText
from service.index.contract import WordMatch, WordQuery
from service.index.words import to_search_words
from service.search.matching import QueryTrack, SearchAnswer, answer_tracks, count_ranked
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.sources import UnusableQuery, check_embedded, check_options
from service.system.modality import MODALITIES, Modality, NotEmbedded


class StreamOfText(UnusableQuery):
    """A stream to search from was named, and the query is a text."""

    parameter = "from"


def search_text(text: str, options: SearchOptions, *, snapshot: Snapshot) -> SearchAnswer:
    """Find what a text means, what has its words, or (by default) both, if the bundle embeds words.

    Raises `UnusableText` without words, `TextTooLong`, `StreamOfText`, and `NotEmbedded` if the meaning is asked for
    and the bundle embeds no words, or none that compare with the target.
    """
    check_options(options, snapshot.bundle)
    if options.source is not None:
        raise StreamOfText(f"a text has no {options.source} to search from")
    if not text.strip():
        raise UnusableText("a text needs at least one word")
    match = options.match or ("both" if _compares(snapshot, options.target) else "words")
    tracks = [] if match == "words" else [embed_text(text, target=options.target, snapshot=snapshot)]
    words = None if match == "meaning" else _find_words(text, options, snapshot)
    return answer_tracks(tracks, options, source="text", snapshot=snapshot, words=words)


def _compares(snapshot: Snapshot, target: Modality) -> bool:
    spec = snapshot.bundle.manifest.text
    return spec is not None and target in spec.outputs


def embed_text(text: str, *, target: Modality, snapshot: Snapshot) -> QueryTrack:
    """A text as a track to search for the target with; raises what `search_text` raises."""
    if snapshot.texts is None:
        raise NotEmbedded(
            f"the active bundle {snapshot.bundle_id} embeds no words; searches for words of names and metadata go on"
        )
    check_embedded(snapshot.bundle, target)
    vector = snapshot.texts.embed(text, target=target)  # (D,)
    num_moments, _ = snapshot.tracks[target]
    track = np.repeat(vector[None], num_moments, axis=0)  # (T, D)
    return QueryTrack(track=track, start_seconds=0.0, end_seconds=snapshot.spec.segment_seconds)


def embed_texts(
    texts: Sequence[str],
    *,
    target: Modality | None = None,
    snapshot: Snapshot,
    naming: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> dict[Modality, NDArray[np.float32]]:
    """Vectors of N texts, float32 (N, D), by the modality that they compare with: one, or (None) all there are.

    `naming` is entered with the place of each text. Raises what `search_text` raises.
    """
    spec = snapshot.bundle.manifest.text
    targets = (
        [m for m in MODALITIES if spec is not None and m in spec.outputs] if target is None else [target]
    )
    found: dict[Modality, NDArray[np.float32]] = {}
    for modality in targets or MODALITIES[:1]:
        rows = []
        for number, text in enumerate(texts):
            with naming(f"texts.{number}"):
                rows.append(embed_text(text, target=modality, snapshot=snapshot).track[0])
        found[modality] = np.stack(rows)
    return found


def _find_words(text: str, options: SearchOptions, snapshot: Snapshot) -> list[WordMatch]:
    words = to_search_words(text)
    if not words:
        return []
    limit = count_ranked(options, is_fused=True)
    query = WordQuery(words=words, target=options.target, limit=limit, filter=options.filter)
    return snapshot.index.search_words(query)
