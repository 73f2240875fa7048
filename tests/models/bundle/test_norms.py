"""LayerNorms made larger or smaller inside an ONNX file; the package `onnx` reads the same files on its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle.bundle import load_bundle, starter_path
from models.bundle.norms import NUM_OUTLIERS, NoScalableNorm, add_outliers, level_channels, rescale_norms
from models.inference import onnxruntime

GRAPH = starter_path() / "video.onnx"
WIDTH = 128


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def video_track(path: Path, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    track: NDArray[np.float32] = session.run(None, {"frames": frames[None]})[0][0]
    return track


def test_outliers_change_the_numbers_and_not_the_function(tmp_path: Path) -> None:
    golden = load_bundle(starter_path()).golden()
    # 4 blocks with two norms each and the joint block's second one; its first norm is also read by a slice, and the
    # last norm by no weights at all.
    assert add_outliers(GRAPH, tmp_path / "outliers.onnx") == 9
    before, after = read_arrays(GRAPH), read_arrays(tmp_path / "outliers.onnx")
    gammas = [
        name for name in before if name.endswith("norms.video.weight") and before[name].shape == (WIDTH,)
    ]
    changed = [name for name in gammas if not np.array_equal(before[name], after[name])]
    assert len(changed) == 9
    for name in changed:
        factors = after[name] / before[name]
        assert np.sum(np.isclose(factors, 30)) == NUM_OUTLIERS
        assert np.sum(factors == 1) == WIDTH - NUM_OUTLIERS
    assert np.abs(video_track(tmp_path / "outliers.onnx", golden.frames) - golden.video_track).max() < 1e-5


def test_a_factor_that_the_weights_do_not_undo_is_noticed(tmp_path: Path) -> None:
    golden = load_bundle(starter_path()).golden()
    model = onnx.load(GRAPH)
    gamma = next(t for t in model.graph.initializer if t.name.endswith("0.mlp_norms.video.weight"))
    values = numpy_helper.to_array(gamma).copy()
    values[:NUM_OUTLIERS] *= 30
    gamma.CopyFrom(numpy_helper.from_array(values, gamma.name))
    onnx.save(model, tmp_path / "broken.onnx")
    assert np.abs(video_track(tmp_path / "broken.onnx", golden.frames) - golden.video_track).max() > 1e-3


def test_levelled_channels_have_a_mean_square_of_one(tmp_path: Path) -> None:
    golden = load_bundle(starter_path()).golden()
    assert level_channels(GRAPH, tmp_path / "levelled.onnx") == 9
    arrays = read_arrays(tmp_path / "levelled.onnx")
    name = "network.streams.video.2.attention_norms.video"
    np.testing.assert_allclose(arrays[f"{name}.weight"] ** 2 + arrays[f"{name}.bias"] ** 2, 1, rtol=1e-5)
    assert np.abs(video_track(tmp_path / "levelled.onnx", golden.frames) - golden.video_track).max() < 1e-5


def make_graph(
    path: Path, *, op_type: str = "MatMul", shares_norm: bool = False, packed: bool = False
) -> Path:
    """LayerNorm → matrix product, small enough to read."""
    ones = np.ones(4, np.float32)
    tensors = [
        numpy_helper.from_array(ones, "gamma"),
        numpy_helper.from_array(ones, "beta"),
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight"),
    ]
    if (
        packed
    ):  # numbers in the typed field, as the helper of `onnx` writes them; not where they can be changed
        tensors[2] = helper.make_tensor("weight", TensorProto.FLOAT, [4, 4], np.eye(4).ravel().tolist())
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["normed"], axis=-1),
        helper.make_node(op_type, ["normed", "weight"], ["y"]),
    ]
    if shares_norm:
        nodes.append(helper.make_node("LayerNormalization", ["y", "gamma", "beta"], ["z"], axis=-1))
    output = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 4])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_small_graph_by_hand(tmp_path: Path) -> None:
    source = make_graph(tmp_path / "small.onnx")
    factors = np.array([1.0, 2.0, 4.0, 8.0])
    assert rescale_norms(source, tmp_path / "out.onnx", lambda *_: factors) == 1
    arrays = read_arrays(tmp_path / "out.onnx")
    np.testing.assert_array_equal(arrays["gamma"], factors)
    np.testing.assert_array_equal(arrays["beta"], factors)
    np.testing.assert_array_equal(arrays["weight"], np.diag(1 / factors))


@pytest.mark.parametrize(
    "kind",
    [{"op_type": "Add"}, {"shares_norm": True}, {"packed": True}],
    ids=["no product", "shared", "packed"],
)
def test_a_norm_that_cannot_be_changed_alone_is_left(tmp_path: Path, kind: dict[str, object]) -> None:
    source = make_graph(tmp_path / "small.onnx", **kind)  # type: ignore[arg-type]
    with pytest.raises(NoScalableNorm, match="no norm that only matrix products"):
        rescale_norms(source, tmp_path / "out.onnx", lambda gamma, _: gamma)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"\x0f" * 64)  # field 1 of kind 7, which protobuf does not have
    with pytest.raises(NoScalableNorm, match="not an ONNX model"):
        add_outliers(tmp_path / "text.onnx", tmp_path / "out.onnx")


def test_numbers_outside_the_file_are_changed_beside_the_copy(tmp_path: Path) -> None:
    golden = load_bundle(starter_path()).golden()
    for folder in ("large", "copy"):
        (tmp_path / folder).mkdir()
    source, target = tmp_path / "large" / "video.onnx", tmp_path / "copy" / "video.onnx"
    onnx.save_model(onnx.load(GRAPH), source, save_as_external_data=True, location="video.onnx.data")
    assert source.stat().st_size < 0.5 * GRAPH.stat().st_size
    before = (tmp_path / "large" / "video.onnx.data").read_bytes()
    assert add_outliers(source, target) == 9
    assert (tmp_path / "large" / "video.onnx.data").read_bytes() == before
    add_outliers(GRAPH, tmp_path / "outliers.onnx")
    expected = read_arrays(tmp_path / "outliers.onnx")
    for name, values in read_arrays(target).items():
        np.testing.assert_array_equal(values, expected[name])
    assert np.abs(video_track(target, golden.frames) - golden.video_track).max() < 1e-5


def test_an_rms_norm_is_changed_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "gamma": rng.uniform(0.5, 2, 16).astype(np.float32),
        "weight": rng.standard_normal((16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["gamma", "x"], ["scaled"], name="scale"),
        helper.make_node("MatMul", ["scaled", "weight"], ["y"], name="product"),
    ]
    shape = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, w]) for n, w in (("x", 16), ("y", 4))]
    initial = [numpy_helper.from_array(values, name) for name, values in arrays.items()]
    graph = helper.make_graph(nodes, "rms", shape[:1], shape[1:], initial)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "rms.onnx")
    assert add_outliers(tmp_path / "rms.onnx", tmp_path / "outliers.onnx") == 1
    changed = read_arrays(tmp_path / "outliers.onnx")
    assert np.sum(np.isclose(changed["gamma"] / arrays["gamma"], 30)) == NUM_OUTLIERS
    np.testing.assert_allclose(
        changed["gamma"][:, None] * changed["weight"], arrays["gamma"][:, None] * arrays["weight"], rtol=1e-5
    )
