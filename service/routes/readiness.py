"""Whether the service answers correctly, found out by using it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
import anyio.to_thread
import pydantic_core

from service.engine import Engine


class NotReady(Exception):
    """The encoder gives wrong embeddings, or the index does not answer."""


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """The outcome of one check, and when it was made (monotonic clock)."""

    made_at: float
    document: bytes
    failure: Exception | None


class Readiness:
    """Checks the service by using it; one check serves all who ask within some seconds."""

    def __init__(self, *, cache_seconds: float) -> None:
        self._cache_seconds = cache_seconds
        self._lock = anyio.Lock()
        self._verdict: _Verdict | None = None

    async def check(self, engine: Engine) -> bytes:
        """Check the service, or reuse the last check.

        Args:
            engine: What to check.

        Returns:
            A JSON object that says what was checked.

        Raises:
            NotReady: If a check failed; the message says which.
        """
        async with self._lock:
            verdict = self._verdict
            if verdict is None or time.monotonic() - verdict.made_at > self._cache_seconds:
                verdict = self._verdict = await anyio.to_thread.run_sync(_check, engine)
        if verdict.failure is not None:
            raise NotReady(str(verdict.failure)) from verdict.failure
        return verdict.document


def _check(engine: Engine) -> _Verdict:
    checking = "the encoder"
    try:
        engine.encoder.check_golden()
        checking = "the index"
        num_segments = engine.index.count_segments()
    except Exception as exc:
        failure = NotReady(f"{checking} failed its check: {exc}")
        failure.__cause__ = exc
        return _Verdict(made_at=time.monotonic(), document=b"", failure=failure)
    document = {
        "status": "ready",
        "bundle_id": engine.bundle.bundle_id,
        "provider": engine.encoder.provider,
        "num_segments": num_segments,
    }
    return _Verdict(made_at=time.monotonic(), document=pydantic_core.to_json(document), failure=None)
