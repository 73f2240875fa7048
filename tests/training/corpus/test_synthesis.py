"""The corpus is what it says: shared factors measured in pixels and samples, real files, all from a seed."""

from __future__ import annotations

import colorsys
import dataclasses
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from training.cli import app
from training.corpus import synthesis
from training.corpus.labels import CorpusMismatch, LabelRow, read_labels, write_labels
from training.corpus.picture import OUTLINES, render_frames
from training.corpus.scene import (
    LOUDNESS_RANGE_DB,
    MAX_HUE,
    PITCH_RANGE_HZ,
    RATE_RANGE_HZ,
    SHAPES,
    BadScene,
    Nuisance,
    Scene,
    Source,
    Split,
    Timbre,
    open_stream,
    sample_scene,
)
from training.corpus.sound import render_samples
from training.corpus.synthesis import write_corpus

RATE_HZ = 16000
QUIET = Nuisance(
    drift=(0.0, 0.0),
    brightness=1.0,
    gain_db=0.0,
    hum_hz=50.0,
    hum_db=-120.0,
    noise_db=-120.0,
    noise_colour=0.0,
    distractors=(),
    offscreen=(),
)


def make_source(**changes: object) -> Source:
    plain = Source(
        timbre="sine",
        pitch_hz=400.0,
        loudness_db=-20.0,
        rate_hz=0.0,
        phase=0.0,
        motion="flash",
        x=0.5,
        tilt_radians=0.0,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def make_scene(*sources: Source, nuisance: Nuisance = QUIET) -> Scene:
    return Scene(seed=1, split="train", index=0, sources=sources, nuisance=nuisance)


def find_object(frame: np.ndarray) -> np.ndarray:
    """Mark the saturated pixels: only sounding objects are (backdrops stay below 0.4)."""
    high, low = frame.max(axis=2).astype(float), frame.min(axis=2).astype(float)
    return (high - low) / np.maximum(high, 1.0) > 0.7


def measure_hue(frame: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(frame[find_object(frame)].mean(axis=0) / 255.0))[0]


def measure_envelope(samples: np.ndarray, *, width: int) -> np.ndarray:
    return np.sqrt((samples.reshape(-1, width) ** 2).mean(axis=1))


# Seeds and splits


def test_a_scene_depends_on_its_three_numbers_only():
    assert sample_scene(3, "train", 17) == sample_scene(3, "train", 17)
    others = [sample_scene(4, "train", 17), sample_scene(3, "heldout", 17), sample_scene(3, "train", 18)]
    assert all(other.sources != sample_scene(3, "train", 17).sources for other in others)


def test_renders_are_equal_bit_for_bit():
    scene = sample_scene(5, "demo", 2)
    times = np.arange(16) * 0.625
    np.testing.assert_array_equal(render_frames(scene, times, 64), render_frames(scene, times, 64))
    np.testing.assert_array_equal(render_samples(scene, RATE_HZ), render_samples(scene, RATE_HZ))


def test_splits_never_meet_whatever_the_seed():
    pitches: dict[float, tuple[int, str, int]] = {}
    for split in get_args(Split):
        for seed in (0, 1, 2, 2**32 - 1):
            for index in range(60):
                for source in sample_scene(seed, split, index).sources:
                    assert source.pitch_hz not in pitches, (pitches[source.pitch_hz], (seed, split, index))
                    pitches[source.pitch_hz] = (seed, split, index)


@pytest.mark.parametrize(
    ("seed", "split", "index", "words"),
    [
        (-1, "train", 0, r"seed must be within \[0, 4294967296\), got -1"),
        (0, "train", 2**32, r"index must be within \[0, 4294967296\), got 4294967296"),
        (0, "test", 0, "split must be one of train, heldout, demo, got 'test'"),
    ],
)
def test_entropy_that_could_run_together_is_refused(seed, split, index, words):
    with pytest.raises(BadScene, match=words):
        open_stream(seed, split, index, purpose="factors")


def test_a_source_out_of_range_is_refused():
    with pytest.raises(BadScene, match=r"pitch_hz must be within \[150, 1800\], got 20"):
        make_source(pitch_hz=20.0)
    with pytest.raises(BadScene, match="1 or 2 sources, got 0"):
        make_scene()


def test_scenes_use_the_whole_range():
    sources = [source for index in range(400) for source in sample_scene(0, "train", index).sources]
    fractions = np.array([source.pitch_fraction for source in sources])
    assert fractions.min() < 0.02
    assert fractions.max() > 0.98
    assert {source.timbre for source in sources} == set(get_args(Timbre))
    assert 0.15 < np.mean([source.rate_hz == 0.0 for source in sources]) < 0.35
    rates = np.array([source.rate_hz for source in sources if source.rate_hz > 0.0])
    assert rates.min() >= RATE_RANGE_HZ[0]
    assert rates.max() <= RATE_RANGE_HZ[1]
    assert 500 < len(sources) < 700  # of 400 scenes, about half with two


def test_two_sources_differ_and_stand_apart():
    pairs = [
        scene.sources for index in range(300) if len((scene := sample_scene(2, "train", index)).sources) == 2
    ]
    for first, second in pairs:
        assert first.timbre != second.timbre
        assert first.loudness_db >= second.loudness_db
        assert abs(first.x - second.x) >= 0.28
        assert abs(first.pitch_fraction - second.pitch_fraction) > 0.1


# Factors that ear and eye share


@pytest.mark.parametrize("pitch_hz", [160.0, 300.0, 520.0, 900.0, 1700.0])
def test_pitch_is_height_and_hue(pitch_hz):
    scene = make_scene(make_source(pitch_hz=pitch_hz))
    frame = render_frames(scene, [1.0])[0]
    fraction = math.log(pitch_hz / PITCH_RANGE_HZ[0]) / math.log(PITCH_RANGE_HZ[1] / PITCH_RANGE_HZ[0])
    rows, _ = np.nonzero(find_object(frame))
    assert (rows.mean() + 0.5) / 224 == pytest.approx(0.8 - 0.6 * fraction, abs=0.005)  # one pixel
    assert measure_hue(frame) == pytest.approx(MAX_HUE * fraction, abs=0.01)
    spectrum = np.abs(np.fft.rfft(render_samples(scene, RATE_HZ)))
    assert spectrum.argmax() / 10.0 == pytest.approx(pitch_hz, abs=0.1)  # bins are 0.1 Hz wide


@pytest.mark.parametrize("timbre", get_args(Timbre))
@pytest.mark.parametrize("loudness_db", LOUDNESS_RANGE_DB)
def test_loudness_is_level_and_size(timbre, loudness_db):
    scene = make_scene(make_source(timbre=timbre, loudness_db=loudness_db))
    level_db = 20 * math.log10(math.sqrt(np.mean(render_samples(scene, RATE_HZ).astype(float) ** 2)))
    assert level_db == pytest.approx(loudness_db, abs=0.05)
    area = find_object(render_frames(scene, [0.0])[0]).mean()
    radius = 0.09 if loudness_db == LOUDNESS_RANGE_DB[0] else 0.21
    assert 1.3 < area / radius**2 < 3.6  # a disc has π · 0.95²


@pytest.mark.parametrize("motion", ["flash", "swell"])
@pytest.mark.parametrize("timbre", get_args(Timbre))
def test_picture_and_sound_pulse_together(motion, timbre):
    source = make_source(timbre=timbre, rate_hz=0.83, phase=0.37, motion=motion)
    scene = make_scene(source)
    heard = measure_envelope(render_samples(scene, RATE_HZ), width=RATE_HZ // 8)  # (80,)
    frames = render_frames(scene, (np.arange(80) + 0.5) / 8, 64).astype(float)
    marks = np.array([find_object(frame) for frame in frames])
    seen = (frames.max(axis=3) * marks).sum(axis=(1, 2))  # light of the object
    assert np.corrcoef(heard, seen)[0, 1] > 0.9


def test_the_envelope_is_on_in_the_first_half_of_each_pulse():
    source = make_source(rate_hz=0.5, phase=0.0)
    np.testing.assert_array_equal(source.envelope([0.1, 0.9, 1.1, 1.9, 2.1]), [1, 1, 0, 0, 1])
    np.testing.assert_allclose(source.envelope([0.0, 1.0, 2.0]), 0.5, atol=1e-3)
    np.testing.assert_array_equal(make_source().envelope([0.0, 3.0]), [1, 1])


def test_timbres_are_told_apart_in_the_band_the_model_hears():
    """Third or second harmonic, inharmonic partial, width, strokes: each timbre has its own mark."""
    shares = {}
    for timbre in get_args(Timbre):
        power = np.abs(np.fft.rfft(render_samples(make_scene(make_source(timbre=timbre)), RATE_HZ))) ** 2
        bands = [
            power[round(ratio * 4000) - 100 : round(ratio * 4000) + 100].sum() for ratio in (1, 2, 2.76, 3)
        ]
        shares[timbre] = np.array(bands) / power.sum()
    assert shares["sine"][0] > 0.99
    assert shares["hollow"][3] > 0.05 > shares["hollow"][1]
    assert shares["saw"][1] > 0.1
    assert shares["bell"][2] > 0.2
    assert shares["breath"][0] < 0.6
    strokes = measure_envelope(render_samples(make_scene(make_source(timbre="pluck")), RATE_HZ), width=160)
    assert strokes.max() / strokes.min() > 20


def test_shapes_are_six_different_silhouettes():
    assert set(SHAPES.values()) == set(OUTLINES)
    marks = [
        find_object(render_frames(make_scene(make_source(timbre=timbre, pitch_hz=520.0)), [0.0])[0])
        for timbre in get_args(Timbre)
    ]
    for number, one in enumerate(marks):
        for other in marks[number + 1 :]:
            assert (one & other).sum() / (one | other).sum() < 0.85


# Nuisance


def test_nuisance_is_drawn_apart_from_the_factors():
    scenes = [sample_scene(7, "train", index) for index in range(600)]
    factors = np.array(
        [[s.sources[0].pitch_fraction, s.sources[0].loudness_db, len(s.sources)] for s in scenes]
    )
    rest = np.array(
        [
            [n.gain_db, n.brightness, n.hum_db, n.noise_db, len(n.distractors), len(n.offscreen)]
            for n in (s.nuisance for s in scenes)
        ]
    )
    correlations = np.corrcoef(factors.T, rest.T)[:3, 3:]
    assert np.abs(correlations).max() < 0.15  # 600 scenes: standard error 0.04


def test_nuisance_is_seen_and_heard_but_stays_below_the_objects():
    for index in range(12):
        scene = sample_scene(8, "train", index)
        frame = render_frames(scene, [5.0])[0]
        far = np.ones(frame.shape[:2], dtype=bool)
        for source in scene.sources:
            down, across = np.mgrid[0:224, 0:224] / 224
            far &= np.hypot(down - source.y, across - source.x) > 1.35 * source.radius
        assert not find_object(frame)[far].any()
        assert frame[far].std() > 1.0
        floor = dataclasses.replace(scene, sources=(make_source(loudness_db=-34.0, pitch_hz=1800.0),))
        alone = dataclasses.replace(floor, nuisance=QUIET)
        difference = render_samples(floor, RATE_HZ) - render_samples(alone, RATE_HZ)
        assert 0.0005 < np.sqrt(np.mean(difference**2)) < 0.02  # the quietest object has 0.02


# Rendering


@pytest.mark.parametrize(("size", "count"), [(16, 1), (64, 3), (225, 2)])
def test_frames_have_the_shape_asked_for(size, count):
    frames = render_frames(sample_scene(0, "train", 0), np.linspace(0, 9.9, count), size)
    assert frames.shape == (count, size, size, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("sample_rate_hz", [8000, 16000, 48000])
def test_samples_are_ten_seconds_within_full_scale(sample_rate_hz):
    samples = render_samples(sample_scene(0, "train", 3), sample_rate_hz)
    assert samples.shape == (10 * sample_rate_hz,)
    assert samples.dtype == np.float32
    assert 0.01 < np.abs(samples).max() < 1.0


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="size must be at least 16 pixels, got 4"):
        render_frames(sample_scene(0, "train", 0), [0.0], 4)
    with pytest.raises(ValueError, match="sample_rate_hz must be at least 8000, got 100"):
        render_samples(sample_scene(0, "train", 0), 100)


# Files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, list[LabelRow]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_corpus(folder, num_scenes=6, seed=11, split="demo", separate_fraction=0.5)


def decode(path: Path) -> tuple[dict[str, str], list[np.ndarray], list[float], np.ndarray, float]:
    with av.open(str(path)) as container:
        codecs = {stream.type: stream.codec_context.name for stream in container.streams}
        frames, times, samples = [], [], []
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(float(frame.time))
            else:
                samples.append(frame.to_ndarray()[0])
        seconds = container.duration / av.time_base
    return codecs, frames, times, np.concatenate(samples) if samples else np.empty(0), seconds


def test_files_decode_to_what_was_rendered(corpus):
    folder, rows = corpus
    assert {row.streams for row in rows} == {"audio+video", "audio", "video"}
    for row in rows:
        codecs, frames, times, samples, seconds = decode(folder / row.file)
        assert seconds == pytest.approx(row.duration_seconds, abs=0.125)
        scene = sample_scene(row.seed, row.split, row.scene)
        if "video" in row.streams:
            assert codecs["video"] == "h264"
            assert times == [number / 8 for number in range(80)]
            wanted = render_frames(scene, [5.0])[0]
            assert np.abs(frames[40].astype(int) - wanted).mean() < 6  # of 255: what H.264 and 4:2:0 cost
        if "audio" in row.streams:
            assert codecs["audio"] == "aac"
            wanted = render_samples(scene)
            assert np.corrcoef(samples[: len(wanted)], wanted)[0, 1] > 0.98
        assert set(codecs) == set(row.streams.split("+"))


def test_files_begin_with_their_index(corpus):
    folder, rows = corpus
    data = (folder / rows[0].file).read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_labels_come_back_as_they_were_written(corpus):
    folder, rows = corpus
    assert read_labels(folder / "labels.csv") == rows
    assert sorted(row.file for row in rows) == sorted(
        path.name for path in folder.iterdir() if path.suffix != ".csv"
    )
    for row in rows:
        scene = sample_scene(row.seed, row.split, row.scene)
        assert [source.pitch_hz for source in row.sources] == [source.pitch_hz for source in scene.sources]
        assert [source.shape for source in row.sources] == [SHAPES[source.timbre] for source in scene.sources]
    halves = [(one, two) for one, two in pairwise(rows) if one.scene == two.scene]
    assert halves
    assert all((one.streams, two.streams) == ("video", "audio") for one, two in halves)


@pytest.mark.process
def test_the_same_arguments_make_the_same_bytes_in_any_number_of_processes(corpus, tmp_path, monkeypatch):
    folder, rows = corpus
    monkeypatch.setenv(
        "MALLOC_PERTURB_", "170"
    )  # glibc fills fresh memory: nothing may depend on what was there
    seen: list[tuple[int, int]] = []
    again = write_corpus(
        tmp_path,
        num_scenes=6,
        seed=11,
        split="demo",
        separate_fraction=0.5,
        num_workers=2,
        on_progress=lambda done, wanted: seen.append((done, wanted)),
    )
    assert again == rows
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_corpus_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write_corpus(tmp_path, num_scenes=2, seed=0, split="train")
    (tmp_path / "0001.mp4").unlink()
    before = (tmp_path / "0000.mp4").stat().st_mtime_ns
    made = []
    write_scene = synthesis.write_scene
    monkeypatch.setattr(
        synthesis, "write_scene", lambda *a, **k: (made.append(a[1].index), write_scene(*a, **k))
    )
    rows = write_corpus(tmp_path, num_scenes=3, seed=0, split="train")
    assert made == [1, 2]
    assert (tmp_path / "0000.mp4").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0000.mp4",
        "0001.mp4",
        "0002.mp4",
        "labels.csv",
    ]
    assert read_labels(tmp_path / "labels.csv") == rows


def test_two_corpora_are_never_mixed(corpus):
    folder, _ = corpus
    with pytest.raises(
        CorpusMismatch, match=r"already holds 0000.* of seed 11, split demo; asked for .* split train"
    ):
        write_corpus(folder, num_scenes=6, seed=11, split="train", separate_fraction=0.5)


def test_a_write_that_fails_leaves_nothing_half_done(tmp_path, monkeypatch):
    def fill_the_disk(path: Path, **_: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthesis, "write_media", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_corpus(tmp_path, num_scenes=1, seed=0, split="train")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_numbers_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"separate_fraction within \[0, 1\], got 1, 1 and 1.5"):
        write_corpus(tmp_path, num_scenes=1, seed=0, split="train", separate_fraction=1.5)


def test_a_file_that_is_not_labels_is_refused(corpus, tmp_path):
    _, rows = corpus
    path = tmp_path / "labels.csv"
    path.write_text("file,scene\n0000.mp4,0\n")
    with pytest.raises(CorpusMismatch, match="not a label file of a synthetic corpus"):
        read_labels(path)
    write_labels(path, rows[:1])
    path.write_text(path.read_text().replace(rows[0].streams, "smell"))
    with pytest.raises(CorpusMismatch, match="streams must be one of"):
        read_labels(path)


def test_the_command_makes_a_corpus_and_says_so(tmp_path):
    done = CliRunner().invoke(
        app, ["synthesize", str(tmp_path / "corpus"), "--scenes", "1", "--split", "heldout"]
    )
    assert done.exit_code == 0, done.output
    assert [row.split for row in read_labels(tmp_path / "corpus" / "labels.csv")] == ["heldout"]
    done = CliRunner().invoke(
        app, ["synthesize", str(tmp_path / "corpus"), "--scenes", "1", "--split", "train"]
    )
    assert done.exit_code == 2
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["synthesize", str(tmp_path / "file"), "--scenes", "1"])
    assert done.exit_code == 2


def test_the_command_needs_no_torch():
    code = "import sys, training.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
