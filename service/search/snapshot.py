"""What one request works with from its beginning to its end: one release, and how far its file is followed."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.media.clip import (
    ClipSpec,
    DecodeLimits,
)
from service.decode.lane import DecodeTimedOut
from service.encode.batching import SegmentEncoder
from service.encode.spool import Spool
from service.index.contract import Index
from service.search.calibration import Calibration
from service.system.caller import Caller


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What answers a query: an encoder and the index of its vectors. A request takes one and keeps it.

    Attributes:
        encoder: Turns clips into tracks.
        index: Segments embedded by the same bundle.
        bundle_id: Which bundle that is.
        spec: How its encoder wants clips cut and sampled.
        caller: Who waits for the answer; no work is started for one that left.
        release_id: Which release encoder, index and calibration belong to.
        calibration: What its scores mean, where that was learned.
        width: D, width of its embeddings.
        spool: Keeps what was embedded of files on their way into the index; None where nothing does.
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


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """How far a query file is followed.

    Attributes:
        decode: Limits of the file and its streams.
        timeout_seconds: Wall time for decoding all of it.
        open_seconds: Wall time for opening it, of that.
    """

    decode: DecodeLimits
    timeout_seconds: float = 30.0
    open_seconds: float = 5.0

    @property
    def opening_seconds(self) -> float:
        """Time to open the file."""
        return min(self.open_seconds, self.timeout_seconds)

    def left_seconds(self, used_seconds: float) -> float:
        """Time that is left for decoding.

        Args:
            used_seconds: Time that decoding took so far.

        Returns:
            Seconds, above 0.

        Raises:
            DecodeTimedOut: If nothing is left.
        """
        if used_seconds >= self.timeout_seconds:
            raise DecodeTimedOut(f"decoding the file took longer than {self.timeout_seconds:g} s")
        return self.timeout_seconds - used_seconds
