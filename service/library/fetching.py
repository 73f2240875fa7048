"""Objects on their way into a run over a library: each is copied to this machine, hashed, and decoded from the copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.library.locations import ObjectPath
from service.library.object_cache import ObjectCache, ObjectTooLarge
from service.library.objects import ObjectChanged, StorageUnavailable, describe_object
from service.library.scanning import CHANGED, FoundFile, UnusableFile, identify
from service.system.caller import Caller

MAX_REFUSALS = 5  # in a row: then the storage itself is at fault


def copy_asset(cache: ObjectCache, url: str, asset_id: str) -> Path:
    """The copy of an object that was indexed, made now if there is none; held by the caller.

    Raises `ObjectChanged` if it has another content now, and what `ObjectCache.fetch` raises.
    """
    if not cache.has(asset_id) and cache.fetch(describe_object(ObjectPath(url))) != asset_id:
        raise ObjectChanged("the object was changed since it was indexed; index it again")
    return cache.path(asset_id)


class Fetching:
    """Copies the objects of one run. Without a cache there are none: each is unusable."""

    def __init__(self, cache: ObjectCache | None, caller: Caller) -> None:
        self._cache = cache
        self._caller = caller
        self._ahead = Caller()  # leaves when nothing is to be fetched ahead any more
        self._num_refusals = 0

    def identify(self, found: FoundFile) -> str:
        """See `service.library.scanning.identify`; an object is copied if there is room, else only hashed."""
        return identify(found) if found.stored is None else self._fetch(found, is_urgent=False)

    def stop_ahead(self) -> None:
        """End what is fetched ahead, after the piece that is under way."""
        self._ahead.leave()

    def skip(self, found: FoundFile, asset_id: str) -> None:
        """Note that the copy of an object is not needed."""
        if self._cache is not None and found.stored is not None:
            self._cache.forget(asset_id)

    @contextmanager
    def holding(self, found: FoundFile, asset_id: str) -> Iterator[None]:
        """Keep the copy of an object, once it is here, until the block ends."""
        if self._cache is None or found.stored is None:
            yield
        else:
            with self._cache.holding(asset_id):
                yield

    @contextmanager
    def opening(self, found: FoundFile, asset_id: str) -> Iterator[Path]:
        """What is opened of a file, of an object its copy; raises as `bring` does."""
        with self.holding(found, asset_id):
            self.bring(found, asset_id)
            yield found.source if self._cache is None or found.stored is None else self._cache.path(asset_id)

    def bring(self, found: FoundFile, asset_id: str) -> None:
        """Have the copy of an object here; raises `CopiesInUse` if there is no room for it now."""
        if found.stored is None or self._cache is None or self._cache.has(asset_id):
            return
        if self._fetch(found, is_urgent=True) != asset_id:
            raise UnusableFile(found.path, "changed", CHANGED)

    def _fetch(self, found: FoundFile, *, is_urgent: bool) -> str:
        """Copy an object; raises `UnusableFile`, and `StorageUnavailable` if the storage fails again and again."""
        if self._cache is None or found.stored is None:
            raise UnusableFile(
                found.path, "storage_unavailable", "there is no place for copies of objects here"
            )
        try:
            asset_id = self._cache.fetch(found.stored, is_urgent=is_urgent, check=self._check(is_urgent))
        except ObjectTooLarge as exc:
            raise UnusableFile(found.path, exc.code, str(exc)) from exc
        except StorageUnavailable as exc:
            self._num_refusals += type(exc) is StorageUnavailable
            if self._num_refusals >= MAX_REFUSALS:
                raise
            raise UnusableFile.of(found.path, exc) from exc
        self._num_refusals = 0
        return asset_id

    def _check(self, is_urgent: bool) -> Callable[[], None]:
        def check() -> None:
            self._caller.check()
            if not is_urgent:
                self._ahead.check()

        return check
