"""Long tests begin first: one that begins last lets a core wait for it."""

from __future__ import annotations

from itertools import islice

import pytest


def put_long_ones_first(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put an equal share of the tests marked `long` first in the part that pytest-xdist gives each worker."""
    num_workers: int = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    ordered: list[pytest.Item] = []
    for number in range(num_workers):
        size = (len(items) - len(ordered)) // (num_workers - number)  # as `--dist worksteal` divides them
        mine = long[number::num_workers]
        ordered += [*mine, *islice(others, max(0, size - len(mine)))]
    items[:] = [*ordered, *others]
