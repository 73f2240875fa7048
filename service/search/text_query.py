"""Search with words: by the vector of the text, by the words of names and metadata, or by both.

    search_text("dog barking in the rain", SearchOptions(target="audio"), snapshot=snapshot)

A text is a track of equal rows, its vector for the target: the score of a segment is the similarity of the text with
the mean of its moments, and the moments show where the words fit.
"""

from __future__ import annotations

import numpy as np

from service.encode.text import UnusableText
from service.index.contract import WordMatch, WordQuery
from service.index.words import to_search_words
from service.search.matching import QueryTrack, SearchAnswer, answer_tracks, count_ranked
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.sources import check_embedded, check_options
from service.system.modality import Modality, NotEmbedded


def search_text(text: str, options: SearchOptions, *, snapshot: Snapshot) -> SearchAnswer:
    """Find what a text means, what has its words, or (by default) both, if the bundle embeds words.

    Raises `UnusableText` without words, `TextTooLong`, and `NotEmbedded` if the meaning is asked for and the bundle
    embeds no words, or none that compare with the target.
    """
    check_options(options, snapshot.bundle)
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
    check_embedded(snapshot.bundle, target)
    if snapshot.texts is None:
        raise NotEmbedded(
            f"the active bundle {snapshot.bundle_id} embeds no words: search for words of names and metadata"
        )
    vector = snapshot.texts.embed(text, target=target)  # (D,)
    num_moments, _ = snapshot.tracks[target]
    track = np.repeat(vector[None], num_moments, axis=0)  # (T, D)
    return QueryTrack(track=track, start_seconds=0.0, end_seconds=snapshot.spec.segment_seconds)


def _find_words(text: str, options: SearchOptions, snapshot: Snapshot) -> list[WordMatch]:
    words = to_search_words(text)
    if not words:
        return []
    limit = count_ranked(options, is_fused=True)
    query = WordQuery(words=words, target=options.target, limit=limit, filter=options.filter)
    return snapshot.index.search_words(query)
