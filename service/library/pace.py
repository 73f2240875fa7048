"""How fast a run over a library works."""

from __future__ import annotations

import time

from service.library.report import IndexReport, Progress, StageTimes


class Pace:
    """What a run has done since its first file; it sets the attributes as it works."""

    def __init__(self) -> None:
        self.num_segments = 0  # stored
        self.bytes_worked = 0  # of files that ended
        self.stages = StageTimes()
        self._began_at: float | None = None

    def begin(self) -> None:
        """Note that there is work from now on."""
        self._began_at = self._began_at or time.monotonic()

    def progress(self, report: IndexReport, *, num_files: int, bytes_left: int) -> Progress:
        """How far the run is."""
        files = report.files
        seconds = time.monotonic() - (self._began_at or time.monotonic())
        can_estimate = seconds > 0 and self.bytes_worked > 0
        return Progress(
            num_files=num_files,
            num_done=files.indexed + files.unchanged + files.failed,
            num_failed=files.failed,
            num_segments=self.num_segments,
            segments_per_second=self.num_segments / seconds if seconds > 0 else 0.0,
            left_seconds=seconds * bytes_left / self.bytes_worked if can_estimate else None,
            stages=self.stages,
        )
