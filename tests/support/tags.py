"""Classifiers of tags as files: tag number n is that of vectors that point along axis n."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_classifier(
    file: Path,
    *,
    names: tuple[str, ...],
    bundle_id: str = "tiny-0",
    width: int = 4,
    has_many: bool = True,
    num_thresholds: int | None = None,
) -> Path:
    """Write what is surer than 40 % of a tag if a vector leans its way."""
    count = len(names)
    np.savez(
        file,
        format=np.array(1),
        bundle_id=np.array(bundle_id),
        key=np.array("tags"),
        names=np.array(names),
        has_many=np.array(has_many),
        weights=np.tile(10 * np.eye(count, width, dtype=np.float32), (5, 1, 1)),
        biases=np.full((5, count), -5, np.float32),
        thresholds=np.full((3, num_thresholds or count), 0.4, np.float32),
    )
    return file
