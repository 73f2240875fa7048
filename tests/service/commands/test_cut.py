"""`foley cut`: stretches of files and of assets, damaged files in the sandbox, and nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from models.media.clip import UnreadableClip
from models.media.cut import Segment, cut_segment
from models.media.wave import write_wave
from service.cli import app
from service.decode.decoder import Decoder
from service.decode.lane import DecodeFailure
from service.system.settings import Settings
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media
from tests.support.serving import find_free_port


def test_a_stretch_of_a_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, output = tmp_path / "rain.wav", tmp_path / "gust.wav"
    samples = np.arange(48_000, dtype=np.int16)[:, None]
    source.write_bytes(write_wave(samples, 48_000, time_reference=7))
    runner = CliRunner()
    asked = ["cut", str(source), "--start", "0.25", "--end", "0.5"]
    done = runner.invoke(app, [*asked, "-o", str(output), "--moment", "0.4"])
    assert done.exit_code == 0, done.output
    with av.open(str(output)) as container:
        assert container.metadata["time_reference"] == str(7 + 12_000)
        found = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(found, samples[12_000:24_000, 0])
    before = output.read_bytes()
    for wrong, said in (
        ([*asked, "-o", str(output)], "exists"),
        ([*asked, "-o", str(tmp_path / "gust.mp4")], "must end in .wav"),
        ([*asked, "--modality", "video"], "no_stream"),
        (["cut", str(source), "--start", "4", "--end", "5"], "invalid_parameter"),
    ):
        result = runner.invoke(app, wrong)
        assert result.exit_code == 1
        assert said in result.output
    assert runner.invoke(app, ["cut", str(source), "--start", "1", "--end", "1"]).exit_code == 2
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gust.wav", "rain.wav"]


def test_damaged_files_cost_an_error_at_most(tmp_path: Path) -> None:
    tone = AudioTrack(samples=make_tone(2, 48_000, [440]), layout="mono")
    whole = [
        write_media(tmp_path / "a.mp4", video=VideoTrack(times=every(2, 25)), audio=tone),
        write_media(tmp_path / "a.mkv", video=VideoTrack(times=every(2, 25)), audio=tone),
    ]
    generator = np.random.default_rng(3)
    with Decoder(num_workers=1) as decoder:
        for path in whole:
            for is_exact in (False, True):
                found = decoder.read(path, cut_segment, 30, 0.5, 1.5, exact=is_exact)
                assert isinstance(found, Segment)
                assert found.is_copy != is_exact
            for number in range(6):
                content = np.frombuffer(path.read_bytes(), np.uint8).copy()
                content[generator.integers(0, len(content), 60)] = generator.integers(0, 256, 60)
                damaged = path.with_stem(f"damaged{number}")
                damaged.write_bytes(content.tobytes())
                # A bug of ours would be one of the decoder's failures too.
                assert "failed: " not in try_to_cut(decoder, damaged, exact=number > 2)


def try_to_cut(decoder: Decoder, path: Path, *, exact: bool) -> str:
    """What is wrong with a file, or nothing."""
    try:
        assert isinstance(decoder.read(path, cut_segment, 30, 0.5, 1.5, exact=exact), Segment)
    except (UnreadableClip, DecodeFailure) as exc:
        return str(exc)
    return ""


def test_a_stretch_of_an_asset(
    indexed_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(indexed_settings.data, data, ignore=shutil.ignore_patterns("lock"))
    for name, value in {"DATA": data, "PORT": find_free_port(), "MIN_FREE_BYTES": 0}.items():
        monkeypatch.setenv(f"FOLEY_{name}", str(value))
    output = tmp_path / "out.wav"
    runner = CliRunner()
    assets = json.loads(runner.invoke(app, ["assets", "--json"]).stdout)["assets"]
    asset = next(asset for asset in assets if asset["media"]["sample_rate_hz"])
    times = ["--start", "0.1", "--end", "0.3", "-o", str(output)]
    done = runner.invoke(app, ["cut", asset["asset_id"], *times, "--modality", "audio"])
    assert done.exit_code == 0, done.output
    with av.open(str(output)) as found, av.open(asset["path"]) as source:
        assert found.streams.audio[0].rate == source.streams.audio[0].rate
        assert found.streams.audio[0].duration == round(0.2 * found.streams.audio[0].rate)
    unknown = runner.invoke(app, ["cut", "0" * 64, *times, "--modality", "audio"])
    assert unknown.exit_code == 1
    assert "is no file" in unknown.output
