"""A frozen model that turns segments into tracks: a bundle on ONNX Runtime, a checkpoint on torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle.bundle import load_bundle, sound_inputs
from models.inference import onnxruntime
from models.network.export import open_graphs
from models.network.frontend import cut_windows, moment_starts
from models.network.graph_weights import recover_network
from models.network.tgdp import Tgdp
from training.checkpoint import load_checkpoint

Tracks = NDArray[np.float32]

SEGMENTS_ON_A_CPU, SEGMENTS_ON_A_GPU = 4, 32
"""Segments embedded together, of 27 pictures each. A GPU wants many; a CPU gains little and pays with memory."""


class NoSuchWeights(ValueError):
    """A choice of weights was given for a bundle, which has only one set."""


class Embedder(Protocol):
    """A frozen model."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def num_heads(self) -> int:
        """Attention heads of its encoder."""

    @property
    def batch_size(self) -> int:
        """Segments to embed together."""

    def embed(
        self,
        samples: NDArray[np.float32],
        lengths: NDArray[np.int64],
        heard: NDArray[np.int64],
        frames: NDArray[np.uint8],
    ) -> tuple[Tracks, Tracks]:
        """Embed a padded batch.

        Args:
            samples: Mono sound at 16 kHz, float32, shape (B, S).
            lengths: Samples of each row's segment, int64, shape (B,).
            heard: Samples until the sound of each row ends, int64, shape (B,).
            frames: uint8, shape (B, T, H, W, 3).

        Returns:
            Audio and video tracks, float32, shape (B, T, D) each.
        """


@dataclass(frozen=True)
class NetworkEmbedder:
    """The torch network, on whichever device it is.

    Attributes:
        name: What it is called in reports.
        network: In evaluation mode.
    """

    name: str
    network: Tgdp

    @property
    def num_heads(self) -> int:
        """Attention heads of its encoder."""
        return self.network.config.num_heads

    @cached_property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def batch_size(self) -> int:
        """Segments to embed together."""
        return SEGMENTS_ON_A_CPU if self.device.type == "cpu" else SEGMENTS_ON_A_GPU

    @torch.no_grad()
    def embed(
        self,
        samples: NDArray[np.float32],
        lengths: NDArray[np.int64],
        heard: NDArray[np.int64],
        frames: NDArray[np.uint8],
    ) -> tuple[Tracks, Tracks]:
        """Embed a padded batch; see `Embedder`."""
        sound, num_samples, num_heard, pictures = (
            torch.from_numpy(array).to(self.device) for array in (samples, lengths, heard, frames)
        )
        audio = self.network.audio_track(sound, num_samples, num_heard)
        video = self.network.video_track(pictures)
        return audio.float().cpu().numpy(), video.float().cpu().numpy()


@dataclass(frozen=True)
class PatchEmbedder(NetworkEmbedder):
    """The torch network without its last block and pooling: the patch tokens of a moment side by side in its row.

    Pictures and sound have as many patches; `num_tokens` says how many.
    """

    @property
    def num_tokens(self) -> int:
        """Patch tokens L of a moment of each modality: the fewer of both."""
        return min(self.network.config.num_patches(modality) for modality in ("audio", "video"))

    @torch.no_grad()
    def embed(
        self,
        samples: NDArray[np.float32],
        lengths: NDArray[np.int64],
        heard: NDArray[np.int64],
        frames: NDArray[np.uint8],
    ) -> tuple[Tracks, Tracks]:
        """Embed a padded batch: rows (B, T, L·D), of the first L patches each; see `Embedder`."""
        network, config = self.network, self.network.config
        sound, num_samples, num_heard, pictures = (
            torch.from_numpy(array).to(self.device) for array in (samples, lengths, heard, frames)
        )
        starts = moment_starts(
            num_samples,
            list(range(config.num_moments)),
            num_moments=config.num_moments,
            window_frames=config.window_frames,
        )
        windows = cut_windows(network.log_mel(sound, num_heard), starts, config.window_frames)
        audio = network.embed_patches(network.audio_pictures(windows.flatten(0, 1)), "audio")
        video = network.embed_patches(network.pixels(pictures.flatten(0, 1)), "video")
        first, last = config.num_cls_tokens, config.num_cls_tokens + self.num_tokens
        shape = len(samples), config.num_moments, -1
        heard_rows = network.encode(audio, "audio")[:, first:last].reshape(shape)
        seen_rows = network.encode(video, "video")[:, first:last].reshape(shape)
        return heard_rows.float().cpu().numpy(), seen_rows.float().cpu().numpy()


@dataclass(frozen=True)
class GraphEmbedder:
    """The graphs of a bundle on ONNX Runtime, on the CPU.

    Attributes:
        name: What it is called in reports.
        num_heads: Attention heads of its encoder.
        audio_graph: Session of the audio encoder.
        video_graph: Session of the video encoder.
    """

    name: str
    num_heads: int
    audio_graph: onnxruntime.InferenceSession
    video_graph: onnxruntime.InferenceSession

    @property
    def batch_size(self) -> int:
        """Segments to embed together."""
        return SEGMENTS_ON_A_CPU

    def embed(
        self,
        samples: NDArray[np.float32],
        lengths: NDArray[np.int64],
        heard: NDArray[np.int64],
        frames: NDArray[np.uint8],
    ) -> tuple[Tracks, Tracks]:
        """Embed a padded batch; see `Embedder`."""
        names = [given.name for given in self.audio_graph.get_inputs()]
        audio: Tracks = self.audio_graph.run(None, sound_inputs(names, samples, lengths, heard))[0]
        video: Tracks = self.video_graph.run(None, {"frames": frames})[0]
        return audio, video


def open_patches(model: Path, *, weights: str | None = None) -> PatchEmbedder:
    """Open the patch tokens of a TG-DP network: of a checkpoint, or of the graphs of a bundle.

    Args:
        model: Folder of a bundle or of a checkpoint.
        weights: "student" or "teacher" of a checkpoint; None for the student, and for a bundle.

    Returns:
        The frozen model, on the GPU if there is one.
    """
    if (model / "run.json").exists():
        opened = open_embedder(model, weights=weights)
        assert isinstance(opened, NetworkEmbedder)
        return PatchEmbedder(opened.name, opened.network)
    bundle = load_bundle(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PatchEmbedder(bundle.bundle_id, recover_network(bundle).to(device))


def open_embedder(model: Path, *, weights: str | None = None) -> Embedder:
    """Open a bundle on ONNX Runtime or a checkpoint on torch, on the GPU if there is one.

    Args:
        model: Folder of a bundle or of a checkpoint.
        weights: "student" or "teacher" of a checkpoint; None for the student, and for a bundle.

    Returns:
        The frozen model.

    Raises:
        BrokenBundle: If it is neither a bundle nor a checkpoint, or a damaged bundle.
        BrokenCheckpoint: If it is a damaged checkpoint.
        NoSuchWeights: If weights are named for a bundle.
    """  # noqa: DOC502, DOC503 - raised by what it calls
    if (model / "run.json").exists():
        checkpoint = load_checkpoint(model)
        chosen = weights or "student"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        name = f"{checkpoint.run['config']['name']}, step {checkpoint.run['step']}, {chosen}"
        return NetworkEmbedder(name, checkpoint.build(chosen).to(device))
    bundle = load_bundle(model)
    if weights is not None:
        raise NoSuchWeights(f"a bundle has one set of weights, so {weights!r} cannot be chosen for {model}")
    return GraphEmbedder(bundle.bundle_id, bundle.manifest.network["num_heads"], *open_graphs(bundle.path))
