"""Zero-shot retrieval between sound and picture: the published protocol.

score(i, j) = mean over moments of cosine(audio_i, video_j): one dot product of the concatenated unit tracks over T.
Every clip is a query once, every clip's other modality is the gallery, and a tie counts against us.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.tgdp import Tgdp
from training.data import PairedSegments


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How often the true item is among the first k, in percent, and its median rank (1 is best)."""

    at_1: float
    at_5: float
    at_10: float
    median_rank: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall in both directions over a gallery of `num_segments`."""

    num_segments: int
    audio_to_video: Recall
    video_to_audio: Recall

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def diagonal_mean(queries: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score every item for every query by the mean cosine of their moments.

    Args:
        queries: Tracks, float32, shape (Q, T, D), any norm but zero.
        items: Tracks, float32, shape (N, T, D), any norm but zero.

    Returns:
        Scores in [-1, 1], float32, shape (Q, N).
    """
    unit_queries = queries / np.linalg.norm(queries, axis=2, keepdims=True)
    unit_items = items / np.linalg.norm(items, axis=2, keepdims=True)
    scores = unit_queries.reshape(len(queries), -1) @ unit_items.reshape(len(items), -1).T
    return np.asarray(scores / queries.shape[1], np.float32)


def recall(scores: NDArray[np.float32]) -> Recall:
    """Rank the true item of every query, the one at its own position; equal scores rank before it.

    Args:
        scores: Shape (N, N), row i is query i.

    Returns:
        Recall at 1, 5 and 10 in percent, and the median rank.
    """
    true = np.diagonal(scores)[:, None]
    ranks = (scores >= true).sum(axis=1)
    at = {k: round(float((ranks <= k).mean()) * 100, 4) for k in (1, 5, 10)}
    return Recall(at_1=at[1], at_5=at[5], at_10=at[10], median_rank=float(np.median(ranks)))


def retrieval(audio: NDArray[np.float32], video: NDArray[np.float32]) -> Retrieval:
    """Evaluate both directions over tracks of the same clips in the same order.

    Args:
        audio: Tracks, shape (N, T, D).
        video: Tracks, shape (N, T, D).

    Returns:
        Recall from sound to picture and from picture to sound.
    """
    scores = diagonal_mean(audio, video)
    return Retrieval(num_segments=len(audio), audio_to_video=recall(scores), video_to_audio=recall(scores.T))


@torch.no_grad()
def embed_segments(
    network: Tgdp, segments: PairedSegments, *, limit: int | None = None, batch_size: int = 4
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed segments with the torch network, all moments.

    Args:
        network: Any device.
        segments: What to embed.
        limit: Only the first so many; None for all.
        batch_size: Segments at a time.

    Returns:
        Audio tracks and video tracks, float32, shape (N, T, D) each.
    """
    device = next(network.parameters()).device
    count = min(len(segments), limit or len(segments))
    audio, video = [], []
    for first in range(0, count, batch_size):
        rows = slice(first, min(first + batch_size, count))
        samples = torch.from_numpy(np.array(segments.samples[rows])).to(device)
        lengths = torch.from_numpy(segments.lengths[rows]).to(device)
        frames = torch.from_numpy(np.array(segments.frames[rows])).to(device)
        audio.append(network.audio_track(samples, lengths).float().cpu())
        video.append(network.video_track(frames).float().cpu())
    return torch.cat(audio).numpy(), torch.cat(video).numpy()
