"""What an index knows of the files of a library: which are there, and which are there under another name.

A file is the asset its content says. Content is read only where path, size and time do not tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.clip import UnreadableClip
from service.index.contract import Index
from service.scanning import FoundFile, UnusableFile, identify

PAGE_SIZE = 1000
HASHES_AHEAD = 8  # files whose content is hashed while earlier ones are decoded

Identity = str | UnreadableClip | UnusableFile


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the index knows of one asset.

    Attributes:
        path: Where its file was.
        size_bytes: Size of the file.
        modified_ns: When it was last changed.
        num_segments: How many of its segments are stored.
    """

    path: str
    size_bytes: int
    modified_ns: int
    num_segments: int

    @classmethod
    def of(cls, found: FoundFile, *, num_segments: int) -> Known:
        """A file that has just been indexed."""
        return cls(
            path=str(found.path),
            size_bytes=found.size_bytes,
            modified_ns=found.modified_ns,
            num_segments=num_segments,
        )

    def is_untouched(self, found: FoundFile) -> bool:
        """Whether size and time are what they were."""
        return (self.size_bytes, self.modified_ns) == (found.size_bytes, found.modified_ns)

    def is_misplaced(self, found: FoundFile) -> bool:
        """Whether the asset should be where its content was found: it was touched there, or is nowhere else."""
        if self.path == str(found.path):
            return not self.is_untouched(found)
        return not Path(self.path).exists()


class Catalogue:
    """The assets of an index, by id and by path."""

    def __init__(self) -> None:
        self._assets: dict[str, Known] = {}
        self._ids_at: dict[str, set[str]] = {}

    def add(self, asset_id: str, known: Known) -> None:
        """Remember an asset."""
        self._assets[asset_id] = known
        self._ids_at.setdefault(known.path, set()).add(asset_id)

    def get(self, asset_id: str) -> Known | None:
        """The asset, if it is stored."""
        return self._assets.get(asset_id)

    def find_untouched(self, found: FoundFile) -> str | None:
        """The asset of a file that has not been touched since it was indexed."""
        for asset_id in self._ids_at.get(str(found.path), ()):
            if self._assets[asset_id].is_untouched(found):
                return asset_id
        return None

    def others_at(self, path: Path, asset_id: str) -> set[str]:
        """Assets that were at a path where another one is now."""
        return self._ids_at.get(str(path), set()) - {asset_id}


def read_catalogue(index: Index) -> Catalogue:
    """Read all assets of an index."""
    catalogue = Catalogue()
    cursor: str | None = None
    while True:
        page = index.list_assets(limit=PAGE_SIZE, cursor=cursor)
        for asset in page.assets:
            known = Known(
                path=asset.path,
                size_bytes=asset.media.get("size_bytes", -1),
                modified_ns=asset.media.get("modified_ns", -1),
                num_segments=asset.num_segments,
            )
            catalogue.add(asset.asset_id, known)
        cursor = page.next_cursor
        if cursor is None:
            return catalogue


def move(index: Index, asset_id: str, found: FoundFile) -> None:
    """Let an asset be where its content was found."""
    asset = index.get_asset(asset_id)
    if asset is not None:
        media = {**asset.media, "size_bytes": found.size_bytes, "modified_ns": found.modified_ns}
        index.set_paths(asset_id, paths=[str(found.path)], media=media)


def identify_all(files: Iterable[FoundFile], catalogue: Catalogue) -> Iterator[tuple[FoundFile, Identity]]:
    """Tell which asset each file is; contents are hashed a few files ahead.

    Args:
        files: The files.
        catalogue: What is known already.

    Yields:
        tuple[FoundFile, Identity]: Each file in order, with its asset id or what is wrong with it.
    """
    ahead: deque[tuple[FoundFile, Future[Identity]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        try:
            for found in files:
                ahead.append((found, pool.submit(_identify, found, catalogue.find_untouched(found))))
                if len(ahead) > HASHES_AHEAD:
                    earlier, identity = ahead.popleft()
                    yield earlier, identity.result()
            while ahead:
                earlier, identity = ahead.popleft()
                yield earlier, identity.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _identify(found: FoundFile, known: str | None) -> Identity:
    if known is not None:
        return known
    try:
        return identify(found)
    except (UnreadableClip, UnusableFile) as exc:
        return exc
