"""What one request works with from its beginning to its end: one release, and how far its file is followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.bundle.bundle import Bundle
from models.media.clip import ClipSpec, DecodeLimits
from service.decode.lane import DecodeTimedOut
from service.encode.batching import SegmentEncoder
from service.encode.spool import Spool
from service.encode.text import QueuedTexts
from service.index.contract import Index
from service.index.layout import VectorLayout
from service.search.calibration import Calibration
from service.system.caller import Caller
from service.system.modality import Modality


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What answers a query: one release, which a request takes and keeps; no work is started for a caller that left.

    `bundle` says what is embedded and compared, and how. `calibration` is None before it was learned, `texts` if the
    bundle embeds no words.
    """

    encoder: SegmentEncoder
    index: Index
    bundle: Bundle
    caller: Caller = field(default_factory=Caller)
    release_id: str = ""
    calibration: Calibration | None = None
    spool: Spool | None = None
    texts: QueuedTexts | None = None

    @property
    def bundle_id(self) -> str:
        """Id of the bundle."""
        return self.bundle.bundle_id

    @property
    def spec(self) -> ClipSpec:
        """How its encoder wants clips cut and sampled."""
        return self.bundle.manifest.clip_spec

    @property
    def layout(self) -> VectorLayout:
        """Shapes of its tracks, and how they compare."""
        return VectorLayout.of(self.bundle.manifest)

    @property
    def tracks(self) -> Mapping[Modality, tuple[int, int]]:
        """Shape (T, D) of a segment's track, by modality."""
        return self.layout.tracks


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
