"""`foley sync --watch`: synchronise whenever something has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from service.commands.here_or_there import Say, run_job
from service.jobs.records import JobRequest
from service.library.locations import locate
from service.library.report import IndexReport, OnProgress
from service.library.scanning import FoundFile, LinkRules, find_files
from service.system.settings import Settings


def watch_library(
    settings: Settings,
    request: JobRequest,
    *,
    interval_seconds: float,
    on_progress: OnProgress,
    on_report: Callable[[IndexReport], None],
    say: Say,
) -> None:
    """Synchronise whenever something has changed, until Ctrl-C.

    Every `interval_seconds` the folders are looked through: names, sizes and times only, 100,000 files in about a
    second. Events of the kernel would need one more dependency, tell nothing of network disks and nothing of what
    happened before, so that a look is needed anyway.
    """
    done: int | None = None
    with suppress(KeyboardInterrupt):  # the way to end a watch, whatever it does at this moment
        while True:
            state = _fingerprint(request)
            if state != done:
                report = run_job(settings, "sync", request, on_progress=on_progress, say=say)
                on_report(report)
                if report.is_interrupted:
                    return
                # Files that changed while they were read failed as such: the next look finds them changed.
                done = state
            time.sleep(interval_seconds)


def _fingerprint(request: JobRequest) -> int:
    """A number for the names, sizes and times of all files: it changes when they do."""
    state = 0
    links = LinkRules(follows_folders=request.follow_links)
    for finding in find_files(map(locate, request.paths), settle_seconds=request.settle_seconds, links=links):
        facts: tuple[object, ...] = (str(finding.path), type(finding).__name__)
        if isinstance(finding, FoundFile):
            facts = (*facts, finding.size_bytes, finding.modified_ns, finding.stamp)
        state ^= hash(facts)
    return state
