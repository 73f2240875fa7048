"""An asset that is being written: its first point waits here until all the others are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.index.contract import Segment
from service.index.failure import InvalidSegment
from service.index.points import StoredPoint
from service.index.words import describe_words
from service.system.modality import MODALITIES, Modality


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the calls so far have written of an asset: `head` is its first point, `points` id, index and start of all.

    At least one point has each modality in `known`; those in `outdated_ids` were stored while fewer were known.
    """

    head: StoredPoint
    points: tuple[tuple[str, int, float], ...] = ()
    known: frozenset[Modality] = frozenset()
    outdated_ids: tuple[str, ...] = ()

    @property
    def body_ids(self) -> list[str]:
        """Ids of all points but the head."""
        return [point_id for point_id, _, _ in self.points[1:]]

    def extend(self, points: Sequence[StoredPoint]) -> Draft:
        """The draft with the points of one more call."""
        places = [(p.point_id, p.payload["index"], p.payload["start_seconds"]) for p in points]
        known = self.known | {name for name in MODALITIES for point in points if name in point.vectors}
        outdated = self.outdated_ids if known == self.known else tuple(self.body_ids)
        return replace(self, points=(*self.points, *places), known=known, outdated_ids=outdated)

    def label(self, point: StoredPoint) -> StoredPoint:
        """The point with the modalities of its asset, as far as they are known."""
        modalities = [name for name in MODALITIES if name in self.known]
        return replace(point, payload={**point.payload, "modalities": modalities})

    def finish(self) -> StoredPoint:
        """The head with facts about the whole asset."""
        facts = {"num_segments": len(self.points), "last_index": self.points[-1][1]}
        payload = {**self.head.payload, **facts, **describe_words(self.head.payload)}
        return self.label(replace(self.head, payload=payload))


def follow(draft: Draft | None, first: Segment, point: StoredPoint) -> Draft:
    """The draft before a call; segment 0 starts a new one. Raises `InvalidSegment` for a wrong order."""
    if first.index == 0:
        return Draft(head=point)
    if draft is None:
        raise InvalidSegment(
            f"asset {first.asset_id} must be written from segment 0 on, got {first.index} first"
        )
    _, index, start_seconds = draft.points[-1]
    if first.index <= index or round((first.start_seconds - start_seconds) * 1000) < 1:
        raise InvalidSegment(
            f"segments must rise in index and start: after {index} at {start_seconds} s of asset "
            f"{first.asset_id} came {first.index} at {first.start_seconds} s"
        )
    return draft
