"""A pool of workers in this process: each batch is done by today's pipeline, and dies where a test says so.

The workers share one index, as those of a cluster do; which does what is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.library.batch_run import work_on
from service.library.batches import Batch
from service.library.cluster import BatchLost, Event
from service.library.object_cache import ObjectCache
from service.search.snapshot import Snapshot


class Death(BaseException):
    """A kill -9: nothing of the worker's is done any more."""


class LocalPool:
    """See `service.library.cluster.Pool`.

    Attributes:
        handed: The batches, as they were handed out.
        before_telling: Called with each event before the driver has it; one that raises `Death` loses the event, and
            ends the worker.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        decoder: Decoder,
        *,
        num_workers: int = 3,
        objects: ObjectCache | None = None,
    ) -> None:
        self.num_workers = num_workers
        self.handed: list[Batch] = []
        self.before_telling: Callable[[Event], object] = lambda _: None
        self._snapshot = snapshot
        self._decoder = decoder
        self._objects = objects
        self._waiting: dict[str, Batch] = {}

    def free(self) -> Sequence[str]:
        return [worker for worker in map(str, range(self.num_workers)) if worker not in self._waiting]

    def hand(self, worker: str, batch: Batch) -> None:
        assert worker not in self._waiting
        self.handed.append(batch)
        self._waiting[worker] = batch

    def wait(self) -> Sequence[Event]:
        (_, batch), told = self._waiting.popitem(), list[Event]()

        def tell(event: Event) -> None:
            self.before_telling(event)
            told.append(event)

        try:
            self.work(batch, tell)
        except Death:
            told.append(BatchLost(batch=batch.number, reason="a worker died"))
        return told

    def work(self, batch: Batch, tell: Callable[[Event], object]) -> None:
        """Do a batch."""
        work_on(
            batch,
            snapshot=self._snapshot(),
            decoder=self._decoder,
            limits=DecodeLimits(),
            tell=tell,
            objects=self._objects,
        )

    @property
    def num_files_handed(self) -> int:
        """Files in all batches."""
        return sum(len(batch.tasks) for batch in self.handed)
