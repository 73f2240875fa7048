"""What tests have processes do with clips: in a file without torch, which each of these would import for 2 s."""

from __future__ import annotations

import os
import time

from models.media.clip import Clip


def starts(clip: Clip) -> float:
    return clip.start_seconds


def crash_in_the_middle(clip: Clip) -> float:
    if clip.start_seconds == 8.0:
        os._exit(3)
    return clip.start_seconds


def hang(clip: Clip) -> float:
    time.sleep(60)
    return clip.start_seconds
