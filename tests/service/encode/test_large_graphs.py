"""A bundle whose numbers lie outside its graphs, as those above 2 GB have to, is read and converted as any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.bundle import files
from models.bundle.bundle import GRAPHS, MANIFEST, BrokenBundle, Bundle, cosines, load_bundle
from models.bundle.conversion import CONVERTERS, encode
from models.media.clip import Clip
from service.encode.agreement import REFERENCE
from service.encode.encoder import Encoder
from service.encode.engines.candidates import open_candidate
from service.encode.engines.contract import Graphs
from service.releases.adoption import adopt_bundle
from tests.support.bundles import copy_starter, rehash


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 1000)
    folder = copy_starter(tmp_path / "large")
    manifest = json.loads((folder / MANIFEST).read_text())
    for graph in GRAPHS.values():
        files.save_graph(onnx.load(folder / graph), folder / graph)
        manifest["files"][f"{graph}.data"] = {}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return load_bundle(rehash(folder))


def test_it_serves(large: Bundle) -> None:
    assert large.audio_graph.stat().st_size < 0.5 * (large.path / "audio.onnx.data").stat().st_size
    encoder = Encoder(large)
    assert encoder.check_golden() < 1e-4
    reference = open_candidate(REFERENCE, Graphs.of(large.manifest, large.path), encoder.options)
    golden = large.golden()
    np.testing.assert_allclose(reference.run_video(golden.frames[None])[0], golden.video_track, atol=1e-4)


def test_it_is_copied_whole(large: Bundle, tmp_path: Path) -> None:
    adopted = adopt_bundle(large, tmp_path / "adopted")
    assert {path.name for path in adopted.path.iterdir()} >= {"audio.onnx.data", "video.onnx.data"}
    (large.path / "audio.onnx.data").write_bytes(b"other")
    with pytest.raises(BrokenBundle, match=r"audio\.onnx\.data is not the file of the manifest"):
        load_bundle(large.path)


@pytest.mark.parametrize("precision", CONVERTERS)
def test_it_is_converted(large: Bundle, precision: str, tmp_path: Path) -> None:
    golden = large.golden()
    target = tmp_path / "video.onnx"
    CONVERTERS[precision](large.video_graph, target)
    assert target.with_name("video.onnx.data").exists()
    clip = Clip(
        start_seconds=0.0,
        end_seconds=10.0,
        frames=golden.frames,
        frame_times_seconds=np.zeros(16),
        samples=None,
    )
    found = encode(target, "video", [clip])
    assert cosines({"video": golden.video_track[None]}, {"video": found}).min() > 0.999
