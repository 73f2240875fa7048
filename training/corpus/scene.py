"""What happens in a synthetic clip: sounding objects, and everything else that must not matter.

A scene is ten seconds with one or two sounding objects. Ear and eye get the same facts about each of them:

    timbre ↔ shape    pitch ↔ height and hue    pulse (rate, phase) ↔ flashing or swelling    loudness ↔ size

The nuisance is drawn from a random stream of its own, so it says nothing about the objects: a drifting
backdrop, grey silent shapes, hum, noise and short off-screen sounds. A scene is pure data; `training.corpus.picture`
and `training.corpus.sound` render it. Every number comes from (seed, split, index), and the split is part of the
entropy: scenes of two splits never meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Split = Literal["train", "heldout", "demo"]
Timbre = Literal["sine", "hollow", "saw", "bell", "breath", "pluck"]
Shape = Literal["disc", "square", "triangle", "star", "ring", "cross"]
Motion = Literal["flash", "swell"]

SCENE_SECONDS = 10.0
SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "heldout": 1, "demo": 2}
SHAPES: dict[Timbre, Shape] = {
    "sine": "disc",
    "hollow": "square",
    "saw": "triangle",
    "bell": "star",
    "breath": "ring",
    "pluck": "cross",
}
PITCH_RANGE_HZ = (150.0, 1800.0)
"""Above 1800 Hz the overtones that tell timbres apart pass 8 kHz, where the model is deaf."""
RATE_RANGE_HZ = (0.4, 2.4)
LOUDNESS_RANGE_DB = (-34.0, -18.0)
RADIUS_RANGE = (0.09, 0.21)
HEIGHT_RANGE = (0.2, 0.8)
MAX_HUE = 0.78
"""Hue runs from red (lowest pitch) to violet: a full circle would make the highest look like the lowest."""
PULSE_EDGE_SECONDS = 0.04
MAX_SEED = 2**32


class BadScene(ValueError):
    """A scene has values outside their limits."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One sounding object. Its picture and its sound are both functions of these fields.

    Attributes:
        timbre: Kind of sound; decides the shape.
        pitch_hz: Fundamental, within PITCH_RANGE_HZ; decides height and hue.
        loudness_db: RMS level while it sounds, dB of full scale, within LOUDNESS_RANGE_DB; decides the size.
        rate_hz: Pulses a second; 0 means it sounds without a break.
        phase: Where in its pulse the scene starts, a fraction in [0, 1).
        motion: How the pulse shows: brightness (flash) or size (swell).
        x: Horizontal centre, fraction of the width from the left. Not shared with the sound.
        tilt_radians: Rotation of the shape. Not shared with the sound.
    """

    timbre: Timbre
    pitch_hz: float
    loudness_db: float
    rate_hz: float
    phase: float
    motion: Motion
    x: float
    tilt_radians: float

    def __post_init__(self) -> None:
        """Check the shared factors.

        Raises:
            BadScene: If a factor is outside its range.
        """
        for name, value, (low, high) in (
            ("pitch_hz", self.pitch_hz, PITCH_RANGE_HZ),
            ("loudness_db", self.loudness_db, LOUDNESS_RANGE_DB),
            ("rate_hz", self.rate_hz, (0.0, RATE_RANGE_HZ[1])),
            ("phase", self.phase, (0.0, 1.0)),
        ):
            if not low <= value <= high:
                raise BadScene(f"{name} must be within [{low:g}, {high:g}], got {value:g}")

    @property
    def shape(self) -> Shape:
        """The shape that belongs to the timbre."""
        return SHAPES[self.timbre]

    @property
    def pitch_fraction(self) -> float:
        """Pitch on a log scale: 0 for the lowest, 1 for the highest."""
        low, high = PITCH_RANGE_HZ
        return math.log(self.pitch_hz / low) / math.log(high / low)

    @property
    def hue(self) -> float:
        """Hue in [0, MAX_HUE]: low sounds are red, high ones violet."""
        return MAX_HUE * self.pitch_fraction

    @property
    def y(self) -> float:
        """Vertical centre, fraction of the height from the top: high sounds stand high."""
        low, high = HEIGHT_RANGE
        return 1.0 - (low + (high - low) * self.pitch_fraction)

    @property
    def radius(self) -> float:
        """Radius at full sound, fraction of the frame's side: loud objects are large."""
        quiet, loud = LOUDNESS_RANGE_DB
        small, large = RADIUS_RANGE
        return small + (large - small) * (self.loudness_db - quiet) / (loud - quiet)

    def envelope(self, times_seconds: ArrayLike) -> NDArray[np.float32]:
        """How much of the object's full sound (and light) there is at each time.

        Args:
            times_seconds: Times on the scene's clock, any shape.

        Returns:
            Values in [0, 1], float32, same shape: 1 in the first half of each pulse, 0 in the second, with
            edges of 40 ms.
        """
        times = np.asarray(times_seconds, dtype=np.float32)
        if self.rate_hz == 0.0:
            return np.ones_like(times)
        cycle = (times * np.float32(self.rate_hz) + np.float32(self.phase)) % np.float32(1.0)
        inside = np.float32(0.25) - np.abs(cycle - np.float32(0.25))  # of a cycle; above 0 inside the on half
        inside = np.maximum(inside, cycle - np.float32(1.0))  # the on half's own beginning, seen from the end
        ramp = inside / np.float32(self.rate_hz * PULSE_EDGE_SECONDS) + np.float32(0.5)
        ramp = np.clip(ramp, 0.0, 1.0)
        smooth: NDArray[np.float32] = (ramp * ramp * (3.0 - 2.0 * ramp)).astype(np.float32)
        return smooth


@dataclass(frozen=True, kw_only=True)
class Distractor:
    """A grey shape that moves and blinks and makes no sound.

    Attributes:
        shape: Any of the six shapes.
        grey: Brightness in [0, 1].
        radius: Fraction of the frame's side.
        x: Horizontal centre of its orbit, fraction of the frame.
        y: Vertical centre of its orbit, fraction of the frame.
        orbit: Radius of its circular path, fraction of the frame.
        orbit_hz: Turns a second.
        orbit_phase: Where on the path the scene starts, in [0, 1).
    """

    shape: Shape
    grey: float
    radius: float
    x: float
    y: float
    orbit: float
    orbit_hz: float
    orbit_phase: float


@dataclass(frozen=True, kw_only=True)
class OffscreenSound:
    """A short sound that nothing in the picture makes.

    Attributes:
        start_seconds: When it begins.
        duration_seconds: How long it lasts.
        from_hz: Pitch at its beginning.
        to_hz: Pitch at its end.
        level_db: RMS level, dB of full scale.
    """

    start_seconds: float
    duration_seconds: float
    from_hz: float
    to_hz: float
    level_db: float


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """Everything in a scene that ear and eye do not share.

    Attributes:
        drift: Backdrop drift to the right and down, frame sides a second.
        brightness: Factor on the whole picture.
        gain_db: Level change of the whole sound.
        hum_hz: Mains frequency, 50 or 60.
        hum_db: Level of the hum, dB of full scale.
        noise_db: Level of the noise, dB of full scale.
        noise_colour: Share of low-frequency noise in it, [0, 1].
        distractors: Silent shapes.
        offscreen: Sounds without a picture.
    """

    drift: tuple[float, float]
    brightness: float
    gain_db: float
    hum_hz: float
    hum_db: float
    noise_db: float
    noise_colour: float
    distractors: tuple[Distractor, ...]
    offscreen: tuple[OffscreenSound, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Ten seconds that can be seen and heard.

    Attributes:
        seed: Seed of the corpus.
        split: Split of the corpus.
        index: Number of the scene in its split.
        sources: One or two sounding objects, the louder one first.
        nuisance: The rest.
    """

    seed: int
    split: Split
    index: int
    sources: tuple[Source, ...]
    nuisance: Nuisance

    def __post_init__(self) -> None:
        """Check the number of sources.

        Raises:
            BadScene: If there are none or more than two.
        """
        if not 1 <= len(self.sources) <= 2:
            raise BadScene(f"a scene has 1 or 2 sources, got {len(self.sources)}")


def open_stream(seed: int, split: Split, index: int, *, purpose: str) -> np.random.Generator:
    """Open one of the independent random streams of a scene.

    Args:
        seed: Seed of the corpus, in [0, 2³²).
        split: Split of the corpus.
        index: Number of the scene, in [0, 2³²).
        purpose: What the numbers are for; every purpose has a stream of its own.

    Returns:
        A generator that depends on the four values only.

    Raises:
        BadScene: If the split is unknown, or the seed or index does not fit into 32 bits (longer numbers
            would run into each other as entropy).
    """
    if split not in SPLIT_NUMBERS:
        raise BadScene(f"split must be one of {', '.join(SPLIT_NUMBERS)}, got {split!r}")
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < MAX_SEED:
            raise BadScene(f"{name} must be within [0, {MAX_SEED}), got {value}")
    key = tuple(purpose.encode())
    return np.random.default_rng(np.random.SeedSequence([seed, SPLIT_NUMBERS[split], index], spawn_key=key))


def sample_scene(seed: int, split: Split, index: int) -> Scene:
    """Draw one scene.

    Args:
        seed: Seed of the corpus, in [0, 2³²).
        split: Split of the corpus; scenes of two splits never meet, whatever their seeds.
        index: Number of the scene.

    Returns:
        The scene: the same for the same three values, always.
    """
    factors = open_stream(seed, split, index, purpose="factors")
    nuisance = open_stream(seed, split, index, purpose="nuisance")
    return Scene(
        seed=seed,
        split=split,
        index=index,
        sources=_sample_sources(factors),
        nuisance=_sample_nuisance(nuisance),
    )


def _sample_sources(rng: np.random.Generator) -> tuple[Source, ...]:
    num_sources = int(rng.integers(1, 3))
    timbres = rng.permutation(np.array(get_args(Timbre)))[:num_sources]
    loudness_db = np.sort(rng.uniform(*LOUDNESS_RANGE_DB, size=num_sources))[::-1]
    pitch_fractions = rng.uniform(size=num_sources)
    if num_sources == 2 and abs(pitch_fractions[0] - pitch_fractions[1]) < 0.15:  # about half an octave apart
        pitch_fractions[1] = (pitch_fractions[1] + 0.4) % 1.0
    places = [(0.25, 0.75)] if num_sources == 1 else [(0.2, 0.36), (0.64, 0.8)]
    low, high = PITCH_RANGE_HZ
    return tuple(
        Source(
            timbre=_pick_timbre(timbres[number]),
            pitch_hz=float(np.clip(low * (high / low) ** pitch_fractions[number], low, high)),
            loudness_db=float(loudness_db[number]),
            rate_hz=0.0 if rng.random() < 0.25 else _sample_log(rng, *RATE_RANGE_HZ),
            phase=float(rng.random()),
            motion="flash" if rng.random() < 0.6 else "swell",
            x=float(rng.uniform(*places[order])),
            tilt_radians=float(rng.uniform(-0.25, 0.25)),
        )
        for number, order in enumerate(rng.permutation(num_sources))
    )


def _pick_timbre(name: object) -> Timbre:
    return next(timbre for timbre in get_args(Timbre) if timbre == name)


def _sample_log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.clip(low * (high / low) ** rng.random(), low, high))


def _sample_nuisance(rng: np.random.Generator) -> Nuisance:
    return Nuisance(
        drift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05))),
        brightness=float(rng.uniform(0.8, 1.0)),
        gain_db=float(rng.uniform(-1.5, 1.5)),
        hum_hz=float(rng.choice([50.0, 60.0])),
        hum_db=float(rng.uniform(-60.0, -42.0)),
        noise_db=float(rng.uniform(-66.0, -52.0)),
        noise_colour=float(rng.random()),
        distractors=tuple(_sample_distractor(rng) for _ in range(int(rng.integers(0, 4)))),
        offscreen=tuple(_sample_offscreen(rng) for _ in range(int(rng.integers(0, 3)))),
    )


def _sample_distractor(rng: np.random.Generator) -> Distractor:
    return Distractor(
        shape=get_args(Shape)[int(rng.integers(len(get_args(Shape))))],
        grey=float(rng.uniform(0.2, 0.95)),
        radius=float(rng.uniform(0.04, 0.14)),
        x=float(rng.uniform(0.1, 0.9)),
        y=float(rng.uniform(0.1, 0.9)),
        orbit=float(rng.uniform(0.0, 0.25)),
        orbit_hz=float(rng.uniform(-0.3, 0.3)),
        orbit_phase=float(rng.random()),
    )


def _sample_offscreen(rng: np.random.Generator) -> OffscreenSound:
    duration_seconds = float(rng.uniform(0.15, 0.7))
    return OffscreenSound(
        start_seconds=float(rng.uniform(0.0, SCENE_SECONDS - duration_seconds)),
        duration_seconds=duration_seconds,
        from_hz=_sample_log(rng, 200.0, 4000.0),
        to_hz=_sample_log(rng, 200.0, 4000.0),
        level_db=float(rng.uniform(-46.0, -36.0)),
    )
