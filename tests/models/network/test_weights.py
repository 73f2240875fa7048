from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.network.weights import UnreadableWeights, read_weights

TENSORS = {"norm.weight": torch.arange(3.0), "norm.bias": torch.ones(3, dtype=torch.float16)}


def is_same(found, expected=TENSORS) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
def test_files_of_torch(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    tensors = {prefix + name: tensor for name, tensor in TENSORS.items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 25}, tmp_path / "weights.pth")
    assert is_same(read_weights(tmp_path / "weights.pth"))


def test_safetensors(tmp_path: Path) -> None:
    save_file(
        {f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "weights.safetensors"
    )
    assert is_same(read_weights(tmp_path / "weights.safetensors"))


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    torch.save({"module.norm.weight": torch.ones(1), "norm.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth").keys() == {"module.norm.weight", "norm.weight"}


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        partial(torch.save, _use_new_zipfile_serialization=False),
        lambda values, path: path.write_bytes(pickle.dumps(values)),
    ],
)
def test_a_pickle_that_runs_something_is_refused_and_does_not_run(write, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "weights.pth"
    write({"norm.weight": torch.ones(1), "extra": Malicious(victim)}, path)
    with pytest.raises(UnreadableWeights, match=r"is refused: it asks for .+, and only tensors are read"):
        read_weights(path)
    assert not victim.exists()
    pickle.loads(pickle.dumps(Malicious(victim)))  # the control: unpickled freely, it does run
    assert victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": 1}, "optimizer": {}}, "must hold tensors by name, .+ it holds model, optimizer"),
        ({"model": TENSORS, "state_dict": TENSORS}, "it holds model, state_dict"),
        ({"norm.weight": torch.ones(1), "epoch": 3}, "it holds epoch, norm.weight"),
        ([torch.ones(1)], "it holds list"),
        ({}, "it holds dict"),
    ],
)
def test_a_file_without_tensors_by_name_is_refused(content, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UnreadableWeights, match=message):
        read_weights(tmp_path / "weights.pth")


def test_the_message_says_what_the_file_is_instead(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    save_file(TENSORS, tmp_path / "tensors.pth")
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    for name, message in (
        ("empty.pth", r"is empty: it is not a torch\.save file"),
        ("pointer.pth", r"begins with b'version https://': it is not a torch\.save file"),
        ("tensors.pth", r"it is not a torch\.save file and is not named \.safetensors"),
        ("folder.safetensors", "must be a file"),
        ("pipe.pth", "must be a file"),  # opening it would wait for a writer
    ):
        with pytest.raises(UnreadableWeights, match=message):
            read_weights(tmp_path / name)


def test_an_extension_in_capitals(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "WEIGHTS.SAFETENSORS")
    assert is_same(read_weights(tmp_path / "WEIGHTS.SAFETENSORS"))


@pytest.mark.filterwarnings("ignore")  # torch warns about kinds of tensors that it has not finished
@pytest.mark.parametrize(
    "make",
    [Tensor.to_sparse, lambda _: torch.ones(2, device="meta"), lambda t: torch.nested.nested_tensor([t])],
)
def test_tensors_without_numbers_in_rows_and_columns_are_named(make, tmp_path: Path) -> None:
    torch.save({**TENSORS, "strange": make(torch.ones(2))}, tmp_path / "weights.pth")
    with pytest.raises(
        UnreadableWeights, match=r"must hold dense tensors with their numbers, not as strange$"
    ):
        read_weights(tmp_path / "weights.pth")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:600])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    for name, message in (
        ("half.pth", r"half\.pth"),
        ("text.pth", r"text\.pth"),
        ("text.safetensors", "cannot be read as safetensors"),
        ("nothing.pth", "cannot be read as a file of torch.save"),
        ("nothing.safetensors", "cannot be read as safetensors"),
    ):
        with pytest.raises(UnreadableWeights, match=message):
            read_weights(tmp_path / name)
