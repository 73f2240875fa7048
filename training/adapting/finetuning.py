"""Fine-tuning: the last blocks of the encoders learn with the losses of the heads, from media.

    finetune(network, clips, config, num_blocks=2)      # the network changes in place

One random moment of each clip a step. What stays near is the embedding of the network as it was. This decodes media and
runs the encoders, so it takes hours on a CPU for what heads learn in minutes; a GPU is what it is for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.network.tgdp import Tgdp
from training.adapting.fitting import MODALITIES, Clips, FitConfig, Fitting
from training.data.batches import MomentBatches
from training.data.segments import Segments

LEARNING_RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class TunedClips:
    """What is learned from.

    Attributes:
        segments: Decoded media, N of them.
        truth: Labels, bool, shape (N, C); None for none.
        has_many: Whether a clip may have several.
        graph: Of the labels, for `graph`.
    """

    segments: Segments
    truth: NDArray[np.bool_] | None = None
    has_many: bool = False
    graph: NDArray[np.float32] | None = None


def last_blocks(network: Tgdp, num_blocks: int) -> list[nn.Parameter]:
    """The parameters of the last blocks, and of the final norms of sound and picture.

    Args:
        network: Whose.
        num_blocks: How many blocks from the end of each modality's way; the joint block is one of both.

    Returns:
        Parameters, each once.

    Raises:
        ValueError: If the network has fewer blocks.
    """
    found: dict[int, nn.Parameter] = {}
    for name in MODALITIES:
        ways = [*network.streams[name], network.joint_block, *network.heads[name]]  # type: ignore[misc]
        if not 1 <= num_blocks <= len(ways):
            raise ValueError(f"the network has {len(ways)} blocks, {num_blocks} cannot be tuned")
        for module in (*ways[-num_blocks:], network.norms[name]):
            found |= {
                id(parameter): parameter
                for where, parameter in module.named_parameters()
                if not any(part in where for part in (".joint.", "norms.joint"))
            }
    return list(found.values())


def finetune(
    network: Tgdp,
    clips: TunedClips,
    config: FitConfig,
    *,
    num_blocks: int,
    on_step: Callable[[int, int, float], None] = lambda *_: None,
) -> None:
    """Train the last blocks of a network in place.

    Args:
        network: On the device to train on.
        clips: What is learned from.
        config: Losses, epochs, batch, learning rate and seed.
        num_blocks: See `last_blocks`.
        on_step: Called with the steps done, all steps, and the loss.

    Raises:
        ValueError: If there are fewer than two clips, or the method lacks labels.
    """  # noqa: DOC502 - raised by what it calls
    device = next(network.parameters()).device
    parent = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    network.requires_grad_(requires_grad=False)
    free = last_blocks(network, num_blocks)
    for parameter in free:
        parameter.requires_grad = True
    fitting = _make_fitting(network, clips, config)
    batches = MomentBatches(clips.segments, network.config, batch_size=config.batch_size, seed=config.seed)
    per_epoch = max(1, len(clips.segments) // batches.batch_size)
    num_steps = min(config.num_epochs * per_epoch, config.max_steps)
    taught = list(fitting.classifier.parameters()) if fitting.classifier is not None else []
    groups: list[dict[str, Any]] = [{"params": free}]
    groups += [{"params": taught, "lr": FitConfig.learning_rate}] if taught else []
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.01)
    for step in range(num_steps):
        rows, _ = batches.draw(step)
        windows, frames = (array.to(device) for array in batches.at(step))
        vectors = _embed(network, windows, frames)
        with torch.no_grad():
            before = _embed(parent, windows, frames)
        stay = sum((vectors[name] - before[name]).square().sum(dim=1).mean() for name in MODALITIES)
        loss = fitting.combine(
            {name: rows_.cpu() for name, rows_ in vectors.items()},
            torch.as_tensor(stay).cpu(),
            rows,
            step,
            num_steps,
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*free, *taught], 1.0)
        optimiser.step()
        on_step(step + 1, num_steps, float(loss.detach()))
    network.eval().requires_grad_(requires_grad=False)


def _make_fitting(network: Tgdp, clips: TunedClips, config: FitConfig) -> Fitting:
    shape = network.config.num_moments, network.config.width
    if config.method != "pair" and clips.truth is None:
        raise ValueError(f"{config.method} needs labels")
    if len(clips.segments) < 2:
        raise ValueError(f"two clips with sound and picture are the least, got {len(clips.segments)}")
    return Fitting(
        Clips(
            read=_read_nothing,
            num_clips=len(clips.segments),
            shapes=dict.fromkeys(MODALITIES, shape),
            truth=clips.truth,
            has_many=clips.has_many,
            graph=clips.graph,
        ),
        replace(config, hidden=1),  # its heads stay unused
    )


def _read_nothing(modality: str, chosen: NDArray[np.int64], _: NDArray[np.int64]) -> NDArray[np.float32]:
    raise AssertionError(f"no stored {modality} tracks of {len(chosen)} clips are read")


def _embed(network: Tgdp, windows: Tensor, frames: Tensor) -> dict[str, Tensor]:
    """Unit embeddings of one moment of each clip, (B, D) by modality."""
    audio = network.embed_patches(network.audio_pictures(windows), "audio")
    video = network.embed_patches(network.pixels(frames), "video")
    return {
        "audio": F.normalize(network.embed(audio, "audio"), dim=1),
        "video": F.normalize(network.embed(video, "video"), dim=1),
    }
