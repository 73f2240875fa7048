"""Data parallel training with torchrun: the rows of each process, and what they exchange.

    torchrun --nproc-per-node 8 -m training.cli pretrain --run base --data shards/train --output runs/base

The batch of a run is the batch of all processes together: each works on its own rows, negatives come from all rows,
and the gradient is that of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

MAX_WAIT = timedelta(hours=12)
"""How long processes wait for each other: the others do while the first measures held-out media. NCCL gives 10 min."""


class BadShare(ValueError):
    """A batch cannot be shared out evenly among the processes."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Number of this process, from 0.
        count: How many there are.
        device: Where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and measures."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Rows of a whole batch that this process works on.

        Args:
            batch_size: Rows of the whole batch.

        Returns:
            A slice of `batch_size / count` rows.

        Raises:
            BadShare: If the batch cannot be divided evenly.
        """
        if batch_size % self.count:
            raise BadShare(f"batch size {batch_size} must be a multiple of the {self.count} processes")
        share = batch_size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows of all processes, in the order of their numbers; gradients flow back to each owner.

        Args:
            rows: This process's part, shape (B, D).

        Returns:
            Everyone's, shape (count * B, D).
        """
        if self.count == 1:
            return rows
        joined: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return joined

    def mean(self, numbers: Tensor) -> Tensor:
        """Average numbers over the processes.

        Args:
            numbers: Any shape; not changed.

        Returns:
            The same shape, equal in every process.
        """
        if self.count == 1:
            return numbers
        total = numbers.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def hear(self, say: Callable[[], Value]) -> Value:
        """Call a function in the first process and send its result to all.

        Args:
            say: Called in the first process only.

        Returns:
            What it returned, in every process.
        """
        if self.count == 1:
            return say()
        told: list[Any] = [say() if self.is_first else None]
        dist.broadcast_object_list(told)
        value: Value = told[0]
        return value

    def largest(self, number: int) -> int:
        """Find the largest of a number that each process has.

        Args:
            number: This process's.

        Returns:
            Everyone's largest, equal in every process.
        """
        if self.count == 1:
            return number
        most = torch.tensor(number, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is the sum of all processes' gradients for my rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes) -> Tensor:
        ctx.mine = slice(processes.rank * len(rows), (processes.rank + 1) * len(rows))
        parts = [torch.empty_like(rows) for _ in range(processes.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.mine], None


def alone() -> Processes:
    """Return the only process, on the GPU if there is one."""
    return Processes(rank=0, count=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, NCCL on GPUs and gloo on CPUs; without torchrun this one is alone.

    Yields:
        This process among the others.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun tells its processes who they are this way only
    if count == 1:
        yield alone()
        return
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=MAX_WAIT)
    try:
        yield Processes(rank=dist.get_rank(), count=count, device=device)
        dist.barrier()  # nobody takes the group down while another one still works
    finally:
        dist.destroy_process_group()
