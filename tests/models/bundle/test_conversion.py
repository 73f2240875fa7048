"""Graphs in float16 and 8-bit integers, beside their bundle; refused with the figures where they are too far off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from models.bundle import conversion
from models.bundle.bundle import (
    MANIFEST,
    VARIANT,
    BrokenBundle,
    Bundle,
    describe_file,
    load_bundle,
    load_variant,
    starter_path,
    variant_path,
)
from models.bundle.conversion import PrecisionDisagrees, convert_bundle
from models.media.clip import Clip


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of the starter, with room beside it."""
    return load_bundle(Path(shutil.copytree(starter_path(), tmp_path / "starter")))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Eight clips made of the golden one."""
    golden = load_bundle(starter_path()).golden()
    return [
        Clip(
            start_seconds=0.0,
            end_seconds=10.0,
            frames=np.roll(golden.frames, 40 * number, axis=(1 + number % 2)),
            frame_times_seconds=np.arange(16) * 0.625,
            samples=np.roll(golden.samples, 17_000 * number) * np.float32(1 - 0.1 * number),
        )
        for number in range(8)
    ]


def test_float16_beside_the_bundle(bundle: Bundle, clips: list[Clip]) -> None:
    variant = convert_bundle(bundle, "fp16", clips)
    assert variant.path == bundle.path.with_name("starter.fp16")
    assert load_variant(bundle, "fp16") == variant
    assert load_bundle(bundle.path).bundle_id == bundle.bundle_id  # a bundle never changes
    assert variant.agreement.cosine_min > 0.99999
    assert variant.agreement.stressed_min > 0.99999
    assert variant.agreement.num_embeddings == 2 * 8 * 16
    assert variant.files["video.onnx"]["bytes"] < 0.52 * bundle.video_graph.stat().st_size
    with pytest.raises(FileExistsError, match=r"starter\.fp16 exists"):
        convert_bundle(bundle, "fp16", clips)


def test_the_front_end_stays_in_float32(bundle: Bundle, tmp_path: Path) -> None:
    conversion.to_half(bundle.audio_graph, tmp_path / "half.onnx")
    model = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    first, patch_embedding = [node for node in model.graph.node if node.op_type == "Conv"]
    assert kinds[first.input[1]] == TensorProto.FLOAT  # the spectrum
    assert kinds[patch_embedding.input[1]] == TensorProto.FLOAT16
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert {kinds[node.input[1]] for node in norms[:-1]} == {TensorProto.FLOAT16}
    assert kinds[norms[-1].input[1]] == TensorProto.FLOAT
    assert [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input] == [
        ("samples", TensorProto.FLOAT),
        ("lengths", TensorProto.INT64),
        ("heard", TensorProto.INT64),
    ]
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_integers_bear_outliers_because_channels_are_levelled(
    bundle: Bundle, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = convert_bundle(bundle, "int8", clips).agreement
    assert agreement.cosine_min > 0.9995
    assert agreement.stressed_min > 0.9995
    shutil.rmtree(variant_path(bundle.path, "int8"))

    monkeypatch.setattr(conversion, "level_channels", shutil.copyfile)
    with pytest.raises(
        PrecisionDisagrees, match=r"int8 is too far from float32: .*stressed_min 0\.9[0-9]+ < 0\.998"
    ):
        convert_bundle(bundle, "int8", clips)
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == [
        "starter"
    ]  # nothing half made is left


def test_integers_are_the_same_on_processors_without_vnni(bundle: Bundle, tmp_path: Path) -> None:
    """Those add two products of a byte and a weight in 16 bits, and what does not fit is cut off in silence."""
    for graph in (bundle.audio_graph, bundle.video_graph):
        conversion.to_int8(graph, tmp_path / "int8.onnx")
        weights = [
            numpy_helper.to_array(tensor).astype(int)
            for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
            if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
        ]
        assert len(weights) > 10
        largest = max(int(np.abs(weight).max()) for weight in weights)
        assert 2 * 255 * largest <= np.iinfo(np.int16).max < 2 * 255 * 127
        assert largest > 60, "no more is given up than that"


def test_what_cannot_be_converted(bundle: Bundle, clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match="precision must be fp16 or int8, got 'bf16'"):
        convert_bundle(bundle, "bf16", clips)
    with pytest.raises(ValueError, match="at least 8 clips with picture and sound, got 7"):
        convert_bundle(bundle, "fp16", clips[:7])


FULL_AGREEMENT = {
    **dict.fromkeys(("cosine_mean", "cosine_min", "neighbours", "stressed_mean", "stressed_min"), 1.0),
    "num_embeddings": 256,
    "clips": "8 clips",
}


@pytest.fixture
def variant_folder(bundle: Bundle) -> Path:
    """A variant that holds the bundle's own graphs: what is in them is not looked at by `load_variant`."""
    folder = variant_path(bundle.path, "fp16")
    folder.mkdir()
    for name in ("audio.onnx", "video.onnx"):
        shutil.copy(bundle.path / name, folder)
    files = json.loads((bundle.path / MANIFEST).read_text())["files"]
    del files["golden.npz"]
    fields = {
        "bundle_id": bundle.bundle_id,
        "precision": "fp16",
        "agreement": FULL_AGREEMENT,
        "files": files,
    }
    (folder / VARIANT).write_text(json.dumps(fields))
    return folder


def test_no_variant_is_no_error(bundle: Bundle, variant_folder: Path) -> None:
    assert load_variant(bundle, "int8") is None
    assert load_variant(bundle, "fp16") is not None


def test_a_variant_may_have_numbers_outside_its_graphs(bundle: Bundle, variant_folder: Path) -> None:
    (variant_folder / "video.onnx.data").write_bytes(b"numbers")
    files = json.loads((variant_folder / VARIANT).read_text())["files"]
    rewrite(
        variant_folder, files={**files, "video.onnx.data": describe_file(variant_folder / "video.onnx.data")}
    )
    assert load_variant(bundle, "fp16") is not None
    (variant_folder / "video.onnx.data").write_bytes(b"other")
    with pytest.raises(BrokenBundle, match=r"video\.onnx\.data is not the file of the manifest"):
        load_variant(bundle, "fp16")


def rewrite(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / VARIANT).read_text())
    (folder / VARIANT).write_text(json.dumps({**fields, **changes}))


def test_a_damaged_variant_is_refused(bundle: Bundle, variant_folder: Path) -> None:
    (variant_folder / "audio.onnx").write_bytes(b"other")
    with pytest.raises(BrokenBundle, match=r"audio\.onnx is not the file of the manifest"):
        load_variant(bundle, "fp16")
    (variant_folder / "audio.onnx").unlink()
    with pytest.raises(BrokenBundle, match=r"audio\.onnx cannot be read"):
        load_variant(bundle, "fp16")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bundle_id": "starter-000000000000"}, "fp16 of starter-000000000000, not fp16 of starter-"),
        ({"precision": "int8"}, "is int8 of starter-"),
        ({"files": {"../audio.onnx": {}}}, r"must hold audio\.onnx and video\.onnx"),
        ({"surplus": 1}, r"variant\.json cannot be read"),
        ({"files": 3}, r"must hold audio\.onnx and video\.onnx, got 3"),
        ({"agreement": {}}, r"variant\.json cannot be read"),
        ({"agreement": {**FULL_AGREEMENT, "cosine_min": "1"}}, "cosine_min must be a number, got '1'"),
    ],
)
def test_a_variant_of_something_else_is_refused(
    bundle: Bundle, variant_folder: Path, changes: dict[str, object], said: str
) -> None:
    rewrite(variant_folder, **changes)
    with pytest.raises(BrokenBundle, match=said):
        load_variant(bundle, "fp16")


def test_what_a_variant_says_of_itself_may_be_nested_without_end(
    bundle: Bundle, variant_folder: Path
) -> None:
    (variant_folder / VARIANT).write_text("[" * 200_000)
    with pytest.raises(BrokenBundle, match=r"variant\.json cannot be read"):
        load_variant(bundle, "fp16")
