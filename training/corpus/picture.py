"""Render a scene for the eye: frames of a drifting backdrop, grey silent shapes and coloured sounding ones.

    frames = render_frames(sample_scene(1, "train", 0), np.arange(80) / 8)

Only sounding objects are saturated. They are drawn last, so nothing hides them.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.corpus.scene import Distractor, Scene, Shape, Source, open_stream

Plane = NDArray[np.float32]  # (H, W)

BACKDROP_MARGIN = 0.55
"""How far the backdrop reaches beyond the frame on every side, in frame sides: 10 s of the fastest drift."""
MIN_FRAME_SIZE = 16


def render_frames(scene: Scene, times_seconds: ArrayLike, size: int = 224) -> NDArray[np.uint8]:
    """Draw the scene at the given times.

    Args:
        scene: What to draw.
        times_seconds: Times within the scene, shape (T,).
        size: Side of the square frames, pixels.

    Returns:
        RGB frames, uint8, shape (T, H, W, 3).

    Raises:
        ValueError: If the size is too small to show a shape.
    """
    if size < MIN_FRAME_SIZE:
        raise ValueError(f"size must be at least {MIN_FRAME_SIZE} pixels, got {size}")
    times = np.asarray(times_seconds, dtype=np.float64)
    frames = _crop_backdrop(scene, times, size)
    envelopes = [source.envelope(times) for source in scene.sources]
    for number, time in enumerate(times):
        for distractor in scene.nuisance.distractors:
            _draw_distractor(frames[number], distractor, float(time), scene.nuisance.brightness)
        for source, envelope in zip(scene.sources, envelopes, strict=True):
            _draw_source(frames[number], source, float(envelope[number]), scene.nuisance.brightness)
    return frames


def _draw_source(frame: NDArray[np.uint8], source: Source, envelope: float, brightness: float) -> None:
    """Draw a sounding object: dim or small while it is silent, bright or large while it sounds."""
    if source.motion == "flash":
        value, scale = 0.4 + 0.6 * envelope, 1.0
    else:
        value, scale = 0.85 + 0.15 * envelope, 0.6 + 0.4 * envelope
    colour = colorsys.hsv_to_rgb(source.hue, 0.95, value * brightness)
    place = (source.x, source.y)
    _draw_shape(
        frame,
        source.shape,
        place=place,
        radius=scale * source.radius,
        tilt=source.tilt_radians,
        colour=colour,
    )


def _draw_distractor(
    frame: NDArray[np.uint8], distractor: Distractor, time: float, brightness: float
) -> None:
    """Draw a grey shape at its place on its orbit."""
    angle = 2 * math.pi * (distractor.orbit_hz * time + distractor.orbit_phase)
    place = (
        distractor.x + distractor.orbit * math.cos(angle),
        distractor.y + distractor.orbit * math.sin(angle),
    )
    grey = distractor.grey * brightness
    _draw_shape(
        frame, distractor.shape, place=place, radius=distractor.radius, tilt=angle, colour=(grey, grey, grey)
    )


def _draw_shape(
    frame: NDArray[np.uint8],
    shape: Shape,
    *,
    place: tuple[float, float],
    radius: float,
    tilt: float,
    colour: tuple[float, float, float],
) -> None:
    """Paint one shape with smooth edges, touching only the rectangle it covers."""
    size = frame.shape[0]
    pixels = radius * size
    left, right = _clip_range(place[0] * size, pixels, size)
    top, bottom = _clip_range(place[1] * size, pixels, size)
    if left >= right or top >= bottom:
        return
    across = _measure_offsets(left, right, place[0] * size) / np.float32(pixels)
    down = _measure_offsets(top, bottom, place[1] * size)[:, None] / np.float32(pixels)
    cosine, sine = np.float32(math.cos(tilt)), np.float32(math.sin(tilt))
    distance = OUTLINES[shape](across * cosine + down * sine, down * cosine - across * sine)
    cover = np.clip(np.float32(0.5) - distance * np.float32(pixels), 0.0, 1.0)[:, :, None]  # (H, W, 1)
    patch = frame[top:bottom, left:right]
    paint = np.array(colour, dtype=np.float32) * np.float32(255.0)
    patch[:] = (patch + cover * (paint - patch) + np.float32(0.5)).astype(np.uint8)


def _clip_range(centre: float, radius: float, size: int) -> tuple[int, int]:
    """Find the pixels a shape may cover; the tips of a star reach 1.25 radii."""
    reach = 1.3 * radius + 1.0
    return max(0, math.floor(centre - reach)), min(size, math.ceil(centre + reach))


def _measure_offsets(first: int, last: int, centre: float) -> NDArray[np.float32]:
    """Measure from the centre to the middle of each pixel of [first, last)."""
    return np.arange(first, last, dtype=np.float32) + np.float32(0.5 - centre)


# Outlines: distance from the edge in radii, below 0 inside. Equal radii cover similar areas.


def _outline_disc(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - np.float32(0.95)


def _outline_ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - np.float32(0.8)) - np.float32(0.28)


def _outline_square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.85)


def _outline_triangle(u: Plane, v: Plane) -> Plane:
    side = np.float32(math.sqrt(0.75)) * np.abs(u) - np.float32(0.5) * v
    return np.maximum(v, side) - np.float32(0.62)


def _outline_cross(u: Plane, v: Plane) -> Plane:
    wide, narrow, half = np.abs(u), np.abs(v), np.float32(0.36)
    arm = np.float32(1.12)
    upright = np.maximum(wide - half, narrow - arm)
    level = np.maximum(wide - arm, narrow - half)
    return np.minimum(upright, level)


def _outline_star(u: Plane, v: Plane) -> Plane:
    """Five points: fold the plane into one half point, whose edge is a straight line."""
    tip, notch, half_point = 1.25, 0.52, math.pi / 5
    fold = np.float32(half_point)
    angle = np.abs((np.arctan2(u, -v) + fold) % (np.float32(2.0) * fold) - fold)
    length = np.hypot(u, v)
    edge_along, edge_up = notch * math.cos(half_point) - tip, notch * math.sin(half_point)
    edge = math.hypot(edge_along, edge_up)
    along, up = length * np.cos(angle), length * np.sin(angle)
    distance: Plane = (along - np.float32(tip)) * np.float32(edge_up / edge) - up * np.float32(
        edge_along / edge
    )
    return distance


OUTLINES: dict[Shape, Callable[[Plane, Plane], Plane]] = {
    "disc": _outline_disc,
    "square": _outline_square,
    "triangle": _outline_triangle,
    "star": _outline_star,
    "ring": _outline_ring,
    "cross": _outline_cross,
}


def _crop_backdrop(scene: Scene, times: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Cut every frame's part out of one large drifting texture; shape (T, H, W, 3)."""
    texture = _paint_texture(scene, size)
    margin = (texture.shape[0] - size) // 2
    frames = np.empty((len(times), size, size, 3), dtype=np.uint8)
    for number, time in enumerate(times):
        left, top = (
            min(max(margin + round(speed * float(time) * size), 0), 2 * margin)
            for speed in scene.nuisance.drift
        )
        frames[number] = texture[top : top + size, left : left + size]
    return frames


def _paint_texture(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Paint smooth clouds between two dull colours, with a little grain; shape (side, side, 3)."""
    rng = open_stream(scene.seed, scene.split, scene.index, purpose="backdrop")
    side = size + 2 * math.ceil(BACKDROP_MARGIN * size)
    clouds = _enlarge(rng.random((9, 9), dtype=np.float32), side)
    clouds += np.float32(0.5) * _enlarge(rng.random((25, 25), dtype=np.float32), side)
    clouds /= np.float32(1.5)
    first, second = (_draw_dull_colour(rng) for _ in range(2))  # (3,) each
    grain = rng.integers(0, 256, size=(64, 64), dtype=np.uint8).astype(np.float32) / np.float32(255.0)
    tiles = math.ceil(side / 64)
    clouds += np.float32(0.1) * (np.tile(grain, (tiles, tiles))[:side, :side] - np.float32(0.5))
    picture = first + clouds[:, :, None] * (second - first)
    scaled = picture * np.float32(255.0 * scene.nuisance.brightness)
    texture: NDArray[np.uint8] = np.clip(scaled, 0.0, 255.0).astype(np.uint8)
    return texture


def _draw_dull_colour(rng: np.random.Generator) -> NDArray[np.float32]:
    hue, saturation, value = rng.random(), rng.uniform(0.0, 0.4), rng.uniform(0.05, 0.7)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _enlarge(grid: Plane, side: int) -> Plane:
    """Enlarge a coarse square grid smoothly to (side, side)."""
    position = np.linspace(0.0, grid.shape[0] - 1.001, side)
    low = position.astype(np.intp)
    part = (position - low).astype(np.float32)
    part = part * part * (np.float32(3.0) - np.float32(2.0) * part)
    rows = grid[low] + part[:, None] * (grid[low + 1] - grid[low])  # (side, coarse)
    enlarged: Plane = rows[:, low] + part * (rows[:, low + 1] - rows[:, low])
    return enlarged
