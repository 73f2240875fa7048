"""The control of `tests/promises/test_cluster.py`: a driver that counts a file as stored when it hands it out."""

from __future__ import annotations

from service.cli import app
from service.jobs.ray_pool import RayPool
from service.library.batches import Batch
from service.library.cluster import Driver, FileEnded
from service.library.outcomes import row_of


def break_driver() -> None:
    """Say done first, and believe it: what a worker had begun when it died is lost."""
    hand = RayPool.hand

    def hand_and_tell(self: RayPool, worker: str, batch: Batch) -> None:
        hand(self, worker, batch)
        for task in batch.tasks:
            row = row_of(task.found, "0" * 64).ended("indexed", num_segments=1)
            self._untold.append(FileEnded(batch=batch.number, row=row))

    RayPool.hand = hand_and_tell  # type: ignore[method-assign]
    Driver.compare = lambda *_, **__: False  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    break_driver()
    app()
