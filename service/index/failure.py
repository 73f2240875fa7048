"""Why an index could not do what was asked: `IndexFailure`, and a direct subclass for each reason."""

from __future__ import annotations

from service.system.failure import Failure

REPAIR = "stop the service and run `foley repair`, which indexes what is missing"


class IndexFailure(Failure):
    """The index could not do what was asked. Subclasses say why."""

    code = "index_failed"
    is_public = False


class IndexInUse(IndexFailure):
    """Another process has the index open."""

    code = "index_in_use"
    is_public = True


class IndexUnavailable(IndexFailure):
    """The shard process died, or the index did not answer; the call may be tried again."""

    code = "index_unavailable"
    is_public = True


class IndexDamaged(IndexFailure):
    """Files of the index are damaged or lost; nothing was changed."""

    code = "index_damaged"


class IndexFull(IndexFailure):
    """The disk of the index has less free space than the floor; nothing was written."""

    code = "disk_full"
    is_public = True


class InvalidVector(IndexFailure):
    """A track has the wrong shape, a value that cannot be stored, or a row of the wrong length."""

    code = "no_embedding"


class InvalidSegment(IndexFailure):
    """A segment contradicts itself, or the segments of an asset came out of order."""


class InvalidFilter(IndexFailure):
    """A filter contradicts itself, or compares with a value that metadata cannot have."""

    code = "invalid_parameter"
    is_public = True


class InvalidCursor(IndexFailure):
    """No page of this index gave the cursor."""

    code = "invalid_parameter"
    is_public = True
