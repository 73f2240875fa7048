r"""Tunes the last blocks of the starter on synthetic scenes, as the shipped one was: one core, about 25 minutes.

    python -m benchmarks.starter_tuning --start models/starter --scenes 3666 --seed 2 --heldout corpus/heldout \
        --folder FOLDER --output bundles/starter

Frames and sound are rendered straight from the scenes of the training split, without files: .06 core-s a scene, .4 with
H.264 and AAC. What the blocks below give for every moment is computed once and kept, so that a step costs the last
blocks alone. The loss is that of `adapt --method pair` on clips with every patch visible: InfoNCE at temperature .05
among the unit means of random moments of a batch, both ways.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.bundle.bundle import load_bundle
from models.media.clip import ClipSpec
from models.network.frontend import distinct_windows, window_starts
from models.network.geometry import MODALITIES, Modality
from models.network.graph_weights import recover_network
from models.network.tgdp import Tgdp
from training.adapting.bundles import write_finetuned
from training.adapting.finetuning import last_blocks
from training.corpus.picture import render_frames
from training.corpus.scene import sample_scene
from training.corpus.sound import render_samples
from training.data.segments import compute_log_mel
from training.data.sources import open_segments
from training.evaluation.evaluate import Retrieval, embed_segments, retrieval
from training.pretraining.losses import contrastive_loss

WARMUP_STEPS = 30
AT_A_TIME = 8

Hidden = Mapping[str, NDArray[np.float16]]
"""Tokens before the first free block: of sound (N, windows, L, D), of the picture (N, T, L, D)."""


class LastBlocks:
    """A network in two parts: what stays as it is, and the last blocks."""

    def __init__(self, network: Tgdp, num_blocks: int) -> None:
        self.network = network
        self.num_frozen = network.config.depth - (num_blocks - 1)  # the joint block is the last one
        config = network.config
        starts = window_starts(config.num_moments, window_frames=config.window_frames)
        self.windows, self.window_of_moment = distinct_windows(starts)

    def below(self, pictures: Tensor, modality: Any) -> Tensor:
        """Tokens before the first free block, (B, L, D), of pictures of one modality."""
        network, patches = self.network, self.network.embed_patches(pictures, modality)
        ends = (network.cls_tokens[modality], network.registers[modality])
        cls, registers = (tokens.expand(len(patches), -1, -1) for tokens in ends)
        tokens = torch.cat([cls, patches, registers], dim=1)
        for block in network.streams[modality][: self.num_frozen]:  # type: ignore[index]
            tokens = block(tokens, modality)
        return tokens

    def above(self, tokens: Tensor, modality: Any) -> Tensor:
        """Unit embeddings (B, D) of such tokens."""
        network = self.network
        for block in network.streams[modality][self.num_frozen :]:  # type: ignore[index]
            tokens = block(tokens, modality)
        hidden = tokens[:, : tokens.shape[1] - network.config.num_registers]
        return F.normalize(network.summarise(hidden, modality).float(), dim=1)

    @torch.no_grad()
    def render(self, folder: Path, seed: int, num_scenes: int) -> Hidden:
        """Render scenes of the training split and keep their tokens; a call that was killed is resumed."""
        config = self.network.config
        extra = config.num_cls_tokens + config.num_registers
        shapes = {
            name: (moments, config.num_patches(cast(Modality, name)) + extra, config.width)
            for name, moments in (("audio", len(self.windows)), ("video", config.num_moments))
        }
        files = {name: folder / f"{name}-{seed}-{self.num_frozen}.raw" for name in MODALITIES}
        bytes_each = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
        done = min(
            file.stat().st_size // bytes_each[name] if file.exists() else 0 for name, file in files.items()
        )
        times = np.arange(config.num_moments) * (10.0 / config.num_moments)
        with files["audio"].open("ab") as audio, files["video"].open("ab") as video:
            audio.truncate(done * bytes_each["audio"])
            video.truncate(done * bytes_each["video"])
            for number in range(done, num_scenes):
                scene = sample_scene(seed, "train", number)
                samples = render_samples(scene, 16_000)[:160_000]
                log_mel = compute_log_mel(samples, len(samples)).astype(np.float16).astype(np.float32)
                windows = np.stack([log_mel[start : start + config.window_frames] for start in self.windows])
                frames = torch.from_numpy(render_frames(scene, times, config.frame_size))
                with torch.autocast("cpu", torch.bfloat16):
                    sound = self.below(self.network.audio_pictures(torch.from_numpy(windows)), "audio")
                    picture = self.below(self.network.pixels(frames), "video")
                audio.write(sound.half().numpy().tobytes())
                video.write(picture.half().numpy().tobytes())
        return {
            name: np.memmap(files[name], np.float16, "r", shape=(num_scenes, *shapes[name]))
            for name in MODALITIES
        }


def tune(
    blocks: LastBlocks, hidden: Hidden, num_blocks: int, given: argparse.Namespace, heldout: Any
) -> list[dict[str, Any]]:
    """Train the last blocks in place; the curve over the held-out clips."""
    network = blocks.network.requires_grad_(requires_grad=False)
    free = last_blocks(network, num_blocks)
    for parameter in free:
        parameter.requires_grad = True
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in free if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in free if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=given.rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    generator, order, losses = np.random.default_rng(given.draws), list[int](), list[float]()
    count, began, curve = len(hidden["audio"]), time.process_time(), list[dict[str, Any]]()
    for step in range(given.steps):
        if len(order) < given.batch:
            order = generator.permutation(count).tolist()
        rows = np.sort([order.pop() for _ in range(given.batch)]).tolist()
        draws = [
            generator.choice(network.config.num_moments, given.moments, replace=False)
            for _ in range(given.batch)
        ]
        places = [(row, moment) for row, drawn in zip(rows, draws, strict=True) for moment in drawn.tolist()]
        sound = np.stack([hidden["audio"][row, blocks.window_of_moment[moment]] for row, moment in places])
        picture = np.stack([hidden["video"][row, moment] for row, moment in places])
        with torch.autocast("cpu", torch.bfloat16):
            rows_of = {
                name: blocks.above(torch.from_numpy(tokens).float(), name)
                for name, tokens in (("audio", sound), ("video", picture))
            }
        audio, video = (
            rows_of[name].reshape(given.batch, given.moments, -1).mean(dim=1) for name in MODALITIES
        )
        loss = contrastive_loss(audio, video, temperature=0.05)
        for group in optimiser.param_groups:
            group["lr"] = given.rate * share_of_rate(step, given.steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(free, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % given.every == 0 or step + 1 == given.steps:
            found = retrieval(*embed_segments(network, heldout))
            curve.append(
                {
                    "step": step + 1,
                    "loss": round(float(np.mean(losses[-25:])), 3),
                    "core_seconds": round(time.process_time() - began),
                    "at_1": [found.audio_to_video.at_1, found.video_to_audio.at_1],
                }
            )
            print(curve[-1], flush=True)
    network.eval().requires_grad_(requires_grad=False)
    return curve


def share_of_rate(step: int, num_steps: int) -> float:
    """Warm-up, then a cosine to 0, of the highest rate."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (num_steps - WARMUP_STEPS))) / 2


def main() -> None:
    """Render, tune, measure, write a bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="bundle of a TG-DP network")
    parser.add_argument("--scenes", type=int, default=3666)
    parser.add_argument("--seed", type=int, default=2, help="of the scenes")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--moments", type=int, default=2)
    parser.add_argument("--draws", type=int, default=0, help="seed of order and moments")
    parser.add_argument("--every", type=int, default=1000, help="steps between two measurements")
    parser.add_argument("--heldout", type=Path, required=True, help="media to measure on")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for rendered and decoded scenes, .42 MB each"
    )
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parent = load_bundle(given.start)
    blocks = LastBlocks(recover_network(parent), given.blocks)
    given.folder.mkdir(parents=True, exist_ok=True)
    heldout = open_segments([given.heldout], given.folder / "heldout", ClipSpec())
    hidden = blocks.render(given.folder, given.seed, given.scenes)
    began = time.process_time()
    curve = tune(blocks, hidden, given.blocks, given, heldout)
    found: Retrieval = retrieval(*embed_segments(blocks.network, heldout))
    facts = {
        "command": shlex.join(["python", "-m", "benchmarks.starter_tuning", *sys.argv[1:]]),
        "tuned_from": parent.bundle_id,
        "scenes": {"split": "train", "seed": given.seed, "count": given.scenes},
        "core_seconds": round(time.process_time() - began),
        "curve": curve,
        "retrieval": {"student": found.to_json()},
        "before": dict(parent.manifest.training),
    }
    bundle = write_finetuned(parent, blocks.network, given.output, name=parent.manifest.name, training=facts)
    print(bundle.bundle_id, found)


if __name__ == "__main__":
    main()
