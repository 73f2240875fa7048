"""How many candidates the pooled vectors have to give, so that the best by their tracks are among them.

A pooled vector is the mean of the moments: the less alike they are, the less it says. Only the query's moments are
known here, and they are enough: if they are alike, those of the library may be as they like, because what both have
beside their means is a product (`python -m benchmarks.search_prefetch` prints the shares; `docs/search.md`).
"""

from __future__ import annotations

import numpy as np

from service.system.modality import Track

TEN = 10
FOR_TEN = ((0.65, 100), (0.3, 200), (-2.0, 500))
"""From which mean cosine of two moments of a query on how many candidates hold .98 of the exact ten best."""
FOR_EACH_FURTHER = 2


def measure_alikeness(track: Track) -> float:
    """Mean cosine of two moments of a track of shape (T, D): 1 if all are the same, about 0 if unlike."""
    num_moments = len(track)
    if num_moments == 1:
        return 1.0
    rows = track / np.linalg.norm(track, axis=1, keepdims=True).clip(1e-12)
    total = float(np.square(rows.sum(axis=0)).sum())
    return (total / num_moments - 1.0) / (num_moments - 1)


def choose_prefetch(track: Track, *, limit: int) -> int:
    """How many candidates hold .98 of the exact best `limit` for a track of shape (T, D)."""
    alike = measure_alikeness(track)
    for_ten = next(prefetch for least, prefetch in FOR_TEN if alike >= least)
    return for_ten + FOR_EACH_FURTHER * max(0, limit - TEN)
