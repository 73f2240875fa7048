"""Which results a search is to find: made once, from a request or a command line, and passed whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.index.contract import Filter
from service.system.modality import Modality
from service.system.settings import MAX_LIMIT, Settings

Match = Literal["both", "meaning", "words"]
"""By what a text finds: vectors, the words of names and metadata, or both."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which results are wanted, one per asset.

    `source` None searches by the opposite of the target if the query has it, else by what it has. `offset` None is a
    search without pages; all pages of one query are cut from one ranking, that of the best `window` assets (at least
    `offset + limit`), so no result is missed or comes twice. `filter` None counts all assets. `prefetch` is the number
    of candidates by pooled vector for each segment, more if few assets fill them all; None for as many as the segment's
    track needs (`choose_prefetch`). `match` is for a text alone; None for what the bundle has.
    """

    target: Modality
    source: Modality | None = None
    limit: int = 10
    offset: int | None = None
    window: int = MAX_LIMIT
    min_score: float | None = None
    min_probability: float | None = None
    filter: Filter | None = None
    prefetch: int | None = None
    match: Match | None = None

    def __post_init__(self) -> None:
        if self.limit < 1 or (self.offset or 0) < 0 or (self.offset or 0) + self.limit > self.window:
            raise ValueError(
                f"limit must be 1 or more and offset + limit {self.window} at most, got {self.limit} and {self.offset}"
            )

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        target: Modality,
        source: Modality | None = None,
        limit: int | None = None,
        offset: int | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
        filter: Filter | None = None,
        match: Match | None = None,
    ) -> SearchOptions:
        """Make options from what a caller asks for; the settings give the default limit, the window and prefetch."""
        return cls(
            target=target,
            source=source,
            limit=settings.default_limit if limit is None else limit,
            offset=offset,
            window=settings.max_limit,
            min_score=min_score,
            min_probability=min_probability,
            filter=filter,
            prefetch=settings.prefetch,
            match=match,
        )
