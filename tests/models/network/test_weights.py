from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.network.weights import UnreadableWeights, read_weights, unwrap_weights

OTHERS = {"norm.weight": torch.zeros(3), "norm.bias": torch.zeros(3)}
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


@pytest.mark.parametrize(
    ("content", "wrappers"),
    [
        ({"_orig_mod.": TENSORS}, ["_orig_mod."]),
        ({"module._orig_mod.": TENSORS}, ["_orig_mod.", "module."]),
        ({"_orig_mod.module.": TENSORS}, ["_orig_mod.", "module."]),
        ({"model.": TENSORS}, ["model."]),
        ({"module.model._orig_mod.": TENSORS}, ["_orig_mod.", "module.", "model."]),
        ({"state_dict": {"model.": TENSORS}}, ["state_dict", "model."]),
        ({"state_dict": {"model": {"module.": TENSORS}}}, ["state_dict", "model", "module."]),
        ({"ema": {"": TENSORS}}, ["ema"]),
        ({"ema_state_dict": {"module.": TENSORS}}, ["ema_state_dict", "module."]),
        ({"ema": {"state_dict": {"": TENSORS}}}, ["ema", "state_dict"]),
        ({"ema.": TENSORS}, ["ema."]),
        (
            {"model_state_dict": {"": TENSORS}, "ema_state_dict": {"": OTHERS}},
            ["model_state_dict (ema_state_dict is not used)"],
        ),
        ({"state_dict": {"model.": TENSORS, "ema.": OTHERS}}, ["state_dict", "model. (ema. is not used)"]),
        ({"module.": TENSORS, "": {"n_averaged": torch.tensor(7)}}, ["n_averaged", "module."]),
    ],
)
def test_wrappers_are_taken_off_and_said(content, wrappers: list[str], tmp_path: Path) -> None:
    """Keys that end in a dot stand for names with that prefix, an empty one for names as they are."""

    def built(values):
        whole = {}
        for key, inside in values.items():
            if key and not key.endswith("."):
                whole[key] = built(inside)
            else:
                whole |= {key + name: tensor for name, tensor in inside.items()}
        return whole

    whole = built(content)
    are_tensors = all(isinstance(value, Tensor) for value in whole.values())
    torch.save(whole if are_tensors else {**whole, "epoch": 25, "optimizer": {}}, tmp_path / "weights.pth")
    found = unwrap_weights(tmp_path / "weights.pth")
    assert is_same(found.tensors)
    assert list(found.wrappers) == wrappers


def test_a_compiled_part_inside_a_network(tmp_path: Path) -> None:
    torch.save(
        {"norm._orig_mod.weight": TENSORS["norm.weight"], "norm.bias": TENSORS["norm.bias"]}, tmp_path / "w"
    )
    assert is_same(read_weights(tmp_path / "w"))


def test_settings_beside_the_tensors_say_how_to_save_the_tensors_alone(tmp_path: Path) -> None:
    path = tmp_path / "with args.pth"
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(UnreadableWeights) as refused:
        read_weights(path)
    said = str(refused.value)
    assert "asks for argparse.Namespace, and only tensors are read; settings lie beside them" in said
    assert "\n" not in said
    script = said.partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100)
    assert is_same(read_weights(tmp_path / "weights.pth"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_that_was_cut_short_says_so(share: float, tmp_path: Path) -> None:
    large = {"norm.weight": torch.ones(10_000)}
    torch.save(large, tmp_path / "new.pth")
    torch.save(large, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(large, tmp_path / "safe.safetensors")
    for path in (tmp_path / "new.pth", tmp_path / "old.pth", tmp_path / "safe.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(
            UnreadableWeights, match="it ends too early: copy or download it again"
        ) as refused:
            read_weights(path)
        assert "\n" not in str(refused.value)


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


def test_numbers_of_numpy_beside_the_tensors_are_left_out(tmp_path: Path) -> None:
    """As aiSFX saves: a tuple of tensors and of what they were trained on."""
    torch.save(
        (TENSORS, {"PSE": (0, np.int64(82)), "scale": np.float64(1.5)}),
        tmp_path / "weights.pth",
        pickle_protocol=2,
    )
    with pytest.raises(UnreadableWeights, match="numpy"):
        read_weights(tmp_path / "weights.pth")
    assert is_same(unwrap_weights(tmp_path / "weights.pth", skips_numbers=True).tensors)


def test_nothing_runs_where_numbers_are_left_out(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save((TENSORS, Attack()), tmp_path / "attack.pth", pickle_protocol=2)
    with pytest.raises(UnreadableWeights, match="system"):
        unwrap_weights(tmp_path / "attack.pth", skips_numbers=True)
    assert not (tmp_path / "ran").exists()
