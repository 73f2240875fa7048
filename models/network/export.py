"""Network to bundle: export both graphs, compare them with torch on clips, refuse when they disagree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from models.bundle.bundle import (
    AUDIO_GRAPH,
    GOLDEN,
    MANIFEST,
    VIDEO_GRAPH,
    Bundle,
    Manifest,
    check_name,
    describe_file,
    load_bundle,
    sound_inputs,
)
from models.cores import num_cores
from models.inference import onnxruntime
from models.media.clip import Clip, ClipSpec
from models.network.tgdp import Tgdp

OPSET = 20
MAX_DIFFERENCE = 1e-4
"""Largest difference of any number of a track between ONNX Runtime and torch."""


class GraphsDisagree(ValueError):
    """ONNX Runtime and torch give different tracks for one clip."""


class AudioGraph(nn.Module):
    """The audio encoder from samples to tracks, the part of the network that is exported as audio.onnx.

    Args:
        network: The whole network.
    """

    def __init__(self, network: Tgdp) -> None:
        super().__init__()
        self.network = network

    def forward(self, samples: Tensor, lengths: Tensor, heard: Tensor) -> Tensor:
        """Embed a padded batch (see `Tgdp.audio_track`).

        Args:
            samples: float32, shape (B, S).
            lengths: int64, shape (B,).
            heard: int64, shape (B,).

        Returns:
            float32, shape (B, T, D).
        """
        return self.network.audio_track(samples, lengths, heard)


class VideoGraph(nn.Module):
    """The video encoder from frames to tracks, exported as video.onnx.

    Args:
        network: The whole network.
    """

    def __init__(self, network: Tgdp) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """Embed a batch (see `Tgdp.video_track`).

        Args:
            frames: uint8, shape (B, T, H, W, 3).

        Returns:
            float32, shape (B, T, D).
        """
        return self.network.video_track(frames)


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Both tracks of one clip, float32, shape (T, D) each."""

    audio: NDArray[np.float32]
    video: NDArray[np.float32]


def export_bundle(
    network: Tgdp,
    output: Path,
    *,
    name: str,
    clips: Sequence[Clip],
    training: dict[str, Any],
    on_step: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write a bundle beside its place, check it there, and move it into place in one step.

    Args:
        network: The trained network.
        output: Folder of the bundle; must not exist.
        name: Name of the bundle.
        clips: Clips with picture and sound; the first becomes the golden clip.
        training: JSON values that say how the network was made.
        on_step: Called with what is done next, for people.

    Returns:
        The bundle as it will be loaded.

    Raises:
        BrokenBundle: If no bundle can have that name.
        FileExistsError: If there is something at `output`.
        GraphsDisagree: If ONNX Runtime and torch differ by more than 1e-4 on one of the clips.
        ValueError: If no clip has both modalities, or the network embeds one as nothing.
    """  # noqa: DOC503 - `compare` raises one
    check_name(name)  # the manifest would, but after minutes
    if output.exists():
        raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
    pairs = [clip for clip in clips if clip.frames is not None and clip.samples is not None]
    if not pairs:
        raise ValueError("export needs at least one real clip with both picture and sound")
    network = network.float().cpu().eval()
    expected = []
    for number, clip in enumerate(pairs, start=1):
        on_step(f"torch embeds clip {number} of {len(pairs)}")
        expected.append(torch_tracks(network, clip))
    check_lengths(expected)

    folder = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        on_step("exporting the graph of the sound")
        write_audio_graph(network, folder / AUDIO_GRAPH)
        on_step("exporting the graph of the picture")
        write_video_graph(network, folder / VIDEO_GRAPH)
        agreement = compare(folder, pairs, expected, on_step=on_step)
        on_step("writing the bundle")
        np.savez_compressed(
            folder / GOLDEN,
            samples=_array(pairs[0].samples),
            num_heard=pairs[0].num_heard,
            frames=_array(pairs[0].frames),
            audio_track=expected[0].audio,
            video_track=expected[0].video,
        )
        config = network.config
        manifest = Manifest(
            name=name,
            tracks=dict.fromkeys(("audio", "video"), (config.num_moments, config.width)),
            clip_spec=ClipSpec(num_moments=config.num_moments, frame_size=config.frame_size),
            opset=OPSET,
            network=config.to_json(),
            training=training,
            agreement=agreement,
            files={file: describe_file(folder / file) for file in (AUDIO_GRAPH, VIDEO_GRAPH, GOLDEN)},
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        load_bundle(folder)
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_bundle(output)


@torch.no_grad()
def torch_tracks(network: Tgdp, clip: Clip) -> Tracks:
    """Embed one clip with the torch network.

    Args:
        network: In evaluation mode, on the CPU.
        clip: With both modalities.

    Returns:
        Its tracks.
    """
    samples = torch.from_numpy(_array(clip.samples))[None]
    audio = network.audio_track(samples, torch.tensor([samples.shape[1]]), torch.tensor([clip.num_heard]))
    video = network.video_track(torch.from_numpy(_array(clip.frames))[None])
    return Tracks(audio=audio[0].numpy(), video=video[0].numpy())


def check_lengths(tracks: Sequence[Tracks]) -> None:
    """Refuse a network that embeds nothing, as weights that are zero do.

    Args:
        tracks: Of the clips it is exported with.

    Raises:
        ValueError: If an embedding is not of length 1.
    """
    for track in (track for both in tracks for track in (both.audio, both.video)):
        lengths = np.linalg.norm(track, axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            raise ValueError(
                f"the network gives embeddings of length {lengths.min():.3g}, not 1; is it trained?"
            )


def write_audio_graph(network: Tgdp, path: Path) -> None:
    """Export the audio encoder with dynamic batch and length.

    Args:
        network: In evaluation mode, on the CPU.
        path: File to write.
    """
    batch, length = Dim("batch", min=1, max=4096), Dim("length", min=1, max=10_000_000)
    _export(
        AudioGraph(network),
        (torch.zeros(2, 160_000), torch.tensor([160_000, 8_000]), torch.tensor([150_000, 8_000])),
        path,
        inputs=["samples", "lengths", "heard"],
        dynamic_shapes={"samples": {0: batch, 1: length}, "lengths": {0: batch}, "heard": {0: batch}},
    )


def write_video_graph(network: Tgdp, path: Path) -> None:
    """Export the video encoder with dynamic batch.

    Args:
        network: In evaluation mode, on the CPU.
        path: File to write.
    """
    side, moments = network.config.frame_size, network.config.num_moments
    _export(
        VideoGraph(network),
        (torch.zeros(2, moments, side, side, 3, dtype=torch.uint8),),
        path,
        inputs=["frames"],
        dynamic_shapes={"frames": {0: Dim("batch", min=1, max=4096)}},
    )


def _export(
    graph: nn.Module, example: tuple[Tensor, ...], path: Path, *, inputs: list[str], dynamic_shapes: Any
) -> None:
    torch.onnx.export(
        graph.eval().requires_grad_(False),  # a tenth less work for the exporter
        example,
        path,
        input_names=inputs,
        output_names=["tracks"],
        dynamic_shapes=dynamic_shapes,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    strip_metadata(path)


def strip_metadata(path: Path) -> None:
    """Remove what the exporter notes about the source code: stack traces with paths, module names.

    Args:
        path: ONNX file, rewritten in place.
    """
    model = onnx.load(path)
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.save(model, path)


def open_graphs(folder: Path) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Load both graphs of a bundle on the CPU.

    Args:
        folder: Where they are.

    Returns:
        Sessions of the audio and the video encoder.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    providers = ["CPUExecutionProvider"]
    return (
        onnxruntime.InferenceSession(folder / AUDIO_GRAPH, options, providers=providers),
        onnxruntime.InferenceSession(folder / VIDEO_GRAPH, options, providers=providers),
    )


def graph_tracks(
    audio: onnxruntime.InferenceSession, video: onnxruntime.InferenceSession, clip: Clip
) -> Tracks:
    """Embed one clip with the exported graphs.

    Args:
        audio: Session of the audio encoder.
        video: Session of the video encoder.
        clip: With both modalities.

    Returns:
        Its tracks.
    """
    samples = _array(clip.samples)[None]
    lengths, heard = np.array([samples.shape[1]]), np.array([clip.num_heard])
    names = [given.name for given in audio.get_inputs()]
    return Tracks(
        audio=audio.run(None, sound_inputs(names, samples, lengths, heard))[0][0],
        video=video.run(None, {"frames": _array(clip.frames)[None]})[0][0],
    )


def compare(
    folder: Path,
    clips: Sequence[Clip],
    expected: Sequence[Tracks],
    *,
    on_step: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Run the exported graphs on clips and measure how far they are from torch.

    Args:
        folder: Where the graphs are.
        clips: Clips with both modalities.
        expected: Tracks that torch gave for them.
        on_step: Called with what is done next, for people.

    Returns:
        Largest absolute difference by graph.

    Raises:
        GraphsDisagree: If one is above 1e-4 or not a number.
    """
    sessions = open_graphs(folder)
    worst = {"audio": 0.0, "video": 0.0}
    for number, (clip, tracks) in enumerate(zip(clips, expected, strict=True), start=1):
        on_step(f"ONNX Runtime embeds clip {number} of {len(clips)}")
        given = graph_tracks(*sessions, clip)
        for modality, found, wanted in (
            ("audio", given.audio, tracks.audio),
            ("video", given.video, tracks.video),
        ):
            difference = float(np.abs(found - wanted).max())
            if not difference <= MAX_DIFFERENCE:
                raise GraphsDisagree(
                    f"{modality} graph differs from torch by {difference:.2e}, allowed {MAX_DIFFERENCE:.0e}"
                )
            worst[modality] = max(worst[modality], difference)
    return worst


def _array(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None, "clips with a missing modality were left out above"
    return values
