"""Run by torchrun in test_parallel.py: one data parallel step a guidance; losses and gradients are written.

torchrun --nproc-per-node 2 tests/support/two_processes.py FOLDER GUIDANCE...
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.network.geometry import TgdpConfig
from training.pretraining.config import Guidance, PretrainConfig
from training.pretraining.parallel import Processes, join_processes
from training.pretraining.pretrain import Run, take_step

TINY = TgdpConfig(
    width=32,
    num_heads=2,
    depth=1,
    decoder_width=16,
    decoder_heads=2,
    decoder_depth=1,
    audio_patch=32,
    video_patch=32,
)
CONFIG = PretrainConfig(
    name="tiny",
    network=TINY,
    num_steps=4,
    batch_size=6,
    num_accumulated=2,
    learning_rate=1e-3,
    warmup_steps=2,
    max_gradient_norm=1e9,
    seed=3,
)


def whole_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(6, 416, 128, generator=generator),
            torch.randint(0, 256, (6, 224, 224, 3), dtype=torch.uint8, generator=generator),
        )
        for _ in range(CONFIG.num_accumulated)
    ]


def step_of(processes: Processes, guidance: Guidance) -> dict[str, torch.Tensor]:
    """Losses and gradients of one step on this process's rows of the whole batches."""
    run = Run.start(dataclasses.replace(CONFIG, guidance=guidance), processes)
    rows = processes.rows(CONFIG.batch_size)
    numbers = take_step(run, 0, [(windows[rows], frames[rows]) for windows, frames in whole_batches()])
    gradients = {name: p.grad for name, p in run.student.named_parameters() if p.grad is not None}
    losses = {f"number {name}": torch.tensor(value) for name, value in numbers.items()}
    return gradients | losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_processes() as processes:
        found = {guidance: step_of(processes, guidance) for guidance in sys.argv[2:]}  # type: ignore[arg-type]
        if processes.largest(15 * processes.rank) != 15:
            raise SystemExit("a signal of one process is heard by all")
        if processes.hear(lambda: processes.rank) != 0:
            raise SystemExit("the first process speaks for all")
        if processes.is_first:
            for guidance, tensors in found.items():
                save_file(tensors, Path(sys.argv[1], guidance))
