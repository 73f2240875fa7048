"""Render a scene for the ear.

The sounding objects, and hum, noise and off-screen sounds under them:

samples = render_samples(sample_scene(1, "train", 0), 44100)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.corpus.scene import SCENE_SECONDS, OffscreenSound, Scene, Source, open_stream

Samples = NDArray[np.float32]  # (S,)
Times = NDArray[np.float64]  # (S,)

MIN_SAMPLE_RATE_HZ = 8000
TABLE_SIZE = 4096
"""Steps of one stored cycle of a waveform: the step error lies 70 dB below the tone."""
NUM_HARMONICS = 14
BELL_PARTIALS = ((1.0, 1.0), (2.76, 0.7), (5.4, 0.4))
"""Frequency (in pitches) and amplitude of the partials of a struck bar."""
STROKES_HZ = 7.0
"""How often a plucked string is struck while it sounds."""


def render_samples(scene: Scene, sample_rate_hz: int = 44100) -> Samples:
    """Sound the whole scene.

    Args:
        scene: What to sound.
        sample_rate_hz: Sampling rate, at least 8000.

    Returns:
        Mono samples in [-1, 1], float32, shape (S,) with S = 10 s of samples.

    Raises:
        ValueError: If the sampling rate is too low.
    """
    if sample_rate_hz < MIN_SAMPLE_RATE_HZ:
        raise ValueError(f"sample_rate_hz must be at least {MIN_SAMPLE_RATE_HZ}, got {sample_rate_hz}")
    rng = open_stream(scene.seed, scene.split, scene.index, purpose="noise")
    times = np.arange(round(SCENE_SECONDS * sample_rate_hz), dtype=np.float64) / sample_rate_hz
    mix = _sound_floor(scene, times, rng)
    for source in scene.sources:
        wave = _sound_source(source, times, sample_rate_hz, rng)
        mix += np.float32(to_amplitude(source.loudness_db)) * wave * source.envelope(times)
    for event in scene.nuisance.offscreen:
        _add_offscreen(mix, event, sample_rate_hz)
    mix *= np.float32(to_amplitude(scene.nuisance.gain_db))
    return np.clip(mix, -1.0, 1.0)


def to_amplitude(level_db: float) -> float:
    """Turn decibels into an amplitude factor: -20 dB → 0.1."""
    return float(10.0 ** (level_db / 20.0))


def _sound_source(source: Source, times: Times, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """Sound an object without its pulse, at an RMS of 1."""
    match source.timbre:
        case "sine":
            wave = _play_harmonics(source.pitch_hz, [1.0], times, sample_rate_hz)
        case "hollow":
            odd = [(n % 2) / n for n in range(1, NUM_HARMONICS)]
            wave = _play_harmonics(source.pitch_hz, odd, times, sample_rate_hz)
        case "saw":
            every = [1 / n for n in range(1, NUM_HARMONICS)]
            wave = _play_harmonics(source.pitch_hz, every, times, sample_rate_hz)
        case "bell":
            wave = np.zeros(len(times), dtype=np.float32)
            for ratio, amplitude in BELL_PARTIALS:
                wave += np.float32(amplitude) * _play_harmonics(
                    source.pitch_hz * ratio, [1.0], times, sample_rate_hz
                )
        case "breath":
            wave = _blow(source.pitch_hz, times, sample_rate_hz, rng)
        case "pluck":
            every = [1 / n for n in range(1, NUM_HARMONICS)]
            wave = _play_harmonics(source.pitch_hz, every, times, sample_rate_hz)
            wave *= np.exp(-5.0 * (times * STROKES_HZ % 1.0)).astype(np.float32)
    root_mean_square = math.sqrt(float(np.mean(wave * wave)))
    return wave / np.float32(root_mean_square)


def _play_harmonics(pitch_hz: float, amplitudes: list[float], times: Times, sample_rate_hz: int) -> Samples:
    """Play a sum of harmonics from a stored cycle, leaving out those the sampling rate cannot carry."""
    cycle = np.arange(TABLE_SIZE) * (2 * math.pi / TABLE_SIZE)
    table = np.zeros(TABLE_SIZE)
    for number, amplitude in enumerate(amplitudes, start=1):
        if number * pitch_hz < 0.45 * sample_rate_hz:
            table += amplitude * np.sin(number * cycle)
    steps = (times * (pitch_hz * TABLE_SIZE)).astype(np.int64) & (TABLE_SIZE - 1)
    played: Samples = table.astype(np.float32)[steps]
    return played


def _blow(pitch_hz: float, times: Times, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """Play noise in a band around the pitch, with a breath of wide noise."""
    wave = rng.standard_normal(len(times), dtype=np.float32) * np.float32(0.12)
    for quarter in (0.0, 0.25):
        slow = _draw_slow_noise(0.4 * pitch_hz, times, rng)
        wave += slow * _play_harmonics_from(pitch_hz, quarter, times)
    return wave


def _play_harmonics_from(pitch_hz: float, phase: float, times: Times) -> Samples:
    angle = (times * pitch_hz + phase) % 1.0 * (2 * math.pi)
    return np.sin(angle.astype(np.float32))


def _draw_slow_noise(rate_hz: float, times: Times, rng: np.random.Generator) -> Samples:
    """Draw noise that changes direction `rate_hz` times a second, RMS near 1."""
    knots = rng.standard_normal(math.ceil(SCENE_SECONDS * rate_hz) + 2)
    return np.interp(times * rate_hz, np.arange(len(knots)), knots).astype(np.float32)


def _sound_floor(scene: Scene, times: Times, rng: np.random.Generator) -> Samples:
    """Sound hum and noise, which are in every scene."""
    nuisance = scene.nuisance
    white = rng.standard_normal(len(times), dtype=np.float32)
    slow = _draw_slow_noise(1500.0, times, rng)
    floor = np.float32(to_amplitude(nuisance.noise_db)) * (
        np.float32(1.0 - nuisance.noise_colour) * white + np.float32(nuisance.noise_colour) * slow
    )
    hum = _play_harmonics_from(nuisance.hum_hz, 0.0, times)
    hum += np.float32(0.5) * _play_harmonics_from(2 * nuisance.hum_hz, 0.1, times)
    return floor + np.float32(to_amplitude(nuisance.hum_db)) * hum


def _add_offscreen(mix: Samples, event: OffscreenSound, sample_rate_hz: int) -> None:
    """Add a short gliding tone, faded in and out."""
    start = round(event.start_seconds * sample_rate_hz)
    num_samples = min(round(event.duration_seconds * sample_rate_hz), len(mix) - start)
    part = np.linspace(0.0, 1.0, num_samples)
    pitch_hz = event.from_hz * (min(event.to_hz, 0.45 * sample_rate_hz) / event.from_hz) ** part
    angle = np.cumsum(pitch_hz) / sample_rate_hz % 1.0 * (2 * math.pi)
    tone = np.sin(angle) * np.sin(math.pi * part) * (2.0 * to_amplitude(event.level_db))
    mix[start : start + num_samples] += tone.astype(np.float32)
