"""The shard process: one loop that owns the shard and answers requests from a socket.

Qdrant Edge never releases Python's global lock: in the service's own process a flush or an optimization would freeze
every thread. So the service starts `python -m service.index.embedded.shard_process SOCKET_FD LIFELINE_FD` and talks to
it through a socket pair (`process.py` is the other end). The process ends when the service does, even if the service
is killed while Edge works and no Python runs here: the service alone holds the other end of the lifeline, a pipe, and
when that closes the kernel ends this process by a signal. (PR_SET_PDEATHSIG would not do: it tells of the death of the
thread that started the process, and any thread may.)

Requests are `(number, method name, arguments)`, answers `(number, value, failure, times of stages)`, pickled: both
ends are ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from operator import itemgetter
from select import poll
from typing import Any

from service.index.contract import VectorQuery, WordQuery
from service.index.embedded.messages import ShardConfig
from service.index.embedded.shard import Shard
from service.index.failure import IndexFailure
from service.index.payload import keys_to_index, to_conditions
from service.system.logs import configure_child_logs
from service.system.timing import Stage, collecting

logger = logging.getLogger("service.index.embedded.shard_process")  # __name__ is __main__ here

BACKGROUND_NICE = 10  # a tenth of a core that others keep busy; at 19 it would be a seventieth
Request = tuple[int, str, tuple[Any, ...]]
GROUP_REQUESTS = 64  # writes among this many waiting requests share one flush, and so do deletions
GROUP_SECONDS = (
    0.005  # how long a group that followed one of several waits for the next: a sender needs so long
)


def main() -> None:
    """Open the shard as the first message asks, then serve until the other end closes."""
    socket_fd, lifeline_fd = (int(argument) for argument in sys.argv[1:3])
    configure_child_logs(sys.argv[3:])
    os.umask(0o077)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and a stopping container: the service drains
        signal.signal(ignored, signal.SIG_IGN)
    _die_with(lifeline_fd)
    with Connection(socket_fd) as connection:
        try:
            config: ShardConfig = connection.recv()
            if config.is_background:
                os.nice(BACKGROUND_NICE)
            shard = Shard(config)
        except EOFError:
            return
        except Exception as exc:  # the boundary of the process: whatever went wrong goes to the caller
            connection.send(_failure(exc))
            return
        connection.send(None)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the service is gone
                serve(connection, shard)
        finally:
            shard.close()


def _die_with(lifeline_fd: int) -> None:
    """Let the kernel end this process, however busy Python is, when the pipe has no writer any more."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)
    lifeline = poll()  # `select` fails above 1,024 open files
    lifeline.register(lifeline_fd)
    if lifeline.poll(0):  # it closed before we asked
        sys.exit(1)


def serve(connection: Connection[Any, Any], shard: Shard) -> None:
    """Answer requests in turn until the other end closes or asks to stop; waiting writes share a flush."""
    group: list[Request] = []
    num_taken, wait_seconds = 0, 0.0
    later = _Later()
    for number, method, arguments in _requests(connection):
        if method in ("write", "delete_asset"):
            group.append((number, method, arguments))
        else:  # goes first: it cannot depend on writes that are not acknowledged yet
            connection.send((number, *_answer(shard, method, arguments)))
            later.note(arguments)
        num_taken += 1
        if num_taken < GROUP_REQUESTS and connection.poll(wait_seconds if group else 0.0):
            continue
        _change(connection, shard, group)
        if group:  # who writes one after another is not kept waiting
            wait_seconds = GROUP_SECONDS if len(group) > 1 else 0.0
        group, num_taken = [], 0
        later.work(shard, connection)
    _change(connection, shard, group)  # it was asked to stop while they waited


class _Later:
    """Makes an index for each key whose numbers a filter bounded, one at a time, between requests."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._keys: list[str] = []
        self._num_put_off = 0

    def note(self, arguments: tuple[Any, ...]) -> None:
        """Note the keys of a request that is answered."""
        for one in arguments:
            asked = to_conditions(one.filter) if isinstance(one, VectorQuery | WordQuery) else one
            found = keys_to_index(asked) if isinstance(asked, list) else []
            self._keys += [key for key in found if key not in self._seen]
            self._seen.update(found)

    def work(self, shard: Shard, connection: Connection[Any, Any]) -> None:
        """Make the next index, if its turn has come."""
        if not self._keys:
            return
        self._num_put_off += 1
        if self._num_put_off > GROUP_REQUESTS or not connection.poll(0.0):
            self._num_put_off = 0
            _, failure, _ = _answer(shard, "index_number", (self._keys.pop(0),))
            if failure is not None:
                logger.warning("a key of numbers got no index, its filters stay slow: %s", failure)


def _requests(connection: Connection[Any, Any]) -> Iterator[Request]:
    while True:
        try:
            request: Request | None = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if request is None:
            return
        yield request


def _change(connection: Connection[Any, Any], shard: Shard, group: list[Request]) -> None:
    for method, alike in groupby(group, key=itemgetter(1)):  # in their order
        some = list(alike)
        given = [arguments[0] for _, _, arguments in some]
        values: Sequence[int | None] = [None] * len(some)
        refusals: Sequence[IndexFailure | None] = [None] * len(some)
        try:
            if method == "write":
                refusals = shard.write(given)
            else:
                values = shard.delete_assets(given)
        except Exception as exc:  # the boundary: one failure answers every request of the group
            refusals = [_failure(exc)] * len(some)
        for (number, _, _), value, refusal in zip(some, values, refusals, strict=True):
            connection.send((number, value, refusal, ()))


def _answer(
    shard: Shard, method: str, arguments: tuple[Any, ...]
) -> tuple[Any, IndexFailure | None, list[tuple[Stage, float]]]:
    times: dict[Stage, float] = {}

    def collect(stage: Stage, seconds: float) -> None:
        times[stage] = times.get(stage, 0.0) + seconds  # a call may come to a stage several times

    try:
        with collecting(collect):
            return getattr(shard, method)(*arguments), None, list(times.items())
    except Exception as exc:  # the boundary: Edge raises plain Exception
        return None, _failure(exc), list(times.items())


def _failure(exc: Exception) -> IndexFailure:
    if isinstance(exc, IndexFailure):
        return exc
    logger.error("the shard process failed", exc_info=exc)
    return IndexFailure(f"the shard process failed: {type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
