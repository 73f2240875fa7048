from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import REPOSITORY
from tests.support.two_processes import CONFIG, step_of
from training.pretraining.parallel import BadShare, Processes, alone, join_processes


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for attempts_left in (2, 1, 0):
        # On a busy machine a process now and then aborts in PyTorch's own teardown, after its work is done.
        done = subprocess.run([*command, *arguments], cwd=REPOSITORY, env=environment, timeout=240)
        if done.returncode == 0:
            return
        assert attempts_left, f"torchrun ended with {done.returncode}"


GUIDANCES = ("patch_to_cls", "single_pass")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, a file for each guidance: the start of torchrun takes longer than the steps."""
    folder = tmp_path_factory.mktemp("two")
    torchrun("tests/support/two_processes.py", str(folder), *GUIDANCES)
    return folder


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_two_processes_take_the_step_of_one_on_the_joined_batch(two_processes: Path, guidance) -> None:
    """Losses, gradients and their norm within 1e-5: masks, negatives of all rows and the average over processes."""
    two = load_file(two_processes / guidance)
    with torch.random.fork_rng():
        one = step_of(Processes(rank=0, count=1, device=torch.device("cpu")), guidance)
    assert one.keys() == two.keys()
    assert one["joint_block.mlp.0.weight"].abs().max() > 1e-4
    for name, expected in one.items():
        torch.testing.assert_close(
            two[name], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_gradient_without_the_other_processes_negatives_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broken control of the test above: half a batch by itself is 1e-3 and more away."""
    monkeypatch.setattr("training.pretraining.pretrain.DistributedDataParallel", Unwrapped)
    with torch.random.fork_rng():
        one = step_of(Processes(rank=0, count=1, device=torch.device("cpu")), "patch_to_cls")
        half = step_of(Pretending(rank=0, count=2, device=torch.device("cpu")), "patch_to_cls")
    differences = [(one[name] - half[name]).abs().max() for name in one if not name.startswith("number")]
    assert max(differences) > 1e-3


class Pretending(Processes):
    """Half of a batch, and nobody to ask for the rest."""

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return rows

    def mean(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers


class Unwrapped:
    def __new__(cls, objective: torch.nn.Module, **_: object) -> torch.nn.Module:
        return objective


def test_every_row_belongs_to_one_process() -> None:
    shares = [Processes(rank=rank, count=3, device=torch.device("cpu")).rows(12) for rank in range(3)]
    assert [row for share in shares for row in range(12)[share]] == list(range(12))
    with pytest.raises(BadShare, match="batch size 10 must be a multiple of the 3 processes"):
        Processes(rank=0, count=3, device=torch.device("cpu")).rows(10)


def test_processes_wait_longer_than_a_large_held_out_set_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked: list[timedelta] = []
    # The real call waits for a second process; the timeout it gives a group is read from nowhere afterwards.
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda _, timeout: asked.append(timeout))
    for name in ("get_rank", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: 0)
    with join_processes():
        assert asked[0] >= timedelta(hours=6)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes() as processes:
        assert processes == alone()
        assert processes.is_first
        assert processes.rows(CONFIG.batch_size) == slice(0, 6)
        rows = torch.ones(2, 3)
        assert processes.gather(rows) is rows
        assert processes.mean(rows) is rows
        assert processes.hear(lambda: "heard") == "heard"
        processes.wait()
