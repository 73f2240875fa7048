"""Files that are handed out to workers in batches: a file is done when a worker says so, and not before.

    handout = Handout(tasks)
    batch = handout.take(num_workers=4)          # None if nothing waits
    handout.end_file(batch.number, path)         # a worker stored it, or says why it cannot
    handout.lose(batch.number)                   # its worker died: what has no word waits again

Nothing here knows of machines, and nothing of what the index holds.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from service.library.journal import Fault
from service.library.scanning import FoundFile

MAX_FILES = 32
MAX_BYTES = 256 << 20
# Batches that each worker still gets of what waits: the last ones are small, so that all workers end together.
SHARES = 4
MAX_LOSSES = 5  # workers that may die over one file, all but the first over this file alone


@dataclass(frozen=True, kw_only=True)
class Task:
    """A file for a worker, with its last fault and how many workers died over it."""

    found: FoundFile
    fault: Fault | None = None
    num_losses: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Files for one worker."""

    number: int
    tasks: tuple[Task, ...]


class Handout:
    """Which files wait, and which are with a worker."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = deque(tasks)
        self._suspects: deque[Task] = deque()  # each goes alone
        self._out: dict[int, dict[str, Task]] = {}
        self._numbers = itertools.count(1)

    @property
    def is_done(self) -> bool:
        """Whether every file is stored or given up."""
        return not (self._waiting or self._suspects or self._out)

    def add(self, task: Task) -> None:
        """Let a file wait."""
        self._waiting.append(task)

    def take(self, num_workers: int) -> Batch | None:
        """The next batch for one of so many workers; None if nothing waits now."""
        if not self._waiting:
            tasks = [self._suspects.popleft()] if self._suspects else []
        else:
            share = math.ceil(len(self._waiting) / (SHARES * max(1, num_workers)))
            tasks = [self._waiting.popleft()]
            num_bytes = tasks[0].found.size_bytes
            while len(tasks) < min(share, MAX_FILES) and num_bytes < MAX_BYTES:
                tasks.append(self._waiting.popleft())
                num_bytes += tasks[-1].found.size_bytes
        if not tasks:
            return None
        batch = Batch(number=next(self._numbers), tasks=tuple(tasks))
        self._out[batch.number] = {str(task.found.path): task for task in tasks}
        return batch

    def end_file(self, number: int, path: str) -> Task | None:
        """Note that a file of a batch is done; None if it was already, or the batch was lost."""
        return self._out.get(number, {}).pop(path, None)

    def end(self, number: int) -> list[Task]:
        """Note that a worker is done with a batch. A file that it said nothing of waits again; see `lose`."""
        return self.lose(number)

    def lose(self, number: int, *, is_their_fault: bool = True) -> list[Task]:
        """Let what is left of a batch wait again, each file alone; returns those that too many workers died over.

        If it `is_their_fault` counts: not if the worker's machine could not work at all.
        """
        left = self._out.pop(number, {}).values()
        if not is_their_fault:
            self._waiting.extendleft(reversed(left))
            return []
        lost = [replace(task, num_losses=task.num_losses + 1) for task in left]
        self._suspects.extend(task for task in lost if task.num_losses < MAX_LOSSES)
        return [task for task in lost if task.num_losses >= MAX_LOSSES]
