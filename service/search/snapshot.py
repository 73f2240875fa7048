"""What one request works with from its beginning to its end: one release, and how far its file is followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.media.clip import ClipSpec, DecodeLimits
from service.decode.lane import DecodeTimedOut
from service.encode.batching import SegmentEncoder
from service.encode.spool import Spool
from service.encode.text import QueuedTexts
from service.index.contract import Index
from service.search.calibration import Calibration
from service.system.caller import Caller
from service.system.modality import Modality


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What answers a query: one release, which a request takes and keeps; no work is started for a caller that left.

    `spec` says how its encoder wants clips cut and sampled, `width` is D, `tracks` the shape (T, D) of a
    segment's track by modality. `calibration` is None before it was learned, `texts` if its bundle embeds no words.
    """

    encoder: SegmentEncoder
    index: Index
    bundle_id: str
    spec: ClipSpec
    caller: Caller = field(default_factory=Caller)
    release_id: str = ""
    calibration: Calibration | None = None
    width: int = 0
    spool: Spool | None = None
    tracks: Mapping[Modality, tuple[int, int]] = field(default_factory=dict)
    texts: QueuedTexts | None = None


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """What a query file may ask for: `timeout_seconds` for decoding all of it, of that `open_seconds` to open it."""

    decode: DecodeLimits
    timeout_seconds: float = 30.0
    open_seconds: float = 5.0

    @property
    def opening_seconds(self) -> float:
        """Time to open the file."""
        return min(self.open_seconds, self.timeout_seconds)

    def left_seconds(self, used_seconds: float) -> float:
        """Time left for decoding, above 0; raises `DecodeTimedOut` if nothing is left."""
        if used_seconds >= self.timeout_seconds:
            raise DecodeTimedOut(f"decoding the file took longer than {self.timeout_seconds:g} s")
        return self.timeout_seconds - used_seconds
