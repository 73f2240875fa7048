"""Bundles that must never answer: damaged, made to escape or to harm, or valid and wrong.

Each is a copy of the second bundle of the tests, spoilt in one way; where it can, its manifest tells the truth about
the files, so that what is wrong has to be found by running it. None of them is a stranger to the library: only the
check that is meant for it stands between it and the requests.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.bundles import LAST_MLP, change_graph, record_golden, rehash, scale_weights

Spoil = Callable[[Path], object]
BAD: dict[str, tuple[Spoil, str]] = {}
"""By name: what spoils a bundle, and a pattern of the reason that is given for refusing it."""
GRAPHS = ("audio.onnx", "video.onnx")
FILES = (*GRAPHS, "golden.npz", "manifest.json")


def bad(name: str, reason: str) -> Callable[[Spoil], Spoil]:
    """Add a generator to the list."""

    def add(spoil: Spoil) -> Spoil:
        assert name not in BAD
        BAD[name] = (spoil, reason)
        return spoil

    return add


def edit_manifest(folder: Path, **fields: Any) -> None:
    """Change fields of the manifest and nothing else."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields, indent=2, sort_keys=True) + "\n")


# Damaged files: the manifest knows

for _file in FILES:
    _reason = (
        "cannot be read|not the file|format must|name must" if _file == "manifest.json" else "not the file"
    )

    @bad(f"bit flip in {_file}", _reason)
    def _flip(folder: Path, file: str = _file) -> None:
        content = bytearray((folder / file).read_bytes())
        at = content.index(b'"sha256"') + 15 if file == "manifest.json" else len(content) // 2
        content[at] ^= 0x02
        (folder / file).write_bytes(content)

    @bad(f"{_file} cut in half", "cannot be read" if _file == "manifest.json" else "not the file")
    def _cut(folder: Path, file: str = _file) -> None:
        os.truncate(folder / file, (folder / file).stat().st_size // 2)

    @bad(f"{_file} missing", "cannot be read|is not a bundle")
    def _remove(folder: Path, file: str = _file) -> None:
        (folder / file).unlink()

    @bad(f"{_file} is a symbolic link", "regular file|is not a bundle")
    def _link(folder: Path, file: str = _file) -> None:
        (folder / file).rename(folder.parent / f"real {file}")
        (folder / file).symlink_to(folder.parent / f"real {file}")


@bad("a file has a second name", "has 2 names")
def _hard_link(folder: Path) -> None:
    os.link(folder / "audio.onnx", folder.parent / "another name")


@bad("an extra symbolic link", "regular file")
def _extra_link(folder: Path) -> None:
    (folder / "extra").symlink_to("/etc/passwd")


@bad("an extra folder", "regular file")
def _extra_folder(folder: Path) -> None:
    (folder / "weights").mkdir()


@bad("the manifest is a pipe", "regular file")
def _pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


@bad("an empty graph", "not the file")
def _empty(folder: Path) -> None:
    (folder / "video.onnx").write_bytes(b"")


# Manifests


@bad("the manifest is not JSON", "cannot be read")
def _not_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("bundle: yes\n")


@bad("the manifest is no object", "cannot be read")
def _no_object(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]")


@bad("the manifest is nested without end", "cannot be read")
def _nested(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


@bad("the manifest is huge", "1048576 are allowed")
def _huge_manifest(folder: Path) -> None:
    with (folder / "manifest.json").open("a") as file:
        file.write(" " * (8 << 20))


@bad("the manifest names a file outside", "files must be")
def _traversal(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files, "../../escape.onnx": files["audio.onnx"]})


@bad("the manifest's files are a list", "cannot be read|files must be")
def _file_list(folder: Path) -> None:
    edit_manifest(folder, files=["audio.onnx", "video.onnx", "golden.npz"])


@bad("the name climbs", "name must be")
def _climbing_name(folder: Path) -> None:
    edit_manifest(folder, name="../../evil")


@bad("the format is unknown", "format must be 1")
def _format(folder: Path) -> None:
    edit_manifest(folder, format=2)


@bad("the manifest has a wrong width", r"must be float32 \(16, 64\)")
def _width(folder: Path) -> None:
    edit_manifest(folder, embedding_width=64)


@bad("the width is no number", "cannot be read|embedding_width")
def _no_width(folder: Path) -> None:
    edit_manifest(folder, embedding_width="wide")


@bad("the clips have no moments", "num_moments|cannot be read")
def _no_moments(folder: Path) -> None:
    spec = json.loads((folder / "manifest.json").read_text())["clip_spec"]
    edit_manifest(folder, clip_spec=spec | {"num_moments": 0})


# Golden tracks


@bad("golden tracks of another network", "golden tracks .* differ")
def _other_golden(folder: Path) -> None:
    for graph in GRAPHS:
        change_graph(folder, graph, scale_weights(3.0))
    rehash(folder)


@bad("golden.npz holds Python objects", "golden.npz cannot be read")
def _pickled(folder: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(folder / "golden.npz", samples=objects, frames=objects, audio_track=objects, video_track=objects)
    rehash(folder)


@bad("golden.npz lacks a track", "golden.npz cannot be read")
def _no_track(folder: Path) -> None:
    np.savez(folder / "golden.npz", samples=np.zeros(16_000, np.float32))
    rehash(folder)


# Graphs that load, and are wrong


@bad("swapped graphs", "audio.onnx|frames|samples|input|Invalid")
def _swapped(folder: Path) -> None:
    (folder / "audio.onnx").rename(folder / "aside")
    (folder / "video.onnx").rename(folder / "audio.onnx")
    (folder / "aside").rename(folder / "video.onnx")
    rehash(folder)


@bad("weights that are not numbers", "rows of unit length, got nan")
def _nan(folder: Path) -> None:
    change_graph(folder, "video.onnx", scale_weights(float("nan")))
    record_golden(folder)
    rehash(folder)


@bad("a graph that is no graph", "cannot be loaded|Protobuf|parse")
def _no_graph(folder: Path) -> None:
    (folder / "audio.onnx").write_bytes(random.Random(0).randbytes(100_000))
    rehash(folder)


@bad("an operator set of the future", "cannot be loaded|opset|[Uu]nsupported")
def _opset(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 9_999

    change_graph(folder, "audio.onnx", change)
    rehash(folder)


@bad("an operator that nobody has", "cannot be loaded|Fizz|registered|[Uu]nsupported")
def _operator(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[-1].domain = "com.example"
        model.graph.node[-1].op_type = "Fizz"

    change_graph(folder, "video.onnx", change)
    rehash(folder)


def _insert_before_output(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Let nodes that read `raw` and write `tracks` follow what wrote `tracks`."""
    for node in model.graph.node:
        for number, name in enumerate(node.output):
            if name == "tracks":
                node.output[number] = "raw"
    model.graph.node.extend(nodes)


def _loop_body() -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_out"]),
            helper.make_node("Mul", ["value", "one"], ["value_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, None),
        ],
    )


def _loop_constants() -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.array(1.0, np.float32), "one"),
    ]


def _loop(folder: Path, *, count: int) -> None:
    """A Loop that multiplies by one so many times: the right numbers, much too late."""

    def change(model: onnx.ModelProto) -> None:
        turns = numpy_helper.from_array(np.array(count, np.int64), "num_turns")
        model.graph.initializer.extend([turns, *_loop_constants()])
        loop = helper.make_node("Loop", ["num_turns", "always", "raw"], ["tracks"], body=_loop_body())
        _insert_before_output(model, [loop])

    change_graph(folder, "video.onnx", change)
    rehash(folder)


@bad("an endless loop", "took longer than|was killed")
def _endless(folder: Path) -> None:
    _loop(folder, count=2**62)


@bad("a loop that the golden clip does not enter", "took longer than .* for one batch of the library")
def _endless_elsewhere(folder: Path) -> None:
    with np.load(folder / "golden.npz") as arrays:
        total = arrays["audio_track"].sum()

    def change(model: onnx.ModelProto) -> None:
        body = _loop_body()
        body.node[0].input[0] = "is_other_in"  # whether it goes on is known before
        body.input.append(helper.make_tensor_value_info("is_other_in", TensorProto.BOOL, None))
        body.node.append(helper.make_node("Identity", ["is_other_in"], ["is_other_out"]))
        body.output.append(helper.make_tensor_value_info("is_other_out", TensorProto.BOOL, None))
        nodes = [
            helper.make_node("ReduceSum", ["raw"], ["total"], keepdims=0),
            helper.make_node("Sub", ["total", "golden_total"], ["off"]),
            helper.make_node("Abs", ["off"], ["far"]),
            helper.make_node("Greater", ["far", "near"], ["is_other"]),
            helper.make_node("Loop", ["many", "always", "raw", "is_other"], ["tracks", "nothing"], body=body),
        ]
        many = numpy_helper.from_array(np.array(2**62, np.int64), "many")
        golden = numpy_helper.from_array(np.array(total, np.float32), "golden_total")
        near = numpy_helper.from_array(np.array(0.05, np.float32), "near")
        model.graph.initializer.extend([many, golden, near, *_loop_constants()])
        _insert_before_output(model, nodes)

    change_graph(folder, "audio.onnx", change)
    rehash(folder)


def _allocate(folder: Path, *, num_bytes: int) -> None:
    """A graph that makes an array of so many bytes on the way."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(
            numpy_helper.from_array(np.array([num_bytes >> 18, 1 << 16], np.int64), "much")
        )
        zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
        nodes = [
            helper.make_node("Shape", ["raw"], ["raw_shape"]),  # nothing may be folded before a run
            helper.make_node("ReduceMin", ["raw_shape"], ["least"], keepdims=1),
            helper.make_node("Div", ["least", "least"], ["unit"]),
            helper.make_node("Mul", ["much", "unit"], ["much_now"]),
            helper.make_node("ConstantOfShape", ["much_now"], ["heap"], value=zero),
            helper.make_node("ReduceMax", ["heap"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["raw", "nothing"], ["tracks"]),
        ]
        _insert_before_output(model, nodes)

    change_graph(folder, "video.onnx", change)
    rehash(folder)


@bad("an allocation of 6 GiB", "alloc|memory|was killed|fail")
def _huge(folder: Path) -> None:
    _allocate(folder, num_bytes=6 << 30)


@bad("tracks of the wrong width", "width|shape|dimension|golden")
def _narrow(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for name, value in (("first", 0), ("last", 64), ("axis", 2)):
            model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        slice_node = helper.make_node("Slice", ["raw", "first", "last", "axis"], ["tracks"])
        _insert_before_output(model, [slice_node])
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 64

    change_graph(folder, "audio.onnx", change)
    rehash(folder)


@bad("tracks that are not of unit length", "rows of unit length")
def _long_rows(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(2.0, np.float32), "two"))
        _insert_before_output(model, [helper.make_node("Mul", ["raw", "two"], ["tracks"])])

    for graph in GRAPHS:
        change_graph(folder, graph, change)
    record_golden(folder)
    rehash(folder)


@bad("an output under another name", "tracks|output|cannot be loaded|golden")
def _renamed_output(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        _insert_before_output(model, [helper.make_node("Identity", ["raw"], ["other"])])
        model.graph.output[0].name = "other"
        extra = helper.make_tensor_value_info("tracks", TensorProto.FLOAT, None)
        zeros = helper.make_node("Sub", ["raw", "raw"], ["tracks"])
        model.graph.node.append(zeros)
        model.graph.output.insert(0, extra)

    change_graph(folder, "video.onnx", change)
    rehash(folder)


# Weights outside of the graph's file: the right ones, so that nothing but the place is wrong


def _externalise(folder: Path, location: str, content_at: Path | None) -> None:
    """Move an initialiser of the picture's graph to another file."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == LAST_MLP:
                if content_at is not None:
                    content_at.parent.mkdir(parents=True, exist_ok=True)
                    content_at.write_bytes(numpy_helper.to_array(tensor).tobytes())
                length = len(tensor.raw_data)
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
                    tensor.external_data.add(key=key, value=value)

    change_graph(folder, "video.onnx", change)
    rehash(folder)


EXTERNAL = "outside of|external|cannot be loaded|cannot be read"


@bad("weights at an absolute path", EXTERNAL)
def _absolute(folder: Path) -> None:
    outside = folder.parent / "outside" / "weights.bin"
    _externalise(folder, str(outside), outside)


@bad("weights further up", EXTERNAL)
def _further_up(folder: Path) -> None:
    # From the folder of the bundle in the store, and from the one where it comes from.
    _externalise(folder, "../weights.bin", folder.parent / "weights.bin")


@bad("weights in an extra file", EXTERNAL)
def _extra_file(folder: Path) -> None:
    _externalise(folder, "weights.bin", folder / "weights.bin")


@bad("weights in an extra hard link", EXTERNAL)
def _extra_hard_link(folder: Path) -> None:
    secret = folder.parent / "secret.bin"
    _externalise(folder, "weights.bin", secret)
    os.link(secret, folder / "weights.bin")


@bad("weights in another file of the bundle", EXTERNAL + "|golden|not finite")
def _in_golden(folder: Path) -> None:
    _externalise(folder, "golden.npz", None)


@bad("weights of a device", EXTERNAL)
def _device(folder: Path) -> None:
    _externalise(folder, "/dev/zero", None)


# Variants


@bad("a variant of another bundle", "variant|fp16")
def _foreign_variant(folder: Path) -> None:
    variant = folder.with_name(f"{folder.name}.fp16")
    variant.mkdir()
    for graph in GRAPHS:
        shutil.copy(folder / graph, variant / graph)
    (variant / "variant.json").write_text(json.dumps({"bundle_id": "other", "precision": "fp16"}))


SHORT = (
    "bit flip in audio.onnx",
    "golden.npz cut in half",
    "video.onnx is a symbolic link",
    "a file has a second name",
    "an extra symbolic link",
    "the manifest is a pipe",
    "the manifest is nested without end",
    "the manifest names a file outside",
    "weights that are not numbers",
    "an endless loop",
    "a loop that the golden clip does not enter",
    "swapped graphs",
    "weights at an absolute path",
)
"""One of every class, for a run of seconds."""


def make_bad(name: str, source: Path, target: Path) -> Path:
    """Make a bad bundle of a good one."""
    shutil.copytree(source, target)
    BAD[name][0](target)
    return target
