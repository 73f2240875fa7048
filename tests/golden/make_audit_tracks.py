"""Record `audit_tracks.npz`: what the starter, and the same graphs with random weights, embed of synthetic scenes.

    PYTHONPATH=. python tests/golden/make_audit_tracks.py      # half a minute

33 files of one scene and three of three scenes, never seen in training; the sound of the last three also 10 s later.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.bundle.bundle import AUDIO_GRAPH, VIDEO_GRAPH, load_bundle, starter_path
from service.encode.encoder import Encoder
from tests.support.bundles import change_graph, copy_starter, record_golden, rehash
from training.corpus.picture import render_frames
from training.corpus.scene import sample_scene
from training.corpus.sound import render_samples

NUM_SHORT, NUM_LONG, RATE_HZ = 33, 3, 16_000


def scramble(model: onnx.ModelProto) -> None:
    """Draw every matrix anew, as large as it was."""
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim >= 2:
            drawn = (rng.standard_normal(values.shape) * values.std()).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))


def cut(sound: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Ten seconds each."""
    return list(sound.reshape(-1, 10 * RATE_HZ))


def main() -> None:
    """Record the tracks of both encoders."""
    with tempfile.TemporaryDirectory() as folder:
        target = copy_starter(Path(folder) / "random", name="random")
        for graph in (AUDIO_GRAPH, VIDEO_GRAPH):
            change_graph(target, graph, scramble)
        record_golden(target)
        rehash(target)
        encoders = {
            "starter": Encoder(load_bundle(starter_path()), device="cpu", num_threads=1),
            "random": Encoder(load_bundle(target), device="cpu", num_threads=1),
        }
        tracks: dict[str, NDArray[np.float16]] = {}
        scenes = (sample_scene(7, "heldout", index) for index in range(1000))
        times = np.arange(16) * 10 / 16
        for number in range(NUM_SHORT + NUM_LONG):
            length = 1 if number < NUM_SHORT else 3
            drawn = [next(scenes) for _ in range(length)]
            frames = [render_frames(scene, times, 224) for scene in drawn]
            sound = np.concatenate([render_samples(scene, RATE_HZ) for scene in drawn]).astype(np.float32)
            for name, encoder in encoders.items():
                if length > 1 and name == "random":
                    continue
                tracks[f"{name}/video/{number}"] = encoder.encode_video(frames).astype(np.float16)
                tracks[f"{name}/audio/{number}"] = encoder.encode_audio(cut(sound)).astype(np.float16)
                if length > 1:
                    late = np.roll(sound, 10 * RATE_HZ)
                    tracks[f"{name}/late/{number}"] = encoder.encode_audio(cut(late)).astype(np.float16)
        for name, encoder in encoders.items():
            silence = encoder.encode_audio([np.zeros(10 * RATE_HZ, np.float32)])
            tracks[f"{name}/silence"] = silence[0].astype(np.float16)
    np.savez_compressed(Path(__file__).parent / "audit_tracks.npz", **tracks)


if __name__ == "__main__":
    main()
