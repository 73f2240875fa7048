"""A copy of the current shard that was cut off: what is known of it, so that the next build resumes it.

FOLDER/partial.json    the shard that is being built, how it stores tracks, and from which point on pages are missing

What is noted is on the disk of the copy. It holds as long as the current shard stays as it is: before any change the
note is removed, and the copy is swept away when the index opens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from service.system.files import replace_file, sync_folder
from service.system.storage import Storage

FILE_NAME = "partial.json"


@dataclass(frozen=True, kw_only=True)
class Partial:
    """A copy up to a page: `offset` is that of the next one."""

    shard: str
    storage: Storage
    offset: str


def read_partial(folder: Path) -> Partial | None:
    """What the folder of an index says of a copy that was cut off; None if there is none."""
    try:
        found = Partial(**json.loads((folder / FILE_NAME).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if (folder / found.shard).is_dir() else None


class CopyNote:
    """The note on the copy of one shard, which is the current one."""

    def __init__(self, folder: Path, current: str) -> None:
        self._path = folder / FILE_NAME
        self._is_changed = False
        found = read_partial(folder)
        if found is None or found.shard == current:
            self._path.unlink(missing_ok=True)

    def begin(self, storage: Storage) -> Partial | None:
        """Begin a copy: returns that which can be resumed, if tracks are stored as wanted."""
        found = read_partial(self._path.parent)
        if found is not None and found.storage != storage:
            self.forget()
            found = None
        self._is_changed = False
        return found

    def write(self, partial: Partial) -> None:
        """Note durably how far the copy is, unless the shard has changed since it began."""
        if not self._is_changed:
            replace_file(self._path, json.dumps(asdict(partial)) + "\n")

    def forget(self) -> None:
        """Forget it durably: the shard changes, or it was for another kind of storage."""
        self._is_changed = True
        if self._path.exists():
            self._path.unlink()
            sync_folder(self._path.parent)
