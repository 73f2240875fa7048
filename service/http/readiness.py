"""Whether the service answers correctly, found out by using it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
import anyio.to_thread
import pydantic_core

from service.decode.landlock import landlock_version
from service.foley import Foley
from service.index.failure import REPAIR, IndexDamaged
from service.jobs.ledger import Ledger
from service.releases.documents import describe_bundle
from service.system.failure import Failure
from service.system.modality import MODALITIES


class NotReady(Failure):
    """The encoder gives wrong embeddings, or the index or the ledger of jobs does not answer."""

    code = "not_ready"


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    made_at: float  # by the monotonic clock
    document: bytes
    failure: Exception | None


class Readiness:
    """Checks the service by using it; one check serves all who ask within `cache_seconds`."""

    def __init__(self, *, cache_seconds: float) -> None:
        self._cache_seconds = cache_seconds
        self._lock = anyio.Lock()
        self._verdict: _Verdict | None = None

    async def check(self, foley: Foley, ledger: Ledger) -> bytes:
        """Check the service, or reuse the last check; returns a JSON object or raises `NotReady`."""
        async with self._lock:
            verdict = self._verdict
            if verdict is None or time.monotonic() - verdict.made_at > self._cache_seconds:
                verdict = self._verdict = await anyio.to_thread.run_sync(_check, foley, ledger)
        if verdict.failure is not None:
            raise NotReady(str(verdict.failure)) from verdict.failure
        return verdict.document


def _check(foley: Foley, ledger: Ledger) -> _Verdict:
    checking = "the encoder"
    try:
        with foley.releases.lease() as release:
            release.encoder.check_golden()
            if release.texts is not None:
                release.texts.encoder.check_golden()
            checking = "the index"
            release.index.check()
            num_segments = release.index.count_segments()
        checking = "the ledger of jobs"
        ledger.check()
        embeds_all = len(release.bundle.manifest.tracks) == len(
            MODALITIES
        )  # else it may hold nothing of them
        if num_segments == 0 and embeds_all and (num_stored := ledger.count_stored()):
            raise IndexDamaged(f"the index is empty, and jobs stored {num_stored} assets: {REPAIR}")
        checking = "the disk"
        disk = foley.settings.disk_space()
    except Exception as exc:
        failure = NotReady(f"{checking} failed its check: {exc}")
        failure.__cause__ = exc
        return _Verdict(made_at=time.monotonic(), document=b"", failure=failure)
    document = {
        "status": "ready",
        "bundle_id": release.bundle.bundle_id,
        "bundle": describe_bundle(release.bundle.manifest),
        "provider": release.encoder.provider,
        "num_segments": num_segments,
        "free_bytes": disk.free_bytes,
        "is_writable": disk.has_room(),
        "landlock_version": landlock_version(),
    }
    return _Verdict(made_at=time.monotonic(), document=pydantic_core.to_json(document), failure=None)
