"""Clips of synthetic scenes as an encoder reads them, where no media are at hand.

clips = render_clips(ClipSpec(), 4)   # 4 clips of 10 s, always the same ones
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from models.media.clip import Clip, ClipSpec
from training.corpus.picture import render_frames
from training.corpus.scene import SCENE_SECONDS, sample_scene
from training.corpus.sound import render_samples

MANY_FRAMES = 16
"""Frames of a clip that may have any number of them."""


def render_clips(
    spec: ClipSpec, num_clips: int, *, modalities: Collection[str] = ("audio", "video")
) -> list[Clip]:
    """Render the first segment of synthetic scenes, always the same ones.

    Args:
        spec: What a clip looks like.
        num_clips: How many.
        modalities: What they have.

    Returns:
        Clips of a segment, or of 10 s if that is longer.
    """
    seconds = min(spec.segment_seconds, SCENE_SECONDS)
    count = MANY_FRAMES if spec.frame_times == "all" else spec.frames_per_segment
    steps = max(1, count - 1) if spec.frame_times == "ends" else count
    times = np.arange(count) * (seconds - (0.04 if spec.frame_times == "ends" else 0.0)) / steps
    clips = []
    for index in range(num_clips):
        scene = sample_scene(0, "demo", index)
        frames = render_frames(scene, times, spec.frame_size) if "video" in modalities else None
        samples = render_samples(scene, spec.sample_rate_hz)[: round(seconds * spec.sample_rate_hz)]
        clips.append(
            Clip(
                start_seconds=0.0,
                end_seconds=seconds,
                frames=frames,
                frame_times_seconds=None if frames is None else times,
                samples=samples if "audio" in modalities else None,
            )
        )
    return clips
