"""Labels that hold for a part of their clip: `rain@2-7` between seconds 2 and 7; others hold for all of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPAN = re.compile(r"(.+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
NUM_SECONDS = 10


def split_span(label: str) -> tuple[str, tuple[float, float] | None]:
    """`rain@2-7` → `rain`, (2.0, 7.0); a label without a span holds for its whole clip."""
    match = SPAN.fullmatch(label)
    return (match[1], (float(match[2]), float(match[3]))) if match else (label, None)


def name_of(label: str) -> str:
    """The class of a label, without its span."""
    return split_span(label)[0]


def read_seconds(labels: Sequence[Sequence[str]], class_names: Sequence[str]) -> NDArray[np.int64] | None:
    """The class of each second of each clip, the number of classes for background; None if no label has a span.

    Args:
        labels: Of each clip; a label without a span holds for all its seconds.
        class_names: Names without spans.

    Returns:
        int64, shape (N, 10).
    """
    number = {name: place for place, name in enumerate(class_names)}
    found = np.full((len(labels), NUM_SECONDS), len(class_names), np.int64)
    has_span = False
    for row, said in enumerate(labels):
        for label in said:
            name, span = split_span(label)
            start, end = span or (0.0, float(NUM_SECONDS))
            has_span |= span is not None
            middles = np.arange(NUM_SECONDS) + 0.5
            found[row, (middles >= start) & (middles < end)] = number[name]
    return found if has_span else None
