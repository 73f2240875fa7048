"""How long the stages of a request take, told to whoever asked, through any number of calls in between.

    with collecting(print):
        with timed("decode"):    # anywhere below, also in a thread that was started with this context
            ...                  # → decode 0.042

Where nobody collects, `timed` costs a microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

Stage = Literal["receive", "wait", "decode", "encode", "search", "rescoring"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Collector = Callable[[Stage, float], None]

_collector: ContextVar[Collector | None] = ContextVar("collector", default=None)


@contextmanager
def collecting(collector: Collector) -> Iterator[None]:
    """Tell a function how long each stage inside the block takes.

    Args:
        collector: Takes the stage and its seconds; called from the thread that did the work.

    Yields:
        Nothing.
    """
    token = _collector.set(collector)
    try:
        yield
    finally:
        _collector.reset(token)


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Time a block as a stage, also where it fails.

    Args:
        stage: What happens in it.

    Yields:
        Nothing.
    """
    began = time.perf_counter()
    try:
        yield
    finally:
        report(stage, time.perf_counter() - began)


def report(stage: Stage, seconds: float) -> None:
    """Tell of a stage that was timed elsewhere, in another process.

    Args:
        stage: What happened.
        seconds: How long it took.
    """
    collector = _collector.get()
    if collector is not None:
        collector(stage, seconds)
