"""What scores of a text mean: learned from captions, the texts that people gave to assets, as from pairs of one file.

    Calibration(..., texts=learn_captions(snapshot, num_queries=500))

A caption is the first text among the metadata `caption`, `description` and `title`. Its own asset, and any other with
the same caption, are true pairs; whatever else a search returns is a false one. The rest is as for sound and picture
(`service.search.calibration`): at least 30 assets, queries with and without their own, a third held out, two curves,
and no probability unless own captions score above foreign ones by more than chance. If the words themselves were
learned from this library (`foley-train text`), only captions of the files that it holds back count: one in ten.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from service.encode.text import UnusableText
from service.index.contract import Asset, Filter, Index, VectorQuery
from service.index.iteration import iter_assets
from service.search.calibration import (
    MIN_ASSETS,
    NUM_RESULTS,
    PairRows,
    TextDirection,
    TooFewPairs,
    fit_direction,
    is_held_out,
    says_nothing,
)
from service.search.prefetch import choose_prefetch
from service.search.separation import draw_foreign, separate
from service.search.snapshot import Snapshot
from service.search.text_query import embed_text
from service.system.modality import MODALITIES, Modality, Track

logger = logging.getLogger(__name__)

CAPTION_KEYS = ("caption", "description", "title")
HELD_BACK = 10
"""`foley-train` learns nothing from one file in so many: those whose first 32 bits of the id are a multiple."""


def caption_of(asset: Asset) -> str | None:
    """The caption of an asset, None without one."""
    said = {key.casefold(): value for key, value in asset.metadata.items()}
    texts = (said.get(key) for key in CAPTION_KEYS)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


def learn_captions(snapshot: Snapshot, *, num_queries: int) -> dict[Modality, TextDirection]:
    """What scores of texts mean, for each target that words compare with and whose assets have enough captions."""
    spec = snapshot.bundle.manifest.text
    learned: dict[Modality, TextDirection] = {}
    for target in (m for m in MODALITIES if spec is not None and m in spec.outputs):

        def embed(text: str, target: Modality = target) -> Track:
            return embed_text(text, target=target, snapshot=snapshot).track

        try:
            captioned = choose_captions(
                snapshot.index,
                target=target,
                num_queries=num_queries,
                seed=0,
                held_back=spec is not None and spec.encoder is not None,
            )
            learned[target] = learn_texts(snapshot.index, captioned, target=target, embed=embed)
        except TooFewPairs as exc:
            logger.info("scores of texts are not calibrated for %s: %s", target, exc)
    return learned


def choose_captions(
    index: Index, *, target: Modality, num_queries: int, seed: int, held_back: bool = False
) -> list[tuple[Asset, str]]:
    """Draw assets of a modality that have captions, of all or of those held back; raises `TooFewPairs` below 30."""
    found = [
        (asset, caption)
        for asset in iter_assets(index, filter=Filter(modality=target))
        if not says_nothing(asset)
        and (caption := caption_of(asset)) is not None
        and not (held_back and int(asset.asset_id[:8], 16) % HELD_BACK)
    ]
    if len(found) < MIN_ASSETS:
        taught = " that taught nothing" if held_back else ""
        raise TooFewPairs(f"{len(found)} assets with {target} have captions{taught}, {MIN_ASSETS} are needed")
    found.sort(key=lambda pair: pair[0].asset_id)
    return random.Random(seed).sample(found, min(num_queries, len(found)))  # noqa: S311 - a sample, no secret


def learn_texts(
    index: Index, captioned: Sequence[tuple[Asset, str]], *, target: Modality, embed: Callable[[str], Track]
) -> TextDirection:
    """Search with captions, tracks of equal rows as `embed` gives them, and fit the curves; raises `TooFewPairs`.

    Captions that cannot be embedded are left out.
    """
    rows, sharing = PairRows(), defaultdict(set)
    for asset, caption in captioned:
        sharing[caption].add(asset.asset_id)
    said: list[Track] = []
    heard: list[Track] = []
    for asset, caption in captioned:
        try:
            track = embed(caption)
        except UnusableText:
            continue
        own = sharing[caption]
        limit = NUM_RESULTS + len(own)
        query = VectorQuery(
            track=track, target=target, limit=limit, prefetch=choose_prefetch(track, limit=limit)
        )
        matches = index.search_assets(query)
        rows.add(
            [match.score for match in matches],
            [match.asset_id in own for match in matches],
            held_out=is_held_out(asset.asset_id),
        )
        stored = index.get_track(asset.asset_id, index=0, modality=target)
        if stored is not None:
            said.append(track)
            heard.append(stored)
    if len(said) < MIN_ASSETS:
        raise TooFewPairs(f"{len(said)} captions could be embedded, {MIN_ASSETS} are needed")
    pairs = draw_foreign(len(said))
    texts, tracks = (np.stack(some).astype(np.float64) for some in (said, heard))
    own_scores = np.einsum("ntd,ntd->n", texts, tracks) / texts.shape[1]
    foreign = np.einsum("ntd,ntd->n", texts[pairs[:, 0]], tracks[pairs[:, 1]]) / texts.shape[1]
    direction = fit_direction(rows.to_pairs(target))
    return TextDirection(direction=direction, separation=separate(own_scores, foreign, pairs))
